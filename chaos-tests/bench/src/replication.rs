//! How a change of one function travels to the regions, and how that depends on how many there are.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use chaos_tests_cluster::federation::RegionProcess;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cpu::{self, Cpu, HEADINGS};
use crate::heading;
use crate::spread::Spread;
use crate::writes::leader;

/// Creates that are timed, one after the other.
const CREATES: usize = 200;

/// Functions there are before those.
const COUNTS: [usize; 2] = [100, 10_000];

/// Functions that a region holds when it catches up, and changes it has missed then.
const HELD: usize = 30_000;
const MISSED: usize = 2_000;

/// Functions of one app; it may have twice as many.
const FNS_OF_APP: usize = 5_000;

/// Creates under way at once while the functions before are made.
const WRITERS: usize = 32;

/// Between looks at a region: what a look costs is taken from what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// This only ends a bench that hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// A federation with functions that all have the same code.
struct Functions<'a> {
    federation: &'a Federation,
    http: Client,
    api: String,
    /// Of the first [`FNS_OF_APP`] functions, of the next, ...
    apps: Vec<String>,
    image: String,
    /// How many there are.
    count: usize,
}

pub async fn measured(federation: &Federation) -> anyhow::Result<()> {
    let mut functions = Functions::new(federation).await?;
    heading("One more function")?;
    println!(
        "Time from `POST /v2/fns` until all three regions have applied it, {CREATES} creates one after the \
         other; milliseconds. Time on a processor is all global nodes' and regions' for each create, with \
         their answers to this bench, which asks the regions all the time.\n"
    );
    println!("| functions | p50 | p99 | {HEADINGS} |");
    println!("|---|---|---|---|---|---|");
    for count in COUNTS {
        functions
            .held_by(count, &federation.ready()?.regions)
            .await?;
        let ready = federation.ready()?;
        let globals = ready.globals.iter().map(|node| node.pid);
        let regions = ready.regions.iter().map(|region| region.pid);
        let pids: Vec<i32> = globals.chain(regions).collect();
        let before = cpu::used(&pids)?;
        let mut samples = Vec::new();
        for _ in 0..CREATES {
            samples.push(functions.one_more().await?);
        }
        let cells = cpu::used(&pids)?.since(before).cells(CREATES)?;
        let spread = Spread::new(samples);
        println!(
            "| {count} | {} | {} | {cells} |",
            spread.percentile(50),
            spread.percentile(99)
        );
    }
    println!();

    heading("Catching up")?;
    let (changes, took, used) = functions.catch_up().await?;
    println!(
        "A region with {HELD} functions, started again after {MISSED} changes of functions: the last \
         {changes} of them in {:.2} s, {:.0} revisions a second. It used {:.2} s of a processor as itself \
         and {:.2} s in the kernel.\n",
        took.as_secs_f64(),
        changes as f64 / took.as_secs_f64(),
        used.user.as_secs_f64(),
        used.system.as_secs_f64()
    );
    Ok(())
}

impl<'a> Functions<'a> {
    async fn new(federation: &'a Federation) -> anyhow::Result<Self> {
        federation.deploy_hello("replication")?;
        let (http, api) = (Client::new(), leader(federation).await?);
        let get = async |path: String| -> anyhow::Result<Value> {
            Ok(http
                .get(format!("{api}{path}"))
                .send()
                .await?
                .json()
                .await?)
        };
        let apps = get("/v2/apps?name=replication".to_owned()).await?;
        let app = apps["items"][0]["id"]
            .as_str()
            .context("the app")?
            .to_owned();
        let fns = get(format!("/v2/fns?app_id={app}")).await?;
        let image = fns["items"][0]["image"].as_str().context("the image")?;
        Ok(Self {
            federation,
            image: image.to_owned(),
            http,
            api,
            apps: vec![app],
            count: 1,
        })
    }

    /// Has these regions hold so many functions. They begin with a snapshot: how fast they follow is
    /// another question.
    async fn held_by(&mut self, count: usize, regions: &[RegionProcess]) -> anyhow::Result<()> {
        for region in regions {
            self.federation.kill(&region.name).await?;
        }
        let revision = self.fill(count).await?;
        for region in regions {
            let data = self.federation.up_dir().join("data").join(&region.name);
            std::fs::remove_dir_all(data.join("replica")).context("remove the region's copy")?;
            let region = self.started(&region.name).await?;
            self.has_applied(&region, revision).await?;
        }
        Ok(())
    }

    async fn started(&self, name: &str) -> anyhow::Result<RegionProcess> {
        self.federation.start_again(name).await?;
        let mut regions = self.federation.ready()?.regions.into_iter();
        let started = regions.find(|region| region.name == name);
        started.context("the region")
    }

    /// Creates functions until there are so many; the revision of the last.
    async fn fill(&mut self, count: usize) -> anyhow::Result<u64> {
        while self.apps.len() <= count / FNS_OF_APP {
            let body = json!({"name": format!("replication-{}", self.apps.len())});
            let made = self.http.post(format!("{}/v2/apps", self.api)).json(&body);
            let app: Value = made.send().await?.error_for_status()?.json().await?;
            let app = app["id"].as_str().context("an app")?;
            self.apps.push(app.to_owned());
        }
        let mut tasks = JoinSet::new();
        let mut revision = 0;
        for number in self.count..count {
            if tasks.len() == WRITERS {
                revision = ended(&mut tasks).await?.max(revision);
            }
            tasks.spawn(self.create(number));
        }
        while !tasks.is_empty() {
            revision = ended(&mut tasks).await?.max(revision);
        }
        self.count = count.max(self.count);
        Ok(revision)
    }

    fn create(&self, number: usize) -> impl Future<Output = anyhow::Result<u64>> + use<> {
        let (http, url) = (self.http.clone(), format!("{}/v2/fns", self.api));
        let body = json!({
            "name": format!("f{number:06}"), "app_id": self.apps[number / FNS_OF_APP], "image": self.image,
            "memory": 128, "timeout": 30, "idle_timeout": 30,
        });
        async move {
            let answer = http.post(url).json(&body).send().await.context("send")?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let text = answer.text().await.context("read")?;
            ensure!(status.is_success(), "{status}: {text}");
            let revision = headers.get("tradewind-revision").context("a revision")?;
            Ok(revision.to_str()?.parse()?)
        }
    }

    async fn one_more(&mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let revision = self.create(self.count).await?;
        self.everywhere(revision).await?;
        self.count += 1;
        Ok(begin.elapsed())
    }

    async fn everywhere(&self, revision: u64) -> anyhow::Result<()> {
        for region in self.federation.ready()?.regions {
            self.has_applied(&region, revision).await?;
        }
        Ok(())
    }

    async fn has_applied(&self, region: &RegionProcess, revision: u64) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.applied(&region.admin).await.unwrap_or(0) < revision {
            let name = &region.name;
            ensure!(begin.elapsed() < PATIENCE, "{name} does not follow");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn applied(&self, admin: &str) -> anyhow::Result<u64> {
        let answer = self.http.get(format!("http://{admin}/v1/status")).send();
        let status: Value = answer.await?.json().await?;
        status["revision"].as_u64().context("a revision")
    }

    /// Changes functions while a region is gone; how many of the changes it was seen to take, and the
    /// time and the processor's time that took.
    async fn catch_up(&mut self) -> anyhow::Result<(u64, Duration, Cpu)> {
        // One region alone: what others do would be measured too.
        let mut regions = self.federation.ready()?.regions;
        for region in regions.drain(1..) {
            self.federation.kill(&region.name).await?;
        }
        self.held_by(HELD, &regions).await?;
        let name = &regions.first().context("a region")?.name;
        self.federation.kill(name).await?;
        let fns = self
            .http
            .get(format!("{}/v2/fns?app_id={}", self.api, self.apps[0]));
        let fns: Value = fns.send().await?.json().await?;
        let function = fns["items"][0]["id"].as_str().context("a function")?;
        let mut newest = 0;
        for number in 0..MISSED {
            let body = json!({"config": {"NUMBER": number.to_string()}});
            let put = self.http.put(format!("{}/v2/fns/{function}", self.api));
            let answer = put.json(&body).send().await?.error_for_status()?;
            let revision = answer
                .headers()
                .get("tradewind-revision")
                .context("a revision")?;
            newest = revision.to_str()?.parse()?;
        }
        let region = self.started(name).await?;
        let (admin, pid) = (&region.admin, [region.pid]);
        // It listens before it follows.
        let begin = Instant::now();
        let (mut first, mut since, mut before) = (None, begin, cpu::used(&pid)?);
        loop {
            ensure!(begin.elapsed() < PATIENCE, "{name} does not follow");
            let Ok(revision) = self.applied(admin).await else {
                continue;
            };
            // The clock starts where it was last seen to have applied nothing.
            let first = *first.get_or_insert(revision);
            if revision == first {
                (since, before) = (Instant::now(), cpu::used(&pid)?);
            }
            if revision >= newest {
                let used = cpu::used(&pid)?.since(before);
                return Ok((revision - first, since.elapsed(), used));
            }
        }
    }
}

async fn ended(tasks: &mut JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    tasks.join_next().await.context("a writer")??
}
