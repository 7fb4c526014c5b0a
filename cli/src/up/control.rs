//! How another `tradewind up` talks to the one that runs: a line of JSON each way over `up.sock`.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::ready::Ready;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Start a part again.
    Start(String),
    /// End the federation; answered before it has ended.
    Stop,
    Status,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Started { pid: u32 },
    Stopping { pid: u32 },
    Status { ready: bool, parts: Ready },
    Error(String),
}

/// A request is a short line; anything longer is no request.
const LINE_BYTES_MAX: u64 = 4096;

/// The other side is a program that sends its line at once.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

const SOCKET_NAME: &str = "up.sock";

/// The path of a socket may have 107 bytes, a folder's more, so the folder is named by its
/// descriptor. Valid while `folder` is open.
fn short_path(folder: &File) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(SOCKET_NAME)
}

/// Listens in `dir`. The caller holds the folder's lock, so a socket that is there is a dead one's.
pub fn listen(dir: &Path) -> anyhow::Result<UnixListener> {
    let context = || format!("listen on {}", dir.join(SOCKET_NAME).display());
    match fs::remove_file(dir.join(SOCKET_NAME)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let folder = File::open(dir).with_context(context)?;
    UnixListener::bind(short_path(&folder)).with_context(context)
}

pub fn remove(dir: &Path) {
    // The next start removes it if this cannot.
    let _left_behind = fs::remove_file(dir.join(SOCKET_NAME));
}

/// Asks the `up` that runs in `dir`.
pub async fn ask(dir: &Path, request: &Request, patience: Duration) -> anyhow::Result<Reply> {
    let exchange = async {
        let folder = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
        let mut stream = UnixStream::connect(short_path(&folder))
            .await
            .with_context(|| {
                format!(
                    "connect to {}; `tradewind up` must be running there",
                    dir.join(SOCKET_NAME).display()
                )
            })?;
        send(&mut stream, request).await?;
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .await
            .context("read the answer")?;
        if line.is_empty() {
            bail!("`tradewind up` closed the connection without an answer");
        }
        serde_json::from_str(&line).context("understand the answer of `tradewind up`")
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(reply) => reply,
        Err(_) => bail!("`tradewind up` did not answer within {patience:?}"),
    }
}

/// Reads the request of a connection.
pub async fn receive(stream: &mut UnixStream) -> anyhow::Result<Request> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LINE_BYTES_MAX));
    tokio::time::timeout(REQUEST_PATIENCE, reader.read_line(&mut line))
        .await
        .context("no request in time")?
        .context("read the request")?;
    serde_json::from_str(&line).with_context(|| format!("not a request: {}", line.trim()))
}

pub async fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message).expect("plain data");
    line.push(b'\n');
    stream.write_all(&line).await.context("send")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn requests_travel_even_from_a_folder_with_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let error = ask(&deep, &Request::Status, REQUEST_PATIENCE)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("must be running"), "{error}");

        let listener = listen(&deep).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = receive(&mut stream).await.unwrap();
            send(&mut stream, &Reply::Started { pid: 7 }).await.unwrap();
            request
        };
        let request = Request::Start("fra".to_owned());
        let (served, reply) = tokio::join!(serve, ask(&deep, &request, REQUEST_PATIENCE));
        assert_eq!(served, request);
        assert_eq!(reply.unwrap(), Reply::Started { pid: 7 });
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"start":"fra"}"#
        );
        assert_eq!(serde_json::to_string(&Request::Stop).unwrap(), r#""stop""#);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path()).unwrap();
        let client = async {
            let folder = File::open(dir.path()).unwrap();
            let mut stream = UnixStream::connect(short_path(&folder)).await.unwrap();
            stream.write_all(b"{\"launch\":1}\n").await.unwrap();
            stream
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            receive(&mut stream).await
        };
        let (_stream, request) = tokio::join!(client, serve);
        assert!(request.unwrap_err().to_string().contains("not a request"));
    }
}
