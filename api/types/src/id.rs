//! Ids and positions.

use std::fmt;
use std::sync::Arc;

/// Crockford's base32, the alphabet of Fn's ids (Fn contract 1.4).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A new 26-character id: 48 bits of Unix milliseconds, then 80 bits of randomness (ULID's layout).
///
/// Ids made in different regions must differ without coordination, so the bits that Fn fills with
/// the machine's address are random here. Ids sort by the millisecond they were made in.
#[must_use]
pub fn mint(unix_millis: u64, random: [u8; 10]) -> String {
    let mut tail = [0u8; 16];
    tail[6..].copy_from_slice(&random);
    let bits = u128::from(unix_millis & 0xFFFF_FFFF_FFFF) << 80 | u128::from_be_bytes(tail);
    (0..26)
        .rev()
        .map(|digit| {
            let five_bits = (bits >> (5 * digit)) & 0b1_1111;
            char::from(ALPHABET[usize::try_from(five_bits).expect("five bits fit a usize")])
        })
        .collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Opaque: any text is a valid id that may or may not be stored (Fn contract 1.4). Cheap to clone.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[must_use]
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(text.as_ref().into())
            }

            /// A fresh id, see [`mint`].
            #[must_use]
            pub fn mint(unix_millis: u64, random: [u8; 10]) -> Self {
                Self(mint(unix_millis, random).into())
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An app.
    AppId
);
text_id!(
    /// A function.
    FnId
);
text_id!(
    /// A trigger.
    TriggerId
);
text_id!(
    /// One call of a function, shown to the caller as `Fn-Call-Id`.
    CallId
);

/// A position in the global plane's history. An object carries the revision that last changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_have_ulids_shape_and_sort_by_time() {
        assert_eq!(mint(0, [0; 10]), "0".repeat(26));
        assert_eq!(
            mint(0xFFFF_FFFF_FFFF, [0xFF; 10]),
            format!("7{}", "Z".repeat(25))
        );
        assert!(mint(1_000, [0xFF; 10]) < mint(1_001, [0; 10]));
    }
}
