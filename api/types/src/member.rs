//! Nodes of the global plane, and what they have agreed to use.

use std::fmt;
use std::str::FromStr;

use crate::{Knowledge, Revision, knowledge};

/// A node's number: its `node_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a member has said of itself. One that has said nothing knows what every version knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub knows: Knowledge,
    pub revision: Revision,
}

/// A format's name, see [`knowledge`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormatName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a format is KIND/NAME, of at most {max} lower-case letters, digits, `_` and `.`", max = knowledge::FORMAT_BYTES_MAX)]
pub struct FormatNameError;

impl FormatName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FormatName {
    type Err = FormatNameError;

    fn from_str(text: &str) -> Result<Self, FormatNameError> {
        if !knowledge::is_format(text) {
            return Err(FormatNameError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A format that is in use, for good: who does not know it can no longer take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub name: FormatName,
    /// Since when.
    pub revision: Revision,
}
