#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use api_types::{Knowledge, Load, Location, Revision, Timestamp};

use super::*;

const LEASE_MS: u64 = 3000;

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

fn facts(sequence: u64) -> Facts {
    Facts {
        started_at: Timestamp(0),
        sequence,
        draining: false,
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

#[test]
fn a_verdict_that_was_not_written_is_proposed_again_a_second_later() {
    // It is never written: the regions stay as they are.
    let regions = [
        region("fra", Verdict::Healthy),
        region("iad", Verdict::Healthy),
    ];
    let (mut tenure, mut proposed) = (Tenure::begin(7, 0, LEASE_MS), Vec::new());
    assert!(tenure.is_of(7) && !tenure.is_of(8));
    for tick in 0..100_u64 {
        let now_ms = tick * 200;
        let iad = "iad".parse().unwrap();
        assert!(tenure.report(&iad, now_ms, facts(tick + 1)));
        for (region, verdict) in tenure.judge(now_ms, &regions) {
            assert_eq!((region.as_str(), verdict), ("fra", Verdict::Down));
            proposed.push(now_ms);
        }
    }
    assert!(proposed.len() > 3, "{proposed:?}");
    for pair in proposed.windows(2) {
        assert_eq!(pair[1] - pair[0], PROPOSE_EVERY_MS, "{proposed:?}");
    }
    assert_eq!(tenure.heard().count(), 1);
}

#[test]
fn a_tenure_that_has_heard_no_region_proposes_nothing() {
    let regions = [
        region("fra", Verdict::Healthy),
        region("iad", Verdict::Down),
    ];
    let mut tenure = Tenure::begin(1, 0, LEASE_MS);
    for now_ms in (0..60_000).step_by(200) {
        assert_eq!(tenure.judge(now_ms, &regions), []);
    }
}
