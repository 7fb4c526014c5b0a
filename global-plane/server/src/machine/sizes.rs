//! How many bytes all objects have together, kept as they change.

use std::collections::BTreeMap;

/// The length of every object's record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    by_key: BTreeMap<String, usize>,
    total: usize,
}

impl Sizes {
    pub fn put(&mut self, key: String, bytes: usize) {
        self.total += bytes;
        self.total -= self.by_key.insert(key, bytes).unwrap_or(0);
    }

    pub fn deleted(&mut self, key: &str) {
        self.total -= self.by_key.remove(key).unwrap_or(0);
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}
