//! Which gateways a call is offered to: DNS's own decision, made here for who does not ask DNS.

use std::net::IpAddr;

use calls_forward::Gateway;
use dns_steering::{Policy, Target, View, steer};
use dns_worldmap::explain::site;

/// Gateways to try, best first; empty if none may serve it.
#[must_use]
pub fn gateways(view: &View, policy: &Policy, client: IpAddr, called: &Target) -> Vec<Gateway> {
    steer(&site(view, client), called, view, policy)
        .regions
        .iter()
        .filter_map(|region| view.region(region.as_str()))
        .map(|region| Gateway {
            region: region.name.to_string(),
            address: region.gateway.clone(),
        })
        .collect()
}
