//! Where a function can be called, from the annotations that the global plane sets.

use std::fmt;

use api_types::dns_label;
use api_types::fns::{HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION};
use api_wire::fns::AnnotationsBody;
use api_wire::{FnBody, TriggerBody};

/// Lines of (what, address).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<(String, String)>);

/// A text annotation's value.
pub fn annotation(annotations: Option<&AnnotationsBody>, key: &str) -> Option<String> {
    serde_json::from_str(annotations?.get(key)?.get()).ok()
}

pub fn invoke_endpoint(function: &FnBody) -> Option<String> {
    annotation(function.annotations.as_ref(), INVOKE_ENDPOINT_ANNOTATION)
}

pub fn trigger_endpoint(trigger: &TriggerBody) -> Option<String> {
    annotation(trigger.annotations.as_ref(), HTTP_ENDPOINT_ANNOTATION)
}

/// Where DNS leads: the zone and the port that all gateways have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    pub gateway_port: u16,
}

impl Zone {
    /// A trigger under its app's name; `None` if that app can have no name in DNS.
    pub fn trigger_url(&self, app: &str, trigger: &TriggerBody) -> Option<String> {
        let label = dns_label::app_label(app).ok()?;
        let source = trigger.source.as_deref()?;
        let (zone, port) = (&self.name, self.gateway_port);
        Some(format!("http://{label}.{zone}:{port}{source}"))
    }
}

impl Endpoints {
    pub fn of_fn(function: &FnBody) -> Self {
        let endpoint = invoke_endpoint(function);
        Self(
            endpoint
                .map(|at| ("invoke".to_owned(), at))
                .into_iter()
                .collect(),
        )
    }

    pub fn of_trigger(trigger: &TriggerBody) -> Self {
        let mut endpoints = Self::default();
        if let Some(at) = trigger_endpoint(trigger) {
            let name = trigger.name.as_deref().unwrap_or_default();
            endpoints.add(format!("trigger {name}"), at);
        }
        endpoints
    }

    pub fn add(&mut self, what: String, at: String) {
        self.0.push((what, at));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_reached_by_its_apps_name_where_that_can_be_one() {
        let zone = Zone {
            name: "fn.test".to_owned(),
            gateway_port: 8080,
        };
        let trigger = TriggerBody {
            source: Some("/hello".to_owned()),
            ..TriggerBody::default()
        };
        assert_eq!(
            zone.trigger_url("shop", &trigger).as_deref(),
            Some("http://shop.fn.test:8080/hello")
        );
        assert_eq!(zone.trigger_url("My_Shop", &trigger), None);
    }
}
