//! Fn's v2 API as its contract has it, through three nodes.

use reqwest::Method;
use serde_json::{Value, json};

use crate::nodes::Nodes;

/// Creates an object and returns its id.
pub async fn create(nodes: &Nodes, node: usize, kind: &str, body: Value) -> String {
    let (status, answer) = nodes.post(node, &format!("/v2/{kind}"), body).await;
    assert_eq!(status, 200, "{kind}: {answer}");
    answer["id"].as_str().unwrap().to_owned()
}

fn with(base: &Value, key: &str, value: Value) -> Value {
    let mut body = base.clone();
    body[key] = value;
    body
}

fn without(base: &Value, key: &str) -> Value {
    let mut body = base.clone();
    body.as_object_mut().unwrap().remove(key);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_as_fns_contract_says() {
    let nodes = Nodes::start(0).await;
    let zero = "0001-01-01T00:00:00.000Z";
    let app = create(
        &nodes,
        0,
        "apps",
        json!({"name": "shop", "created_at": zero}),
    )
    .await;
    let other = create(&nodes, 1, "apps", json!({"name": "other"})).await;
    let a_fn = json!({"name": "hello", "app_id": app, "image": "hello:1"});
    let function = create(&nodes, 2, "fns", a_fn.clone()).await;
    let foreign = json!({"name": "hello", "app_id": other, "image": "hello:1"});
    let foreign = create(&nodes, 2, "fns", foreign).await;
    let a_trigger = json!({
        "name": "hi", "app_id": app, "fn_id": function, "type": "http", "source": "/hi",
        "created_at": zero, "updated_at": zero,
    });
    let trigger = create(&nodes, 0, "triggers", a_trigger.clone()).await;
    let key = |key: &str, value: Value| json!({"name": "x", "annotations": {key: value}});
    let long = "x".repeat(256);
    let bundle = format!("bundle/hello:1@sha256:{}", "ab".repeat(32));

    let app_path = format!("/v2/apps/{app}");
    let fn_path = format!("/v2/fns/{function}");
    let trigger_path = format!("/v2/triggers/{trigger}");
    let cases: Vec<(&str, &str, Value, u16, &str)> = vec![
        // Fn contract 1.2, 2.2
        ("POST", "/v2/apps", json!("{"), 400, "Invalid JSON"),
        ("POST", "/v2/apps", json!(""), 400, "Invalid JSON"),
        ("POST", "/v2/apps", json!({"name": 7}), 400, "Invalid JSON"),
        ("POST", "/v2/apps", json!(["", "x"]), 400, "Invalid JSON"),
        ("POST", "/v2/apps", json!("null"), 400, "Missing Name"),
        (
            "POST",
            "/v2/apps",
            json!(r#"{"name":"x","NAME":"shop"}"#),
            409,
            "App already exists",
        ),
        (
            "POST",
            "/v2/apps",
            json!({"id": "x", "name": "a"}),
            400,
            "App ID cannot be supplied on create",
        ),
        ("POST", "/v2/apps", json!({}), 400, "Missing Name"),
        (
            "POST",
            "/v2/apps",
            json!({"name": long}),
            400,
            "App name must be 255 characters or less",
        ),
        (
            "POST",
            "/v2/apps",
            json!({"name": "a b"}),
            400,
            "Invalid app name",
        ),
        (
            "POST",
            "/v2/apps",
            key("a b", json!(1)),
            400,
            "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace",
        ),
        (
            "POST",
            "/v2/apps",
            key("a", json!("")),
            400,
            "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays",
        ),
        (
            "POST",
            "/v2/apps",
            key("a", Value::Null),
            400,
            "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays",
        ),
        (
            "POST",
            "/v2/apps",
            json!({"name": "a", "shape": "ROUND"}),
            400,
            "Invalid app shape",
        ),
        (
            "POST",
            "/v2/apps",
            json!({"name": "shop"}),
            409,
            "App already exists",
        ),
        // 2.3
        ("GET", "/v2/apps/nope", Value::Null, 404, "App not found"),
        ("PUT", "/v2/apps/nope", json!({}), 404, "App not found"),
        (
            "PUT",
            &app_path,
            json!({"id": "x"}),
            400,
            "App ID in path does not match ID in body",
        ),
        (
            "PUT",
            &app_path,
            json!({"name": "x"}),
            409,
            "Could not update - name is immutable",
        ),
        ("DELETE", "/v2/apps/nope", Value::Null, 404, "App not found"),
        // 3.2
        (
            "POST",
            "/v2/fns",
            with(&a_fn, "id", json!("x")),
            400,
            "ID cannot be provided for Fn creation",
        ),
        (
            "POST",
            "/v2/fns",
            without(&a_fn, "app_id"),
            400,
            "Missing AppID on Fn",
        ),
        (
            "POST",
            "/v2/fns",
            without(&a_fn, "name"),
            400,
            "Missing Fn name",
        ),
        (
            "POST",
            "/v2/fns",
            with(&a_fn, "name", json!("a/b")),
            400,
            "name must be a valid string",
        ),
        (
            "POST",
            "/v2/fns",
            without(&a_fn, "image"),
            400,
            "Missing image on Fn",
        ),
        (
            "POST",
            "/v2/fns",
            with(&a_fn, "timeout", json!(301)),
            400,
            "timeout value is out of range, must be between 0 and 300",
        ),
        (
            "POST",
            "/v2/fns",
            with(&a_fn, "memory", json!(-1)),
            400,
            "Invalid JSON",
        ),
        (
            "POST",
            "/v2/fns",
            with(&a_fn, "app_id", json!("nope")),
            404,
            "App not found",
        ),
        (
            "POST",
            "/v2/fns",
            a_fn.clone(),
            409,
            "Fn with specified name already exists",
        ),
        // 3.3
        (
            "PUT",
            &fn_path,
            json!({"id": foreign}),
            400,
            "Fn ID in path does not match that in body",
        ),
        ("GET", "/v2/fns/nope", Value::Null, 404, "Fn not found"),
        ("GET", "/v2/fns", Value::Null, 400, "Missing AppID on Fn"),
        // 4.1
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "created_at", json!("2026-01-02T15:04:05.678Z")),
            400,
            "Trigger Created At Provided for Create",
        ),
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "type", json!("cron")),
            400,
            "Trigger Type Not Supported",
        ),
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "source", json!("hi")),
            400,
            "Missing Trigger Source Prefix '/'",
        ),
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "fn_id", json!(foreign)),
            400,
            "Invalid Fn ID - not owned by specified app",
        ),
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "name", json!("other")),
            409,
            "Trigger with the same type and source exists on this app",
        ),
        (
            "POST",
            "/v2/triggers",
            with(&a_trigger, "source", json!("/other")),
            409,
            "Trigger already exists",
        ),
        (
            "GET",
            "/v2/triggers",
            Value::Null,
            400,
            "Missing App ID on Trigger",
        ),
        (
            "GET",
            "/v2/triggers/nope",
            Value::Null,
            404,
            "Trigger not found",
        ),
        (
            "PUT",
            &trigger_path,
            json!({"id": "x"}),
            400,
            "ID in path does not match ID in body",
        ),
        // Ours.
        (
            "POST",
            "/v2/fns",
            with(&with(&a_fn, "name", json!("b")), "image", json!(bundle)),
            400,
            "bundle",
        ),
        (
            "POST",
            "/v2/apps",
            key("tradewind.dev/placement", json!({"regions": []})),
            400,
            "invalid tradewind.dev/placement annotation",
        ),
        ("GET", "/v2/apps?cursor=!!", Value::Null, 400, "cursor"),
        ("GET", "/v3", Value::Null, 404, "Path not found: GET /v3"),
        (
            "PATCH",
            "/v2/apps",
            Value::Null,
            405,
            "Method not allowed: PATCH /v2/apps",
        ),
        ("POST", "/v1/regions/mars/drain", Value::Null, 404, "mars"),
        ("GET", "/regions/mars/v2/apps", Value::Null, 404, "mars"),
    ];
    for (at, (method, path, body, want, says)) in cases.into_iter().enumerate() {
        let body = (!body.is_null()).then_some(body);
        let method: Method = method.parse().unwrap();
        let case = format!("{method} {path} {body:?}");
        let (status, answer) = nodes
            .send(method, at % nodes.count(), path, body, &[])
            .await;
        assert_eq!(status, want, "{case}: {answer}");
        let message = answer["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{case}: {answer}"));
        assert!(message.contains(says), "{case}: {message}");
    }

    let (status, answer) = nodes.post(1, "/v2/apps", json!("x".repeat(7 << 20))).await;
    assert_eq!(status, 413, "{answer}");
    assert!(answer["message"].is_string(), "{answer}");
    let (status, answer) = nodes.get(1, "/").await;
    assert_eq!((status, &answer["hello"]), (200, &json!("world!")));
    let (status, answer) = nodes.get(1, "/version").await;
    assert!(status == 200 && answer["version"].is_string(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_merge_and_deletes_cascade() {
    let nodes = Nodes::start(4).await;
    let app = create(
        &nodes,
        0,
        "apps",
        json!({"name": "shop", "config": {"A": "1", "B": "2"}, "annotations": {"x": {"b": 1, "a": [1, 2]}, "y": 2}}),
    )
    .await;
    let (_, before) = nodes.get(1, &format!("/v2/apps/{app}")).await;
    let path = format!("/v2/apps/{app}");
    let (status, same) = nodes.put(2, &path, before.clone()).await;
    assert_eq!(status, 200, "{same}");
    assert_eq!(
        same["updated_at"], before["updated_at"],
        "an identical PUT changes nothing"
    );
    let change = json!({"config": {"A": "", "C": "3"}, "annotations": {"y": ""}});
    let (status, after) = nodes.put(2, &path, change).await;
    assert_eq!(status, 200, "{after}");
    assert_eq!(after["config"], json!({"B": "2", "C": "3"}));
    assert_eq!(after["annotations"], json!({"x": {"b": 1, "a": [1, 2]}}));
    assert_ne!(after["updated_at"], before["updated_at"]);

    let function = json!({"name": "hello", "app_id": app, "image": "hello:1"});
    let function = create(&nodes, 1, "fns", function).await;
    let (_, got) = nodes.get(0, &format!("/v2/fns/{function}")).await;
    assert_eq!(
        (&got["memory"], &got["timeout"], &got["idle_timeout"]),
        (&json!(128), &json!(30), &json!(30))
    );
    assert_eq!(got["config"], json!({}));
    assert_eq!(
        got["annotations"]["fnproject.io/fn/invokeEndpoint"],
        json!(format!("{}/invoke/{function}", nodes.api(0)))
    );
    let trigger =
        json!({"name": "hi", "app_id": app, "fn_id": function, "type": "http", "source": "/hi"});
    let trigger = create(&nodes, 1, "triggers", trigger).await;
    let (_, got) = nodes.get(2, &format!("/v2/triggers/{trigger}")).await;
    assert_eq!(
        got["annotations"]["fnproject.io/trigger/httpEndpoint"],
        json!(format!("{}/t/shop/hi", nodes.api(2)))
    );

    // A stock tool PUTs back what it got; the endpoint must not be stored.
    let (_, listed) = nodes
        .get(1, &format!("/v2/fns?app_id={app}&name=hello"))
        .await;
    let (status, put) = nodes
        .put(
            1,
            &format!("/v2/fns/{function}"),
            listed["items"][0].clone(),
        )
        .await;
    assert_eq!((status, &put["annotations"]), (200, &Value::Null), "{put}");

    let (status, answer) = nodes.delete(0, &path).await;
    assert_eq!((status, answer), (204, json!("")));
    for path in [
        path,
        format!("/v2/fns/{function}"),
        format!("/v2/triggers/{trigger}"),
    ] {
        assert_eq!(nodes.get(2, &path).await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_by_name() {
    let nodes = Nodes::start(8).await;
    for name in ["b", "d", "a", "c", "e"] {
        create(&nodes, 0, "apps", json!({"name": name})).await;
    }
    let (mut names, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/v2/apps?per_page=2&cursor={cursor}");
        let (status, page) = nodes.get(pages % 3, &path).await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        for item in page["items"].as_array().unwrap() {
            names.push(item["name"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!((names.join(""), pages), ("abcde".to_owned(), 3));
    let (_, page) = nodes.get(1, "/v2/apps?name=c").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let (_, page) = nodes.get(1, "/v2/fns?app_id=nope").await;
    assert_eq!(page, json!({"items": []}));
}
