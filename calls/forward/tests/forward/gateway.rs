//! Gateways that do what they are told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_wire::call_headers::ALIVE_PATH;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a gateway does on a connection, in order. Without a next step it waits.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Reads a head.
    Head,
    /// Reads a head, says 100 and reads this body.
    Continue(&'static str),
    Say(&'static str),
    Work(Duration),
    /// Its kernel accepts what comes; it says nothing any more, on any connection.
    Silence,
    Close,
}

/// Stopped with the tasks that it was started in.
pub struct Scripted {
    pub address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    heard: Mutex<String>,
    connections: AtomicUsize,
    asked: AtomicUsize,
}

impl Scripted {
    pub async fn start(tasks: &mut JoinSet<()>, steps: impl IntoIterator<Item = Step>) -> Self {
        let steps: Vec<Step> = steps.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, steps.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    /// What came of calls, on all connections.
    pub fn heard(&self) -> String {
        self.state.heard.lock().unwrap().clone()
    }

    /// Connections that calls came by.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How often it was asked whether it lives.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }
}

/// An address that refuses connections: the port was ours and is closed.
pub async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn serve(mut stream: TcpStream, steps: Vec<Step>, state: Arc<State>) {
    let is_silent = steps.iter().any(|step| matches!(step, Step::Silence));
    let mut counted = false;
    for step in steps {
        match step {
            Step::Head | Step::Continue(_) => {
                let Some(head) = head(&mut stream, is_silent, &state).await else {
                    return;
                };
                if !std::mem::replace(&mut counted, true) {
                    state.connections.fetch_add(1, Ordering::Relaxed);
                }
                state.heard.lock().unwrap().push_str(&head);
                if let Step::Continue(body) = step {
                    let length = match head.contains("Transfer-Encoding: chunked") {
                        true => "0\r\n\r\n".len(),
                        false => body.len(),
                    };
                    stream
                        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                        .await
                        .unwrap();
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).await.unwrap();
                    let body = String::from_utf8(body).unwrap();
                    state.heard.lock().unwrap().push_str(&body);
                }
            }
            Step::Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Step::Work(time) => tokio::time::sleep(time).await,
            Step::Silence => {
                let mut bytes = [0; 1024];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes)
                        .trim_matches('\0')
                        .to_owned();
                    state.heard.lock().unwrap().push_str(&text);
                    bytes.fill(0);
                }
                return;
            }
            Step::Close => return,
        }
    }
    std::future::pending::<()>().await;
}

/// The next call's head. A gateway that is not silent says that it lives when it is asked.
async fn head(stream: &mut TcpStream, is_silent: bool, state: &State) -> Option<String> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with(&format!("GET {ALIVE_PATH} ")) {
            return Some(head);
        }
        if is_silent {
            std::future::pending::<()>().await;
        }
        state.asked.fetch_add(1, Ordering::Relaxed);
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
    }
}
