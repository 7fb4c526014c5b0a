//! What is no function or no pool is refused by the API server itself, with words that help.

use anyhow::{Context as _, ensure};
use chaos_tests_kubernetes::{Needs, cluster_for, in_namespace, install};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use region_plane_resources::{Function, WarmPool};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_invalid_is_refused_with_words_that_help() -> anyhow::Result<()> {
    let Some(cluster) = cluster_for("definitions", Needs::ApiServer).await? else {
        return Ok(());
    };
    in_namespace(&cluster, "definitions", async |namespace| {
        let client = &cluster.client;
        refused(
            &Api::namespaced(client.clone(), namespace),
            &Api::namespaced(client.clone(), namespace),
        )
        .await
    })
    .await
}

async fn refused(functions: &Api<Function>, pools: &Api<WarmPool>) -> anyhow::Result<()> {
    let sound = json!({
        "revision": 7, "appId": "A", "appName": "shop", "fnId": "F", "fnName": "cart",
        "image": "localhost/cart:v1", "memoryMb": 128, "timeoutSecs": 30, "idleTimeoutSecs": 30,
        "settings": "0123456789abcdef",
    });
    let with = |field: &str, value: Value| {
        let mut spec = sound.clone();
        spec[field] = value;
        spec
    };
    let make = async |spec: Value| -> anyhow::Result<Result<Function, kube::Error>> {
        let function = json!({
            "apiVersion": "tradewind.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "fn-cart"}, "spec": spec,
        });
        // The server's word is asked for, not that of our own types.
        let request = http::Request::post(format!("{}?dryRun=All", functions.resource_url()))
            .header("Content-Type", "application/json")
            .body(function.to_string().into_bytes())?;
        Ok(functions.clone().into_client().request(request).await)
    };

    let made = make(sound.clone())
        .await?
        .context("a sound function is taken")?;
    let scaling = made.spec.scaling;
    ensure!(
        scaling.min == 0 && scaling.max > 0,
        "defaults are filled in: {scaling:?}"
    );

    let digest = "ab".repeat(32);
    for (case, spec, says) in [
        (
            "no code",
            with("image", Value::Null),
            "exactly one of image and bundle",
        ),
        (
            "two codes",
            with("bundle", json!(digest)),
            "exactly one of image and bundle",
        ),
        (
            "memory of nothing",
            with("memoryMb", json!(0)),
            "spec.memoryMb",
        ),
        (
            "memory in words",
            with("memoryMb", json!("much")),
            "spec.memoryMb",
        ),
        ("no time", with("timeoutSecs", json!(0)), "spec.timeoutSecs"),
        (
            "odd settings",
            with("settings", json!("0123456789ABCDEF")),
            "16 lower-case hexadecimal",
        ),
        (
            "min over max",
            with("scaling", json!({"min": 3, "max": 2})),
            "min must not exceed max",
        ),
        ("no name", with("fnName", json!("")), "spec.fnName"),
        ("nothing at all", json!({}), "Required value"),
    ] {
        let error = make(spec).await?.err();
        check(case, error, says)?;
    }
    let mut bundle = with("bundle", json!("xyz".repeat(21) + "x"));
    bundle["image"] = Value::Null;
    check("no digest", make(bundle).await?.err(), "SHA-256")?;

    let pool = |runtime: &str, size: i32| -> anyhow::Result<WarmPool> {
        install::read(json!({
            "apiVersion": "tradewind.dev/v1alpha1", "kind": "WarmPool",
            "metadata": {"name": "python"},
            "spec": {"runtime": runtime, "image": "localhost/python:v1", "size": size, "memoryMb": 128},
        }))
    };
    for (case, pool, says) in [
        (
            "no label value",
            pool("Python 3", 1)?,
            "lower-case letters, digits",
        ),
        ("fewer than none", pool("python", -1)?, "spec.size"),
    ] {
        let error = pools.create(&PostParams::default(), &pool).await.err();
        check(case, error, says)?;
    }
    pools
        .create(&PostParams::default(), &pool("python", 0)?)
        .await?;
    pools.delete("python", &DeleteParams::default()).await?;
    Ok(())
}

fn check(case: &str, error: Option<kube::Error>, says: &str) -> anyhow::Result<()> {
    match error {
        Some(kube::Error::Api(status)) => {
            ensure!(
                status.code == 422,
                "{case}: {} {}",
                status.code,
                status.message
            );
            ensure!(status.message.contains(says), "{case}: {}", status.message);
            Ok(())
        }
        Some(other) => Err(other).with_context(|| case.to_owned()),
        None => anyhow::bail!("{case}: it was taken"),
    }
}
