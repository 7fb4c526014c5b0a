//! A function's socket, which may stop listening before it has heard all of its call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A socket on which it is no error that the function reads no more.
///
/// A function may answer and close before it has read its call. Its answer can be read all the same, but
/// an HTTP client whose write fails first would not look for it. So what is written from then on is
/// dropped, and what is read tells whether there is an answer.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    is_deaf: Arc<AtomicBool>,
}

/// Whether the function reads what is sent to it, as far as is known.
#[derive(Debug)]
pub struct Listens(Arc<AtomicBool>);

impl Listens {
    pub fn still(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

impl Socket {
    pub fn new(stream: UnixStream) -> (Self, Listens) {
        let is_deaf = Arc::new(AtomicBool::new(false));
        let listens = Listens(Arc::clone(&is_deaf));
        (Self { stream, is_deaf }, listens)
    }

    /// `bytes` for a write to a function that reads no more.
    fn unless_deaf(&self, written: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match written {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.is_deaf.store(true, Ordering::Relaxed);
                Ok(bytes)
            }
            written => written,
        }
    }

    fn is_deaf(&self) -> bool {
        self.is_deaf.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_deaf() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(self.unless_deaf(written, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        if self.is_deaf() {
            return Poll::Ready(Ok(bytes));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces));
        Poll::Ready(self.unless_deaf(written, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        Poll::Ready(self.unless_deaf(shut.map(|()| 0), 0).map(|_| ()))
    }
}
