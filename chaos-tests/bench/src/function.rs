//! A function's program started by hand, as a region would start it but with nothing between.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// Longer than any example takes to start on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How a program is started by hand.
pub struct Program {
    pub command: Vec<String>,
    pub folder: PathBuf,
    pub python_path: Option<PathBuf>,
}

/// The program of a bundle as a region unpacked it, from its manifest.
pub fn unpacked(bundle: &Path) -> anyhow::Result<Program> {
    let manifest =
        std::fs::read_to_string(bundle.join("manifest.json")).context("read the manifest")?;
    let manifest: serde_json::Value =
        serde_json::from_str(&manifest).context("parse the manifest")?;
    let words = ["entrypoint", "cmd"]
        .into_iter()
        .filter_map(|part| manifest[part].as_array())
        .flatten();
    let here = |word: &str| {
        let inside = [("/function", "function"), ("/python", "python")]
            .into_iter()
            .find_map(|(mount, folder)| {
                word.strip_prefix(mount)
                    .map(|rest| format!("{}{rest}", bundle.join(folder).display()))
            });
        inside.unwrap_or_else(|| word.to_owned())
    };
    let command: Vec<String> = words.filter_map(|word| word.as_str()).map(here).collect();
    ensure!(!command.is_empty(), "the manifest names no program");
    Ok(Program {
        command,
        folder: bundle.join("function"),
        python_path: Some(bundle.join("python")),
    })
}

pub struct ByHand {
    child: Child,
    sockets: TempDir,
}

impl ByHand {
    /// Starts the program and waits for the socket's symlink, which is the FDK's ready signal.
    pub async fn start(program: &Program) -> anyhow::Result<Self> {
        let sockets = tempfile::Builder::new()
            .prefix("tw")
            .tempdir_in("/tmp")
            .context("make a socket folder")?;
        let (name, args) = program.command.split_first().context("a program")?;
        let mut command = Command::new(name);
        command
            .args(args)
            .current_dir(&program.folder)
            // As the region does: what is set here may slow a runtime's start.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("FN_FORMAT", "http-stream")
            .env(
                "FN_LISTENER",
                format!("unix:{}", sockets.path().join("lsnr.sock").display()),
            )
            .envs([
                ("FN_APP_ID", "a"),
                ("FN_FN_ID", "f"),
                ("FN_MEMORY", "128"),
                ("FN_TYPE", "sync"),
            ])
            .envs(
                program
                    .python_path
                    .as_ref()
                    .map(|path| ("PYTHONPATH", path)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut by_hand = Self {
            child: command.spawn().context("start the program")?,
            sockets,
        };
        let start = Instant::now();
        while !by_hand.socket().exists() {
            ensure!(
                start.elapsed() < START_PATIENCE,
                "the program did not get ready"
            );
            ensure!(
                by_hand.child.try_wait()?.is_none(),
                "the program ended before it was ready"
            );
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok(by_hand)
    }

    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("lsnr.sock")
    }

    pub async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = UnixStream::connect(self.socket())
            .await
            .context("connect to the function")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("handshake")?;
        drive(connection);
        Ok(sender)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the connection's task ends with its sender"
)]
pub fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
    tokio::spawn(async move {
        // An error here also shows at the sender, which reports it.
        let _ = connection.await;
    });
}

/// The request an FDK is sent for a call.
pub fn call() -> anyhow::Result<Request<Full<Bytes>>> {
    Request::post("/call")
        .header("Host", "localhost")
        .header("Content-Type", "text/plain")
        .header("Fn-Call-Id", "01J00000000000000000000000")
        .header("Fn-Deadline", "2100-01-01T00:00:00Z")
        .body(Full::new(Bytes::new()))
        .context("build a request")
}

/// Sends a request and reads the whole answer, which must be a 200.
pub async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<()> {
    sender.ready().await.context("wait for the connection")?;
    let response = sender.send_request(request).await.context("send")?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("read")?
        .to_bytes();
    ensure!(
        status.is_success(),
        "{status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}
