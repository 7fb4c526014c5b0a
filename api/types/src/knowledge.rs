//! What programs of different versions must agree on before any of them uses it.
//!
//! Everything that one version writes and another reads has a name, its format: a command
//! (`command/create_app`), an object's form (`object/app`), a rule by which commands are applied
//! (`rule/…`), a view (`view/steering`). docs/decisions/format-gate.md has the reasons.

use std::collections::BTreeSet;

/// Formats that every version knows which can be part of a federation. Frozen: what is added later
/// goes to [`LATER`].
pub const FIRST: &[&str] = &[
    "command/add_bundle",
    "command/create_app",
    "command/create_fn",
    "command/create_trigger",
    "command/delete_app",
    "command/delete_fn",
    "command/delete_trigger",
    "command/register_region",
    "command/say_known",
    "command/set_drained",
    "command/set_verdicts",
    "command/update_app",
    "command/update_fn",
    "command/update_trigger",
    "command/use_formats",
    "object/app",
    "object/bundle",
    "object/fn",
    "object/format",
    "object/member",
    "object/region",
    "object/trigger",
    "view/steering",
];

/// Formats that this program knows beside [`FIRST`]. A new command, form, rule or view is added here,
/// and is used once everybody knows it.
#[cfg(not(feature = "next-format"))]
pub const LATER: &[&str] = &[];

/// One command and one form more than there are: what `make test-upgrade` upgrades to.
#[cfg(feature = "next-format")]
pub const LATER: &[&str] = &["command/put_note", "object/note"];

/// More than this is no list of formats.
pub const FORMATS_MAX: usize = 256;

/// Of a format's name.
pub const FORMAT_BYTES_MAX: usize = 64;

/// The formats that a program knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Beside [`FIRST`], which need not be said.
    later: BTreeSet<String>,
}

impl Knowledge {
    /// What this program knows.
    #[must_use]
    pub fn own() -> Self {
        Self::said(LATER)
    }

    /// What a program knows that said this. What cannot be a format is left out, and so is what
    /// exceeds [`FORMATS_MAX`]: who says that is not believed to know it.
    pub fn said<T: AsRef<str>>(formats: impl IntoIterator<Item = T>) -> Self {
        let formats = formats.into_iter().take(FORMATS_MAX);
        Self {
            later: formats
                .filter(|format| is_format(format.as_ref()))
                .map(|format| format.as_ref().to_owned())
                .filter(|format| !FIRST.contains(&format.as_str()))
                .collect(),
        }
    }

    /// What there is to say: the formats beside [`FIRST`], in order.
    pub fn to_say(&self) -> impl Iterator<Item = &str> {
        self.later.iter().map(String::as_str)
    }

    #[must_use]
    pub fn knows(&self, format: &str) -> bool {
        FIRST.contains(&format) || self.later.contains(format)
    }

    /// Those of `formats` that it does not know.
    pub fn lacks<'a>(&self, formats: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let formats = formats.into_iter();
        formats.filter(|format| !self.knows(format)).collect()
    }
}

/// Whether a text is a format's name: `KIND/NAME` of lower-case letters, digits, `_` and `.`.
#[must_use]
pub fn is_format(text: &str) -> bool {
    let sound = |part: &str| {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
        !part.is_empty() && part.bytes().all(allowed)
    };
    let parts = text.split_once('/');
    text.len() <= FORMAT_BYTES_MAX && parts.is_some_and(|(kind, name)| sound(kind) && sound(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_first_must_be_said_to_be_known() {
        let old = Knowledge::default();
        let new = Knowledge::said(["object/comet", "object/app", "no format", "UPPER/case"]);
        assert_eq!(new.to_say().collect::<Vec<_>>(), ["object/comet"]);
        let asked = ["object/app", "object/comet", "rule/moon"];
        assert_eq!(old.lacks(asked), ["object/comet", "rule/moon"]);
        assert_eq!(new.lacks(asked), ["rule/moon"]);
        let many = (0..1000).map(|n| format!("object/{n}"));
        assert_eq!(Knowledge::said(many).to_say().count(), FORMATS_MAX);
    }

    #[test]
    fn the_lists_have_formats_once() {
        let all: BTreeSet<&str> = FIRST.iter().chain(LATER).copied().collect();
        assert_eq!(all.len(), FIRST.len() + LATER.len());
        assert!(all.iter().all(|format| is_format(format)));
    }

    #[test]
    fn every_kind_of_object_has_its_form_in_the_lists() {
        let own = Knowledge::own();
        for kind in crate::Kind::ALL {
            assert!(own.knows(&kind.form()), "{}", kind.form());
        }
    }
}
