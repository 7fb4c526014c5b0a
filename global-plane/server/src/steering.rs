//! Which gateways a call is offered to: DNS's own decision, made here for who does not ask DNS.

use std::net::IpAddr;

use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::{Catalog, Fn};
use dns_steering::{Policy, Target, View, steer};
use dns_worldmap::WorldMap;
use dns_worldmap::explain::site;

/// What a call names, as far as steering cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    target: Target,
}

impl Called {
    /// A function by its id: `FN--APP.Z` to DNS.
    #[must_use]
    pub fn function(catalog: &Catalog, function: &Fn) -> Self {
        let target = match catalog.app(&function.app_id) {
            Some(app) => Target::Fn {
                app: app.name.clone(),
                name: function.name.clone(),
            },
            None => Target::Invoke,
        };
        Self { target }
    }

    /// One of an app's triggers: `APP.Z` to DNS, unless its function is placed more narrowly.
    #[must_use]
    pub fn trigger(catalog: &Catalog, app: &str, function: &Fn) -> Self {
        if function.annotations.contains_key(PLACEMENT_ANNOTATION) {
            return Self::function(catalog, function);
        }
        Self {
            target: Target::App(app.to_owned()),
        }
    }
}

/// Gateways to try, best first; empty if none may serve it.
#[must_use]
pub fn gateways(
    view: &View,
    map: &WorldMap,
    policy: &Policy,
    client: IpAddr,
    called: &Called,
) -> Vec<String> {
    let (client, _) = site(map, client);
    steer(&client, &called.target, view, policy)
        .regions
        .iter()
        .filter_map(|region| view.region(region.as_str()))
        .map(|region| region.gateway.clone())
        .collect()
}
