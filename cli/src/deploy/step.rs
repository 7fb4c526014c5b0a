//! Tools that take a while, and saying so.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::output::Output;

/// How often a step that takes long says that it is still at it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Lines of a failed tool's output that are shown: its complaint is at the end.
const LINES_SHOWN: usize = 40;

/// Notes what is being done and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    output: Output,
    started: Instant,
}

impl Step {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            started: Instant::now(),
        }
    }

    pub fn say(self, text: &str) {
        let elapsed = self.started.elapsed().as_secs_f64();
        self.output.note(&format!("[{elapsed:5.1} s] {text}"));
    }

    /// Runs a tool to its end and returns its stdout.
    ///
    /// # Errors
    /// If it cannot be started (`missing` says what to do then) or fails, with the end of what it
    /// printed.
    pub async fn run(
        self,
        name: &str,
        command: &mut Command,
        missing: &str,
    ) -> anyhow::Result<String> {
        self.say(name);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}; {missing}"))?;
        let mut waiting = std::pin::pin!(child.wait_with_output());
        let finished = loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, &mut waiting).await {
                Ok(finished) => break finished.with_context(|| format!("wait for {name}"))?,
                Err(_) => self.say(&format!("{name}, still at it")),
            }
        };
        let stdout = String::from_utf8_lossy(&finished.stdout).into_owned();
        if !finished.status.success() {
            let stderr = String::from_utf8_lossy(&finished.stderr);
            // npm complains on either.
            let said = if stderr.trim().is_empty() {
                &stdout
            } else {
                &*stderr
            };
            let lines: Vec<&str> = said.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            bail!("{name} failed ({}):\n{}", finished.status, shown.join("\n"));
        }
        Ok(stdout)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn a_tool_that_fails_is_quoted_and_one_that_is_missing_says_what_to_do() {
        let step = Step::new(Output { json: true });
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo out; echo no such package >&2; exit 3"]);
        let error = step.run("pip install", &mut failing, "").await.unwrap_err();
        assert!(error.to_string().contains("no such package"), "{error}");

        let mut absent = Command::new("/nowhere/npm");
        let error = step
            .run("npm ci", &mut absent, "install npm")
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "cannot start npm ci; install npm");

        let mut fine = Command::new("sh");
        fine.args(["-c", "echo out"]);
        assert_eq!(step.run("x", &mut fine, "").await.unwrap(), "out\n");
    }
}
