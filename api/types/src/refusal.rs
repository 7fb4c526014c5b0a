//! Requests that were understood and refused.

use std::fmt;

/// What a refusal means to the caller; servers choose the status from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is wrong and would be wrong again.
    Invalid,
    /// What it names is not stored.
    NotFound,
    /// It clashes with what is stored.
    Conflict,
    /// `If-Match` or `If-None-Match` did not hold.
    Precondition,
    /// A bound of the store would be exceeded.
    Full,
    /// The idempotency key belongs to another request.
    KeyReused,
}

/// A deterministic "no", the same on every replica. The message is the one the Fn contract fixes
/// where it fixes one, and is shown to the user as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

impl Refusal {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            message: message.into(),
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::NotFound,
            message: message.into(),
        }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Conflict,
            message: message.into(),
        }
    }

    pub fn precondition(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Precondition,
            message: message.into(),
        }
    }

    pub fn key_reused(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::KeyReused,
            message: message.into(),
        }
    }

    pub fn full(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Full,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
