//! Functions in Rust: write an async function, get a program that Tradewind (or Fn) can run.
//!
//! ```no_run
//! use fdk::{Bytes, Context};
//!
//! async fn shout(_: Context, body: Bytes) -> fdk::Result<String> {
//!     Ok(std::str::from_utf8(&body)?.to_uppercase())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     fdk::handle(shout)
//! }
//! ```
//!
//! The program serves Fn's `http-stream` contract (Fn contract 9): HTTP over the Unix socket that the
//! environment names, one call at a time. An error or a panic of the function fails its call and
//! nothing else. A function called through an HTTP trigger sees the request in [`Context::http`] and
//! chooses status and headers of the answer by [`Response`]:
//!
//! ```
//! use fdk::{Bytes, Context, Response, StatusCode};
//!
//! async fn teapot(context: Context, _: Bytes) -> fdk::Result {
//!     let Some(request) = context.http() else {
//!         return Ok(Response::from("called directly"));
//!     };
//!     if request.method != "BREW" {
//!         return Ok(Response::from("").status(StatusCode::METHOD_NOT_ALLOWED));
//!     }
//!     Ok(Response::json(r#"{"short":true,"stout":true}"#).status(StatusCode::IM_A_TEAPOT))
//! }
//! ```

mod context;
mod deadline;
mod environment;
mod listener;
mod response;
mod server;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

pub use bytes::Bytes;
pub use context::{Context, HttpRequest};
pub use environment::EnvironmentError;
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use listener::ListenError;
pub use response::Response;

/// What a function returns. Any error will do; the caller learns only that there was one, its text
/// goes to the function's log.
pub type Result<T = Response> =
    std::result::Result<T, Box<dyn std::error::Error + Send + Sync + 'static>>;

/// Why a function does not come up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("this program is a function, to be started by a function platform")]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Serves the function until the program is told to stop: all that `main` has to do. Prints why if
/// it does not come up.
pub fn handle<H, F, R>(handler: H) -> ExitCode
where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    let built = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = built
        .map_err(|source| RunError::System {
            what: "start the runtime",
            source,
        })
        .and_then(|runtime| runtime.block_on(run(handler)));
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    // As `api_types::chain` does it, which is not beneath what functions link.
    let mut reason: &dyn std::error::Error = &error;
    eprint!("{reason}");
    while let Some(source) = reason.source() {
        reason = source;
        eprint!(": {reason}");
    }
    eprintln!();
    ExitCode::FAILURE
}

/// Serves the function until SIGTERM or SIGINT; the call in flight is finished first.
///
/// # Errors
/// If the environment is not that of a function, or its socket cannot be made.
pub async fn run<H, F, R>(handler: H) -> std::result::Result<(), RunError>
where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
    R: Into<Response> + 'static,
{
    let environment = environment::Environment::from_variables(std::env::vars_os())?;
    let watch = |kind| {
        signal(kind).map_err(|source| RunError::System {
            what: "watch for signals",
            source,
        })
    };
    let (mut terminate, mut interrupt) = (
        watch(SignalKind::terminate())?,
        watch(SignalKind::interrupt())?,
    );
    // Last: from here on calls come.
    let listener = listener::listen(&environment.socket)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::serve(listener, environment, handler, stop).await;
    Ok(())
}
