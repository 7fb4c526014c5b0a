//! Any log gives every replica the same state, and its changes are enough to have it again.

use std::collections::BTreeMap;

use api_types::{
    AppId, Catalog, Digest, FnId, Object, ObjectId, Region, RegionName, Revision, Timestamp,
    Trigger, TriggerId, Verdict,
};
use global_plane_state::{
    AppDraft, Change, Command, Envelope, FnDraft, Preconditions, RequestId, Session, State,
    StateParts, TriggerDraft,
};
use proptest::prelude::*;

use super::{map, region_draft, text};

/// What a server keeps on disk, by the keys that changes name.
#[derive(Default)]
struct Disk {
    objects: BTreeMap<ObjectId, Object>,
    sessions: BTreeMap<u64, Session>,
    counters: (Revision, Timestamp),
}

impl Disk {
    fn keep(&mut self, change: Change) {
        match change {
            Change::Put(object) => drop(self.objects.insert(object.id(), object)),
            Change::Deleted { object, .. } => drop(self.objects.remove(&object).unwrap()),
            Change::Session(session) => drop(self.sessions.insert(session.index, session)),
            Change::SessionGone { index } => drop(self.sessions.remove(&index).unwrap()),
            Change::Counters { revision, log_time } => self.counters = (revision, log_time),
        }
    }

    fn parts(&self) -> StateParts {
        StateParts {
            cluster_id: "test".to_owned(),
            objects: self.objects.values().cloned().collect(),
            sessions: self.sessions.values().cloned().collect(),
            revision: self.counters.0,
            log_time: self.counters.1,
        }
    }
}

fn revision_of(change: &Change) -> Option<Revision> {
    match change {
        Change::Put(object) => Some(object.revision()),
        Change::Deleted { revision, .. } | Change::Counters { revision, .. } => Some(*revision),
        Change::Session(_) | Change::SessionGone { .. } => None,
    }
}

fn small() -> std::ops::Range<u8> {
    0..3
}

fn command() -> impl Strategy<Value = Command> {
    let config = |n: u8| map([("k", if n == 0 { String::new() } else { n.to_string() })]);
    let app = move |(name, n): (u8, u8)| AppDraft {
        name: Some(format!("app{name}")),
        config: config(n),
        ..AppDraft::default()
    };
    let function = move |(app, name, n): (u8, u8, u8)| FnDraft {
        app_id: Some(format!("a{app}")),
        name: Some(format!("fn{name}")),
        image: Some(match n {
            0 => format!("bundle/x:1@sha256:{}", Digest([0; 32])),
            _ => format!("image:{n}"),
        }),
        config: config(n),
        ..FnDraft::default()
    };
    let trigger = |(app, function, name): (u8, u8, u8)| TriggerDraft {
        app_id: Some(format!("a{app}")),
        fn_id: Some(format!("f{function}")),
        name: Some(format!("t{name}")),
        kind: text("http"),
        source: Some(format!("/{name}")),
        ..TriggerDraft::default()
    };
    let region = |n: u8| ["fra", "iad", "nrt"][usize::from(n)].to_owned();
    let named = move |n: u8| region(n).parse::<RegionName>().unwrap();
    let verdict = prop_oneof![
        Just(Verdict::Healthy),
        Just(Verdict::Down),
        Just(Verdict::Draining)
    ];
    let a = |n: u8| AppId::new(format!("a{n}"));
    let f = |n: u8| FnId::new(format!("f{n}"));
    let t = |n: u8| TriggerId::new(format!("t{n}"));
    let three = || (small(), small(), small());
    prop_oneof![
        4 => (small(), (small(), small()))
            .prop_map(move |(id, draft)| Command::CreateApp { id: a(id), draft: app(draft) }),
        2 => (small(), (small(), small()))
            .prop_map(move |(id, draft)| Command::UpdateApp { id: a(id), change: app(draft) }),
        1 => small().prop_map(move |id| Command::DeleteApp { id: a(id) }),
        4 => (small(), three())
            .prop_map(move |(id, draft)| Command::CreateFn { id: f(id), draft: function(draft) }),
        2 => (small(), three())
            .prop_map(move |(id, draft)| Command::UpdateFn { id: f(id), change: function(draft) }),
        1 => small().prop_map(move |id| Command::DeleteFn { id: f(id) }),
        4 => (small(), three()).prop_map(move |(id, draft)| Command::CreateTrigger {
            id: t(id),
            draft: trigger(draft)
        }),
        2 => (small(), three()).prop_map(move |(id, draft)| Command::UpdateTrigger {
            id: t(id),
            change: trigger(draft)
        }),
        1 => small().prop_map(move |id| Command::DeleteTrigger { id: t(id) }),
        2 => small().prop_map(move |n| Command::RegisterRegion { region: region_draft(&region(n)) }),
        1 => (small(), any::<bool>())
            .prop_map(move |(n, drained)| Command::SetDrained { region: named(n), drained }),
        2 => proptest::collection::vec((small().prop_map(named), verdict), 0..3)
            .prop_map(|verdicts| Command::SetVerdicts { verdicts }),
        1 => small().prop_map(|n| Command::AddBundle { digest: Digest([n; 32]), size: 1 }),
    ]
}

fn log() -> impl Strategy<Value = Vec<Envelope>> {
    let conditions = prop_oneof![
        8 => Just(Preconditions::default()),
        1 => (0..20u64).prop_map(|revision| Preconditions {
            if_match: Some(Revision(revision)),
            if_none_match_any: false,
        }),
        1 => Just(Preconditions { if_match: None, if_none_match_any: true }),
    ];
    // Few request ids, so that some are retries; times that jump back, and by minutes.
    let entry = (0..60u8, -5..10i64, conditions, command());
    proptest::collection::vec(entry, 0..80).prop_map(|entries| {
        entries
            .into_iter()
            .scan(0, |minute, (request, step, preconditions, command)| {
                *minute += step;
                Some(Envelope {
                    format: 1,
                    request: RequestId(format!("r{request}")),
                    fingerprint: None,
                    log_time: Timestamp(*minute * 60_000),
                    preconditions,
                    command,
                })
            })
            .collect()
    })
}

/// Fns have apps, triggers have fns of the same app.
fn whole(catalog: &Catalog) -> bool {
    let owned = |trigger: &Trigger| {
        let function = catalog.function(&trigger.fn_id);
        function.is_some_and(|function| function.app_id == trigger.app_id)
    };
    catalog
        .fns()
        .all(|function| catalog.app(&function.app_id).is_some())
        && catalog.triggers().all(owned)
}

proptest! {
    #[test]
    fn replicas_and_their_disks_agree(log in log()) {
        let (mut one, mut two) = (State::new("test"), State::new("test"));
        let mut disk = Disk::default();
        for (index, envelope) in (1..).zip(&log) {
            let before = one.revision();
            let time = one.log_time();
            let applied = one.apply(index, envelope);
            prop_assert_eq!(&two.apply(index, envelope), &applied);
            prop_assert!(one.log_time() >= time);
            let changed = applied.changes.iter().any(|change| matches!(
                change,
                Change::Put(_) | Change::Deleted { .. }
            ));
            let want = if changed { before.next() } else { before };
            prop_assert_eq!(one.revision(), want, "one revision for what changes something");
            for change in applied.changes {
                let revision = revision_of(&change).unwrap_or(want);
                prop_assert_eq!(revision, want, "all at one revision");
                disk.keep(change);
            }
            if let Ok(reply) = applied.outcome {
                prop_assert!(reply.revision() <= one.revision());
            }
            prop_assert!(whole(one.catalog()));
            let drains = |region: &Region| !region.drained || region.verdict == Verdict::Draining;
            prop_assert!(one.catalog().regions().all(drains));
        }
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(&State::restore(disk.parts()), &one);
        prop_assert_eq!(&State::restore(one.parts()), &one);
    }
}
