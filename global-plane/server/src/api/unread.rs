//! Lets a client that is refused while it still sends hear why.
//!
//! A server that answers and closes with unread bytes on their way resets the connection (RFC 9112
//! 9.6), and the client sees a broken pipe in place of the status. So the rest of the body is read
//! and thrown away first, within bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

/// A bundle that is a little too large, and every smaller mistake.
const DISCARDED_BYTES_MAX: u64 = 80 << 20;

/// On loopback the above takes less than a second; a client on a slow line may be reset.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn discard(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if http_body::Body::is_end_stream(&body) {
        return next.run(Request::from_parts(head, body)).await;
    }
    let slot = Arc::new(Mutex::new(Some(body)));
    let shared = Shared(Arc::clone(&slot));
    let response = next.run(Request::from_parts(head, Body::new(shared))).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let rest = lock(&slot).take();
        if let Some(rest) = rest {
            // Too slow or too long: the connection is reset, as it would have been.
            let _in_time = tokio::time::timeout(DISCARD_TIMEOUT, read(rest)).await;
        }
    }
    response
}

async fn read(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

type Slot = Mutex<Option<Body>>;

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Body>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request's body as its handler sees it; it ends broken off once the rest is being discarded.
struct Shared(Arc<Slot>);

#[derive(Debug, thiserror::Error)]
enum SharedError {
    #[error("read the request's body")]
    Read(#[source] axum::Error),
    #[error("the request was answered before its body was read")]
    Discarded,
}

impl http_body::Body for Shared {
    type Data = Bytes;
    type Error = SharedError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SharedError>>> {
        match &mut *lock(&self.0) {
            Some(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(SharedError::Read),
            None => Poll::Ready(Some(Err(SharedError::Discarded))),
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0)
            .as_ref()
            .is_some_and(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0)
            .as_ref()
            .map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
