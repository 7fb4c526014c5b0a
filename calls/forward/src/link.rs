//! One HTTP/1.1 exchange over a connection that it is handed, without a task of its own.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::answer::Answer;
use crate::head::{Continue, Head, Read, Scan, is_chunked};
use crate::sending::Sending;

/// A connection between two exchanges.
#[derive(Debug)]
pub struct Link<T> {
    pub(crate) io: T,
    /// What was read and not used.
    pub(crate) buffer: BytesMut,
}

/// Why an exchange has no answer, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("read or write")]
    Io(#[source] io::Error),
    #[error("the connection was closed before the answer's end")]
    Closed,
    #[error("the answer's head has too many fields or bytes")]
    HeadTooLarge,
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    #[error("the body does not have the declared length")]
    BodyLength,
    #[error("the answer stopped for too long")]
    Stalled,
}

/// As [`ExchangeError`], or the request's own body failed with `E`.
#[derive(Debug)]
pub enum Failed<E> {
    Body(E),
    Exchange(ExchangeError),
}

/// What is read at once.
pub(crate) const READ_BYTES: usize = 16 << 10;

/// Answers of 1xx before the final one: a gateway sends one at most.
const INFORMATIONAL_MAX: usize = 16;

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    #[must_use]
    pub fn new(io: T) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// Whether the other side has neither closed nor said anything since the last exchange, as far as
    /// is known without waiting.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut unasked = ReadBuf::new(&mut byte);
        Pin::new(&mut self.io)
            .poll_read(&mut Context::from_waker(Waker::noop()), &mut unasked)
            .is_pending()
    }

    /// An exchange that begins with `head`, which [`crate::encode`] made with the same `length` and
    /// `wait`. Nothing is sent before it is awaited; dropping it closes the connection.
    pub fn begin<B>(
        self,
        method: &Method,
        head: Bytes,
        body: B,
        length: Option<u64>,
        wait: Continue,
    ) -> Exchange<T, B> {
        let is_held = wait == Continue::Wait;
        Exchange {
            link: self,
            scan: Scan::default(),
            method: method.clone(),
            sending: Sending::new(head, body, is_chunked(length, wait), length, is_held),
            answer: None,
        }
    }
}

/// A request and its answer. Every method that waits may be dropped and called again.
#[derive(Debug)]
pub struct Exchange<T, B> {
    link: Link<T>,
    scan: Scan,
    method: Method,
    sending: Sending<B>,
    answer: Option<Head>,
}

impl<T, B> Exchange<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Sends the head and waits until the receiver says 100, which lets the body go (`true`), or has
    /// answered for good without it (`false`).
    ///
    /// # Errors
    /// [`Failed::Exchange`]; the body has not been touched.
    pub async fn taken(&mut self) -> Result<bool, Failed<B::Error>> {
        for _ in 0..INFORMATIONAL_MAX {
            match poll_fn(|context| self.poll_head(context)).await? {
                Read::Continue => {
                    self.sending.release();
                    return Ok(true);
                }
                Read::Informational => {}
                Read::Final(head) => {
                    self.answer = Some(*head);
                    return Ok(false);
                }
            }
        }
        Err(endless())
    }

    /// Sends what may be sent and waits for the answer's head; [`Self::into_answer`] has it then.
    ///
    /// # Errors
    /// Both of [`Failed`].
    pub async fn answered(&mut self) -> Result<(), Failed<B::Error>> {
        for _ in 0..INFORMATIONAL_MAX {
            if self.answer.is_some() {
                return Ok(());
            }
            match poll_fn(|context| self.poll_head(context)).await? {
                Read::Continue | Read::Informational => {}
                Read::Final(head) => self.answer = Some(*head),
            }
        }
        match self.answer {
            Some(_) => Ok(()),
            None => Err(endless()),
        }
    }

    /// Whether all of the request has been written.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sending.is_over()
    }

    /// Closes the connection; the body, unless some of it has left.
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        self.sending.into_held()
    }

    /// The answer, of which the body is still to be read. What is left of the request is sent while it
    /// is.
    ///
    /// # Panics
    /// Unless its head was waited for.
    #[must_use]
    pub fn into_answer(self) -> Response<Answer<T, B>> {
        let head = self.answer.expect(WAITED_FOR);
        let rest = Some(self.sending).filter(|sending| !sending.is_over());
        let answer = Answer::new(self.link, head.framing, head.keep_alive, rest);
        Response::from_parts(head.parts, answer)
    }

    /// The answer, and the request's body unless some of it has left. What is left of the request is not
    /// sent.
    ///
    /// # Panics
    /// Unless the answer's head was waited for.
    #[must_use]
    pub fn into_answer_and_body(self) -> (Response<Answer<T>>, Option<B>) {
        let head = self.answer.expect(WAITED_FOR);
        let keep_alive = head.keep_alive && self.sending.is_over();
        let answer = Answer::new(self.link, head.framing, keep_alive, None);
        let body = self.sending.into_held();
        (Response::from_parts(head.parts, answer), body)
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Read, Failed<B::Error>>> {
        loop {
            // An answer may come before all is written, so that its writing does not hold it up.
            if let Poll::Ready(Err(failed)) = self.sending.poll(&mut self.link.io, context) {
                return Poll::Ready(Err(failed));
            }
            match self.scan.read(&mut self.link.buffer, &self.method) {
                Ok(Some(read)) => return Poll::Ready(Ok(read)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Failed::Exchange(error))),
            }
            self.link.buffer.reserve(READ_BYTES);
            let (io, buffer) = (&mut self.link.io, &mut self.link.buffer);
            let closed = match ready!(poll_read_buf(Pin::new(io), context, buffer)) {
                Ok(1..) => continue,
                Ok(0) => match self.sending.take_broken() {
                    Some(error) => ExchangeError::Io(error),
                    None => ExchangeError::Closed,
                },
                Err(error) => ExchangeError::Io(error),
            };
            return Poll::Ready(Err(Failed::Exchange(closed)));
        }
    }
}

const WAITED_FOR: &str = "the answer's head was waited for";

fn endless<E>() -> Failed<E> {
    Failed::Exchange(ExchangeError::Malformed(
        "informational answers without end",
    ))
}
