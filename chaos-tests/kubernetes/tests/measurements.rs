//! What starts cost, and that calls cost the API server nothing. Prints; needs nodes that have the
//! images of `make images`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use chaos_tests_cluster::federation::binary;
use chaos_tests_kubernetes::load::{Load, answer, judge};
use chaos_tests_kubernetes::region::images;
use chaos_tests_kubernetes::{
    Functions, Needs, Region, Rights, install, process, scenario, writes,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use region_plane_resources::labels;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);
const STARTS: usize = 8;
/// More than may be made in a burst.
const BATCH: usize = 50;
/// At the operator's 20 a second; threefold.
const MADE_WITHIN: Duration = Duration::from_millis(7_200);
/// Calls go on for this long, so that what an operator does by the second would show.
const STEADY: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_writes_are_measured() -> anyhow::Result<()> {
    scenario("measure", Needs::Nodes, async |region| {
        region.start_operator(0, Rights::Granted).await?;
        region.leads(0).await?;
        region.start_gateway().await?;
        let bare = bare_pods(region).await?;
        let cold = new_pods(region).await?;
        let claimed = claims(region).await?;
        println!("measured: {STARTS} starts each, milliseconds: median (all)");
        print("a bare pod of one container until it runs", &bare);
        print("an image function's first byte from a new pod", &cold);
        print("a bundle's first byte from a pod that waits", &claimed);
        ensure!(
            median(&claimed) < median(&bare),
            "waiting pods save nothing"
        );
        steady(region).await?;
        batch(region).await
    })
    .await
}

fn median(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn print(what: &str, took: &[Duration]) {
    let mut sorted = took.to_vec();
    sorted.sort();
    let all: Vec<u128> = sorted.iter().map(Duration::as_millis).collect();
    println!("measured: {what}: {} {all:?}", median(took).as_millis());
}

/// From the request that makes it until its container runs and it has an address.
async fn bare_pods(region: &Region) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for number in 0..STARTS {
        let name = format!("bare-{number}");
        let pod: Pod = install::read(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never", "enableServiceLinks": false,
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "function", "image": images::FUNCTION_V1, "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "FN_LISTENER", "value": "unix:/tmp/lsnr.sock"},
                            {"name": "FN_FORMAT", "value": "http-stream"}],
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
            },
        }))?;
        let start = Instant::now();
        region.pods().create(&PostParams::default(), &pod).await?;
        eventually("a bare pod runs", PATIENCE, async || {
            let pod = region.pods().get(&name).await?;
            let status = pod.status.context("no status")?;
            ensure!(
                status.phase.as_deref() == Some("Running") && status.pod_ip.is_some(),
                "{status:?}"
            );
            Ok(())
        })
        .await?;
        took.push(start.elapsed());
        region
            .pods()
            .delete(&name, &DeleteParams::default())
            .await?;
    }
    Ok(took)
}

async fn new_pods(region: &Region) -> anyhow::Result<Vec<Duration>> {
    let functions = Functions::of(&region.federation)?;
    let fields = json!({"memory": 64, "idle_timeout": 1});
    let cart = functions
        .image("bench", "cart", images::FUNCTION_V1, fields)
        .await?;
    let url = format!("{}{}", region.url()?, cart.path());
    let http = reqwest::Client::new();
    eventually("it answers", PATIENCE, async || {
        answer(&http, &url, &json!({})).await
    })
    .await?;
    let selector = format!("{}={}", labels::FUNCTION, cart.object()?);
    let mut took = Vec::new();
    for _ in 0..STARTS {
        none(region, &selector).await?;
        let start = Instant::now();
        answer(&http, &url, &json!({})).await?;
        took.push(start.elapsed());
    }
    functions.delete(&cart).await?;
    Ok(took)
}

async fn none(region: &Region, selector: &str) -> anyhow::Result<()> {
    eventually("none of its pods is left", PATIENCE, async || {
        let pods = region
            .pods()
            .list(&ListParams::default().labels(selector))
            .await?;
        ensure!(pods.items.is_empty(), "{}", pods.items.len());
        Ok(())
    })
    .await?;
    Ok(())
}

fn native(size: usize) -> Value {
    json!({"spec": {"runtime": "executable", "image": images::NATIVE, "size": size, "memoryMb": 64, "cpuMillis": 1}})
}

/// Pods of the pool that run and that nobody took.
async fn waiting(region: &Region) -> anyhow::Result<Vec<Pod>> {
    let mut pods = region.standing(&format!("{}=native", labels::POOL)).await?;
    pods.retain(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running") && !pod.labels().contains_key(labels::FUNCTION)
    });
    Ok(pods)
}

async fn claims(region: &Region) -> anyhow::Result<Vec<Duration>> {
    install::apply(&region.pools(), "native", native(2)).await?;
    let folder = region.dir().join("hello");
    std::fs::create_dir_all(&folder).context("make the function's folder")?;
    std::fs::copy(binary("hello-rust")?, folder.join("hello-rust")).context("copy the example")?;
    std::fs::write(folder.join("func.yaml"), HELLO).context("write func.yaml")?;
    let functions = Functions::of(&region.federation)?;
    let hello = functions.deploy("bench", "hello", &folder).await?;
    let url = format!("{}{}", region.url()?, hello.path());
    let http = reqwest::Client::new();
    eventually("it answers", PATIENCE, async || {
        answer(&http, &url, &json!({})).await
    })
    .await?;
    let selector = format!("{}={}", labels::FUNCTION, hello.object()?);
    let mut took = Vec::new();
    for _ in 0..STARTS {
        none(region, &selector).await?;
        eventually("two pods wait", PATIENCE, async || {
            let pods = waiting(region).await?.len();
            ensure!(pods == 2, "{pods}");
            Ok(())
        })
        .await?;
        let start = Instant::now();
        answer(&http, &url, &json!({})).await?;
        took.push(start.elapsed());
    }
    Ok(took)
}

const HELLO: &str = "\
schema_version: 20180708
name: hello
version: 0.0.1
runtime: executable
entrypoint: /function/hello-rust
memory: 64
idle_timeout: 1
triggers:
- name: hello
  type: http
  source: /hello
";

/// Calls of running instances must not reach the API server at all.
async fn steady(region: &Region) -> anyhow::Result<()> {
    let functions = Functions::of(&region.federation)?;
    let fields = json!({"memory": 64, "idle_timeout": 120});
    let cart = functions
        .image("bench", "steady", images::FUNCTION_V1, fields)
        .await?;
    let url = format!("{}{}", region.url()?, cart.path());
    let http = reqwest::Client::new();
    eventually("it answers", PATIENCE, async || {
        answer(&http, &url, &json!({})).await
    })
    .await?;
    let client = region.client();
    // Labels and conditions of the start are written, pods of earlier measurements go.
    eventually("the region is still", PATIENCE, async || {
        let wrote = writes::during(&client, Duration::from_secs(5)).await?;
        ensure!(wrote.is_empty(), "{wrote:?}");
        Ok(())
    })
    .await?;
    let before = writes::counted(&client).await?;
    let load = Load::start(&url, &json!({}), 1);
    load.go_on(STEADY).await?;
    let wrote = writes::between(&before, &writes::counted(&client).await?);
    let calls = load.finish().await?;
    judge("steady calls", &calls, 0)?;
    println!(
        "measured: {} calls in {STEADY:?} one after the other, {} writes to the API server",
        calls.len(),
        wrote.values().sum::<u64>()
    );
    ensure!(wrote.is_empty(), "calls wrote to the API server: {wrote:?}");
    let pods = region
        .standing(&format!("{}={}", labels::FUNCTION, cart.object()?))
        .await?;
    for pod in pods {
        if let Some(uid) = pod.uid()
            && let Ok(kb) = process::resident_kb(&uid, "tradewind-runner")
        {
            println!(
                "measured: a runner that served calls has {:.1} MiB resident",
                kb as f64 / 1024.0
            );
        }
    }
    functions.delete(&cart).await
}

/// How fast pods are made when many are wanted at once.
async fn batch(region: &Region) -> anyhow::Result<()> {
    let start = Instant::now();
    install::apply(&region.pools(), "native", native(BATCH)).await?;
    let (_, made) = eventually("all pods are made", PATIENCE, async || {
        let pods = region
            .standing(&format!("{}=native", labels::POOL))
            .await?
            .len();
        ensure!(pods >= BATCH, "{pods}");
        Ok(())
    })
    .await?;
    eventually("all pods run", PATIENCE * 2, async || {
        let pods = waiting(region).await?.len();
        ensure!(pods >= BATCH, "{pods}");
        Ok(())
    })
    .await?;
    let more = BATCH - 2;
    println!(
        "measured: {more} more pods were made in {made:.2?} ({:.1}/s) and ran after {:.2?} ({:.1}/s)",
        more as f64 / made.as_secs_f64(),
        start.elapsed(),
        more as f64 / start.elapsed().as_secs_f64()
    );
    ensure!(made < MADE_WITHIN, "{more} pods were made in {made:?}");
    Ok(())
}
