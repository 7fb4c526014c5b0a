//! Bundles go to a majority before anything names them.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::fn_api::create;
use crate::nodes::{Nodes, eventually};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_checked_copied_and_served_by_every_node() {
    let mut nodes = Nodes::start(40).await;
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let hex = digest(&bytes);
    let url = |node: usize, hex: &str| format!("{}/v1/bundles/{hex}", nodes.api(node));
    let put = async |node: usize, hex: &str, bytes: Vec<u8>| {
        let sent = nodes
            .http
            .put(url(node, hex))
            .body(bytes)
            .send()
            .await
            .unwrap();
        let status = sent.status().as_u16();
        (status, sent.json::<serde_json::Value>().await.unwrap())
    };

    let (status, answer) = put(0, &digest(b"other"), bytes.clone()).await;
    assert!(
        status == 400 && answer["message"].as_str().unwrap().contains("sha256"),
        "{answer}"
    );
    let (status, answer) = put(0, "xyz", bytes.clone()).await;
    assert_eq!(status, 400, "{answer}");
    let large = vec![0; (64 << 20) + 1];
    let (status, answer) = put(1, &digest(&large), large).await;
    assert_eq!(status, 413, "{answer}");
    assert_eq!(
        nodes.http.get(url(0, &hex)).send().await.unwrap().status(),
        404
    );

    let (status, answer) = put(2, &hex, bytes.clone()).await;
    assert_eq!(
        (status, answer),
        (200, json!({"digest": hex, "size": bytes.len()}))
    );
    let app = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let image = format!("bundle/hello:0.0.1@sha256:{hex}");
    create(
        &nodes,
        1,
        "fns",
        json!({"name": "hello", "app_id": app, "image": image}),
    )
    .await;

    // A majority has it, so one node may go before the others were ever asked.
    let urls: Vec<String> = (0..3).map(|node| url(node, &hex)).collect();
    let known = nodes.http.head(&urls[0]).send().await.unwrap();
    assert_eq!(known.status(), 200);
    nodes.kill(2);
    for url in &urls[..2] {
        let got = eventually(
            "a survivor has the bundle",
            Duration::from_secs(10),
            async || {
                let got = nodes.http.get(url).send().await.ok()?;
                got.status().is_success().then_some(got)
            },
        )
        .await;
        assert!(
            got.bytes().await.unwrap() == bytes,
            "{url} answers with other bytes"
        );
    }
}

/// Damaged on one node it comes from another; damaged on all it is deployed again, as if it had never been.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_was_damaged_is_served_by_no_node_until_it_is_whole() {
    let nodes = Nodes::start(60).await;
    let bytes: Vec<u8> = (0..100_000_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let hex = digest(&bytes);
    let url = |node: usize| format!("{}/v1/bundles/{hex}", nodes.api(node));
    let put = async || {
        let sent = nodes.http.put(url(0)).body(bytes.clone()).send();
        assert_eq!(sent.await.unwrap().status(), 200);
    };
    let file = |node: usize| {
        let folder = nodes.config_path(node).parent().unwrap().to_owned();
        folder.join(format!("global-{}/bundles/{hex}", node + 1))
    };
    let is_whole = async |node: usize| {
        let head = nodes.http.head(url(node)).send().await.unwrap().status();
        let got = nodes.http.get(url(node)).send().await.unwrap();
        assert_eq!(head, got.status(), "node {node} says of it what it does");
        got.status() == 200 && got.bytes().await.unwrap() == bytes
    };
    put().await;
    for node in 0..3 {
        eventually("each has it", Duration::from_secs(10), async || {
            file(node).exists().then_some(())
        })
        .await;
        assert!(is_whole(node).await);
    }

    std::fs::write(file(0), &bytes[..1000]).unwrap();
    assert!(is_whole(0).await, "another node's copy");

    for node in 0..3 {
        std::fs::write(file(node), &bytes[1..]).unwrap();
    }
    for node in 0..3 {
        assert!(!is_whole(node).await);
    }
    put().await;
    for node in 0..3 {
        assert!(is_whole(node).await, "node {node}");
    }
}
