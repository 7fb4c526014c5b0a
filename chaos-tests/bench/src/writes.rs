//! Committed writes a second: apps created through the leader's API.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use tokio::task::JoinSet;

use crate::cpu::{self, HEADINGS};
use crate::spread::Spread;

const WRITE_FOR: Duration = Duration::from_secs(5);

pub async fn committed(federation: &Federation) -> anyhow::Result<()> {
    let api = leader(federation).await?;
    println!(
        "Apps created one after the other by each writer for {WRITE_FOR:?} at the leader: one entry each,"
    );
    println!(
        "on three nodes, fsynced. Latency in milliseconds; time on a processor is all three nodes', for each"
    );
    println!("write.\n");
    println!("| writers | writes/s | p50 | p99 | {HEADINGS} |");
    println!("|---|---|---|---|---|---|---|");
    let ready = federation.ready()?;
    let nodes: Vec<i32> = ready.globals.iter().map(|node| node.pid).collect();
    for writers in [1, 16, 64] {
        let before = cpu::used(&nodes)?;
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let api = api.clone();
            tasks.spawn(write(api, format!("bench-{writers}-{writer}")));
        }
        let mut samples = Vec::new();
        for task in tasks.join_all().await {
            samples.extend(task?);
        }
        let used = cpu::used(&nodes)?.since(before);
        let rate = samples.len() as f64 / WRITE_FOR.as_secs_f64();
        let cells = used.cells(samples.len())?;
        let spread = Spread::new(samples);
        println!(
            "| {writers} | {rate:.0} | {} | {} | {cells} |",
            spread.percentile(50),
            spread.percentile(99)
        );
    }
    println!();
    Ok(())
}

async fn write(api: String, prefix: String) -> anyhow::Result<Vec<Duration>> {
    let http = reqwest::Client::new();
    let (begin, mut samples) = (Instant::now(), Vec::new());
    while begin.elapsed() < WRITE_FOR {
        let body = serde_json::json!({ "name": format!("{prefix}-{}", samples.len()) });
        let start = Instant::now();
        let response = http
            .post(format!("{api}/v2/apps"))
            .json(&body)
            .send()
            .await
            .context("send")?;
        let status = response.status();
        let text = response.text().await.context("read")?;
        ensure!(status.is_success(), "{status}: {text}");
        samples.push(start.elapsed());
    }
    Ok(samples)
}

pub async fn leader(federation: &Federation) -> anyhow::Result<String> {
    let api = federation.apis()?.into_iter().next().context("a node")?;
    let members: serde_json::Value = reqwest::get(format!("{api}/v1/members"))
        .await?
        .json()
        .await?;
    let members = members["items"].as_array().context("items")?;
    let leader = members
        .iter()
        .find(|member| member["role"] == "leader")
        .context("a leader")?;
    Ok(leader["api"].as_str().context("api")?.to_owned())
}
