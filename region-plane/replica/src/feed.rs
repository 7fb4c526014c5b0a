//! Which of many things changed, for consumers that look now and then.

use std::collections::{BTreeSet, VecDeque};

/// Changes that are remembered. A consumer that missed more compares everything, which then costs
/// about as much as what changed; a change is a few dozen bytes.
const CHANGES_MAX: usize = 10_000;

/// A bounded list of what changed, oldest first. Positions count changes; 0 is before everything.
#[derive(Debug)]
pub struct Feed<T> {
    changes: VecDeque<T>,
    /// Where `changes` begins.
    begin: u64,
}

/// What may have changed after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<T> {
    These(BTreeSet<T>),
    /// The position is too long ago, or 0: compare everything.
    All,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self {
            changes: VecDeque::new(),
            begin: 1,
        }
    }
}

impl<T: Ord + Clone> Feed<T> {
    pub fn push(&mut self, changed: T) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
            self.begin += 1;
        }
        self.changes.push_back(changed);
    }

    /// What changed after `position`, and the position to ask from next time.
    pub fn since(&self, position: u64) -> (News<T>, u64) {
        let end = self.begin + self.changes.len() as u64;
        let news = match position.checked_sub(self.begin) {
            Some(seen) => {
                let seen = usize::try_from(seen).unwrap_or(usize::MAX);
                News::These(self.changes.iter().skip(seen).cloned().collect())
            }
            None => News::All,
        };
        (news, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_hears_of_each_change_once_and_of_all_if_it_missed_some() {
        let mut feed = Feed::default();
        let (news, position) = feed.since(0);
        assert_eq!(news, News::All);
        assert_eq!(
            feed.since(position),
            (News::These(BTreeSet::new()), position)
        );

        for changed in [1, 2, 1] {
            feed.push(changed);
        }
        let (news, later) = feed.since(position);
        assert_eq!(news, News::These(BTreeSet::from([1, 2])));
        assert_eq!(feed.since(later).0, News::These(BTreeSet::new()));

        for changed in 0..CHANGES_MAX {
            feed.push(changed);
        }
        assert_eq!(feed.since(position).0, News::All);
        let News::These(last) = feed.since(later).0 else {
            panic!("as many as are remembered")
        };
        assert_eq!(last.len(), CHANGES_MAX);
        feed.push(0);
        assert_eq!(feed.since(later).0, News::All);
    }
}
