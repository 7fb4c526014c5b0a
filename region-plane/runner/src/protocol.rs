//! What a gateway and a pod's runner say to each other.
//!
//! HTTP/2 in clear text with prior knowledge (HTTP/1.1 is answered as well), on
//! [`LISTEN_PORT`]. Bodies are JSON unless said otherwise; what is refused is answered with
//! [`Trouble`]. Every connection is the gateway's: a runner opens none.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/state` | 200 [`State`] |
//! | `POST /v1/claim` [`Claim`] | 200 [`Claimed`]; 409 [`Conflict`]; 400; 408 it does not come; 503 there are too many, or the runner is stopping |
//! | `PUT /v1/bundle/{digest}?claim=ID`, packed bundle | 204; 422 no pod could run it; 400 it is another than the digest says; 409; 413; 500 this pod cannot |
//! | `GET /v1/ready?claim=ID&timeout_ms=N` | 200 [`State`]; 504 it takes too long; 502 it failed; 409; 503 the runner is stopping |
//! | `POST /v1/call`, headers and body of the call | 200 the function's answer; else [`CALL_ERROR`] |
//! | `GET /v1/events?claim=ID` | 200, a stream of lines, each an [`Event`]; 409 |
//! | `POST /v1/release` [`Release`] | 204, also if the claim is none any more |
//! | `GET /healthz`, `GET /metrics` | 200 text |
//!
//! What no gateway sends is answered 400 or 413, a call too, and then without [`CALL_ERROR`].
//!
//! A claim is held as long as a request that names it is open; [`crate::settings::Settings::lease`]
//! after the last one ended it is dropped, since its gateway has died. So a gateway opens
//! [`EVENTS_PATH`] first and keeps it open.
//!
//! A gateway that was started again need not wait for that: a claim by the same gateway with a later
//! [`boot`](Holder::boot) says that its predecessor is no more, and ends the predecessor's claim
//! there and then. Should that process be alive after all, it is answered `not_claimed`. A call of
//! its that is inside the function goes on and is answered to whoever made it; until it has ended
//! the pod can be claimed by nobody, so that there is one call at a time: a claim waits for it a
//! little, then it is refused (409) and the gateway may try another pod and come again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use region_plane_runtime::CallError;
use serde::{Deserialize, Serialize};

/// Where a runner listens unless told otherwise.
pub const LISTEN_PORT: u16 = 8090;

pub const STATE_PATH: &str = "/v1/state";
pub const CLAIM_PATH: &str = "/v1/claim";
pub const READY_PATH: &str = "/v1/ready";
pub const CALL_PATH: &str = "/v1/call";
pub const EVENTS_PATH: &str = "/v1/events";
pub const RELEASE_PATH: &str = "/v1/release";

/// Followed by the digest, 64 hexadecimal digits.
pub const BUNDLE_PATH: &str = "/v1/bundle/";

/// Of a call: the claim it is made under.
pub const CLAIM: HeaderName = HeaderName::from_static("tradewind-claim");

/// Of a call: how long it may take, in milliseconds. The clock starts when the runner has read the
/// request's head.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("tradewind-timeout-ms");

/// Of a call: how many bytes the body of its answer may have. A gateway of an earlier version does not
/// say.
pub const RESPONSE_BYTES_MAX: HeaderName = HeaderName::from_static("tradewind-response-bytes-max");

/// Of a bundle: what it was built for, as its manifest says, so that one for other machines is refused
/// before it is sent.
pub const PLATFORM: HeaderName = HeaderName::from_static("tradewind-platform");

/// Of a call's answer that is none of the function's: the [`CallFailure`].
pub const CALL_ERROR: HeaderName = HeaderName::from_static("tradewind-call-error");

/// Bytes a call's body may have, and its answer's: both are held whole, and no gateway has larger ones.
pub const CALL_BODY_BYTES_MAX: usize = 64 << 20;

/// Bytes a claim may have: more environment than a kernel takes.
pub const CLAIM_BYTES_MAX: usize = 4 << 20;

/// An event stream has a line at least this often, so that both sides notice a dead connection.
pub const EVENTS_EVERY: Duration = Duration::from_secs(5);

/// Where a bundle is put, in [`BUNDLE_PATH`].
#[must_use]
pub fn bundle_path(digest: &api_types::Digest) -> String {
    format!("{BUNDLE_PATH}{digest}")
}

/// What a pod was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its container is the function.
    Image,
    /// Its container waits for a bundle.
    Pool,
}

/// How far the pod's instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A pool's pod that has no bundle yet.
    Empty,
    /// It runs, or will, and does not listen yet.
    Starting,
    Ready,
    /// It did not come up, or a call broke it: it must not get another. The runner cannot kill
    /// what runs in another container; the pod has to be deleted.
    Failed,
    /// It exited. The pod has to be deleted.
    Gone,
}

impl Phase {
    /// Whether the pod is of no use any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Gone)
    }
}

/// What a runner says of its pod.
///
/// Memory and out-of-memory kills are not here: a container does not see its neighbour's. The
/// function's exit status and `OOMKilled` are in the pod's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// For people, as are the numbers below.
    pub kind: Kind,
    pub phase: Phase,
    /// Why it [failed](Phase::Failed) or is [gone](Phase::Gone).
    pub reason: Option<String>,
    pub claim: Option<Holder>,
    /// What the instance runs, once that is settled: only the same can be claimed from then on.
    pub tenant: Option<Tenant>,
    /// Whether a call is inside the function.
    pub running: bool,
    /// Calls that reached the function.
    pub calls: u64,
    /// Milliseconds since the last call ended, or since the runner started.
    pub idle_ms: u64,
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// The function's object name.
    pub function: String,
    /// What the instance was started with: equal settings are interchangeable.
    pub settings: String,
}

/// Who has claimed a pod, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Chosen by the gateway, never used twice.
    pub claim: String,
    /// The same each time it is started.
    pub gateway: String,
    /// Larger each time it is started. Zero: one of which nothing is known but its name.
    #[serde(default)]
    pub boot: u64,
    #[serde(flatten)]
    pub tenant: Tenant,
}

/// Takes the pod for one function. Repeating it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The uid of the pod it is for. A gateway may learn late that a pod is gone, and meet another
    /// one's runner at its address. None from a gateway of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(flatten)]
    pub holder: Holder,
    /// What a pool's pod is to run; none for an image's.
    pub launch: Option<Launch>,
}

/// A bundle and how it is started. Its command is in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// 64 hexadecimal digits.
    pub digest: String,
    /// The whole of Fn contract 9.1 but `FN_LISTENER`, which is the pod's: what
    /// [`region_plane_runtime::contract_environment`] returns.
    pub env: BTreeMap<String, String>,
    /// Milliseconds it may take from here until it listens (Fn contract 9.2). A gateway of an earlier
    /// version does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timeout_ms: Option<u64>,
}

/// The pod is the gateway's now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// Whether the bundle must be put before the instance can start.
    pub needs_bundle: bool,
    /// For people; a gateway waits until it is ready anyway.
    pub phase: Phase,
}

/// The pod cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    pub message: String,
    /// Who has it; absent if nobody can have it, or not for this function.
    pub claim: Option<Holder>,
    /// Why, if a gateway is to know that from what is wrong with the pod. A runner of an earlier version
    /// gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ConflictReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictReason {
    /// The claim is for another pod, so that nothing of this one says anything of that.
    OtherPod,
    /// The claimant's gateway has been started again since, or so its number says.
    Superseded,
    /// One that a later version knows.
    #[serde(other)]
    Unknown,
}

/// Gives the pod back. What runs in it goes on and may be claimed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub claim: String,
}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub message: String,
    /// Of a call that failed as [`CallFailure::InvalidStatus`]: the status the function sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// A line of an event stream. The first is the phase as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// When it changed, and every [`EVENTS_EVERY`].
    Phase {
        phase: Phase,
        reason: Option<String>,
    },
    /// What the function printed, of pool pods. An image's container writes to the node's log.
    Log { log: LogLine },
    /// Lines that were not kept, since nobody read them in time.
    Dropped { dropped: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The call that printed it; absent before the first.
    pub call: Option<String>,
    pub stream: LogStream,
    pub line: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Why a call has no answer of the function's. The wire has [`Self::as_str`] in [`CALL_ERROR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    TimedOut,
    FunctionTimedOut,
    FunctionFailed,
    InvalidStatus,
    Broken,
    BodyTooLarge,
    HeadersTooLarge,
    /// The claim is not the pod's, or the runner is stopping. Nothing reached the function.
    NotClaimed,
    /// A call is inside the function, or it does not listen yet. Nothing reached the function.
    Busy,
    /// The instance is [over](Phase::is_over). Nothing reached the function.
    Gone,
}

/// A name of a [`CallFailure`] that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no call failure {name:?}")]
pub struct UnknownCallFailure {
    pub name: String,
}

impl CallFailure {
    const ALL: [Self; 10] = [
        Self::TimedOut,
        Self::FunctionTimedOut,
        Self::FunctionFailed,
        Self::InvalidStatus,
        Self::Broken,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::NotClaimed,
        Self::Busy,
        Self::Gone,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::FunctionTimedOut => "function_timed_out",
            Self::FunctionFailed => "function_failed",
            Self::InvalidStatus => "invalid_status",
            Self::Broken => "broken",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::NotClaimed => "not_claimed",
            Self::Busy => "busy",
            Self::Gone => "gone",
        }
    }

    /// Whether the function saw anything of the call. If not, it can be made elsewhere.
    #[must_use]
    pub fn reached_function(self) -> bool {
        !matches!(self, Self::NotClaimed | Self::Busy | Self::Gone)
    }

    /// The status a runner answers with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TimedOut | Self::FunctionTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::FunctionFailed
            | Self::InvalidStatus
            | Self::Broken
            | Self::BodyTooLarge
            | Self::HeadersTooLarge => StatusCode::BAD_GATEWAY,
            Self::NotClaimed | Self::Busy => StatusCode::CONFLICT,
            Self::Gone => StatusCode::GONE,
        }
    }

    /// The error that a call fails with whose runner answered this; `None` if nothing
    /// [reached the function](Self::reached_function).
    #[must_use]
    pub fn into_call_error(self, trouble: Trouble) -> Option<CallError> {
        Some(match self {
            Self::TimedOut => CallError::TimedOut,
            Self::FunctionTimedOut => CallError::FunctionTimedOut,
            Self::FunctionFailed => CallError::FunctionFailed,
            Self::InvalidStatus => CallError::InvalidStatus {
                status: trouble
                    .status
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    .unwrap_or(StatusCode::BAD_GATEWAY),
            },
            Self::Broken => CallError::Broken {
                source: region_plane_runtime::Breach::Reported {
                    message: trouble.message,
                },
            },
            Self::BodyTooLarge => CallError::BodyTooLarge,
            Self::HeadersTooLarge => CallError::HeadersTooLarge,
            Self::NotClaimed | Self::Busy | Self::Gone => return None,
        })
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CallFailure {
    type Err = UnknownCallFailure;

    fn from_str(name: &str) -> Result<Self, UnknownCallFailure> {
        Self::ALL
            .into_iter()
            .find(|failure| failure.as_str() == name)
            .ok_or_else(|| UnknownCallFailure {
                name: name.to_owned(),
            })
    }
}
