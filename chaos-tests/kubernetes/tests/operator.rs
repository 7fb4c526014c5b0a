//! The operator against a real API server: objects follow the metadata, drift is put back, and what
//! it may not or cannot do it says, while the rest is served. No pod needs to start.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use chaos_tests_kubernetes::region::{LEASE_TTL, NEVER_READY_AFTER, images};
use chaos_tests_kubernetes::{Ended, Functions, Needs, Region, Rights, install, scenario, writes};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, CustomResourceExt as _, ResourceExt as _};
use region_plane_resources::{Function, labels};
use serde_json::{Value, json};

/// For what the operator does at once; a busy machine takes its time.
const SOON: Duration = Duration::from_secs(30);

/// Of an operator that hands its lease over: one that nobody waits for.
const LONG_LEASE_TTL: Duration = Duration::from_secs(60);

/// Several rounds of whatever an operator does by the second.
const STILL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_follow_the_metadata_and_drift_is_put_back() -> anyhow::Result<()> {
    scenario("objects", Needs::ApiServer, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        // An operator that hears no gateway deletes no object.
        region.start_gateway().await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 96, "config": {"GREETING": "hello"}});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let object = cart.object()?;

        let (made, took) = eventually("the function has an object", SOON, async || {
            Ok(region.functions().get(&object).await?)
        })
        .await?;
        println!("measured: a new function has its object after {took:.2?}");
        ensure!(
            made.spec.fn_name == "cart" && made.spec.memory_mb == 96,
            "{:?}",
            made.spec
        );
        ensure!(
            made.spec.image.as_deref() == Some(images::FUNCTION_V1),
            "{:?}",
            made.spec
        );
        let managers: Vec<_> = made
            .managed_fields()
            .iter()
            .map(|entry| entry.manager.clone())
            .collect();
        ensure!(
            managers.contains(&Some(labels::REPLICA_MANAGER.to_owned())),
            "{managers:?}"
        );
        let secret = made
            .spec
            .config_secret
            .clone()
            .context("it names its configuration")?;
        let secrets = Api::<Secret>::namespaced(region.client(), &region.namespace);
        // The object owns it, so it comes second.
        let (given, _) = eventually("the configuration is there", SOON, async || {
            Ok(secrets.get(&secret).await?)
        })
        .await?;
        ensure!(
            greeting(&given)? == "hello",
            "the configuration is as given"
        );

        functions
            .update(&cart, json!({"config": {"GREETING": "good day"}}))
            .await?;
        eventually("the new configuration is there", SOON, async || {
            let function = region.functions().get(&object).await?;
            let name = function
                .spec
                .config_secret
                .context("it names its configuration")?;
            let now = greeting(&secrets.get(&name).await?)?;
            ensure!(now == "good day", "{now}");
            Ok(())
        })
        .await?;

        drift_is_put_back(region, &object).await?;
        what_is_deleted_is_made_again(region, &object).await?;

        functions.delete(&cart).await?;
        eventually("the object goes with its function", SOON, async || {
            ensure!(
                region.functions().get_opt(&object).await?.is_none(),
                "it is there"
            );
            // What an object owns is collected by a controller manager.
            let collected = secrets.get_opt(&secret).await?.is_none();
            ensure!(
                collected || !region.cluster.has_nodes,
                "its configuration is there"
            );
            Ok(())
        })
        .await?;
        Ok(())
    })
    .await
}

fn greeting(secret: &Secret) -> anyhow::Result<String> {
    let data = secret.data.as_ref().context("a secret has data")?;
    let bytes = data
        .get("GREETING")
        .with_context(|| format!("{:?}", data.keys()))?;
    Ok(String::from_utf8(bytes.0.clone())?)
}

async fn drift_is_put_back(region: &Region, object: &str) -> anyhow::Result<()> {
    let before = region.functions().get(object).await?.spec;
    let by_hand = Patch::Merge(json!({"spec": {"memoryMb": 4000, "image": "localhost/other:v9"}}));
    region
        .functions()
        .patch(object, &PatchParams::default(), &by_hand)
        .await?;
    let (_, took) = eventually("what a person changed is put back", SOON, async || {
        let now = region.functions().get(object).await?.spec;
        ensure!(now == before, "{now:?}");
        Ok(())
    })
    .await?;
    println!("measured: a change by hand is put back after {took:.2?}");
    let events =
        Api::<k8s_openapi::api::core::v1::Event>::namespaced(region.client(), &region.namespace);
    eventually("an event says so", SOON, async || {
        let all = events.list(&ListParams::default()).await?;
        let about = all
            .items
            .iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(object));
        let said: Vec<_> = about.map(|event| (&event.reason, &event.message)).collect();
        ensure!(!said.is_empty(), "no event is about it");
        let helps = said.iter().any(|(_, message)| {
            message
                .as_ref()
                .is_some_and(|message| message.contains("memoryMb") || message.contains("API"))
        });
        ensure!(helps, "{said:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

async fn what_is_deleted_is_made_again(region: &Region, object: &str) -> anyhow::Result<()> {
    let before = region.functions().get(object).await?;
    region
        .functions()
        .delete(object, &DeleteParams::default())
        .await?;
    eventually("a deleted object is made again", SOON, async || {
        let now = region.functions().get(object).await?;
        ensure!(
            now.uid() != before.uid() && now.spec == before.spec,
            "{:?}",
            now.spec
        );
        Ok(())
    })
    .await?;
    Ok(())
}

/// Pods of a pool that stand.
async fn waiting(region: &Region, pool: &str) -> anyhow::Result<Vec<Pod>> {
    region.standing(&format!("{}={pool}", labels::POOL)).await
}

async fn pool_has(region: &Region, pool: &str, count: usize) -> anyhow::Result<Duration> {
    let what = format!("pool {pool} has {count} pods");
    let (_, took) = eventually(&what, SOON, async || {
        let pods = waiting(region, pool).await?.len();
        ensure!(pods == count, "{pods}");
        Ok(())
    })
    .await?;
    Ok(took)
}

fn native(size: i32) -> Value {
    json!({"runtime": "rust", "image": images::NATIVE, "size": size, "memoryMb": 64, "cpuMillis": 10})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_pool_are_made_replaced_and_taken_away() -> anyhow::Result<()> {
    scenario("pools", Needs::ApiServer, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        // Until one is heard nothing is too many.
        region.start_gateway().await?;
        region.pool("native", native(3)).await?;
        let took = pool_has(region, "native", 3).await?;
        println!("measured: a new pool has its three pods after {took:.2?}");

        let pods = waiting(region, "native").await?;
        for pod in &pods {
            let labels = pod.labels();
            ensure!(
                labels
                    .get(labels::MANAGED_BY)
                    .is_some_and(|by| by == labels::MANAGED_BY_VALUE),
                "{labels:?}"
            );
            ensure!(
                labels
                    .get(labels::KIND)
                    .is_some_and(|kind| kind == labels::KIND_POOL),
                "{labels:?}"
            );
            let owner = pod
                .owner_references()
                .first()
                .context("a pod has an owner")?;
            ensure!(
                owner.kind == "WarmPool" && owner.controller == Some(true),
                "{owner:?}"
            );
            let spec = pod.spec.as_ref().context("a pod has a spec")?;
            ensure!(spec.enable_service_links == Some(false), "service links");
            ensure!(
                spec.automount_service_account_token == Some(false),
                "service account token"
            );
            ensure!(
                spec.restart_policy.as_deref() == Some("Never"),
                "restart policy"
            );
        }
        let lost = pods.first().context("three pods")?.name_any();
        let now = DeleteParams::default().grace_period(0);
        region.pods().delete(&lost, &now).await?;
        eventually("a lost pod is replaced", SOON, async || {
            let pods = waiting(region, "native").await?;
            ensure!(
                pods.len() == 3 && pods.iter().all(|pod| pod.name_any() != lost),
                "{}",
                pods.len()
            );
            Ok(())
        })
        .await?;

        // What nobody changes is not written to: a settled region leaves the API server alone.
        let (_, took) = eventually("nothing is written", SOON, async || {
            let wrote = writes::during(&region.client(), STILL).await?;
            ensure!(wrote.is_empty(), "{wrote:?}");
            Ok(())
        })
        .await?;
        println!("measured: no write in {STILL:?}, {took:.2?} after the last change");

        region.pool("native", native(1)).await?;
        pool_has(region, "native", 1).await?;
        region
            .pools()
            .delete("native", &DeleteParams::default())
            .await?;
        // What an object owns is collected by a controller manager.
        if region.cluster.has_nodes {
            pool_has(region, "native", 0).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_operator_is_replaced_and_nothing_is_made_twice() -> anyhow::Result<()> {
    scenario("leader", Needs::ApiServer, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.lease_ttl = LONG_LEASE_TTL;
        region.start_operator(1, Rights::Granted).await?;
        region.pool("native", native(4)).await?;
        pool_has(region, "native", 4).await?;
        let before: Vec<_> = waiting(region, "native").await?.iter().map(Pod::name_any).collect();

        region.operator(0)?.kill()?;
        region.pool("native", native(6)).await?;
        let took = region.leads(1).await?;
        println!("measured: the second operator leads {took:.2?} after the first was killed (lease {LEASE_TTL:?})");
        pool_has(region, "native", 6).await?;
        let after: Vec<_> = waiting(region, "native").await?.iter().map(Pod::name_any).collect();
        ensure!(before.iter().all(|pod| after.contains(pod)), "{before:?} {after:?}");

        region.start_operator(0, Rights::Granted).await?;
        region.operator(1)?.stop().await?;
        let took = region.leads(0).await?;
        println!("measured: an operator that is stopped hands the lease over in {took:.2?}");
        // It was renewed when a third of it had passed, and is looked at as often.
        ensure!(took < LONG_LEASE_TTL / 2, "it ran out rather");
        pool_has(region, "native", 6).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_quota_refuses_is_said_and_made_when_there_is_room() -> anyhow::Result<()> {
    scenario("quota", Needs::ApiServer, async |region| {
        let hard = json!({"pods": "2"});
        let quotas = Api::<ResourceQuota>::namespaced(region.client(), &region.namespace);
        install::apply(&quotas, "small", json!({"spec": {"hard": hard}})).await?;
        // A controller manager counts; where none runs it is done here.
        let status = json!({"status": {"hard": hard, "used": {"pods": "0"}}});
        let merge = Patch::Merge(&status);
        quotas
            .patch_status("small", &PatchParams::default(), &merge)
            .await?;

        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.pool("native", native(3)).await?;
        let message = region
            .pool_says("native", "False", "QuotaExceeded", SOON)
            .await?;
        ensure!(
            message.contains("ResourceQuota") && message.contains("small"),
            "{message}"
        );
        region.event("native", "QuotaExceeded").await?;
        pool_has(region, "native", 2).await?;

        // The rest is served meanwhile.
        let functions = Functions::of(&region.federation)?;
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, json!({}))
            .await?;
        let object = cart.object()?;
        eventually("another function is taken", SOON, async || {
            Ok(region.functions().get(&object).await?)
        })
        .await?;

        quotas.delete("small", &DeleteParams::default()).await?;
        let (_, took) = eventually(
            "with room there are three",
            Duration::from_secs(90),
            async || {
                let pods = waiting(region, "native").await?.len();
                ensure!(pods == 3, "{pods}");
                Ok(())
            },
        )
        .await?;
        println!("measured: a pod that a quota had refused is made {took:.2?} after there is room");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_named_and_cured_without_a_restart() -> anyhow::Result<()> {
    scenario("rights", Needs::ApiServer, async |region| {
        // A lease and no more: it leads, and may do nothing.
        let roles =
            Api::<k8s_openapi::api::rbac::v1::Role>::namespaced(region.client(), &region.namespace);
        let granted = roles.get(install::OPERATOR).await?;
        let rules = granted.rules.clone().unwrap_or_default();
        let without_creating = rules.iter().cloned().map(|mut rule| {
            if rule
                .resources
                .as_ref()
                .is_some_and(|resources| resources.contains(&"pods".to_owned()))
            {
                rule.verbs.retain(|verb| verb != "create");
            }
            rule
        });
        let less = json!({"rules": without_creating.collect::<Vec<_>>()});
        install::apply(&roles, install::OPERATOR, less).await?;

        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.pool("native", native(1)).await?;
        let message = region
            .pool_says("native", "False", "Forbidden", SOON)
            .await?;
        ensure!(
            message.contains("create pods") && message.contains("Role"),
            "{message}"
        );

        let functions = Functions::of(&region.federation)?;
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, json!({}))
            .await?;
        let object = cart.object()?;
        eventually("functions are followed all the same", SOON, async || {
            Ok(region.functions().get(&object).await?)
        })
        .await?;

        install::apply(&roles, install::OPERATOR, json!({"rules": rules})).await?;
        let (_, took) = eventually(
            "with the right there is a pod",
            Duration::from_secs(90),
            async || {
                ensure!(waiting(region, "native").await?.len() == 1, "none");
                Ok(())
            },
        )
        .await?;
        println!("measured: a pod is made {took:.2?} after the right was given");

        // An account with no rights at all: the process stays, and says why it does nothing.
        region.start_operator(1, Rights::None).await?;
        let (said, _) = eventually("it says that it may not", SOON, async || {
            let log = region.operator(1)?.log();
            let line = log
                .lines()
                .find(|line| line.contains("leases") && line.contains("forbidden"));
            Ok(line.with_context(|| log.clone())?.to_owned())
        })
        .await?;
        println!("measured: an operator without rights says: {said}");
        region.operator(1)?.ensure_runs()?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_resource_definition_is_named_and_the_rest_is_served() -> anyhow::Result<()> {
    scenario("older", Needs::ApiServer, async |region| {
        let older = without_field(Function::crd(), "settings")?;
        install::definition(&region.client(), older).await?;
        let told = Ended::of(Box::pin(told_of_older(region))).await;
        told.after(install::definitions(&region.client()).await)
    })
    .await
}

async fn told_of_older(region: &mut Region) -> anyhow::Result<()> {
    region.start_operator(0, Rights::Granted).await?;
    region.leads(0).await?;
    eventually(
        "the operator names what the definition lacks",
        SOON,
        async || {
            let log = region.operator(0)?.log();
            ensure!(log.contains("settings") && log.contains("install"), "{log}");
            Ok(())
        },
    )
    .await?;
    let functions = Functions::of(&region.federation)?;
    let cart = functions
        .image("shop", "cart", images::FUNCTION_V1, json!({}))
        .await?;
    let object = cart.object()?;
    let status = format!("{}/v1/status", region.operator_url(0));
    eventually(
        "what stands in the function's way is shown",
        SOON,
        async || {
            let status: Value = reqwest::get(&status).await?.json().await?;
            let problems = status["problems"].as_array().context("problems")?;
            let found = problems.iter().any(|problem| {
                let message = problem["message"].as_str().unwrap_or_default();
                problem["function"] == object.as_str()
                    && problem["reason"] == "ResourceDefinitionOutdated"
                    && message.contains("install")
            });
            ensure!(found, "{problems:?}");
            Ok(())
        },
    )
    .await?;

    region.pool("native", native(2)).await?;
    pool_has(region, "native", 2).await?;
    region.operator(0)?.ensure_runs()?;

    install::definitions(&region.client()).await?;
    let (_, took) = eventually(
        "with the new one the function is whole",
        Duration::from_secs(120),
        async || {
            let function = region.functions().get(&object).await?;
            ensure!(function.spec.settings.len() == 16, "{:?}", function.spec);
            Ok(())
        },
    )
    .await?;
    println!(
        "measured: a function is whole {took:.2?} after the definition was brought up to date"
    );
    Ok(())
}

/// As an earlier version would have had it.
fn without_field(
    definition: CustomResourceDefinition,
    field: &str,
) -> anyhow::Result<CustomResourceDefinition> {
    let mut value = serde_json::to_value(definition)?;
    let spec = value
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .context("it describes a spec")?;
    spec["properties"]
        .as_object_mut()
        .context("it has fields")?
        .remove(field);
    spec["required"]
        .as_array_mut()
        .context("some are required")?
        .retain(|name| name != field);
    install::read(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_api_server_or_the_global_plane_away_nothing_is_deleted() -> anyhow::Result<()> {
    scenario("outage", Needs::OwnApiServer, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.start_gateway().await?;
        region.pool("native", native(4)).await?;
        pool_has(region, "native", 4).await?;
        let functions = Functions::of(&region.federation)?;
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, json!({}))
            .await?;
        let object = cart.object()?;
        eventually("the function has an object", SOON, async || {
            Ok(region.functions().get(&object).await?)
        })
        .await?;
        let before = uids(region).await?;

        region
            .cluster
            .servers
            .as_mut()
            .context("it is ours")?
            .kill_api();
        region.leads_no_more(0).await?;
        region.operator(0)?.ensure_runs()?;
        region
            .cluster
            .servers
            .as_mut()
            .context("it is ours")?
            .start_api()
            .await?;
        region.leads(0).await?;
        something_is_deleted(region).await?;
        let after = uids(region).await?;
        ensure!(before == after, "{before:?} {after:?}");
        region.pool("native", native(5)).await?;
        pool_has(region, "native", 5).await?;
        let before = uids(region).await?;

        for node in ["global-1", "global-2", "global-3"] {
            region.federation.kill(node).await?;
        }
        // Started again it has only its own copy of the metadata.
        region.operator(0)?.kill()?;
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        something_is_deleted(region).await?;
        let after = uids(region).await?;
        ensure!(before == after, "{before:?} {after:?}");
        // From that copy, since nobody else knows the function now.
        what_is_deleted_is_made_again(region, &object).await?;
        region.pool("native", native(6)).await?;
        pool_has(region, "native", 6).await?;
        Ok(())
    })
    .await
}

/// Of the pods of the pool that is to be left alone.
async fn uids(region: &Region) -> anyhow::Result<BTreeSet<Option<String>>> {
    let pods = waiting(region, "native").await?;
    Ok(pods.iter().map(Pod::uid).collect())
}

/// A new leader deletes nothing at first. Has it delete what is meant to go, so that whatever else it
/// would have deleted is gone as well.
async fn something_is_deleted(region: &Region) -> anyhow::Result<()> {
    region.pool("marker", native(1)).await?;
    pool_has(region, "marker", 1).await?;
    region.pool("marker", native(0)).await?;
    pool_has(region, "marker", 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_never_runs_is_named() -> anyhow::Result<()> {
    // Where a scheduler runs it has placed the pod before this can.
    scenario("never", Needs::OwnApiServer, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.pool("native", native(1)).await?;
        pool_has(region, "native", 1).await?;
        let pods = waiting(region, "native").await?;
        let name = pods.first().context("one pod")?.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
        });
        region
            .pods()
            .create_subresource::<Value, Value>("binding", &name, &PostParams::default(), &binding)
            .await
            .context("place the pod on a node that is not there")?;
        let message = region.pool_says("native", "False", "PodNeverReady", NEVER_READY_AFTER * 2);
        let message = message.await?;
        ensure!(message.contains("kubectl describe pod"), "{message}");
        region.event("native", "PodNeverReady").await?;
        Ok(())
    })
    .await
}
