#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use api_types::{Annotations, AppId, FnId, Location, Region, Revision, Timestamp, Verdict};
use api_wire::view::{Envelope, MetadataBody, ViewId};
use proptest::prelude::*;

use super::*;

mod agreement;

fn app(config: &[(&str, &str)], annotations: &[(&str, &str)]) -> App {
    App {
        id: AppId::new("A"),
        name: "app".to_owned(),
        config: owned(config),
        annotations: owned(annotations),
        syslog_url: None,
        shape: "GENERIC_X86".to_owned(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(5),
    }
}

fn function(image: &str, config: &[(&str, &str)], annotations: Annotations) -> Fn {
    Fn {
        id: FnId::new("F"),
        name: "function".to_owned(),
        app_id: AppId::new("A"),
        image: image.to_owned(),
        memory: 128,
        timeout_secs: 30,
        idle_timeout_secs: 60,
        config: owned(config),
        annotations,
        shape: String::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(3),
    }
}

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn of(app: &App, function: &Fn) -> Wanted {
    wanted("fn-f", app, function)
}

#[test]
fn a_functions_configuration_overlays_its_apps() {
    let app = app(&[("A", "app"), ("B", "app")], &[]);
    let function = function("image:1", &[("B", "fn")], Annotations::new());
    let wanted = of(&app, &function);
    assert_eq!(wanted.config, owned(&[("A", "app"), ("B", "fn")]));
    assert_eq!(wanted.notes, Vec::<String>::new());
    assert_eq!(wanted.spec.revision, 5);
    assert_eq!(wanted.spec.shape, "GENERIC_X86");
    // A gateway looks for pods with the settings that it knows the function by.
    let settings = region_plane_replica::settings(&app, &function);
    assert_eq!(wanted.spec.settings, format!("{settings:016x}"));
}

#[test]
fn what_cannot_be_a_variable_is_left_out_and_named() {
    let config = [
        ("GOOD_1", "x"),
        ("also.good-2", "x"),
        ("", "x"),
        ("a b", "x"),
        ("a=b", "x"),
        ("1st", "x"),
        ("..data", "x"),
        ("ü", "x"),
        ("NUL", "a\0b"),
    ];
    let wanted = of(
        &app(&config, &[]),
        &function("image:1", &[], Annotations::new()),
    );
    let kept: Vec<&String> = wanted.config.keys().collect();
    assert_eq!(kept, ["GOOD_1", "also.good-2"]);
    assert!(wanted.notes[0].contains("\"a b\""), "{:?}", wanted.notes);
}

#[test]
fn a_secrets_name_changes_with_what_it_holds_and_with_nothing_else() {
    let name = |config: &[(&str, &str)]| {
        of(
            &app(config, &[]),
            &function("image:1", &[], Annotations::new()),
        )
        .spec
        .config_secret
    };
    assert_eq!(name(&[]), None, "nothing needs no Secret");
    let one = name(&[("A", "1")]).unwrap();
    assert!(one.starts_with("fn-f-") && one.len() == 15, "{one}");
    assert_eq!(name(&[("A", "1")]).unwrap(), one);
    for other in [[("A", "2")], [("A1", "")], [("B", "1")]] {
        assert_ne!(name(&other).unwrap(), one, "{other:?}");
    }
}

#[test]
fn a_bundle_has_no_image_and_no_secret() {
    let image = format!("bundle/hello:0.0.1@sha256:{}", "ab".repeat(32));
    let wanted = of(
        &app(&[("A", "1")], &[]),
        &function(&image, &[], Annotations::new()),
    );
    assert_eq!(wanted.spec.image, None);
    assert_eq!(wanted.spec.bundle, Some("ab".repeat(32)));
    assert_eq!(wanted.spec.config_secret, None);
}

#[test]
fn a_scaling_that_cannot_be_followed_is_ignored_and_named() {
    let app = app(&[], &[("tradewind.dev/scaling", "{")]);
    let wanted = of(&app, &function("image:1", &[], Annotations::new()));
    assert_eq!(wanted.spec.scaling, Scaling::default());
    let [note] = &wanted.notes[..] else {
        panic!("{:?}", wanted.notes);
    };
    assert!(
        note.contains("is ignored") && note.contains("EOF"),
        "{note}"
    );
}

fn fra() -> Region {
    Region {
        name: "fra".parse().unwrap(),
        ipv4: None,
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location: Location {
            latitude: 50.0,
            longitude: 8.7,
        },
        labels: owned(&[("geo", "eu")]),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(0),
    }
}

/// Has fra's replica take a snapshot.
fn take(held: &mut RegionCopy, revision: u64, app: &App, fns: &[Fn]) {
    let objects = fns.iter().map(Into::into).chain([app.into()]);
    let body = MetadataBody::of("fn.test", 8080, objects);
    let id = ViewId {
        cluster_id: "test".to_owned(),
        epoch: 1,
        revision,
        count: body.objects.len() as u64,
        sha256: String::new(),
    };
    let step = held.snapshot(&Envelope::seal(id, &body)).unwrap().unwrap();
    held.take(step);
}

const PLACEMENTS: [(Option<&str>, Option<i32>); 4] = [
    // Anywhere, here, rather elsewhere, and never here.
    (None, Some(2)),
    (Some(r#"{"regions":["geo=eu"]}"#), Some(2)),
    (Some(r#"{"regions":["nrt"]}"#), Some(0)),
    (Some(r#"{"regions":["nrt"],"strict":true}"#), None),
];

const HOT: (&str, &str) = ("tradewind.dev/scaling", r#"{"min":2,"max":3}"#);

#[test]
fn a_function_is_written_where_it_may_run_and_kept_hot_only_where_it_is_placed() {
    for (placement, min) in PLACEMENTS {
        let annotation = placement.map(|json| ("tradewind.dev/placement", json));
        let annotations: Vec<_> = annotation.into_iter().chain([HOT]).collect();
        let mut held = RegionCopy::new(fra(), "fn.test".to_owned());
        let function = function("image:1", &[], Annotations::new());
        take(&mut held, 1, &app(&[], &annotations), &[function]);
        let mut written = Written::default();
        written.catch_up(&held);
        let mins = written.functions.values().map(|wanted| wanted.spec.scaling);
        let want = min.map(|min| Scaling { min, max: 3 });
        assert_eq!(
            mins.collect::<Vec<_>>(),
            Vec::from_iter(want),
            "{placement:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_is_written_change_by_change_is_what_would_be_written_of_everything_at_once(
        // Which of four functions there are, with which placement each, and whether it is looked.
        steps in prop::collection::vec(
            (prop::array::uniform4(prop::option::of(0..PLACEMENTS.len())), any::<bool>()),
            1..12,
        ),
    ) {
        let mut held = RegionCopy::new(fra(), "fn.test".to_owned());
        let mut written = Written::default();
        for (n, (fns, looks)) in steps.iter().enumerate() {
            let revision = n as u64 + 1;
            // Two have one name, and one can have none.
            let fns: Vec<Fn> = ["Fa", "fA", "G", "not_a_name"].into_iter().zip(fns).filter_map(|(id, placement)| {
                let annotation = PLACEMENTS[(*placement)?].0.map(|json| ("tradewind.dev/placement", json));
                let mut function = function("image:1", &[], owned(annotation.as_slice()));
                (function.id, function.name) = (FnId::new(id), format!("of-{id}"));
                function.revision = Revision(revision);
                Some(function)
            }).collect();
            take(&mut held, revision, &app(&[], &[HOT]), &fns);
            if *looks {
                written.catch_up(&held);
            }
        }
        written.catch_up(&held);
        let mut fresh = Written::default();
        fresh.catch_up(&held);
        prop_assert_eq!(written, fresh);
    }
}
