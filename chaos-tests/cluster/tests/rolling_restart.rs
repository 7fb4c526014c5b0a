//! Regions are restarted one after another under calls by DNS: no connection is refused.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chaos_tests_cluster::{Federation, dns, eventually};
use hickory_proto::rr::{RData, RecordType};
use rustix::process::Signal;
use tokio::task::JoinSet;

const HOST: &str = "shop.fn.test";

/// What a client with a resolver of its own has seen.
#[derive(Debug, Default)]
struct Seen {
    calls: usize,
    lost: Vec<String>,
}

/// Calls on a new connection each time, at the address that DNS gave, for as long as its answer lives.
async fn keep_calling(
    server: String,
    subnet: Ipv4Addr,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Seen> {
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(10))
        .build()?;
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let (address, until) = resolve(&server, subnet).await?;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            let call = http
                .post(format!("http://{address}:8080/hello"))
                .header("Host", format!("{HOST}:8080"))
                .send();
            seen.calls += 1;
            match call.await {
                Ok(answer) if answer.status() == 200 => {}
                Ok(answer) => seen.lost.push(format!("{address}: {}", answer.status())),
                Err(error) => seen.lost.push(format!("{address}: {error:?}")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(seen)
}

async fn resolve(server: &str, subnet: Ipv4Addr) -> anyhow::Result<(Ipv4Addr, Instant)> {
    // A datagram may be lost on a busy machine; a resolver asks again.
    for _ in 0..5 {
        let Ok(reply) = dns::ask(server, HOST, RecordType::A, Some(subnet)).await else {
            continue;
        };
        let record = reply.answers.first().context("an answer")?;
        let RData::A(address) = &record.data else {
            bail!("{record:?}");
        };
        let lives = Duration::from_secs(record.ttl.into());
        return Ok((address.0, Instant::now() + lives));
    }
    bail!("{server} does not answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_by_dns_is_lost_in_a_rolling_restart_of_regions() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let server = ready.dns.first().context("two servers run")?.udp.clone();

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for subnet in [dns::ASHBURN, dns::FRANKFURT, dns::TOKYO] {
        for _ in 0..2 {
            clients.spawn(keep_calling(server.clone(), subnet, Arc::clone(&stop)));
        }
    }
    for (name, subnet) in [
        ("iad", dns::ASHBURN),
        ("fra", dns::FRANKFURT),
        ("nrt", dns::TOKYO),
    ] {
        let (home, _) = resolve(&server, subnet).await?;
        federation.signal(name, Signal::TERM)?;
        federation.ended(name, Duration::from_secs(60)).await?;
        federation.start_again(name).await?;
        eventually(
            "it is given its clients again",
            Duration::from_secs(60),
            async || {
                let (given, _) = resolve(&server, subnet).await?;
                ensure!(given == home, "{given}");
                Ok(())
            },
        )
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut calls, mut lost) = (0, Vec::new());
    for seen in clients.join_all().await {
        let seen = seen?;
        calls += seen.calls;
        lost.extend(seen.lost);
    }
    println!("measured: {calls} calls by DNS, {} lost", lost.len());
    ensure!(calls > 500, "only {calls} calls");
    ensure!(lost.is_empty(), "{} of {calls} lost: {lost:#?}", lost.len());
    Ok(())
}
