//! What an acknowledged write is worth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::json;
use tokio::task::JoinSet;

use crate::fn_api::create;
use crate::nodes::{Nodes, SLACK, eventually};

const WRITERS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_through_every_node_at_once() {
    let nodes = Nodes::start(12).await;
    for round in 0..20 {
        let id = create(
            &nodes,
            round % 3,
            "apps",
            json!({"name": format!("app{round}")}),
        )
        .await;
        for node in 0..3 {
            let (status, answer) = nodes.get(node, &format!("/v2/apps/{id}")).await;
            assert_eq!(status, 200, "round {round}, node {node}: {answer}");
        }
        // The node that took the write has applied it, so even a stale read there sees it.
        let stale = format!("/v2/apps/{id}?consistency=stale");
        assert_eq!(nodes.get(round % 3, &stale).await.0, 200, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_and_idempotency_keys_hold() {
    let nodes = Nodes::start(16).await;
    let post = async |node: usize, name: &str, key: &str| {
        let body = Some(json!({"name": name}));
        nodes
            .send(
                Method::POST,
                node,
                "/v2/apps",
                body,
                &[("Idempotency-Key", key)],
            )
            .await
    };
    let (status, first) = post(0, "shop", "k1").await;
    assert_eq!(status, 200, "{first}");
    let (status, again) = post(1, "shop", "k1").await;
    assert_eq!(
        (status, &again),
        (200, &first),
        "a resend gets the first outcome"
    );
    let (status, refused) = post(2, "shop", "k2").await;
    assert_eq!(status, 409, "{refused}");
    let (status, refused) = post(0, "fresh", &"k".repeat(300)).await;
    assert_eq!(status, 400, "{refused}");

    let path = format!("/v2/apps/{}", first["id"].as_str().unwrap());
    let revision = async |node: usize| {
        let answer = nodes
            .http
            .get(format!("{}{path}", nodes.api(node)))
            .send()
            .await
            .unwrap();
        answer.headers()["tradewind-revision"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let seen = revision(0).await;
    let put = async |node: usize, name: &str, value: &str, config: &str| {
        let body = Some(json!({"config": {"A": config}}));
        nodes
            .send(Method::PUT, node, &path, body, &[(name, value)])
            .await
    };
    let (status, answer) = put(1, "If-Match", &seen, "1").await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = put(2, "If-Match", &format!("\"{seen}\""), "2").await;
    assert_eq!(status, 412, "{answer}");
    let (status, answer) = put(2, "If-None-Match", "*", "3").await;
    assert_eq!(status, 412, "{answer}");
    let (status, answer) = put(2, "If-Match", "yesterday", "4").await;
    assert_eq!(status, 400, "{answer}");
    let (_, now) = nodes.get(0, &path).await;
    assert_eq!(now["config"], json!({"A": "1"}));
}

/// Creates apps one after the other, resending each with its own key until it is acknowledged.
async fn keep_writing(
    writer: usize,
    apis: Vec<String>,
    stop: Arc<AtomicBool>,
) -> Vec<(String, Instant)> {
    let http = Client::builder()
        .timeout(Duration::from_secs(6))
        .build()
        .unwrap();
    let (mut written, mut node) = (Vec::new(), writer);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("writer{writer}-app{}", written.len());
        let begun = Instant::now();
        loop {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{name} is not acknowledged"
            );
            let sent = http
                .post(format!("{}/v2/apps", apis[node % apis.len()]))
                .header("Idempotency-Key", &name)
                .json(&json!({"name": name}))
                .send()
                .await;
            match sent {
                Ok(response) if response.status().is_success() => break,
                Ok(response) if response.status().is_client_error() => {
                    panic!(
                        "{name}: {} {}",
                        response.status(),
                        response.text().await.unwrap()
                    );
                }
                Ok(_) | Err(_) => node += 1,
            }
        }
        written.push((name, Instant::now()));
    }
    written
}

/// Every app one node lists, with how often.
async fn apps_on(nodes: &Nodes, node: usize) -> BTreeMap<String, usize> {
    let (mut apps, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let (status, page) = nodes
            .get(node, &format!("/v2/apps?per_page=100&cursor={cursor}"))
            .await;
        assert_eq!(status, 200, "{page}");
        for app in page["items"].as_array().unwrap() {
            *apps
                .entry(app["name"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return apps,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_outlive_a_killed_leader_and_every_node() {
    let mut nodes = Nodes::start(20).await;
    let stop = Arc::new(AtomicBool::new(false));
    let apis: Vec<String> = (0..3).map(|node| nodes.api(node)).collect();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(keep_writing(writer, apis.clone(), Arc::clone(&stop)));
    }
    eventually(
        "the writers are at work",
        Duration::from_secs(30),
        async || (apps_on(&nodes, 0).await.len() >= 2 * WRITERS).then_some(()),
    )
    .await;

    let doomed = nodes.leader().await;
    nodes.kill(doomed);
    let killed = Instant::now();
    let survivor = (doomed + 1) % 3;
    eventually("writes go on", Duration::from_secs(30), async || {
        let name = format!("probe-{}", killed.elapsed().as_millis());
        (nodes
            .post(survivor, "/v2/apps", json!({"name": name}))
            .await
            .0
            == 200)
            .then_some(())
    })
    .await;
    nodes.run(doomed);
    nodes.ready(doomed).await;
    stop.store(true, Ordering::Relaxed);
    let written: Vec<(String, Instant)> = writers.join_all().await.into_iter().flatten().collect();
    let resumed = written
        .iter()
        .map(|(_, at)| *at)
        .filter(|at| *at > killed)
        .min()
        .unwrap()
        - killed;
    println!(
        "writes resumed {resumed:?} after the leader was killed; {} acknowledged",
        written.len()
    );
    assert!(resumed < Duration::from_secs(3) * SLACK, "{resumed:?}");
    let kept = async |nodes: &Nodes| {
        for node in 0..3 {
            let apps = apps_on(nodes, node).await;
            for (name, _) in &written {
                assert_eq!(apps.get(name), Some(&1), "{name} on node {node}");
            }
        }
    };
    kept(&nodes).await;

    for node in 0..3 {
        nodes.kill(node);
    }
    for node in 0..3 {
        nodes.run(node);
    }
    for node in 0..3 {
        nodes.ready(node).await;
    }
    kept(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_hands_over_and_exits_cleanly() {
    let mut nodes = Nodes::start(24).await;
    let leader = nodes.leader().await;
    let status = nodes.stop(leader).await;
    assert!(status.success(), "{status}");
    let begun = Instant::now();
    let other = (leader + 1) % 3;
    eventually(
        "another node takes writes",
        Duration::from_secs(30),
        async || {
            let (status, _) = nodes
                .post(other, "/v2/apps", json!({"name": "after"}))
                .await;
            matches!(status, 200 | 409).then_some(())
        },
    )
    .await;
    println!(
        "writes went on {:?} after the leader had stopped",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_and_reads_say_so_and_stale_reads_go_on() {
    let mut nodes = Nodes::start(28).await;
    let id = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    nodes.kill(1);
    nodes.kill(2);
    eventually(
        "the write is refused",
        Duration::from_secs(30),
        async || {
            let sent = nodes
                .http
                .post(format!("{}/v2/apps", nodes.api(0)))
                .json(&json!({"name": "lost"}))
                .send()
                .await
                .unwrap();
            (sent.status() == 503 && sent.headers()["retry-after"] == "1").then_some(())
        },
    )
    .await;
    let (status, answer) = nodes.get(0, &format!("/v2/apps/{id}")).await;
    assert_eq!(status, 503, "{answer}");
    let (status, answer) = nodes
        .get(0, &format!("/v2/apps/{id}?consistency=stale"))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(nodes.get(0, "/v1/views/steering").await.0, 200);
    assert_eq!(nodes.get(0, "/healthz").await.0, 200);
    assert_eq!(nodes.get(0, "/readyz").await.0, 503);
}
