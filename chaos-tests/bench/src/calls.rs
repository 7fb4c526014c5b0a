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

use crate::cpu::{self, Cpu, HEADINGS};
use crate::function::{self, ByHand, Program};
use crate::nginx::Nginx;
use crate::spread::Spread;

/// Of all connections together: enough for times on a processor, which are counted in hundredths of a second.
const CALLS: usize = 40_000;
const COLD_STARTS: usize = 10;

/// What calls on some connections took.
struct Hammered {
    spread: Spread,
    calls: usize,
    took: Duration,
    used: Cpu,
}

/// Warm calls at concurrency 1 and 20: by the function's own socket, through nginx and through a gateway.
pub async fn warm(federation: &Federation) -> anyhow::Result<()> {
    federation.deploy_hello("bench")?;
    let region = first_region(federation)?;
    let program = Program {
        command: vec![binary("hello-rust")?.to_string_lossy().into_owned()],
        folder: PathBuf::from("/"),
        python_path: None,
    };
    println!(
        "The Rust example, empty body, {CALLS} calls on kept connections. Latency in milliseconds; time on a"
    );
    println!(
        "processor is that of what is between caller and function alone, for each call. nginx is a reverse"
    );
    println!(
        "proxy of as many instances as there are callers, over kept connections to their sockets.\n"
    );
    println!("| callers | | calls/s | p50 | p99 | {HEADINGS} |");
    println!("|---|---|---|---|---|---|---|---|");
    for concurrency in [1, 20] {
        let mut instances = Vec::new();
        for _ in 0..concurrency {
            instances.push(ByHand::start(&program).await?);
        }
        let mut direct = Vec::new();
        for instance in &instances {
            direct.push((instance.connect().await?, function::call as Build));
        }
        let direct = hammer(direct, &[]).await?;

        let nginx = Nginx::start(&instances).await?;
        let callers = connections(&nginx.listen.to_string(), concurrency).await?;
        let proxied = hammer(callers, &nginx.workers()?).await?;
        drop((nginx, instances));

        let callers = connections(&region.gateway, concurrency).await?;
        let gateway = hammer(callers, &[region.pid]).await?;

        for (what, hammered, cells) in [
            ("function's socket", &direct, "| | ".to_owned()),
            ("nginx", &proxied, proxied.used.cells(proxied.calls)?),
            ("gateway", &gateway, gateway.used.cells(gateway.calls)?),
        ] {
            println!(
                "| {concurrency} | {what} | {:.0} | {} | {} | {cells} |",
                hammered.rate(),
                hammered.spread.percentile(50),
                hammered.spread.percentile(99)
            );
        }
        println!(
            "| {concurrency} | **gateway's overhead** | | **{}** ({:.1}x) | **{}** ({:.1}x) | | | |",
            gateway
                .spread
                .percentile(50)
                .minus(direct.spread.percentile(50)),
            gateway
                .spread
                .percentile(50)
                .ratio(direct.spread.percentile(50)),
            gateway
                .spread
                .percentile(99)
                .minus(direct.spread.percentile(99)),
            gateway
                .spread
                .percentile(99)
                .ratio(direct.spread.percentile(99)),
        );
        let ratio = |of: fn(Cpu) -> Duration| {
            of(gateway.used).as_secs_f64() / of(proxied.used).as_secs_f64()
        };
        println!(
            "| {concurrency} | **gateway to nginx** | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | **{:.2}** |",
            gateway.rate() / proxied.rate(),
            gateway
                .spread
                .percentile(50)
                .ratio(proxied.spread.percentile(50)),
            gateway
                .spread
                .percentile(99)
                .ratio(proxied.spread.percentile(99)),
            ratio(|used| used.user),
            ratio(|used| used.system),
            gateway.used.per_second(gateway.calls) / proxied.used.per_second(proxied.calls),
        );
    }
    println!();
    Ok(())
}

impl Hammered {
    /// Calls a second.
    fn rate(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }
}

type Build = fn() -> anyhow::Result<Request<Full<Bytes>>>;
type Connection = (SendRequest<Full<Bytes>>, Build);

async fn connections(address: &str, count: usize) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push((connect(address).await?, gateway_call as Build));
    }
    Ok(connections)
}

/// Every connection calls as fast as it is answered. What the processes `between` use meanwhile is counted;
/// the first calls, which start instances, are not.
async fn hammer(connections: Vec<Connection>, between: &[i32]) -> anyhow::Result<Hammered> {
    let each = CALLS / connections.len();
    let (connections, _) = call(connections, each / 10).await?;
    let (before, start) = (cpu::used(between)?, Instant::now());
    let (_, samples) = call(connections, each).await?;
    Ok(Hammered {
        took: start.elapsed(),
        used: cpu::used(between)?.since(before),
        calls: samples.len(),
        spread: Spread::new(samples),
    })
}

/// So many calls on each connection, at once.
async fn call(
    connections: Vec<Connection>,
    each: usize,
) -> anyhow::Result<(Vec<Connection>, Vec<Duration>)> {
    let mut callers = JoinSet::new();
    for (mut sender, build) in connections {
        callers.spawn(async move {
            let mut samples = Vec::with_capacity(each);
            for _ in 0..each {
                let request = build()?;
                let start = Instant::now();
                function::send(&mut sender, request).await?;
                samples.push(start.elapsed());
            }
            anyhow::Ok(((sender, build), samples))
        });
    }
    let (mut connections, mut samples) = (Vec::new(), Vec::new());
    for called in callers.join_all().await {
        let (connection, times) = called?;
        connections.push(connection);
        samples.extend(times);
    }
    Ok((connections, samples))
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
    println!(
        "Time to the first answer, {COLD_STARTS} starts each; milliseconds. Time on a processor is the region's own,"
    );
    println!("its instances not counted, for each start.\n");
    println!("| example | | p50 | p90 | user ms | system ms |");
    println!("|---|---|---|---|---|---|");
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
        let (mut gateway, mut used) = (Vec::new(), Cpu::default());
        for _ in 0..COLD_STARTS {
            instances(&region, &name, false).await?;
            let mut connection = connect(&region.gateway).await?;
            let (before, start) = (cpu::used(&[region.pid])?, Instant::now());
            function::send(&mut connection, trigger_call("cold", &format!("/{name}"))?).await?;
            gateway.push(start.elapsed());
            let taken = cpu::used(&[region.pid])?.since(before);
            used.user += taken.user;
            used.system += taken.system;
            // What a region says of its instances is a moment old: it must have seen this one
            // before it can be believed that there is none.
            instances(&region, &name, true).await?;
        }
        let (by_hand, gateway) = (Spread::new(by_hand), Spread::new(gateway));
        let each = |time: Duration| time.as_secs_f64() * 1e3 / COLD_STARTS as f64;
        let cells = format!("{:.1} | {:.1}", each(used.user), each(used.system));
        for (what, spread, cells) in [("by hand", &by_hand, "|"), ("gateway", &gateway, &cells)] {
            println!(
                "| {example} | {what} | {} | {} | {cells} |",
                spread.percentile(50),
                spread.percentile(90)
            );
        }
        println!(
            "| {example} | **overhead** | **{}** ({:.2}x) | **{}** | | |",
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
