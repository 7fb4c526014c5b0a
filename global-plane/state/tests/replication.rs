//! Replicas that take the same commands are the same, also when rebuilt from what was persisted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use api_types::{AppId, Digest, FnId, Location, Revision, Timestamp, TriggerId, Verdict};
use global_plane_state::{
    AppDraft, Change, Command, Deleted, Envelope, FnDraft, Parts, Preconditions, Registration,
    RequestId, State, TriggerDraft,
};
use proptest::prelude::*;

/// A disk: what a shell keeps of the changes it is given.
#[derive(Default)]
struct Disk {
    apps: BTreeMap<AppId, api_types::App>,
    fns: BTreeMap<FnId, api_types::Fn>,
    triggers: BTreeMap<TriggerId, api_types::Trigger>,
    regions: BTreeMap<String, api_types::Region>,
    bundles: BTreeMap<Digest, global_plane_state::Bundle>,
    sessions: BTreeMap<RequestId, global_plane_state::Session>,
    position: (Revision, Timestamp),
}

impl Disk {
    fn write(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::App(app) => drop(self.apps.insert(app.id.clone(), app)),
                Change::Fn(function) => drop(self.fns.insert(function.id.clone(), function)),
                Change::Trigger(trigger) => drop(self.triggers.insert(trigger.id.clone(), trigger)),
                Change::Region(region) => {
                    drop(self.regions.insert(region.name.to_string(), region))
                }
                Change::Deleted(Deleted::App(id)) => drop(self.apps.remove(&id)),
                Change::Deleted(Deleted::Fn(id)) => drop(self.fns.remove(&id)),
                Change::Deleted(Deleted::Trigger(id)) => drop(self.triggers.remove(&id)),
                Change::Bundle(digest, bundle) => drop(self.bundles.insert(digest, bundle)),
                Change::Session(request, session) => drop(self.sessions.insert(request, session)),
                Change::SessionDropped(request) => drop(self.sessions.remove(&request)),
                Change::Position { revision, log_time } => self.position = (revision, log_time),
            }
        }
    }

    fn read(self) -> State {
        State::restore(Parts {
            apps: self.apps.into_values().collect(),
            fns: self.fns.into_values().collect(),
            triggers: self.triggers.into_values().collect(),
            regions: self.regions.into_values().collect(),
            bundles: self.bundles.into_iter().collect(),
            sessions: self.sessions.into_iter().collect(),
            revision: self.position.0,
            log_time: self.position.1,
        })
    }
}

fn command() -> impl Strategy<Value = Command> {
    let app = || (0..4u8).prop_map(|n| format!("app{n}"));
    let function = || (0..6u8).prop_map(|n| format!("fn{n}"));
    let trigger = || (0..6u8).prop_map(|n| format!("trigger{n}"));
    let app_draft = || {
        (app(), 0..3u8).prop_map(|(name, n)| AppDraft {
            name: Some(name),
            config: Some(BTreeMap::from([(
                "KEY".to_owned(),
                if n == 0 { String::new() } else { n.to_string() },
            )])),
            ..AppDraft::default()
        })
    };
    let fn_draft = || {
        (app(), function(), 0..400i32).prop_map(|(app, name, timeout)| FnDraft {
            app_id: Some(app),
            name: Some(name),
            image: Some("image:1".to_owned()),
            timeout_secs: Some(timeout),
            ..FnDraft::default()
        })
    };
    let trigger_draft = || {
        (app(), function(), trigger(), 0..4u8).prop_map(|(app, function, name, n)| TriggerDraft {
            app_id: Some(app),
            fn_id: Some(function),
            name: Some(name),
            kind: Some("http".to_owned()),
            source: Some(format!("/{n}")),
            ..TriggerDraft::default()
        })
    };
    let region = || {
        (0..3u8).prop_map(|n| {
            format!("region{n}")
                .parse::<api_types::RegionName>()
                .unwrap()
        })
    };
    prop_oneof![
        (app(), app_draft()).prop_map(|(id, draft)| Command::CreateApp {
            id: AppId::new(id),
            draft
        }),
        (app(), app_draft()).prop_map(|(id, change)| Command::UpdateApp {
            id: AppId::new(id),
            change
        }),
        app().prop_map(|id| Command::DeleteApp { id: AppId::new(id) }),
        (function(), fn_draft()).prop_map(|(id, draft)| Command::CreateFn {
            id: FnId::new(id),
            draft
        }),
        (function(), fn_draft()).prop_map(|(id, change)| Command::UpdateFn {
            id: FnId::new(id),
            change
        }),
        function().prop_map(|id| Command::DeleteFn { id: FnId::new(id) }),
        (trigger(), trigger_draft()).prop_map(|(id, draft)| Command::CreateTrigger {
            id: TriggerId::new(id),
            draft
        }),
        (trigger(), trigger_draft()).prop_map(|(id, change)| Command::UpdateTrigger {
            id: TriggerId::new(id),
            change
        }),
        region().prop_map(|name| Command::RegisterRegion {
            registration: Registration {
                name,
                ipv4: Some([127, 0, 0, 1].into()),
                ipv6: None,
                gateway: "127.0.0.1:8080".to_owned(),
                admin: "127.0.0.1:8081".to_owned(),
                location: Location {
                    latitude: 1.0,
                    longitude: 2.0
                },
                labels: BTreeMap::new(),
            }
        }),
        (region(), any::<bool>())
            .prop_map(|(region, drained)| Command::SetDrained { region, drained }),
        region().prop_map(|name| Command::SetVerdicts {
            verdicts: vec![(name, Verdict::Healthy)]
        }),
        any::<u8>().prop_map(|n| Command::AddBundle {
            digest: Digest([n; 32]),
            size: 7
        }),
    ]
}

fn envelope(n: usize, repeat: bool, command: Command) -> Envelope {
    Envelope {
        format: 1,
        request: RequestId(format!("request{}", if repeat { n / 2 } else { n })),
        // Clocks of proposers disagree, and go back.
        log_time: Timestamp(
            i64::try_from(n).unwrap() * 1000 - if n.is_multiple_of(3) { 5_000 } else { 0 },
        ),
        preconditions: Preconditions::default(),
        command,
    }
}

proptest! {
    #[test]
    fn replicas_and_their_disks_agree(commands in prop::collection::vec((command(), any::<bool>()), 0..80)) {
        let (mut one, mut other, mut disk) = (State::default(), State::default(), Disk::default());
        let mut before = (one.revision(), one.log_time());
        for (n, (command, repeat)) in commands.into_iter().enumerate() {
            let envelope = envelope(n, repeat, command);
            let applied = one.apply(&envelope);
            prop_assert_eq!(&applied, &other.apply(&envelope));
            prop_assert!(one.revision() >= before.0 && one.revision().0 <= before.0.0 + 1);
            prop_assert!(one.log_time() >= before.1);
            prop_assert_eq!(applied.changes.is_empty(), applied.replayed);
            before = (one.revision(), one.log_time());
            disk.write(applied.changes);
        }
        prop_assert_eq!(&one, &State::restore(one.parts()));
        prop_assert_eq!(one, disk.read());
    }
}

#[test]
fn a_repeated_request_gets_its_first_outcome_and_changes_nothing() {
    let mut state = State::default();
    let create = |id: &str| Envelope {
        format: 1,
        request: RequestId("key".to_owned()),
        log_time: Timestamp(1),
        preconditions: Preconditions::default(),
        command: Command::CreateApp {
            id: AppId::new(id),
            draft: AppDraft {
                name: Some("shop".to_owned()),
                ..AppDraft::default()
            },
        },
    };
    let first = state.apply(&create("a"));
    let again = state.apply(&create("b"));
    assert!(first.outcome.is_ok() && again.replayed && again.changes.is_empty());
    assert_eq!(first.outcome, again.outcome);
    assert_eq!(state.catalog().apps().count(), 1);
}
