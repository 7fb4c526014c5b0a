//! Calls through global nodes: of a region that freezes, of what was written a moment ago, and of
//! what moves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::{Federation, dns, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Of two busy cores.
const SLACK: Duration = Duration::from_secs(3);

/// Functions written and called, as many as the complaint was of.
const ROUNDS: usize = 30;

struct Apis {
    http: reqwest::Client,
    urls: Vec<String>,
}

impl Apis {
    fn new(federation: &Federation) -> anyhow::Result<Self> {
        let ready = federation.ready()?;
        Ok(Self {
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(Duration::from_secs(30))
                .build()?,
            urls: ready.globals.into_iter().map(|global| global.api).collect(),
        })
    }

    /// One node and another, so that what one has written the other may not have heard of.
    fn pair(&self, round: usize) -> (&str, &str) {
        let count = self.urls.len();
        (&self.urls[round % count], &self.urls[(round + 1) % count])
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.send().await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Status, region and text of a call.
    async fn call(
        &self,
        url: &str,
        client: std::net::Ipv4Addr,
    ) -> anyhow::Result<(u16, String, String)> {
        let response = self
            .http
            .post(url)
            .header("Tradewind-Client", client.to_string())
            .body(r#"{"name":"Ada"}"#)
            .send()
            .await?;
        let region = response.headers().get("Tradewind-Region");
        let region = region.map_or(Ok(""), |region| region.to_str())?.to_owned();
        Ok((response.status().as_u16(), region, response.text().await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_frozen_region_is_answered_from_the_next() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let apis = Apis::new(&federation)?;
    let url = format!("{}/t/shop/hello", apis.urls[0]);
    let (status, region, _) = apis.call(&url, dns::FRANKFURT).await?;
    ensure!(
        (status, region.as_str()) == (200, "fra"),
        "{status} {region}"
    );

    federation.signal("fra", Signal::STOP)?;
    let began = Instant::now();
    let answer = apis.call(&url, dns::FRANKFURT).await;
    let took = began.elapsed();
    federation.signal("fra", Signal::CONT)?;
    let (status, region, text) = answer?;
    println!("measured: a call of a frozen region is answered after {took:.2?}");
    ensure!(status == 200 && region != "fra", "{status} {region} {text}");
    ensure!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_what_is_called() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let apis = Apis::new(&federation)?;
    let list = format!("{}/v2/apps?name=shop", apis.urls[0]);
    let app = apis.json(apis.http.get(list)).await?["items"][0]["id"].clone();
    let app = app.as_str().context("the app's id")?.to_owned();
    let list = format!("{}/v2/fns?app_id={app}", apis.urls[0]);
    let image = apis.json(apis.http.get(list)).await?["items"][0]["image"].clone();
    let gateway = federation.ready()?.regions[0].gateway.clone();

    for round in 0..ROUNDS {
        let (here, there) = apis.pair(round);
        let function = json!({
            "name": format!("f{round}"), "app_id": app, "image": image, "memory": 64,
            "config": {"GREETING": "First"},
        });
        let made = apis
            .json(apis.http.post(format!("{here}/v2/fns")).json(&function))
            .await?;
        let id = made["id"].as_str().context("the function's id")?;
        // At once through another node, or at a gateway.
        let url = match round % 3 {
            0 => format!("http://{gateway}/invoke/{id}"),
            _ => format!("{there}/invoke/{id}"),
        };
        let (status, _, text) = apis.call(&url, dns::FRANKFURT).await?;
        ensure!(
            status == 200 && text.contains("First Ada"),
            "{round}: {status} {text}"
        );

        let changed = json!({"config": {"GREETING": "Second"}});
        let object = format!("{here}/v2/fns/{id}");
        apis.json(apis.http.put(&object).json(&changed)).await?;
        let url = format!("{there}/invoke/{id}");
        let (status, _, text) = apis.call(&url, dns::FRANKFURT).await?;
        ensure!(
            status == 200 && text.contains("Second Ada"),
            "{round}: {status} {text}"
        );

        let deleted = apis.http.delete(&object).send().await?.status();
        ensure!(deleted.is_success(), "{round}: {deleted}");
        let (status, _, text) = apis.call(&url, dns::FRANKFURT).await?;
        ensure!(status == 404, "{round}: deleted, and {status} {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_of_a_global_node_is_never_redirected_while_an_app_moves() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let apis = Apis::new(&federation)?;
    let list = format!("{}/v2/apps?name=shop", apis.urls[0]);
    let app = apis.json(apis.http.get(list)).await?["items"][0]["id"].clone();
    let app = app.as_str().context("the app's id")?.to_owned();
    for round in 0..12 {
        let (here, there) = apis.pair(round);
        let home = ["fra", "iad", "nrt"][round % 3];
        let placed = json!({"annotations": {"tradewind.dev/placement": {"regions": [home]}}});
        let object = format!("{here}/v2/apps/{app}");
        apis.json(apis.http.put(&object).json(&placed)).await?;
        let url = format!("{there}/t/shop/hello");
        for _ in 0..5 {
            let (status, region, text) = apis.call(&url, dns::FRANKFURT).await?;
            ensure!(
                (status, region.as_str()) == (200, home),
                "{round}: {status} by {region}, wanted {home}: {text}"
            );
        }
    }
    eventually(
        "every region is well",
        Duration::from_secs(10),
        async || {
            let regions = apis
                .json(apis.http.get(format!("{}/v1/regions", apis.urls[0])))
                .await?;
            let items = regions["items"].as_array().context("items")?;
            ensure!(
                items.iter().all(|region| region["verdict"] == "healthy"),
                "{regions}"
            );
            Ok(())
        },
    )
    .await?;
    Ok(())
}
