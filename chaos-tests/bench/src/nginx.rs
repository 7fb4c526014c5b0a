//! nginx in front of the same functions: what a call takes of a proxy that does nothing else.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use chaos_tests_machine::Network;
use tempfile::TempDir;

use crate::function::ByHand;

const START_PATIENCE: Duration = Duration::from_secs(20);

pub struct Nginx {
    master: Child,
    pub listen: SocketAddr,
    _folder: TempDir,
    _network: Network,
}

impl Nginx {
    /// Starts it as a proxy of these instances, each over a connection that is kept.
    pub async fn start(instances: &[ByHand]) -> anyhow::Result<Self> {
        let program = program()?;
        let network = Network::claim();
        let listen = SocketAddr::from((network.address(1, 1), 8080));
        let folder = tempfile::tempdir().context("make nginx's folder")?;
        let mut servers = String::new();
        for instance in instances {
            writeln!(servers, "server unix:{};", instance.socket().display())?;
        }
        let config = folder.path().join("nginx.conf");
        // What the gateway does too is switched on, and nothing else: HTTP/1.1 with kept connections on both
        // sides, no log of each call.
        let text = format!(
            r#"
            {user}
            daemon off;
            worker_processes auto;
            pid {folder}/nginx.pid;
            error_log stderr warn;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                keepalive_requests 100000000;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                upstream functions {{
                    least_conn;
                    {servers}
                    keepalive 64;
                    keepalive_requests 100000000;
                }}
                server {{
                    listen {listen};
                    location = /t/bench/hello {{
                        proxy_pass http://functions/call;
                        proxy_http_version 1.1;
                        proxy_set_header Host localhost;
                        proxy_set_header Connection "";
                        proxy_set_header Fn-Call-Id 01J00000000000000000000000;
                        proxy_set_header Fn-Deadline 2100-01-01T00:00:00Z;
                    }}
                }}
            }}
            "#,
            folder = folder.path().display(),
            user = as_ourselves()?,
        );
        std::fs::write(&config, text).context("write nginx's configuration")?;
        let master = Command::new(&program)
            .arg("-c")
            .arg(&config)
            // Else it opens its packaged log before it has read the configuration.
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut nginx = Self {
            master,
            listen,
            _folder: folder,
            _network: network,
        };
        eventually("nginx listens", START_PATIENCE, async || {
            if let Some(status) = nginx.master.try_wait()? {
                anyhow::bail!("nginx ended with {status}");
            }
            tokio::net::TcpStream::connect(listen).await?;
            Ok(())
        })
        .await?;
        Ok(nginx)
    }

    /// The processes that serve.
    pub fn workers(&self) -> anyhow::Result<Vec<i32>> {
        let master = self.master.id();
        let path = format!("/proc/{master}/task/{master}/children");
        let children = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let workers = children.split_whitespace().map(str::parse);
        let workers: Vec<i32> = workers.collect::<Result<_, _>>().context("children")?;
        ensure!(!workers.is_empty(), "nginx has no workers");
        Ok(workers)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It ends its workers when it is asked to; killed, it would leave them.
        let pid = self.master.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _gone = self.master.kill();
        }
        let _reaped = self.master.wait();
    }
}

/// Started by root, nginx would otherwise serve as somebody who may not reach the functions' sockets.
fn as_ourselves() -> anyhow::Result<&'static str> {
    let us = std::fs::metadata("/proc/self").context("look at this process")?;
    Ok(if us.uid() == 0 { "user root;" } else { "" })
}

/// The one that `NGINX` names, else the one that `scripts/install-rivals` unpacked.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("NGINX") {
        return Ok(program.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let program = PathBuf::from(home).join(".cache/tradewind/tools/rivals/usr/sbin/nginx");
    ensure!(
        program.exists(),
        "no nginx: `scripts/install-rivals ~/.cache/tradewind/tools` or NGINX=PATH"
    );
    Ok(program)
}
