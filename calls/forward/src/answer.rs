//! The body of an answer, read from the connection that it came by.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::head::Framing;
use crate::link::{ExchangeError, Link, READ_BYTES};
use crate::sending::{Nothing, Sending};

/// A body that has its connection with it, and what is still to be sent of its request, if anything.
/// Dropped before its end, it closes the connection.
#[derive(Debug)]
pub struct Answer<T, B = Nothing> {
    link: Link<T>,
    left: Left,
    is_reusable: bool,
    rest: Option<Sending<B>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Length(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    /// With how many bytes of them have come.
    Trailers(usize),
}

/// A chunk's size and its extensions.
const CHUNK_LINE_MAX: usize = 4 << 10;

/// Trailers are thrown away.
const TRAILERS_MAX: usize = 64 << 10;

impl<T, B> Answer<T, B> {
    pub(crate) fn new(
        link: Link<T>,
        framing: Framing,
        is_reusable: bool,
        rest: Option<Sending<B>>,
    ) -> Self {
        Self {
            link,
            left: match framing {
                Framing::Length(0) => Left::Nothing,
                Framing::Length(length) => Left::Length(length),
                Framing::Chunked => Left::ChunkSize,
                Framing::UntilClose => Left::UntilClose,
            },
            is_reusable,
            rest,
        }
    }

    /// The connection, if the answer has been read to its end, all of the request was sent and another
    /// exchange may follow.
    #[must_use]
    pub fn into_link(self) -> Option<Link<T>> {
        let is_over = self.left == Left::Nothing && self.link.buffer.is_empty();
        (is_over && self.is_reusable && self.rest.is_none()).then_some(self.link)
    }
}

impl<T, B> Answer<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Waits until all of the request was sent, or no more of it can be.
    pub async fn sent(&mut self) {
        poll_fn(|context| self.poll_rest(context)).await;
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            // A body that fails now has failed too late to matter to its answer.
            let sent = ready!(rest.poll(&mut self.link.io, context));
            self.is_reusable &= sent.is_ok() && rest.is_over();
            self.rest = None;
        }
        Poll::Ready(())
    }
}

enum Step {
    Data(Bytes),
    More,
    End,
}

/// The next step from what has been read.
fn step(left: &mut Left, buffer: &mut BytesMut) -> Result<Step, ExchangeError> {
    loop {
        match *left {
            Left::Nothing => return Ok(Step::End),
            Left::UntilClose => {
                return Ok(match buffer.is_empty() {
                    true => Step::More,
                    false => Step::Data(buffer.split().freeze()),
                });
            }
            Left::Length(length) | Left::Chunk(length) => {
                if buffer.is_empty() {
                    return Ok(Step::More);
                }
                let taken = usize::try_from(length).map_or(buffer.len(), |l| l.min(buffer.len()));
                let rest = length - taken as u64;
                *left = match (*left, rest) {
                    (Left::Chunk(_), 0) => Left::ChunkEnd,
                    (Left::Chunk(_), rest) => Left::Chunk(rest),
                    (_, 0) => Left::Nothing,
                    (_, rest) => Left::Length(rest),
                };
                return Ok(Step::Data(buffer.split_to(taken).freeze()));
            }
            Left::ChunkSize => match httparse::parse_chunk_size(buffer) {
                Ok(httparse::Status::Complete((end, size))) => {
                    buffer.advance(end);
                    *left = match size {
                        0 => Left::Trailers(0),
                        size => Left::Chunk(size),
                    };
                }
                Ok(httparse::Status::Partial) if buffer.len() <= CHUNK_LINE_MAX => {
                    return Ok(Step::More);
                }
                Ok(httparse::Status::Partial) | Err(_) => {
                    return Err(ExchangeError::Malformed("a chunk's size is none"));
                }
            },
            Left::ChunkEnd => match buffer[..] {
                [b'\r', b'\n', ..] => {
                    buffer.advance(2);
                    *left = Left::ChunkSize;
                }
                [] | [b'\r'] => return Ok(Step::More),
                _ => return Err(ExchangeError::Malformed("a chunk has no end")),
            },
            Left::Trailers(seen) => {
                let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
                    return match seen + buffer.len() <= TRAILERS_MAX {
                        true => Ok(Step::More),
                        false => Err(ExchangeError::HeadTooLarge),
                    };
                };
                let line = buffer.split_to(end + 1);
                *left = match line[..] {
                    [b'\r', b'\n'] | [b'\n'] => Left::Nothing,
                    _ if seen + line.len() > TRAILERS_MAX => {
                        return Err(ExchangeError::HeadTooLarge);
                    }
                    _ => Left::Trailers(seen + line.len()),
                };
            }
        }
    }
}

impl<T, B> Body for Answer<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        // A function may send its answer while it reads its call, and stop reading if nobody reads that.
        let _sent = self.poll_rest(context);
        let Self { link, left, .. } = &mut *self;
        loop {
            match step(left, &mut link.buffer) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            link.buffer.reserve(READ_BYTES);
            let io = Pin::new(&mut link.io);
            match ready!(poll_read_buf(io, context, &mut link.buffer)) {
                Ok(1..) => {}
                Ok(0) if *left == Left::UntilClose => {
                    *left = Left::Nothing;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(ExchangeError::Closed))),
                Err(error) => return Poll::Ready(Some(Err(ExchangeError::Io(error)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Left::Nothing
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Nothing => SizeHint::with_exact(0),
            Left::Length(length) => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body that arrives in pieces of `size` bytes, and whether it ends.
    fn read(framing: Left, text: &[u8], size: usize) -> Result<(Vec<u8>, bool), ()> {
        let (mut left, mut buffer, mut got) = (framing, BytesMut::new(), Vec::new());
        for piece in text.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                match step(&mut left, &mut buffer).map_err(|_| ())? {
                    Step::Data(data) => got.extend_from_slice(&data),
                    Step::More => break,
                    Step::End => return Ok((got, true)),
                }
            }
        }
        Ok((got, false))
    }

    #[test]
    fn bodies_are_read_to_their_ends_however_they_come() {
        for (framing, text, want) in [
            (Left::Length(5), "hello", Ok(("hello", true))),
            (Left::Length(5), "hell", Ok(("hell", false))),
            (Left::UntilClose, "hello", Ok(("hello", false))),
            (
                Left::ChunkSize,
                "5\r\nhello\r\n0\r\n\r\n",
                Ok(("hello", true)),
            ),
            (
                Left::ChunkSize,
                "2;a=b\r\nhe\r\n3 \r\nllo\r\n0\r\nx: y\r\nz: a\r\n\r\n",
                Ok(("hello", true)),
            ),
            (Left::ChunkSize, "5\r\nhello\r\n0\r\n", Ok(("hello", false))),
            (Left::ChunkSize, "5\r\nhello0\r\n\r\n", Err(())),
            (Left::ChunkSize, "x\r\nhello\r\n", Err(())),
            (Left::ChunkSize, "fffffffffffffffff\r\nhello\r\n", Err(())),
        ] {
            for size in [1, 2, 3, text.len()] {
                let got = read(framing, text.as_bytes(), size);
                let want = want.map(|(text, ended)| (text.as_bytes().to_vec(), ended));
                assert_eq!(got, want, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn a_chunks_line_and_trailers_are_bounded() {
        let long = "a".repeat(100 << 10);
        for text in [format!("5;{long}"), format!("0\r\nx: {long}")] {
            assert_eq!(read(Left::ChunkSize, text.as_bytes(), 1 << 10), Err(()));
        }
    }
}
