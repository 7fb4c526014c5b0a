//! A server process, a global node that offers whatever view it is told to, and a DNS client.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api_wire::planes::{RegionBody, VerdictBody};
use api_wire::view::{Envelope, SteeringBody, ViewId};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Nothing here takes seconds; this only ends a hung test.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const ZONE: &str = "fn.test";

/// Whatever a test changes in a region starts from this.
pub fn region(name: &str, ipv4: &str, latitude: f64, longitude: f64) -> RegionBody {
    RegionBody {
        name: name.to_owned(),
        ipv4: Some(ipv4.parse().unwrap()),
        ipv6: None,
        gateway: format!("{ipv4}:8080"),
        admin: format!("{ipv4}:8081"),
        latitude,
        longitude,
        labels: [("geo".to_owned(), "x".to_owned())].into(),
        drained: false,
        verdict: VerdictBody::Healthy,
        price_ms: 0,
        registered_at: "2026-01-02T15:04:05.678Z".to_owned(),
        tradewind_revision: 1,
    }
}

pub fn iad() -> RegionBody {
    region("iad", "192.0.2.1", 38.95, -77.45)
}

pub fn fra() -> RegionBody {
    region("fra", "192.0.2.2", 50.03, 8.57)
}

pub fn nrt() -> RegionBody {
    region("nrt", "192.0.2.3", 35.76, 140.39)
}

pub fn body(regions: Vec<RegionBody>) -> SteeringBody {
    SteeringBody {
        zone: ZONE.to_owned(),
        gateway_port: 8080,
        map_sha256: String::new(),
        regions,
        placed_apps: Vec::new(),
        placed_fns: Vec::new(),
    }
}

pub fn seal(revision: u64, body: &SteeringBody) -> Envelope {
    let id = ViewId {
        cluster_id: "test".to_owned(),
        epoch: 1,
        revision,
        count: body.regions.len() as u64,
        sha256: String::new(),
    };
    Envelope::seal(id, body)
}

/// A global node: offers its view to those whose view is older, or, when it insists, to everybody.
pub struct Global {
    pub url: String,
    offered: watch::Sender<Offered>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone, Default)]
struct Offered {
    envelope: Option<Envelope>,
    insist: bool,
}

impl Global {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (offered, seen) = watch::channel(Offered::default());
        let router = Router::new()
            .route("/v1/views/steering", get(steering))
            .with_state(seen);
        let guard = runtime.enter();
        let listener = daemon::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(guard);
        // The runtime owns it and ends it when it is dropped.
        let _serving = runtime.handle().spawn(daemon::serve(
            listener,
            router,
            CancellationToken::new(),
            daemon::HttpLimits::default(),
        ));
        Self {
            url,
            offered,
            _runtime: runtime,
        }
    }

    pub fn offer(&self, envelope: Envelope) {
        self.offered.send_replace(Offered {
            envelope: Some(envelope),
            insist: false,
        });
    }

    /// Offers it to everybody, as a node does that has lost its mind.
    pub fn insist(&self, envelope: Envelope) {
        self.offered.send_replace(Offered {
            envelope: Some(envelope),
            insist: true,
        });
    }
}

async fn steering(
    State(mut seen): State<watch::Receiver<Offered>>,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Response {
    let number = |key: &str| query[key].parse::<u64>().unwrap();
    let after = (number("epoch"), number("after"));
    let newer = seen.wait_for(|offered| {
        offered.envelope.as_ref().is_some_and(|envelope| {
            offered.insist || (envelope.id.epoch, envelope.id.revision) > after
        })
    });
    match tokio::time::timeout(Duration::from_millis(number("wait_ms")), newer).await {
        Ok(Ok(offered)) => Json(offered.envelope.clone()).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::NOT_MODIFIED.into_response(),
    }
}

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    pub dns: SocketAddr,
    pub http: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    reading: Option<JoinHandle<()>>,
}

/// The configuration of a server on `ip`, which no other test uses.
pub fn config(ip: &str, dir: &Path, globals: &[&str]) -> String {
    format!(
        r#"
        name = "dns-test"
        data_dir = {dir:?}
        listen = ["{ip}:0"]
        http_listen = "{ip}:0"
        globals = {globals:?}
        zone = "{ZONE}"
        ttl_secs = 5
        ttl_all_down_secs = 2
        [[nameservers]]
        name = "ns1.{ZONE}"
        ipv4 = "{ip}"
        [[nameservers]]
        name = "ns2.{ZONE}"
        ipv4 = "192.0.2.53"
        ipv6 = "2001:db8::53"
        "#,
        dir = dir.display().to_string(),
    )
}

pub fn command(dir: &Path, config: &str) -> Command {
    let file = dir.join("dns.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-dns"));
    command
        .arg("--config")
        .arg(file)
        .env("TRADEWIND_LOG", "info")
        .env("TRADEWIND_API", "http://not.a.key:1")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Server {
    /// Starts and waits until it listens.
    pub fn start(ip: &str, dir: &Path, globals: &[&str]) -> Self {
        Self::start_by(command(dir, &config(ip, dir, globals)))
    }

    pub fn start_by(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        let kept = Arc::clone(&lines);
        let reading = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("answering") {
                    let _test_gone = tell.send(line.clone());
                }
                kept.lock().unwrap().push(line);
            }
        });
        let mut server = Self {
            child,
            dns: "0.0.0.0:0".parse().unwrap(),
            http: "0.0.0.0:0".parse().unwrap(),
            lines,
            reading: Some(reading),
        };
        let Ok(line) = told.recv_timeout(PATIENCE) else {
            panic!("it does not listen: {:?}", server.log());
        };
        let after = |key: &str, end: char| {
            let rest = line.split_once(key).unwrap().1;
            rest.split(end).next().unwrap().parse().unwrap()
        };
        server.dns = after("listen=[", ']');
        server.http = after("http=", ' ');
        server
    }

    /// With a view of these three regions, each near its own clients.
    pub fn with_regions(ip: &str, dir: &TempDir, global: &Global) -> Self {
        global.offer(seal(1, &body(vec![iad(), fra(), nrt()])));
        let server = Self::start(ip, dir.path(), &[&global.url]);
        server.until_revision(1);
        server
    }

    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let (head, body) = self.ask_http("GET", path);
        (head[9..12].parse().unwrap(), body)
    }

    /// The head and the body of an answer.
    pub fn ask_http(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/v1/status").1).unwrap()
    }

    /// Waits for a state of the server, told by its status.
    pub fn until(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not {what}: {status}\n{:?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn until_revision(&self, revision: u64) {
        self.until(&format!("at revision {revision}"), |status| {
            status["view"]["revision"] == revision
        });
    }

    /// Sends bytes over UDP; the answer's bytes.
    pub fn ask_bytes(&self, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((self.dns.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(packet, self.dns).unwrap();
        let mut answer = vec![0; 65_535];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(
            from, self.dns,
            "answers come from the address that was asked"
        );
        answer.truncate(length);
        answer
    }

    pub fn ask(&self, query: &Message) -> Message {
        let answer = Message::from_vec(&self.ask_bytes(&query.to_vec().unwrap())).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(!answer.metadata.recursion_available);
        answer
    }

    /// The addresses of a name for a client.
    pub fn addresses(&self, name: &str, client: &str) -> Vec<IpAddr> {
        let answer = self.ask(&with_subnet(name, RecordType::A, client));
        ips(&answer)
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop. How it ended, and all that it logged.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{:?}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        self.reading.take().unwrap().join().unwrap();
        (status, self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, in tests that end it.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Question::query(name, kind));
    message
}

pub fn with_edns(name: &str, kind: RecordType) -> Message {
    let mut message = query(name, kind);
    message.set_edns(Edns::new());
    message
}

/// A query with a client subnet, as `192.0.2.0/24`.
pub fn with_subnet(name: &str, kind: RecordType, subnet: &str) -> Message {
    let (ip, prefix) = subnet.split_once('/').unwrap();
    let prefix: u8 = prefix.parse().unwrap();
    let (family, octets) = match ip.parse().unwrap() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut option = vec![0, family, prefix, 0];
    option.extend(&octets[..usize::from(prefix.div_ceil(8))]);
    with_option(name, kind, 8, option)
}

pub fn with_option(name: &str, kind: RecordType, code: u16, value: Vec<u8>) -> Message {
    let mut message = with_edns(name, kind);
    let edns = message.edns.as_mut().unwrap();
    edns.options_mut().insert(EdnsOption::Unknown(code, value));
    message
}

pub fn ips(answer: &Message) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = answer
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            other => panic!("no address: {other:?}"),
        })
        .collect();
    ips.sort();
    ips
}

/// (source, scope) of the client subnet in an answer.
pub fn subnet(answer: &Message) -> Option<(u8, u8)> {
    match answer.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some((subnet.source_prefix(), subnet.scope_prefix())),
        other => panic!("no subnet: {other:?}"),
    }
}
