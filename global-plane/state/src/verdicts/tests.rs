#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use api_types::Location;
use proptest::prelude::*;

use super::Verdict::{Down, Draining, Healthy, Suspect};
use super::*;

const LEASE: u64 = LEASE_MS_DEFAULT;

/// A leader, its regions, and the clock of their reports.
struct Federation {
    monitor: Monitor,
    regions: BTreeMap<&'static str, Region>,
    now: u64,
}

impl Federation {
    /// Elected at 0, judging from 4 s on.
    fn new(regions: &[(&'static str, Verdict)]) -> Self {
        Self {
            monitor: Monitor::new(0, LEASE),
            regions: regions
                .iter()
                .map(|(name, verdict)| (*name, region(name, *verdict)))
                .collect(),
            now: 0,
        }
    }

    /// `secs` seconds in which `reporting` report, each at its own moment of the second, with an
    /// evaluation every 200 ms that is obeyed at once. Returns what was proposed.
    fn run(&mut self, secs: u64, reporting: &[&'static str]) -> Vec<(String, Verdict)> {
        let mut proposed = Vec::new();
        for _ in 0..secs * 10 {
            self.now += 100;
            for (nth, name) in (1..).zip(reporting) {
                if self.now % 1000 == nth * 100 {
                    self.report(name, false);
                }
            }
            if self.now.is_multiple_of(200) {
                proposed.extend(self.evaluate());
            }
        }
        proposed
    }

    fn report(&mut self, name: &str, draining: bool) -> bool {
        let facts = facts(self.now, draining);
        self.monitor.report(&name.parse().unwrap(), self.now, facts)
    }

    fn report_following(&mut self, name: &str, behind_ms: u64) {
        let following = Following {
            behind_ms,
            ..Following::default()
        };
        let facts = Facts {
            following: Some(following),
            ..facts(self.now, false)
        };
        self.monitor.report(&name.parse().unwrap(), self.now, facts);
    }

    fn evaluate(&mut self) -> Vec<(String, Verdict)> {
        let proposed = self.monitor.evaluate(self.now, self.regions.values());
        for (name, verdict) in &proposed {
            let region = self.regions.get_mut(name.as_str()).unwrap();
            assert_ne!(region.verdict, *verdict, "no change is proposed as one");
            region.verdict = *verdict;
        }
        proposed
            .into_iter()
            .map(|(name, verdict)| (name.to_string(), verdict))
            .collect()
    }
}

fn region(name: &str, verdict: Verdict) -> Region {
    Region {
        name: name.parse().unwrap(),
        ipv4: Some([127, 0, 0, 1].into()),
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location: Location {
            latitude: 0.0,
            longitude: 0.0,
        },
        labels: BTreeMap::new(),
        drained: false,
        verdict,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

fn facts(sequence: u64, draining: bool) -> Facts {
    Facts {
        started_at: Timestamp(0),
        sequence,
        draining,
        load: Load::default(),
        queued: 0,
        sizing: None,
        revision: Revision(0),
        hash: String::new(),
        bundles_missing: Vec::new(),
        following: None,
        knows: Knowledge::default(),
    }
}

fn is(name: &str, verdict: Verdict) -> (String, Verdict) {
    (name.to_owned(), verdict)
}

#[test]
fn one_that_falls_silent_is_down_within_a_lease_and_a_tick() {
    let mut three = Federation::new(&[("fra", Healthy), ("iad", Healthy), ("nrt", Healthy)]);
    assert_eq!(three.run(10, &["fra", "iad", "nrt"]), []);
    let fell = three.now;
    let mut proposed = Vec::new();
    while proposed.is_empty() {
        proposed = three.run(1, &["iad", "nrt"]);
        assert!(three.now < fell + 5000, "not noticed in five seconds");
    }
    assert_eq!(proposed, [is("fra", Down)]);
    assert_eq!(three.run(60, &["iad", "nrt"]), [], "and nobody else");
    assert_eq!(three.run(10, &["iad", "nrt", "fra"]), [is("fra", Healthy)]);
}

#[test]
fn a_region_that_says_that_it_is_behind_is_suspect_until_it_no_longer_says_so() {
    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
    two.run(10, &["fra", "iad"]);
    let says = |two: &mut Federation, behind_ms: u64| {
        two.now += 500;
        two.report("iad", false);
        two.report_following("fra", behind_ms);
        two.evaluate()
    };
    assert_eq!(says(&mut two, 0), []);
    assert_eq!(says(&mut two, 11_000), [is("fra", Suspect)]);
    assert_eq!(says(&mut two, 12_000), []);
    assert_eq!(says(&mut two, 0), [is("fra", Healthy)]);
}

#[test]
fn a_region_that_was_down_is_healthy_on_its_second_report() {
    let mut two = Federation::new(&[("fra", Down), ("iad", Healthy)]);
    two.run(10, &["iad"]);
    two.report("fra", false);
    assert_eq!(two.evaluate(), []);
    two.run(4, &["iad"]);
    two.report("fra", false);
    assert_eq!(two.evaluate(), [], "a lapse between two is no row");
    two.run(1, &["iad"]);
    two.report("fra", false);
    assert_eq!(two.evaluate(), [is("fra", Healthy)]);
}

#[test]
fn a_new_region_is_healthy_on_its_first_report() {
    let mut federation = Federation::new(&[]);
    federation.run(5, &[]);
    federation.regions.insert("fra", region("fra", Down));
    assert_eq!(federation.evaluate(), []);
    // The first report after a long silence thaws a grace later.
    federation.report("fra", false);
    assert_eq!(federation.evaluate(), []);
    assert_eq!(federation.run(5, &["fra"]), [is("fra", Healthy)]);
    federation.regions.insert("iad", region("iad", Down));
    federation.report("iad", false);
    assert_eq!(federation.evaluate(), [is("iad", Healthy)]);
}

#[test]
fn a_new_leader_judges_nobody_until_all_could_have_reported() {
    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy), ("nrt", Down)]);
    assert_eq!(two.run(3, &["iad", "nrt"]), []);
    assert_eq!(
        two.run(2, &["iad", "nrt"]),
        [is("fra", Down), is("nrt", Healthy)],
        "and then judges who did not"
    );
}

#[test]
fn when_all_fall_silent_nothing_changes() {
    for (case, regions) in [
        (
            "three",
            vec![("fra", Healthy), ("iad", Healthy), ("nrt", Healthy)],
        ),
        ("the only one", vec![("fra", Healthy)]),
        ("the last one", vec![("fra", Healthy), ("iad", Down)]),
    ] {
        let mut federation = Federation::new(&regions);
        let serving = regions.iter().filter(|(_, verdict)| *verdict == Healthy);
        let names: Vec<&str> = serving.map(|(name, _)| *name).collect();
        federation.run(10, &names);
        assert_eq!(federation.run(60, &[]), [], "{case}");
        assert_eq!(federation.run(60, &names), [], "{case}, coming back");
    }
}

#[test]
fn after_a_silence_of_all_each_has_time_to_get_through() {
    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
    two.run(10, &["fra", "iad"]);
    two.run(20, &[]);
    assert_eq!(two.run(3, &["iad"]), [], "fra may be on its way");
    assert_eq!(two.run(3, &["iad"]), [is("fra", Down)]);
}

#[test]
fn flapping_never_shows_a_region_on_a_single_report() {
    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
    two.run(10, &["fra", "iad"]);
    assert_eq!(two.run(5, &["iad"]), [is("fra", Down)]);
    for _ in 0..10 {
        two.report("fra", false);
        assert_eq!(two.run(4, &["iad"]), []);
    }
}

#[test]
fn draining_is_a_regions_own_word_or_an_operators() {
    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
    two.run(10, &["fra", "iad"]);
    two.report("fra", true);
    assert_eq!(two.evaluate(), [is("fra", Draining)]);
    assert_eq!(two.run(5, &["iad"]), [is("fra", Down)], "it has stopped");

    let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
    two.run(10, &["fra", "iad"]);
    two.regions.get_mut("fra").unwrap().drained = true;
    assert_eq!(two.evaluate(), [is("fra", Draining)]);
    assert_eq!(two.run(10, &["iad"]), [], "dead or alive");
    assert_eq!(two.run(10, &["fra"]), [], "only a drained one is heard");
}

#[test]
fn reports_that_were_overtaken_are_dropped() {
    let mut monitor = Monitor::new(0, LEASE);
    let fra: RegionName = "fra".parse().unwrap();
    let started = |at, sequence| Facts {
        started_at: Timestamp(at),
        ..facts(sequence, false)
    };
    for (at, sequence, news) in [
        (5, 1, true),
        (5, 3, true),
        (5, 2, false),
        (5, 3, false),
        (9, 1, true),
        (5, 4, false),
    ] {
        let taken = monitor.report(&fra, 10, started(at, sequence));
        assert_eq!(taken, news, "{at} {sequence}");
    }
    let heard: Vec<_> = monitor.heard().collect();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].1.facts, started(9, 1));

    assert_eq!(monitor.evaluate(20, []), []);
    assert_eq!(monitor.heard().count(), 0, "it is no longer registered");
}

#[test]
fn an_older_process_is_heard_once_the_younger_has_fallen_silent() {
    let fra = region("fra", Healthy);
    let iad = region("iad", Healthy);
    let mut monitor = Monitor::new(0, LEASE);
    let mut proposed = Vec::new();
    let mut heard_of_older = 0;
    for second in 1..30 {
        let now = second * 1000;
        let started = |at| Facts {
            started_at: Timestamp(at),
            ..facts(second, false)
        };
        // Its successor comes, and dies four seconds later.
        heard_of_older += u32::from(monitor.report(&fra.name, now, started(5)));
        if (8..12).contains(&second) {
            assert!(monitor.report(&fra.name, now, started(9)));
        }
        monitor.report(&iad.name, now, started(5));
        proposed.extend(monitor.evaluate(now + 500, [&fra, &iad]));
    }
    assert_eq!(proposed, [], "no lease lapsed");
    assert_eq!(
        heard_of_older,
        29 - 4,
        "all but those beside the younger one's"
    );
}

proptest! {
    /// Whenever and in whatever order reports stop for good, steering is as it was.
    #[test]
    fn a_silence_of_all_takes_nobody_down(
        offsets in proptest::collection::vec(0..1000u64, 1..6),
        cut in 8000..12_000u64,
        step in 50..500usize,
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let regions: Vec<_> = names[..offsets.len()]
            .iter()
            .map(|name| region(name, Healthy))
            .collect();
        let mut monitor = Monitor::new(0, LEASE);
        let mut evaluated = 0;
        for now in 0..cut + 20_000 {
            for (region, offset) in regions.iter().zip(&offsets) {
                if now <= cut && now % 1000 == *offset {
                    monitor.report(&region.name, now, facts(now + 1, false));
                }
            }
            if usize::try_from(now).unwrap().is_multiple_of(step) {
                evaluated += 1;
                prop_assert_eq!(monitor.evaluate(now, &regions), [], "at {}", now);
            }
        }
        prop_assert!(evaluated > 10);
    }

    /// However the others fare, a region that reports every second is never down.
    #[test]
    fn who_reports_is_never_down(alive in proptest::collection::vec(any::<bool>(), 60)) {
        let mut two = Federation::new(&[("fra", Healthy), ("iad", Healthy)]);
        for other in alive {
            let reporting: &[&str] = if other { &["fra", "iad"] } else { &["fra"] };
            let proposed = two.run(1, reporting);
            prop_assert!(proposed.iter().all(|(name, _)| name == "iad"), "{:?}", proposed);
        }
    }
}
