//! The last changes, ready to send: what a watch reads from.
//!
//! Watchers pull. One that is slower than the changes falls off the end and is told where to take a
//! snapshot; applying never waits for it and keeps nothing for it.

use std::collections::VecDeque;

use api_types::{Revision, Timestamp};
use bytes::Bytes;

/// Bytes kept. Objects with many annotations can be 50 KiB each.
pub const BYTES_MAX: usize = 64 << 20;

/// Bytes that one pull returns at most, unless a single revision is larger.
const PULL_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct History {
    entries: VecDeque<Entry>,
    /// Changes up to here are gone.
    compacted: Revision,
    latest: Revision,
    bytes: usize,
    revisions_max: usize,
}

/// One revision's changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub revision: Revision,
    /// When the change was proposed.
    pub at: Timestamp,
    /// Zero or more watch lines, each ending with a newline; they are never sent apart.
    pub lines: Bytes,
}

/// What comes after a revision.
#[derive(Debug, PartialEq, Eq)]
pub struct Pulled {
    pub lines: Vec<Bytes>,
    /// Everything up to here is in `lines` or was before them.
    pub upto: Revision,
}

/// The changes after the revision asked for are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted;

impl History {
    /// An empty history of a state at `latest`.
    #[must_use]
    pub fn new(latest: Revision, revisions_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            compacted: latest,
            latest,
            bytes: 0,
            revisions_max,
        }
    }

    /// A history read back from disk, in order of revision, of a state at `latest`.
    #[must_use]
    pub fn reload(entries: Vec<Entry>, latest: Revision, revisions_max: usize) -> Self {
        let mut history = Self::new(latest, revisions_max);
        if let Some(first) = entries.first() {
            history.compacted = Revision(first.revision.0.saturating_sub(1));
            history.bytes = entries.iter().map(|entry| entry.lines.len()).sum();
            history.entries = entries.into();
        }
        history
    }

    /// Forgets everything: the state jumped to `latest`.
    pub fn restart(&mut self, latest: Revision) {
        *self = Self::new(latest, self.revisions_max);
    }

    /// Adds a revision; returns those that no longer fit, oldest first.
    pub fn push(&mut self, entry: Entry) -> Vec<Revision> {
        debug_assert!(entry.revision > self.latest, "revisions only grow");
        self.latest = entry.revision;
        self.bytes += entry.lines.len();
        self.entries.push_back(entry);
        let mut dropped = Vec::new();
        while self.entries.len() > self.revisions_max || self.bytes > BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.lines.len();
            self.compacted = oldest.revision;
            dropped.push(oldest.revision);
        }
        dropped
    }

    /// Changes after `from`, exclusive. Nothing, up to `from`, if there is none yet.
    ///
    /// # Errors
    /// [`Compacted`] if some of them are gone.
    pub fn after(&self, from: Revision) -> Result<Pulled, Compacted> {
        if from >= self.latest {
            return Ok(Pulled {
                lines: Vec::new(),
                upto: from,
            });
        }
        if from < self.compacted {
            return Err(Compacted);
        }
        let start = self.entries.partition_point(|entry| entry.revision <= from);
        let (mut lines, mut bytes, mut upto) = (Vec::new(), 0, from);
        for entry in self.entries.range(start..) {
            if bytes > 0 && bytes + entry.lines.len() > PULL_BYTES_MAX {
                return Ok(Pulled { lines, upto });
            }
            bytes += entry.lines.len();
            upto = entry.revision;
            if !entry.lines.is_empty() {
                lines.push(entry.lines.clone());
            }
        }
        Ok(Pulled {
            lines,
            upto: self.latest,
        })
    }

    /// When the oldest visible change after `revision` was proposed; `None` if there is none. A
    /// lower bound for who lacks changes that are gone.
    #[must_use]
    pub fn waiting_since(&self, revision: Revision) -> Option<Timestamp> {
        let start = self
            .entries
            .partition_point(|entry| entry.revision <= revision);
        self.entries
            .range(start..)
            .find(|entry| !entry.lines.is_empty())
            .map(|entry| entry.at)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const REVISIONS_MAX: usize = 100;

    fn entry(revision: u64) -> Entry {
        Entry {
            revision: Revision(revision),
            at: Timestamp(i64::try_from(revision).unwrap() * 10),
            lines: Bytes::from(format!("{revision}\n")),
        }
    }

    fn pulled(history: &History, from: u64) -> Result<(String, u64), Compacted> {
        let pulled = history.after(Revision(from))?;
        Ok((
            String::from_utf8(pulled.lines.concat()).unwrap(),
            pulled.upto.0,
        ))
    }

    #[test]
    fn a_pull_returns_everything_after_a_revision_or_says_it_is_gone() {
        let mut history = History::new(Revision(5), REVISIONS_MAX);
        for revision in [6, 7, 9] {
            history.push(entry(revision));
        }
        for (from, want) in [
            (4, Err(Compacted)),
            (5, Ok(("6\n7\n9\n".to_owned(), 9))),
            (6, Ok(("7\n9\n".to_owned(), 9))),
            (8, Ok(("9\n".to_owned(), 9))),
            (9, Ok((String::new(), 9))),
            (12, Ok((String::new(), 12))),
        ] {
            assert_eq!(pulled(&history, from), want, "after {from}");
        }
    }

    #[test]
    fn what_does_not_fit_is_compacted_and_named() {
        let mut history = History::new(Revision(0), REVISIONS_MAX);
        let max = u64::try_from(REVISIONS_MAX).unwrap();
        for revision in 1..=max {
            assert_eq!(history.push(entry(revision)), []);
        }
        assert_eq!(history.push(entry(max + 1)), [Revision(1)]);
        assert_eq!(history.after(Revision(0)), Err(Compacted));
        assert!(history.after(Revision(1)).is_ok());

        let huge = Entry {
            lines: Bytes::from(vec![b'x'; BYTES_MAX + 1]),
            ..entry(max + 2)
        };
        let dropped = history.push(huge);
        assert_eq!(dropped.last(), Some(&Revision(max + 2)));
        assert_eq!(history.compacted, Revision(max + 2));
    }

    #[test]
    fn a_long_pull_is_cut_between_revisions() {
        let mut history = History::new(Revision(0), REVISIONS_MAX);
        for revision in 1..=3 {
            history.push(Entry {
                lines: Bytes::from(vec![b'x'; PULL_BYTES_MAX / 2 + 1]),
                ..entry(revision)
            });
        }
        let first = history.after(Revision(0)).unwrap();
        assert_eq!((first.lines.len(), first.upto), (1, Revision(1)));
    }

    #[test]
    fn a_reloaded_history_continues_where_it_was() {
        let entries = vec![entry(3), entry(4)];
        let history = History::reload(entries, Revision(4), REVISIONS_MAX);
        assert_eq!(pulled(&history, 2), Ok(("3\n4\n".to_owned(), 4)));
        assert_eq!(pulled(&history, 1), Err(Compacted));
        let empty = History::reload(Vec::new(), Revision(7), REVISIONS_MAX);
        assert_eq!(empty.compacted, Revision(7));
    }

    #[test]
    fn lag_counts_from_the_oldest_change_that_is_lacked() {
        let mut history = History::new(Revision(0), REVISIONS_MAX);
        history.push(entry(1));
        history.push(Entry {
            lines: Bytes::new(),
            ..entry(2)
        });
        history.push(entry(3));
        for (at, want) in [(0, Some(10)), (1, Some(30)), (2, Some(30)), (3, None)] {
            assert_eq!(
                history.waiting_since(Revision(at)),
                want.map(Timestamp),
                "{at}"
            );
        }
    }
}
