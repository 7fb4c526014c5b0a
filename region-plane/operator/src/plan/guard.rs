//! Doubt about a list that lost most of what it held.

use std::collections::BTreeSet;
use std::fmt;

/// A few may always go at once: in a small region half is soon reached.
const DROP_FREE: usize = 10;

/// Holds the names last believed.
#[derive(Debug, Default)]
pub struct Guard {
    believed: BTreeSet<String>,
}

/// More went at once than is plausible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassDrop {
    pub gone: usize,
    pub held: usize,
}

impl fmt::Display for MassDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} went at once", self.gone, self.held)
    }
}

impl Guard {
    /// Judges what is there now. While it is not believed, what was believed stands: the doubt ends
    /// when enough of it is back, or somebody has `confirmed` that it should be gone.
    ///
    /// # Errors
    /// If more is gone than is plausible.
    pub fn look(
        &mut self,
        present: impl IntoIterator<Item = String>,
        confirmed: bool,
    ) -> Result<(), MassDrop> {
        let present: BTreeSet<String> = present.into_iter().collect();
        let gone = self.believed.difference(&present).count();
        let held = self.believed.len();
        if !confirmed && gone > DROP_FREE && gone > held / 2 {
            return Err(MassDrop { gone, held });
        }
        self.believed = present;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("fn-{n}")).collect()
    }

    #[test]
    fn only_what_is_more_than_ten_and_more_than_half_is_doubted() {
        for (held, left, doubted) in [
            (0, 0, false),
            (10, 0, false),
            (11, 0, true),
            (100, 50, false),
            (100, 49, true),
            (5_000, 0, true),
        ] {
            let mut guard = Guard::default();
            assert_eq!(guard.look(names(0..held), false), Ok(()));
            let looked = guard.look(names(0..left), false);
            assert_eq!(looked.is_err(), doubted, "{held} to {left}");
        }
    }

    #[test]
    fn doubt_lasts_until_they_are_back_or_somebody_says_so() {
        let mut guard = Guard::default();
        assert_eq!(guard.look(names(0..100), false), Ok(()));
        for _ in 0..3 {
            let drop = MassDrop {
                gone: 90,
                held: 100,
            };
            assert_eq!(guard.look(names(0..10), false), Err(drop));
        }
        assert_eq!(guard.look(names(0..60), false), Ok(()), "most are back");
        assert!(guard.look(names(0..1), false).is_err());
        assert_eq!(guard.look(names(0..1), true), Ok(()));
        assert_eq!(guard.look(names(0..1), false), Ok(()));
    }
}
