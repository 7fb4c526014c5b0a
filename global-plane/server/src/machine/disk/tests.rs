#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use api_types::{App, Bundle, Fn, Region, Trigger, Verdict};
use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "[a-z\"\\\\\u{e9}\u{1f600} \n]{0,12}"
}

fn json() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1.50".to_owned()),
        Just(r#"{"b":1,"a":[2,"x y"]}"#.to_owned()),
        Just(r#""é\n""#.to_owned()),
    ]
}

fn name() -> impl Strategy<Value = RegionName> {
    "[a-z]{1,8}".prop_map(|name| name.parse().unwrap())
}

prop_compose! {
    fn app_draft()(
        id in option::of(text()), name in option::of(text()), syslog_url in option::of(text()),
        config in option::of(btree_map(text(), text(), 0..3)),
        annotations in option::of(btree_map(text(), option::of(json()), 0..3)),
        shape in option::of(text()),
    ) -> AppDraft {
        AppDraft { id, name, config, annotations, syslog_url, shape }
    }
}

prop_compose! {
    fn fn_draft()(
        (id, name, app_id) in (option::of(text()), option::of(text()), option::of(text())),
        image in option::of(text()),
        (memory, timeout_secs, idle_timeout_secs) in any::<(Option<u64>, Option<i32>, Option<i32>)>(),
        config in option::of(btree_map(text(), text(), 0..3)),
        annotations in option::of(btree_map(text(), option::of(json()), 0..3)),
    ) -> FnDraft {
        FnDraft { id, name, app_id, image, memory, timeout_secs, idle_timeout_secs, config, annotations }
    }
}

prop_compose! {
    fn trigger_draft()(
        (id, name, app_id, fn_id) in (option::of(text()), option::of(text()), option::of(text()), option::of(text())),
        (kind, source) in (option::of(text()), option::of(text())),
        annotations in option::of(btree_map(text(), option::of(json()), 0..3)),
        (created_at_given, updated_at_given) in any::<(bool, bool)>(),
    ) -> TriggerDraft {
        TriggerDraft { id, name, app_id, fn_id, kind, source, annotations, created_at_given, updated_at_given }
    }
}

prop_compose! {
    fn region_draft_of_any_kind()(
        name in name(), ipv4 in any::<Option<[u8; 4]>>(), ipv6 in any::<Option<[u8; 16]>>(),
        gateway in text(), admin in text(),
        (latitude, longitude) in (-90.0..90.0, -180.0..180.0)
            .prop_map(|(latitude, longitude)| (micro_degrees(latitude), micro_degrees(longitude))),
        labels in btree_map(text(), text(), 0..3),
    ) -> RegionDraft {
        RegionDraft {
            name, ipv4: ipv4.map(Into::into), ipv6: ipv6.map(Into::into), gateway, admin,
            location: Location { latitude, longitude }, labels,
        }
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Healthy),
        Just(Verdict::Suspect),
        Just(Verdict::Down),
        Just(Verdict::Recovering),
        Just(Verdict::Draining),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (text(), app_draft()).prop_map(|(id, draft)| Command::CreateApp {
            id: AppId::new(id),
            draft
        }),
        (text(), app_draft()).prop_map(|(id, change)| Command::UpdateApp {
            id: AppId::new(id),
            change
        }),
        text().prop_map(|id| Command::DeleteApp { id: AppId::new(id) }),
        (text(), fn_draft()).prop_map(|(id, draft)| Command::CreateFn {
            id: FnId::new(id),
            draft
        }),
        (text(), fn_draft()).prop_map(|(id, change)| Command::UpdateFn {
            id: FnId::new(id),
            change
        }),
        text().prop_map(|id| Command::DeleteFn { id: FnId::new(id) }),
        (text(), trigger_draft()).prop_map(|(id, draft)| Command::CreateTrigger {
            id: TriggerId::new(id),
            draft
        }),
        (text(), trigger_draft()).prop_map(|(id, change)| Command::UpdateTrigger {
            id: TriggerId::new(id),
            change
        }),
        text().prop_map(|id| Command::DeleteTrigger {
            id: TriggerId::new(id)
        }),
        region_draft_of_any_kind().prop_map(|region| Command::RegisterRegion { region }),
        (name(), any::<bool>())
            .prop_map(|(region, drained)| Command::SetDrained { region, drained }),
        proptest::collection::vec((name(), verdict()), 0..4)
            .prop_map(|verdicts| Command::SetVerdicts { verdicts }),
        any::<([u8; 32], u64)>().prop_map(|(digest, size)| Command::AddBundle {
            digest: Digest(digest),
            size
        }),
        (
            any::<u64>(),
            proptest::collection::vec("[a-z]{1,4}/[a-z]{1,4}", 0..3)
        )
            .prop_map(|(member, knows)| Command::SayKnown {
                member: MemberId(member),
                knows: Knowledge::said(knows)
            }),
        proptest::collection::vec("[a-z]{1,4}/[a-z]{1,4}", 0..3).prop_map(|formats| {
            let formats = formats.iter().map(|format| format.parse().unwrap());
            Command::UseFormats {
                formats: formats.collect(),
            }
        }),
    ]
}

fn millis() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_000_i64).prop_map(Timestamp)
}

prop_compose! {
    fn app()(
        (id, name, shape) in (text(), text(), text()),
        (config, annotations) in (btree_map(text(), text(), 0..3), btree_map(text(), json(), 0..3)),
        syslog_url in option::of(text()), (created_at, updated_at) in (millis(), millis()), revision in any::<u64>(),
    ) -> App {
        App { id: AppId::new(id), name, config, annotations, syslog_url, shape, created_at, updated_at, revision: Revision(revision) }
    }
}

prop_compose! {
    fn function()(
        app in app(), (image, app_id) in (text(), text()),
        memory in any::<u64>(), (timeout_secs, idle_timeout_secs) in (0..4000_u32, 0..4000_u32),
    ) -> Fn {
        Fn {
            id: FnId::new(app.id.as_str()), name: app.name, app_id: AppId::new(app_id), image, memory,
            timeout_secs, idle_timeout_secs, config: app.config, annotations: app.annotations,
            shape: app.shape, created_at: app.created_at, updated_at: app.updated_at, revision: app.revision,
        }
    }
}

prop_compose! {
    fn trigger()(app in app(), (app_id, fn_id, kind, source) in (text(), text(), text(), text())) -> Trigger {
        Trigger {
            id: TriggerId::new(app.id.as_str()), name: app.name, app_id: AppId::new(app_id), fn_id: FnId::new(fn_id),
            kind, source, annotations: app.annotations,
            created_at: app.created_at, updated_at: app.updated_at, revision: app.revision,
        }
    }
}

prop_compose! {
    fn region()(
        draft in region_draft_of_any_kind(), drained in any::<bool>(), verdict in verdict(),
        price_ms in any::<u32>(), registered_at in millis(), revision in any::<u64>(),
    ) -> Region {
        Region {
            name: draft.name, ipv4: draft.ipv4, ipv6: draft.ipv6, gateway: draft.gateway, admin: draft.admin,
            location: draft.location, labels: draft.labels, drained, verdict, price_ms, registered_at,
            revision: Revision(revision),
        }
    }
}

fn remembered() -> impl Strategy<Value = Remembered> {
    let id = prop_oneof![
        text().prop_map(|id| ObjectId::App(AppId::new(id))),
        text().prop_map(|id| ObjectId::Fn(FnId::new(id))),
        text().prop_map(|id| ObjectId::Trigger(TriggerId::new(id))),
        name().prop_map(ObjectId::Region),
        any::<[u8; 32]>().prop_map(|digest| ObjectId::Bundle(Digest(digest))),
    ];
    prop_oneof![
        (id, any::<u64>()).prop_map(|(id, revision)| Remembered::Wrote {
            id,
            revision: Revision(revision)
        }),
        any::<u64>().prop_map(|revision| Remembered::Deleted(Revision(revision))),
        any::<u64>().prop_map(|revision| Remembered::Done(Revision(revision))),
        refusal().prop_map(Remembered::Refused),
    ]
}

fn fingerprint() -> impl Strategy<Value = Option<Digest>> {
    any::<Option<[u8; 32]>>().prop_map(|bytes| bytes.map(Digest))
}

/// An object of every kind there is.
fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        app().prop_map(Object::App),
        function().prop_map(Object::Fn),
        trigger().prop_map(Object::Trigger),
        region().prop_map(Object::Region),
        any::<([u8; 32], u64, u64)>().prop_map(|(digest, size, revision)| {
            Object::Bundle(Bundle {
                digest: Digest(digest),
                size,
                revision: Revision(revision),
            })
        }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let kind = prop_oneof![
        Just(RefusalKind::Invalid),
        Just(RefusalKind::NotFound),
        Just(RefusalKind::Conflict),
        Just(RefusalKind::Precondition),
        Just(RefusalKind::Full),
        Just(RefusalKind::KeyReused),
    ];
    (kind, text()).prop_map(|(kind, message)| Refusal { kind, message })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        object().prop_map(|object| Ok(Reply::Put(object))),
        any::<u64>().prop_map(|revision| Ok(Reply::Deleted(Revision(revision)))),
        any::<u64>().prop_map(|revision| Ok(Reply::Done(Revision(revision)))),
        refusal().prop_map(Err),
    ]
}

proptest! {
    #[test]
    fn every_envelope_reads_back(
        command in command(), request in text(), fingerprint in fingerprint(), log_time in any::<i64>(),
        if_match in any::<Option<u64>>(), if_none_match_any in any::<bool>(),
    ) {
        let envelope = Envelope {
            format: FORMAT,
            request: RequestId(request),
            fingerprint,
            log_time: Timestamp(log_time),
            preconditions: Preconditions { if_match: if_match.map(Revision), if_none_match_any },
            command,
        };
        let encoded = encode_envelope(&envelope);
        let named: serde_json::Value = serde_json::from_slice(&encoded).unwrap();
        prop_assert_eq!(&named["command"]["name"], envelope.command.name());
        let format = format!("command/{}", envelope.command.name());
        prop_assert!(Knowledge::own().knows(&format), "{format} is in no list of api_types::knowledge");
        prop_assert_eq!(decode_envelope(&encoded).unwrap(), envelope);
    }

    #[test]
    fn every_outcome_reads_back(outcome in outcome()) {
        prop_assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
    }

    #[test]
    fn every_state_reads_back(
        objects in proptest::collection::vec(object(), 0..8),
        outcomes in proptest::collection::vec((remembered(), text(), fingerprint(), any::<u64>()), 0..3),
        revision in any::<u64>(), log_time in any::<i64>(), steering in any::<u64>(),
    ) {
        let parts = StateParts {
            cluster_id: "demo".to_owned(),
            objects,
            sessions: outcomes
                .into_iter()
                .map(|(outcome, request, fingerprint, index)| Session {
                    index, request: RequestId(request), fingerprint, at: Timestamp(log_time), outcome,
                })
                .collect(),
            revision: Revision(revision),
            log_time: Timestamp(log_time),
        };
        let snapshot = encode_snapshot(&parts, Revision(steering));
        prop_assert_eq!(decode_snapshot(&snapshot).unwrap(), (parts, Revision(steering)));
    }
}

#[test]
fn what_this_node_cannot_apply_is_named_and_not_skipped() {
    let envelope = |command: &str, format: u16| {
        format!(r#"{{"format":{format},"request":"r","log_time":1,"command":{command}}}"#)
    };
    for (entry, want) in [
        (
            envelope(r#"{"name":"open_wormhole","to":"fra"}"#, 1),
            "the command \"open_wormhole\" is not known",
        ),
        (
            envelope(r#"{"name":"delete_app","id":"x"}"#, 2),
            "format is 2",
        ),
        (envelope(r#"{"name":"warp","warp":9}"#, 2), "format is 2"),
        (envelope(r#"{"name":"delete_app"}"#, 1), "corrupt"),
        ("{".to_owned(), "corrupt"),
        (
            envelope(
                r#"{"name":"set_drained","region":"Mars!","drained":true}"#,
                1,
            ),
            "corrupt: region",
        ),
    ] {
        let error = decode_envelope(entry.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{entry}: {error}");
    }
}
