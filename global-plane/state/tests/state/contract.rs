//! Fn contract 2 to 5: messages, their order, and what merges into what.

use api_types::RefusalKind::{Conflict, Invalid, NotFound};
use api_types::fns::{
    DNS_NAME_ANNOTATION, HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION, PLACEMENT_ANNOTATION,
};
use api_types::{AppId, Digest, FnId, Kind, ObjectId, TriggerId};
use global_plane_state::{AppDraft, Change, Command, FnDraft, Reply, TriggerDraft};

use super::{Log, app_of, fn_draft, fn_of, map, text, trigger_draft, trigger_of};

fn create_app(draft: AppDraft) -> Command {
    Command::CreateApp {
        id: AppId::new("new"),
        draft,
    }
}

fn create_fn(draft: FnDraft) -> Command {
    Command::CreateFn {
        id: FnId::new("new"),
        draft,
    }
}

fn create_trigger(draft: TriggerDraft) -> Command {
    Command::CreateTrigger {
        id: TriggerId::new("new"),
        draft,
    }
}

/// Each case repairs what the one before was refused for, so the table is the order of the checks.
#[test]
fn apps_are_checked_in_fns_order() {
    let mut log = Log::new();
    log.app("taken");
    let mut draft = AppDraft {
        id: text("x"),
        annotations: map([("a b", text("1"))]),
        syslog_url: text("http://logs"),
        shape: text("ROUND"),
        ..AppDraft::default()
    };
    type Repair = fn(&mut AppDraft);
    let steps: [(&str, Repair); 8] = [
        ("App ID cannot be supplied on create", |d| {
            d.id = text("");
            d.name = text("");
        }),
        ("Missing Name", |d| d.name = Some("é".repeat(128))),
        ("App name must be 255 characters or less", |d| {
            d.name = text("a.b");
        }),
        ("Invalid app name", |d| d.name = text("taken")),
        (
            "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace",
            |d| d.annotations = None,
        ),
        (
            "invalid syslog url: \"http://logs\" must have the scheme udp, tcp, unix, unixgram or tcp+tls",
            |d| d.syslog_url = text("tcp://logs:514"),
        ),
        ("Invalid app shape", |d| d.shape = text("GENERIC_ARM")),
        ("App already exists", |d| d.name = text("Grüße_-٣")),
    ];
    for (message, repair) in steps {
        let kind = if message == "App already exists" {
            Conflict
        } else {
            Invalid
        };
        let refused = log.refused(create_app(draft.clone()));
        assert_eq!(refused, (kind, message.to_owned()));
        repair(&mut draft);
    }
    let app = app_of(log.write(create_app(draft)));
    assert_eq!(app.created_at, app.updated_at);
    assert_eq!(app.shape, "GENERIC_ARM");
    assert_eq!(app.syslog_url.as_deref(), Some("tcp://logs:514"));
}

#[test]
fn functions_are_checked_in_fns_order() {
    let mut log = Log::new();
    let app = log.app("shop");
    log.function(&app, "taken");
    let digest = Digest([7; 32]);
    let mut draft = FnDraft {
        id: text("x"),
        timeout_secs: Some(301),
        idle_timeout_secs: Some(-1),
        memory: Some(8193),
        annotations: map([(PLACEMENT_ANNOTATION, text("{}"))]),
        ..FnDraft::default()
    };
    type Repair = fn(&mut FnDraft);
    let steps: [(&str, Repair); 13] = [
        ("ID cannot be provided for Fn creation", |d| d.id = None),
        ("Missing AppID on Fn", |d| d.app_id = text("nowhere")),
        ("Missing Fn name", |d| d.name = Some("x".repeat(256))),
        ("Fn name must be 255 characters or less", |d| {
            d.name = text("a/b");
        }),
        ("name must be a valid string", |d| d.name = text("taken")),
        ("Missing image on Fn", |d| d.image = text("hello:1")),
        (
            "timeout value is out of range, must be between 0 and 300",
            |d| d.timeout_secs = Some(300),
        ),
        (
            "idle_timeout value is out of range, must be between 0 and 3600",
            |d| d.idle_timeout_secs = Some(3600),
        ),
        (
            "memory value is out of range. It should be between 0 and 8192",
            |d| d.memory = Some(8192),
        ),
        (
            "invalid tradewind.dev/placement annotation: regions is not an array; \
             expected {\"regions\":[\"fra\",\"geo=eu\"],\"strict\":true}",
            |d| {
                d.annotations = None;
                d.image = Some(format!("bundle/hello:1@sha256:{}", Digest([7; 32])));
            },
        ),
        ("image bundle/hello:1@sha256:", |d| {
            d.image = text("hello:1")
        }),
        ("App not found", |d| d.app_id = text("id of app shop")),
        ("Fn with specified name already exists", |d| {
            d.name = text("a-_.~$&+=:@Z");
        }),
    ];
    for (message, repair) in steps {
        let kind = match message {
            "App not found" => NotFound,
            "Fn with specified name already exists" => Conflict,
            _ => Invalid,
        };
        let (found, said) = log.refused(create_fn(draft.clone()));
        assert_eq!(found, kind, "{message}");
        assert!(said.starts_with(message), "{said:?} is not {message:?}");
        repair(&mut draft);
    }
    let made = fn_of(log.write(create_fn(draft.clone())));
    assert_eq!((made.memory, made.timeout_secs), (8192, 300));

    log.write(Command::AddBundle { digest, size: 9 }).unwrap();
    let image = format!("bundle/hello:1@sha256:{digest}");
    let bundled = FnDraft {
        name: text("bundled"),
        image: Some(image.clone()),
        memory: Some(0),
        timeout_secs: None,
        idle_timeout_secs: None,
        ..draft
    };
    let id = FnId::new("bundled");
    let bundled = fn_of(log.write(Command::CreateFn { id, draft: bundled }));
    assert_eq!(bundled.image, image);
    assert_eq!(
        (
            bundled.memory,
            bundled.timeout_secs,
            bundled.idle_timeout_secs
        ),
        (128, 30, 30),
        "defaults"
    );
}

#[test]
fn triggers_are_checked_in_fns_order() {
    let mut log = Log::new();
    let (app, other) = (log.app("shop"), log.app("other"));
    let function = log.function(&app, "hello");
    log.function(&other, "foreign");
    log.trigger(&app, &function, "taken");
    let mut draft = TriggerDraft {
        id: text("x"),
        created_at_given: true,
        updated_at_given: true,
        annotations: map([("key", None)]),
        ..TriggerDraft::default()
    };
    type Repair = fn(&mut TriggerDraft);
    let steps: [(&str, Repair); 17] = [
        ("ID cannot be provided for Trigger creation", |d| {
            d.id = None;
        }),
        ("Trigger Created At Provided for Create", |d| {
            d.created_at_given = false;
        }),
        ("Trigger ID Provided for Create", |d| {
            d.updated_at_given = false;
        }),
        ("Missing App ID on Trigger", |d| d.app_id = text("nowhere")),
        ("Missing name on Trigger", |d| {
            d.name = Some("x".repeat(256));
        }),
        ("Trigger name must be 255 characters or less", |d| {
            d.name = text("a b");
        }),
        ("Invalid name for Trigger", |d| d.name = text("taken")),
        ("Missing Fn ID on Trigger", |d| d.fn_id = text("nothing")),
        ("Trigger Type Not Supported", |d| d.kind = text("http")),
        ("Missing Trigger Source", |d| d.source = text("taken")),
        ("Missing Trigger Source Prefix '/'", |d| {
            d.source = text("/taken");
        }),
        (
            "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays",
            |d| d.annotations = None,
        ),
        ("App not found", |d| d.app_id = text("id of app shop")),
        ("Fn not found", |d| {
            d.fn_id = text("id of fn id of app other foreign");
        }),
        ("Invalid Fn ID - not owned by specified app", |d| {
            d.fn_id = text("id of fn id of app shop hello");
        }),
        (
            "Trigger with the same type and source exists on this app",
            |d| d.source = text("/taken/"),
        ),
        ("Trigger already exists", |d| d.name = text("free")),
    ];
    for (message, repair) in steps {
        let kind = match message {
            "App not found" | "Fn not found" => NotFound,
            "Trigger already exists"
            | "Trigger with the same type and source exists on this app" => Conflict,
            _ => Invalid,
        };
        let refused = log.refused(create_trigger(draft.clone()));
        assert_eq!(refused, (kind, message.to_owned()));
        repair(&mut draft);
    }
    let trigger = trigger_of(log.write(create_trigger(draft)));
    assert_eq!(trigger.source, "/taken/");
}

#[test]
fn annotations_are_bounded_and_the_servers_own_are_not_stored() {
    let mut log = Log::new();
    let many = |n: usize| (0..n).map(|n| (format!("key{n:03}"), text("1"))).collect();
    let cases = [
        (
            map([("k", text("\"\""))]),
            Some("Invalid annotation value, "),
        ),
        (
            map([("k", text("null"))]),
            Some("Invalid annotation value, "),
        ),
        (map([("", text("1"))]), Some("Invalid annotation key, ")),
        (map([("ü", text("1"))]), Some("Invalid annotation key, ")),
        (
            map([("k".repeat(129).as_str(), text("1"))]),
            Some("Invalid annotation key length, "),
        ),
        (
            map([("k", Some(format!("\"{}\"", "v".repeat(511))))]),
            Some("Invalid annotation value length, "),
        ),
        (
            Some(many(101)),
            Some("Invalid annotation change, new key(s) exceed"),
        ),
        (
            map([
                (
                    "k".repeat(128).as_str(),
                    Some(format!("\"{}\"", "v".repeat(510))),
                ),
                ("true", text("true")),
                (INVOKE_ENDPOINT_ANNOTATION, None),
                (HTTP_ENDPOINT_ANNOTATION, text("\"x\"")),
                (DNS_NAME_ANNOTATION, text("\"x\"")),
            ]),
            None,
        ),
    ];
    for (annotations, refusal) in cases {
        let draft = AppDraft {
            name: text("app"),
            annotations: annotations.clone(),
            ..AppDraft::default()
        };
        match refusal {
            Some(start) => {
                let (_, message) = log.refused(create_app(draft));
                assert!(message.starts_with(start), "{message} of {annotations:?}");
            }
            None => {
                let app = app_of(log.write(create_app(draft)));
                assert_eq!(app.annotations.len(), 2, "{:?}", app.annotations);
            }
        }
    }

    // Two are held, one of them goes, so 99 more fit; after the merge is what counts.
    let mut change = AppDraft {
        annotations: Some(many(99)),
        ..AppDraft::default()
    };
    change
        .annotations
        .as_mut()
        .unwrap()
        .insert("true".to_owned(), None);
    let id = AppId::new("new");
    let command = Command::UpdateApp { id, change };
    assert_eq!(app_of(log.write(command)).annotations.len(), 100);
    let change = AppDraft {
        annotations: map([("one-more", text("1"))]),
        ..AppDraft::default()
    };
    let id = AppId::new("new");
    let (_, message) = log.refused(Command::UpdateApp { id, change });
    assert!(
        message.starts_with("Invalid annotation change, "),
        "{message}"
    );
}

#[test]
fn syslog_urls_have_a_scheme_that_logs_can_be_sent_by() {
    for (url, fits) in [
        ("", true),
        ("udp://logs:514", true),
        ("tcp+tls://[::1]:6514/x", true),
        ("unix:///dev/log", true),
        ("unixgram:/dev/log", true),
        ("https://logs", false),
        ("logs", false),
        ("tcp://logs:port", false),
        ("tcp://lo gs", false),
        ("tcp://logs\n", false),
    ] {
        let draft = AppDraft {
            name: text("app"),
            syslog_url: text(url),
            ..AppDraft::default()
        };
        let outcome = Log::new().write(create_app(draft));
        assert_eq!(outcome.is_ok(), fits, "{url:?}: {outcome:?}");
    }
}

#[test]
fn updates_merge_and_an_equal_one_changes_nothing() {
    let mut log = Log::new();
    let draft = AppDraft {
        name: text("shop"),
        config: map([("kept", "1".to_owned()), ("empty", String::new())]),
        annotations: map([("a", text("1")), ("b", text("2"))]),
        syslog_url: text("udp://logs"),
        ..AppDraft::default()
    };
    let created = app_of(log.write(create_app(draft)));
    assert_eq!(created.config["empty"], "", "kept on create");

    let id = created.id.clone();
    let put = |change: AppDraft| Command::UpdateApp {
        id: id.clone(),
        change,
    };
    let same = AppDraft {
        id: text("new"),
        name: text("shop"),
        config: map([("kept", "1".to_owned()), ("absent", String::new())]),
        annotations: map([("a", text("1")), ("absent", None)]),
        shape: text("ignored"),
        ..AppDraft::default()
    };
    let before = log.state.revision();
    assert_eq!(app_of(log.write(put(same))), created);
    assert_eq!(log.state.revision(), before);

    let change = AppDraft {
        config: map([("kept", String::new()), ("new", "2".to_owned())]),
        annotations: map([("a", None), ("c", text("3"))]),
        syslog_url: text(""),
        ..AppDraft::default()
    };
    let changed = app_of(log.write(put(change)));
    assert_eq!(changed.config.keys().collect::<Vec<_>>(), ["empty", "new"]);
    assert_eq!(changed.annotations.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(changed.syslog_url, None);
    assert_eq!(changed.revision, before.next());
    assert!(changed.updated_at > changed.created_at);
    assert_eq!(changed.created_at, created.created_at);
    assert_eq!(log.state.catalog().app(&id), Some(&changed));
}

#[test]
fn updates_of_functions_ignore_names_and_zeros() {
    let mut log = Log::new();
    let draft = AppDraft {
        name: text("shop"),
        shape: text("GENERIC_X86"),
        ..AppDraft::default()
    };
    let app = app_of(log.write(create_app(draft)));
    let id = log.function(&app.id, "hello");
    let created = log.state.catalog().function(&id).unwrap().clone();
    assert_eq!(created.shape, "GENERIC_X86", "the app's");

    let mut change = fn_draft(&AppId::new("other"), "renamed");
    (change.memory, change.timeout_secs) = (Some(0), Some(0));
    let command = |change: &FnDraft| Command::UpdateFn {
        id: id.clone(),
        change: change.clone(),
    };
    assert_eq!(fn_of(log.write(command(&change))), created);

    change.image = text("hello:0.0.2");
    change.idle_timeout_secs = Some(60);
    let changed = fn_of(log.write(command(&change)));
    assert_eq!(
        (changed.image.as_str(), changed.idle_timeout_secs),
        ("hello:0.0.2", 60)
    );
    assert_eq!((&changed.name, &changed.app_id), (&created.name, &app.id));
}

#[test]
fn updates_are_refused_as_the_contract_says() {
    let mut log = Log::new();
    let (app, other) = (log.app("shop"), log.app("other"));
    let function = log.function(&app, "hello");
    let foreign = log.function(&other, "foreign");
    let trigger = log.trigger(&app, &function, "one");
    log.trigger(&app, &function, "two");
    let app_change = |change: AppDraft| Command::UpdateApp {
        id: app.clone(),
        change,
    };
    let fn_change = |change: FnDraft| Command::UpdateFn {
        id: function.clone(),
        change,
    };
    let change = |change: TriggerDraft| Command::UpdateTrigger {
        id: trigger.clone(),
        change,
    };
    let unknown = Digest([1; 32]);
    for (command, kind, message) in [
        (
            app_change(AppDraft {
                id: text("y"),
                ..AppDraft::default()
            }),
            Invalid,
            "App ID in path does not match ID in body",
        ),
        (
            app_change(AppDraft {
                name: text("y"),
                ..AppDraft::default()
            }),
            Conflict,
            "Could not update - name is immutable",
        ),
        (
            Command::UpdateApp {
                id: AppId::new("?"),
                change: AppDraft::default(),
            },
            NotFound,
            "App not found",
        ),
        (
            Command::DeleteApp {
                id: AppId::new("?"),
            },
            NotFound,
            "App not found",
        ),
        (
            fn_change(FnDraft {
                id: text("y"),
                ..FnDraft::default()
            }),
            Invalid,
            "Fn ID in path does not match that in body",
        ),
        (
            fn_change(FnDraft {
                memory: Some(9000),
                ..FnDraft::default()
            }),
            Invalid,
            "memory value is out of range. It should be between 0 and 8192",
        ),
        (
            fn_change(FnDraft {
                image: Some(format!("bundle/x:1@sha256:{unknown}")),
                ..FnDraft::default()
            }),
            Invalid,
            &format!(
                "image bundle/x:1@sha256:{unknown} names a bundle that is not stored; \
                 upload it first: PUT /v1/bundles/{unknown}"
            ),
        ),
        (
            Command::UpdateFn {
                id: FnId::new("?"),
                change: FnDraft::default(),
            },
            NotFound,
            "Fn not found",
        ),
        (
            Command::DeleteFn { id: FnId::new("?") },
            NotFound,
            "Fn not found",
        ),
        (
            change(TriggerDraft {
                id: text("y"),
                ..TriggerDraft::default()
            }),
            Invalid,
            "ID in path does not match ID in body",
        ),
        (
            change(TriggerDraft {
                app_id: text(other.as_str()),
                ..TriggerDraft::default()
            }),
            Invalid,
            "App ID of a Trigger is immutable",
        ),
        (
            change(TriggerDraft {
                fn_id: text("?"),
                ..TriggerDraft::default()
            }),
            NotFound,
            "Fn not found",
        ),
        (
            change(TriggerDraft {
                fn_id: text(foreign.as_str()),
                ..TriggerDraft::default()
            }),
            Invalid,
            "Invalid Fn ID - not owned by specified app",
        ),
        (
            change(TriggerDraft {
                source: text("/two"),
                ..TriggerDraft::default()
            }),
            Conflict,
            "Trigger with the same type and source exists on this app",
        ),
        (
            change(TriggerDraft {
                name: text("two"),
                ..TriggerDraft::default()
            }),
            Conflict,
            "Trigger already exists",
        ),
        (
            Command::UpdateTrigger {
                id: TriggerId::new("?"),
                change: TriggerDraft::default(),
            },
            NotFound,
            "Trigger not found",
        ),
        (
            Command::DeleteTrigger {
                id: TriggerId::new("?"),
            },
            NotFound,
            "Trigger not found",
        ),
    ] {
        assert_eq!(log.refused(command), (kind, message.to_owned()));
    }

    let moved = TriggerDraft {
        kind: text("ignored"),
        source: text("/three"),
        ..trigger_draft(&app, &function, "three")
    };
    let moved = trigger_of(log.write(change(moved)));
    assert_eq!(
        (moved.name.as_str(), moved.kind.as_str()),
        ("three", "http")
    );
    let catalog = log.state.catalog();
    assert!(catalog.trigger_by_source(&app, "/one").is_none());
    assert_eq!(catalog.trigger_by_source(&app, "/three"), Some(&moved));
}

#[test]
fn deleting_an_app_leaves_a_tombstone_for_everything_in_it() {
    let mut log = Log::new();
    let (app, other) = (log.app("shop"), log.app("other"));
    let function = log.function(&app, "hello");
    let trigger = log.trigger(&app, &function, "one");
    log.function(&other, "stays");
    let next = log.state.revision().next();
    let applied = log.apply("delete", Command::DeleteApp { id: app.clone() });
    assert_eq!(applied.outcome, Ok(Reply::Deleted(next)));
    let gone: Vec<&ObjectId> = applied
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Deleted { revision, object } => {
                assert_eq!(*revision, next);
                Some(object)
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        gone,
        [
            &ObjectId::Trigger(trigger),
            &ObjectId::Fn(function),
            &ObjectId::App(app)
        ]
    );
    assert_eq!(log.state.catalog().len(Kind::Fn), 1);
}
