//! One call of an instance, and what its answer means.

mod connection;
mod framing;
mod headers;

use api_types::CallId;
use bytes::Bytes;
use calls_forward::ExchangeError;
use http::{HeaderMap, HeaderValue, StatusCode};

pub use connection::Connection;
pub use framing::{BodyError, whole, without_framing};
pub use headers::CallHeaders;

/// What the function gets.
#[derive(Debug, Clone)]
pub struct CallRequest {
    pub call: CallId,
    /// As Fn contract 6.1 or 7 has them. Fields about the connection are left out; `Host`,
    /// `Fn-Deadline` and the body's framing are set here.
    pub headers: CallHeaders,
    /// `Fn-Deadline`, which is known once the call starts.
    pub deadline: Option<HeaderValue>,
    /// Whole and of bounded size: a call is only started once all of it is here.
    pub body: Bytes,
}

/// What the function answered with status 200. The headers are without hop-by-hop ones and without
/// `Content-Length`.
#[derive(Debug, Clone)]
pub struct CallResponse {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A call that has no response. `Display` is what the caller is told (Fn contract 8).
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The deadline passed first.
    #[error("Timed out")]
    TimedOut,
    /// The FDK said that it did.
    #[error("Timed out")]
    FunctionTimedOut,
    /// The FDK said that the handler failed.
    #[error("function failed")]
    FunctionFailed,
    #[error("invalid function response")]
    InvalidStatus { status: StatusCode },
    /// The connection dropped, by a crash or otherwise, or its other side does not speak HTTP.
    #[error("error receiving function response")]
    Broken {
        #[source]
        source: Breach,
    },
    #[error("function response body too large")]
    BodyTooLarge,
    #[error("function response header too large")]
    HeadersTooLarge,
    /// Nothing of it reached the function, so it may be given to another instance. This one takes
    /// no calls any more.
    #[error("Timed out - server too busy")]
    NotStarted {
        #[source]
        source: Breach,
    },
}

/// What broke a call.
#[derive(Debug, thiserror::Error)]
pub enum Breach {
    #[error("connect to the function")]
    Connect {
        #[source]
        source: std::io::Error,
    },
    #[error("exchange with the function")]
    Exchange {
        #[source]
        source: ExchangeError,
    },
    /// On another machine.
    #[error("exchange with the function's runner")]
    Runner {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("an earlier call was abandoned before its end")]
    GivenUp,
    #[error("its pod was lost")]
    PodLost,
    /// By whoever made the exchange on another machine.
    #[error("{message}")]
    Reported { message: String },
}

impl CallError {
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TimedOut | Self::FunctionTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::FunctionFailed
            | Self::InvalidStatus { .. }
            | Self::Broken { .. }
            | Self::BodyTooLarge
            | Self::HeadersTooLarge => StatusCode::BAD_GATEWAY,
            Self::NotStarted { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the instance must be stopped (Fn contract 8). The contract leaves open what becomes
    /// of one whose body is too large; it may still be writing it, so it goes too.
    #[must_use]
    pub fn instance_lost(&self) -> bool {
        match self {
            Self::FunctionTimedOut | Self::FunctionFailed => false,
            Self::TimedOut
            | Self::InvalidStatus { .. }
            | Self::Broken { .. }
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::NotStarted { .. } => true,
        }
    }
}
