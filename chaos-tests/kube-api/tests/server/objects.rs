//! Objects: made, changed, refused and ended as on a real server.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Config, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use crate::both::{client, define, namespaced};
use crate::{USER, config_map, config_maps, pod, pods, refusal, server};

pub async fn a_write_over_a_newer_version_conflicts(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let first = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(first.uid().is_some() && first.creation_timestamp().is_some());

    let mut second = first.clone();
    second.data = config_map("a", "2").data;
    let second = api
        .replace("a", &PostParams::default(), &second)
        .await
        .unwrap();
    assert_ne!(first.resource_version(), second.resource_version());

    let mut stale = first.clone();
    stale.data = config_map("a", "3").data;
    let refused = refusal(api.replace("a", &PostParams::default(), &stale).await);
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert!(
        refused.message.contains("the object has been modified"),
        "{refused:?}"
    );
    assert_eq!(api.get("a").await.unwrap().data, second.data);
}

pub async fn a_write_that_changes_nothing_keeps_the_version(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let made = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let replaced = api
        .replace("a", &PostParams::default(), &made)
        .await
        .unwrap();
    let patched = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({ "data": { "key": "1" } })),
        )
        .await
        .unwrap();
    assert_eq!(made.resource_version(), replaced.resource_version());
    assert_eq!(made.resource_version(), patched.resource_version());
}

pub async fn refusals_carry_code_and_reason(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();

    let refused = refusal(
        api.create(&PostParams::default(), &config_map("a", "1"))
            .await,
    );
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (409, "AlreadyExists")
    );
    assert_eq!(refused.message, "configmaps \"a\" already exists");

    let refused = refusal(api.get("b").await);
    assert_eq!((refused.code, refused.reason.as_str()), (404, "NotFound"));

    let refused = refusal(
        api.create(&PostParams::default(), &config_map("A_b", "1"))
            .await,
    );
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert_eq!(refused.details.unwrap().causes[0].field, "metadata.name");

    let elsewhere: Api<ConfigMap> = Api::namespaced(client(&config), "nowhere");
    let refused = refusal(
        elsewhere
            .create(&PostParams::default(), &config_map("a", "1"))
            .await,
    );
    assert_eq!(refused.message, "namespaces \"nowhere\" not found");

    let mut bad = pod("p");
    bad.spec.as_mut().unwrap().containers[0].image = None;
    let refused = refusal(
        namespaced::<Pod>(&config)
            .create(&PostParams::default(), &bad)
            .await,
    );
    assert_eq!(
        refused.details.unwrap().causes[0].field,
        "spec.containers[0].image"
    );
}

pub async fn a_resource_without_its_definition_is_not_found(config: Config) {
    let kind = kube::core::GroupVersionKind::gvk("absent.example.com", "v1", "Absence");
    let resource = kube::api::ApiResource::from_gvk(&kind);
    let api: Api<kube::api::DynamicObject> =
        Api::default_namespaced_with(client(&config), &resource);
    let refused = refusal(api.list(&ListParams::default()).await);
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (404, "404 page not found")
    );
}

pub async fn a_custom_resource_is_checked_against_its_schema(config: Config) {
    let api: Api<kube::api::DynamicObject> = Api::default_namespaced_with(
        client(&config),
        &kube::api::ApiResource::erase::<region_plane_resources::Function>(&()),
    );
    let object = |spec: Value| -> kube::api::DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "tradewind.dev/v1alpha1",
            "kind": "Function",
            "metadata": { "name": "f" },
            "spec": spec,
        }))
        .unwrap()
    };
    let refused = refusal(api.create(&PostParams::default(), &object(json!({}))).await);
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert!(
        refused
            .message
            .starts_with("Function.tradewind.dev \"f\" is invalid"),
        "{refused:?}"
    );
}

pub async fn generation_counts_changes_of_what_is_desired_and_status_has_its_own_door(
    config: Config,
) {
    let things = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "things.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": "things", "kind": "Thing" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": { "size": { "type": "integer" } } },
                    "status": { "type": "object", "properties": { "seen": { "type": "integer" } } },
                } } },
            }],
        },
    });
    define(&config, &things).await;
    let kind = kube::core::GroupVersionKind::gvk("example.com", "v1", "Thing");
    let resource = kube::api::ApiResource::from_gvk_with_plural(&kind, "things");
    let api: Api<kube::api::DynamicObject> =
        Api::default_namespaced_with(client(&config), &resource);
    let thing = serde_json::from_value(json!({
        "apiVersion": "example.com/v1",
        "kind": "Thing",
        "metadata": { "name": "t" },
        "spec": { "size": 1, "unknown": 2 },
        "status": { "seen": 9 },
    }))
    .unwrap();
    let made = api.create(&PostParams::default(), &thing).await.unwrap();
    assert_eq!(
        made.data["spec"],
        json!({ "size": 1 }),
        "unknown fields are pruned"
    );
    assert!(
        made.data.get("status").is_none(),
        "status is not for creators"
    );
    assert_eq!(made.metadata.generation, Some(1));

    let params = PatchParams::default();
    let merge = |patch: Value| Patch::Merge(patch);
    let both = merge(json!({ "spec": { "size": 2 }, "status": { "seen": 2 } }));
    let object = api.patch("t", &params, &both).await.unwrap();
    assert_eq!(object.metadata.generation, Some(2));
    assert!(object.data.get("status").is_none());

    let both = merge(json!({ "spec": { "size": 3 }, "status": { "seen": 3 } }));
    let object = api.patch_status("t", &params, &both).await.unwrap();
    assert_eq!(object.metadata.generation, Some(2));
    assert_eq!(
        object.data,
        json!({ "spec": { "size": 2 }, "status": { "seen": 3 } })
    );

    let label = merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let object = api.patch("t", &params, &label).await.unwrap();
    assert_eq!(
        object.metadata.generation,
        Some(2),
        "labels are not desired state"
    );
}

pub async fn deletion_waits_for_finalizers_and_heeds_preconditions(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let mut object = config_map("a", "1");
    object.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    let made = api.create(&PostParams::default(), &object).await.unwrap();

    let wrong = DeleteParams::default().preconditions(Preconditions {
        uid: Some("another".to_owned()),
        resource_version: None,
    });
    assert_eq!(refusal(api.delete("a", &wrong).await).code, 409);
    let stale = DeleteParams::default().preconditions(Preconditions {
        uid: made.uid(),
        resource_version: Some("1".to_owned()),
    });
    assert_eq!(refusal(api.delete("a", &stale).await).code, 409);

    let marked = api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(marked.left().unwrap().metadata.deletion_timestamp.is_some());
    let again = api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(again.is_left(), "still there: {again:?}");

    let freed = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    api.patch("a", &PatchParams::default(), &freed)
        .await
        .unwrap();
    assert_eq!(refusal(api.get("a").await).code, 404);
}

#[tokio::test]
async fn what_an_object_owns_goes_with_it() {
    let server = server().await;
    let maps = config_maps(&server);
    let secrets: Api<Secret> = Api::default_namespaced(server.client(USER));
    let owner = maps
        .create(&PostParams::default(), &config_map("owner", "1"))
        .await
        .unwrap();
    let other = maps
        .create(&PostParams::default(), &config_map("other", "1"))
        .await
        .unwrap();
    let owned = |name: &str, owners: &[&ConfigMap]| Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(
                owners
                    .iter()
                    .map(|owner| owner.owner_ref(&()).unwrap())
                    .collect(),
            ),
            ..kube::api::ObjectMeta::default()
        },
        ..Secret::default()
    };
    for (name, owners) in [("one", vec![&owner]), ("two", vec![&owner, &other])] {
        secrets
            .create(&PostParams::default(), &owned(name, &owners))
            .await
            .unwrap();
    }
    maps.delete("owner", &DeleteParams::default())
        .await
        .unwrap();
    let left = secrets.list(&ListParams::default()).await.unwrap();
    let left: Vec<String> = left.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(left, ["two"]);

    // One whose owner was gone before it came goes as well.
    secrets
        .create(&PostParams::default(), &owned("late", &[&owner]))
        .await
        .unwrap();
    assert!(secrets.get_opt("late").await.unwrap().is_none());
}

pub async fn a_pod_gets_its_defaults_and_keeps_its_spec(config: Config) {
    let api = namespaced::<Pod>(&config);
    let made = api.create(&PostParams::default(), &pod("p")).await.unwrap();
    let spec = made.spec.clone().unwrap();
    assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
    assert_eq!(
        spec.containers[0].image_pull_policy.as_deref(),
        Some("IfNotPresent")
    );
    assert_eq!(
        made.status.clone().unwrap().phase.as_deref(),
        Some("Pending")
    );
    assert_eq!(made.status.unwrap().qos_class.as_deref(), Some("Burstable"));

    let more = json!({ "spec": { "containers": [{
        "name": "function", "image": "localhost/fn:1",
        "resources": { "limits": { "memory": "256Mi" }, "requests": { "memory": "256Mi" } },
    }, spec.containers[1]] } });
    let params = PatchParams::default();
    let refused = refusal(api.patch("p", &params, &Patch::Merge(more.clone())).await);
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message
            .contains("pod updates may not change fields"),
        "{refused:?}"
    );

    let resized = api
        .patch_subresource("resize", "p", &params, &Patch::Merge(more))
        .await
        .unwrap();
    let limits = resized.spec.unwrap().containers[0]
        .resources
        .clone()
        .unwrap()
        .limits
        .unwrap();
    assert_eq!(limits["memory"].0, "256Mi");
    assert_eq!(resized.metadata.generation, Some(2));
}

pub async fn an_unbound_pod_goes_at_once(config: Config) {
    let api = namespaced::<Pod>(&config);
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    api.delete("p", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("p").await.unwrap().is_none());
}

#[tokio::test]
async fn a_quota_refuses_in_the_real_words() {
    let server = server().await;
    server.set_quota("pods", "tradewind", 1);
    let api = pods(&server);
    api.create(&PostParams::default(), &pod("a")).await.unwrap();
    let refused = refusal(api.create(&PostParams::default(), &pod("b")).await);
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        refused.message,
        "pods \"b\" is forbidden: exceeded quota: tradewind, requested: pods=1, used: pods=1, limited: pods=1"
    );
}

pub async fn selectors_choose_what_lists_and_bulk_deletions_touch(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "api")] {
        api.create(&PostParams::default(), &config_map(name, app))
            .await
            .unwrap();
    }
    for (params, want) in [
        (ListParams::default().labels("app=web"), vec!["a", "b"]),
        (ListParams::default().labels("app notin (web)"), vec!["c"]),
        (ListParams::default().fields("metadata.name=b"), vec!["b"]),
    ] {
        let names: Vec<String> = api
            .list(&params)
            .await
            .unwrap()
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect();
        assert_eq!(names, want);
    }
    let metadata = api
        .list_metadata(&ListParams::default().labels("app=api"))
        .await
        .unwrap();
    assert_eq!(metadata.items[0].name_any(), "c");

    api.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("app=web"),
    )
    .await
    .unwrap();
    let left = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.len(), 1);
}

pub async fn leases_secrets_and_events_are_served(config: Config) {
    let leases: Api<Lease> = namespaced(&config);
    let lease: Lease = serde_json::from_value(json!({
        "metadata": { "name": "leader" },
        "spec": { "holderIdentity": "a", "leaseTransitions": 1, "renewTime": "2026-01-02T03:04:05.000006Z" },
    }))
    .unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert_eq!(made.spec, lease.spec);
    let mut unversioned = made.clone();
    unversioned.metadata.resource_version = None;
    let refused = refusal(
        leases
            .replace("leader", &PostParams::default(), &unversioned)
            .await,
    );
    assert_eq!(refused.code, 422, "a lease has no unconditional update");

    let secrets: Api<Secret> = namespaced(&config);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": "s" }, "stringData": { "KEY": "value" },
    }))
    .unwrap();
    let made = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    assert_eq!(made.data.unwrap()["KEY"].0, b"value");

    let map = namespaced::<ConfigMap>(&config)
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let recorder = Recorder::new(client(&config), Reporter::from("tests"));
    let event = Event {
        type_: EventType::Warning,
        reason: "Odd".to_owned(),
        note: Some("twice".to_owned()),
        action: "Looking".to_owned(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder
            .publish(&event, &map.object_ref(&()))
            .await
            .unwrap();
    }
    let events: Api<k8s_openapi::api::events::v1::Event> = namespaced(&config);
    let seen = events.list(&ListParams::default()).await.unwrap();
    assert_eq!(seen.items.len(), 1, "the second adds to the first's series");
    let core: Api<CoreEvent> = namespaced(&config);
    core.list(&ListParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_in_process_client_and_the_kubeconfig_reach_the_same_store() {
    let server = server().await;
    let near: Api<Pod> = Api::default_namespaced(server.client_in_process("near"));
    near.create(&PostParams::default(), &pod("p"))
        .await
        .unwrap();

    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig("far")).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let far: Api<Pod> = Api::default_namespaced(kube::Client::try_from(config).unwrap());
    assert_eq!(far.get("p").await.unwrap().name_any(), "p");
    let calls = chaos_tests_kube_api::Calls::all().user("far");
    assert_eq!(server.counts().of(&calls).requests, 1);
}
