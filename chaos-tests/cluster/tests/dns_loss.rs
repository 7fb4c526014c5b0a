//! A DNS server is killed: the other answers for it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::caller::Caller;
use chaos_tests_cluster::{Federation, dns, eventually};

const HOST: &str = "shop.fn.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_dns_server_answers_and_the_killed_one_comes_back() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let servers: Vec<String> = ready.dns.iter().map(|server| server.udp.clone()).collect();
    let client = Caller::new(servers, dns::ASHBURN)?;
    let before = client.resolve(HOST).await?;

    let first = ready.dns.first().context("two servers run")?;
    federation.kill(&first.name).await?;
    ensure!(
        dns::addresses(&first.udp, HOST, dns::ASHBURN)
            .await
            .is_err(),
        "a killed server answered"
    );
    ensure!(
        client.resolve(HOST).await? == before,
        "the other server answers differently"
    );
    let served = client
        .call(HOST, "/hello", "")
        .await
        .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
    ensure!(served.status == 200 && served.region == "iad", "{served:?}");

    federation.start_again(&first.name).await?;
    eventually(
        "the server answers as before",
        Duration::from_secs(20),
        async || {
            let given = dns::addresses(&first.udp, HOST, dns::ASHBURN).await?;
            ensure!(given == [before], "{given:?}");
            Ok(())
        },
    )
    .await?;
    Ok(())
}
