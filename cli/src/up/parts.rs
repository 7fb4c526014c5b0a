//! The children of `up`: started, watched, stopped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{Layout, Part};

/// A region finishes what is in flight within 22 s, the others sooner; what takes longer is stuck.
pub const STOP_GRACE: Duration = Duration::from_secs(25);

/// Every process that was started and has not been seen to end.
pub struct Running {
    layout: Layout,
    programs: PathBuf,
    pids: BTreeMap<String, u32>,
    waits: JoinSet<Ended>,
    stop: CancellationToken,
}

/// A process that is no more.
pub struct Ended {
    pub name: String,
    pub status: std::io::Result<ExitStatus>,
}

impl Running {
    /// `programs` is the folder with the daemons.
    pub fn new(layout: Layout, programs: PathBuf) -> Self {
        Self {
            layout,
            programs,
            pids: BTreeMap::new(),
            waits: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    pub fn pid(&self, name: &str) -> Option<u32> {
        self.pids.get(name).copied()
    }

    pub fn pids(&self) -> &BTreeMap<String, u32> {
        &self.pids
    }

    /// Writes the part's configuration and starts its process; returns its id.
    pub fn start(&mut self, part: &Part) -> anyhow::Result<u32> {
        let config = self.layout.config(&part.name);
        fs::write(&config, &part.config).with_context(|| format!("write {}", config.display()))?;
        let log_path = self.layout.log(&part.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("open {}", log_path.display()))?;
        let program = self.programs.join(part.role.program());
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            // Ctrl-C in a terminal reaches `up` alone, which then stops its children in order.
            .process_group(0);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TRADEWIND_") && text != "TRADEWIND_LOG" {
                command.env_remove(&name);
            }
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = child.id().context("a child just started has an id")?;
        self.pids.insert(part.name.clone(), pid);
        let (name, stop) = (part.name.clone(), self.stop.clone());
        self.waits.spawn(async move {
            let status = until_ended(child, stop).await;
            Ended { name, status }
        });
        Ok(pid)
    }

    /// The next process to end; never returns while none runs. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        match self.waits.join_next().await {
            Some(Ok(ended)) => {
                self.pids.remove(&ended.name);
                ended
            }
            // Only a panic ends a wait otherwise, and there is nothing left to wait for.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// Ends all: SIGINT, at which a region does not wait for DNS, the grace, then SIGKILL.
    pub async fn stop_all(mut self) {
        self.stop.cancel();
        while self.waits.join_next().await.is_some() {}
    }
}

/// Waits for a child, and ends it when told to. It alone reaps the child, so the id that it signals
/// cannot have been given to another process.
async fn until_ended(mut child: Child, stop: CancellationToken) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = stop.cancelled() => {}
    }
    if let Some(pid) = child.id().and_then(process) {
        // It may have ended just now; then the wait below says so.
        // Not SIGTERM: nobody resolves the names of a federation that ends.
        let _already_gone = kill_process(pid, Signal::INT);
    }
    if let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

pub fn process(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Whether a process id is one of this federation's daemons: ids are reused, and no other process
/// may be touched.
pub fn is_ours(pid: u32, config: &Path) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next();
    let is_daemon = program.is_some_and(|name| name.starts_with(b"tradewind-"));
    is_daemon && words.any(|word| word == config.as_os_str().as_encoded_bytes())
}

/// The folder this program lies in, once the daemons are found to be there too.
pub fn programs(parts: &[Part]) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("find the program that is running")?;
    let folder = here.parent().context("a program lies in a folder")?;
    for part in parts {
        let program = folder.join(part.role.program());
        ensure!(
            program.is_file(),
            "{} is missing: build it (`make build`) or install it beside {}",
            program.display(),
            here.display()
        );
    }
    Ok(folder.to_owned())
}

/// The last lines of a log, for an error.
pub fn log_tail(path: &Path) -> String {
    const TAIL_BYTES: i64 = 2000;
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        if file.seek(SeekFrom::End(-TAIL_BYTES)).is_err() {
            file.rewind()?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(8);
    lines[first..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_daemon_with_our_configuration_is_ours() {
        assert!(!is_ours(
            std::process::id(),
            Path::new("/d/config/fra.toml")
        ));
        assert!(!is_ours(u32::MAX, Path::new("/d/config/fra.toml")));
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        fs::write(log.path(), lines).expect("writable");
        let tail = log_tail(log.path());
        assert!(
            tail.ends_with("    line 999\n") && tail.lines().count() == 8,
            "{tail}"
        );
        assert_eq!(log_tail(Path::new("/nowhere")), "");
    }
}
