//! An API server of our own, from the folder that `KUBEBUILDER_ASSETS` names.
//!
//! No controller manager, scheduler or kubelet runs: objects are stored, defaulted, validated and
//! watched, and no pod ever starts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use tempfile::TempDir;

use crate::cluster::connect;
use crate::daemon::Daemon;

/// A busy two-core machine starts an API server in ten seconds.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// Known to nobody: the server listens on loopback for as long as the test runs.
const ADMIN_TOKEN: &str = "tradewind-test-admin";

pub struct Servers {
    api: Option<Daemon>,
    // Stopped after the API server, which complains when its store goes first.
    _etcd: Daemon,
    assets: PathBuf,
    dir: TempDir,
    api_port: u16,
    etcd_port: u16,
}

impl Servers {
    /// Starts etcd and an API server on free loopback ports and waits until they serve.
    pub async fn start(assets: &Path) -> anyhow::Result<Self> {
        for program in ["etcd", "kube-apiserver"] {
            ensure!(
                assets.join(program).is_file(),
                "KUBEBUILDER_ASSETS is {}, which has no {program}",
                assets.display()
            );
        }
        let dir = tempfile::tempdir().context("make a folder for the API server")?;
        std::fs::write(
            dir.path().join("tokens.csv"),
            format!("{ADMIN_TOKEN},admin,admin,system:masters\n"),
        )
        .context("write the tokens")?;
        let openssl = Command::new("openssl")
            .args([
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
            ])
            .arg(dir.path().join("service-accounts.key"))
            .stdin(Stdio::null())
            .output()
            .context("run openssl, which makes the service accounts' key")?;
        ensure!(
            openssl.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&openssl.stderr)
        );
        let (api_port, etcd_port, peer_port) = (free_port()?, free_port()?, free_port()?);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let client = format!("http://127.0.0.1:{etcd_port}");
        let etcd = Daemon::start(
            "etcd",
            Command::new(assets.join("etcd"))
                .arg("--data-dir")
                .arg(dir.path().join("etcd"))
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")])
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .arg("--unsafe-no-fsync"),
            dir.path(),
        )?;
        let mut servers = Self {
            api: None,
            _etcd: etcd,
            assets: assets.to_owned(),
            dir,
            api_port,
            etcd_port,
        };
        servers.start_api().await?;
        Ok(servers)
    }

    /// Starts the API server and waits until it serves. Its address stays the same.
    pub async fn start_api(&mut self) -> anyhow::Result<()> {
        let dir = self.dir.path();
        let key = dir.join("service-accounts.key");
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command
            .args(["--bind-address", "127.0.0.1"])
            .args(["--advertise-address", "127.0.0.1"])
            .args(["--endpoint-reconciler-type", "none"])
            .args(["--secure-port", &self.api_port.to_string()])
            .args([
                "--etcd-servers",
                &format!("http://127.0.0.1:{}", self.etcd_port),
            ])
            .arg("--cert-dir")
            .arg(dir.join("certificates"))
            .arg("--token-auth-file")
            .arg(dir.join("tokens.csv"))
            .args(["--authorization-mode", "RBAC"])
            // No controller manager makes the accounts that it would ask for.
            .args(["--disable-admission-plugins", "ServiceAccount"])
            .args(["--service-cluster-ip-range", "10.0.0.0/24"])
            .args(["--service-account-issuer", "https://localhost"])
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key);
        let mut api = Daemon::start("kube-apiserver", &mut command, dir)?;
        let kubeconfig = self.kubeconfig()?;
        eventually("the API server is ready", START_PATIENCE, async || {
            api.ensure_runs()?;
            // Until it has made its certificate there is nothing to trust.
            let client = connect(&kubeconfig).await?;
            client
                .request_text(http::Request::get("/readyz").body(Vec::new())?)
                .await?;
            Ok(())
        })
        .await?;
        self.api = Some(api);
        Ok(())
    }

    /// Kills the API server; its store stays.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    /// What `KUBECONFIG` would name.
    pub fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join("kubeconfig");
        let authority = self.dir.path().join("certificates/apiserver.crt");
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.api_port),
                "certificate-authority": authority,
            }}],
            "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
        });
        std::fs::write(&path, text.to_string()).context("write the kubeconfig")?;
        Ok(path)
    }
}

/// A port that was free a moment ago. Ports of servers that cannot listen on port 0 and say which
/// they got.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}
