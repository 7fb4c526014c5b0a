//! Regions, drains, verdicts and bundles.

use api_types::RefusalKind::{Conflict, Invalid, NotFound};
use api_types::{Digest, RegionName, Verdict};
use global_plane_state::{Command, RegionDraft, Reply};

use super::{Log, region_draft, region_of};

fn drain(region: &RegionName, drained: bool) -> Command {
    Command::SetDrained {
        region: region.clone(),
        drained,
    }
}

fn verdict(region: &RegionName, verdict: Verdict) -> Command {
    Command::SetVerdicts {
        verdicts: vec![(region.clone(), verdict)],
    }
}

#[test]
fn a_region_that_registers_again_keeps_what_is_thought_of_it() {
    let mut log = Log::new();
    let fra = log.region("fra");
    assert_eq!(
        log.state.catalog().region(&fra).unwrap().verdict,
        Verdict::Down
    );
    log.write(verdict(&fra, Verdict::Healthy)).unwrap();
    let before = log.state.catalog().region(&fra).unwrap().clone();
    let revision = log.state.revision();

    let again = || Command::RegisterRegion {
        region: region_draft("fra"),
    };
    assert_eq!(region_of(log.write(again())), before);
    assert_eq!(log.state.revision(), revision, "nothing changed");

    log.write(drain(&fra, true)).unwrap();
    let moved = RegionDraft {
        gateway: "127.0.11.9:8080".to_owned(),
        ..region_draft("fra")
    };
    let moved = region_of(log.write(Command::RegisterRegion { region: moved }));
    assert!(moved.drained);
    assert_eq!(moved.verdict, Verdict::Draining);
    assert_eq!(moved.registered_at, before.registered_at);
    assert_eq!(moved.gateway, "127.0.11.9:8080");
    assert_eq!(moved.revision, log.state.revision());
}

#[test]
fn regions_that_nobody_could_be_sent_to_are_refused() {
    type Spoil = fn(&mut RegionDraft);
    let spoils: [Spoil; 8] = [
        |d| d.ipv4 = None,
        |d| d.gateway = "nowhere".to_owned(),
        |d| d.admin = ":8081".to_owned(),
        |d| d.gateway = "http://x:80".to_owned(),
        |d| d.gateway = "x:0".to_owned(),
        |d| d.location.latitude = 91.0,
        |d| d.location.longitude = f64::NAN,
        |d| drop(d.labels.insert(String::new(), "x".to_owned())),
    ];
    for spoil in spoils {
        let mut region = region_draft("fra");
        spoil(&mut region);
        let (kind, message) = Log::new().refused(Command::RegisterRegion { region });
        assert_eq!(kind, Invalid, "{message}");
    }
}

#[test]
fn a_drained_region_drains_whatever_is_said_of_it() {
    let mut log = Log::new();
    let fra = log.region("fra");
    for (case, command, want) in [
        (
            "heard from",
            verdict(&fra, Verdict::Healthy),
            Verdict::Healthy,
        ),
        ("drained", drain(&fra, true), Verdict::Draining),
        ("dead", verdict(&fra, Verdict::Down), Verdict::Draining),
        ("undrained", drain(&fra, false), Verdict::Healthy),
        ("dead again", verdict(&fra, Verdict::Down), Verdict::Down),
        ("never drained", drain(&fra, false), Verdict::Down),
    ] {
        log.write(command).unwrap();
        assert_eq!(
            log.state.catalog().region(&fra).unwrap().verdict,
            want,
            "{case}"
        );
    }
    let before = log.state.revision();
    assert_eq!(
        log.write(verdict(&fra, Verdict::Down)),
        Ok(Reply::Done(before)),
        "what is thought already is no change"
    );
}

#[test]
fn verdicts_of_several_regions_are_one_revision_or_none() {
    let mut log = Log::new();
    let (fra, iad) = (log.region("fra"), log.region("iad"));
    let nowhere: RegionName = "nowhere".parse().unwrap();
    let all = |names: &[&RegionName]| Command::SetVerdicts {
        verdicts: names
            .iter()
            .map(|name| ((*name).clone(), Verdict::Healthy))
            .collect(),
    };
    let refused = log.refused(all(&[&fra, &nowhere]));
    assert_eq!(
        refused,
        (NotFound, "region \"nowhere\" not found".to_owned())
    );

    let next = log.state.revision().next();
    assert_eq!(log.write(all(&[&fra, &iad])), Ok(Reply::Done(next)));
    for region in log.state.catalog().regions() {
        assert_eq!((region.verdict, region.revision), (Verdict::Healthy, next));
    }
}

#[test]
fn a_bundle_is_known_once_and_by_one_size() {
    let mut log = Log::new();
    let digest = Digest([1; 32]);
    let add = |size| Command::AddBundle { digest, size };
    let first = log.write(add(10)).unwrap();
    assert_eq!(log.write(add(10)), Ok(first));
    assert_eq!(log.refused(add(11)).0, Conflict);
    let digest = Digest([2; 32]);
    let size = (64 << 20) + 1;
    assert_eq!(log.refused(Command::AddBundle { digest, size }).0, Invalid);
    let known: Vec<_> = (log.state.catalog().bundles())
        .map(|bundle| (bundle.digest, bundle.size))
        .collect();
    assert_eq!(known, [(Digest([1; 32]), 10)]);
}
