//! The state as its server sees it: commands in, outcomes and changes out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod operators;
mod replication;
mod retries;

use std::collections::BTreeMap;

use api_types::{
    AppId, Digest, FnId, Location, Object, RefusalKind, RegionName, Timestamp, TriggerId,
};
use global_plane_state::{
    AppDraft, Applied, Command, Envelope, FnDraft, Outcome, Preconditions, RegionDraft, Reply,
    RequestId, State, TriggerDraft,
};

/// A log of one node that applies what is written at once.
struct Log {
    state: State,
    index: u64,
    time: i64,
    conditions: Preconditions,
    fingerprint: Option<Digest>,
}

impl Log {
    fn new() -> Self {
        Self {
            state: State::new("test"),
            index: 0,
            time: 1000,
            conditions: Preconditions::default(),
            fingerprint: None,
        }
    }

    fn apply(&mut self, request: &str, command: Command) -> Applied {
        self.index += 1;
        let envelope = Envelope {
            format: 1,
            request: RequestId(request.to_owned()),
            fingerprint: self.fingerprint,
            log_time: Timestamp(self.time),
            preconditions: self.conditions.clone(),
            command,
        };
        self.state.apply(self.index, &envelope)
    }

    /// A request of its own, a millisecond after the one before.
    fn write(&mut self, command: Command) -> Outcome {
        self.time += 1;
        let request = format!("request {}", self.index);
        self.apply(&request, command).outcome
    }

    /// A write that must be refused; it must leave no trace but its session.
    fn refused(&mut self, command: Command) -> (RefusalKind, String) {
        let before = self.state.parts();
        let refusal = self.write(command).unwrap_err();
        let after = self.state.parts();
        assert_eq!(
            (before.objects, before.revision),
            (after.objects, after.revision),
            "a refusal changes nothing"
        );
        (refusal.kind, refusal.message)
    }

    fn app(&mut self, name: &str) -> AppId {
        let id = AppId::new(format!("id of app {name}"));
        let draft = AppDraft {
            name: text(name),
            ..AppDraft::default()
        };
        self.write(Command::CreateApp {
            id: id.clone(),
            draft,
        })
        .unwrap();
        id
    }

    fn function(&mut self, app: &AppId, name: &str) -> FnId {
        let id = FnId::new(format!("id of fn {app} {name}"));
        let draft = fn_draft(app, name);
        self.write(Command::CreateFn {
            id: id.clone(),
            draft,
        })
        .unwrap();
        id
    }

    fn trigger(&mut self, app: &AppId, function: &FnId, name: &str) -> TriggerId {
        let id = TriggerId::new(format!("id of trigger {function} {name}"));
        let draft = trigger_draft(app, function, name);
        self.write(Command::CreateTrigger {
            id: id.clone(),
            draft,
        })
        .unwrap();
        id
    }

    fn region(&mut self, name: &str) -> RegionName {
        let region = region_draft(name);
        self.write(Command::RegisterRegion { region }).unwrap();
        name.parse().unwrap()
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn map<V, const N: usize>(entries: [(&str, V); N]) -> Option<BTreeMap<String, V>> {
    let owned = entries.map(|(key, value)| (key.to_owned(), value));
    Some(BTreeMap::from(owned))
}

fn fn_draft(app: &AppId, name: &str) -> FnDraft {
    FnDraft {
        app_id: text(app.as_str()),
        name: text(name),
        image: text("hello:0.0.1"),
        ..FnDraft::default()
    }
}

fn trigger_draft(app: &AppId, function: &FnId, name: &str) -> TriggerDraft {
    TriggerDraft {
        app_id: text(app.as_str()),
        fn_id: text(function.as_str()),
        name: text(name),
        kind: text("http"),
        source: Some(format!("/{name}")),
        ..TriggerDraft::default()
    }
}

fn region_draft(name: &str) -> RegionDraft {
    RegionDraft {
        name: name.parse().unwrap(),
        ipv4: Some([127, 0, 11, 1].into()),
        ipv6: None,
        gateway: "127.0.11.1:8080".to_owned(),
        admin: "127.0.11.1:8081".to_owned(),
        location: Location {
            latitude: 50.0,
            longitude: 8.6,
        },
        labels: BTreeMap::from([("geo".to_owned(), "eu".to_owned())]),
    }
}

fn app_of(outcome: Outcome) -> api_types::App {
    match outcome {
        Ok(Reply::Put(Object::App(app))) => app,
        other => panic!("not an app: {other:?}"),
    }
}

fn fn_of(outcome: Outcome) -> api_types::Fn {
    match outcome {
        Ok(Reply::Put(Object::Fn(function))) => function,
        other => panic!("not a function: {other:?}"),
    }
}

fn trigger_of(outcome: Outcome) -> api_types::Trigger {
    match outcome {
        Ok(Reply::Put(Object::Trigger(trigger))) => trigger,
        other => panic!("not a trigger: {other:?}"),
    }
}

fn region_of(outcome: Outcome) -> api_types::Region {
    match outcome {
        Ok(Reply::Put(Object::Region(region))) => region,
        other => panic!("not a region: {other:?}"),
    }
}
