//! Names of the headers that calls carry: Fn's, and ours.
//!
//! Each name stands here once. A caller's own fields of [`ours`] never reach a function, and a
//! function's never reach a caller.

use http::HeaderName;

/// A call's id, in requests to functions and in every answer to a call (Fn contract 6.2).
pub const CALL_ID: HeaderName = HeaderName::from_static("fn-call-id");
/// When a call has to be done, RFC 3339 (Fn contract 6.1).
pub const DEADLINE: HeaderName = HeaderName::from_static("fn-deadline");
/// `sync` or `detached` (Fn contract 6.3).
pub const INVOKE_TYPE: HeaderName = HeaderName::from_static("fn-invoke-type");
/// `httprequest` for triggers (Fn contract 7).
pub const INTENT: HeaderName = HeaderName::from_static("fn-intent");
/// A trigger's request: its method (Fn contract 7).
pub const HTTP_METHOD: HeaderName = HeaderName::from_static("fn-http-method");
/// A trigger's request: its absolute URL (Fn contract 7).
pub const HTTP_REQUEST_URL: HeaderName = HeaderName::from_static("fn-http-request-url");
/// A trigger's answer: the status that its caller gets (Fn contract 7).
pub const HTTP_STATUS: HeaderName = HeaderName::from_static("fn-http-status");
/// Before each header of a trigger's request and answer (Fn contract 7).
pub const HTTP_PREFIX: &str = "fn-http-h-";

/// Begins every name of ours.
pub const OURS: &str = "tradewind-";

/// On an answer: the region that gave it.
pub const REGION: HeaderName = HeaderName::from_static("tradewind-region");

/// On a call through a global node: the address to steer for. Taken from peers on this machine
/// only, so that a demo can call from anywhere.
pub const CLIENT: HeaderName = HeaderName::from_static("tradewind-client");

/// On an answer of a global node or of a region's API: a revision that the answer is no older than.
pub const REVISION: HeaderName = HeaderName::from_static("tradewind-revision");

/// On a forwarded call: who forwards it, [`BY_GATEWAY`] or [`BY_GLOBAL`].
///
/// A gateway answers a forwarder without redirects, and marks refusals with [`NOT_STARTED`] where
/// another region may be tried. A caller that sends it gets just that: its own call is not
/// redirected, and not handed on.
pub const FORWARDED_BY: HeaderName = HeaderName::from_static("tradewind-forwarded-by");

/// Value of [`FORWARDED_BY`]: a gateway without room. Such a call is not handed on again.
pub const BY_GATEWAY: &str = "gateway";

/// Value of [`FORWARDED_BY`]: a global node, which steered the call as DNS would have.
pub const BY_GLOBAL: &str = "global";

/// On a forwarded call: the revision of the newest object that the forwarder found the function by.
/// The gateway waits until it has applied it. Read beside [`FORWARDED_BY`] only.
pub const MIN_REVISION: HeaderName = HeaderName::from_static("tradewind-min-revision");

/// On a refusal to a forwarder: no function has seen the call, so another region may be tried.
pub const NOT_STARTED: HeaderName = HeaderName::from_static("tradewind-not-started");

/// Path at which a gateway answers a `GET` that carries [`FORWARDED_BY`] with 204, from the process
/// itself and at once: whether it lives. Without that header the path is a trigger's, as any other.
pub const ALIVE_PATH: &str = "/.well-known/tradewind-alive";

/// Whether a name is one of ours.
#[must_use]
pub fn ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(OURS)
}
