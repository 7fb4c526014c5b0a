//! Starting wrongly and stopping well.

use std::process::Stdio;

use hickory_proto::rr::RecordType;
use tempfile::tempdir;

use crate::harness::{Global, Server, command, config, query};

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
    let server = Server::with_regions("127.42.3.3", &dir, &global);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:?}");
}

#[test]
fn a_query_is_not_logged_unless_that_is_asked_for() {
    for (ip, log, logged) in [
        ("127.42.3.4", "info", false),
        ("127.42.3.5", "info,hickory_server=info", true),
    ] {
        let (dir, global) = (tempdir().unwrap(), Global::start());
        let mut command = command(dir.path(), &config(ip, dir.path(), &[&global.url]));
        command.env("TRADEWIND_LOG", log);
        let server = Server::start_by(command);
        for _ in 0..3 {
            server.ask(&query("app.fn.test", RecordType::A));
        }
        let (_, lines) = server.stop();
        let of_queries = lines.iter().any(|line| line.contains("hickory_server"));
        assert_eq!(of_queries, logged, "{log}: {lines:#?}");
    }
}
