#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::object::example::example;
use api_types::{Annotations, App, AppId, FnId, Location, Timestamp, Trigger, TriggerId};
use api_wire::view::ViewId;
use proptest::prelude::*;

use super::*;
use crate::placement;
use api_types::placement::Tier;

pub fn region(name: &str) -> Region {
    Region {
        name: name.parse().unwrap(),
        ipv4: Some("127.0.0.1".parse().unwrap()),
        ipv6: None,
        gateway: format!("{name}:8080"),
        admin: format!("{name}:8081"),
        location: Location {
            latitude: 50.0,
            longitude: 8.0,
        },
        labels: BTreeMap::new(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

pub fn app(id: &str, placement: Option<&str>, revision: u64) -> App {
    let annotations: Annotations = placement
        .map(|json| (PLACEMENT_ANNOTATION.to_owned(), json.to_owned()))
        .into_iter()
        .collect();
    App {
        id: AppId::new(id),
        name: format!("app-{}", id.to_lowercase()),
        config: BTreeMap::new(),
        annotations,
        syslog_url: None,
        shape: String::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(revision),
    }
}

pub fn function(id: &str, app: &str, revision: u64) -> Fn {
    Fn {
        id: FnId::new(id),
        name: format!("fn-{}", id.to_lowercase()),
        app_id: AppId::new(app),
        image: format!("bundle/x:1@sha256:{}", "ab".repeat(32)),
        memory: 128,
        timeout_secs: 30,
        idle_timeout_secs: 30,
        config: BTreeMap::new(),
        annotations: Annotations::new(),
        shape: String::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(revision),
    }
}

pub fn trigger(id: &str, app: &str, function: &str, revision: u64) -> Trigger {
    Trigger {
        id: TriggerId::new(id),
        name: format!("trigger-{}", id.to_lowercase()),
        app_id: AppId::new(app),
        fn_id: FnId::new(function),
        kind: "http".to_owned(),
        source: format!("/{}", id.to_lowercase()),
        annotations: Annotations::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(revision),
    }
}

fn sealed(cluster: &str, epoch: u64, revision: u64, apps: &[App], fns: &[Fn]) -> Envelope {
    let objects = apps
        .iter()
        .map(Into::into)
        .chain(fns.iter().map(Into::into));
    let body = MetadataBody::of("fn.test", 8080, objects);
    let id = ViewId {
        cluster_id: cluster.to_owned(),
        epoch,
        revision,
        count: (apps.len() + fns.len()) as u64,
        sha256: String::new(),
    };
    Envelope::seal(id, &body)
}

/// A replica in fra that holds `apps` at `revision`.
pub fn held(revision: u64, apps: &[App], fns: &[Fn]) -> RegionCopy {
    let mut held = RegionCopy::new(region("fra"), "fn.test".to_owned());
    let snapshot = sealed("demo", 1, revision, apps, fns);
    let step = held.snapshot(&snapshot).unwrap().unwrap();
    held.take(step);
    held
}

/// As the watch would tell of them.
pub fn put_regions(held: &mut RegionCopy, regions: Vec<Region>) {
    let meta = held.meta().unwrap().clone();
    held.take(Step {
        meta,
        puts: regions.into_iter().map(Object::Region).collect(),
        deletes: Vec::new(),
        sync: false,
    });
}

fn apps(count: usize) -> Vec<App> {
    (0..count)
        .map(|n| app(&format!("A{n:02}"), None, 5))
        .collect()
}

#[test]
fn what_may_be_called_here_is_what_is_placed_here_or_may_come_in_a_failover() {
    let apps = [
        app("A", Some(r#"{"regions":["fra"],"strict":true}"#), 1),
        app("B", Some(r#"{"regions":["nrt"]}"#), 1),
        app("C", Some(r#"{"regions":["nrt"],"strict":true}"#), 1),
    ];
    let fns = ["A", "B", "C"].map(|id| function(id, id, 1));
    let held = held(1, &apps, &fns);
    let callable: Vec<_> = held.callable().map(|function| &*function.name).collect();
    assert_eq!(callable, ["fn-a", "fn-b"]);
}

#[test]
fn a_snapshot_that_must_not_replace_what_is_held_is_refused() {
    let held = held(10, &apps(24), &[]);
    let mut miscounted = sealed("demo", 1, 11, &apps(24), &[]);
    miscounted.id.count = 25;
    let mut garbled = sealed("demo", 1, 11, &apps(24), &[]);
    garbled.body.push(' ');
    for (case, envelope, want) in [
        (
            "another cluster",
            sealed("other", 1, 11, &apps(24), &[]),
            "cluster",
        ),
        (
            "a restored one",
            sealed("demo", 2, 11, &apps(24), &[]),
            "epoch",
        ),
        ("older", sealed("demo", 1, 9, &apps(24), &[]), "older"),
        (
            "most is gone",
            sealed("demo", 1, 11, &apps(11), &[]),
            "mass_delete",
        ),
        ("miscounted", miscounted, "count"),
        ("garbled", garbled, "digest"),
    ] {
        let refused = held.snapshot(&envelope).unwrap_err();
        assert_eq!(refused.label(), want, "{case}: {refused}");
        // Others pass by themselves: a node that lags, a line that was garbled.
        let lasts = ["cluster", "epoch", "mass_delete"].contains(&want);
        let says_what_to_do = refused.to_string().contains("remove the folder `replica`");
        assert_eq!(says_what_to_do, lasts, "{case}: {refused}");
    }
    assert!(
        held.snapshot(&sealed("demo", 1, 10, &apps(24), &[]))
            .unwrap()
            .is_none(),
        "what is held changes nothing"
    );
}

#[test]
fn absence_in_a_newer_snapshot_deletes() {
    let mut held = held(10, &apps(24), &[]);
    let step = held
        .snapshot(&sealed("demo", 1, 11, &apps(12), &[]))
        .unwrap()
        .unwrap();
    assert_eq!(step.deletes.len(), 12);
    held.take(step);
    assert_eq!(held.all().apps().count(), 12);
    assert_eq!(held.revision(), Revision(11));
}

#[test]
fn lines_are_taken_in_order_and_a_revision_is_settled_by_the_next() {
    let mut held = held(10, &[], &[]);
    let put = |app: &App| WatchLine::put(app.into());
    let settled = |held: &RegionCopy| held.meta().unwrap().settled;
    let mut take = |line: WatchLine| {
        if let Some(step) = held.line(line)? {
            held.take(step);
        }
        Ok::<_, Refused>(settled(&held))
    };
    assert_eq!(take(put(&app("A", None, 12))).unwrap(), Revision(10));
    assert_eq!(take(put(&app("B", None, 12))).unwrap(), Revision(10));
    assert_eq!(take(put(&app("C", None, 13))).unwrap(), Revision(12));
    assert_eq!(
        take(WatchLine::Progress { revision: 13 }).unwrap(),
        Revision(13)
    );
    assert_eq!(take(put(&app("D", None, 12))).unwrap_err().label(), "order");
}

#[test]
fn only_what_is_placed_here_is_here_even_when_a_fn_comes_before_its_app() {
    let mut held = held(1, &[], &[]);
    let mut revision = 1;
    let mut take = |held: &mut RegionCopy, object: Object| {
        revision += 1;
        let mut meta = held.meta().unwrap().clone();
        meta.revision = Revision(revision);
        held.take(Step {
            meta,
            puts: vec![object],
            deletes: Vec::new(),
            sync: false,
        });
    };
    let here = |held: &RegionCopy| {
        (
            held.here().apps().count(),
            held.here().fns().count(),
            held.here().triggers().count(),
        )
    };
    take(&mut held, Object::Trigger(trigger("T", "A", "F", 2)));
    take(&mut held, Object::Fn(function("F", "A", 2)));
    assert_eq!(here(&held), (0, 0, 0), "its app may confine it");
    take(&mut held, Object::App(app("A", None, 3)));
    assert_eq!(here(&held), (1, 1, 1));
    take(
        &mut held,
        Object::App(app("A", Some(r#"{"regions":["nrt"]}"#), 4)),
    );
    assert_eq!(here(&held), (0, 0, 0));
    assert_eq!(
        held.all().fns().count(),
        1,
        "others' functions are known all the same"
    );
    take(
        &mut held,
        Object::App(app("A", Some(r#"{"regions":["fra"]}"#), 5)),
    );
    assert_eq!(here(&held), (1, 1, 1));
    let step = held
        .line(WatchLine::deleted(
            Revision(9),
            &ObjectId::App(AppId::new("A")),
        ))
        .unwrap()
        .unwrap();
    assert_eq!(step.deletes.len(), 3);
    held.take(step);
    assert_eq!(here(&held), (0, 0, 0));
    assert_eq!(
        held.hash(),
        "0".repeat(16),
        "nothing held hashes to nothing"
    );
}

proptest! {
    #[test]
    fn replicas_with_the_same_objects_agree_on_the_hash_however_they_came_there(
        order in Just((0..12u64).collect::<Vec<_>>()).prop_shuffle(),
        older in 0..12u64,
    ) {
        let at = |n: u64, revision: u64| Object::App(app(&format!("A{n}"), None, revision));
        let meta = held(1, &[], &[]).meta().unwrap().clone();
        let take = |held: &mut RegionCopy, objects: Vec<Object>| held.take(Step {
            meta: meta.clone(), puts: objects, deletes: Vec::new(), sync: false,
        });
        let mut straight = held(1, &[], &[]);
        take(&mut straight, (0..12).map(|n| at(n, 100 + n)).collect());
        let mut devious = held(1, &[], &[]);
        take(&mut devious, vec![at(older, 50)]);
        for n in order {
            take(&mut devious, vec![at(n, 100 + n)]);
        }
        prop_assert_eq!(straight.hash(), devious.hash());
        take(&mut devious, vec![at(older, 200)]);
        prop_assert_ne!(straight.hash(), devious.hash());
    }
}

/// A new kind needs no code in a region's copy; this shows it.
#[test]
fn every_kind_that_regions_receive_is_taken_kept_and_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::disk::Disk::open(dir.path()).unwrap();
    let load = || disk.load(region("nrt"), "fn.test".to_owned()).unwrap();
    let all: Vec<Object> = Kind::ALL
        .iter()
        .filter(|kind| kind.received_by_regions())
        .map(|kind| example(*kind, Revision(2)))
        .collect();
    let held_in = |held: &RegionCopy| {
        let objects = held.all().objects();
        objects.map(|object| object.to_owned()).collect::<Vec<_>>()
    };

    let mut held = held(1, &[], &[]);
    let take = |held: &mut RegionCopy, line: WatchLine| {
        let text = serde_json::to_string(&line).unwrap();
        let step = held.line(serde_json::from_str(&text).unwrap());
        let step = step.unwrap().unwrap();
        disk.write(&step).unwrap();
        held.take(step);
    };
    for object in &all {
        take(&mut held, WatchLine::put(object.by_ref()));
    }
    assert_eq!(held_in(&held), all);
    assert_eq!(held_in(&load()), all, "read back from the disk");
    assert_eq!(load().hash(), held.hash());

    let body = MetadataBody::of("fn.test", 8080, held.all().objects());
    let id = ViewId {
        cluster_id: "demo".to_owned(),
        epoch: 1,
        revision: 2,
        count: all.len() as u64,
        sha256: String::new(),
    };
    let mut fresh = RegionCopy::new(region("nrt"), "fn.test".to_owned());
    let step = fresh.snapshot(&Envelope::seal(id, &body)).unwrap().unwrap();
    fresh.take(step);
    assert_eq!(held_in(&fresh), all, "taken from a snapshot");
    assert_eq!(fresh.hash(), held.hash());

    for object in all.iter().rev() {
        take(&mut held, WatchLine::deleted(Revision(3), &object.id()));
        assert_eq!(held.all().get(&object.id()), None);
    }
    assert_eq!(held_in(&load()), [], "nothing is left on the disk");
    assert_eq!(load().hash(), "0".repeat(16));
}

/// A change of one of few objects: an app with one of the placements, a function with one of few
/// bundles and one of the placements.
fn change() -> impl Strategy<Value = (Kind, usize, usize, usize, bool)> {
    let kind = prop_oneof![
        1 => Just(Kind::App),
        4 => Just(Kind::Fn),
        2 => Just(Kind::Trigger),
        1 => Just(Kind::Region),
    ];
    (
        kind,
        0..4usize,
        0..4usize,
        0..PLACEMENTS.len(),
        prop::bool::weighted(0.3),
    )
}

const PLACEMENTS: [Option<&str>; 5] = [
    None,
    Some(r#"{"regions":["fra"]}"#),
    Some(r#"{"regions":["fra"],"strict":true}"#),
    Some(r#"{"regions":["nrt"]}"#),
    Some(r#"{"regions":["nrt"],"strict":true}"#),
];

/// Every position is told of what changed after it, so nothing but that need be looked at again.
#[derive(Default)]
struct Follower {
    functions: (BTreeMap<FnId, u64>, u64),
    bundles: (BTreeMap<Digest, Reference>, u64),
}

impl Follower {
    fn catch_up(&mut self, held: &RegionCopy) {
        let (told, position) = &mut self.functions;
        let (news, now) = held.functions_since(*position);
        *position = now;
        let looked_at = match news {
            News::These(changed) => changed,
            News::All => held
                .callable()
                .map(|function| function.id.clone())
                .collect(),
        };
        for function in looked_at {
            match held.order(&function) {
                Some(settings) => told.insert(function, settings),
                None => told.remove(&function),
            };
        }
        let (told, position) = &mut self.bundles;
        let (news, now) = held.bundles_since(*position);
        *position = now;
        let looked_at = match news {
            News::These(changed) => changed,
            News::All => held.references().map(|(bundle, _)| *bundle).collect(),
        };
        for bundle in looked_at {
            match held.reference(&bundle) {
                Some(reference) => told.insert(bundle, reference),
                None => told.remove(&bundle),
            };
        }
    }
}

proptest! {
    #[test]
    fn what_is_kept_in_step_change_by_change_is_what_would_be_made_of_everything_at_once(
        changes in prop::collection::vec(change(), 0..60),
        looks in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut kept = held(1, &[], &[]);
        let mut follower = Follower::default();
        for (n, ((kind, id, other, placement, deleted), looks)) in changes.into_iter().zip(looks).enumerate() {
            let revision = n as u64 + 2;
            let mut meta = kept.meta().unwrap().clone();
            meta.revision = Revision(revision);
            let object = match kind {
                Kind::App => Object::App(app(&format!("A{id}"), PLACEMENTS[placement], revision)),
                Kind::Fn => {
                    // A function is of one app for good.
                    let mut function = function(&format!("F{id}"), &format!("A{}", id % 2), revision);
                    function.image = format!("bundle/x:1@sha256:{}", format!("{other:02}").repeat(32));
                    let placement = PLACEMENTS[placement].map(|json| (PLACEMENT_ANNOTATION.to_owned(), json.to_owned()));
                    function.annotations = placement.into_iter().collect();
                    Object::Fn(function)
                }
                Kind::Trigger => {
                    let app = format!("A{}", other % 2);
                    Object::Trigger(trigger(&format!("T{id}-{other}"), &app, &format!("F{other}"), revision))
                }
                _ => Object::Region(region(["fra", "nrt"][id % 2])),
            };
            let (mut puts, mut deletes) = (Vec::new(), Vec::new());
            if deleted {
                deletes = kept.all().dependents(&object.id());
                deletes.push(object.id());
                deletes.retain(|id| kept.all().get(id).is_some());
            } else {
                puts.push(object);
            }
            kept.take(Step { meta, puts, deletes, sync: false });
            if looks {
                follower.catch_up(&kept);
            }
        }
        follower.catch_up(&kept);

        let mut fresh = RegionCopy::new(region("fra"), "fn.test".to_owned());
        let all = kept.all();
        // Triggers before their functions, and these before their apps.
        let mut puts: Vec<Object> = all.objects().map(|object| object.to_owned()).collect();
        puts.reverse();
        fresh.take(Step {
            meta: kept.meta().unwrap().clone(),
            puts,
            deletes: Vec::new(),
            sync: false,
        });
        prop_assert_eq!(kept.here(), fresh.here());
        let settings = |held: &RegionCopy| -> BTreeMap<FnId, u64> {
            held.callable().map(|function| (function.id.clone(), held.order(&function.id).unwrap())).collect()
        };
        prop_assert_eq!(settings(&kept), settings(&fresh));
        prop_assert_eq!(&follower.functions.0, &settings(&fresh));
        let references: BTreeMap<Digest, Reference> =
            fresh.references().map(|(bundle, reference)| (*bundle, reference)).collect();
        prop_assert_eq!(&follower.bundles.0, &references);
        let kept_references: BTreeMap<Digest, Reference> =
            kept.references().map(|(bundle, reference)| (*bundle, reference)).collect();
        prop_assert_eq!(&kept_references, &references);

        // By the rule itself, without any of the records.
        for function in all.fns() {
            let tier = placement::tier(all, function, kept.me());
            let is_here = kept.here().function(&function.id).is_some();
            prop_assert_eq!(is_here, tier == Tier::Placed);
            prop_assert_eq!(kept.order(&function.id).is_some(), tier.may_hold());
        }
        for trigger in all.triggers() {
            let is_here = kept.here().function(&trigger.fn_id).is_some();
            prop_assert_eq!(kept.here().trigger(&trigger.id).is_some(), is_here);
        }
    }
}
