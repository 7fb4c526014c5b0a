//! Functions whose last start failed, to be told to the operator.

use std::collections::BTreeMap;

use region_plane_resources::demand::{FAILURES_MAX, StartFailure};

use crate::claims::Pair;

/// Bytes of what a function's start failed by. Whoever owns it sees no more of it in a condition, and
/// all of them go to the operator each second: as many as may be, escaped at six bytes each, are a
/// fifth of what it reads.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// The last ones to fail, [`FAILURES_MAX`] of them. A function is forgotten once it starts, else when
/// newer failures take its place: of one that is not there any more nothing else would tell.
#[derive(Debug, Default)]
pub struct Failures {
    by_function: BTreeMap<String, Failed>,
    newest: u64,
}

#[derive(Debug)]
struct Failed {
    number: u64,
    failure: StartFailure,
}

impl Failures {
    pub fn failed(&mut self, pair: &Pair, mut message: String) {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        self.newest += 1;
        let failed = Failed {
            number: self.newest,
            failure: StartFailure {
                function: pair.function.clone(),
                settings: pair.settings.clone(),
                message,
            },
        };
        self.by_function.insert(pair.function.clone(), failed);
        if self.by_function.len() > FAILURES_MAX {
            let oldest = self.by_function.values().min_by_key(|failed| failed.number);
            let function = oldest.expect("there are many").failure.function.clone();
            self.by_function.remove(&function);
        }
    }

    pub fn succeeded(&mut self, function: &str) {
        self.by_function.remove(function);
    }

    /// In the order of their functions, so that the same ones are the same list.
    pub fn list(&self) -> Vec<StartFailure> {
        let failed = self.by_function.values();
        failed.map(|failed| failed.failure.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(function: &str) -> Pair {
        Pair {
            function: function.to_owned(),
            settings: "1".to_owned(),
        }
    }

    fn names(failures: &Failures) -> Vec<String> {
        let list = failures.list().into_iter();
        list.map(|failure| failure.function).collect()
    }

    #[test]
    fn a_function_is_told_until_it_starts() {
        let mut failures = Failures::default();
        failures.failed(&pair("b"), "first".to_owned());
        failures.failed(&pair("a"), "once".to_owned());
        failures.failed(&pair("b"), "second".to_owned());
        assert_eq!(names(&failures), ["a", "b"]);
        assert_eq!(failures.list()[1].message, "second");
        failures.succeeded("a");
        failures.succeeded("c");
        assert_eq!(names(&failures), ["b"]);
    }

    #[test]
    fn the_one_that_failed_longest_ago_makes_room() {
        let mut failures = Failures::default();
        for number in 0..FAILURES_MAX {
            failures.failed(&pair(&format!("f{number:04}")), String::new());
        }
        failures.failed(&pair("f0000"), "again".to_owned());
        failures.failed(&pair("new"), String::new());
        let names = names(&failures);
        assert_eq!(names.len(), FAILURES_MAX);
        let has = |name: &str| names.iter().any(|has| has == name);
        assert!(has("new") && has("f0000") && !has("f0001"));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        for (message, bytes) in [
            ("x".repeat(MESSAGE_BYTES_MAX), MESSAGE_BYTES_MAX),
            ("x".repeat(64 << 10), MESSAGE_BYTES_MAX),
            ("€".repeat(MESSAGE_BYTES_MAX), MESSAGE_BYTES_MAX - 1),
            (String::new(), 0),
        ] {
            let mut failures = Failures::default();
            failures.failed(&pair("f"), message);
            assert_eq!(failures.list()[0].message.len(), bytes);
        }
    }
}
