//! Starts, asks and kills nodes.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chaos_tests_machine::Network;
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

/// Promises are asserted with this much slack: two cores run every test at once.
pub const SLACK: u32 = 3;

/// Of all tests in this process.
pub static NETWORK: LazyLock<Network> = LazyLock::new(Network::claim);

pub struct Nodes {
    dir: TempDir,
    /// The last octet before the first node's; tests run beside each other.
    base: u8,
    processes: Vec<Option<Child>>,
    pub http: reqwest::Client,
}

impl Nodes {
    /// Three nodes at (base + 1 …) of the network's 20, ready to be asked.
    pub async fn start(base: u8) -> Self {
        Self::start_with(base, 3, "").await
    }

    /// `more` is added to every node's configuration.
    pub async fn start_with(base: u8, count: usize, more: &str) -> Self {
        let mut nodes = Self {
            dir: tempfile::tempdir().unwrap(),
            base,
            processes: Vec::new(),
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(15))
                .build()
                .unwrap(),
        };
        for node in 0..count {
            std::fs::write(nodes.config_path(node), nodes.config(node, count, more)).unwrap();
            nodes.processes.push(None);
        }
        for node in 0..count {
            nodes.run(node);
        }
        for node in 0..count {
            nodes.ready(node).await;
        }
        nodes
    }

    pub fn count(&self) -> usize {
        self.processes.len()
    }

    pub fn ip(&self, node: usize) -> String {
        let last = self.base + u8::try_from(node).unwrap() + 1;
        NETWORK.address(20, last).to_string()
    }

    pub fn api(&self, node: usize) -> String {
        format!("http://{}:7400", self.ip(node))
    }

    pub fn config_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("global-{}.toml", node + 1))
    }

    pub fn config(&self, node: usize, count: usize, more: &str) -> String {
        let mut text = format!(
            "name = \"global-{id}\"\nnode_id = {id}\ncluster_id = \"test-{base}\"\n\
             data_dir = \"{dir}/global-{id}\"\napi_listen = \"{ip}:7400\"\nraft_listen = \"{ip}:7401\"\n\
             zone = \"fn.test\"\n{more}\n",
            id = node + 1,
            base = self.base,
            dir = self.dir.path().display(),
            ip = self.ip(node),
        );
        for member in 0..count {
            let (id, ip) = (member + 1, self.ip(member));
            text.push_str(&format!(
                "[[members]]\nname = \"global-{id}\"\nnode_id = {id}\napi = \"http://{ip}:7400\"\nraft = \"{ip}:7401\"\n"
            ));
        }
        text
    }

    /// The daemon on a configuration file, not started.
    pub fn command(config: &std::path::Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-global"));
        command
            .arg("--config")
            .arg(config)
            .env_remove("TRADEWIND_API");
        command
    }

    /// Starts a node without waiting for it.
    pub fn run(&mut self, node: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .unwrap();
        let child = Self::command(&self.config_path(node))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes[node] = Some(child);
    }

    pub async fn ready(&self, node: usize) {
        let url = format!("{}/readyz", self.api(node));
        eventually("a node is ready", Duration::from_secs(30), async || {
            let answer = self.http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.processes[node].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; returns how it ended.
    pub async fn stop(&mut self, node: usize) -> ExitStatus {
        let mut child = self.processes[node].take().unwrap();
        let sent = Command::new("kill")
            .arg("-TERM")
            .arg(child.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
        eventually("a node stops", Duration::from_secs(30), async || {
            child.try_wait().unwrap()
        })
        .await
    }

    /// How a node ended that stopped by itself, if it did.
    pub fn try_ended(&mut self, node: usize) -> Option<ExitStatus> {
        let ended = self.processes[node].as_mut()?.try_wait().unwrap()?;
        self.processes[node] = None;
        Some(ended)
    }

    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("global-{}.log", node + 1))
    }

    /// The node that the running ones agree leads.
    pub async fn leader(&self) -> usize {
        eventually("a leader is known", Duration::from_secs(30), async || {
            for node in (0..self.count()).filter(|node| self.processes[*node].is_some()) {
                let (status, answer) = self.get(node, "/v1/status").await;
                if status == 200 && answer["role"] == "leader" {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    pub async fn get(&self, node: usize, path: &str) -> (u16, Value) {
        self.send(Method::GET, node, path, None, &[]).await
    }

    pub async fn post(&self, node: usize, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, node, path, Some(body), &[]).await
    }

    pub async fn put(&self, node: usize, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PUT, node, path, Some(body), &[]).await
    }

    pub async fn delete(&self, node: usize, path: &str) -> (u16, Value) {
        self.send(Method::DELETE, node, path, None, &[]).await
    }

    /// Status 0 if the node could not be asked; a body that is not JSON comes as text.
    pub async fn send(
        &self,
        method: Method,
        node: usize,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.api(node));
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = match body {
                Value::String(text) => request.body(text),
                body => request.json(&body),
            };
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.send().await {
            Err(error) => (0, Value::String(error.to_string())),
            Ok(response) => {
                let status = response.status().as_u16();
                let text = response.text().await.unwrap_or_default();
                let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
                (status, body)
            }
        }
    }

    /// Registers a region whose gateway and admin listener are at `gateway`.
    pub async fn register(&self, name: &str, gateway: &str, latitude: f64, longitude: f64) {
        let ip = gateway.split(':').next().unwrap();
        let body = serde_json::json!({
            "name": name, "ipv4": ip, "gateway": gateway, "admin": gateway,
            "latitude": latitude, "longitude": longitude, "labels": {"geo": name},
        });
        let (status, answer) = self.post(0, "/v1/regions", body).await;
        assert_eq!(status, 200, "{answer}");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..self.count() {
            if let Some(mut child) = self.processes[node].take() {
                // Nothing is left to do for a process that cannot be killed.
                let _killed = child.kill().and_then(|()| child.wait());
            }
            if std::thread::panicking() {
                let log = self.log(node);
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- global-{} (last lines first)", node + 1);
                eprintln!("{}", tail.join("\n"));
            }
        }
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < within, "not in {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
