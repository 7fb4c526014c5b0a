//! Region processes and calls of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chaos_tests_machine::Network;
use serde_json::Value;

/// A cold start and a fetch on two busy cores; this only ends a hung test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Of all tests in this process.
static NETWORK: LazyLock<Network> = LazyLock::new(Network::claim);

/// An address that is this process's own. Tests differ in the first number.
pub fn at(third: u8, fourth: u8) -> String {
    NETWORK.address(third, fourth).to_string()
}

/// Killed by its process id when dropped.
pub struct Region {
    child: Child,
    log: PathBuf,
    pub gateway: String,
    pub admin: String,
}

/// A region's settings beyond name and addresses, as TOML.
pub fn start(name: &str, ip: &str, data_dir: &Path, plane: &str, settings: &str) -> Region {
    let log = data_dir.join(format!("{name}.log"));
    let config = configure(name, ip, data_dir, plane, settings);
    let said = std::fs::File::create(&log).unwrap();
    Region {
        gateway: format!("http://{ip}:8080"),
        admin: format!("http://{ip}:8081"),
        child: command(&config).stderr(said).spawn().unwrap(),
        log,
    }
}

/// One that a shell becomes, after it has done this.
pub fn start_by(
    shell: &str,
    name: &str,
    ip: &str,
    data_dir: &Path,
    plane: &str,
    settings: &str,
) -> Region {
    let log = data_dir.join(format!("{name}.log"));
    let config = configure(name, ip, data_dir, plane, settings);
    let said = std::fs::File::create(&log).unwrap();
    let child = Command::new("/bin/sh")
        .args(["-c", &format!("{shell}; exec \"$0\" --config \"$1\"")])
        .arg(env!("CARGO_BIN_EXE_tradewind-region"))
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .spawn()
        .unwrap();
    Region {
        gateway: format!("http://{ip}:8080"),
        admin: format!("http://{ip}:8081"),
        child,
        log,
    }
}

/// A region that is expected to end by itself, with what it says caught.
pub fn spawn(name: &str, ip: &str, data_dir: &Path, plane: &str) -> Child {
    let config = configure(name, ip, data_dir, plane, "");
    command(&config).stderr(Stdio::piped()).spawn().unwrap()
}

fn configure(name: &str, ip: &str, data_dir: &Path, plane: &str, settings: &str) -> PathBuf {
    let pause = if settings.contains("drain_pause_ms") {
        ""
    } else {
        "drain_pause_ms = 100"
    };
    let config = format!(
        "name = \"{name}\"\ndata_dir = \"{}\"\ngateway_listen = \"{ip}:8080\"\n\
         admin_listen = \"{ip}:8081\"\nipv4 = \"{ip}\"\nglobals = [\"{plane}\"]\n\
         zone = \"fn.test\"\n{pause}\n{settings}\n",
        data_dir.join(name).display()
    );
    let file = data_dir.join(format!("{name}-{ip}.toml"));
    std::fs::write(&file, config).unwrap();
    file
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-region"));
    command
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Region {
    /// Waits until the region has applied `revision` and holds every bundle placed in it.
    pub async fn applied(&self, revision: u64) {
        eventually("the revision is applied", async || {
            let status = self.status().await?;
            (status["revision"].as_u64()? >= revision).then_some(())
        })
        .await;
    }

    pub async fn status(&self) -> Option<Value> {
        get(&format!("{}/v1/status", self.admin))
            .await?
            .json()
            .await
            .ok()
    }

    pub async fn instances(&self) -> Vec<Value> {
        let page: Value = get(&format!("{}/v1/instances", self.admin))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        page["items"].as_array().unwrap().clone()
    }

    pub async fn post(&self, path: &str, body: &str) -> HttpAnswer {
        self.send(
            client()
                .post(format!("{}{path}", self.gateway))
                .body(body.to_owned()),
        )
        .await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> HttpAnswer {
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        HttpAnswer {
            status: response.status().as_u16(),
            region: header("tradewind-region"),
            call: header("fn-call-id"),
            pid: header("x-pid"),
            retry_after: header("retry-after"),
            location: header("location"),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// As a frozen machine: the kernel still accepts and acknowledges, the process does nothing.
    pub fn pause(&self) {
        self.signal("-STOP");
        chaos_tests_machine::wait_until_stopped(self.child.id()).unwrap();
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end; returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the region did not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {} said:\n{said}", self.gateway);
        }
    }
}

/// Until when calls of the answering function go on that are told so.
pub struct Until {
    file: PathBuf,
    /// What to call the function with.
    pub body: String,
}

impl Until {
    /// One in this folder that was not used before.
    pub fn new(folder: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = folder.join(format!("until-{number}"));
        let body = format!("until {}", file.display());
        Self { file, body }
    }

    /// Those calls are answered now.
    pub fn now(&self) {
        std::fs::write(&self.file, "").unwrap();
    }
}

#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub region: Option<String>,
    pub call: Option<String>,
    pub pid: Option<String>,
    pub retry_after: Option<String>,
    pub location: Option<String>,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl HttpAnswer {
    pub fn message(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).expect(&self.text);
        body["message"].as_str().unwrap().to_owned()
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}

pub async fn get(url: &str) -> Option<reqwest::Response> {
    client().get(url).send().await.ok()
}

/// Waits until `condition` holds.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
