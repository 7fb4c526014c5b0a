//! What holds for every federation, placement and client.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::world::{POLICY, ZONE, at, names, parts, region};
use api_types::{Location, Region, RegionName, Verdict};
use dns_steering::{
    Answer, Client, Place, PlacedApp, PlacedFn, Reason, Target, View, ViewParts, name, steer,
};
use proptest::prelude::*;

const NAMES: [&str; 8] = ["ams", "fra", "gru", "iad", "lhr", "nrt", "sin", "syd"];

/// Few places, so that regions are often equally far.
fn location() -> impl Strategy<Value = Location> {
    (-2..=2_i8, -3..=3_i8)
        .prop_map(|(north, east)| at(f64::from(north) * 40.0, f64::from(east) * 60.0))
}

fn regions() -> impl Strategy<Value = Vec<Region>> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Healthy),
        1 => Just(Verdict::Suspect),
        3 => Just(Verdict::Down),
        1 => Just(Verdict::Recovering),
        1 => Just(Verdict::Draining),
    ];
    let price = prop_oneof![Just(0_u32), Just(5), Just(40), Just(u32::MAX)];
    prop::sample::subsequence(NAMES.to_vec(), 0..=NAMES.len()).prop_flat_map(move |names| {
        let each = (location(), verdict.clone(), price.clone());
        prop::collection::vec(each, names.len()).prop_map(move |rows| {
            let rows = names.iter().zip(rows);
            rows.map(|(name, (location, verdict, price_ms))| Region {
                verdict,
                price_ms,
                ..region(name, location)
            })
            .collect()
        })
    })
}

/// Regions that exist and others, and whether strict.
fn placement() -> impl Strategy<Value = (Vec<String>, bool)> {
    (
        prop::sample::subsequence(NAMES.to_vec(), 0..=3),
        any::<bool>(),
    )
        .prop_map(|(inside, strict)| (names(&inside), strict))
}

fn federation() -> impl Strategy<Value = ViewParts> {
    let placements = || prop::option::of(placement());
    (regions(), placements(), placements()).prop_map(|(regions, app, function)| ViewParts {
        placed_apps: app
            .map(|(regions, strict)| PlacedApp {
                name: "app".to_owned(),
                regions,
                strict,
            })
            .into_iter()
            .collect(),
        placed_fns: function
            .map(|(regions, strict)| PlacedFn {
                app: "app".to_owned(),
                name: "f".to_owned(),
                regions,
                strict,
            })
            .into_iter()
            .collect(),
        ..parts(regions)
    })
}

fn place() -> impl Strategy<Value = Option<Place>> {
    prop::option::of(
        (location(), 0..=32_u8).prop_map(|(location, network_len)| Place {
            location,
            network_len,
        }),
    )
}

fn client() -> impl Strategy<Value = (IpAddr, u8, Option<Place>)> {
    (any::<[u8; 4]>().prop_map(IpAddr::from), 1..=32_u8, place())
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just("fn.test"),
        Just("invoke.fn.test"),
        Just("app.fn.test"),
        Just("f--app.fn.test"),
        Just("other.fn.test"),
        Just("a.b.fn.test"),
    ]
    .prop_map(|name| name::parse(ZONE, name))
}

/// What may never be answered, by the placements themselves.
fn forbidden(parts: &ViewParts, target: &Target, region: &RegionName) -> bool {
    let outside = |regions: &[String]| !regions.iter().any(|name| name == region.as_str());
    let of_app = |app: &str| {
        let apps = &parts.placed_apps;
        apps.iter()
            .any(|each| each.name == app && each.strict && outside(&each.regions))
    };
    match target {
        Target::App(app) => of_app(app),
        Target::Fn { app, name } => {
            let fns = &parts.placed_fns;
            of_app(app)
                || fns.iter().any(|each| {
                    each.app == *app && each.name == *name && each.strict && outside(&each.regions)
                })
        }
        _ => false,
    }
}

fn decide(parts: &ViewParts, who: (IpAddr, u8, Option<Place>), target: &Target) -> Answer {
    let view = View::new(parts.clone()).unwrap();
    let (ip, source_len, place) = who;
    steer(&Client::new(ip, source_len, place), target, &view, &POLICY)
}

/// What a resolver is told.
fn told(answer: &Answer) -> BTreeSet<&RegionName> {
    let chosen = answer.candidates.iter().filter(|each| each.chosen);
    chosen.map(|each| &each.region).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_forbidden_region_is_never_answered(
        parts in federation(), who in client(), target in target(),
    ) {
        for region in decide(&parts, who, &target).regions {
            prop_assert!(!forbidden(&parts, &target, &region), "{region}");
        }
    }

    #[test]
    fn an_answer_is_empty_only_if_no_region_may_be_answered(
        parts in federation(), who in client(), target in target(),
    ) {
        let answer = decide(&parts, who, &target);
        let any_admitted = parts.regions.iter().any(|region| !forbidden(&parts, &target, &region.name));
        prop_assert_eq!(answer.regions.is_empty(), !any_admitted);
        prop_assert_eq!(answer.reason == Reason::NothingPlaced, !any_admitted);
    }

    #[test]
    fn what_does_not_serve_is_answered_only_when_nothing_that_may_be_answered_serves(
        parts in federation(), who in client(), target in target(),
    ) {
        let answer = decide(&parts, who, &target);
        let serves = |name: &RegionName| {
            parts.regions.iter().any(|region| region.name == *name && region.verdict.serves())
        };
        let any_serves = parts.regions.iter()
            .any(|region| region.verdict.serves() && !forbidden(&parts, &target, &region.name));
        for region in &answer.regions {
            prop_assert_eq!(serves(region), any_serves, "{}", region);
        }
        prop_assert_eq!(answer.reason == Reason::AllDown, !answer.regions.is_empty() && !any_serves);
    }

    /// Of a region that is not the winner this is not exact: where three or more share the band, its loss
    /// changes the shares of the others (`ranking.rs` bounds how many clients move).
    #[test]
    fn losing_the_winner_leaves_the_order_of_the_others(
        parts in federation(), who in client(), target in target(), gone in 0..NAMES.len(),
    ) {
        let before = decide(&parts, who, &target);
        let mut fewer = parts.clone();
        fewer.regions.retain(|region| region.name.as_str() != NAMES[gone]);
        let after = decide(&fewer, who, &target);
        let mut left = before.regions.clone();
        left.retain(|region| region.as_str() != NAMES[gone]);
        // Losing the last region that is answered changes who may be asked at all.
        let won = before.regions.first().is_some_and(|first| first.as_str() == NAMES[gone]);
        if won && before.reason != Reason::AllDown && !left.is_empty() {
            prop_assert_eq!(after.regions, left);
        }
    }

    #[test]
    fn the_order_of_the_parts_does_not_matter(
        (parts, shuffled) in federation().prop_flat_map(|parts| {
            let shuffled = Just(parts.regions.clone()).prop_shuffle();
            (Just(parts), shuffled)
        }),
        who in client(), target in target(),
    ) {
        let mut other = ViewParts { regions: shuffled, ..parts.clone() };
        for app in &mut other.placed_apps {
            app.regions.reverse();
        }
        prop_assert_eq!(View::new(parts.clone()).unwrap(), View::new(other.clone()).unwrap());
        let answer = decide(&parts, who, &target);
        prop_assert_eq!(&decide(&other, who, &target), &answer);
        prop_assert_eq!(decide(&parts, who, &target).decision(), answer.decision());
    }

    #[test]
    fn every_client_within_the_scope_gets_the_same_answer(
        parts in federation(), who in client(), neighbour in any::<u32>(), target in target(),
    ) {
        let (ip, source_len, place) = who;
        let answer = decide(&parts, who, &target);
        let IpAddr::V4(ip) = ip else { unreachable!("clients are IPv4 here") };
        let scope = Client::new(ip.into(), source_len, place).scope();
        let host_bits = u32::MAX.checked_shr(u32::from(scope)).unwrap_or(0);
        let near = std::net::Ipv4Addr::from_bits(ip.to_bits() & !host_bits | neighbour & host_bits);
        prop_assert_eq!(&decide(&parts, (near.into(), source_len, place), &target), &answer);
        prop_assert!(answer.scope == 0 || answer.scope == scope);
        prop_assert!(answer.scope <= source_len.min(24));
    }

    #[test]
    fn a_scope_of_none_is_true_for_every_client(
        parts in federation(), who in client(), stranger in client(), target in target(),
    ) {
        let (ip, source_len, place) = who;
        let answer = decide(&parts, who, &target);
        // A scope of 0 that comes from what the map or the resolver told is theirs to answer for.
        let told_nothing = Client::new(ip, source_len, place).scope() == 0;
        let strangers = decide(&parts, stranger, &target);
        prop_assert!(answer.scope > 0 || told_nothing || told(&strangers) == told(&answer));
    }

    #[test]
    fn candidates_are_all_regions_with_what_was_answered_first(
        parts in federation(), who in client(), target in target(),
    ) {
        let answer = decide(&parts, who, &target);
        let all: BTreeSet<_> = answer.candidates.iter().map(|each| &each.region).collect();
        prop_assert_eq!(all.len(), answer.candidates.len());
        prop_assert_eq!(all.len(), parts.regions.len());
        for (region, candidate) in answer.regions.iter().zip(&answer.candidates) {
            prop_assert_eq!(region, &candidate.region);
        }
        let chosen = answer.candidates.iter().filter(|each| each.chosen).count();
        let want = match answer.reason {
            Reason::AllDown => answer.regions.len(),
            _ => answer.regions.len().min(1),
        };
        prop_assert_eq!(chosen, want);
        prop_assert!(answer.candidates.iter().take(chosen).all(|each| each.chosen));
    }

    #[test]
    fn names_mean_the_same_in_any_case_and_with_a_final_dot(
        labels in prop::collection::vec("[a-zA-Z0-9_-]{1,12}|invoke|at|ns1|fra|f--app", 0..4),
    ) {
        let name = labels.iter().fold(String::new(), |name, label| name + label + ".") + ZONE;
        let target = name::parse(ZONE, &name);
        prop_assert_eq!(&name::parse(ZONE, &name.to_ascii_uppercase()), &target);
        prop_assert_eq!(&name::parse(ZONE, &format!("{name}.")), &target);
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        prop_assert_eq!(&name::parse_labels(ZONE, &labels), &target);
        prop_assert!(target != Target::Nothing || labels.len() > 3);
    }

    #[test]
    fn no_name_is_too_strange_to_read(zone in ".{0,20}", name in ".{0,60}") {
        let target = name::parse(&zone, &name);
        if let Ok(view) = View::new(ViewParts { zone, ..parts(Vec::new()) }) {
            let client = Client::new([192, 0, 2, 1].into(), 24, None);
            prop_assert!(steer(&client, &target, &view, &POLICY).regions.is_empty());
        }
    }
}
