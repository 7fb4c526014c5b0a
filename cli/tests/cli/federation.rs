//! A federation of one region, one global node and one DNS server, run by `tradewind up`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chaos_tests_machine::Network;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Three daemons on a busy machine; a quiet one needs a few seconds.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Up {
    pub folder: tempfile::TempDir,
    pub child: Option<Child>,
    pub network: Network,
}

impl Up {
    pub fn new() -> Self {
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
            network: Network::claim(),
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("up")
    }

    pub fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind"));
        command
            .args([
                "up",
                "--net",
                &self.network.to_string(),
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

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts it and returns the processes of its parts once they are ready.
    pub fn start(&mut self) -> Vec<i32> {
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

    pub fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.ready_file()).unwrap();
        let ready: Value = serde_json::from_str(&text).unwrap();
        ["globals", "dns", "regions"]
            .iter()
            .flat_map(|kind| ready[*kind].as_array().unwrap())
            .map(|part| i32::try_from(part["pid"].as_i64().unwrap()).unwrap())
            .collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    /// Runs another command against it, with `stdin` as its input.
    pub fn tradewind(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tradewind"))
            .args(args)
            .env(
                "TRADEWIND_API",
                format!("http://{}:7400", self.network.address(20, 1)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that does not read its input may be gone by now.
        let _unread = input.write_all(stdin.as_bytes());
        drop(input);
        child.wait_with_output().unwrap()
    }

    /// [`Up::tradewind`] that must succeed; what it printed.
    pub fn tradewind_ok(&self, args: &[&str]) -> String {
        let output = self.tradewind(args, "");
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// [`Up::tradewind_ok`] with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.tradewind_ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Ends `up` itself.
    pub fn signal(&mut self, signal: Signal) {
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

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
