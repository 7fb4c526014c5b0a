//! kubectl, for what the API alone does not give: programs run in containers, and ports of Services.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;

use crate::daemon::Daemon;

/// Three exchanges: with the API server, a kubelet and a pod.
const FORWARD_PATIENCE: Duration = Duration::from_secs(20);

/// For one namespace of the cluster that `KUBECONFIG` names.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    namespace: String,
}

impl Kubectl {
    /// The one that `KUBECTL` names, else the one that came with helm. `None` where there is neither.
    #[must_use]
    pub fn find(namespace: &str) -> Option<Self> {
        Some(Self {
            program: deploy_check::helm::installed("kubectl", "KUBECTL")?,
            namespace: namespace.to_owned(),
        })
    }

    /// Runs to its end, and returns what it printed.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.start(arguments)?.finish()
    }

    pub fn start(&self, arguments: &[&str]) -> anyhow::Result<Started> {
        let child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        Ok(Started { child })
    }

    /// Makes a port of a Service one of this machine's, for as long as what is returned lives.
    pub async fn forward(&self, service: &str, port: u16, dir: &Path) -> anyhow::Result<Forward> {
        let mut command = self.command(&["port-forward"]);
        command.args([format!("service/{service}"), format!(":{port}")]);
        let name = format!("port-forward-{service}");
        let mut daemon = Daemon::start(&name, &mut command, dir)?;
        let what = format!("port {port} of {service} is forwarded");
        let (url, _) = eventually(&what, FORWARD_PATIENCE, async || {
            daemon.ensure_runs()?;
            // "Forwarding from 127.0.0.1:40321 -> 7400"
            let log = daemon.log();
            let ours = log
                .split_once("Forwarding from ")
                .and_then(|(_, rest)| rest.split_once(" ->"));
            let (address, _) = ours.with_context(|| log.clone())?;
            Ok(format!("http://{address}"))
        })
        .await?;
        Ok(Forward {
            url,
            _daemon: daemon,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--namespace", &self.namespace])
            .args(arguments);
        command
    }
}

/// A kubectl that runs; killed when it is dropped unfinished.
pub struct Started {
    child: Child,
}

impl Started {
    /// Ends its input, waits for it and returns what it printed.
    pub fn finish(mut self) -> anyhow::Result<String> {
        self.child.stdin = None;
        let mut printed = String::new();
        let mut complaint = String::new();
        // What it complains of is far less than a pipe holds.
        let stdout = self.child.stdout.as_mut().context("it prints")?;
        stdout
            .read_to_string(&mut printed)
            .context("read kubectl")?;
        let stderr = self.child.stderr.as_mut().context("it complains")?;
        stderr
            .read_to_string(&mut complaint)
            .context("read kubectl")?;
        let status = self.child.wait().context("wait for kubectl")?;
        ensure!(status.success(), "kubectl: {status} {printed}{complaint}");
        Ok(printed)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only if it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Forward {
    pub url: String,
    _daemon: Daemon,
}
