//! What not every node knows is not used; a node that meets it all the same stops and says what to do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::nodes::{Nodes, eventually};

/// Has the leader propose a command, as another node would.
async fn propose(nodes: &Nodes, request: &str, command: Value) -> (u16, Value) {
    let leader = nodes.leader().await;
    let envelope = json!({"format": 1, "request": request, "log_time": 1, "command": command});
    nodes.post(leader, "/internal/propose", envelope).await
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_format_waits_for_every_member_and_stops_one_that_does_not_know_it() {
    let mut nodes = Nodes::start(60).await;
    let says =
        |member: u64| json!({"name": "say_known", "member": member, "knows": ["object/comet"]});
    let uses = json!({"name": "use_formats", "formats": ["object/comet"]});

    let (status, answer) = propose(&nodes, "1", json!({"name": "launch_comet"})).await;
    assert_eq!(status, 424, "{answer}");
    let (asked, told) = (message(&answer), "leads and is older");
    assert!(
        asked.contains("launch_comet") && asked.contains(told),
        "{answer}"
    );
    let (status, answer) = propose(&nodes, "2", uses.clone()).await;
    assert_eq!(status, 424, "{answer}");
    for member in ["global-1", "global-2", "global-3"] {
        let lacks = format!("global node {member} does not know object/comet");
        assert!(message(&answer).contains(&lacks), "{answer}");
    }

    for member in [1, 3] {
        let (status, answer) = propose(&nodes, &format!("says {member}"), says(member)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let (status, answer) = propose(&nodes, "3", uses.clone()).await;
    assert_eq!(status, 424, "{answer}");
    let lacking = message(&answer);
    assert!(lacking.contains("global-2 does not know"), "{answer}");
    assert!(
        !lacking.contains("global-1") && !lacking.contains("global-3"),
        "{answer}"
    );
    let want = json!([{"name": "object/comet", "in_use": false, "lacking": ["global-2"]}]);
    for node in 0..3 {
        eventually(
            "every node tells who lacks it",
            Duration::from_secs(10),
            async || {
                let (_, formats) = nodes.get(node, "/v1/formats").await;
                (formats["items"] == want).then_some(())
            },
        )
        .await;
    }
    let (status, answer) = nodes.post(1, "/v2/apps", json!({"name": "shop"})).await;
    assert_eq!(status, 200, "what everybody knows goes on: {answer}");

    // As if all three had been replaced by an older version since they said it.
    let (status, answer) = propose(&nodes, "says 2", says(2)).await;
    assert_eq!(status, 200, "{answer}");
    let (_, _) = propose(&nodes, "4", uses).await;
    // Each is started again, as by a supervisor: the last to hear that the entry is committed may need
    // the others for it.
    let mut stopped = [false; 3];
    eventually("every node stops", Duration::from_secs(60), async || {
        for (node, stopped) in stopped.iter_mut().enumerate() {
            let Some(status) = nodes.try_ended(node) else {
                continue;
            };
            let log = nodes.log(node);
            assert_eq!(status.code(), Some(78), "{log}");
            let said = log
                .lines()
                .rfind(|line| line.contains("failed"))
                .unwrap_or_default();
            assert!(said.contains("object/comet"), "{log}");
            assert!(
                said.contains("start the version that the other global nodes run"),
                "{log}"
            );
            assert!(!log.contains("panicked"), "{log}");
            *stopped = true;
            nodes.run(node);
        }
        stopped.iter().all(|stopped| *stopped).then_some(())
    })
    .await;
}
