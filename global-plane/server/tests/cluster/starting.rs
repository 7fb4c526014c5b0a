//! A node that cannot start says why, in words.

use std::process::Command;

use crate::nodes::Nodes;

fn fails(config: &std::path::Path) -> (Option<i32>, String) {
    let output = Nodes::command(config).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_node_from_starting_is_said_and_never_a_panic() {
    let mut nodes = Nodes::start_with(52, 1, "").await;
    let config = std::fs::read_to_string(nodes.config_path(0)).unwrap();
    let other = tempfile::tempdir().unwrap();
    let ip = nodes.ip(0);
    let api = format!("api_listen = \"{ip}:7400\"");
    let raft = format!("raft_listen = \"{ip}:7401\"");
    assert!(config.contains(&api) && config.contains(&raft), "{config}");
    let elsewhere = format!("data_dir = \"{}\"", other.path().join("data").display());
    let data = config
        .lines()
        .find(|line| line.starts_with("data_dir"))
        .unwrap();
    let case = |text: String| {
        let path = other.path().join("case.toml");
        std::fs::write(&path, text).unwrap();
        fails(&path)
    };

    let (code, says) = case("name = [\n".to_owned());
    assert_eq!(code, Some(78), "{says}");
    assert!(says.contains("case.toml"), "{says}");
    let (code, says) = case(config.replace("zone", "zoone"));
    assert_eq!(code, Some(78), "{says}");
    assert!(
        says.contains("zoone") && says.contains("`zone` is missing"),
        "{says}"
    );

    let (code, says) = case(config.replace(data, &elsewhere));
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("in use") && says.contains(":7400"), "{says}");
    let free = config
        .replace(&api, &format!("api_listen = \"{ip}:7410\""))
        .replace(&raft, &format!("raft_listen = \"{ip}:7411\""));
    let (code, says) = case(free.clone());
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("another process"), "{says}");
    assert!(!says.contains("panicked"), "{says}");

    nodes.kill(0);
    let (code, says) = case(free.replace("cluster_id = \"test-52\"", "cluster_id = \"other\""));
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("test-52") && says.contains("other"), "{says}");
    assert!(!says.contains("panicked"), "{says}");

    let help = Command::new(env!("CARGO_BIN_EXE_tradewind-global"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("raft_listen"));
}
