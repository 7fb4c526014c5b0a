//! Clients that call all the time, and what became of each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use serde_json::Value;
use tokio::task::JoinSet;

/// Longer than a gateway holds a call back and a function may take here.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// How one call went.
#[derive(Debug, Clone)]
pub struct Call {
    pub started: Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// 200, with what the function said.
    Answered(Value),
    /// 503: the gateway had no room for it, and no function saw it.
    Refused(String),
    /// The gateway says that it failed: it may have reached the function.
    Failed(u16, String),
    /// No answer came at all.
    Broken(String),
}

impl Call {
    #[must_use]
    pub fn answer(&self) -> Option<&Value> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }
}

/// Posts `body` to a gateway once.
pub async fn call(http: &reqwest::Client, url: &str, body: &Value) -> Call {
    let started = Instant::now();
    let sent = http
        .post(url)
        .timeout(CALL_PATIENCE)
        .body(body.to_string())
        .send()
        .await;
    let outcome = match sent {
        Err(error) => Outcome::Broken(format!("{:#}", anyhow::Error::from(error))),
        Ok(response) => {
            let status = response.status().as_u16();
            match response.text().await {
                Err(error) => Outcome::Broken(format!("{:#}", anyhow::Error::from(error))),
                Ok(text) if status == 200 => {
                    Outcome::Answered(serde_json::from_str(&text).unwrap_or(Value::String(text)))
                }
                Ok(text) if status == 503 => Outcome::Refused(text),
                Ok(text) => Outcome::Failed(status, text),
            }
        }
    };
    Call {
        started,
        took: started.elapsed(),
        outcome,
    }
}

/// Calls once and returns the answer; anything but 200 is an error.
pub async fn answer(http: &reqwest::Client, url: &str, body: &Value) -> anyhow::Result<Value> {
    let call = call(http, url, body).await;
    match call.outcome {
        Outcome::Answered(answer) => Ok(answer),
        other => anyhow::bail!("{url}: {other:?} after {:?}", call.took),
    }
}

/// Clients at work, each with one call under way at any time.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Vec<Call>>,
}

impl Load {
    #[must_use]
    pub fn start(url: &str, body: &Value, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (url, body) = (url.to_owned(), body.clone());
            running.spawn(async move {
                let http = reqwest::Client::new();
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    calls.push(call(&http, &url, &body).await);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                calls
            });
        }
        Self {
            stop,
            done,
            clients: running,
        }
    }

    /// Waits until `more` further calls have ended.
    pub async fn more_calls(&self, more: usize) -> anyhow::Result<()> {
        let want = self.done.load(Ordering::Relaxed) + more;
        eventually("calls go on", Duration::from_secs(120), async || {
            let done = self.done.load(Ordering::Relaxed);
            ensure!(done >= want, "{done} of {want} calls ended");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Has every client finish its call.
    pub async fn finish(self) -> anyhow::Result<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let finished = tokio::time::timeout(CALL_PATIENCE * 2, self.clients.join_all()).await;
        Ok(finished
            .context("a call never ended")?
            .into_iter()
            .flatten()
            .collect())
    }
}

/// Prints what became of calls, and checks that no more failed than may: `may_fail` were under way
/// at what was killed, and none was lost before it reached a function.
pub fn judge(what: &str, calls: &[Call], may_fail: usize) -> anyhow::Result<()> {
    let answered = calls.iter().filter(|call| call.answer().is_some()).count();
    let others = || calls.iter().filter(|call| call.answer().is_none());
    let slowest = calls.iter().map(|call| call.took).max().unwrap_or_default();
    println!(
        "measured: {what}: {answered} of {} calls answered, slowest {slowest:.2?}, {may_fail} may fail",
        calls.len()
    );
    ensure!(answered > 0, "{what}: no call was answered");
    for call in others() {
        println!(
            "measured: {what}: not answered after {:.2?}: {:?}",
            call.took, call.outcome
        );
    }
    let lost = others().filter(|call| !matches!(call.outcome, Outcome::Failed(502 | 504, _)));
    ensure!(
        lost.count() == 0,
        "{what}: calls that had reached no function were not answered"
    );
    ensure!(
        others().count() <= may_fail,
        "{what}: {} calls failed, {may_fail} may have been under way at what was killed",
        others().count()
    );
    Ok(())
}
