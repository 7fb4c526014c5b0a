//! The program as a platform runs it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Killed also if the test fails.
struct Function(Child);

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nothing here takes as long unless it is broken.
const LONG: Duration = Duration::from_secs(20);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what} does not come");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn greets_by_name_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("lsnr.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hello-rust"));
    command
        .env("FN_FORMAT", "http-stream")
        .env("FN_LISTENER", format!("unix:{}", link.display()));
    let mut function = Function(command.spawn().unwrap());
    until("the link", || link.exists());

    for (body, want) in [
        ("", "Hello World"),
        (r#"{"name":"Ada"}"#, "Hello Ada"),
        (r#"{"name":7}"#, "Hello World"),
        ("not JSON", "Hello World"),
    ] {
        let mut stream = UnixStream::connect(&link).unwrap();
        write!(
            stream,
            "POST /call HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, got) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(got, format!(r#"{{"message":"{want}"}}"#));
    }

    let pid = function.0.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(told.success());
    let mut ended = None;
    until("the end", || {
        ended = function.0.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success());
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_hello-rust"))
        .env_remove("FN_FORMAT")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("FN_FORMAT"), "{said}");
}
