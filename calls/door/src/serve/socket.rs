//! A connection's socket, with what the HTTP library leaves out: a body for the refusals that it
//! makes itself, and an end that lets the other side hear them.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::heads::{Budget, Coming, Full};
use crate::Refusal;
use crate::limits::{LINGER_BYTES_MAX, LINGER_MAX};

/// Why a read fails when there is no room for more of a head.
const NO_ROOM: io::ErrorKind = io::ErrorKind::OutOfMemory;

/// Read at once while lingering.
const LINGER_PIECE: usize = 16 << 10;

/// What a connection's socket and its requests know of each other.
pub(super) struct Line {
    /// At the end bytes of the other side are left unread.
    pub lingers: AtomicBool,
    /// The other side does not read, and not all that the library has is written.
    pub is_blocked: AtomicBool,
    pub coming: Coming,
}

impl Line {
    pub fn new(heads: Budget) -> Self {
        Self {
            lingers: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            coming: Coming::new(heads),
        }
    }

    fn written<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_blocked = written.is_pending();
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
        written
    }
}

/// Answers with a refusal, and closes so that it is heard.
pub(super) async fn refuse(stream: Arc<TcpStream>, refusal: &Refusal, line: Arc<Line>) {
    line.lingers.store(true, Ordering::Relaxed);
    let mut socket = Socket::new(stream, line);
    socket.refusal = refusal.to_http1();
    // Whether it could be written or not, the connection ends.
    let _closed = poll_fn(|context| Pin::new(&mut socket).poll_shutdown(context)).await;
}

pub(super) struct Socket {
    stream: Arc<TcpStream>,
    line: Arc<Line>,
    /// A refusal in place of the library's, not written yet.
    refusal: Bytes,
    end: End,
}

enum End {
    NotYet,
    Lingering { until: Pin<Box<Sleep>>, bytes: u64 },
    Done,
}

impl Socket {
    pub fn new(stream: Arc<TcpStream>, line: Arc<Line>) -> Self {
        Self {
            stream,
            line,
            refusal: Bytes::new(),
            end: End::NotYet,
        }
    }

    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(&self.refusal) {
                Ok(bytes) => self.refusal.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the library writes, if it is a refusal without a body.
    fn takes(&mut self, written: &[u8]) -> bool {
        let Some(refusal) = with_body(written) else {
            return false;
        };
        self.refusal = refusal;
        self.line.lingers.store(true, Ordering::Relaxed);
        true
    }

    /// Reads on until the other side has closed too, or has had its chance.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let End::Lingering { until, bytes } = &mut self.end else {
            return Poll::Ready(());
        };
        let mut piece = [0; LINGER_PIECE];
        while *bytes < LINGER_BYTES_MAX {
            if until.as_mut().poll(context).is_ready() {
                break;
            }
            if ready!(self.stream.poll_read_ready(context)).is_err() {
                break;
            }
            match self.stream.try_read(&mut piece) {
                Ok(0) => break,
                Ok(read) => *bytes += read as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read_buf(buffer) {
                Ok(bytes) => {
                    let counted = self.line.coming.count(bytes);
                    return Poll::Ready(counted.map_err(|Full| NO_ROOM.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(context))?;
        if self.takes(buffer) {
            return Poll::Ready(Ok(buffer.len()));
        }
        loop {
            ready!(self.line.written(self.stream.poll_write_ready(context)))?;
            match self.stream.try_write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(context))?;
        let mut filled = buffers.iter().filter(|buffer| !buffer.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.takes(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        loop {
            ready!(self.line.written(self.stream.poll_write_ready(context)))?;
            match self.stream.try_write_vectored(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_refusal(context)
    }

    /// Closes the sending half and then, where bytes of the other side are left unread, reads on: to
    /// close at once would reset the connection, and take back what was just sent.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.end, End::NotYet) {
            ready!(self.poll_refusal(context))?;
            // One that is not connected any more needs no end.
            let shut = socket2::SockRef::from(&*self.stream).shutdown(Shutdown::Write);
            self.end = if shut.is_ok() && self.line.lingers.load(Ordering::Relaxed) {
                End::Lingering {
                    until: Box::pin(sleep(LINGER_MAX)),
                    bytes: 0,
                }
            } else {
                End::Done
            };
        }
        ready!(self.poll_linger(context));
        self.end = End::Done;
        Poll::Ready(Ok(()))
    }
}

/// The fields of a refusal that the library makes, for a head that it cannot read. No answer of ours
/// has these alone: its errors have a body, and what a function answers has its call's id.
const OF_A_REFUSAL: [&str; 3] = ["connection: close", "content-length: 0", "date: "];

/// Longer than any such refusal.
const REFUSAL_BYTES_MAX: usize = 256;

/// The same refusal with our body, if that is what is written.
fn with_body(written: &[u8]) -> Option<Bytes> {
    if written.len() > REFUSAL_BYTES_MAX || !written.starts_with(b"HTTP/1.") {
        return None;
    }
    let head = str::from_utf8(written).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let first = lines.next()?;
    let status: StatusCode = first.get(9..12)?.parse().ok()?;
    let refusals = [
        StatusCode::BAD_REQUEST,
        StatusCode::URI_TOO_LONG,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    ];
    let mut date = "";
    for line in lines {
        if !OF_A_REFUSAL.iter().any(|field| line.starts_with(field)) {
            return None;
        }
        if line.starts_with("date: ") {
            date = line;
        }
    }
    if !refusals.contains(&status) || date.is_empty() {
        return None;
    }
    let refusal = Refusal::of_head(status);
    metrics::counter!("tradewind_requests_refused_total").increment(1);
    let json = refusal.json();
    let kind = crate::refusal::JSON;
    let kind = kind.to_str().expect("it is text");
    let head = format!(
        "{first}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n{date}\r\n\r\n",
        json.len()
    );
    Some([head.as_bytes(), &json].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_refusals_get_our_body() {
        let fields = "connection: close\r\ncontent-length: 0\r\ndate: Mon\r\n\r\n";
        for (first, fields, want) in [
            ("HTTP/1.1 400 Bad Request", fields, Some("malformed")),
            ("HTTP/1.0 400 Bad Request", fields, Some("malformed")),
            (
                "HTTP/1.1 431 Request Header Fields Too Large",
                fields,
                Some("too many fields or bytes"),
            ),
            ("HTTP/1.1 414 URI Too Long", fields, Some("too long")),
            ("HTTP/1.1 404 Not Found", fields, None),
            ("HTTP/1.1 200 OK", fields, None),
            (
                "HTTP/1.1 400 Bad Request",
                "fn-call-id: 1\r\ncontent-length: 0\r\ndate: Mon\r\n\r\n",
                None,
            ),
            (
                "HTTP/1.1 400 Bad Request",
                "content-length: 5\r\ndate: Mon\r\n\r\nhello",
                None,
            ),
            ("HTTP/1.1 100 Continue", "\r\n", None),
        ] {
            let written = format!("{first}\r\n{fields}");
            let got = with_body(written.as_bytes());
            let got = got.as_deref().map(|got| str::from_utf8(got).expect("text"));
            match (got, want) {
                (None, None) => {}
                (Some(got), Some(want)) => {
                    assert!(got.starts_with(first) && got.contains(want), "{got}");
                    let (head, body) = got.split_once("\r\n\r\n").expect("a head");
                    let length = format!("content-length: {}", body.len());
                    assert!(head.contains(&length), "{got}");
                }
                _ => panic!("{written:?} became {got:?}"),
            }
        }
    }
}
