#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use crate::region::{Location, Verdict};
use crate::{Revision, Timestamp};

use super::*;

fn region(name: &str, geo: &str, verdict: Verdict) -> Region {
    Region {
        name: name.parse().unwrap(),
        ipv4: None,
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location: Location {
            latitude: 0.0,
            longitude: 0.0,
        },
        labels: BTreeMap::from([("geo".to_owned(), geo.to_owned())]),
        drained: verdict == Verdict::Draining,
        verdict,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

const NAMES: [(&str, &str); 4] = [("fra", "eu"), ("iad", "us"), ("lhr", "eu"), ("nrt", "as")];

/// All healthy but those named.
fn regions(others: &[(&str, Verdict)]) -> Vec<Region> {
    let each = NAMES.iter().map(|(name, geo)| {
        let other = others.iter().find(|(other, _)| other == name);
        region(
            name,
            geo,
            other.map_or(Verdict::Healthy, |(_, verdict)| *verdict),
        )
    });
    each.collect()
}

/// `["fra","geo=eu"]`; with an exclamation mark before it if strict.
fn placement(text: &str) -> Option<Placement> {
    let (strict, list) = match text.strip_prefix('!') {
        Some(list) => (true, list),
        None => (false, text),
    };
    if list.is_empty() {
        return None;
    }
    let json = format!(r#"{{"regions":{list},"strict":{strict}}}"#);
    Some(Placement::from_json(&json).unwrap())
}

fn names<'a>(regions: impl IntoIterator<Item = &'a Region>) -> Vec<&'a str> {
    let each = regions.into_iter();
    each.map(|region| region.name.as_str()).collect()
}

#[test]
fn one_rule_says_who_holds_who_serves_and_why() {
    use Verdict::{Down, Draining, Recovering, Suspect};
    use Why::{AllDown, AppYields, FunctionYields, Nowhere, Placed};
    let all = ["fra", "iad", "lhr", "nrt"];
    let all_down = all.map(|name| (name, Down));
    for (case, app, function, others, hold, why, serve) in [
        // No placement.
        ("anywhere", "", "", &[][..], &all[..], Placed, &all[..]),
        (
            "one down",
            "",
            "",
            &[("fra", Down)],
            &all,
            Placed,
            &["iad", "lhr", "nrt"],
        ),
        (
            "suspect and recovering serve, draining does not",
            "",
            "",
            &[("fra", Suspect), ("iad", Recovering), ("lhr", Draining)],
            &all,
            Placed,
            &["fra", "iad", "nrt"],
        ),
        (
            "all down: fail open",
            "",
            "",
            &all_down,
            &all,
            AllDown,
            &all,
        ),
        // The app's alone.
        (
            "a preference by name",
            r#"["fra"]"#,
            "",
            &[],
            &all,
            Placed,
            &["fra"],
        ),
        (
            "a preference by label",
            r#"["geo=eu"]"#,
            "",
            &[],
            &all,
            Placed,
            &["fra", "lhr"],
        ),
        (
            "a name and a label",
            r#"["nrt","geo=eu"]"#,
            "",
            &[("fra", Down)],
            &all,
            Placed,
            &["lhr", "nrt"],
        ),
        (
            "a preference yields",
            r#"["geo=eu"]"#,
            "",
            &[("fra", Down), ("lhr", Draining)],
            &all,
            AppYields,
            &["iad", "nrt"],
        ),
        (
            "a preference with all down",
            r#"["geo=eu"]"#,
            "",
            &all_down,
            &all,
            AllDown,
            &["fra", "lhr"],
        ),
        (
            "a preference for what does not exist",
            r#"["gru","geo=af"]"#,
            "",
            &[("fra", Down)],
            &all,
            AppYields,
            &["iad", "lhr", "nrt"],
        ),
        (
            "the same with all down",
            r#"["gru"]"#,
            "",
            &all_down,
            &all,
            AllDown,
            &all,
        ),
        (
            "residency",
            r#"!["geo=eu"]"#,
            "",
            &[("lhr", Down)],
            &["fra", "lhr"],
            Placed,
            &["fra"],
        ),
        (
            "residency does not yield",
            r#"!["geo=eu"]"#,
            "",
            &[("fra", Draining), ("lhr", Down)],
            &["fra", "lhr"],
            AllDown,
            &["fra", "lhr"],
        ),
        (
            "residency in one region that is down",
            r#"!["fra"]"#,
            "",
            &[("fra", Down)],
            &["fra"],
            AllDown,
            &["fra"],
        ),
        (
            "residency in what does not exist",
            r#"!["gru"]"#,
            "",
            &[],
            &[],
            Nowhere,
            &[],
        ),
        // The function's alone.
        (
            "a function's preference",
            "",
            r#"["lhr"]"#,
            &[],
            &all,
            Placed,
            &["lhr"],
        ),
        (
            "a function's preference yields",
            "",
            r#"["lhr"]"#,
            &[("lhr", Down)],
            &all,
            FunctionYields,
            &["fra", "iad", "nrt"],
        ),
        (
            "a function's residency does not",
            "",
            r#"!["lhr"]"#,
            &[("lhr", Down)],
            &["lhr"],
            AllDown,
            &["lhr"],
        ),
        // Both.
        (
            "a function narrows",
            r#"!["fra","lhr"]"#,
            r#"["lhr","nrt"]"#,
            &[],
            &["fra", "lhr"],
            Placed,
            &["lhr"],
        ),
        (
            "a preference yields within its app's residency",
            r#"!["fra","lhr"]"#,
            r#"["lhr"]"#,
            &[("lhr", Down)],
            &["fra", "lhr"],
            FunctionYields,
            &["fra"],
        ),
        (
            "the same while it drains",
            r#"!["fra","lhr"]"#,
            r#"["lhr"]"#,
            &[("lhr", Draining)],
            &["fra", "lhr"],
            FunctionYields,
            &["fra"],
        ),
        (
            "and with the residency down, only what is placed is asked",
            r#"!["fra","lhr"]"#,
            r#"["lhr"]"#,
            &[("fra", Down), ("lhr", Down)],
            &["fra", "lhr"],
            AllDown,
            &["lhr"],
        ),
        (
            "a preference outside its app's residency",
            r#"!["fra","lhr"]"#,
            r#"["nrt"]"#,
            &[],
            &["fra", "lhr"],
            FunctionYields,
            &["fra", "lhr"],
        ),
        (
            "a preference yields within its app's preference first",
            r#"["fra","lhr"]"#,
            r#"["lhr"]"#,
            &[("lhr", Down)],
            &all,
            FunctionYields,
            &["fra"],
        ),
        (
            "and then both yield",
            r#"["fra","lhr"]"#,
            r#"["lhr"]"#,
            &[("fra", Down), ("lhr", Down)],
            &all,
            AppYields,
            &["iad", "nrt"],
        ),
        (
            "residency within a preference",
            r#"["fra","lhr"]"#,
            r#"!["lhr"]"#,
            &[("lhr", Down)],
            &["lhr"],
            AllDown,
            &["lhr"],
        ),
        (
            "residency beats the app's preference",
            r#"["fra","lhr"]"#,
            r#"!["nrt"]"#,
            &[],
            &["nrt"],
            AppYields,
            &["nrt"],
        ),
        (
            "residency that reaches out of the app's preference yields to it",
            r#"["fra","lhr"]"#,
            r#"!["lhr","nrt"]"#,
            &[("lhr", Down)],
            &["lhr", "nrt"],
            AppYields,
            &["nrt"],
        ),
        (
            "two residencies: both hold",
            r#"!["fra","lhr"]"#,
            r#"!["lhr","nrt"]"#,
            &[("lhr", Down)],
            &["lhr"],
            AllDown,
            &["lhr"],
        ),
        (
            "residencies that exclude each other",
            r#"!["fra","lhr"]"#,
            r#"!["nrt"]"#,
            &[],
            &[],
            Nowhere,
            &[],
        ),
    ] {
        let placements = Placements {
            app: placement(app),
            function: placement(function),
        };
        let regions = regions(others);
        let ruling = placements.ruling(&regions);
        let holding = regions
            .iter()
            .filter(|region| placements.tier(region).may_hold());
        let serving = regions
            .iter()
            .filter(|region| ruling.may_serve(placements.tier(region), region.verdict.serves()));
        assert_eq!(names(holding), hold, "{case}: hold");
        assert_eq!(
            (ruling.why(), names(serving)),
            (why, serve.to_vec()),
            "{case}"
        );
    }
}

#[test]
fn a_region_that_is_asked_counts_itself_as_serving() {
    use Verdict::{Down, Draining};
    for (case, app, function, me, others, serves, peers) in [
        (
            "placed",
            r#"["fra","lhr"]"#,
            "",
            "fra",
            &[][..],
            true,
            &["lhr"][..],
        ),
        (
            "placed, and thought to be down",
            r#"["fra","lhr"]"#,
            "",
            "fra",
            &[("fra", Down)],
            true,
            &["lhr"],
        ),
        (
            "placed, and all are thought to be down: none is better than this one",
            r#"["fra","lhr"]"#,
            "",
            "fra",
            &[("fra", Down), ("iad", Down), ("lhr", Down), ("nrt", Down)],
            true,
            &[],
        ),
        (
            "placed and draining: what it yields to may have it",
            r#"["fra"]"#,
            "",
            "fra",
            &[("fra", Draining)],
            true,
            &["iad", "lhr", "nrt"],
        ),
        ("not placed", r#"["lhr"]"#, "", "fra", &[], false, &["lhr"]),
        (
            "not placed, and the preference yields",
            r#"["lhr"]"#,
            "",
            "fra",
            &[("lhr", Down)],
            true,
            &["iad", "nrt"],
        ),
        (
            "the preference yields and only this one is up",
            r#"["lhr"]"#,
            "",
            "fra",
            &[("fra", Down), ("iad", Down), ("lhr", Down), ("nrt", Down)],
            true,
            &["lhr"],
        ),
        (
            "in the app's residency while the function's preference is down",
            r#"!["fra","lhr"]"#,
            r#"["lhr"]"#,
            "fra",
            &[("lhr", Down)],
            true,
            &[],
        ),
        (
            "outside the app's residency",
            r#"!["fra","lhr"]"#,
            r#"["lhr"]"#,
            "nrt",
            &[("lhr", Down)],
            false,
            &["fra"],
        ),
        (
            "outside residency that is down: it is asked all the same",
            r#"!["lhr"]"#,
            "",
            "nrt",
            &[("lhr", Down)],
            false,
            &["lhr"],
        ),
        (
            "residency nowhere",
            r#"!["gru"]"#,
            "",
            "nrt",
            &[],
            false,
            &[],
        ),
        (
            "placed by a label and not registered yet",
            r#"["geo=af"]"#,
            "",
            "cpt",
            &[],
            true,
            &["fra", "iad", "lhr", "nrt"],
        ),
    ] {
        let placements = Placements {
            app: placement(app),
            function: placement(function),
        };
        let regions = regions(others);
        let registered = regions.iter().find(|region| region.name.as_str() == me);
        let me = registered
            .cloned()
            .unwrap_or_else(|| region(me, "af", Verdict::Down));
        assert_eq!(placements.serves_itself(&me, &regions), serves, "{case}");
        let (_, handed) = placements.peers(&me.name, regions.iter());
        assert_eq!(names(handed), peers, "{case}: peers");
    }
}
