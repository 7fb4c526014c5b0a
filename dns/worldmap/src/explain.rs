//! Why a client is sent where it is, told to people: the same words from every server that knows.

use std::net::IpAddr;

use api_wire::planes::{Candidate, Explanation};
use api_wire::view::ViewId;
use dns_steering::client::embedded_v4;
use dns_steering::{Client, Policy, View, name, steer};

use crate::{Located, WorldMap};

/// Networks that are steered as one when only an address is known: what one site has at least.
pub const SITE_V4: u8 = 24;
pub const SITE_V6: u8 = 48;

/// A client of whom one whole address is known, and where the map has it.
#[must_use]
pub fn site(map: &WorldMap, ip: IpAddr) -> (Client, Option<Located>) {
    let ip = embedded_v4(ip).map_or(ip, |embedded| embedded.ipv4.into());
    let prefix = if ip.is_ipv4() { SITE_V4 } else { SITE_V6 };
    let located = map.locate(ip);
    let place = located.as_ref().map(Located::place);
    (Client::new(ip, prefix, place), located)
}

/// Every candidate for `name` and why it won or lost; `None` if the view does not hold the name.
#[must_use]
pub fn explain(
    view: &View,
    id: &ViewId,
    map: &WorldMap,
    policy: &Policy,
    name: &str,
    client: IpAddr,
) -> Option<Explanation> {
    let target = name::parse(view.zone(), name);
    if !view.holds(&target) {
        return None;
    }
    let (client, located) = site(map, client);
    let answer = steer(&client, &target, view, policy);
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
        located: match located {
            Some(located) => format!("{} (worldmap)", located.country_code()),
            None => "unknown".to_owned(),
        },
        decision: answer.decision(),
        reason: answer.reason.to_string(),
        ttl_secs: answer.ttl_secs,
        view: id.clone(),
        candidates: candidates.collect(),
    })
}
