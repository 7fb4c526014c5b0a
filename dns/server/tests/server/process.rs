//! Starting wrongly and stopping well.

use std::process::Stdio;
use std::time::Instant;

use tempfile::tempdir;

use crate::harness::{Global, PATIENCE, Server, command, config};

#[test]
fn a_bad_configuration_exits_78_with_every_problem_and_binds_nothing() {
    let dir = tempdir().unwrap();
    let text = config("127.42.3.1", dir.path(), &["ftp://x"]) + "colour = \"red\"\n";
    let output = command(dir.path(), &text)
        .env("TRADEWIND_TTL_SECS", "soon")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    // The unknown key is inside the last table.
    for want in [
        "colour",
        "`ttl_secs` (environment TRADEWIND_TTL_SECS)",
        "--help",
    ] {
        assert!(stderr.contains(want), "{want:?} not in {stderr}");
    }
    assert!(!stderr.contains("answering"), "{stderr}");
}

#[test]
fn a_port_in_use_is_named_and_exits_1() {
    let (dir, other, global) = (tempdir().unwrap(), tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.3.2", &dir, &global);
    let taken = server.dns.to_string();
    let text = config("127.42.3.2", other.path(), &[&global.url]).replace(
        "listen = [\"127.42.3.2:0\"]",
        &format!("listen = [\"{taken}\"]"),
    );
    let output = command(other.path(), &text).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&taken) && stderr.contains("in use"),
        "{stderr}"
    );
}

#[test]
fn help_and_version_are_worth_reading() {
    let dir = tempdir().unwrap();
    let run = |argument: &str| {
        let mut command = command(dir.path(), "");
        let output = command.arg(argument).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, help) = run("--help");
    assert_eq!(code, Some(0));
    for want in [
        "--config",
        "--insecure",
        "ttl_all_down_secs",
        "TRADEWIND_LOG",
        "78",
    ] {
        assert!(help.contains(want), "{want:?} not in {help}");
    }
    assert_eq!(
        run("--version"),
        (Some(0), format!("tradewind-dns {}\n", daemon::VERSION))
    );
}

#[test]
fn sigterm_stops_it_with_success() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let mut server = Server::with_regions("127.42.3.3", &dir, &global);
    let pid = server.child().id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .unwrap();
    assert!(sent.success());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = server.child().try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{:?}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0), "{:?}", server.log());
}
