#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use api_types::{App, Fn, Location, RefusalKind, Revision, Timestamp, Trigger, TriggerId};
use api_wire::bounds::{LINE_BYTES_MAX, REQUEST_BYTES_MAX, encoded_bytes};
use api_wire::view::{Envelope as View, MetadataBody, ViewId};
use api_wire::{AppBody, FnBody, TriggerBody, WatchLine};
use global_plane_state::{AppDraft, FnDraft, RegionDraft, RequestId, TriggerDraft};
use proptest::prelude::*;

use super::*;

fn envelope(request: &str, command: Command) -> Envelope {
    Envelope {
        format: disk::FORMAT,
        request: RequestId(request.to_owned()),
        fingerprint: None,
        log_time: Timestamp(1_767_366_245_678),
        preconditions: global_plane_state::Preconditions::default(),
        command,
    }
}

/// What the leader does.
fn admitted(state: &State, envelope: &Envelope) -> Result<Vec<u8>, Refusal> {
    admit(excerpt(state, envelope), 0, envelope)
}

fn text(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

fn create_app(config: Config) -> Command {
    Command::CreateApp {
        id: AppId::new("A"),
        draft: AppDraft {
            name: text("shop"),
            config: Some(config),
            ..AppDraft::default()
        },
    }
}

fn update_app(config: Config) -> Command {
    Command::UpdateApp {
        id: AppId::new("A"),
        change: AppDraft {
            config: Some(config),
            ..AppDraft::default()
        },
    }
}

fn create_fn(config: Config) -> Command {
    Command::CreateFn {
        id: FnId::new("F"),
        draft: FnDraft {
            app_id: text("A"),
            name: text("hello"),
            image: text("hello:1"),
            config: Some(config),
            ..FnDraft::default()
        },
    }
}

fn create_trigger(source: String) -> Command {
    Command::CreateTrigger {
        id: TriggerId::new("T"),
        draft: TriggerDraft {
            app_id: text("A"),
            fn_id: text("F"),
            name: text("hi"),
            kind: text("http"),
            source: Some(source),
            ..TriggerDraft::default()
        },
    }
}

fn register(label: &str) -> Command {
    let value = |n: usize| format!("{n:03}{}", label.repeat(125 / label.len()));
    Command::RegisterRegion {
        region: RegionDraft {
            name: "fra".parse().unwrap(),
            ipv4: Some([127, 0, 11, 1].into()),
            ipv6: None,
            gateway: "127.0.11.1:8080".to_owned(),
            admin: "127.0.11.1:8081".to_owned(),
            location: Location {
                latitude: 50.0,
                longitude: 8.6,
            },
            labels: (0..64).map(|n| (value(n), value(n))).collect(),
        },
    }
}

/// An app with a function.
fn held() -> State {
    let mut state = State::new("demo");
    for (index, command) in [create_app(Config::new()), create_fn(Config::new())]
        .into_iter()
        .enumerate()
    {
        let envelope = envelope(&format!("held {index}"), command);
        state.apply(index as u64 + 1, &envelope).outcome.unwrap();
    }
    state
}

fn config<const N: usize>(entries: [(&str, &str); N]) -> Config {
    entries
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn configuration_that_no_environment_can_hold_is_refused_by_key() {
    let long = "x".repeat(VARIABLE_BYTES_MAX - 3);
    let longer = "x".repeat(VARIABLE_BYTES_MAX - 2);
    for (entry, problem) in [
        (("A", "1"), None),
        (("a b", "="), None),
        (("ключ", "\u{1}"), None),
        (("A", long.as_str()), None),
        (("", "1"), Some("a config key is empty")),
        (("A=B", "1"), Some("\"A=B\" has '='")),
        (("=", "1"), Some("\"=\" has '='")),
        (("A\0B", "1"), Some("\"A\\0B\" has '\\0'")),
        (("A", "1\0"), Some("value of \"A\" has '\\0'")),
        (
            ("A", longer.as_str()),
            Some("\"A\" and its value have 131071 bytes"),
        ),
    ] {
        for command in [
            create_app(config([entry])),
            update_app(config([("OK", "1"), entry])),
            create_fn(config([entry])),
        ] {
            // Created anew where it would exist already.
            let state = match command {
                Command::CreateApp { .. } => State::new("demo"),
                Command::CreateFn { .. } => {
                    let mut state = State::new("demo");
                    let app = envelope("app", create_app(Config::new()));
                    state.apply(1, &app).outcome.unwrap();
                    state
                }
                _ => held(),
            };
            let answer = admitted(&state, &envelope("r", command));
            match (answer, problem) {
                (Ok(_), None) => {}
                (Err(refusal), Some(problem)) => {
                    assert_eq!(refusal.kind, RefusalKind::Invalid);
                    assert!(refusal.message.contains(problem), "{refusal}");
                }
                (answer, _) => panic!("{:?}: {answer:?}", entry.0),
            }
        }
    }
}

#[test]
fn what_a_change_is_merged_into_counts() {
    let mut state = held();
    let mut index = 10;
    let mut write = |state: &mut State, command: Command| {
        let envelope = envelope(&format!("write {index}"), command);
        let admitted = admitted(state, &envelope).map(|_| envelope.clone());
        if let Ok(envelope) = &admitted {
            state.apply(index, envelope).outcome.unwrap();
        }
        index += 1;
        admitted
    };
    // Six bytes each as JSON, one each in memory.
    let part = "\u{1}".repeat(20_000);
    let grown = (0..10).map(|n| write(&mut state, update_app(config([(&format!("K{n}"), &part)]))));
    let grown: Vec<_> = grown.collect();
    assert!(grown[..4].iter().all(Result::is_ok));
    for refused in &grown[4..] {
        let message = &refused.as_ref().unwrap_err().message;
        assert!(
            message.contains("bytes as JSON, at most 524288"),
            "{message}"
        );
    }
    // The same again is no more than it was, and room can be made.
    let same: Config = state
        .catalog()
        .app(&AppId::new("A"))
        .unwrap()
        .config
        .clone();
    write(&mut state, update_app(same)).unwrap();
    let swapped = config([("K0", ""), ("L", &part)]);
    write(&mut state, update_app(swapped)).unwrap();
    // A retry of what was written is answered, whatever has become of the object.
    let retry = envelope("held 0", update_app(config([("X", &part)])));
    admitted(&state, &retry).unwrap();
}

#[test]
fn where_there_is_no_room_objects_may_only_shrink() {
    let mut state = held();
    let grown = envelope(
        "grown",
        update_app(config([("A", "a value of some length")])),
    );
    state.apply(10, &grown).outcome.unwrap();
    for (case, command, held, fits) in [
        (
            "the last that fits",
            create_trigger("/hi".to_owned()),
            OBJECTS_BYTES_MAX - 1000,
            true,
        ),
        (
            "one too many",
            create_trigger("/hi".to_owned()),
            OBJECTS_BYTES_MAX - 100,
            false,
        ),
        (
            "growing",
            update_app(config([("B", "1")])),
            OBJECTS_BYTES_MAX,
            false,
        ),
        (
            "the same",
            update_app(config([("A", "a value of some length")])),
            OBJECTS_BYTES_MAX,
            true,
        ),
        (
            "shrinking",
            update_app(config([("A", "short")])),
            OBJECTS_BYTES_MAX + 1000,
            true,
        ),
        (
            "deleting",
            Command::DeleteApp {
                id: AppId::new("A"),
            },
            OBJECTS_BYTES_MAX + 1000,
            true,
        ),
    ] {
        let write = envelope("r", command);
        match admit(excerpt(&state, &write), held, &write) {
            Ok(_) => assert!(fits, "{case}"),
            Err(refusal) => {
                assert!(!fits, "{case}: {refusal}");
                assert_eq!(refusal.kind, RefusalKind::Full, "{case}: {refusal}");
            }
        }
    }
}

#[test]
fn what_the_state_refuses_is_left_to_it() {
    let command = Command::UpdateApp {
        id: AppId::new("?"),
        change: AppDraft {
            config: Some(config([("=", "1")])),
            ..AppDraft::default()
        },
    };
    admitted(&held(), &envelope("r", command)).unwrap();
}

/// Configuration that makes `encoded` say [`OBJECT_BYTES_MAX`] or a character's length less.
fn fill(filler: char, encoded: impl std::ops::Fn(&Config) -> usize) -> Config {
    let width = encoded_bytes(&filler) - 2;
    let mut config = Config::new();
    for n in 0.. {
        let key = format!("K{n}");
        config.insert(key.clone(), String::new());
        let held = encoded(&config);
        if held + width > OBJECT_BYTES_MAX {
            config.remove(&key);
            return config;
        }
        let room = (OBJECT_BYTES_MAX - held) / width;
        let value = filler.to_string().repeat(room.min(16_000));
        config.insert(key, value);
    }
    config
}

/// As a client may write it that escapes all it can.
fn escaped(json: &str) -> String {
    let mut out = String::new();
    let mut in_escape = false;
    for c in json.chars() {
        let plain =
            in_escape || c == '\\' || c.is_ascii_alphanumeric() || "{}[]\":,-._/ ".contains(c);
        in_escape = !in_escape && c == '\\';
        if plain {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is admitted passes through everything that holds or carries it.
    #[test]
    fn the_largest_admissible_object_of_each_kind_passes_everywhere(
        filler in prop_oneof![
            Just('x'), Just('"'), Just('\\'), Just('\u{1}'), Just('<'), Just('é'), Just('€'), Just('😀'),
            any::<char>().prop_filter("no NUL", |c| *c != '\0'),
        ],
        kind in 0..4,
    ) {
        let mut state = held();
        let (app, function) = {
            let catalog = state.catalog();
            (catalog.app(&AppId::new("A")).unwrap().clone(), catalog.function(&FnId::new("F")).unwrap().clone())
        };
        // As it is after the write: revisions and times are as long as now.
        let command = match kind {
            0 => update_app(fill(filler, |config| {
                encoded_bytes(&AppBody::stored(&App { config: config.clone(), ..app.clone() }))
            })),
            1 => Command::UpdateFn {
                id: function.id.clone(),
                change: FnDraft {
                    config: Some(fill(filler, |config| {
                        encoded_bytes(&FnBody::stored(&Fn { config: config.clone(), ..function.clone() }))
                    })),
                    ..FnDraft::default()
                },
            },
            2 => {
                let of = |source: String| Trigger {
                    id: TriggerId::new("T"), name: "hi".to_owned(), app_id: app.id.clone(),
                    fn_id: function.id.clone(), kind: "http".to_owned(), source,
                    annotations: BTreeMap::new(), created_at: app.created_at,
                    updated_at: app.updated_at, revision: Revision(3),
                };
                let held = encoded_bytes(&TriggerBody::stored(&of("/".to_owned())));
                let width = encoded_bytes(&filler) - 2;
                let room = (OBJECT_BYTES_MAX - held) / width;
                create_trigger(format!("/{}", filler.to_string().repeat(room)))
            }
            _ => register(&if filler.len_utf8() <= 125 { filler.to_string() } else { "x".to_owned() }),
        };
        let written = envelope("largest", command);
        let payload = admitted(&state, &written).unwrap();
        prop_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        prop_assert_eq!(&disk::decode_envelope(&payload).unwrap(), &written);
        let reply = state.apply(10, &written).outcome.unwrap();

        let revision = reply.revision().0;
        let Reply::Put(object) = &reply else { panic!("{reply:?}") };
        let line = WatchLine::put(object.by_ref());
        let bytes = ObjectBody::of(object.by_ref()).object.get().len();
        let shown = match object {
            Object::App(app) => Some(serde_json::to_string(&api_fn_http::decorate::app(app)).unwrap()),
            Object::Fn(function) => {
                let base = format!("https://{}", "h".repeat(253));
                let shown = api_fn_http::decorate::function(function, Some(&app), &base);
                Some(serde_json::to_string(&shown).unwrap())
            }
            _ => None,
        };
        prop_assert!(bytes <= OBJECT_BYTES_MAX);
        if kind < 3 {
            prop_assert!(bytes > OBJECT_BYTES_MAX - 32, "{} is not the largest", bytes);
        }
        // The watch.
        let encoded = disk::encode_line(&line);
        prop_assert!(encoded.len() <= LINE_BYTES_MAX);
        let read: WatchLine = serde_json::from_slice(&encoded).unwrap();
        prop_assert_eq!(disk::encode_line(&read), encoded);
        // What GET gave can be put back, whoever writes it.
        if let Some(shown) = shown {
            let sent = escaped(&shown);
            prop_assert!(sent.len() <= REQUEST_BYTES_MAX, "{} bytes", sent.len());
            let (sent, shown): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&sent).unwrap(), serde_json::from_str(&shown).unwrap());
            prop_assert_eq!(sent, shown);
        }
        // Raft's snapshot and the regions'.
        let parts = state.parts();
        let snapshot = disk::encode_snapshot(&parts, Revision(1));
        prop_assert_eq!(disk::decode_snapshot(&snapshot).unwrap().0, parts.clone());
        let id = ViewId {
            cluster_id: "demo".to_owned(), epoch: 1, revision, count: 4, sha256: String::new(),
        };
        let body = MetadataBody::of("fn.test", 8080, parts.objects.iter().map(Object::by_ref));
        let opened: MetadataBody = View::seal(id, &body).open().unwrap();
        prop_assert_eq!(encoded_bytes(&opened), encoded_bytes(&body));
    }
}
