//! Every global node is killed: answers and calls go on, and what restarts meanwhile comes up
//! from its disk.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::caller::Caller;
use chaos_tests_cluster::{Federation, dns, eventually};

const HOST: &str = "shop.fn.test";

async fn served_by(caller: &Caller, region: &str) -> anyhow::Result<()> {
    let served = caller
        .call(HOST, "/hello", "")
        .await
        .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
    ensure!(
        served.status == 200 && served.region == region,
        "{served:?}, wanted {region}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_and_calls_go_on_without_any_global_node() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let servers: Vec<String> = ready.dns.iter().map(|server| server.udp.clone()).collect();
    let tokyo = Caller::new(servers.clone(), dns::TOKYO)?;
    let ashburn = Caller::new(servers.clone(), dns::ASHBURN)?;
    served_by(&tokyo, "nrt").await?;

    let (last, others) = ready.globals.split_first().context("three nodes run")?;
    for global in others {
        federation.kill(&global.name).await?;
    }
    // Nobody can confirm what it has, and nobody can have written anything else.
    let call = reqwest::Client::new()
        .post(format!("{}/t/shop/hello", last.api))
        .header("Tradewind-Client", dns::TOKYO.to_string())
        .timeout(Duration::from_secs(10));
    let status = call.send().await?.status();
    ensure!(status == 200, "a node without a majority: {status}");
    federation.kill(&last.name).await?;
    served_by(&tokyo, "nrt").await?;
    served_by(&ashburn, "iad").await?;

    // A region and a DNS server restart with nobody to ask.
    federation.kill("nrt").await?;
    let first = ready.dns.first().context("two servers run")?;
    federation.kill(&first.name).await?;
    federation.start_again("nrt").await?;
    federation.start_again(&first.name).await?;
    eventually(
        "the restarted DNS server answers from its disk",
        Duration::from_secs(20),
        async || {
            let given = dns::addresses(&first.udp, HOST, dns::TOKYO).await?;
            ensure!(given.len() == 1, "{given:?}");
            Ok(())
        },
    )
    .await?;
    let alone = Caller::new(vec![first.udp.clone()], dns::TOKYO)?;
    eventually(
        "the restarted region serves from its disk",
        Duration::from_secs(20),
        async || served_by(&alone, "nrt").await,
    )
    .await?;

    for global in &ready.globals {
        federation.start_again(&global.name).await?;
    }
    eventually(
        "the global plane takes writes again",
        Duration::from_secs(30),
        async || {
            federation
                .tradewind_ok(["apps", "create", "after"])
                .map(drop)
        },
    )
    .await?;
    eventually(
        "every region catches up",
        Duration::from_secs(30),
        async || {
            let text = federation.tradewind_ok(["replication", "--json"])?;
            let replication: serde_json::Value = serde_json::from_str(&text)?;
            let items = replication["items"].as_array().context("items")?;
            let caught_up = items
                .iter()
                .all(|item| item["revision"] == replication["revision"]);
            ensure!(items.len() == 3 && caught_up, "{text}");
            Ok(())
        },
    )
    .await?;
    served_by(&tokyo, "nrt").await
}
