//! Where a function can be called, from the annotations that the global plane sets.

use std::fmt;

use api_wire::fns::AnnotationsBody;
use api_wire::{FnBody, TriggerBody};

/// Fn contract 5.3.
const INVOKE: &str = "fnproject.io/fn/invokeEndpoint";
const TRIGGER: &str = "fnproject.io/trigger/httpEndpoint";
/// Ours: the name in DNS.
const DNS_NAME: &str = "tradewind.dev/dns-name";

/// Lines of (what, address).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<(String, String)>);

/// A text annotation's value.
pub fn annotation(annotations: Option<&AnnotationsBody>, key: &str) -> Option<String> {
    serde_json::from_str(annotations?.get(key)?.get()).ok()
}

pub fn invoke_endpoint(function: &FnBody) -> Option<String> {
    annotation(function.annotations.as_ref(), INVOKE)
}

pub fn trigger_endpoint(trigger: &TriggerBody) -> Option<String> {
    annotation(trigger.annotations.as_ref(), TRIGGER)
}

impl Endpoints {
    pub fn of_fn(function: &FnBody) -> Self {
        let dns = annotation(function.annotations.as_ref(), DNS_NAME);
        let lines = [("invoke", invoke_endpoint(function)), ("name", dns)];
        Self::present(lines.map(|(what, at)| (what.to_owned(), at)))
    }

    pub fn of_trigger(trigger: &TriggerBody) -> Self {
        let name = trigger.name.as_deref().unwrap_or_default();
        let dns = annotation(trigger.annotations.as_ref(), DNS_NAME);
        Self::present([
            (format!("trigger {name}"), trigger_endpoint(trigger)),
            (format!("trigger {name}"), dns),
        ])
    }

    fn present(lines: [(String, Option<String>); 2]) -> Self {
        let lines = lines.into_iter();
        Self(lines.filter_map(|(what, at)| Some((what, at?))).collect())
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        for (what, at) in &self.0 {
            writeln!(f, "  {what:width$}  {at}")?;
        }
        Ok(())
    }
}
