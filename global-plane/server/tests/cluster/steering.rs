//! Regions, verdicts, the view for DNS, and calls that a global node forwards.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fn_api::create;
use crate::nodes::{NETWORK, Nodes, eventually};

fn gateway_at(third: u8, fourth: u8) -> String {
    format!("{}:8080", NETWORK.address(third, fourth))
}

fn report(sequence: u64) -> Value {
    json!({
        "sequence": sequence, "started_at_ms": 1, "load": {"current": 3, "target": 80, "capacity": 100},
        "queued": 0, "draining": false, "revision": 1, "hash": "h",
    })
}

/// Reports for a region every 200 ms to changing nodes, as long as it is not aborted.
async fn keep_reporting(region: &'static str, apis: Vec<String>) {
    let http = reqwest::Client::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    for sequence in 0.. {
        ticks.tick().await;
        let api = &apis[usize::try_from(sequence).unwrap() % apis.len()];
        let url = format!("{api}/v1/regions/{region}/report");
        // A node that is down costs one report, as it does in a region.
        let _lost = http.post(url).json(&report(sequence)).send().await;
    }
}

async fn verdict(nodes: &Nodes, region: &str) -> Option<String> {
    let (status, page) = nodes.get(1, "/v1/regions").await;
    assert_eq!(status, 200, "{page}");
    let items = page["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["name"] == region)?;
    Some(item["verdict"].as_str().unwrap().to_owned())
}

async fn becomes(nodes: &Nodes, region: &str, want: &str) {
    eventually(want, Duration::from_secs(30), async || {
        (verdict(nodes, region).await.as_deref() == Some(want)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_region_is_down_and_every_view_says_so() {
    let nodes = Nodes::start(44).await;
    let apis: Vec<String> = (0..3).map(|node| nodes.api(node)).collect();
    nodes.register("fra", &gateway_at(21, 1), 50.0, 8.6).await;
    nodes.register("iad", &gateway_at(21, 2), 38.9, -77.4).await;
    nodes.register("fra", &gateway_at(21, 1), 50.0, 8.6).await;
    let (status, answer) = nodes.post(0, "/v1/regions/mars/report", report(1)).await;
    assert!(
        status == 404 && answer["message"].as_str().unwrap().contains("mars"),
        "{answer}"
    );
    let (status, answer) = nodes.post(0, "/v1/regions", json!({"name": "Mars!"})).await;
    assert_eq!(status, 400, "{answer}");

    let mut reports = JoinSet::new();
    let fra = reports.spawn(keep_reporting("fra", apis.clone()));
    reports.spawn(keep_reporting("iad", apis.clone()));
    becomes(&nodes, "fra", "healthy").await;
    becomes(&nodes, "iad", "healthy").await;
    let (_, page) = nodes.get(2, "/v1/regions").await;
    assert_eq!(
        page["items"][0]["load"],
        json!({"current": 3, "target": 80, "capacity": 100})
    );

    let (_, before) = nodes.get(2, "/v1/views/steering").await;
    let after = before["id"]["revision"].as_u64().unwrap();
    create(&nodes, 0, "apps", json!({"name": "plain"})).await;
    let unchanged = format!("/v1/views/steering?after={after}&epoch=1&wait_ms=300");
    assert_eq!(
        nodes.get(2, &unchanged).await.0,
        304,
        "a write of an app is no news to DNS"
    );

    let waiting = format!("/v1/views/steering?after={after}&epoch=1&wait_ms=10000");
    let (news, ()) = tokio::join!(
        eventually("a new view", Duration::from_secs(30), async || {
            let (status, view) = nodes.get(2, &waiting).await;
            let body: Value = serde_json::from_str(view["body"].as_str()?).ok()?;
            let down = body["regions"]
                .as_array()?
                .iter()
                .any(|r| r["name"] == "fra" && r["verdict"] == "down");
            (status == 200 && down).then_some(view)
        }),
        async { fra.abort() },
    );
    assert!(news["id"]["revision"].as_u64().unwrap() > after);
    assert_eq!(news["id"]["count"], 2);
    becomes(&nodes, "fra", "down").await;

    let (status, item) = nodes.post(2, "/v1/regions/iad/drain", Value::Null).await;
    assert_eq!(status, 200, "{item}");
    becomes(&nodes, "iad", "draining").await;
    let (status, item) = nodes.post(0, "/v1/regions/iad/undrain", Value::Null).await;
    assert_eq!(status, 200, "{item}");
    becomes(&nodes, "iad", "healthy").await;

    let (status, replication) = nodes.get(1, "/v1/replication").await;
    assert_eq!(status, 200, "{replication}");
    let iad = &replication["items"][1];
    assert_eq!(
        (&iad["region"], &iad["revision"], &iad["hash"]),
        (&json!("iad"), &json!(1), &json!("h"))
    );
    assert!(iad["lag_ms"].as_u64().unwrap() > 0, "{iad}");
    let (status, members) = nodes.get(0, "/v1/members").await;
    assert_eq!(status, 200, "{members}");
    let leaders = members["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|member| member["role"] == "leader");
    assert_eq!(leaders.count(), 1, "{members}");
    assert!(
        members["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|member| member["revision"].as_u64() > Some(0)),
        "{members}"
    );
}

/// A gateway that answers with its name and what it was asked.
async fn gateway(tasks: &mut JoinSet<()>, name: &'static str, address: &str) {
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().fallback(async move |request: Request<Body>| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            [("tradewind-region", name)],
            format!("{name} {} {}", head.uri, body.len()),
        )
    });
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_to_the_region_that_dns_would_name() {
    let nodes = Nodes::start(48).await;
    let mut tasks = JoinSet::new();
    gateway(&mut tasks, "fra", &gateway_at(22, 1)).await;
    gateway(&mut tasks, "iad", &gateway_at(22, 2)).await;
    nodes.register("fra", &gateway_at(22, 1), 50.0, 8.6).await;
    nodes.register("iad", &gateway_at(22, 2), 38.9, -77.4).await;
    // It reports, and nobody listens where it says its gateway is.
    nodes.register("nrt", &gateway_at(22, 3), 35.8, 140.4).await;
    let apis: Vec<String> = (0..3).map(|node| nodes.api(node)).collect();
    for region in ["fra", "iad", "nrt"] {
        tasks.spawn(keep_reporting(region, apis.clone()));
    }
    for region in ["fra", "iad", "nrt"] {
        becomes(&nodes, region, "healthy").await;
    }
    let placement = json!({"tradewind.dev/placement": {"regions": ["iad"], "strict": true}});
    let app = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let placed = create(
        &nodes,
        0,
        "apps",
        json!({"name": "bank", "annotations": placement}),
    )
    .await;
    let function = create(
        &nodes,
        0,
        "fns",
        json!({"name": "hello", "app_id": app, "image": "x:1"}),
    )
    .await;
    let elsewhere = create(
        &nodes,
        0,
        "fns",
        json!({"name": "hello", "app_id": placed, "image": "x:1"}),
    )
    .await;
    let trigger =
        json!({"name": "hi", "app_id": app, "fn_id": function, "type": "http", "source": "/hi"});
    create(&nodes, 1, "triggers", trigger).await;

    // Addresses whose place any world map knows: a German, an American and a Japanese university.
    let (german, american, japanese) = ("141.2.1.1", "18.9.22.69", "133.11.0.1");
    let invoke = format!("/invoke/{function}");
    let invoke_placed = format!("/invoke/{elsewhere}");
    for (client, path, want) in [
        (german, invoke.as_str(), "fra"),
        (american, &invoke, "iad"),
        (german, "/t/shop/hi?x=1", "fra"),
        (german, &invoke_placed, "iad"),
    ] {
        let (status, answer) = nodes
            .send(
                reqwest::Method::POST,
                2,
                path,
                Some(json!("hello")),
                &[("Tradewind-Client", client)],
            )
            .await;
        assert_eq!(
            (status, answer),
            (200, json!(format!("{want} {path} 5"))),
            "{client} {path}"
        );
    }
    // Nearest to the caller, and nobody listens there: the next-best gets the call.
    let (status, answer) = nodes
        .send(
            reqwest::Method::POST,
            0,
            &invoke,
            Some(json!("hello")),
            &[("Tradewind-Client", japanese)],
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    for (method, path, want, says) in [
        ("POST", "/invoke/nope", 404, "Fn not found"),
        ("GET", invoke.as_str(), 405, "Method not allowed"),
        ("GET", "/t/nope/hi", 404, "App not found"),
        ("GET", "/t/shop/hi/", 404, "Trigger not found"),
    ] {
        let (status, answer) = nodes
            .send(method.parse().unwrap(), 1, path, None, &[])
            .await;
        assert_eq!(status, want, "{path}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(says),
            "{path}: {answer}"
        );
    }
    let (status, answer) = nodes.post(1, &invoke, json!("x".repeat(7 << 20))).await;
    assert_eq!(status, 413, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("too large"),
        "{answer}"
    );

    let (status, why) = nodes
        .get(1, &format!("/v1/explain?name=shop.fn.test&client={german}"))
        .await;
    assert_eq!(status, 200, "{why}");
    assert!(
        why["decision"].as_str().unwrap().ends_with("-> fra"),
        "{why}"
    );
    let chosen: Vec<&Value> = why["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["chosen"] == true)
        .collect();
    assert_eq!(chosen.len(), 1, "{why}");
    let (status, answer) = nodes
        .get(1, "/v1/explain?name=shop.fn.test&client=moon")
        .await;
    assert_eq!(status, 400, "{answer}");

    // The region's own view comes from the region.
    let (status, answer) = nodes.get(0, "/regions/fra/v2/apps?per_page=2").await;
    assert_eq!((status, answer), (200, json!("fra /v2/apps?per_page=2 0")));
    let (status, answer) = nodes.get(0, "/regions/nrt/v2/apps").await;
    assert_eq!(status, 503, "{answer}");
    let (status, answer) = nodes
        .post(0, "/regions/fra/v2/apps", json!({"name": "via-fra"}))
        .await;
    assert_eq!((status, &answer["name"]), (200, &json!("via-fra")));
}
