//! What an instance prints, line by line into the log (Fn contract 9.6).

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_types::CallId;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an FDK prints before it runs the handler is `NAME=` and the value of this header.
pub(crate) const FRAME_NAME: &str = "tradewind-call";
pub(crate) const FRAME_HEADER: &str = "Fn-Call-Id";

/// Bytes of one call that are logged; more is read and dropped, so that the function never blocks.
const CALL_BYTES_MAX: usize = 1 << 20;

/// Longer lines are logged in pieces: a line must fit in memory before it has an end.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Bytes of a call's id that are kept: ids are 26 letters, and a frame says what the function likes.
const CALL_ID_BYTES_MAX: usize = 128;

/// One of the two that a process prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A line that was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printed<'a> {
    /// The call it belongs to; none before the first.
    pub call: Option<&'a CallId>,
    pub stream: Stream,
    pub line: &'a str,
    /// Whether it is the last that is kept of its call, which printed too much.
    pub last: bool,
}

/// Where what an instance prints is read, and each line attributed to its call.
#[derive(Debug, Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    log: Box<dyn Fn(Printed<'_>) + Send + Sync>,
    current: Mutex<Current>,
    readers: TaskTracker,
    give_up: CancellationToken,
}

/// The call that runs. Lines printed before the first one belong to none.
#[derive(Debug)]
struct Current {
    call: Option<CallId>,
    bytes_left: usize,
}

impl Output {
    /// `log` is given every line that is kept, and must not block.
    pub fn new(log: impl Fn(Printed<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            log: Box::new(log),
            current: Mutex::new(Current {
                call: None,
                bytes_left: CALL_BYTES_MAX,
            }),
            readers: TaskTracker::new(),
            give_up: CancellationToken::new(),
        }))
    }

    /// Two tasks that log what is printed until no more can be. To be called once.
    pub fn readers<R>(
        &self,
        streams: [(Stream, R); 2],
    ) -> [impl Future<Output = ()> + Send + use<R> + 'static; 2]
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let readers = streams.map(|(stream, reader)| {
            let output = self.clone();
            let reading = async move {
                tokio::select! {
                    () = output.read(stream, reader) => {}
                    () = output.0.give_up.cancelled() => {}
                }
            };
            self.0.readers.track_future(reading)
        });
        self.0.readers.close();
        readers
    }

    /// From now on lines belong to this call, also those of functions that do not frame their log.
    pub fn begin_call(&self, call: &CallId) {
        *self.current() = Current {
            call: Some(call.clone()),
            bytes_left: CALL_BYTES_MAX,
        };
    }

    /// Returns once all readers have ended.
    pub async fn read_to_end(&self) {
        self.0.readers.wait().await;
    }

    /// Ends them, whatever may still be printed.
    pub fn give_up(&self) {
        self.0.give_up.cancel();
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, stream: Stream, reader: impl AsyncRead + Unpin) {
        let mut lines = Lines::new(reader);
        // What its frames say, since a line may be read after the next call has begun.
        let mut framed = None;
        while let Some(line) = lines.next().await {
            let frame = line
                .strip_prefix(FRAME_NAME)
                .and_then(|rest| rest.strip_prefix('='));
            match frame {
                Some(call) => {
                    let kept = call.floor_char_boundary(CALL_ID_BYTES_MAX);
                    framed = Some(CallId::new(&call[..kept]));
                }
                // Before a frame an FDK ends whatever line may be open.
                None if line.is_empty() => {}
                None => self.log(stream, framed.as_ref(), &line),
            }
        }
    }

    fn log(&self, stream: Stream, framed: Option<&CallId>, line: &str) {
        let mut current = self.current();
        if current.bytes_left == 0 {
            return;
        }
        let kept = line.floor_char_boundary(current.bytes_left);
        current.bytes_left = current.bytes_left.saturating_sub(line.len());
        let call = framed.cloned().or_else(|| current.call.clone());
        let last = current.bytes_left == 0;
        drop(current);
        (self.0.log)(Printed {
            call: call.as_ref(),
            stream,
            line: &line[..kept],
            last,
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

/// Lines without their ends, none longer than [`LINE_BYTES_MAX`]. What is not UTF-8 is replaced.
struct Lines<R> {
    stream: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(stream: R) -> Self {
        Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
        }
    }

    /// `None` at the end, and if it cannot be read any more.
    async fn next(&mut self) -> Option<Cow<'_, str>> {
        self.line.clear();
        loop {
            let read = self.stream.fill_buf().await.unwrap_or_default();
            if read.is_empty() {
                let left = (!self.line.is_empty()).then_some(&self.line);
                return left.map(|line| String::from_utf8_lossy(line));
            }
            let room = LINE_BYTES_MAX - self.line.len();
            let end = read.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(read.len().min(room));
            self.line.extend_from_slice(&read[..taken]);
            self.stream.consume(taken + usize::from(end.is_some()));
            if end.is_some() || self.line.len() == LINE_BYTES_MAX {
                let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
                return Some(String::from_utf8_lossy(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_has_no_more_of_an_id_than_an_id_has() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let output = Output::new({
            let calls = Arc::clone(&calls);
            move |printed| {
                let call = printed.call.map(|call| call.as_str().to_owned());
                calls
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(call);
            }
        });
        let long = "x".repeat(CALL_ID_BYTES_MAX + 1);
        let text = format!("{FRAME_NAME}=ONE\nfirst\n{FRAME_NAME}={long}\nsecond\n");
        output.read(Stream::Stdout, text.as_bytes()).await;
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        let want = [Some("ONE"), Some(&long[1..])];
        assert_eq!(calls.iter().map(Option::as_deref).collect::<Vec<_>>(), want);
    }

    #[tokio::test]
    async fn lines_end_at_their_end_or_at_the_bound() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let text = format!("one\r\n\n{long}more\nlast");
        let mut lines = Lines::new(text.as_bytes());
        for want in ["one", "", &long, "more", "last"] {
            assert_eq!(lines.next().await.as_deref(), Some(want));
        }
        assert_eq!(lines.next().await, None);
    }
}
