//! What may be written, and that everybody can take what was.

use std::time::Duration;

use api_client::Client;
use api_types::Object;
use api_types::Revision;
use api_wire::WatchLine;
use api_wire::bounds::{OBJECT_BYTES_MAX, REQUEST_BYTES_MAX};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fn_api::create;
use crate::nodes::Nodes;

/// Follows one node, as a region does, until `name` is created.
async fn follow_until(nodes: &Nodes, node: usize, name: &str) {
    let client = Client::new(&[nodes.api(node)]).unwrap();
    let snapshot = client.snapshot().await.unwrap().id;
    let following = async {
        let mut watch = client
            .watch(&snapshot.cluster_id, snapshot.epoch, Revision(0))
            .await
            .unwrap();
        loop {
            let line = watch.next().await.unwrap();
            if let WatchLine::Put { object, .. } = line
                && let Ok(Object::App(app)) = object.try_into()
                && app.name == name
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), following)
        .await
        .unwrap();
}

fn message(answer: &Value) -> &str {
    answer["message"]
        .as_str()
        .unwrap_or_else(|| panic!("no message: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_configuration_that_is_accepted_stops_those_who_follow() {
    let nodes = Nodes::start(154).await;
    let id = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let path = format!("/v2/apps/{id}");
    // A byte in memory, six as JSON. Each body is below a MiB; together they would be 5 MiB.
    let half = "\u{1}".repeat(75_000);
    for round in 0..6 {
        let body = json!({"config": {(format!("A{round}")): half, (format!("B{round}")): half}});
        let (status, answer) = nodes.put(round % 3, &path, body).await;
        assert_eq!(status, 400, "round {round}: {answer}");
        let said = message(&answer);
        assert!(
            said.contains("900") && said.contains(&OBJECT_BYTES_MAX.to_string()),
            "{said}"
        );
    }
    // One after the other until there is no room.
    let part = "\u{1}".repeat(10_000);
    let mut accepted = 0;
    for round in 0..12 {
        let body = json!({"config": {(format!("C{round}")): part}});
        let (status, answer) = nodes.put(round % 3, &path, body).await;
        assert!(matches!(status, 200 | 400), "{answer}");
        accepted += usize::from(status == 200);
    }
    assert_eq!(accepted, 8, "of 60,000 bytes as JSON each");
    // Many at once: they may be admitted on one and the same object.
    let mut writers = JoinSet::new();
    for writer in 0..12 {
        let (http, url) = (
            nodes.http.clone(),
            format!("{}{path}", nodes.api(writer % 3)),
        );
        let body = json!({"config": {(format!("D{writer}")): "\u{1}".repeat(5_000)}});
        writers.spawn(async move { http.put(url).json(&body).send().await.unwrap().status() });
    }
    for status in writers.join_all().await {
        assert!(matches!(status.as_u16(), 200 | 400), "{status}");
    }
    create(&nodes, 1, "apps", json!({"name": "after"})).await;
    for node in 0..3 {
        follow_until(&nodes, node, "after").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_can_be_put_back() {
    let nodes = Nodes::start_with(158, 1, "").await;
    let value = "<ключ>".repeat(10_000);
    let config: serde_json::Map<String, Value> =
        (0..5).map(|n| (format!("K{n}"), json!(value))).collect();
    let app = create(&nodes, 0, "apps", json!({"name": "shop", "config": config})).await;
    let function = json!({"name": "hello", "app_id": app, "image": "hello:1", "config": config});
    let function = create(&nodes, 0, "fns", function).await;
    for path in [format!("/v2/apps/{app}"), format!("/v2/fns/{function}")] {
        let (status, got) = nodes.get(0, &path).await;
        assert_eq!(status, 200, "{path}");
        let text = got.to_string();
        assert!(text.len() > 500_000, "{} bytes", text.len());
        // Go writes `<` so; others write all that is not ASCII so.
        let mut escaped = String::new();
        for c in text.chars() {
            match c {
                '<' | '>' | '\u{80}'.. => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => escaped.push(c),
            }
        }
        for body in [text, escaped] {
            let (status, put) = nodes.put(0, &path, Value::String(body)).await;
            assert_eq!(status, 200, "{path}: {put}");
            assert_eq!(put["updated_at"], got["updated_at"], "nothing has changed");
        }
    }
    let too_large = "x".repeat(REQUEST_BYTES_MAX + 1);
    for chunked in [false, true] {
        let body = match chunked {
            false => reqwest::Body::from(too_large.clone()),
            true => {
                reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
                    too_large.clone(),
                )]))
            }
        };
        let url = format!("{}/v2/apps", nodes.api(0));
        let answer = nodes.http.post(url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 413, "chunked: {chunked}");
        let answer: Value = answer.json().await.unwrap();
        let said = message(&answer);
        assert!(said.contains(&REQUEST_BYTES_MAX.to_string()), "{said}");
        let size = (REQUEST_BYTES_MAX + 1).to_string();
        assert_eq!(said.contains(&size), !chunked, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_no_environment_can_hold_is_refused() {
    let nodes = Nodes::start_with(160, 1, "").await;
    let app = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let a_fn = json!({"name": "hello", "app_id": app, "image": "hello:1"});
    let function = create(&nodes, 0, "fns", a_fn).await;
    for (key, value, says) in [
        ("", "1", "a config key is empty"),
        ("A=B", "1", "\"A=B\""),
        ("A\0", "1", "\"A\\0\""),
        ("GREETING", "a\0b", "\"GREETING\""),
        (
            "LONG",
            &"x".repeat(128 << 10),
            "\"LONG\" and its value have 131076 bytes",
        ),
    ] {
        let config =
            json!({"name": "other", "image": "i:1", "app_id": app, "config": {key: value}});
        for (method, path) in [
            (Method::POST, "/v2/apps".to_owned()),
            (Method::POST, "/v2/fns".to_owned()),
            (Method::PUT, format!("/v2/fns/{function}")),
        ] {
            let case = format!("{method} {path} {key:?}");
            let (status, answer) = nodes
                .send(method, 0, &path, Some(config.clone()), &[])
                .await;
            assert_eq!(status, 400, "{case}: {answer}");
            assert!(message(&answer).contains(says), "{case}: {answer}");
        }
        let (status, answer) = nodes
            .put(
                0,
                &format!("/v2/apps/{app}"),
                json!({"config": {key: value}}),
            )
            .await;
        assert_eq!(status, 400, "{key:?}: {answer}");
    }
    let (_, app) = nodes.get(0, &format!("/v2/apps/{app}")).await;
    assert_eq!(app["config"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_one_request() {
    let nodes = Nodes::start(162).await;
    let send =
        async |method: Method, node, path: &str, body: Option<Value>, more: &[(&str, &str)]| {
            let mut headers = vec![("idempotency-key", "k")];
            headers.extend_from_slice(more);
            nodes.send(method, node, path, body, &headers).await
        };
    let shop = || Some(json!({"name": "shop"}));
    let (status, first) = send(Method::POST, 0, "/v2/apps", shop(), &[]).await;
    assert_eq!(status, 200, "{first}");
    let path = format!("/v2/apps/{}", first["id"].as_str().unwrap());
    for (case, method, at, body, more) in [
        (
            "another body",
            Method::POST,
            "/v2/apps",
            Some(json!({"name": "other"})),
            None,
        ),
        ("another path", Method::POST, "/v2/fns", shop(), None),
        ("another method", Method::PUT, path.as_str(), shop(), None),
        ("no body", Method::DELETE, path.as_str(), None, None),
        (
            "a precondition",
            Method::POST,
            "/v2/apps",
            shop(),
            Some(("if-none-match", "*")),
        ),
        ("a drain", Method::POST, "/v1/regions/fra/drain", None, None),
    ] {
        for node in 0..3 {
            let more: Vec<_> = more.into_iter().collect();
            let (status, answer) = send(method.clone(), node, at, body.clone(), &more).await;
            assert_eq!(status, 422, "{case}: {answer}");
            assert!(
                message(&answer).contains("Idempotency-Key"),
                "{case}: {answer}"
            );
        }
    }
    for node in 0..3 {
        let again = send(Method::POST, node, "/v2/apps", shop(), &[]).await;
        assert_eq!(again, (200, first.clone()), "the request itself");
    }
    let (_, apps) = nodes.get(1, "/v2/apps").await;
    assert_eq!(apps["items"].as_array().unwrap().len(), 1, "{apps}");
    // The object is read again for a retry.
    let (status, changed) = nodes.put(1, &path, json!({"config": {"A": "1"}})).await;
    assert_eq!(status, 200, "{changed}");
    let again = send(Method::POST, 2, "/v2/apps", shop(), &[]).await;
    assert_eq!(again, (200, changed));
    assert_eq!(nodes.delete(0, &path).await.0, 204);
    let (status, answer) = send(Method::POST, 2, "/v2/apps", shop(), &[]).await;
    assert_eq!(status, 404, "{answer}");
    assert!(message(&answer).contains("deleted since"), "{answer}");
}
