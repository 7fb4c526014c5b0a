//! `/regions/NAME`: Fn's API as one region has it, at any global node.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use reqwest::{Client, Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

struct Api {
    http: Client,
    base: String,
}

struct ApiAnswer {
    status: StatusCode,
    /// What the global plane wrote at, and what the region had applied by then.
    revision: Option<u64>,
    applied: Option<u64>,
    body: Value,
}

impl Api {
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<ApiAnswer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let number = |name: &str| {
            let value = answer.headers().get(name)?;
            value.to_str().ok()?.parse().ok()
        };
        Ok(ApiAnswer {
            status: answer.status(),
            revision: number("tradewind-revision"),
            applied: number("tradewind-region-revision"),
            body: serde_json::from_slice(&answer.bytes().await?).unwrap_or_default(),
        })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.send(Method::GET, path, None).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(answer.body)
    }
}

const PREFIXES: [&str; 3] = ["/regions/fra", "/regions/iad", "/regions/nrt"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_the_same_under_every_prefix_and_writes_there_are_read_there()
-> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let api = Api {
        http: Client::builder().pool_max_idle_per_host(1).build()?,
        base: federation.apis()?.first().context("three nodes")?.clone(),
    };

    let app = &api.get("/v2/apps?name=shop").await?["items"][0];
    let app = app["id"].as_str().context("an id")?;
    for path in [
        format!("/v2/fns?app_id={app}"),
        format!("/v2/triggers?app_id={app}"),
    ] {
        let plain = api.get(&path).await?;
        ensure!(
            plain["items"][0]["annotations"]
                .to_string()
                .contains("ndpoint"),
            "{plain}"
        );
        for prefix in PREFIXES {
            let prefixed = api.get(&format!("{prefix}{path}")).await?;
            ensure!(prefixed == plain, "{prefix}: {prefixed} is not {plain}");
        }
    }

    // Each kind of write, each read back at once where it was written.
    for (round, prefix) in PREFIXES.iter().cycle().take(9).enumerate() {
        let apps = format!("{prefix}/v2/apps");
        let made = json!({"name": format!("app-{round}")});
        let made = api.send(Method::POST, &apps, Some(made)).await?;
        ensure!(made.status == 200, "{}: {}", made.status, made.body);
        let one = format!("{apps}/{}", made.body["id"].as_str().context("an id")?);
        ensure!(api.get(&one).await?["name"] == made.body["name"]);

        let change = json!({"config": {"round": round.to_string()}});
        let put = api.send(Method::PUT, &one, Some(change)).await?;
        ensure!(put.status == 200, "{}: {}", put.status, put.body);
        ensure!(put.applied >= put.revision && put.revision.is_some());
        ensure!(api.get(&one).await?["config"]["round"] == round.to_string());

        let gone = api.send(Method::DELETE, &one, None).await?;
        ensure!(gone.status == 204, "{}: {}", gone.status, gone.body);
        let after = api.send(Method::GET, &one, None).await?;
        ensure!(after.status == 404, "{}: {}", after.status, after.body);
    }

    // A region that does not answer holds no write up for long, and the answer says what it is.
    federation.signal("nrt", Signal::STOP)?;
    let started = Instant::now();
    let made = json!({"name": "without-nrt"});
    let made = api
        .send(Method::POST, "/regions/nrt/v2/apps", Some(made))
        .await?;
    ensure!(made.status == 200, "{}: {}", made.status, made.body);
    ensure!(
        made.applied.is_none() && made.revision.is_some(),
        "{:?} of {:?}",
        made.applied,
        made.revision
    );
    ensure!(started.elapsed() < Duration::from_secs(15), "it is bounded");
    federation.signal("nrt", Signal::CONT)?;
    Ok(())
}
