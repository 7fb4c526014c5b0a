//! Server-side apply: owners, conflicts, removals and applies that change nothing.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Config, ResourceExt as _};
use serde_json::{Value, json};

use crate::both::{client, namespaced};
use crate::{USER, config_map, pod, refusal, server};

fn map(data: &Value) -> Patch<Value> {
    Patch::Apply(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "a" },
        "data": data,
    }))
}

async fn apply(api: &Api<ConfigMap>, manager: &str, data: Value) -> kube::Result<ConfigMap> {
    api.patch("a", &PatchParams::apply(manager), &map(&data))
        .await
}

fn data(map: &ConfigMap) -> Value {
    json!(map.data.clone().unwrap_or_default())
}

pub async fn an_apply_creates_and_a_second_one_changes_nothing(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let made = apply(&api, "one", json!({ "x": "1" })).await.unwrap();
    let again = apply(&api, "one", json!({ "x": "1" })).await.unwrap();
    assert_eq!(made, again);
}

#[tokio::test]
async fn an_apply_that_changes_nothing_is_counted_as_such() {
    let server = server().await;
    an_apply_creates_and_a_second_one_changes_nothing(server.config(USER)).await;
    let counted = server.counts().of(&chaos_tests_kube_api::Calls::writes());
    assert_eq!((counted.requests, counted.changed), (2, 1));
}

pub async fn another_owners_value_conflicts_until_forced(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    apply(&api, "one", json!({ "x": "1", "y": "1" }))
        .await
        .unwrap();
    apply(&api, "two", json!({ "x": "1" })).await.unwrap();

    let refused = refusal(apply(&api, "two", json!({ "x": "2" })).await);
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.x"
    );

    let forced = PatchParams::apply("two").force();
    let now = api
        .patch("a", &forced, &map(&json!({ "x": "2" })))
        .await
        .unwrap();
    assert_eq!(data(&now), json!({ "x": "2", "y": "1" }));
    let refused = refusal(apply(&api, "one", json!({ "x": "1", "y": "1" })).await);
    assert!(
        refused.message.contains("conflict with \"two\": .data.x"),
        "{refused:?}"
    );
}

pub async fn what_its_only_owner_no_longer_applies_goes(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    apply(&api, "one", json!({ "x": "1", "y": "1", "z": "1" }))
        .await
        .unwrap();
    apply(&api, "two", json!({ "y": "1" })).await.unwrap();
    let now = apply(&api, "one", json!({ "x": "1" })).await.unwrap();
    assert_eq!(data(&now), json!({ "x": "1", "y": "1" }));
    let now = apply(&api, "two", json!({})).await.unwrap();
    assert_eq!(data(&now), json!({ "x": "1" }));
}

pub async fn an_edit_by_hand_takes_the_field_and_force_puts_it_back(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    apply(&api, "one", json!({ "x": "1" })).await.unwrap();
    let by_hand = PatchParams {
        field_manager: Some("kubectl-edit".to_owned()),
        ..PatchParams::default()
    };
    let edit = Patch::Merge(json!({ "data": { "x": "2", "extra": "3" } }));
    let edited = api.patch("a", &by_hand, &edit).await.unwrap();
    let managers: Vec<String> = edited
        .metadata
        .managed_fields
        .clone()
        .unwrap()
        .into_iter()
        .map(|entry| entry.manager.unwrap())
        .collect();
    assert_eq!(
        managers,
        ["kubectl-edit"],
        "nothing is left of what one owned"
    );

    let refused = refusal(apply(&api, "one", json!({ "x": "1" })).await);
    assert!(
        refused
            .message
            .contains("conflict with \"kubectl-edit\": .data.x"),
        "{refused:?}"
    );
    let forced = PatchParams::apply("one").force();
    let now = api
        .patch("a", &forced, &map(&json!({ "x": "1" })))
        .await
        .unwrap();
    assert_eq!(data(&now), json!({ "x": "1", "extra": "3" }));
}

pub async fn a_field_that_the_definition_lacks_cannot_be_applied(config: Config) {
    let resource = kube::api::ApiResource::erase::<region_plane_resources::WarmPool>(&());
    let client = client(&config);
    let api: Api<kube::api::DynamicObject> = Api::default_namespaced_with(client, &resource);
    let pool = |more: Value| {
        let mut spec = json!({ "runtime": "node", "image": "i", "size": 1, "memoryMb": 128 });
        add_fields(&mut spec, &more);
        Patch::Apply(json!({
            "apiVersion": "tradewind.dev/v1alpha1",
            "kind": "WarmPool",
            "metadata": { "name": "p" },
            "spec": spec,
        }))
    };
    let params = PatchParams::apply("one");
    let refused = refusal(api.patch("p", &params, &pool(json!({ "later": 1 }))).await);
    assert_eq!(refused.code, 500);
    assert_eq!(
        refused.message,
        format!(
            "failed to create typed patch object ({}/p; tradewind.dev/v1alpha1, Kind=WarmPool): .spec.later: field not declared in schema",
            config.default_namespace
        )
    );
    let made = api.patch("p", &params, &pool(json!({}))).await.unwrap();
    assert_eq!(made.data["spec"]["cpuMillis"], 100, "the default");
    let again = api.patch("p", &params, &pool(json!({}))).await.unwrap();
    assert_eq!(made.resource_version(), again.resource_version());
}

fn add_fields(target: &mut Value, more: &Value) {
    let fields = target.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
}

pub async fn what_was_there_before_the_first_apply_has_an_owner_too(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let refused = refusal(apply(&api, "one", json!({ "key": "2" })).await);
    assert!(
        refused.message.contains("before-first-apply"),
        "{refused:?}"
    );
    let now = apply(&api, "one", json!({ "new": "2" })).await.unwrap();
    assert_eq!(data(&now), json!({ "key": "1", "new": "2" }));
}

pub async fn lists_of_named_things_merge_by_name(config: Config) {
    let api = namespaced::<Pod>(&config);
    let one = |containers: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "p", "finalizers": ["example.com/one"] },
            "spec": { "containers": containers },
        }))
    };
    let params = PatchParams::apply("one");
    let function = json!({ "name": "function", "image": "localhost/fn:1" });
    let runner = json!({ "name": "runner", "image": "localhost/runner:1" });
    api.patch("p", &params, &one(json!([function, runner])))
        .await
        .unwrap();
    let two = Patch::Apply(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "p", "finalizers": ["example.com/two"] },
        "spec": { "containers": [{ "name": "runner", "image": "localhost/runner:2" }] },
    }));
    let forced = PatchParams::apply("two").force();
    let now: Pod = api.patch("p", &forced, &two).await.unwrap();
    let images: Vec<String> = now
        .spec
        .as_ref()
        .unwrap()
        .containers
        .iter()
        .map(|container| container.image.clone().unwrap())
        .collect();
    assert_eq!(images, ["localhost/fn:1", "localhost/runner:2"]);
    assert_eq!(now.finalizers(), ["example.com/one", "example.com/two"]);
}

pub async fn status_is_applied_through_its_own_door_by_its_own_owner(config: Config) {
    let api = namespaced::<Pod>(&config);
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    let status = |message: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "p" },
            "status": { "message": message },
        }))
    };
    let params = PatchParams::apply("one");
    let first = api
        .patch_status("p", &params, &status("hello"))
        .await
        .unwrap();
    assert_eq!(
        first.status.clone().unwrap().message.as_deref(),
        Some("hello")
    );
    assert_eq!(
        first.status.clone().unwrap().phase.as_deref(),
        Some("Pending")
    );
    let again = api
        .patch_status("p", &params, &status("hello"))
        .await
        .unwrap();
    assert_eq!(first.resource_version(), again.resource_version());
}
