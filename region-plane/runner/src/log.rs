//! Lines that the function printed and nobody has read yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use region_plane_runtime::output::{Printed, Stream};
use tokio::sync::Notify;

use crate::protocol::{Event, LogLine, LogStream};

/// Bytes of lines that are kept, a few screens: the gateway reads them as they come, and only has to
/// be away for moments.
const BYTES_MAX: usize = 256 << 10;

/// What a line costs beyond its text, so that empty ones are bounded as well.
const LINE_BYTES: usize = 128;

/// Drops the oldest lines when there is no room for more, and says how many.
#[derive(Debug, Default)]
pub struct Log {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    bytes: usize,
    dropped: u64,
    dropped_ever: u64,
}

impl Log {
    pub fn push(&self, printed: Printed<'_>) {
        let stream = match printed.stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        let call = printed.call.map(|call| call.as_str().to_owned());
        let mut kept = self.kept();
        kept.push(LogLine {
            call: call.clone(),
            stream,
            line: printed.line.to_owned(),
        });
        if printed.last {
            kept.push(LogLine {
                call,
                stream,
                line: "(printed more than is kept of a call)".to_owned(),
            });
        }
        drop(kept);
        self.news.notify_waiters();
    }

    /// The oldest that is left, once there is one. Every event is taken by one reader only.
    ///
    /// Cancel safe.
    pub async fn next(&self) -> Event {
        loop {
            // Before looking, so that no line is missed between the look and the wait.
            let news = self.news.notified();
            if let Some(event) = self.kept().pop() {
                return event;
            }
            news.await;
        }
    }

    /// How many lines have been dropped since the start.
    pub fn dropped_ever(&self) -> u64 {
        self.kept().dropped_ever
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, line: LogLine) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= cost(&oldest);
            self.dropped += 1;
            self.dropped_ever += 1;
        }
    }

    fn pop(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.dropped) {
            0 => {
                let log = self.lines.pop_front()?;
                self.bytes -= cost(&log);
                Some(Event::Log { log })
            }
            dropped => Some(Event::Dropped { dropped }),
        }
    }
}

fn cost(line: &LogLine) -> usize {
    LINE_BYTES + line.line.len() + line.call.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str, last: bool) -> Printed<'_> {
        Printed {
            call: None,
            stream: Stream::Stderr,
            line,
            last,
        }
    }

    fn line(line: &str) -> Event {
        Event::Log {
            log: LogLine {
                call: None,
                stream: LogStream::Stderr,
                line: line.to_owned(),
            },
        }
    }

    #[tokio::test]
    async fn the_oldest_lines_go_first_and_are_counted() {
        let log = Log::default();
        let long = "x".repeat(BYTES_MAX / 4);
        for kept in ["1", "2", "3", &long, &long, &long, "4"] {
            log.push(printed(kept, false));
        }
        assert_eq!(log.next().await, line("1"));
        log.push(printed(&long, false));
        assert_eq!(log.next().await, Event::Dropped { dropped: 3 });
        assert_eq!(log.dropped_ever(), 3);
        for want in [&long, &long, "4", &long] {
            assert_eq!(log.next().await, line(want));
        }
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_is_printed_next() {
        let log = Log::default();
        let (read, ()) = tokio::join!(log.next(), async { log.push(printed("now", true)) });
        assert_eq!(read, line("now"));
        assert_eq!(
            log.next().await,
            line("(printed more than is kept of a call)")
        );
    }

    #[test]
    fn empty_lines_are_bounded() {
        let log = Log::default();
        for _ in 0..100_000 {
            log.push(printed("", false));
        }
        assert!(log.kept().lines.len() <= BYTES_MAX / LINE_BYTES);
    }
}
