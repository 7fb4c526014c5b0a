//! Cases that run against the server in memory and against a real one.
//!
//! What the server in memory does beyond that is tested in memory only: faults, counts, history that
//! goes on request, and what other programs of a cluster do (garbage collection, quotas, kubelets).

use std::time::Duration;

use chaos_tests_kubernetes::{Needs, cluster_for};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, CustomResourceExt as _, Resource};
use region_plane_resources::{Function, WarmPool};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{USER, apply, objects, server, watches};

/// A server serves a definition about a second after it has stored it.
const DEFINED_WITHIN: Duration = Duration::from_secs(30);

/// Starts a case against the server of a configuration, whose default namespace is empty.
type Case = fn(Config) -> BoxFuture<'static, ()>;

/// Makes a test of each case, against a server in memory, and the list of all.
macro_rules! cases {
    ($($file:ident::$case:ident,)*) => {
        mod in_memory {
            $(
                #[tokio::test]
                async fn $case() {
                    let server = super::server().await;
                    super::$file::$case(server.config(super::USER)).await;
                }
            )*
        }

        const CASES: &[(&str, Case)] =
            &[$((stringify!($case), |config| $file::$case(config).boxed()),)*];
    };
}

cases! {
    apply::a_field_that_the_definition_lacks_cannot_be_applied,
    apply::an_apply_creates_and_a_second_one_changes_nothing,
    apply::an_edit_by_hand_takes_the_field_and_force_puts_it_back,
    apply::another_owners_value_conflicts_until_forced,
    apply::lists_of_named_things_merge_by_name,
    apply::status_is_applied_through_its_own_door_by_its_own_owner,
    apply::what_its_only_owner_no_longer_applies_goes,
    apply::what_was_there_before_the_first_apply_has_an_owner_too,
    objects::a_custom_resource_is_checked_against_its_schema,
    objects::a_pod_gets_its_defaults_and_keeps_its_spec,
    objects::a_resource_without_its_definition_is_not_found,
    objects::a_write_over_a_newer_version_conflicts,
    objects::a_write_that_changes_nothing_keeps_the_version,
    objects::an_unbound_pod_goes_at_once,
    objects::deletion_waits_for_finalizers_and_heeds_preconditions,
    objects::generation_counts_changes_of_what_is_desired_and_status_has_its_own_door,
    objects::leases_secrets_and_events_are_served,
    objects::refusals_carry_code_and_reason,
    objects::selectors_choose_what_lists_and_bulk_deletions_touch,
    watches::a_version_not_reached_yet_refuses_a_list_and_keeps_a_watch_waiting,
    watches::a_watch_from_a_version_shows_every_change_since,
    watches::a_watch_with_a_selector_sees_objects_come_and_go,
    watches::pages_show_one_moment,
    watches::paged_and_streaming_lists_show_the_same_and_then_changes,
}

/// One server for all cases, since it takes ten seconds to start; each has a namespace of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_passes_the_same_cases() {
    let needs = Needs::OwnApiServer;
    let Some(cluster) = cluster_for("same-as-in-memory", needs).await.unwrap() else {
        return;
    };
    let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    for definition in [Function::crd(), WarmPool::crd()] {
        define(&config, &serde_json::to_value(definition).unwrap()).await;
    }
    let namespaces: Api<Namespace> = Api::all(client(&config));
    let mut failed = Vec::new();
    for (at, (name, case)) in CASES.iter().enumerate() {
        let namespace = format!("case-{at}");
        let object = json!({ "metadata": { "name": namespace } });
        let object = serde_json::from_value(object).unwrap();
        let params = PostParams::default();
        namespaces.create(&params, &object).await.unwrap();
        let mut config = config.clone();
        config.default_namespace = namespace;
        // Its panic is the task's, so that the others run all the same.
        let mut task = JoinSet::new();
        task.spawn(case(config));
        if task.join_next().await.unwrap().is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "not as in memory: {failed:?}");
}

pub fn client(config: &Config) -> Client {
    Client::try_from(config.clone()).unwrap()
}

/// Objects in the case's own namespace.
pub fn namespaced<K>(config: &Config) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::default_namespaced(client(config))
}

/// Installs a definition and waits until its objects are served.
pub async fn define(config: &Config, definition: &Value) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client(config));
    let object = serde_json::from_value(definition.clone()).unwrap();
    let params = PostParams::default();
    definitions.create(&params, &object).await.unwrap();
    let of = |path: &str| definition.pointer(path).and_then(Value::as_str).unwrap();
    let kind = GroupVersionKind::gvk(
        of("/spec/group"),
        of("/spec/versions/0/name"),
        of("/spec/names/kind"),
    );
    let resource = ApiResource::from_gvk_with_plural(&kind, of("/spec/names/plural"));
    let objects: Api<DynamicObject> = Api::all_with(client(config), &resource);
    let served = async {
        while objects.list(&ListParams::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEFINED_WITHIN, served).await.unwrap();
}
