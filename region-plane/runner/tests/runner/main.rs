//! The runner as its pod has it: real processes, sharing folders instead of volumes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod image;
mod pool;
mod program;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use region_plane_runner::protocol::{
    CALL_ERROR, CALL_PATH, CLAIM, CLAIM_PATH, Claim, Claimed, EVENTS_PATH, Event, Holder, Launch,
    Phase, READY_PATH, RELEASE_PATH, Release, STATE_PATH, State, TIMEOUT_MS, Tenant, Trouble,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Nothing here takes as long unless it is broken.
const LONG: Duration = Duration::from_secs(30);

/// A process that is killed when the test is over, however it ends.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Polls, since there are runtimes here that must go on meanwhile.
    async fn ended(&mut self) -> ExitStatus {
        let poll = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, poll).await.expect("the process lives on")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runner and the folders of its pod.
struct Runner {
    process: Process,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    folders: TempDir,
}

/// An answer, whole.
struct RunnerAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl RunnerAnswer {
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn call_error(&self) -> Option<&str> {
        self.headers.get(CALL_ERROR)?.to_str().ok()
    }

    fn message(&self) -> String {
        self.json::<Trouble>().message
    }
}

impl Runner {
    fn start(kind: &str, settings: &[(&str, &str)]) -> Self {
        let folders = tempfile::tempdir().unwrap();
        for folder in ["s", "c"] {
            std::fs::create_dir(folders.path().join(folder)).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-runner"));
        command
            .env("TRADEWIND_RUNNER_KIND", kind)
            .env("TRADEWIND_RUNNER_LISTEN", "127.0.0.1:0")
            .env("TRADEWIND_RUNNER_SOCKET_DIR", folders.path().join("s"))
            .env("TRADEWIND_RUNNER_CODE_DIR", folders.path().join("c"))
            .envs(settings.iter().copied())
            .stderr(Stdio::piped());
        let mut process = Process::start(&mut command);
        let mut log = BufReader::new(process.0.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(|line| line.unwrap())
            .find_map(|line| {
                eprintln!("{line}");
                Some(line.split_once("address=")?.1.parse().unwrap())
            })
            .expect("it says where it listens");
        // Ends with the process.
        std::thread::spawn(move || {
            log.map_while(Result::ok)
                .for_each(|line| eprintln!("{line}"))
        });
        Self {
            process,
            address,
            client: Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http(),
            folders,
        }
    }

    fn sockets(&self) -> PathBuf {
        self.folders.path().join("s")
    }

    fn code(&self) -> PathBuf {
        self.folders.path().join("c")
    }

    /// The function's container of a pool's pod.
    fn launcher(&self) -> Process {
        Process::start(
            Command::new(env!("CARGO_BIN_EXE_tradewind-runner"))
                .arg("launch")
                .env("TRADEWIND_RUNNER_CODE_DIR", self.code()),
        )
    }

    /// The function's container of an image's pod.
    fn function(&self, program: &Path, environment: &[(&str, &str)]) -> Process {
        let listener = format!("unix:{}/lsnr.sock", self.sockets().display());
        Process::start(
            Command::new(program)
                .env("FN_LISTENER", listener)
                .env("FN_FORMAT", "http-stream")
                .envs(environment.iter().copied()),
        )
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri)
    }

    async fn stream(&self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        timeout(LONG, self.client.request(request))
            .await
            .expect("an answer in time")
            .unwrap()
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> RunnerAnswer {
        let (head, body) = self.stream(request).await.into_parts();
        let body = timeout(LONG, body.collect()).await.expect("all in time");
        RunnerAnswer {
            status: head.status,
            headers: head.headers,
            body: body.unwrap().to_bytes(),
        }
    }

    async fn get(&self, path: &str) -> RunnerAnswer {
        self.ask(self.request("GET", path).body(Full::default()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> RunnerAnswer {
        let body = serde_json::to_vec(body).unwrap();
        self.ask(self.request("POST", path).body(Full::from(body)).unwrap())
            .await
    }

    async fn state(&self) -> State {
        self.get(STATE_PATH).await.json()
    }

    async fn claim(&self, claim: &Claim) -> Claimed {
        let answer = self.post(CLAIM_PATH, claim).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    /// Claims as soon as it can be had.
    async fn claim_soon(&self, claim: &Claim) -> Claimed {
        let claiming = async {
            loop {
                let answer = self.post(CLAIM_PATH, claim).await;
                if answer.status == StatusCode::OK {
                    return answer.json();
                }
                assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text());
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, claiming).await.expect("the pod is free")
    }

    async fn release(&self, claim: &str) {
        let claim = claim.to_owned();
        let answer = self.post(RELEASE_PATH, &Release { claim }).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }

    async fn ready_within(&self, claim: &str, timeout_ms: u64) -> RunnerAnswer {
        self.get(&format!(
            "{READY_PATH}?claim={claim}&timeout_ms={timeout_ms}"
        ))
        .await
    }

    async fn ready(&self, claim: &str) {
        let answer = self.ready_within(claim, 30_000).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.json::<State>().phase, Phase::Ready);
    }

    fn call_request(&self, claim: &str, behave: &str, timeout_ms: u64) -> http::request::Builder {
        self.request("POST", CALL_PATH)
            .header(CLAIM, claim)
            .header(TIMEOUT_MS, timeout_ms)
            .header("fn-call-id", "CALL")
            .header("behave", behave)
    }

    async fn call_within(&self, claim: &str, behave: &str, timeout_ms: u64) -> RunnerAnswer {
        let request = self.call_request(claim, behave, timeout_ms);
        self.ask(request.body(Full::from("ping")).unwrap()).await
    }

    async fn call(&self, claim: &str, behave: &str) -> RunnerAnswer {
        self.call_within(claim, behave, 30_000).await
    }

    async fn events(&self, claim: &str) -> Events {
        let path = format!("{EVENTS_PATH}?claim={claim}");
        let request = self.request("GET", &path).body(Full::default()).unwrap();
        let response = self.stream(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events {
            body: response.into_body(),
            buffered: Vec::new(),
        }
    }

    /// Begins a request over HTTP/1.1 and sends no more of it than this. Blocking.
    fn begin(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// What is answered to this much of a request, over HTTP/1.1. Blocking.
    fn raw(&self, request: &str) -> String {
        let mut stream = self.begin(request);
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while !answer.ends_with(b"}") && !answer.ends_with(b"\n") {
            match stream.read(&mut chunk).unwrap() {
                0 => break,
                read => answer.extend_from_slice(&chunk[..read]),
            }
        }
        String::from_utf8(answer).unwrap()
    }

    /// Polls until the state is as wanted, since without a claim nothing announces it.
    async fn until(&self, wanted: impl Fn(&State) -> bool) -> State {
        let poll = async {
            loop {
                let state = self.state().await;
                if wanted(&state) {
                    return state;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, poll).await.expect("the state comes")
    }
}

/// An event stream that is open.
struct Events {
    body: Incoming,
    buffered: Vec<u8>,
}

impl Events {
    /// `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffered.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = timeout(LONG, self.body.frame()).await.expect("in time")?;
            self.buffered
                .extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Reads until there is one like this.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn until_phase(&mut self, wanted: Phase) {
        self.until(|event| matches!(event, Event::Phase { phase, .. } if *phase == wanted))
            .await;
    }
}

fn claim(claim: &str, function: &str, launch: Option<Launch>) -> Claim {
    Claim {
        pod: None,
        holder: Holder {
            claim: claim.to_owned(),
            gateway: "test".to_owned(),
            boot: 1,
            tenant: Tenant {
                function: function.to_owned(),
                settings: "000000000000002a".to_owned(),
            },
        },
        launch,
    }
}

/// Of the same gateway, started again.
fn claim_of_next_boot(name: &str, function: &str, launch: Option<Launch>) -> Claim {
    let mut claim = claim(name, function, launch);
    claim.holder.boot += 1;
    claim
}

/// Of the target folder that this test was built into.
fn built(path: &str, how: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join(path);
    assert!(
        built.exists(),
        "{} is missing: build it by `{how}`",
        built.display()
    );
    built
}

/// Does what the header `behave` asks for.
fn fake_function() -> PathBuf {
    built(
        "examples/fake_function",
        "cargo build -p region-plane-runtime --examples",
    )
}

fn hello_rust() -> PathBuf {
    built("hello-rust", "cargo build -p hello-rust")
}
