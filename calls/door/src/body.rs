//! Bodies of requests and responses.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

/// A body: bytes that are here, or a stream of them.
pub struct Body(Kind);

enum Kind {
    Bytes(Bytes),
    Stream(Incoming),
    Received(Received),
    Made(BoxBody),
}

/// A body that is still arriving. Dropped before its end it goes back to its connection, which
/// decides what becomes of the rest.
struct Received {
    /// Taken only when this is dropped.
    incoming: Option<Incoming>,
    is_begun: bool,
    /// A chunked body's end is not known before it is seen.
    is_ended: bool,
    connection: Arc<Unread>,
}

/// Where a connection finds the body that its request's handler did not read to the end. For one
/// request at a time, as in HTTP/1.
#[derive(Debug, Default)]
pub(crate) struct Unread(Mutex<Option<Rest>>);

#[derive(Debug)]
pub(crate) struct Rest {
    pub incoming: Incoming,
    /// Whether some of it was asked for: its sender, if it waits for a 100, has been told to go on.
    pub is_begun: bool,
}

impl Unread {
    /// Taken by the handler's own task, after it has answered: nobody contends for it.
    pub fn take(&self) -> Option<Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, rest: Rest) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }
}

const TAKEN: &str = "only a drop takes it";

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its sender broke off, or does not speak HTTP.
    #[error("receive a body")]
    Received(#[source] hyper::Error),
    /// Whoever makes a stream cannot go on.
    #[error("make a body")]
    Made(#[source] BoxError),
}

impl Body {
    #[must_use]
    pub fn empty() -> Self {
        Self(Kind::Bytes(Bytes::new()))
    }

    /// A stream; its maker bounds it.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Kind::Made(Box::pin(body.map_err(Into::into))))
    }

    /// `None` for a connection of which one stream's body concerns no other.
    pub(crate) fn received(incoming: Incoming, connection: Option<&Arc<Unread>>) -> Self {
        match connection {
            // Nothing to read, and so nothing to be left unread.
            _ if incoming.is_end_stream() => Self::empty(),
            None => Self(Kind::Stream(incoming)),
            Some(connection) => Self(Kind::Received(Received {
                incoming: Some(incoming),
                is_begun: false,
                is_ended: false,
                connection: Arc::clone(connection),
            })),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0 {
            Kind::Bytes(_) => "Bytes",
            Kind::Stream(_) | Kind::Received(_) => "Received",
            Kind::Made(_) => "Made",
        };
        let mut shown = formatter.debug_struct(kind);
        shown.field("size", &self.size_hint()).finish()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let incoming = self.incoming.take().expect(TAKEN);
        if !self.is_ended && !incoming.is_end_stream() {
            self.connection.put(Rest {
                incoming,
                is_begun: self.is_begun,
            });
        }
    }
}

impl Received {
    fn incoming(&self) -> &Incoming {
        self.incoming.as_ref().expect(TAKEN)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(incoming) => receive(incoming, context),
            Kind::Received(received) => {
                received.is_begun = true;
                let frame = ready!(receive(received.incoming.as_mut().expect(TAKEN), context));
                received.is_ended = !matches!(frame, Some(Ok(_)));
                Poll::Ready(frame)
            }
            Kind::Made(body) => body.as_mut().poll_frame(context).map_err(BodyError::Made),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.is_empty(),
            Kind::Stream(incoming) => incoming.is_end_stream(),
            Kind::Received(received) => received.incoming().is_end_stream(),
            Kind::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(incoming) => incoming.size_hint(),
            Kind::Received(received) => received.incoming().size_hint(),
            Kind::Made(body) => body.size_hint(),
        }
    }
}

fn receive(
    incoming: &mut Incoming,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Pin::new(incoming)
        .poll_frame(context)
        .map_err(BodyError::Received)
}
