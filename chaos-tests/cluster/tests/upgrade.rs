//! Two versions side by side: each part is upgraded, rolled back and upgraded again, one by one, under
//! writes and calls. Nothing is lost, no call fails, and once something new is in use the old version
//! refuses to start. `make test-upgrade` builds the versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chaos_tests_cluster::{Federation, eventually};
use serde_json::Value;
use tokio::task::JoinSet;

const DAEMONS: [&str; 3] = ["tradewind-global", "tradewind-region", "tradewind-dns"];

/// A part may take this long to be well again on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const WRITERS: usize = 2;
const CALLERS: usize = 2;

/// The programs that the parts of a federation are started from.
struct Programs(PathBuf);

impl Programs {
    /// With what `up` itself is, which is not replaced while it runs.
    fn new(folder: &Path, version: &Path) -> anyhow::Result<Self> {
        for program in ["tradewind", "hello-rust"] {
            std::fs::copy(version.join(program), folder.join(program)).context(program)?;
        }
        let programs = Self(folder.to_owned());
        programs.install(version)?;
        Ok(programs)
    }

    /// What is started from now on is of this version.
    fn install(&self, version: &Path) -> anyhow::Result<()> {
        for program in DAEMONS {
            let (new, place) = (self.0.join(format!("{program}.new")), self.0.join(program));
            std::fs::copy(version.join(program), &new).context(program)?;
            std::fs::rename(&new, &place).context(program)?;
        }
        Ok(())
    }
}

async fn get(url: &str) -> anyhow::Result<Value> {
    let answer = reqwest::get(url).await?.error_for_status()?;
    Ok(answer.json().await?)
}

/// Waits until every member has applied the newest revision and every region is healthy and has too.
async fn well(federation: &Federation) -> anyhow::Result<()> {
    eventually("all parts are well", PATIENCE, async || {
        for api in federation.apis()? {
            let status = get(&format!("{api}/v1/status")).await?;
            ensure!(status["leader"].is_string(), "{api} knows no leader");
            let replication = get(&format!("{api}/v1/replication")).await?;
            for region in replication["items"].as_array().context("items")? {
                ensure!(region["verdict"] == "healthy", "{region}");
                ensure!(region["lag_ms"].as_u64() < Some(5_000), "{region}");
            }
        }
        for dns in federation.ready()?.dns {
            let ready = reqwest::get(format!("http://{}/readyz", dns.http)).await?;
            ensure!(ready.status().is_success(), "{} is not ready", dns.name);
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// Stops a part as in a rolling restart and starts the version that is installed.
async fn replace(federation: &Federation, part: &str) -> anyhow::Result<()> {
    federation.stop(part).await?;
    federation.start_again(part).await?;
    well(federation).await.with_context(|| part.to_owned())
}

fn client() -> anyhow::Result<reqwest::Client> {
    // A connection that is kept may break after a request went out on it, and then nobody knows
    // whether the request was received.
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(15))
        .build()?;
    Ok(client)
}

/// Creates apps one after the other until told to stop; returns how many.
async fn keep_writing(
    writer: usize,
    apis: Vec<String>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<usize> {
    let http = client()?;
    let (mut written, mut node) = (0, writer);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("writer{writer}-app{written}");
        let deadline = Instant::now() + PATIENCE;
        loop {
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
                    bail!("{name}: {} {}", response.status(), response.text().await?);
                }
                Ok(_) | Err(_) => node += 1,
            }
            ensure!(Instant::now() < deadline, "{name} was not acknowledged");
        }
        written += 1;
    }
    Ok(written)
}

/// Calls a function one time after the other by any global node that accepts a connection. Every
/// other outcome than an answer of the function is a failure.
async fn keep_calling(
    caller: usize,
    apis: Vec<String>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<usize> {
    let http = client()?;
    let (mut called, mut node) = (0, caller);
    while !stop.load(Ordering::Relaxed) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let api = &apis[node % apis.len()];
            let sent = http.post(format!("{api}/t/shop/hello")).body("you").send();
            match sent.await {
                Ok(response) if response.status().is_success() => break,
                Ok(response) => {
                    bail!(
                        "call {called} by {api}: {} {}",
                        response.status(),
                        response.text().await?
                    );
                }
                Err(error) if error.is_connect() => node += 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("call {called} by {api}"));
                }
            }
            ensure!(Instant::now() < deadline, "no global node accepts a call");
        }
        called += 1;
    }
    Ok(called)
}

/// Every app one node lists, with how often.
async fn apps_on(api: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let (mut apps, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = get(&format!("{api}/v2/apps?per_page=100&cursor={cursor}")).await?;
        for app in page["items"].as_array().context("items")? {
            let name = app["name"].as_str().context("name")?;
            *apps.entry(name.to_owned()).or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(apps),
        }
    }
}

/// Uses what only the next version knows; the status and what is said.
async fn put_note(api: &str) -> anyhow::Result<(u16, String)> {
    let sent = client()?
        .put(format!("{api}/v1/notes/one"))
        .json(&serde_json::json!({ "text": "new" }))
        .send()
        .await?;
    Ok((sent.status().as_u16(), sent.text().await?))
}

/// Starts a version on a part's data, which it must refuse.
fn refuses(
    federation: &Federation,
    version: &Path,
    program: &str,
    part: &str,
) -> anyhow::Result<()> {
    let config = federation
        .up_dir()
        .join("config")
        .join(format!("{part}.toml"));
    let output = Command::new(version.join(program))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .output()?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(78),
        "{part}: {}: {says}",
        output.status
    );
    ensure!(
        says.contains("note") && says.contains("start the version"),
        "{part}: {says}"
    );
    ensure!(!says.contains("panicked"), "{part}: {says}");
    Ok(())
}

async fn upgrade(old: &Path, new: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let programs = Programs::new(scratch.path(), old)?;
    let federation = Federation::start_from(scratch.path(), 3, 2).await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let globals: Vec<String> = ready.globals.iter().map(|part| part.name.clone()).collect();
    let dns = ready.dns.iter().map(|part| part.name.clone());
    let regions = ready.regions.iter().map(|part| part.name.clone());
    let parts: Vec<String> = globals.iter().cloned().chain(dns).chain(regions).collect();
    let apis = federation.apis()?;

    let stop = Arc::new(AtomicBool::new(false));
    let (mut writers, mut callers) = (JoinSet::new(), JoinSet::new());
    for n in 0..WRITERS {
        writers.spawn(keep_writing(n, apis.clone(), Arc::clone(&stop)));
    }
    for n in 0..CALLERS {
        callers.spawn(keep_calling(n, apis.clone(), Arc::clone(&stop)));
    }

    // Up to the new version, back to the old one, and up again, with every mix on the way.
    let mut has_news = false;
    for version in [new, old, new] {
        programs.install(version)?;
        for (done, part) in parts.iter().enumerate() {
            replace(&federation, part).await?;
            if version == new && done == 0 {
                // The first global node is new and the others are old.
                let (status, says) = put_note(&apis[0]).await?;
                has_news = status != 404;
                if has_news {
                    ensure!(status == 503, "{status} {says}");
                    ensure!(says.contains("note") && says.contains("global-"), "{says}");
                }
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut written, mut called) = (BTreeMap::new(), 0);
    for (writer, count) in writers.join_all().await.into_iter().enumerate() {
        written.insert(writer, count?);
    }
    for count in callers.join_all().await {
        called += count?;
    }
    let total: usize = written.values().sum();
    println!("measured: {total} writes, {called} calls, none lost and none failed");
    ensure!(total > 0 && called > 0, "nothing was going on");
    for api in &apis {
        let apps = apps_on(api).await?;
        let once = apps.values().all(|times| *times == 1);
        ensure!(
            once && apps.len() == total + 1,
            "{api} lists {} of {total}",
            apps.len() - 1
        );
    }
    if !has_news {
        return Ok(());
    }

    eventually("the new format is used", PATIENCE, async || {
        let (status, says) = put_note(&apis[0]).await?;
        ensure!(status == 204, "{status} {says}");
        Ok(())
    })
    .await?;
    well(&federation).await?;
    let region = &ready.regions.first().context("a region")?.name;
    let global = globals.first().context("a global node")?;
    for (program, part) in [("tradewind-global", global), ("tradewind-region", region)] {
        federation.stop(part).await?;
        refuses(&federation, old, program, part)?;
        federation.start_again(part).await?;
        well(&federation).await?;
    }
    Ok(())
}

/// `UPGRADE_PAIRS` has pairs `OLD:NEW` of folders with programs, with spaces between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-upgrade builds the versions"]
async fn parts_are_upgraded_and_rolled_back_one_by_one_and_nothing_is_lost() -> anyhow::Result<()> {
    let pairs = std::env::var("UPGRADE_PAIRS").context("run `make test-upgrade`")?;
    for pair in pairs.split_whitespace() {
        let (old, new) = pair.split_once(':').context("OLD:NEW")?;
        println!("from {old} to {new}");
        upgrade(Path::new(old), Path::new(new)).await?;
    }
    Ok(())
}
