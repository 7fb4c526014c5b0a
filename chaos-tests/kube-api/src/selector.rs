//! Label and field selectors, as their query parameters spell them.

use std::collections::BTreeMap;

use crate::refusal::{self, FailureStatus};
use crate::store::Stored;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Requirement {
    fn holds(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::In(key, values) => value_of(key).is_some_and(|value| values.contains(&value)),
            Self::NotIn(key, values) => !value_of(key).is_some_and(|value| values.contains(&value)),
            Self::Exists(key) => value_of(key).is_some(),
            Self::Absent(key) => value_of(key).is_none(),
        }
    }
}

/// Which objects a list or watch wants; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

/// The fields that kube-apiserver indexes for us; others are refused as it refuses them.
const FIELDS: [&str; 4] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
];

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, FailureStatus> {
        let labels = labels.map_or_else(|| Ok(Vec::new()), requirements)?;
        let fields = fields.map_or_else(|| Ok(Vec::new()), requirements)?;
        for field in &fields {
            match field {
                Requirement::In(key, _) | Requirement::NotIn(key, _)
                    if FIELDS.contains(&key.as_str()) => {}
                Requirement::In(key, _)
                | Requirement::NotIn(key, _)
                | Requirement::Exists(key)
                | Requirement::Absent(key) => {
                    return Err(refusal::bad_request(&format!(
                        "field label not supported: {key}"
                    )));
                }
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Stored) -> bool {
        let field = |key: &str| {
            Some(match key {
                "metadata.name" => object.name.name.clone(),
                "metadata.namespace" => object.name.namespace.clone(),
                "spec.nodeName" => object.node.clone(),
                _ => object.phase.clone(),
            })
        };
        self.matches_labels(&object.labels) && self.fields.iter().all(|wanted| wanted.holds(field))
    }

    fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|wanted| wanted.holds(|key| labels.get(key).cloned()))
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, FailureStatus> {
    split_outside_parentheses(text)
        .into_iter()
        .filter(|term| !term.is_empty())
        .map(requirement)
        .collect()
}

fn requirement(term: &str) -> Result<Requirement, FailureStatus> {
    let owned = |text: &str| text.trim().to_owned();
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(owned(key), vec![owned(value)]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(owned(key), vec![owned(value)]));
    }
    if let Some((head, values)) = term
        .strip_suffix(')')
        .and_then(|inner| inner.split_once('('))
    {
        let values = values.split(',').map(owned).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(key.to_owned(), values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(key.to_owned(), values)),
            _ => Err(unparsable(term)),
        };
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(owned(key))),
        None if term.trim().contains(char::is_whitespace) => Err(unparsable(term)),
        None => Ok(Requirement::Exists(owned(term))),
    }
}

fn unparsable(term: &str) -> FailureStatus {
    refusal::bad_request(&format!("unable to parse requirement: {term:?}"))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(text[start..].trim());
    terms
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn label_selectors_read_as_kubectl_spells_them() {
        let labels = BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "front".to_owned()),
        ]);
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("zone!=a", true),
            ("app in (api, web),tier", true),
            ("app notin (api,web)", false),
            ("zone notin (a)", true),
            ("!zone", true),
            ("!app", false),
            ("zone", false),
        ] {
            let selector = Selector::parse(Some(text), None).unwrap();
            assert_eq!(selector.matches_labels(&labels), want, "{text}");
        }
    }

    #[test]
    fn selectors_that_the_real_server_refuses_are_refused() {
        for (labels, fields) in [
            (Some("app of (a)"), None),
            (None, Some("spec.hostname=a")),
            (None, Some("metadata.name")),
        ] {
            let refused = Selector::parse(labels, fields).unwrap_err();
            assert_eq!(refused.code, 400, "{labels:?} {fields:?}");
        }
    }
}
