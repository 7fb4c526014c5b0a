//! Where an app or a function may run: the annotation, and the one [`rule`] that reads it.

use std::fmt;

use crate::region::Region;

pub mod rule;

pub use rule::{Placements, Ruling, Tier, Why};

/// The value of `tradewind.dev/placement`: `{"regions":["fra","geo=eu"],"strict":true}`.
///
/// A region is inside if any selector names it or is one of its labels. Strict means residency:
/// never elsewhere, even when every placed region is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub selectors: Vec<Selector>,
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Name(String),
    Label { key: String, value: String },
}

/// More selectors than any federation has regions would only be a mistake.
const SELECTORS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {annotation} annotation: {problem}; \
     expected {{\"regions\":[\"fra\",\"geo=eu\"],\"strict\":true}}",
    annotation = crate::fns::PLACEMENT_ANNOTATION
)]
pub struct PlacementError {
    pub problem: String,
}

impl Placement {
    /// Reads the annotation's JSON text. Unknown members are refused: a misspelt `strict` must not
    /// quietly let data leave its regions.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn from_json(json: &str) -> Result<Self, PlacementError> {
        let problem = |problem: &str| PlacementError {
            problem: problem.to_owned(),
        };
        let value: serde_json::Value =
            serde_json::from_str(json).map_err(|_| problem("not JSON"))?;
        let object = value.as_object().ok_or_else(|| problem("not an object"))?;
        if let Some(unknown) = object
            .keys()
            .find(|key| *key != "regions" && *key != "strict")
        {
            return Err(PlacementError {
                problem: format!("unknown member {unknown:?}"),
            });
        }
        let strict = match object.get("strict") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| problem("strict is not a boolean"))?,
        };
        let regions = object
            .get("regions")
            .and_then(serde_json::Value::as_array)
            .ok_or_else(|| problem("regions is not an array"))?;
        if regions.is_empty() || regions.len() > SELECTORS_MAX {
            return Err(problem("regions must have 1 to 64 entries"));
        }
        let selectors = regions
            .iter()
            .map(|region| match region.as_str() {
                None | Some("") => Err(problem("a region is not a non-empty string")),
                Some(text) => Ok(Selector::from(text)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { selectors, strict })
    }

    #[must_use]
    pub fn admits(&self, region: &Region) -> bool {
        self.selectors
            .iter()
            .any(|selector| selector.admits(region))
    }
}

impl From<&str> for Selector {
    fn from(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self::Label {
                key: key.to_owned(),
                value: value.to_owned(),
            },
            None => Self::Name(text.to_owned()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Label { key, value } => write!(f, "{key}={value}"),
        }
    }
}

impl Selector {
    fn admits(&self, region: &Region) -> bool {
        match self {
            Self::Name(name) => region.name.as_str() == name,
            Self::Label { key, value } => region.labels.get(key) == Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_placement_that_could_be_misread_is_refused() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"regions":[]}"#,
            r#"{"regions":["fra"],"strickt":true}"#,
            r#"{"regions":["fra"],"strict":"yes"}"#,
            r#"{"regions":[1]}"#,
            r#"{"regions":[""]}"#,
        ] {
            assert!(Placement::from_json(json).is_err(), "{json}");
        }
    }

    #[test]
    fn selectors_are_names_and_labels() {
        let placement =
            Placement::from_json(r#"{"regions":["fra","geo=eu"],"strict":true}"#).unwrap();
        assert!(placement.strict);
        assert_eq!(
            placement.selectors,
            [Selector::from("fra"), Selector::from("geo=eu")]
        );
        assert_eq!(placement.selectors[1].to_string(), "geo=eu");
    }
}
