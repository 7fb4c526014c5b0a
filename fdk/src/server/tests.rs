#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::HeaderName;
use hyper::client::conn::http1::{SendRequest, handshake};
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::listener::listen;

/// Nothing here takes as long unless it is broken.
const LONG: Duration = Duration::from_secs(20);

/// A function that runs until it is told to stop.
struct Running {
    directory: TempDir,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Running {
    /// A function that does what the header `behave` says.
    fn start() -> Self {
        Self::start_with(behave)
    }

    fn start_with<F>(handler: impl Fn(Context, Bytes) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = crate::Result> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("lsnr.sock");
        let variables = [
            ("FN_FORMAT", "http-stream".to_owned()),
            ("FN_LISTENER", format!("unix:{}", link.display())),
            ("COLOUR", "red".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::from_variables(variables.into_iter()).unwrap();
        let listener = listen(&environment.socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            serve(listener, environment, handler, async {
                drop(stopped.await)
            })
            .await;
        });
        Self {
            directory,
            stop,
            tasks,
        }
    }

    fn link(&self) -> PathBuf {
        self.directory.path().join("lsnr.sock")
    }

    async fn connect(&mut self) -> SendRequest<Full<Bytes>> {
        let stream = UnixStream::connect(self.link()).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async { drop(connection.await) });
        sender
    }
}

async fn behave(context: Context, body: Bytes) -> crate::Result {
    Ok(match context.header("behave").unwrap_or_default() {
        "error" => return Err("as asked".into()),
        "panic" => panic!("as asked"),
        "hang" => std::future::pending().await,
        "refuse" => Response::from("no").status(StatusCode::FORBIDDEN),
        "colour" => context.config()["COLOUR"].clone().into(),
        _ => body.into(),
    })
}

fn request(headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"ping")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/call");
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

/// Status, headers and body.
async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> (StatusCode, http::HeaderMap, Bytes) {
    connection.ready().await.unwrap();
    let response = connection.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, body)
}

#[tokio::test]
async fn one_connection_serves_call_after_call_whatever_becomes_of_them() {
    let mut running = Running::start();
    let mut connection = running.connect().await;
    let past = ("fn-deadline", "2001-01-01T00:00:00Z");
    let future = ("fn-deadline", "2099-01-01T00:00:00Z");
    for (headers, status, answer) in [
        (vec![], 200, Some("ping")),
        (vec![("behave", "error")], 502, None),
        (vec![("behave", "panic")], 502, None),
        (vec![("behave", "hang"), past], 504, None),
        (vec![("behave", "colour"), future], 200, Some("red")),
        // Whoever invokes a function has an answer, whatever it says.
        (vec![("behave", "refuse")], 200, Some("no")),
    ] {
        let (got, all, body) = send(&mut connection, request(&headers)).await;
        assert_eq!(got, status, "{headers:?}");
        assert!(
            answer.is_none_or(|answer| body == answer),
            "{headers:?}: {body:?}"
        );
        assert_eq!(all["fn-fdk-runtime"], "rust");
        assert!(
            all["fn-fdk-version"]
                .to_str()
                .unwrap()
                .starts_with("tradewind-rust/")
        );
    }
}

#[tokio::test]
async fn a_triggers_client_gets_the_functions_status() {
    let mut running = Running::start();
    let mut connection = running.connect().await;
    let asked = request(&[("fn-intent", "httprequest"), ("behave", "refuse")]);
    let (status, headers, _) = send(&mut connection, asked).await;
    assert_eq!(status, 200);
    assert_eq!(headers["fn-http-status"], "403");
}

#[tokio::test]
async fn anything_but_a_call_is_refused() {
    let mut running = Running::start();
    let mut connection = running.connect().await;
    for (method, uri) in [
        (Method::GET, "/call"),
        (Method::POST, "/"),
        (Method::POST, "/call?q"),
    ] {
        let mut asked = request(&[]);
        *asked.method_mut() = method;
        *asked.uri_mut() = uri.parse().unwrap();
        let (status, ..) = send(&mut connection, asked).await;
        assert_eq!(status, 400, "{uri}");
    }
}

#[tokio::test]
async fn told_to_stop_it_finishes_the_call_in_flight_and_ends() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, released) = (Arc::clone(&begun), Arc::clone(&release));
    let mut running = Running::start_with(move |_, _| {
        let (begins, released) = (Arc::clone(&begins), Arc::clone(&released));
        async move {
            begins.notify_one();
            released.notified().await;
            Ok("finished".into())
        }
    });
    let mut connection = running.connect().await;
    let in_flight = connection.send_request(request(&[]));
    let Running {
        stop,
        mut tasks,
        directory,
    } = running;
    let socket = directory.path().join("lsnr.sock");
    let stopping = async {
        begun.notified().await;
        stop.send(()).unwrap();
        // It has stopped listening, so it knows.
        while UnixStream::connect(&socket).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.notify_one();
    };
    let (response, ()) = tokio::join!(in_flight, stopping);
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "finished");
    drop(connection);
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(LONG, ended).await.unwrap();
}

#[tokio::test]
async fn the_ready_signal_is_a_relative_link_to_an_accessible_socket() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("lsnr.sock");
    // Left by a run that was killed.
    std::fs::write(&link, "").unwrap();
    std::fs::write(directory.path().join("phonylsnr.sock"), "").unwrap();
    let _listener = listen(&link).unwrap();
    assert_eq!(
        std::fs::read_link(&link).unwrap(),
        Path::new("phonylsnr.sock")
    );
    assert_eq!(
        std::fs::metadata(&link).unwrap().permissions().mode() & 0o777,
        0o666
    );
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let error = listen(Path::new("/nonexistent/lsnr.sock")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}
