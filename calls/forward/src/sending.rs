//! The half of an exchange that is sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::link::{ExchangeError, Failed};

/// What is gathered of a body before it is written.
const GATHER_MAX: usize = 64 << 10;

const CRLF: Bytes = Bytes::from_static(b"\r\n");
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// What is still to be sent of a request.
#[derive(Debug)]
pub(crate) struct Sending<B> {
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
}

impl<B> Sending<B> {
    pub fn new(head: Bytes, body: B, is_chunked: bool, length: Option<u64>, is_held: bool) -> Self {
        Self {
            pending: head.len(),
            pieces: VecDeque::from([head]),
            body: Some(body),
            is_chunked,
            left: length.unwrap_or(0),
            is_held,
            unflushed: false,
            broken: None,
        }
    }

    /// Lets the body go.
    pub fn release(&mut self) {
        self.is_held = false;
    }

    /// Whether all of it has been written.
    pub fn is_over(&self) -> bool {
        self.body.is_none() && self.pieces.is_empty() && self.broken.is_none()
    }

    /// Why no more can be written, once.
    pub fn take_broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// The body, unless some of it may have left.
    pub fn into_held(self) -> Option<B> {
        self.body.filter(|_| self.is_held)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    /// Ready once all is written, or no more can be. Fails with the body only.
    pub fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed<B::Error>>> {
        while self.broken.is_none() {
            if let Err(failed) = self.gather(context) {
                return Poll::Ready(Err(failed));
            }
            let io = Pin::new(&mut *io);
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

/// No body.
#[derive(Debug)]
pub struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }
}
