//! Functions in pods: called from zero, upgraded, killed under load. Needs nodes that have the images
//! of `make images`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use chaos_tests_cluster::federation::binary;
use chaos_tests_kubernetes::functions::Made;
use chaos_tests_kubernetes::load::{Call, CallOutcome, Load, answer, call, judge, one_at_a_time};
use chaos_tests_kubernetes::region::{SETTLE_FOR, SURPLUS_AFTER, images};
use chaos_tests_kubernetes::{Functions, Needs, Region, Rights, process, scenario, skip};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use region_plane_resources::{RUNNER_PORT, labels};
use serde_json::{Value, json};

/// A pod is made, placed, started and called on two busy cores.
const POD_PATIENCE: Duration = Duration::from_secs(60);

/// Idle for its timeout, given back, deleted with its grace period.
const ZERO_PATIENCE: Duration = Duration::from_secs(60);

const CLIENTS: usize = 4;

/// What a call takes inside its pod, where it matters.
const WORK: Duration = Duration::from_millis(50);

async fn start(region: &mut Region) -> anyhow::Result<()> {
    region.start_operator(0, Rights::Granted).await?;
    region.leads(0).await?;
    region.start_gateway().await
}

/// Waits until the gateway knows a function and answers a call of it.
async fn first_answer(url: &str, body: &Value) -> anyhow::Result<(Value, Duration)> {
    let http = reqwest::Client::new();
    eventually("the function answers", POD_PATIENCE, async || {
        answer(&http, url, body).await
    })
    .await
}

/// Waits until no pod of the function is left; its pods are gone, not going.
async fn at_zero(region: &Region, object: &str) -> anyhow::Result<Duration> {
    let (_, took) = eventually("no pod of it is left", ZERO_PATIENCE, async || {
        let selector = format!("{}={object}", labels::FUNCTION);
        let pods = region
            .pods()
            .list(&kube::api::ListParams::default().labels(&selector))
            .await?;
        ensure!(pods.items.is_empty(), "{}", pods.items.len());
        Ok(())
    })
    .await?;
    Ok(took)
}

/// The pods that run calls of a function.
async fn running(region: &Region, function: &Made) -> anyhow::Result<Vec<Pod>> {
    let selector = format!("{}={}", labels::FUNCTION, function.object()?);
    let mut pods = region.standing(&selector).await?;
    pods.retain(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    });
    Ok(pods)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_called_from_zero_goes_back_to_zero_and_is_upgraded_without_a_failed_call()
-> anyhow::Result<()> {
    scenario("image", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 2, "config": {"GREETING": "hello"}});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let url = format!("{}{}", region.url()?, cart.path());
        let (said, took) = first_answer(&url, &json!({"n": 1})).await?;
        println!("measured: an image function answers {took:.2?} after it was made: {said}");
        ensure!(
            said["version"] == "v1" && said["greeting"] == "hello",
            "{said}"
        );
        ensure!(said["body"]["n"] == 1, "{said}");

        let took = at_zero(region, &cart.object()?).await?;
        println!("measured: back at zero {took:.2?} after a call, with an idle timeout of 2 s");
        let http = reqwest::Client::new();
        let before = Instant::now();
        let again = answer(&http, &url, &json!({})).await?;
        println!("measured: from zero again in {:.2?}", before.elapsed());
        ensure!(
            again["pod"] != said["pod"],
            "the pod that was gone answered: {again}"
        );

        functions.update(&cart, json!({"idle_timeout": 30})).await?;
        let load = Load::start(&url, &json!({"sleep_ms": 20}), CLIENTS);
        load.more_calls(100).await?;
        functions
            .update(&cart, json!({"image": images::FUNCTION_V2}))
            .await?;
        eventually("the new version answers", POD_PATIENCE, async || {
            let said = answer(&http, &url, &json!({})).await?;
            ensure!(said["version"] == "v2", "{said}");
            Ok(())
        })
        .await?;
        load.more_calls(200).await?;
        let replaced = Instant::now();
        load.more_calls(200).await?;
        let calls = load.finish().await?;
        judge("upgrade from v1 to v2", &calls, 0)?;
        let old = |call: &&Call| {
            call.started > replaced && call.answer().is_some_and(|said| said["version"] == "v1")
        };
        let old = calls.iter().filter(old).count();
        ensure!(old == 0, "the old version still answers: {old} calls");

        // Every pod is taken: those of the new memory replace them.
        let load = Load::start(&url, &json!({"sleep_ms": 20}), CLIENTS);
        load.more_calls(100).await?;
        functions.update(&cart, json!({"memory": 96})).await?;
        eventually("every pod has the new memory", POD_PATIENCE, async || {
            let pods = running(region, &cart).await?;
            let memory: Vec<_> = pods
                .iter()
                .map(|pod| pod.labels().get(labels::MEMORY_MB))
                .collect();
            ensure!(
                !memory.is_empty() && memory.iter().all(|mb| mb.is_some_and(|mb| mb == "96")),
                "{memory:?}"
            );
            Ok(())
        })
        .await?;
        load.more_calls(100).await?;
        judge("more memory", &load.finish().await?, 0)
    })
    .await
}

/// What the kubelet gives the function's container, once it is what its label says.
async fn resized(region: &Region, selector: &str, uid: &str, mb: u32) -> anyhow::Result<Duration> {
    let what = format!("the pod has {mb} MB");
    let (_, took) = eventually(&what, POD_PATIENCE, async || {
        let pods = region.standing(selector).await?;
        let uids: Vec<_> = pods.iter().map(Pod::uid).collect();
        ensure!(uids == [Some(uid.to_owned())], "another pod: {uids:?}");
        let pod = pods.first().context("one pod")?;
        let label = pod.labels().get(labels::MEMORY_MB);
        let status = pod.status.as_ref().context("it has a status")?;
        let containers = status.container_statuses.iter().flatten();
        let function = containers
            .into_iter()
            .find(|container| container.name == labels::FUNCTION_CONTAINER)
            .context("it has a function")?;
        let limits = function
            .resources
            .as_ref()
            .and_then(|all| all.limits.as_ref());
        let memory = limits.and_then(|limits| limits.get("memory"));
        ensure!(
            label == Some(&mb.to_string())
                && memory.is_some_and(|memory| memory.0 == format!("{mb}Mi"))
                && function.restart_count == 0,
            "{label:?} {:?} {:?}",
            function.resources,
            status.conditions
        );
        Ok(())
    })
    .await?;
    Ok(took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_nobody_has_are_resized_where_they_are() -> anyhow::Result<()> {
    scenario("resize", Needs::Nodes, async |region| {
        start(region).await?;
        region
            .pool("native", pool("executable", images::NATIVE, 1, 64))
            .await?;
        let functions = Functions::of(&region.federation)?;
        let scaling = json!({"tradewind.dev/scaling": {"min": 1, "max": 1}});
        let fields = json!({"memory": 64, "annotations": scaling});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let of_function = format!("{}={}", labels::FUNCTION, cart.object()?);
        let of_pool = format!("{}=native", labels::POOL);
        let mut uids = Vec::new();
        for selector in [&of_function, &of_pool] {
            let (uid, _) = eventually("a pod runs", POD_PATIENCE, async || {
                let pods = region.standing(selector).await?;
                let pod = pods.first().context("none")?;
                let phase = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref());
                ensure!(phase == Some("Running"), "{phase:?}");
                pod.uid().context("a pod has a uid")
            })
            .await?;
            uids.push(uid);
        }
        functions.update(&cart, json!({"memory": 96})).await?;
        let took = resized(region, &of_function, &uids[0], 96).await?;
        println!("measured: a function's idle pod is resized in {took:.2?}");
        region
            .pool("native", pool("executable", images::NATIVE, 1, 96))
            .await?;
        let took = resized(region, &of_pool, &uids[1], 96).await?;
        println!("measured: a pool's waiting pod is resized in {took:.2?}");
        let url = format!("{}{}", region.url()?, cart.path());
        first_answer(&url, &json!({})).await?;
        Ok(())
    })
    .await
}

/// The Rust example, as the demonstration deploys it.
fn rust_bundle(region: &Region) -> anyhow::Result<PathBuf> {
    let folder = region.dir().join("hello");
    std::fs::create_dir_all(&folder).context("make the function's folder")?;
    std::fs::copy(binary("hello-rust")?, folder.join("hello-rust")).context("copy the example")?;
    let description = "\
schema_version: 20180708
name: hello
version: 0.0.1
runtime: executable
entrypoint: /function/hello-rust
memory: 64
idle_timeout: 2
triggers:
- name: hello
  type: http
  source: /hello
";
    std::fs::write(folder.join("func.yaml"), description).context("write func.yaml")?;
    Ok(folder)
}

fn pool(runtime: &str, image: &str, size: usize, memory_mb: u32) -> Value {
    json!({"runtime": runtime, "image": image, "size": size, "memoryMb": memory_mb, "cpuMillis": 10})
}

/// Waits until a pool has that many pods that run and that nobody took.
async fn full(region: &Region, pool: &str, size: usize) -> anyhow::Result<Duration> {
    let what = format!("{size} pods of pool {pool} wait");
    let (_, took) = eventually(&what, POD_PATIENCE, async || {
        let pods = region.standing(&format!("{}={pool}", labels::POOL)).await?;
        let wait = pods.iter().filter(|pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Running") && !pod.labels().contains_key(labels::FUNCTION)
        });
        let wait = wait.count();
        ensure!(wait == size, "{wait} of {}", pods.len());
        Ok(())
    })
    .await?;
    Ok(took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_run_in_pods_that_wait_for_them() -> anyhow::Result<()> {
    scenario("bundle", Needs::Nodes, async |region| {
        start(region).await?;
        region
            .pool("native", pool("executable", images::NATIVE, 2, 64))
            .await?;
        region
            .pool("python", pool("python", images::PYTHON, 1, 256))
            .await?;
        full(region, "native", 2).await?;
        full(region, "python", 1).await?;
        region
            .pool_says("native", "True", "Serving", POD_PATIENCE)
            .await?;

        let functions = Functions::of(&region.federation)?;
        let hello = functions
            .deploy("shop", "hello", &rust_bundle(region)?)
            .await?;
        let url = format!("{}{}", region.url()?, hello.path());
        let (said, took) = first_answer(&url, &json!({"name": "Ada"})).await?;
        println!("measured: a Rust bundle answers {took:.2?} after it was deployed: {said}");
        ensure!(said.to_string().contains("Ada"), "{said}");
        // The pod that it took is replaced, and says what it runs.
        full(region, "native", 2).await?;
        eventually("the pod is labelled", POD_PATIENCE, async || {
            ensure!(running(region, &hello).await?.len() == 1, "none is");
            Ok(())
        })
        .await?;

        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python");
        let python = functions.deploy("shop", "hello-python", &example).await?;
        let url = format!("{}{}", region.url()?, python.path());
        let (said, took) = first_answer(&url, &json!({"name": "Grace"})).await?;
        println!("measured: a Python bundle answers {took:.2?} after it was deployed: {said}");
        ensure!(said.to_string().contains("Grace"), "{said}");

        at_zero(region, &hello.object()?).await?;
        let http = reqwest::Client::new();
        let url = format!("{}{}", region.url()?, hello.path());
        let before = Instant::now();
        answer(&http, &url, &json!({"name": "Ada"})).await?;
        println!(
            "measured: the Rust bundle from zero again in {:.2?}",
            before.elapsed()
        );
        Ok(())
    })
    .await
}

/// What is done to a region under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    DeletePod,
    DeletePodAtOnce,
    KillFunction,
    KillRunner,
    KillOperator,
}

/// Each with how many of the calls under way may fail for it.
const BLOWS: [(Blow, usize); 5] = [
    (Blow::DeletePod, 1),
    (Blow::DeletePodAtOnce, 1),
    (Blow::KillFunction, 1),
    (Blow::KillRunner, 1),
    (Blow::KillOperator, 0),
];

/// Strikes under load, and judges what became of the calls each time.
async fn strike_all(
    region: &mut Region,
    function: &Made,
    program: &str,
    body: &Value,
    calls: usize,
) -> anyhow::Result<()> {
    let url = format!("{}{}", region.url()?, function.path());
    first_answer(&url, body).await?;
    for (blow, may_fail) in BLOWS {
        let load = Load::start(&url, body, CLIENTS);
        load.more_calls(calls / 4).await?;
        let struck = strike(region, function, program, blow).await?;
        if blow == Blow::KillOperator {
            // The next may delete nothing before, and whatever it would is due by then.
            load.go_on(SETTLE_FOR + SURPLUS_AFTER + SETTLE_FOR).await?;
        }
        load.more_calls(calls).await?;
        let made = load.finish().await?;
        if struck {
            judge(&format!("{} {blow:?}", function.name), &made, may_fail)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_killed_under_load_loses_at_most_what_it_was_doing() -> anyhow::Result<()> {
    scenario("kills", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        strike_all(
            region,
            &cart,
            "test-function",
            &json!({"sleep_ms": 50}),
            200,
        )
        .await?;

        region
            .pool("native", pool("executable", images::NATIVE, 3, 64))
            .await?;
        let folder = rust_bundle(region)?;
        let hello = Functions::of(&region.federation)?
            .deploy("shop", "hello", &folder)
            .await?;
        strike_all(region, &hello, "hello-rust", &json!({"name": "Ada"}), 2_000).await
    })
    .await
}

/// Whether it could be done here.
async fn strike(
    region: &mut Region,
    function: &Made,
    program: &str,
    blow: Blow,
) -> anyhow::Result<bool> {
    let (pods, _) = eventually("a pod runs calls", POD_PATIENCE, async || {
        let pods = running(region, function).await?;
        ensure!(!pods.is_empty(), "none does");
        Ok(pods)
    })
    .await?;
    let pod = pods.first().context("one runs")?;
    let (name, uid) = (pod.name_any(), pod.uid().context("a pod has a uid")?);
    let inside = matches!(blow, Blow::KillFunction | Blow::KillRunner);
    if inside && !process::visible(&uid, program) {
        skip(&format!("kills/{blow:?}"), "pods run on another machine");
        return Ok(false);
    }
    match blow {
        Blow::DeletePod => {
            region
                .pods()
                .delete(&name, &DeleteParams::default())
                .await?;
        }
        Blow::DeletePodAtOnce => {
            let now = DeleteParams::default().grace_period(0);
            region.pods().delete(&name, &now).await?;
        }
        Blow::KillFunction => {
            process::kill(&uid, program)?;
        }
        Blow::KillRunner => {
            process::kill(&uid, "tradewind-runner")?;
        }
        Blow::KillOperator => {
            region.operator(0)?.kill()?;
            region.start_operator(0, Rights::Granted).await?;
            region.leads(0).await?;
        }
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_started_again_takes_over_the_pods_there_are() -> anyhow::Result<()> {
    scenario("gateway", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let url = format!("{}{}", region.url()?, cart.path());
        let (before, _) = first_answer(&url, &json!({})).await?;
        // Three times, since each start is another boot.
        for boot in 2..=4 {
            region.gateway()?.kill()?;
            region.start_gateway().await?;
            let called = Instant::now();
            let after = answer(&reqwest::Client::new(), &url, &json!({})).await?;
            let took = called.elapsed();
            println!("measured: boot {boot} of a gateway that was killed answers in {took:.2?}");
            ensure!(
                before["pod"] == after["pod"],
                "{before} before, {after} then"
            );
        }
        let pods = running(region, &cart).await?.len();
        ensure!(pods == 1, "{pods} pods for one call at a time");
        Ok(())
    })
    .await
}

/// Answers with its pod's name after 50 ms; calls that come at once it would run at once.
fn slow_bundle(region: &Region) -> anyhow::Result<PathBuf> {
    let folder = region.dir().join("slow");
    std::fs::create_dir_all(&folder).context("make the function's folder")?;
    let program = "\
import asyncio, json, os
from fdk import response


async def handler(ctx, data=None):
    await asyncio.sleep(0.05)
    said = json.dumps({'pod': os.uname().nodename})
    return response.Response(ctx, response_data=said)
";
    let description = "\
schema_version: 20180708
name: slow
version: 0.0.1
runtime: python
entrypoint: /python/bin/fdk /function/func.py handler
memory: 128
idle_timeout: 60
triggers:
- name: slow
  type: http
  source: /slow
";
    for (name, text) in [
        ("func.py", program),
        ("func.yaml", description),
        ("requirements.txt", "fdk\n"),
    ] {
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(folder)
}

/// The names of the pods that run calls of a function.
async fn names(region: &Region, function: &Made) -> anyhow::Result<BTreeSet<String>> {
    let pods = running(region, function).await?;
    Ok(pods.iter().map(|pod| pod.name_any()).collect())
}

/// Waits until a function has as many pods as clients call it.
async fn grown(
    region: &Region,
    function: &Made,
    clients: usize,
) -> anyhow::Result<BTreeSet<String>> {
    let what = format!("{} has a pod for each client", function.name);
    let (pods, _) = eventually(&what, POD_PATIENCE, async || {
        let pods = names(region, function).await?;
        // A start that is tried again makes one more.
        ensure!(pods.len() >= clients, "{pods:?}");
        Ok(pods)
    })
    .await?;
    Ok(pods)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_under_load_goes_on_with_the_pods_there_are() -> anyhow::Result<()> {
    scenario("killed", Needs::Nodes, async |region| {
        start(region).await?;
        region
            .pool("python", pool("python", images::PYTHON, 1, 128))
            .await?;
        full(region, "python", 1).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let slow = functions
            .deploy("shop", "slow", &slow_bundle(region)?)
            .await?;
        let (base, body) = (region.url()?, json!({"sleep_ms": WORK.as_millis()}));
        let clients = CLIENTS / 2;
        let mut under_load = Vec::new();
        for function in [cart, slow] {
            let url = format!("{base}{}", function.path());
            first_answer(&url, &body).await?;
            let load = Load::start(&url, &body, clients);
            let pods = grown(region, &function, clients).await?;
            under_load.push((function, load, pods));
        }
        for (_, load, _) in &under_load {
            load.more_calls(50).await?;
        }
        let killed = Instant::now();
        region.gateway()?.kill()?;
        region.start_gateway().await?;
        let ready = Instant::now();
        println!("measured: a gateway is ready {:.2?} after it was killed", ready - killed);
        let mut after = Vec::new();
        for (function, load, pods) in under_load {
            load.more_calls(200).await?;
            let calls = load.finish().await?;
            for call in calls.iter().filter(|call| call.answer().is_none()) {
                ensure!(
                    matches!(call.outcome, CallOutcome::Unreached(_) | CallOutcome::Broken(_))
                        && (killed..ready).contains(&call.ended()),
                    "{}: {call:?}, killed {killed:?}, ready {ready:?}",
                    function.name
                );
            }
            let broken = calls
                .iter()
                .filter(|call| matches!(call.outcome, CallOutcome::Broken(_)))
                .count();
            ensure!(broken <= clients, "{}: {broken} calls broke", function.name);
            one_at_a_time(&calls, WORK)?;
            let later: Vec<_> = calls.iter().filter(|call| call.started > ready).collect();
            let used: BTreeSet<_> = later.iter().filter_map(|call| call.pod()).collect();
            let others = used.iter().filter(|name| !pods.contains(**name)).count();
            let slowest = later.iter().map(|call| call.took).max().unwrap_or_default();
            println!(
                "measured: {}: {broken} calls broke, {} answered after it by {} of {} pods and {others} others, \
                 slowest {slowest:.2?}",
                function.name,
                later.len(),
                used.len() - others,
                pods.len()
            );
            after.push((function, pods));
        }
        for (function, before) in &after {
            let what = format!("no other pods of {} are left", function.name);
            eventually(&what, ZERO_PATIENCE, async || {
                let pods = names(region, function).await?;
                ensure!(pods.is_subset(before), "{before:?} before, {pods:?} now");
                Ok(())
            })
            .await?;
        }
        full(region, "python", 1).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_replaced_under_load_without_a_failed_call() -> anyhow::Result<()> {
    scenario("replaced", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let body = json!({"sleep_ms": WORK.as_millis()});
        let urls =
            [region.url()?, region.second_url()].map(|base| format!("{base}{}", cart.path()));
        first_answer(&urls[0], &body).await?;
        let load = Load::start_at(&urls, &body, CLIENTS);
        let before = grown(region, &cart, CLIENTS).await?;
        region.start_second_gateway().await?;
        load.more_calls(100).await?;
        let told = Instant::now();
        region.gateway()?.stop().await?;
        println!(
            "measured: a gateway that is replaced ends {:.2?} after it was told",
            told.elapsed()
        );
        load.more_calls(400).await?;
        let calls = load.finish().await?;
        judge("a gateway is replaced", &calls, 0)?;
        one_at_a_time(&calls, WORK)?;
        let now = names(region, &cart).await?;
        println!(
            "measured: of {} pods the next gateway has {}, and {} were made for it",
            before.len(),
            now.intersection(&before).count(),
            now.difference(&before).count()
        );
        let used: BTreeSet<_> = calls.iter().filter_map(Call::pod).collect();
        ensure!(
            before.iter().any(|pod| used.contains(pod.as_str())),
            "{used:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_call_one_function_and_each_pod_runs_one_call_at_a_time() -> anyhow::Result<()>
{
    scenario("two", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let body = json!({"sleep_ms": WORK.as_millis()});
        let urls =
            [region.url()?, region.second_url()].map(|base| format!("{base}{}", cart.path()));
        first_answer(&urls[0], &body).await?;
        region.start_second_gateway().await?;
        first_answer(&urls[1], &body).await?;
        let loads = urls.map(|url| Load::start(&url, &body, CLIENTS / 2));
        let mut calls = Vec::new();
        for load in &loads {
            load.more_calls(200).await?;
        }
        for load in loads {
            calls.extend(load.finish().await?);
        }
        judge("two gateways of one function", &calls, 0)?;
        let pods = one_at_a_time(&calls, WORK)?;
        println!("measured: two gateways with {CLIENTS} clients used {pods} pods");
        ensure!((2..=CLIENTS + 1).contains(&pods), "{pods}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_images_are_named_while_the_rest_is_served() -> anyhow::Result<()> {
    scenario("bad", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let small = |config: Value| json!({"memory": 64, "idle_timeout": 60, "timeout": 10, "config": config});
        let cart = functions.image("shop", "cart", images::FUNCTION_V1, small(json!({}))).await?;
        let missing = functions.image("shop", "missing", images::MISSING, small(json!({}))).await?;
        // It would wait for a debugger for ever.
        let options = json!({"NODE_OPTIONS": "--inspect-brk"});
        let silent = functions.image("shop", "silent", images::NODE, small(options)).await?;
        let exits = functions.image("shop", "exits", images::PYTHON, small(json!({}))).await?;
        let base = region.url()?;
        let good = format!("{base}{}", cart.path());
        first_answer(&good, &json!({})).await?;

        let http = reqwest::Client::new();
        let load = Load::start(&good, &json!({"sleep_ms": 20}), 1);
        for (function, reasons, says) in [
            (&missing, &["ImagePullFailed"][..], images::MISSING),
            (&exits, &["StartFailed", "FunctionExited"], "exit"),
            (&silent, &["StartFailed"], "socket"),
        ] {
            let url = format!("{base}{}", function.path());
            let call = call(&http, &url, &json!({})).await;
            println!("measured: {} is answered after {:.2?}: {:?}", function.name, call.took, call.outcome);
            let (CallOutcome::Failed(_, body) | CallOutcome::Refused(body)) = &call.outcome else {
                anyhow::bail!("{}: {:?}", function.name, call.outcome);
            };
            let body: Value = serde_json::from_str(body).context("an error is JSON")?;
            ensure!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
            let object = function.object()?;
            let said = region.function_says_one_of(&object, "False", reasons, POD_PATIENCE).await?;
            ensure!(said.message.contains(says), "{said:?}");
            region.event(&object, &said.reason).await?;
        }
        region.pool("huge", pool("executable", images::NATIVE, 1, 1_000_000)).await?;
        region.pool_says("huge", "False", "PodUnschedulable", POD_PATIENCE).await?;
        region.event("huge", "PodUnschedulable").await?;
        region.pool("absent", pool("other", images::MISSING, 1, 64)).await?;
        region.pool_says("absent", "False", "ImagePullFailed", POD_PATIENCE).await?;
        let calls = load.finish().await?;
        judge("a good function beside three bad ones and two bad pools", &calls, 0)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_takes_too_much_memory_is_ended_and_named() -> anyhow::Result<()> {
    scenario("memory", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let fields = json!({"memory": 64, "idle_timeout": 60, "timeout": 20});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let url = format!("{}{}", region.url()?, cart.path());
        first_answer(&url, &json!({})).await?;
        let http = reqwest::Client::new();
        let call = call(&http, &url, &json!({"allocate_mb": 200})).await;
        println!(
            "measured: a call that takes too much memory: {:.2?} {:?}",
            call.took, call.outcome
        );
        ensure!(
            matches!(call.outcome, CallOutcome::Failed(502, _)),
            "{:?}",
            call.outcome
        );
        let (_, took) = first_answer(&url, &json!({})).await?;
        println!("measured: the next call is answered after {took:.2?}");
        region.event(&cart.object()?, "OutOfMemory").await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_pods_run_as_a_function_may_have() -> anyhow::Result<()> {
    scenario("scaling", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let scaling = json!({"tradewind.dev/scaling": {"min": 1, "max": 2}});
        let fields = json!({"memory": 64, "idle_timeout": 2, "annotations": scaling});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        eventually(
            "a pod runs that nobody asked for",
            POD_PATIENCE,
            async || {
                ensure!(running(region, &cart).await?.len() == 1, "none");
                Ok(())
            },
        )
        .await?;
        let url = format!("{}{}", region.url()?, cart.path());
        let (_, took) = first_answer(&url, &json!({})).await?;
        println!("measured: a pod that is kept hot answers its first call in {took:.2?}");

        let load = Load::start(&url, &json!({"sleep_ms": 20}), CLIENTS);
        load.more_calls(200).await?;
        let pods = running(region, &cart).await?.len();
        ensure!((1..=2).contains(&pods), "{pods} pods");
        judge("four clients of at most two pods", &load.finish().await?, 0)?;

        eventually("one is kept", ZERO_PATIENCE, async || {
            let selector = format!("{}={}", labels::FUNCTION, cart.object()?);
            let pods = region.standing(&selector).await?.len();
            ensure!(pods == 1, "{pods}");
            Ok(())
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_knows_which_one_it_is_and_refuses_what_is_for_another() -> anyhow::Result<()> {
    scenario("identity", Needs::Nodes, async |region| {
        start(region).await?;
        let functions = Functions::of(&region.federation)?;
        let scaling = json!({"tradewind.dev/scaling": {"min": 1, "max": 1}});
        let fields = json!({"memory": 64, "annotations": scaling});
        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, fields)
            .await?;
        let http = reqwest::Client::new();
        let claim = json!({
            "pod": "4f5f1c9e-0000-0000-0000-000000000000",
            "claim": "1", "gateway": "of a pod that was here before",
            "function": "fn-other", "settings": "0", "launch": null,
        });
        // Nobody has it, so that any claim that is for it would be taken.
        let refused = eventually("its runner answers", POD_PATIENCE, async || {
            let pods = running(region, &cart).await?;
            let status = pods.first().and_then(|pod| pod.status.as_ref());
            let ip = status.and_then(|status| status.pod_ip.as_deref());
            let ip = ip.context("no pod runs")?;
            let url = format!("http://{ip}:{RUNNER_PORT}/v1/claim");
            let answer = http.post(url).json(&claim).send().await?;
            Ok((answer.status(), answer.json::<Value>().await?))
        });
        let ((status, conflict), _) = refused.await?;
        ensure!(status == 409, "{status} {conflict}");
        ensure!(conflict["reason"] == "other_pod", "{conflict}");
        let url = format!("{}{}", region.url()?, cart.path());
        first_answer(&url, &json!({})).await?;
        Ok(())
    })
    .await
}
