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

/// A client of whom one whole address is known.
#[must_use]
pub fn site(view: &View, ip: IpAddr) -> Client {
    let ip = embedded_v4(ip).map_or(ip, |embedded| embedded.ipv4.into());
    let len = if ip.is_ipv4() { SITE_V4 } else { SITE_V6 };
    view.client(ip, len)
}

/// Every candidate for `name` and why it won or lost; `None` if the view does not hold the name. The
/// view's clients are those of the map.
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
    let located = map.locate(client);
    let client = site(view, client);
    let answer = steer(&client, &target, view, policy);
    let candidates = answer.candidates.iter().map(|candidate| Candidate {
        region: candidate.region.to_string(),
        rtt_ms: ms(candidate.rtt_tenths.unwrap_or(0)),
        measured: candidate.measured,
        price_ms: ms(candidate.price_tenths),
        verdict: candidate.verdict.into(),
        share_percent: candidate.share_percent(),
        placed: candidate.placed,
        chosen: candidate.chosen,
        because: candidate.because.to_string(),
    });
    let used = answer.used;
    Some(Explanation {
        name: name.to_owned(),
        client: format!("{}/{}", client.network(), client.scope()),
        located: match located.filter(|_| client.location().is_some()) {
            Some(located) => format!("{} (worldmap)", Located::country_code(&located)),
            None => "unknown".to_owned(),
        },
        decision: answer.decision(),
        reason: answer.reason.to_string(),
        ttl_secs: answer.ttl_secs,
        view: id.clone(),
        class: used.and_then(|used| Some(used.class?.0)),
        key: used.map(|used| format!("{:016x}", used.key.0)),
        slot: used.and_then(|used| used.slot),
        margin_ms: used.and_then(|used| used.margin_tenths).map(ms),
        candidates: candidates.collect(),
    })
}

fn ms(tenths: u32) -> f64 {
    f64::from(tenths) / 10.0
}
