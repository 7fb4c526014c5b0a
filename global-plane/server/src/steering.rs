//! Which gateways a call is offered to: DNS's own decision, made here for who does not ask DNS.

use std::net::IpAddr;

use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::{Catalog, Fn};
use api_wire::planes::{Candidate, Explanation};
use dns_steering::{Client, Policy, Target, View, steer};
use dns_worldmap::WorldMap;

use crate::views::Steering;

/// What a call names, as far as steering cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    target: Target,
}

/// The bits of an address that DNS servers steer by when they know all of it: what one site has at
/// least. By the same bits here, a caller gets the region that DNS would name.
const BLOCK_V4: u8 = 24;
const BLOCK_V6: u8 = 48;

/// Only shown in explanations: nothing caches what is decided here.
const POLICY: Policy = Policy {
    ttl_secs: 30,
    ttl_all_down_secs: 5,
};

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
pub fn gateways(view: &View, map: &WorldMap, client: IpAddr, called: &Called) -> Vec<String> {
    let (client, _) = locate(map, client);
    steer(&client, &called.target, view, &POLICY)
        .regions
        .iter()
        .filter_map(|region| view.region(region.as_str()))
        .map(|region| region.gateway.clone())
        .collect()
}

/// Why a client that asks for `name` is sent where it is; `None` if the name is not steered.
#[must_use]
pub fn explain(
    steering: &Steering,
    view: &View,
    map: &WorldMap,
    name: &str,
    client: IpAddr,
) -> Option<Explanation> {
    let target = dns_steering::name::parse(view.zone(), name);
    if !view.holds(&target) {
        return None;
    }
    let (client, located) = locate(map, client);
    let answer = steer(&client, &target, view, &POLICY);
    let candidates = answer.candidates.iter().map(|candidate| Candidate {
        region: candidate.region.to_string(),
        rtt_ms: candidate.rtt_ms.map_or(0.0, f64::from),
        price_ms: candidate.price_ms,
        verdict: candidate.verdict.into(),
        placed: candidate.placed,
        chosen: candidate.chosen,
        because: candidate.because.to_string(),
    });
    Some(Explanation {
        name: name.to_owned(),
        client: format!("{}/{}", client.network(), client.scope()),
        located,
        decision: answer.decision(),
        reason: answer.reason.to_string(),
        ttl_secs: answer.ttl_secs,
        view: steering.id.clone(),
        candidates: candidates.collect(),
    })
}

fn locate(map: &WorldMap, ip: IpAddr) -> (Client, String) {
    let ip = match dns_steering::client::embedded_v4(ip) {
        Some(embedded) => IpAddr::V4(embedded.ipv4),
        None => ip,
    };
    let block = if ip.is_ipv4() { BLOCK_V4 } else { BLOCK_V6 };
    let found = map.locate(ip);
    let located = match &found {
        Some(found) => format!("{} (worldmap)", found.country_code()),
        None => "unknown".to_owned(),
    };
    let place = found.map(|found| found.place());
    (Client::new(ip, block, place), located)
}
