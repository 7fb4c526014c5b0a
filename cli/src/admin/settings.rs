//! `KEY=VALUE` on the command line, for config and annotations.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::placement::Selector;
use api_wire::fns::AnnotationsBody;
use serde_json::value::{RawValue, to_raw_value};

/// One variable of a function's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    pub value: String,
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("expected KEY=VALUE"),
        }
    }
}

pub fn config(settings: &[Setting]) -> Option<BTreeMap<String, String>> {
    let pairs = settings
        .iter()
        .map(|setting| (setting.key.clone(), setting.value.clone()));
    (!settings.is_empty()).then(|| pairs.collect())
}

/// The empty text deletes a key (Fn contract 5.2).
pub fn unset(keys: &[String]) -> BTreeMap<String, String> {
    keys.iter()
        .map(|key| (key.clone(), String::new()))
        .collect()
}

/// Annotations and placement, shared by commands that write apps and functions.
#[derive(Debug, clap::Args)]
pub struct Annotated {
    /// Annotation; VALUE is JSON or plain text, an empty VALUE deletes it; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<Setting>,
    /// Regions that may run it: names or labels, such as `fra,geo=eu`, or `anywhere`
    #[arg(long, value_name = "REGION,…")]
    placement: Option<String>,
    /// Never run it outside the placement, even when all regions of the placement are down
    #[arg(long, requires = "placement")]
    strict: bool,
}

impl Annotated {
    pub fn body(&self) -> anyhow::Result<Option<AnnotationsBody>> {
        let mut body = AnnotationsBody::new();
        for setting in &self.annotations {
            body.insert(setting.key.clone(), value(&setting.value)?);
        }
        if let Some(regions) = &self.placement {
            body.insert(
                PLACEMENT_ANNOTATION.to_owned(),
                placement(regions, self.strict)?,
            );
        }
        Ok((!body.is_empty()).then_some(body))
    }
}

/// JSON as it stands, anything else as JSON text.
fn value(text: &str) -> anyhow::Result<Box<RawValue>> {
    if let Ok(raw) = RawValue::from_string(text.to_owned()) {
        return Ok(raw);
    }
    to_raw_value(text).context("write an annotation")
}

fn placement(regions: &str, strict: bool) -> anyhow::Result<Box<RawValue>> {
    if regions == "anywhere" {
        ensure!(!strict, "--strict makes no sense with --placement anywhere");
        return value("\"\"");
    }
    let selectors: Vec<String> = regions
        .split(',')
        .map(|region| Selector::from(region.trim()).to_string())
        .collect();
    ensure!(
        selectors.iter().all(|selector| !selector.is_empty()),
        "--placement {regions:?} has an empty region; expected fra,geo=eu"
    );
    to_raw_value(&serde_json::json!({ "regions": selectors, "strict": strict }))
        .context("write the placement")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn annotations_are_json_or_else_text() {
        let annotated = Annotated {
            annotations: ["a=1", "b={\"x\": [2]}", "c=two words", "d=", "e=\"q\""]
                .map(|text| text.parse().unwrap())
                .into(),
            placement: Some("fra, geo=eu".to_owned()),
            strict: true,
        };
        let body = annotated.body().unwrap().unwrap();
        let text: Vec<String> = body
            .iter()
            .map(|(key, value)| format!("{key} {value}"))
            .collect();
        assert_eq!(
            text,
            [
                "a 1",
                "b {\"x\": [2]}",
                "c \"two words\"",
                "d \"\"",
                "e \"q\"",
                r#"tradewind.dev/placement {"regions":["fra","geo=eu"],"strict":true}"#,
            ]
        );
    }

    #[test]
    fn settings_have_a_key() {
        assert_eq!(
            "A=b=c".parse(),
            Ok(Setting {
                key: "A".to_owned(),
                value: "b=c".to_owned()
            })
        );
        for text in ["A", "=b", ""] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
        assert!(placement("fra,,iad", false).is_err());
        assert_eq!(placement("anywhere", false).unwrap().get(), "\"\"");
    }
}
