//! The leader is killed under writers: writing resumes and every acknowledged write is kept once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::{Federation, assert_promise, eventually};
use tokio::task::JoinSet;

const WRITERS: usize = 16;

struct Written {
    name: String,
    acknowledged: Instant,
}

/// Creates apps one after the other, each with a key of its own, resending until acknowledged: a
/// resend with the same key must get the first outcome, never "already exists".
async fn keep_writing(
    writer: usize,
    apis: Vec<String>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Written>> {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(6))
        .build()?;
    let mut written = Vec::new();
    let mut node = writer;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("writer{writer}-app{}", written.len());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            ensure!(
                Instant::now() < deadline,
                "{name} was not acknowledged in a minute"
            );
            let api = &apis[node % apis.len()];
            let sent = http
                .post(format!("{api}/v2/apps"))
                .header("Idempotency-Key", &name)
                .json(&serde_json::json!({ "name": name }))
                .send()
                .await;
            match sent {
                Ok(response) if response.status().is_success() => break,
                Ok(response) if response.status().is_client_error() => {
                    anyhow::bail!("{name}: {} {}", response.status(), response.text().await?);
                }
                Ok(_) | Err(_) => node += 1,
            }
        }
        written.push(Written {
            name,
            acknowledged: Instant::now(),
        });
    }
    Ok(written)
}

async fn leader(federation: &Federation) -> anyhow::Result<String> {
    for api in federation.apis()? {
        let Ok(response) = reqwest::get(format!("{api}/v1/members")).await else {
            continue;
        };
        let members: serde_json::Value = response.json().await?;
        let items = members["items"].as_array().context("items")?;
        if let Some(leader) = items.iter().find(|member| member["role"] == "leader") {
            return Ok(leader["name"].as_str().context("name")?.to_owned());
        }
    }
    anyhow::bail!("no node names a leader")
}

/// Every app one node lists, with how often.
async fn apps_on(api: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let (mut apps, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let url = format!("{api}/v2/apps?per_page=100&cursor={cursor}");
        let page: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        for app in page["items"].as_array().context("items")? {
            *apps
                .entry(app["name"].as_str().context("name")?.to_owned())
                .or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(apps),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_leader_and_none_happens_twice() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(keep_writing(writer, federation.apis()?, Arc::clone(&stop)));
    }
    let writing = async || -> anyhow::Result<()> {
        let apps = apps_on(federation.apis()?.first().context("a node")?).await?;
        ensure!(apps.len() >= 2 * WRITERS, "{} apps", apps.len());
        Ok(())
    };
    eventually("the writers are at work", Duration::from_secs(30), writing).await?;

    let doomed = leader(&federation).await?;
    federation.kill(&doomed).await?;
    let killed = Instant::now();
    eventually("another node leads", Duration::from_secs(30), async || {
        let now = leader(&federation).await?;
        ensure!(now != doomed, "{now} is still named");
        Ok(())
    })
    .await?;
    federation.start_again(&doomed).await?;
    stop.store(true, Ordering::Relaxed);

    let mut written = Vec::new();
    for writer in writers.join_all().await {
        written.extend(writer?);
    }
    let resumed = written
        .iter()
        .filter(|write| write.acknowledged > killed)
        .map(|write| write.acknowledged)
        .min();
    assert_promise(
        "writes resume after the leader is killed",
        Duration::from_secs(3),
        resumed
            .context("nothing was written after the kill")?
            .duration_since(killed),
    );
    println!(
        "measured: {} writes acknowledged by {WRITERS} writers",
        written.len()
    );

    for api in federation.apis()? {
        let (apps, _) = eventually("every node answers", Duration::from_secs(30), async || {
            apps_on(&api).await
        })
        .await?;
        for write in &written {
            ensure!(
                apps.get(&write.name) == Some(&1),
                "{api} lists {} {:?} times",
                write.name,
                apps.get(&write.name)
            );
        }
    }
    Ok(())
}
