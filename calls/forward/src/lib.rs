//! Forwards calls to gateways: from global nodes, and from gateways without room to their peers.
//!
//! A call is safe to send elsewhere until its body has left. So [`Forwarder`] sends the head with
//! `Expect: 100-continue` and keeps the body until the gateway says 100, which a gateway says only
//! once it takes the call. A process that is stopped or cut off says nothing: its kernel accepts the
//! connection and acknowledges the head, and nothing has run. After the body has left there is no
//! second try; a question that the gateway's process itself answers tells a long call from a silent
//! region.
//!
//! Beneath it is an HTTP/1.1 exchange without a task of its own, [`Link`]: it is handed a connection
//! and gives it back. The sockets of functions use it too. This crate refuses to know what a function
//! is, and which regions may run one.

mod answer;
mod connect;
mod forward;
mod head;
mod link;
mod pool;
mod sending;

pub use answer::Answer;
pub use connect::{ConnectError, Connector};
pub use forward::{Call, ForwardError, Forwarded, Forwarder, Gateway, Outcome, Reply};
pub use head::{Continue, encode};
pub use link::{Exchange, ExchangeError, Failed, Link};
pub use sending::Nothing;
