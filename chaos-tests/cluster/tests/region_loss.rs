//! A region is killed under traffic: its clients are served elsewhere, and get it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use chaos_tests_cluster::caller::{Caller, Lost};
use chaos_tests_cluster::{Federation, assert_promise, dns, eventually};
use tokio::task::JoinSet;

const HOST: &str = "shop.fn.test";

/// One call from one client, as far as losing it goes.
#[derive(Debug)]
struct Call {
    started: Instant,
    result: Result<String, Lost>,
}

async fn keep_calling(caller: Caller, stop: Arc<AtomicBool>) -> Vec<Call> {
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let result = match caller.call(HOST, "/hello", "").await {
            Ok(served) if served.status == 200 => Ok(served.region),
            Ok(served) => Err(Lost::InFlight(anyhow::anyhow!(
                "{}: {}",
                served.status,
                served.body
            ))),
            Err(lost) => Err(lost),
        };
        calls.push(Call { started, result });
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_region_are_served_elsewhere_and_get_it_back() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let servers: Vec<String> = ready.dns.iter().map(|server| server.udp.clone()).collect();
    let frankfurt = Caller::new(servers.clone(), dns::FRANKFURT)?;

    let address = frankfurt.resolve(HOST).await?;
    let served = frankfurt
        .call(HOST, "/hello", "")
        .await
        .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
    ensure!(
        served.region == "fra",
        "a client in Frankfurt was served by {}",
        served.region
    );

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(keep_calling(frankfurt.clone(), Arc::clone(&stop)));
    }

    let killed = Instant::now();
    federation.kill("fra").await?;
    let gone = Instant::now();
    for server in &servers {
        eventually(
            "no server gives the dead region's address",
            Duration::from_secs(30),
            async || {
                let given = dns::addresses(server, HOST, dns::FRANKFURT).await?;
                ensure!(
                    !given.is_empty() && !given.contains(&address),
                    "{server} gives {given:?}"
                );
                Ok(())
            },
        )
        .await?;
    }
    assert_promise(
        "no DNS server gives a killed region's address",
        Duration::from_secs(5),
        killed.elapsed(),
    );

    federation.start_again("fra").await?;
    let (_, back) = eventually(
        "the region is given traffic again",
        Duration::from_secs(60),
        async || {
            let given = dns::addresses(
                servers.first().expect("two servers run"),
                HOST,
                dns::FRANKFURT,
            )
            .await?;
            ensure!(given == [address], "{given:?}");
            Ok(())
        },
    )
    .await?;
    println!("measured: the region started again is given traffic after {back:.2?}");
    eventually(
        "the region serves again",
        Duration::from_secs(30),
        async || {
            let served = frankfurt
                .call(HOST, "/hello", "")
                .await
                .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
            ensure!(served.region == "fra" && served.status == 200, "{served:?}");
            Ok(())
        },
    )
    .await?;

    stop.store(true, Ordering::Relaxed);
    let calls: Vec<Call> = clients.join_all().await.into_iter().flatten().collect();
    let lost: Vec<&Call> = calls.iter().filter(|call| call.result.is_err()).collect();
    println!(
        "measured: {} calls, {} cut off in flight",
        calls.len(),
        lost.len()
    );
    // A call under way at the kill may have reached the function; no other call may be lost.
    for call in &lost {
        ensure!(
            matches!(call.result, Err(Lost::InFlight(_))) && call.started <= gone,
            "lost a call that had not been sent, {:?} after the region was gone: {:?}",
            call.started.saturating_duration_since(gone),
            call.result
        );
    }
    ensure!(
        lost.len() <= 4,
        "each of 4 clients has one call under way, but {} were lost",
        lost.len()
    );
    let elsewhere = calls
        .iter()
        .filter(|call| call.result.as_ref().is_ok_and(|region| region != "fra"))
        .count();
    ensure!(elsewhere > 0, "no call was served by another region");
    Ok(())
}
