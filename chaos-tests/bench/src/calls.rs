//! Calls through the gateway against the same program called directly.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use chaos_tests_cluster::federation::{RegionProcess, binary};
use chaos_tests_cluster::{Federation, eventually};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::function::{self, ByHand, Program};
use crate::spread::Spread;

const CALLS_PER_CONNECTION: usize = 2_000;
const COLD_STARTS: usize = 10;

/// Warm call overhead at concurrency 1 and 20.
pub async fn warm(federation: &Federation) -> anyhow::Result<()> {
    federation.deploy_hello("bench")?;
    let region = first_region(federation)?;
    let program = Program {
        command: vec![binary("hello-rust")?.to_string_lossy().into_owned()],
        folder: PathBuf::from("/"),
        python_path: None,
    };
    println!("## Warm calls\n");
    println!(
        "The Rust example, empty body, {CALLS_PER_CONNECTION} calls on each kept connection; milliseconds.\n"
    );
    println!("| concurrency | | p50 | p99 |");
    println!("|---|---|---|---|");
    for concurrency in [1, 20] {
        let mut instances = Vec::new();
        let mut direct = Vec::new();
        for _ in 0..concurrency {
            let instance = ByHand::start(&program).await?;
            direct.push((instance.connect().await?, function::call as fn() -> _));
            instances.push(instance);
        }
        let direct = hammer(direct).await?;
        drop(instances);

        let mut gateway = Vec::new();
        for _ in 0..concurrency {
            gateway.push((connect(&region.gateway).await?, gateway_call as fn() -> _));
        }
        let gateway = hammer(gateway).await?;

        for (what, spread) in [("function's socket", &direct), ("gateway", &gateway)] {
            println!(
                "| {concurrency} | {what} | {} | {} |",
                spread.percentile(50),
                spread.percentile(99)
            );
        }
        println!(
            "| {concurrency} | **overhead** | **{}** ({:.1}x) | **{}** ({:.1}x) |",
            gateway.percentile(50).minus(direct.percentile(50)),
            gateway.percentile(50).ratio(direct.percentile(50)),
            gateway.percentile(99).minus(direct.percentile(99)),
            gateway.percentile(99).ratio(direct.percentile(99)),
        );
    }
    println!();
    Ok(())
}

type Build = fn() -> anyhow::Result<Request<Full<Bytes>>>;

/// Every connection calls as fast as it is answered; the first calls, which start instances, are
/// not counted.
async fn hammer(connections: Vec<(SendRequest<Full<Bytes>>, Build)>) -> anyhow::Result<Spread> {
    let mut callers = JoinSet::new();
    for (mut sender, build) in connections {
        callers.spawn(async move {
            let mut samples = Vec::with_capacity(CALLS_PER_CONNECTION);
            for call in 0..CALLS_PER_CONNECTION + CALLS_PER_CONNECTION / 10 {
                let request = build()?;
                let start = Instant::now();
                function::send(&mut sender, request).await?;
                if call >= CALLS_PER_CONNECTION / 10 {
                    samples.push(start.elapsed());
                }
            }
            anyhow::Ok(samples)
        });
    }
    let mut samples = Vec::new();
    for caller in callers.join_all().await {
        samples.extend(caller?);
    }
    Ok(Spread::new(samples))
}

fn gateway_call() -> anyhow::Result<Request<Full<Bytes>>> {
    trigger_call("bench", "/hello")
}

fn trigger_call(app: &str, source: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    Request::post(format!("/t/{app}{source}"))
        .header("Host", format!("{app}.fn.test"))
        .body(Full::new(Bytes::new()))
        .context("build a request")
}

async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address)
        .await
        .context("connect to the gateway")?;
    stream.set_nodelay(true).context("set nodelay")?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.context("handshake")?;
    function::drive(connection);
    Ok(sender)
}

/// Time to the first answer of each example when no instance runs.
pub async fn cold(federation: &Federation) -> anyhow::Result<()> {
    let region = first_region(federation)?;
    println!("## Cold starts\n");
    println!("Time to the first answer, {COLD_STARTS} starts each; milliseconds.\n");
    println!("| example | | p50 | p90 |");
    println!("|---|---|---|---|");
    for example in ["rust", "python", "node"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../examples")
            .join(example);
        let name = format!("hello-{example}");
        federation.tradewind_ok(["deploy", "--app", "cold", &folder.to_string_lossy()])?;
        // The shortest idle timeout there is, so that the next call is cold again soon.
        federation.tradewind_ok(["fns", "update", "cold", &name, "--idle-timeout", "1"])?;
        let program = function::unpacked(&bundle_of(federation, &region, &name)?)?;

        let mut by_hand = Vec::new();
        for _ in 0..COLD_STARTS {
            let start = Instant::now();
            let instance = ByHand::start(&program).await?;
            function::send(&mut instance.connect().await?, function::call()?).await?;
            by_hand.push(start.elapsed());
        }
        let mut gateway = Vec::new();
        for _ in 0..COLD_STARTS {
            instances(&region, &name, false).await?;
            let mut connection = connect(&region.gateway).await?;
            let start = Instant::now();
            function::send(&mut connection, trigger_call("cold", &format!("/{name}"))?).await?;
            gateway.push(start.elapsed());
            // What a region says of its instances is a moment old: it must have seen this one
            // before it can be believed that there is none.
            instances(&region, &name, true).await?;
        }
        let (by_hand, gateway) = (Spread::new(by_hand), Spread::new(gateway));
        for (what, spread) in [("by hand", &by_hand), ("gateway", &gateway)] {
            println!(
                "| {example} | {what} | {} | {} |",
                spread.percentile(50),
                spread.percentile(90)
            );
        }
        println!(
            "| {example} | **overhead** | **{}** ({:.2}x) | **{}** |",
            gateway.percentile(50).minus(by_hand.percentile(50)),
            gateway.percentile(50).ratio(by_hand.percentile(50)),
            gateway.percentile(90).minus(by_hand.percentile(90)),
        );
    }
    println!();
    Ok(())
}

fn first_region(federation: &Federation) -> anyhow::Result<RegionProcess> {
    federation
        .ready()?
        .regions
        .into_iter()
        .next()
        .context("a region runs")
}

/// Waits until a region says that it has instances, or that it has none.
async fn instances(region: &RegionProcess, name: &str, some: bool) -> anyhow::Result<()> {
    let url = format!("http://{}/v1/instances", region.admin);
    let what = match some {
        true => format!("an instance of {name} is counted"),
        false => format!("no instance runs before {name}"),
    };
    eventually(&what, Duration::from_secs(60), async || {
        let instances: serde_json::Value = reqwest::get(&url).await?.json().await?;
        let counted = instances["items"].as_array().context("items")?;
        ensure!(counted.is_empty() != some, "{instances}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Where the region unpacked the function's bundle.
fn bundle_of(
    federation: &Federation,
    region: &RegionProcess,
    name: &str,
) -> anyhow::Result<PathBuf> {
    let text = federation.tradewind_ok(["fns", "inspect", "cold", name, "--json"])?;
    let function: serde_json::Value = serde_json::from_str(&text).context("parse the function")?;
    let image = function["image"].as_str().context("image")?;
    let (_, digest) = image
        .split_once("@sha256:")
        .context("the image is a bundle")?;
    let bundles = federation
        .up_dir()
        .join("data")
        .join(&region.name)
        .join("bundles");
    Ok(bundles.join(digest))
}
