//! Clients that call all the time, and what became of each call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use serde_json::Value;
use tokio::task::JoinSet;

/// Longer than a gateway holds a call back and a function may take here.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// Between calls of a client that got no answer: a gateway that starts needs the processor, too.
const PAUSE: Duration = Duration::from_millis(10);

/// How one call went.
#[derive(Debug, Clone)]
pub struct Call {
    pub started: Instant,
    pub took: Duration,
    pub outcome: CallOutcome,
}

#[derive(Debug, Clone)]
pub enum CallOutcome {
    /// 200, with what the function said.
    Answered(Value),
    /// 503: the gateway had no room for it, and no function saw it.
    Refused(String),
    /// The gateway says that it failed: it may have reached the function.
    Failed(u16, String),
    /// Nobody took the connection.
    Unreached(String),
    /// No answer came at all.
    Broken(String),
}

impl Call {
    #[must_use]
    pub fn answer(&self) -> Option<&Value> {
        match &self.outcome {
            CallOutcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    #[must_use]
    pub fn ended(&self) -> Instant {
        self.started + self.took
    }

    /// The pod that answered, if it says so.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        self.answer()?["pod"].as_str()
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
        Err(error) if error.is_connect() => {
            CallOutcome::Unreached(format!("{:#}", anyhow::Error::from(error)))
        }
        Err(error) => CallOutcome::Broken(format!("{:#}", anyhow::Error::from(error))),
        Ok(response) => {
            let status = response.status().as_u16();
            match response.text().await {
                Err(error) => CallOutcome::Broken(format!("{:#}", anyhow::Error::from(error))),
                Ok(text) if status == 200 => CallOutcome::Answered(
                    serde_json::from_str(&text).unwrap_or(Value::String(text)),
                ),
                Ok(text) if status == 503 => CallOutcome::Refused(text),
                Ok(text) => CallOutcome::Failed(status, text),
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
        CallOutcome::Answered(answer) => Ok(answer),
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
        Self::start_at(&[url.to_owned()], body, clients)
    }

    /// Each client calls the first of `urls` until nobody takes its connections any more, then the
    /// next.
    #[must_use]
    pub fn start_at(urls: &[String], body: &Value, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (mut urls, body) = (Vec::from(urls), body.clone());
            running.spawn(async move {
                let http = reqwest::Client::new();
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let Some(url) = urls.first() else {
                        break;
                    };
                    let call = call(&http, url, &body).await;
                    if matches!(call.outcome, CallOutcome::Unreached(_)) && urls.len() > 1 {
                        urls.remove(0);
                        continue;
                    }
                    if matches!(
                        call.outcome,
                        CallOutcome::Unreached(_) | CallOutcome::Broken(_)
                    ) {
                        tokio::time::sleep(PAUSE).await;
                    }
                    calls.push(call);
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

    /// Waits until calls have gone on for this long.
    pub async fn go_on(&self, long: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < long {
            self.more_calls(1).await?;
        }
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
    let lost = others().filter(|call| !matches!(call.outcome, CallOutcome::Failed(502 | 504, _)));
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

/// Checks that no pod had two calls inside at once, of calls that each took `work` there and whose
/// answers name their pods: whatever span of time one looks at, the calls that began and ended in it
/// fit into it one after the other. Returns how many pods there were.
pub fn one_at_a_time(calls: &[Call], work: Duration) -> anyhow::Result<usize> {
    let mut of_pods = BTreeMap::<&str, Vec<&Call>>::new();
    for call in calls.iter().filter(|call| call.answer().is_some()) {
        let pod = call.pod().context("an answer names its pod")?;
        of_pods.entry(pod).or_default().push(call);
    }
    for (pod, calls) in &mut of_pods {
        calls.sort_by_key(|call| call.ended());
        for first in calls.iter() {
            let within = calls.iter().filter(|call| call.started >= first.started);
            for (before, last) in within.enumerate() {
                let (count, span) = (before + 1, last.ended() - first.started);
                let needed = work * u32::try_from(count).context("few calls")?;
                ensure!(
                    needed <= span,
                    "{pod} ran {count} calls of {work:?} within {span:?}"
                );
            }
        }
    }
    Ok(of_pods.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_at_once_in_a_pod_are_found() {
        let began = Instant::now();
        let call = |pod: &str, from: u64, until: u64| Call {
            started: began + Duration::from_millis(from),
            took: Duration::from_millis(until - from),
            outcome: CallOutcome::Answered(serde_json::json!({ "pod": pod })),
        };
        for (case, calls, fine) in [
            (
                "one after the other",
                vec![call("a", 0, 10), call("a", 10, 20)],
                true,
            ),
            (
                "one waited for the other",
                vec![call("a", 0, 10), call("a", 0, 20)],
                true,
            ),
            (
                "in two pods",
                vec![call("a", 0, 10), call("b", 0, 10)],
                true,
            ),
            (
                "both at once",
                vec![call("a", 0, 10), call("a", 3, 13)],
                false,
            ),
            (
                "the third has no room",
                vec![call("a", 0, 20), call("a", 0, 20), call("a", 5, 19)],
                false,
            ),
        ] {
            let checked = one_at_a_time(&calls, Duration::from_millis(10));
            assert_eq!(checked.is_ok(), fine, "{case}: {checked:?}");
        }
    }
}
