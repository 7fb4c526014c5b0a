//! Starting wrongly, starting twice, stopping.

use std::process::Child;

use crate::plane::{Plane, function};
use crate::process::{Until, at, client, eventually, spawn, start};

fn output(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_region_on_the_same_folder_or_port_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(10, 20)));
    let region = start("fra", &at(10, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;

    let (code, said) = output(spawn("fra", &at(10, 2), dir.path(), &plane.url));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    let (code, said) = output(spawn("nrt", &at(10, 1), dir.path(), &plane.url));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("port is in use"), "{said}");
    let (code, said) = output(spawn("atlantis", &at(10, 3), dir.path(), &plane.url));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("set `latitude` and `longitude`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_asked_to_stop_finishes_its_calls_and_leaves_no_instance() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(11, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    let revision = plane.put_fn(function("F", &image));
    let mut region = start("fra", &at(11, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    region.applied(revision).await;
    let pid = region.post("/invoke/F", "x").await.pid.unwrap();

    let until = Until::new(dir.path());
    let stop = async {
        eventually("the call runs", async || {
            let status = region.status().await?;
            (status["load"]["current"] == 1).then_some(())
        })
        .await;
        region.terminate();
        eventually("it asks for no more clients", async || {
            plane.report("fra").filter(|report| report.draining)
        })
        .await;
        until.now();
    };
    let (answer, _) = tokio::join!(region.post("/invoke/F", &until.body), stop);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(region.ended().await, Some(0));
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "its instance is gone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_asked_to_stop_serves_on_and_closes_each_connection_after_its_call() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(12, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    let revision = plane.put_fn(function("F", &image));
    let pause = "drain_pause_ms = 60000";
    let region = start("fra", &at(12, 1), dir.path(), &plane.url, pause);
    eventually("the region listens", async || region.status().await).await;
    region.applied(revision).await;
    let before = region.post("/invoke/F", "x").await;
    assert_eq!(before.headers.get("connection"), None);

    region.terminate();
    let last = eventually("it says that it closes", async || {
        let answer = region.post("/invoke/F", "x").await;
        answer.headers.contains_key("connection").then_some(answer)
    })
    .await;
    assert_eq!(last.status, 200, "{last:?}");
    assert_eq!(last.headers["connection"], "close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_of_the_admin_listener_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start("127.43.60.20:7400");
    let region = start("fra", "127.43.60.1", dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    // Before it has metadata it says that it does not know.
    region.applied(plane.revision()).await;
    let http = reqwest::Client::new();
    for (method, path, want) in [
        ("GET", "/v2/apps/%ff", 404),
        ("GET", "/v2/apps/nope", 404),
        ("GET", "/v2/apps?cursor=!!", 400),
        ("PUT", "/v2/apps/nope", 405),
        ("GET", "/v2/fns", 400),
        ("GET", "/v2/fns/%ff", 404),
        ("GET", "/v2/fns/nope/calls", 410),
        ("GET", "/v2/triggers/%ff", 404),
        ("GET", "/v2/runner/apps/%ff/triggerBySource/http/%ff", 404),
        ("POST", "/v1/status", 405),
        ("DELETE", "/v1/instances", 405),
        ("TRACE", "/healthz", 405),
        ("PATCH", "/metrics", 405),
        ("GET", "/nope", 404),
        ("GET", "/%ff", 404),
    ] {
        let url = format!("{}{path}", region.admin);
        let answer = http
            .request(method.parse().unwrap(), url)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), want, "{method} {path}");
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            kind.starts_with("application/json"),
            "{method} {path}: {kind}"
        );
        let body: serde_json::Value = answer.json().await.unwrap();
        let message = body["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{method} {path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_knows_nothing_yet_says_not_now_and_one_that_knows_says_not_found() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there yet.
    let globals = format!("{}:7400", at(18, 20));
    let url = format!("http://{globals}");
    let region = start("fra", &at(18, 1), dir.path(), &url, "");
    eventually("the region listens", async || region.status().await).await;
    let ways = ["/invoke/F", "/t/shop/a"];
    let by_host = async |path: &str, host: &str| {
        let call = client().post(format!("{}{path}", region.gateway));
        region.send(call.header("host", host)).await
    };
    for path in ways {
        let answer = region.post(path, "x").await;
        assert_eq!(
            (answer.status, answer.retry_after.as_deref()),
            (503, Some("15")),
            "{path}: {answer:?}"
        );
    }
    for host in ["f--shop.fn.test", "shop.fn.test"] {
        let answer = by_host("/", host).await;
        assert_eq!(answer.status, 503, "{host}: {answer:?}");
    }
    let list = client().get(format!("{}/v2/apps", region.admin));
    let answer = region.send(list).await;
    assert_eq!(
        (answer.status, answer.retry_after.as_deref()),
        (503, Some("1"))
    );

    let plane = Plane::start(&globals);
    region.applied(plane.put_app("A", "shop", None)).await;
    for path in ways {
        let answer = region.post(path, "x").await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
}
