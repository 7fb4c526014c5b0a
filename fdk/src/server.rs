//! Serving calls (Fn contract 9.3 and 9.4).

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::environment::{Environment, Frame};
use crate::{Context, Response};

/// As the FDK for Python has it. Platforms allow less; this only bounds what a mistake can cost.
const BODY_BYTES_MAX: usize = 100 << 20;

/// The platform has one connection at a time, and a second one while it replaces the first.
const CONNECTIONS_MAX: usize = 16;

type Wire = http::Response<Full<Bytes>>;

/// Serves until `stop` is done and the calls in flight have their answers.
pub(crate) async fn serve<H, F, R>(
    listener: UnixListener,
    environment: Environment,
    handler: H,
    stop: impl Future<Output = ()>,
) where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    let function = Arc::new(Function {
        environment,
        handler,
    });
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&function), stopped.clone()));
                }
                // Out of file descriptors, most likely: the function holds them and may close some.
                Err(error) => {
                    eprintln!("accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    while connections.join_next().await.is_some() {}
}

struct Function<H> {
    environment: Environment,
    handler: H,
}

async fn converse<H, F, R>(
    stream: UnixStream,
    function: Arc<Function<H>>,
    mut stopped: watch::Receiver<bool>,
) where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    let service = service_fn(move |request| {
        let function = Arc::clone(&function);
        async move { Ok::<_, Infallible>(answer(function, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A connection that breaks concerns the platform, which has seen it.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer<H, F, R>(function: Arc<Function<H>>, request: Request<Incoming>) -> Wire
where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    let mut wire = outcome(function, request).await;
    let headers = wire.headers_mut();
    let version = concat!("tradewind-rust/", env!("CARGO_PKG_VERSION"));
    headers.insert("fn-fdk-version", HeaderValue::from_static(version));
    headers.insert("fn-fdk-runtime", HeaderValue::from_static("rust"));
    wire
}

async fn outcome<H, F, R>(function: Arc<Function<H>>, request: Request<Incoming>) -> Wire
where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    if request.method() != Method::POST || request.uri() != "/call" {
        return refusal(StatusCode::BAD_REQUEST, "expected POST /call");
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            eprintln!("read the request: {error}");
            return refusal(StatusCode::BAD_REQUEST, "the request cannot be read");
        }
    };
    let context = Context::new(Arc::clone(&function.environment.config), parts.headers);
    if let Some(frame) = &function.environment.frame {
        begin_log(frame, &context);
    }
    let by_trigger = context.http().is_some();
    let left = context.deadline().map(until);

    // A task of its own: there a panic ends the call and not the connection.
    let mut running = JoinSet::new();
    running.spawn(async move {
        let response = (function.handler)(context, body).await?;
        crate::Result::<Response>::Ok(response.into())
    });
    let ended = match left {
        Some(left) => tokio::time::timeout(left, running.join_next()).await.ok(),
        None => Some(running.join_next().await),
    };
    let Some(ended) = ended else {
        return refusal(StatusCode::GATEWAY_TIMEOUT, "timed out");
    };
    match ended.expect("one task was spawned") {
        Ok(Ok(response)) => response.into_wire(by_trigger),
        Ok(Err(error)) => {
            eprintln!("the function failed: {error}");
            refusal(StatusCode::BAD_GATEWAY, "the function failed")
        }
        // The panic's message is in the log already, by the panic hook.
        Err(_) => refusal(StatusCode::BAD_GATEWAY, "the function panicked"),
    }
}

fn refusal(status: StatusCode, reason: &'static str) -> Wire {
    let mut wire = http::Response::new(Full::new(Bytes::from_static(reason.as_bytes())));
    *wire.status_mut() = status;
    wire
}

#[expect(
    clippy::disallowed_methods,
    reason = "the platform gives deadlines by the wall clock, and there is no shell around this"
)]
fn until(deadline: SystemTime) -> Duration {
    deadline
        .duration_since(SystemTime::now())
        .unwrap_or_default()
}

/// Tells whoever collects the log whose lines follow (Fn contract 9.6).
fn begin_log(frame: &Frame, context: &Context) {
    let value = context.headers().get(&frame.header);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let line = format!("\n{}={value}\n", frame.name);
    // Nobody may be reading.
    let write = |mut stream: Box<dyn Write>| {
        let _ = stream
            .write_all(line.as_bytes())
            .and_then(|()| stream.flush());
    };
    write(Box::new(io::stdout()));
    write(Box::new(io::stderr()));
}

#[cfg(test)]
mod tests;
