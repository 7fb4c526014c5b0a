//! What clients asked, so that a test can say "no write at all".

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::{AddAssign, Sub};
use std::sync::Mutex;

use crate::request::{Call, Calls};

/// Sums over calls of one user, verb and resource, or over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    /// Of the requests, those answered with 400 or more, or not at all.
    pub refused: u64,
    /// Of the requests, those that changed an object.
    pub changed: u64,
    pub bytes_in: u64,
    /// Bodies of answers, with the events of watches.
    pub bytes_out: u64,
    /// Objects of lists, and of watches' events without bookmarks.
    pub objects_out: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.changed += other.changed;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.objects_out += other.objects_out;
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            refused: self.refused - earlier.refused,
            changed: self.changed - earlier.changed,
            bytes_in: self.bytes_in - earlier.bytes_in,
            bytes_out: self.bytes_out - earlier.bytes_out,
            objects_out: self.objects_out - earlier.objects_out,
        }
    }
}

type Key = (String, crate::request::Verb, String);

/// A moment's counts; subtract an earlier one to count a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    tallies: BTreeMap<Key, Tally>,
}

impl Counts {
    /// The sum over `calls`; names are not counted apart.
    pub fn of(&self, calls: &Calls) -> Tally {
        let mut sum = Tally::default();
        for ((user, verb, resource), tally) in &self.tallies {
            let call = Call {
                user: user.clone(),
                verb: *verb,
                resource: resource.clone(),
                name: String::new(),
            };
            if calls.include(&call) {
                sum += *tally;
            }
        }
        sum
    }

    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let tallies = self
            .tallies
            .iter()
            .map(|(key, tally)| {
                let before = earlier.tallies.get(key).copied().unwrap_or_default();
                (key.clone(), *tally - before)
            })
            .filter(|(_, tally)| *tally != Tally::default())
            .collect();
        Self { tallies }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((user, verb, resource), tally) in &self.tallies {
            writeln!(
                to,
                "{user} {verb} {resource}: {requests} ({refused} refused, {changed} changed), \
                 {bytes_in} bytes in, {objects_out} objects and {bytes_out} bytes out",
                verb = verb.as_str(),
                requests = tally.requests,
                refused = tally.refused,
                changed = tally.changed,
                bytes_in = tally.bytes_in,
                objects_out = tally.objects_out,
                bytes_out = tally.bytes_out,
            )?;
        }
        Ok(())
    }
}

/// A write that was asked for, to say which when there should have been none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteSeen {
    pub call: Call,
    /// The HTTP status; 0 for a dropped connection.
    pub code: u16,
    pub changed: bool,
}

/// Newest writes kept for messages; a failing test needs the first few that were too many.
const WRITES_KEPT: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    counted: Mutex<(Counts, VecDeque<WriteSeen>)>,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Counts {
        self.counted.lock().expect("no holder panics").0.clone()
    }

    pub(crate) fn writes(&self) -> Vec<WriteSeen> {
        let counted = self.counted.lock().expect("no holder panics");
        counted.1.iter().cloned().collect()
    }

    pub(crate) fn add(&self, call: &Call, tally: Tally) {
        let key = (call.user.clone(), call.verb, call.resource.clone());
        let mut counted = self.counted.lock().expect("no holder panics");
        *counted.0.tallies.entry(key).or_default() += tally;
    }

    pub(crate) fn saw_write(&self, call: &Call, code: u16, changed: bool) {
        let mut counted = self.counted.lock().expect("no holder panics");
        if counted.1.len() == WRITES_KEPT {
            counted.1.pop_front();
        }
        counted.1.push_back(WriteSeen {
            call: call.clone(),
            code,
            changed,
        });
    }
}
