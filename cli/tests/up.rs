//! `tradewind up` with real daemons: its whole life, also when it is killed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Three daemons on a busy machine; a quiet one needs a few seconds.
const PATIENCE: Duration = Duration::from_secs(90);

const NET: &str = "127.44";

struct Up {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Up {
    fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_tradewind"));
        for daemon in ["tradewind-global", "tradewind-region", "tradewind-dns"] {
            let daemon = program.with_file_name(daemon);
            assert!(
                daemon.exists(),
                "{} is missing: run `make build`",
                daemon.display()
            );
        }
        Self {
            folder: tempfile::tempdir().unwrap(),
            child: None,
        }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("up")
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind"));
        command
            .args([
                "up",
                "--net",
                NET,
                "--regions",
                "1",
                "--globals",
                "1",
                "--dns",
                "1",
            ])
            .arg("--dir")
            .arg(self.dir())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts it and returns the processes of its parts once they are ready.
    fn start(&mut self) -> Vec<i32> {
        let log = std::fs::File::create(self.folder.path().join("up.log")).unwrap();
        let child = self
            .command(&[])
            .arg("--ready-file")
            .arg(self.ready_file())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("the ready file", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "up ended: {ended:?}\n{}", self.log());
            self.ready_file().exists()
        });
        self.pids()
    }

    fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.ready_file()).unwrap();
        let ready: Value = serde_json::from_str(&text).unwrap();
        ["globals", "dns", "regions"]
            .iter()
            .flat_map(|kind| ready[*kind].as_array().unwrap())
            .map(|part| i32::try_from(part["pid"].as_i64().unwrap()).unwrap())
            .collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    /// Ends `up` itself.
    fn signal(&mut self, signal: Signal) {
        let child = self.child.as_mut().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        child.wait().unwrap();
        self.child = None;
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- tradewind up printed:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        let _nothing_ran = self.command(&["--stop"]).output();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_federation_is_started_mended_lost_and_found() {
    let mut up = Up::new();
    let pids = up.start();
    assert_eq!(pids.len(), 3);
    assert!(up.run(&["--status"]).status.success());

    // A second one is refused, and says which process is in the way.
    let second = up.run(&[]);
    let pid = up.child.as_ref().unwrap().id().to_string();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("already") && stderr(&second).contains(&pid),
        "{}",
        stderr(&second)
    );

    // A part that runs is not started twice; one that died is, and the file says so.
    let twice = up.run(&["--start", "iad"]);
    assert!(
        !twice.status.success() && stderr(&twice).contains("runs already"),
        "{}",
        stderr(&twice)
    );
    let unknown = up.run(&["--start", "mars"]);
    assert!(
        stderr(&unknown).contains("no mars here"),
        "{}",
        stderr(&unknown)
    );
    let region = pids[2];
    kill_process(Pid::from_raw(region).unwrap(), Signal::KILL).unwrap();
    let again = up.run(&["--start", "iad"]);
    assert!(again.status.success(), "{}", stderr(&again));
    let pids = up.pids();
    assert!(pids[2] != region && lives(pids[2]));
    assert!(
        up.log().contains("iad died (signal: 9 (SIGKILL))"),
        "{}",
        up.log()
    );

    // Killed itself, it leaves its parts, which the next one names and --stop ends.
    up.signal(Signal::KILL);
    assert!(pids.iter().all(|pid| lives(*pid)));
    assert_eq!(up.run(&["--status"]).status.code(), Some(1));
    let next = up.run(&[]);
    assert_eq!(next.status.code(), Some(1));
    for pid in &pids {
        assert!(
            stderr(&next).contains(&format!("(process {pid})")),
            "{}",
            stderr(&next)
        );
    }
    assert!(stderr(&next).contains("--stop"), "{}", stderr(&next));
    let stop = up.run(&["--stop"]);
    assert!(stop.status.success(), "{}", stderr(&stop));
    assert!(!pids.iter().any(|pid| lives(*pid)));

    // The same folder goes on with its data; told to stop, it ends everything.
    let pids = up.start();
    up.signal(Signal::TERM);
    assert!(!pids.iter().any(|pid| lives(*pid)));
    assert!(!up.ready_file().exists(), "nothing is ready any more");
    assert!(up.log().contains("stopped in"), "{}", up.log());

    let larger = Command::new(env!("CARGO_BIN_EXE_tradewind"))
        .args(["up", "--net", NET, "--globals", "3", "--dir"])
        .arg(up.dir())
        .output()
        .unwrap();
    assert!(
        stderr(&larger).contains("--globals 1"),
        "{}",
        stderr(&larger)
    );
}
