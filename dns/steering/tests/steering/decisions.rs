//! What is answered, case by case.

use std::collections::BTreeMap;

use crate::world::{POLICY, ZONE, at, client, metro, parts, placed_app, placed_fn, region, view};
use api_types::{Region, Verdict};
use dns_steering::{
    Answer, Because, Client, Place, Reason, Target, View, ViewError, ViewParts, name, steer,
};

fn with(name: &str, change: impl FnOnce(&mut Region)) -> Region {
    let mut region = metro(name);
    change(&mut region);
    region
}

fn verdict(name: &str, verdict: Verdict) -> Region {
    with(name, |region| region.verdict = verdict)
}

fn price(name: &str, price_ms: u32) -> Region {
    with(name, |region| region.price_ms = price_ms)
}

fn healthy() -> Vec<Region> {
    ["iad", "fra", "lhr", "nrt"].map(metro).into()
}

/// As the DNS server asks.
fn ask(view: &View, name: &str, client: &Client) -> Answer {
    steer(client, &name::parse(ZONE, name), view, &POLICY)
}

fn from_berlin() -> Client {
    client("198.51.100.0", Some(at(52.52, 13.41)))
}

fn told(answer: &Answer) -> Vec<&str> {
    answer.regions.iter().map(|name| name.as_str()).collect()
}

#[test]
fn a_client_goes_to_the_least_rtt_plus_price_of_what_serves() {
    use Verdict::{Down, Draining, Recovering, Suspect};
    for (case, regions, want) in [
        ("all healthy", healthy(), vec!["fra", "lhr", "iad", "nrt"]),
        (
            "price moves the client on",
            vec![metro("lhr"), price("fra", 40)],
            vec!["lhr", "fra"],
        ),
        (
            "a price below the difference does not",
            vec![metro("iad"), price("fra", 40)],
            vec!["fra", "iad"],
        ),
        (
            "down and draining are left out",
            vec![verdict("fra", Down), verdict("lhr", Draining), metro("iad")],
            vec!["iad"],
        ),
        (
            "suspect and recovering serve",
            vec![verdict("fra", Suspect), verdict("lhr", Recovering)],
            vec!["fra", "lhr"],
        ),
    ] {
        let view = view(parts(regions));
        let answer = ask(&view, "hello.fn.test", &from_berlin());
        assert_eq!(told(&answer), want, "{case}");
        assert_eq!(answer.reason, Reason::Ranked, "{case}");
    }
}

#[test]
fn placement_masks_and_only_a_preference_is_served_elsewhere() {
    use Reason::{AllDown, Elsewhere, NothingPlaced, Ranked};
    let all_up: &[&str] = &[];
    let placed = |regions, strict| (vec![placed_app("app", regions, strict)], vec![]);
    let narrowed = |app_strict, fn_regions, strict| {
        (
            vec![placed_app("app", &["fra", "lhr"], app_strict)],
            vec![placed_fn("app", "f", fn_regions, strict)],
        )
    };
    for (case, (placed_apps, placed_fns), down, reason, want) in [
        (
            "strict",
            placed(&["iad"], true),
            all_up,
            Ranked,
            vec!["iad"],
        ),
        (
            "preference",
            placed(&["iad"], false),
            all_up,
            Ranked,
            vec!["iad"],
        ),
        (
            "strict, all placed down: still only those",
            placed(&["fra", "lhr"], true),
            &["fra", "lhr"],
            AllDown,
            vec!["fra", "lhr"],
        ),
        (
            "preference, all placed down: the best of the others",
            placed(&["fra", "lhr"], false),
            &["fra", "lhr"],
            Elsewhere,
            vec!["iad", "nrt"],
        ),
        (
            "preference, all down: those placed",
            placed(&["lhr"], false),
            &["iad", "fra", "lhr", "nrt"],
            AllDown,
            vec!["lhr"],
        ),
        (
            "strict, none exists",
            placed(&["gru"], true),
            all_up,
            NothingPlaced,
            vec![],
        ),
        (
            "strict, names nothing",
            placed(&[], true),
            all_up,
            NothingPlaced,
            vec![],
        ),
        (
            "preference, none exists: anywhere",
            placed(&["gru"], false),
            all_up,
            Elsewhere,
            vec!["fra", "lhr", "iad", "nrt"],
        ),
        (
            "preference, none exists and all down: everything",
            placed(&["gru"], false),
            &["iad", "fra", "lhr", "nrt"],
            AllDown,
            vec!["fra", "lhr", "iad", "nrt"],
        ),
        (
            "a function narrows",
            narrowed(true, &["lhr", "nrt"], false),
            all_up,
            Ranked,
            vec!["lhr"],
        ),
        (
            "a function's preference falls back into its app's residency",
            narrowed(true, &["lhr"], false),
            &["lhr"],
            Elsewhere,
            vec!["fra"],
        ),
        (
            "and within its app's preference, before that yields too",
            narrowed(false, &["lhr"], false),
            &["lhr"],
            Elsewhere,
            vec!["fra"],
        ),
        (
            "a function's residency does not fall back",
            narrowed(true, &["lhr"], true),
            &["lhr"],
            AllDown,
            vec!["lhr"],
        ),
        (
            "residencies that exclude each other",
            narrowed(true, &["nrt"], true),
            all_up,
            NothingPlaced,
            vec![],
        ),
        (
            "a function's residency beats its app's preference",
            narrowed(false, &["nrt"], true),
            all_up,
            Elsewhere,
            vec!["nrt"],
        ),
    ] {
        let mut regions = healthy();
        for region in &mut regions {
            if down.contains(&region.name.as_str()) {
                region.verdict = Verdict::Down;
            }
        }
        // A case of a function asks for it, the others for the app.
        let name = match placed_fns.is_empty() {
            true => "app.fn.test",
            false => "f--app.fn.test",
        };
        let view = view(ViewParts {
            placed_apps,
            placed_fns,
            ..parts(regions)
        });
        let answer = ask(&view, name, &from_berlin());
        assert_eq!((answer.reason, told(&answer)), (reason, want), "{case}");
        let elsewhere = ask(&view, "other.fn.test", &from_berlin());
        assert_ne!(elsewhere.reason, NothingPlaced, "{case}");
    }
}

#[test]
fn a_function_without_a_placement_has_its_apps() {
    let view = view(ViewParts {
        placed_apps: vec![placed_app("app", &["nrt"], true)],
        placed_fns: vec![placed_fn("free", "f", &["iad"], true)],
        ..parts(healthy())
    });
    for (name, want) in [
        ("g--app.fn.test", "nrt"),
        ("f--free.fn.test", "iad"),
        ("g--free.fn.test", "fra"),
        ("invoke.fn.test", "fra"),
        ("fn.test", "fra"),
        ("x.y.fn.test", "fra"),
    ] {
        assert_eq!(told(&ask(&view, name, &from_berlin()))[0], want, "{name}");
    }
}

#[test]
fn names_that_are_not_steered_do_not_depend_on_the_client() {
    let view = view(parts(vec![metro("iad"), verdict("fra", Verdict::Down)]));
    for (name, want) in [
        ("fra.at.fn.test", vec!["fra"]),
        ("lhr.at.fn.test", vec![]),
        ("at.fn.test", vec![]),
        ("ns1.fn.test", vec![]),
        ("x.invoke.fn.test", vec![]),
        ("elsewhere.test", vec![]),
    ] {
        let answer = ask(&view, name, &from_berlin());
        assert_eq!(told(&answer), want, "{name}");
        assert_eq!((answer.reason, answer.scope), (Reason::Static, 0), "{name}");
    }
}

#[test]
fn the_ttl_is_short_when_the_answer_may_soon_be_another() {
    use Verdict::{Down, Recovering, Suspect};
    let drained = with("fra", |region| region.drained = true);
    for (case, regions, ttl_secs) in [
        ("settled", healthy(), 30),
        (
            "one of many is lost",
            vec![verdict("fra", Down), metro("lhr"), metro("iad")],
            30,
        ),
        ("the only region there is", vec![metro("fra")], 30),
        (
            "the last of several",
            vec![metro("fra"), verdict("lhr", Down)],
            5,
        ),
        (
            "suspect winner",
            vec![verdict("fra", Suspect), metro("iad")],
            5,
        ),
        (
            "recovering winner",
            vec![verdict("fra", Recovering), metro("iad")],
            5,
        ),
        (
            "suspect loser",
            vec![metro("fra"), verdict("iad", Suspect)],
            30,
        ),
        ("asked to drain", vec![drained, metro("iad")], 5),
        (
            "failing open",
            vec![verdict("fra", Down), verdict("iad", Down)],
            5,
        ),
    ] {
        let answer = ask(&view(parts(regions)), "hello.fn.test", &from_berlin());
        assert_eq!(answer.ttl_secs, ttl_secs, "{case}");
    }
}

#[test]
fn the_scope_is_as_wide_as_the_answer_holds() {
    let two = [metro("fra"), metro("iad")];
    let one = [metro("fra"), verdict("iad", Verdict::Draining)];
    let down = two.clone().map(|mut region| {
        region.verdict = Verdict::Down;
        region
    });
    let located = |network_len| {
        Some(Place {
            location: at(52.52, 13.41),
            network_len,
        })
    };
    for (case, regions, ip, source_len, place, want) in [
        (
            "the network located",
            &two,
            "198.51.100.7",
            24,
            located(13),
            13,
        ),
        (
            "no wider than told",
            &two,
            "198.51.100.7",
            16,
            located(22),
            16,
        ),
        (
            "no longer than /24",
            &two,
            "198.51.100.7",
            32,
            located(29),
            24,
        ),
        (
            "no longer than /56",
            &two,
            "2001:db8::1",
            64,
            located(60),
            56,
        ),
        ("IPv6 located", &two, "2001:db8::1", 56, located(32), 32),
        ("6to4", &two, "2002:c633:6407::1", 56, located(40), 40),
        (
            "NAT64",
            &two,
            "64:ff9b::198.51.100.7",
            128,
            located(112),
            112,
        ),
        (
            "NAT64, no longer than its /24",
            &two,
            "64:ff9b::198.51.100.7",
            128,
            located(128),
            120,
        ),
        (
            "nowhere: its own network only",
            &two,
            "198.51.100.7",
            24,
            None,
            24,
        ),
        (
            "not to be looked at",
            &two,
            "198.51.100.7",
            0,
            located(13),
            0,
        ),
        (
            "only one to choose",
            &one,
            "198.51.100.7",
            24,
            located(13),
            0,
        ),
        ("all of them", &down, "198.51.100.7", 24, located(13), 0),
    ] {
        let view = view(parts(regions.to_vec()));
        let client = Client::new(ip.parse().unwrap(), source_len, place);
        assert_eq!(ask(&view, "hello.fn.test", &client).scope, want, "{case}");
    }
}

#[test]
fn equals_share_the_clients_and_the_names() {
    let here = at(50.0, 8.0);
    let view = view(parts(["a", "b", "c"].map(|name| region(name, here)).into()));
    let near = Some(Place {
        location: here,
        network_len: 24,
    });
    for (case, place) in [("all as near", near), ("nobody knows", None)] {
        let mut clients = BTreeMap::<String, u32>::new();
        let mut apps = clients.clone();
        for n in 0..3_000_u32 {
            let [.., high, low] = n.to_be_bytes();
            let client = Client::new([203, high, low, 9].into(), 24, place);
            let answer = ask(&view, "hello.fn.test", &client);
            *clients.entry(answer.regions[0].to_string()).or_default() += 1;
            let answer = ask(&view, &format!("app{n}.fn.test"), &from_berlin());
            *apps.entry(answer.regions[0].to_string()).or_default() += 1;
        }
        // A third each; 120 is more than four standard deviations.
        for (region, count) in clients.iter().chain(&apps) {
            assert!(count.abs_diff(1_000) < 120, "{case}: {region} has {count}");
        }
    }
}

/// Written down, so that a change of what is told, or of the drawing between equals, shows.
#[test]
fn decisions_read_as_lines() {
    use Verdict::{Down, Draining, Suspect};
    let strict = |regions: Vec<Region>| ViewParts {
        placed_apps: vec![placed_app("app", &["fra", "lhr"], true)],
        ..parts(regions)
    };
    let preferred = |regions: Vec<Region>| ViewParts {
        placed_apps: vec![placed_app("app", &["fra"], false)],
        ..parts(regions)
    };
    let berlin = from_berlin();
    let nowhere = client("192.0.2.0", None);
    for (parts, client, want) in [
        (
            parts(healthy()),
            &berlin,
            "fra 9.5 ms + 0; lhr 16.1 ms + 0; iad 91.5 ms + 0; nrt 119.9 ms + 0 -> fra",
        ),
        (
            parts(vec![metro("lhr"), price("fra", 40)]),
            &berlin,
            "lhr 16.1 ms + 0; fra 9.5 ms + 40 -> lhr",
        ),
        (
            parts(vec![
                verdict("fra", Down),
                verdict("lhr", Draining),
                verdict("iad", Suspect),
            ]),
            &berlin,
            "iad 91.5 ms + 0; lhr 16.1 ms + 0 (draining); fra 9.5 ms + 0 (down) -> iad",
        ),
        (
            strict(healthy()),
            &berlin,
            "fra 9.5 ms + 0; lhr 16.1 ms + 0 -> fra",
        ),
        (
            strict(vec![
                verdict("fra", Down),
                verdict("lhr", Draining),
                metro("iad"),
            ]),
            &berlin,
            "lhr 16.1 ms + 0 (draining); fra 9.5 ms + 0 (down) -> lhr, fra",
        ),
        (
            preferred(vec![verdict("fra", Down), metro("lhr"), metro("iad")]),
            &berlin,
            "lhr 16.1 ms + 0 (not placed); iad 91.5 ms + 0 (not placed); fra 9.5 ms + 0 (down) -> lhr",
        ),
        (strict(vec![metro("iad")]), &berlin, "-> nothing"),
        (
            parts(vec![metro("fra"), metro("iad"), price("lhr", 3)]),
            &nowhere,
            "iad ? ms + 0; fra ? ms + 0; lhr ? ms + 3 -> iad",
        ),
        (parts(vec![]), &berlin, "-> nothing"),
    ] {
        let answer = ask(&view(parts), "app.fn.test", client);
        assert_eq!(answer.decision(), want);
    }
}

#[test]
fn every_candidate_says_why_it_won_or_lost() {
    let view = view(ViewParts {
        placed_apps: vec![
            placed_app("app", &["fra", "lhr", "iad"], false),
            placed_app("fenced", &["fra"], true),
        ],
        ..parts(vec![
            metro("fra"),
            metro("lhr"),
            verdict("iad", Verdict::Down),
            metro("nrt"),
        ])
    });
    let because = |name: &str| -> Vec<String> {
        let answer = ask(&view, name, &from_berlin());
        let each = answer.candidates.iter();
        each.map(|each| format!("{}: {}", each.region, each.because))
            .collect()
    };
    assert_eq!(
        because("app.fn.test"),
        [
            "fra: least rtt + price",
            "lhr: 6.6 ms behind fra",
            "nrt: not placed",
            "iad: down",
        ]
    );
    assert_eq!(
        because("fenced.fn.test"),
        [
            "fra: least rtt + price",
            "lhr: outside a strict placement",
            "nrt: outside a strict placement",
            "iad: outside a strict placement",
        ]
    );
    assert_eq!(
        because("lhr.at.fn.test")[..2],
        ["lhr: named", "fra: not named"]
    );
    let told = |because: Because| because.to_string();
    let winner = || "fra".parse().unwrap();
    assert_eq!(
        told(Because::Shared { winner: winner() }),
        "within 4 ms of the least; fra drew this client"
    );
    assert_eq!(
        told(Because::Drawn),
        "drew this client among those within 4 ms"
    );
}

#[test]
fn parts_that_contradict_themselves_make_no_view() {
    let homeless = with("fra", |region| region.ipv4 = None);
    let lost = with("fra", |region| region.location = at(f64::NAN, 0.0));
    let twice = vec![placed_app("app", &[], true), placed_app("app", &[], false)];
    let fra = || "fra".parse().unwrap();
    for (parts, want) in [
        (
            ViewParts {
                zone: "Fn.test".to_owned(),
                ..parts(vec![])
            },
            ViewError::Zone {
                zone: "Fn.test".to_owned(),
            },
        ),
        (
            ViewParts {
                zone: String::new(),
                ..parts(vec![])
            },
            ViewError::Zone {
                zone: String::new(),
            },
        ),
        (
            parts(vec![metro("fra"), metro("iad"), metro("fra")]),
            ViewError::RegionTwice { region: fra() },
        ),
        (
            parts(vec![homeless]),
            ViewError::NoAddress { region: fra() },
        ),
        (parts(vec![lost]), ViewError::NoPlace { region: fra() }),
        (
            ViewParts {
                placed_apps: twice,
                ..parts(vec![])
            },
            ViewError::PlacedTwice {
                name: "app".to_owned(),
            },
        ),
    ] {
        assert_eq!(View::new(parts).unwrap_err(), want);
    }
}

#[test]
fn names_below_a_name_that_exists_are_nothing_and_the_wildcard_covers_the_rest() {
    let view = view(ViewParts {
        placed_apps: vec![placed_app("placed", &["fra"], true)],
        placed_fns: vec![placed_fn("app", "f", &["fra"], true)],
        ..parts(vec![metro("fra")])
    });
    for (name, want) in [
        ("fn.test", true),
        ("invoke.fn.test", true),
        ("hello.fn.test", true),
        ("f--app.fn.test", true),
        ("not_an_app.fn.test", true),
        ("at.fn.test", true),
        ("fra.at.fn.test", true),
        ("iad.at.fn.test", false),
        ("x.fra.at.fn.test", false),
        ("x.at.fn.test", false),
        ("x.invoke.fn.test", false),
        ("y.x.invoke.fn.test", false),
        ("x.ns1.fn.test", false),
        // RFC 4592 §2.2.1: nothing is at hello.fn.test itself, so the wildcard covers what is below.
        ("x.hello.fn.test", true),
        ("y.x.hello.fn.test", true),
        ("x.g--app.fn.test", true),
        // These have names of their own.
        ("x.placed.fn.test", false),
        ("y.x.PLACED.fn.test", false),
        ("x.f--app.fn.test", false),
        ("x.any--placed.fn.test", false),
        ("test", false),
        ("hello.fn.example", false),
    ] {
        let target = name::parse(ZONE, name);
        assert_eq!(view.holds(&target), want, "{name} is {target:?}");
    }
    assert_eq!(name::parse(ZONE, "at.fn.test"), Target::At);
}
