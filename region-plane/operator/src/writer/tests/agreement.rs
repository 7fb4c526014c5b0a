//! Everybody who asks where a function may be is told the same: DNS servers, global nodes, gateways,
//! replicas and operators, from one state.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use api_types::Catalog;
use api_types::fns::PLACEMENT_ANNOTATION;
use api_wire::view::{Envelope, MetadataBody, ViewId};
use dns_steering::{Client, Policy, Reason, Target, View, ViewParts, name, steer};
use proptest::prelude::*;
use region_plane_replica::placement;

use super::*;

const ZONE: &str = "fn.test";

/// With one label each.
const REGIONS: [(&str, &str); 5] = [
    ("fra", "eu"),
    ("iad", "us"),
    ("lhr", "eu"),
    ("nrt", "as"),
    ("sin", "as"),
];

/// Names and labels, of which some are of no region.
const SELECTORS: [&str; 8] = [
    "fra", "iad", "lhr", "nrt", "gru", "geo=eu", "geo=as", "geo=af",
];

#[derive(Debug, Clone)]
struct Wish {
    selectors: Vec<&'static str>,
    strict: bool,
}

impl Wish {
    fn json(&self) -> String {
        format!(
            r#"{{"regions":{},"strict":{}}}"#,
            serde_json::to_string(&self.selectors).unwrap(),
            self.strict
        )
    }

    /// Residency elsewhere, by the text of the annotation alone.
    fn forbids(&self, (name, geo): (&str, &str)) -> bool {
        let label = format!("geo={geo}");
        self.strict
            && !self
                .selectors
                .iter()
                .any(|each| *each == name || *each == label)
    }
}

fn wish() -> impl Strategy<Value = Option<Wish>> {
    let selectors = prop::sample::subsequence(SELECTORS.to_vec(), 1..=3);
    let wish = (selectors, any::<bool>());
    prop::option::weighted(
        0.8,
        wish.prop_map(|(selectors, strict)| Wish { selectors, strict }),
    )
}

fn federation() -> impl Strategy<Value = Vec<Region>> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Healthy),
        1 => Just(Verdict::Suspect),
        3 => Just(Verdict::Down),
        1 => Just(Verdict::Recovering),
        1 => Just(Verdict::Draining),
    ];
    let each = (verdict, prop_oneof![Just(0_u32), Just(40)], -2..=2_i8);
    let rows = prop::collection::vec(each, REGIONS.len());
    let registered = prop::sample::subsequence(REGIONS.to_vec(), 0..=REGIONS.len());
    (registered, rows).prop_map(|(registered, rows)| {
        let each = registered.into_iter().zip(rows);
        each.map(|((name, geo), (verdict, price_ms, east))| Region {
            name: name.parse().unwrap(),
            ipv4: Some(Ipv4Addr::LOCALHOST),
            ipv6: None,
            gateway: format!("{name}:8080"),
            admin: format!("{name}:8081"),
            location: Location {
                latitude: 40.0,
                longitude: f64::from(east) * 60.0,
            },
            labels: [("geo".to_owned(), geo.to_owned())].into(),
            drained: verdict == Verdict::Draining,
            verdict,
            price_ms,
            registered_at: Timestamp(0),
            revision: Revision(1),
        })
        .collect()
    })
}

/// What one region does with the function.
struct Place<'a> {
    region: &'a Region,
    /// Its replica has it among what is placed there.
    is_here: bool,
    /// Its replica keeps the code.
    holds: bool,
    /// Its operator writes an object for it.
    writes: bool,
    /// Its gateway runs a call that comes to it.
    serves: bool,
    /// Whom its gateway hands a call to instead.
    peers: BTreeSet<String>,
}

impl<'a> Place<'a> {
    fn new(region: &'a Region, state: &Envelope, function: &Fn) -> Self {
        let mut held = RegionCopy::new(region.clone(), ZONE.to_owned());
        let step = held.snapshot(state).unwrap().unwrap();
        held.take(step);
        let peers = placement::peers(&held, function).regions;
        let mut written = Written::default();
        written.catch_up(&held);
        Self {
            region,
            is_here: held.here().function(&function.id).is_some(),
            holds: held.callable().any(|held| held.id == function.id),
            writes: !written.functions.is_empty(),
            serves: placement::serves_itself(&held, function),
            peers: peers.iter().map(|peer| peer.name.to_string()).collect(),
        }
    }

    fn name(&self) -> &str {
        self.region.name.as_str()
    }
}

fn state_of(app: &App, function: &Fn, regions: &[Region]) -> Envelope {
    let own = [app.into(), function.into()];
    let regions = regions.iter().map(Into::into);
    let body = MetadataBody::of(ZONE, 8080, own.into_iter().chain(regions));
    let id = ViewId {
        cluster_id: "test".to_owned(),
        epoch: 1,
        revision: 9,
        count: body.objects.len() as u64,
        sha256: String::new(),
    };
    Envelope::seal(id, &body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn all_who_ask_where_a_function_may_be_are_told_the_same(
        of_app in wish(), of_function in wish(), regions in federation(),
    ) {
        let annotations = |wish: &Option<Wish>| -> Annotations {
            wish.iter().map(|wish| (PLACEMENT_ANNOTATION.to_owned(), wish.json())).collect()
        };
        let mut app = app(&[], &[]);
        app.annotations = annotations(&of_app);
        let function = function("image:1", &[], annotations(&of_function));
        let mut catalog = Catalog::default();
        catalog.put(app.clone());
        catalog.put(function.clone());

        let parts = ViewParts::new(ZONE.to_owned(), 8080, &catalog, regions.clone());
        let view = View::new(parts).unwrap();
        let policy = Policy { ttl_secs: 30, ttl_all_down_secs: 5 };
        let ask = |target: &Target| {
            steer(&Client::new(Ipv4Addr::new(192, 0, 2, 1).into(), 24, None), target, &view, &policy)
        };
        let dns = ask(&name::parse(ZONE, "function--app.fn.test"));
        let global = ask(&Target::function(&catalog, &function));
        prop_assert_eq!(&dns, &global);
        let named: BTreeSet<String> = dns.regions.iter().map(ToString::to_string).collect();

        let state = state_of(&app, &function, &regions);
        let places: Vec<Place> = regions.iter()
            .map(|region| Place::new(region, &state, &function))
            .collect();
        for place in &places {
            let name = place.name();
            let row = *REGIONS.iter().find(|(region, _)| *region == name).unwrap();
            let forbidden = [&of_app, &of_function].into_iter().flatten().any(|wish| wish.forbids(row));
            // Outside residency: nobody sends calls there, nothing of it is there.
            prop_assert_eq!(place.holds, !forbidden, "{}", name);
            prop_assert_eq!(place.writes, place.holds, "{}", name);
            prop_assert!(place.holds || !place.serves && !place.is_here, "{}", name);
            // Where DNS sends clients to, calls are run.
            if named.contains(name) {
                prop_assert!(place.serves && place.holds, "{} is named", name);
            }
            // What is placed here is run here, whatever is thought of the region.
            prop_assert!(place.serves || !place.is_here, "{}", name);
            // Calls are handed to those whom DNS names; and from where they are not run, always.
            let mut others = named.clone();
            others.remove(name);
            prop_assert!(place.peers.is_subset(&others), "{}: {:?}", name, place.peers);
            if !place.serves {
                prop_assert_eq!(place.peers.len(), others.len().min(2), "{}", name);
            }
        }
        // While a region serves where the function is placed, no other is named.
        if dns.reason == Reason::Ranked {
            let here = |name: &String| places.iter().any(|place| place.name() == name && place.is_here);
            prop_assert!(named.iter().all(here), "{:?}", named);
        }
    }
}
