//! A function prefers one region of its app's residency, and that region is killed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use api_types::AppId;
use chaos_tests_cluster::caller::Caller;
use chaos_tests_cluster::{Federation, dns, eventually};

const HOST: &str = "hello--shop.fn.test";

/// fra and iad are the residency, fra is preferred, nrt is outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preference_yields_to_the_rest_of_its_apps_residency_at_every_door() -> anyhow::Result<()>
{
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let update = |args: &[&str]| federation.tradewind_ok(args);
    update(&[
        "apps",
        "update",
        "shop",
        "--placement",
        "fra,iad",
        "--strict",
    ])?;
    update(&["fns", "update", "shop", "hello", "--placement", "fra"])?;
    let ready = federation.ready()?;
    let gateway = |name: &str| {
        let region = ready.regions.iter().find(|region| region.name == name);
        region.map(|region| region.gateway.clone())
    };
    let client = api_client::Client::new(&federation.apis()?)?;
    let app = client.app_named("shop").await?.context("the app")?;
    let app = AppId::new(app.id.context("an id")?);
    let function = client.fn_named(&app, "hello").await?;
    let id = function.and_then(|function| function.id).context("an id")?;

    let servers: Vec<String> = ready.dns.iter().map(|server| server.udp.clone()).collect();
    let tokyo = Caller::new(servers, dns::TOKYO)?;
    // By the name that DNS steers, from where the forbidden region is nearest.
    let served_by = async |region: &str| {
        eventually(
            &format!("{region} serves the function's name"),
            Duration::from_secs(30),
            async || {
                let served = tokyo
                    .call(HOST, "/", "")
                    .await
                    .map_err(|lost| anyhow::anyhow!("{lost:?}"))?;
                ensure!(
                    (served.status, served.region.as_str()) == (200, region),
                    "{served:?}"
                );
                Ok(())
            },
        )
        .await
    };
    served_by("fra").await?;

    federation.kill("fra").await?;
    served_by("iad").await?;

    // The other doors agree: a global node, iad's gateway by id, and one outside the residency,
    // which sends callers to the name or hands the call on.
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let api = ready
        .globals
        .first()
        .context("three nodes run")?
        .api
        .clone();
    let iad = format!("http://{}", gateway("iad").context("iad runs")?);
    for door in [&api, &iad] {
        eventually(
            &format!("{door} has heard of it"),
            Duration::from_secs(30),
            async || {
                let answer = http.post(format!("{door}/invoke/{id}")).send().await?;
                let region = answer.headers().get("tradewind-region").cloned();
                let region = region.context("a region answers")?;
                ensure!(
                    answer.status() == 200 && region == "iad",
                    "{} by {region:?}",
                    answer.status()
                );
                Ok(())
            },
        )
        .await?;
    }
    let nrt = gateway("nrt").context("nrt runs")?;
    let answer = http
        .post(format!("http://{nrt}/invoke/{id}"))
        .send()
        .await?;
    let location = answer.headers().get("location").cloned();
    let location = location.context("nrt sends callers elsewhere")?;
    ensure!(
        answer.status() == 307 && location.to_str()?.starts_with(&format!("http://{HOST}")),
        "{} {location:?}",
        answer.status()
    );
    eventually(
        "nrt hands the call on",
        Duration::from_secs(30),
        async || {
            let by_name = http.post(format!("http://{nrt}/")).header("host", HOST);
            let answer = by_name.send().await?;
            let region = answer.headers().get("tradewind-region").cloned();
            ensure!(
                answer.status() == 200 && region.as_ref().is_some_and(|region| region == "iad"),
                "{} by {region:?}",
                answer.status()
            );
            Ok(())
        },
    )
    .await?;
    Ok(())
}
