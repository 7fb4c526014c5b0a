//! A process that a test starts, kills and does not leave behind.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chaos_tests_cluster::eventually;
use rustix::process::{Pid, Signal, kill_process};

pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A gateway may finish calls for as long as its configuration here lets it.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// What of a log an error shows.
const TAIL_LINES: usize = 30;

impl Daemon {
    /// Starts `command`; what it prints is appended to `NAME.log` in `dir`.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// If it has ended; the error has the end of its log.
    pub fn ensure_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("look at a child")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Everything it and its predecessors of that name printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..);
        tail.unwrap_or_default().join("\n")
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill a child")?;
        self.child.wait().context("wait for a child")?;
        Ok(())
    }

    /// SIGTERM, and wait until it has ended in its own time.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id fits")?;
        let pid = Pid::from_raw(pid).context("a process id is positive")?;
        if self.child.try_wait().context("look at a child")?.is_none() {
            kill_process(pid, Signal::TERM).context("stop a child")?;
        }
        let name = self.name.clone();
        let (status, _) = eventually(&format!("{name} stops"), STOP_PATIENCE, async || {
            let ended = self.child.try_wait().context("look at a child")?;
            ended.context("it runs")
        })
        .await?;
        ensure!(status.success(), "{name}: {status}:\n{}", self.log_tail());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
