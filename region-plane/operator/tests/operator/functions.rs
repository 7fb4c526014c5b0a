//! Objects follow the metadata.

use std::time::Duration;

use chaos_tests_kube_api::{Calls, Effect, Verb};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use region_plane_operator::{ACCEPT_DELETIONS, Source, Status};
use region_plane_replica::Replica;
use region_plane_resources::labels;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::plane::{Plane, annotation, app, function};
use crate::region::{OPERATOR, Region, Running, decides_rarely, eventually};

struct Placed {
    region: Region,
    plane: Plane,
    replica: Replica,
    operator: Running,
    tasks: JoinSet<()>,
    folder: TempDir,
}

async fn placed() -> Placed {
    let mut region = Region::start().await;
    let folder = TempDir::new().unwrap();
    let mut tasks = JoinSet::new();
    let (plane, replica) = Plane::start(folder.path(), &mut tasks).await;
    let source = Source::Replica(replica.clone());
    let operator = region.operate_as("one", source).await;
    region.idle_gateway(&operator);
    Placed {
        region,
        plane,
        replica,
        operator,
        tasks,
        folder,
    }
}

/// The same with a function that has its object.
async fn placed_with_one() -> Placed {
    let placed = placed().await;
    placed.plane.put_app(app("A"));
    placed.plane.put_fn(function("F", "A"));
    placed.until_names(&["fn-f"]).await;
    placed
}

impl Placed {
    async fn names(&self) -> Vec<String> {
        let all = self
            .region
            .functions()
            .list(&ListParams::default())
            .await
            .unwrap();
        all.items.iter().map(|object| object.name_any()).collect()
    }

    async fn until_names(&self, want: &[&str]) {
        eventually(&format!("{want:?}"), async || {
            (self.names().await == want).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_an_object_with_its_configuration_in_a_secret_that_never_changes() {
    let placed = placed().await;
    let (region, plane) = (&placed.region, &placed.plane);
    let mut with_config = app("A");
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    with_config.config = Some(
        [("GREETING", "hello"), ("not a name", "x")]
            .map(owned)
            .into(),
    );
    plane.put_app(with_config);
    let mut f = function("F", "A");
    f.config = Some([("GREETING", "hi"), ("OTHER", "1")].map(owned).into());
    f.annotations = Some(annotation("tradewind.dev/scaling", r#"{"min":1,"max":3}"#));
    plane.put_fn(f.clone());
    placed.until_names(&["fn-f"]).await;
    region.until_running(1).await;
    let object = region.functions().get("fn-f").await.unwrap();
    assert_eq!((object.spec.scaling.min, object.spec.scaling.max), (1, 3));
    assert_eq!(
        (object.spec.app_name.as_str(), object.spec.revision),
        ("app-a", 3)
    );
    let managers = object.metadata.managed_fields.unwrap();
    assert!(
        managers
            .iter()
            .any(|entry| entry.manager.as_deref() == Some(labels::REPLICA_MANAGER))
    );
    let secrets = Api::<Secret>::default_namespaced(region.client.clone());
    let name = object.spec.config_secret.unwrap();
    let secret = eventually("the secret", async || secrets.get_opt(&name).await.unwrap()).await;
    assert_eq!(secret.immutable, Some(true));
    // As somebody keeps what one has.
    let mut kept = secret.clone();
    kept.metadata.name = Some("kept".to_owned());
    kept.metadata.resource_version = None;
    let params = PostParams::default();
    secrets.create(&params, &kept).await.unwrap();
    let data = secret.data.unwrap();
    let texts: Vec<_> = data
        .iter()
        .map(|(key, value)| (key.as_str(), std::str::from_utf8(&value.0).unwrap()))
        .collect();
    assert_eq!(texts, [("GREETING", "hi"), ("OTHER", "1")]);
    let event = region.until_event("NotTaken").await;
    assert!(event.note.unwrap().contains("not a name"));

    let writes = region.writes();
    let long = Duration::from_millis(500);
    region.decides_for(&placed.operator, long).await;
    assert_eq!(region.writes(), writes, "{:?}", region.api.writes());

    f.config = Some([owned(("GREETING", "bye"))].into());
    plane.put_fn(f);
    let other = eventually("another secret", async || {
        let object = region.functions().get("fn-f").await.unwrap();
        object.spec.config_secret.filter(|secret| *secret != name)
    })
    .await;
    eventually("it is there", async || {
        secrets.get_opt(&other).await.unwrap()
    })
    .await;
    eventually("the old one goes", async || {
        secrets
            .get_opt(&name)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    let kept = secrets.get_opt("kept").await.unwrap();
    assert!(kept.is_some(), "it is not the operator's");
    assert!(secrets.get_opt(&other).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_changes_is_put_back_and_told() {
    let placed = placed().await;
    let region = &placed.region;
    placed.plane.put_app(app("A"));
    placed.plane.put_fn(function("F", "A"));
    placed.until_names(&["fn-f"]).await;
    let patch = json!({ "spec": { "memoryMb": 4096, "configSecret": "theirs" } });
    region
        .functions()
        .patch("fn-f", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    region.until_event("ManagedFieldsRestored").await;
    eventually("it is put back", async || {
        let object = region.functions().get("fn-f").await.unwrap();
        (object.spec.memory_mb == 128 && object.spec.config_secret.is_none()).then_some(())
    })
    .await;

    // A change that comes the right way is none of that.
    let restored = || async {
        let events = Api::<Event>::default_namespaced(region.client.clone());
        let events = events.list(&ListParams::default()).await.unwrap();
        let told = events
            .items
            .iter()
            .filter(|event| event.reason.as_deref() == Some("ManagedFieldsRestored"));
        told.count()
    };
    assert_eq!(restored().await, 1);
    for memory in 200..230 {
        let mut f = function("F", "A");
        f.memory = Some(memory);
        placed.plane.put_fn(f);
        eventually("it is changed", async || {
            let object = region.functions().get("fn-f").await.unwrap();
            (object.spec.memory_mb == i64::try_from(memory).unwrap()).then_some(())
        })
        .await;
    }
    assert_eq!(restored().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_or_placed_elsewhere_goes_and_what_others_made_stays() {
    let placed = placed().await;
    placed.region.function("fn-theirs", |_| {}).await;
    placed.plane.put_app(app("A"));
    for id in ["F", "G", "bad_id", "H"] {
        placed.plane.put_fn(function(id, "A"));
    }
    placed
        .until_names(&["fn-f", "fn-g", "fn-h", "fn-theirs"])
        .await;
    let event = placed.region.until_event("FunctionSkipped").await;
    assert!(event.note.unwrap().contains("bad_id"));
    placed.plane.delete_fn("F");
    let mut g = function("G", "A");
    g.annotations = Some(annotation(
        "tradewind.dev/placement",
        r#"{"regions":["nrt"],"strict":true}"#,
    ));
    placed.plane.put_fn(g);
    placed.until_names(&["fn-h", "fn-theirs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_takes_no_function_away_before_it_heard_who_serves_it() {
    let Placed {
        mut region,
        plane,
        replica,
        operator,
        tasks: _tasks,
        folder: _folder,
    } = placed().await;
    plane.put_app(app("A"));
    let mut hot = function("F", "A");
    hot.annotations = Some(annotation("tradewind.dev/scaling", r#"{"min":1,"max":3}"#));
    plane.put_fn(hot);
    let pods = region.until_running(1).await;
    operator.end().await;
    let mut position = replica.subscribe();
    let before = position.borrow().functions;
    plane.delete_fn("F");
    let gone = position.wait_for(|now| now.functions != before);
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the replica hears of it")
        .unwrap();

    let settle_for = Duration::from_secs(3);
    region.settings.settle_for = settle_for;
    let source = Source::Replica(replica.clone());
    let second = region.operate_as("two", source).await;
    let claims = [(pods[0].as_str(), "fn-f")];
    second.demand(vec![], &claims, &[]).await;
    let began = tokio::time::Instant::now();
    eventually("what it did not hear of would go", async || {
        (began.elapsed() > settle_for + Duration::from_millis(500)).then_some(())
    })
    .await;
    let held = region.functions().get_opt("fn-f").await.unwrap();
    assert!(held.is_some(), "a call is under way");
    assert_eq!(region.running().await, pods);
    second.demand(vec![], &[], &[]).await;
    eventually("it goes", async || {
        let object = region.functions().get_opt("fn-f").await.unwrap();
        object.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_deletion_waits_for_a_person() {
    let placed = placed().await;
    let region = &placed.region;
    placed.plane.put_app(app("A"));
    placed.plane.put_app(app("B"));
    let ids: Vec<String> = (0..24).map(|n| format!("F{n:02}")).collect();
    let (of_a, of_b) = ids.split_at(20);
    for (ids, app) in [(of_a, "A"), (of_b, "B")] {
        for id in ids {
            placed.plane.put_fn(function(id, app));
        }
    }
    eventually("all are there", async || {
        (placed.names().await.len() == 24).then_some(())
    })
    .await;
    let mut elsewhere = app("A");
    elsewhere.annotations = Some(annotation(
        "tradewind.dev/placement",
        r#"{"regions":["nrt"],"strict":true}"#,
    ));
    placed.plane.put_app(elsewhere);
    region.until_event("MassDeletionHeld").await;
    // That more are held is known, and no news.
    let held = async |count: usize| {
        eventually(&format!("{count} are held"), async || {
            let held = placed.operator.handle.status().deletions_held?;
            held.starts_with(&format!("{count} of 24")).then_some(())
        })
        .await;
    };
    held(20).await;
    for (before, id) in of_b.iter().enumerate() {
        placed.plane.delete_fn(id);
        held(21 + before).await;
    }
    let events = Calls::writes()
        .user(OPERATOR)
        .resource("events.events.k8s.io");
    assert_eq!(region.api.counts().of(&events).requests, 1);
    assert_eq!(placed.names().await.len(), 24);
    let leases = Api::<Lease>::default_namespaced(region.client.clone());
    let patch = json!({ "metadata": { "annotations": { ACCEPT_DELETIONS: "true" } } });
    leases
        .patch(
            "tradewind-operator",
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .unwrap();
    placed.until_names(&[]).await;
    eventually("the word is used up", async || {
        let lease = leases.get("tradewind-operator").await.unwrap();
        (!lease.annotations().contains_key(ACCEPT_DELETIONS)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_to_store_is_told_and_tried_again_and_the_rest_is_stored() {
    let placed = placed().await;
    let region = &placed.region;
    placed.plane.put_app(app("A"));
    let mut invalid = function("BAD", "A");
    invalid.timeout = Some(1_000_000);
    placed.plane.put_fn(invalid.clone());
    placed.plane.put_fn(function("F", "A"));
    placed.until_names(&["fn-f"]).await;
    let event = region.until_event("InvalidSpec").await;
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("fn-bad"));
    invalid.timeout = Some(1);
    placed.plane.put_fn(invalid);
    placed.until_names(&["fn-bad", "fn-f"]).await;

    let patches = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Patch])
        .resource("functions.tradewind.dev");
    let denied = region
        .api
        .faults()
        .begin(patches.clone(), Effect::Forbidden);
    placed.plane.put_fn(function("G", "A"));
    let event = region.until_event("Forbidden").await;
    assert!(event.note.unwrap().contains("patch functions"));
    let asked = region.api.counts().of(&patches).refused;
    assert!(asked < 5, "it is not asked over and over: {asked}");

    // What a pool's pod loads needs no object.
    let mut bundle = function("B", "A");
    bundle.image = Some(format!("bundle/b:1@sha256:{}", "ab".repeat(32)));
    placed.plane.put_fn(bundle);
    eventually("its object is refused", async || {
        (region.api.counts().of(&patches).refused > asked).then_some(())
    })
    .await;
    // Pods of what is stored already are not those that are asked for now.
    let stored = region.functions().get("fn-f").await.unwrap().spec;
    let mut changed = function("F", "A");
    changed.image = Some("localhost/tradewind/test-function:v2".to_owned());
    placed.plane.put_fn(changed);
    let told = eventually("both are told", async || {
        let problems = placed.operator.handle.status().problems;
        (problems.len() > 1).then_some(problems)
    })
    .await;
    let of: Vec<&str> = told.iter().map(|of| of.function.as_str()).collect();
    assert_eq!(of, ["fn-f", "fn-g"]);
    let settings = told[0].settings.as_ref().unwrap();
    assert_ne!(*settings, stored.settings);
    assert_eq!(told[0].reason, "Forbidden");
    region.api.faults().end(denied);
    placed
        .until_names(&["fn-b", "fn-bad", "fn-f", "fn-g"])
        .await;
    eventually("nothing is wrong any more", async || {
        let problems = placed.operator.handle.status().problems;
        problems.is_empty().then_some(())
    })
    .await;
    let stored = region.functions().get("fn-f").await.unwrap().spec;
    assert_eq!(stored.settings, *settings);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_hangs_on_objects_nothing_is_decided_over_and_over() {
    const FUNCTIONS: usize = 100;
    let placed = placed().await;
    let patches = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Patch])
        .resource("functions.tradewind.dev");
    let hangs = Effect::Delay(Duration::from_secs(5));
    let faults = placed.region.api.faults();
    let hangs = faults.begin(patches, hangs);
    placed.plane.put_app(app("A"));
    for n in 0..FUNCTIONS {
        placed.plane.put_fn(function(&format!("F{n:03}"), "A"));
    }
    let mut decided = placed.operator.handle.watch();
    let all_read = |status: &Status| status.revision == Some(2 + FUNCTIONS as i64);
    let read = decided.wait_for(all_read);
    tokio::time::timeout(Duration::from_secs(3), read)
        .await
        .expect("it has read them")
        .unwrap();
    decides_rarely(&mut decided).await;
    faults.end(hangs);
    eventually("all are there", async || {
        (placed.names().await.len() == FUNCTIONS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_refused_is_in_the_status_and_changes_nothing() {
    let Placed {
        mut region,
        replica,
        operator,
        mut tasks,
        folder,
        ..
    } = placed_with_one().await;
    assert_eq!(operator.handle.status().snapshot_refused, None);
    // Everything ends, so that the folder is free again.
    operator.end().await;
    tasks.shutdown().await;
    drop(replica);

    let (_other, replica) = Plane::start_as("other", folder.path(), &mut tasks).await;
    let operator = region.operate_as("two", Source::Replica(replica)).await;
    let refused = eventually("it is told", async || {
        operator.handle.status().snapshot_refused
    })
    .await;
    assert!(refused.contains("cluster \"other\""), "{refused}");
    let held = region.functions().get_opt("fn-f").await.unwrap();
    assert!(held.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_global_plane_objects_follow_the_copy_on_disk() {
    let Placed {
        mut region,
        operator,
        mut tasks,
        folder,
        ..
    } = placed_with_one().await;
    // Everything ends, so that the folder is free again.
    operator.end().await;
    tasks.shutdown().await;
    region
        .functions()
        .delete("fn-f", &DeleteParams::default())
        .await
        .unwrap();
    let replica = Plane::reopen(folder.path());
    let _operator = region.operate_as("two", Source::Replica(replica)).await;
    eventually("it is back", async || {
        region.functions().get_opt("fn-f").await.unwrap()
    })
    .await;
}
