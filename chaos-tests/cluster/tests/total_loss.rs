//! Everything is killed at once and started again: nothing that was acknowledged is gone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::caller::Caller;
use chaos_tests_cluster::{Federation, dns, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_killed_whole_comes_back_with_everything() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let listed = |federation: &Federation| -> anyhow::Result<(String, String)> {
        let fns = federation.tradewind_ok(["fns", "list", "shop", "--json"])?;
        let triggers = federation.tradewind_ok(["triggers", "list", "shop", "--json"])?;
        Ok((fns, triggers))
    };
    let before = listed(&federation)?;
    ensure!(
        before.0.contains("bundle/hello:0.0.1@sha256:"),
        "{before:?}"
    );

    let ready = federation.ready()?;
    let globals = ready.globals.iter().map(|part| part.name.clone());
    let dns_servers = ready.dns.iter().map(|part| part.name.clone());
    let regions = ready.regions.iter().map(|part| part.name.clone());
    let parts: Vec<String> = globals.chain(dns_servers).chain(regions).collect();
    for part in &parts {
        federation.kill(part).await?;
    }
    for part in &parts {
        federation.start_again(part).await?;
    }

    let (after, took) = eventually(
        "the global plane answers",
        Duration::from_secs(30),
        async || listed(&federation),
    )
    .await?;
    println!("measured: the global plane answers {took:.2?} after the last part was started");
    ensure!(after == before, "{after:?} is not {before:?}");
    let server = ready.dns.first().context("two servers run")?.udp.clone();
    for (subnet, region) in [
        (dns::ASHBURN, "iad"),
        (dns::FRANKFURT, "fra"),
        (dns::TOKYO, "nrt"),
    ] {
        let client = Caller::new(vec![server.clone()], subnet)?;
        eventually(
            &format!("{region} serves its clients again"),
            Duration::from_secs(30),
            async || {
                let served = client
                    .call("shop.fn.test", "/hello", "")
                    .await
                    .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
                ensure!(
                    served.status == 200 && served.region == region,
                    "{served:?}"
                );
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
