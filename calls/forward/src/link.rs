//! One HTTP/1.1 exchange over a connection that it is handed, without a task of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::answer::Answer;
use crate::head::{Continue, Head, Read, Scan, is_chunked};

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

/// What is gathered of a body before it is written.
const GATHER_MAX: usize = 64 << 10;

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
        Exchange {
            link: self,
            scan: Scan::default(),
            method: method.clone(),
            pending: head.len(),
            pieces: VecDeque::from([head]),
            body: Some(body),
            is_chunked: is_chunked(length, wait),
            left: length.unwrap_or(0),
            is_held: wait == Continue::Wait,
            unflushed: false,
            broken: None,
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
    /// To be written, in order, and how many bytes that is.
    pieces: VecDeque<Bytes>,
    pending: usize,
    /// `None` once it has ended.
    body: Option<B>,
    is_chunked: bool,
    /// Of the announced length.
    left: u64,
    /// The body waits for a 100.
    is_held: bool,
    unflushed: bool,
    /// Why no more can be written. An answer may have come all the same.
    broken: Option<io::Error>,
    answer: Option<Head>,
}

const CRLF: Bytes = Bytes::from_static(b"\r\n");
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

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
                    self.is_held = false;
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
        self.body.is_none() && self.pieces.is_empty() && self.broken.is_none()
    }

    /// Closes the connection; the body, unless some of it has left.
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        self.body.filter(|_| self.is_held)
    }

    /// The answer, of which the body is still to be read. What is left of the request is not sent.
    ///
    /// # Panics
    /// Unless its head was waited for.
    #[must_use]
    pub fn into_answer(self) -> Response<Answer<T>> {
        self.into_answer_and_body().0
    }

    /// As [`Self::into_answer`], and the request's body unless some of it has left.
    ///
    /// # Panics
    /// Unless the answer's head was waited for.
    #[must_use]
    pub fn into_answer_and_body(self) -> (Response<Answer<T>>, Option<B>) {
        let is_sent = self.is_sent();
        let head = self.answer.expect("its head was waited for");
        let answer = Answer::new(self.link, head.framing, head.keep_alive && is_sent);
        let body = self.body.filter(|_| self.is_held);
        (Response::from_parts(head.parts, answer), body)
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Read, Failed<B::Error>>> {
        loop {
            // An answer may come before all is written, so that its writing does not hold it up.
            if let Poll::Ready(Err(failed)) = self.poll_send(context) {
                return Poll::Ready(Err(failed));
            }
            match self.scan.read(&mut self.link.buffer, &self.method) {
                Ok(Some(read)) => return Poll::Ready(Ok(read)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Failed::Exchange(error))),
            }
            self.link.buffer.reserve(READ_BYTES);
            let (io, buffer) = (&mut self.link.io, &mut self.link.buffer);
            let read = ready!(poll_read_buf(Pin::new(io), context, buffer));
            let closed = match (read, self.broken.take()) {
                (Ok(1..), broken) => {
                    self.broken = broken;
                    continue;
                }
                (Err(error), _) | (Ok(0), Some(error)) => ExchangeError::Io(error),
                (Ok(0), None) => ExchangeError::Closed,
            };
            return Poll::Ready(Err(Failed::Exchange(closed)));
        }
    }

    /// Ready once all is written, or no more can be.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed<B::Error>>> {
        while self.broken.is_none() {
            if let Err(failed) = self.gather(context) {
                return Poll::Ready(Err(failed));
            }
            let io = Pin::new(&mut self.link.io);
            let written = if !self.pieces.is_empty() {
                let mut slices = [IoSlice::new(&[]); 8];
                let mut count = 0;
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                ready!(io.poll_write_vectored(context, &slices[..count]))
            } else if self.unflushed {
                let flushed = ready!(io.poll_flush(context));
                self.unflushed = false;
                flushed.map(|()| 0)
            } else if self.body.is_none() {
                return Poll::Ready(Ok(()));
            } else {
                return Poll::Pending;
            };
            match written {
                Ok(0) if !self.pieces.is_empty() => {
                    self.broken = Some(io::ErrorKind::WriteZero.into());
                }
                Ok(bytes) => self.wrote(bytes),
                Err(error) => self.broken = Some(error),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut bytes: usize) {
        self.unflushed |= bytes > 0;
        self.pending -= bytes;
        while bytes > 0
            && let Some(first) = self.pieces.front_mut()
        {
            let taken = bytes.min(first.len());
            first.advance(taken);
            bytes -= taken;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Takes what the body has, up to [`GATHER_MAX`], so that a short one leaves with its head.
    fn gather(&mut self, context: &mut Context<'_>) -> Result<(), Failed<B::Error>> {
        while !self.is_held
            && self.pending < GATHER_MAX
            && let Some(body) = &mut self.body
        {
            match Pin::new(body).poll_frame(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Err(error))) => return Err(Failed::Body(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are not passed on.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.push_data(data)?;
                    }
                }
                Poll::Ready(None) => {
                    self.body = None;
                    if self.is_chunked {
                        self.push(LAST_CHUNK);
                    } else if self.left > 0 {
                        return Err(Failed::Exchange(ExchangeError::BodyLength));
                    }
                }
            }
        }
        Ok(())
    }

    fn push_data(&mut self, data: Bytes) -> Result<(), Failed<B::Error>> {
        if self.is_chunked {
            self.push(Bytes::from(format!("{:x}\r\n", data.len())));
            self.push(data);
            self.push(CRLF);
        } else {
            let left = self.left.checked_sub(data.len() as u64);
            self.left = left.ok_or(Failed::Exchange(ExchangeError::BodyLength))?;
            self.push(data);
        }
        Ok(())
    }

    fn push(&mut self, piece: Bytes) {
        self.pending += piece.len();
        self.pieces.push_back(piece);
    }
}

fn endless<E>() -> Failed<E> {
    Failed::Exchange(ExchangeError::Malformed(
        "informational answers without end",
    ))
}
