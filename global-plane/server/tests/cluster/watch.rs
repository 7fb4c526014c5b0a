//! The stream of changes.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::fn_api::create;
use crate::nodes::Nodes;

/// Reads lines until one satisfies `last`.
async fn watched(
    nodes: &Nodes,
    node: usize,
    from: u64,
    last: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let url = format!("{}/v1/watch?from={from}", nodes.api(node));
    let response = nodes.http.get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let (mut bytes, mut text, mut lines) = (response.bytes_stream(), String::new(), Vec::new());
    let reading = async {
        while let Some(chunk) = bytes.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            while let Some((line, rest)) = text.split_once('\n') {
                let line: Value = serde_json::from_str(line).unwrap();
                text = rest.to_owned();
                lines.push(line.clone());
                if last(&line) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_streams_the_same_changes_in_order() {
    let nodes = Nodes::start(32).await;
    let app = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let function = json!({"name": "hello", "app_id": app, "image": "hello:1"});
    let function = create(&nodes, 1, "fns", function).await;
    let trigger =
        json!({"name": "hi", "app_id": app, "fn_id": function, "type": "http", "source": "/hi"});
    create(&nodes, 2, "triggers", trigger).await;
    assert_eq!(nodes.delete(0, &format!("/v2/apps/{app}")).await.0, 204);
    create(&nodes, 0, "apps", json!({"name": "end"})).await;

    let is_end = |line: &Value| line["object"]["name"] == "end";
    let mut streams = Vec::new();
    for node in 0..3 {
        let lines = watched(&nodes, node, 0, is_end).await;
        let changes: Vec<Value> = lines
            .into_iter()
            .filter(|line| line["type"] != "progress")
            .collect();
        let revisions: Vec<u64> = changes
            .iter()
            .map(|line| line["revision"].as_u64().unwrap())
            .collect();
        assert!(revisions.is_sorted(), "{revisions:?}");
        streams.push(changes);
    }
    assert!(
        streams.windows(2).all(|pair| pair[0] == pair[1]),
        "{streams:#?}"
    );
    let said: Vec<String> = streams[0]
        .iter()
        .map(|line| match line["type"].as_str().unwrap() {
            "deleted" => format!("-{}", line["kind"].as_str().unwrap()),
            kind => kind.to_owned(),
        })
        .collect();
    assert_eq!(
        said,
        ["app", "fn", "trigger", "-trigger", "-fn", "-app", "app"]
    );

    let middle = streams[0][1]["revision"].as_u64().unwrap();
    let rest = watched(&nodes, 1, middle, is_end).await;
    assert_eq!(
        rest.iter().find(|line| line["type"] != "progress"),
        Some(&streams[0][2])
    );

    let end = streams[0].last().unwrap()["revision"].as_u64().unwrap();
    let progress = watched(&nodes, 2, end, |line| line["type"] == "progress").await;
    assert_eq!(progress.last().unwrap()["revision"].as_u64().unwrap(), end);

    let (status, snapshot) = nodes.get(1, "/v1/snapshot").await;
    assert_eq!((status, &snapshot["id"]["revision"]), (200, &json!(end)));
    let body: Value = serde_json::from_str(snapshot["body"].as_str().unwrap()).unwrap();
    let first = &body["objects"][0];
    assert_eq!(
        (&first["type"], &first["object"]["name"]),
        (&json!("app"), &json!("end"))
    );
    assert_eq!(first["object"]["tradewind_revision"], json!(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_revisions_get_410_and_where_to_go_on() {
    let mut nodes = Nodes::start_with(36, 1, "[limits]\nwatch_revisions_max = 20").await;
    for round in 0..30 {
        create(&nodes, 0, "apps", json!({"name": format!("app{round}")})).await;
    }
    for case in ["running", "restarted"] {
        let (status, answer) = nodes.get(0, "/v1/watch?from=1").await;
        assert_eq!(status, 410, "{case}: {answer}");
        let from = answer["snapshot_revision"].as_u64().unwrap();
        let progress = watched(&nodes, 0, from, |line| line["type"] == "progress").await;
        assert_eq!(
            progress.last().unwrap()["revision"].as_u64(),
            Some(from),
            "{case}"
        );
        let changes = watched(&nodes, 0, from - 10, |line| line["type"] == "progress").await;
        assert_eq!(changes.len(), 11, "{case}: {changes:#?}");
        // Whose revision it is comes first: 1 is compacted too.
        for stranger in ["cluster_id=other", "epoch=2"] {
            let path = format!("/v1/watch?from=1&{stranger}");
            let (status, answer) = nodes.get(0, &path).await;
            assert_eq!(status, 409, "{case}: {answer}");
        }
        let snapshot = nodes.get(0, "/v1/snapshot").await.1;
        let (id, epoch) = (&snapshot["id"]["cluster_id"], &snapshot["id"]["epoch"]);
        let path = format!(
            "/v1/watch?from=1&cluster_id={}&epoch={epoch}",
            id.as_str().unwrap()
        );
        assert_eq!(nodes.get(0, &path).await.0, 410, "{case}: its own");
        nodes.kill(0);
        nodes.run(0);
        nodes.ready(0).await;
    }
}
