//! Telling the operator what is wanted, and hearing what will not come.

use std::sync::Arc;
use std::time::Duration;

use api_types::chain;
use region_plane_resources::demand::{
    Demand, DemandReply, FORGOTTEN_AFTER, PATH, Sizing, TOLD_EVERY,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::identity::Identity;
use crate::seats::Seats;

/// What changes within this is told at once: a burst of calls starts many instances.
const GATHER: Duration = Duration::from_millis(20);

/// Telling takes a fifth of the time at most, however many instances there are to tell of.
const GATHER_OF_TELLING: u32 = 4;

/// An operator answers from its memory.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Why an operator did not take a demand.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("exchange with the operator at {operator}")]
    Exchange {
        operator: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the operator at {operator} answered {status}")]
    Refused {
        operator: String,
        status: http::StatusCode,
    },
    #[error("the operator at {operator} is not the newest: its fence is {fence}")]
    Stale { operator: String, fence: u64 },
}

/// Tells at once on each change, and every second, for ever. With no operator to be heard the
/// gateway works with the pods there are.
pub async fn tell(
    seats: Arc<Seats>,
    operators: Vec<String>,
    gateway: Identity,
    sizing: watch::Sender<Sizing>,
) {
    if operators.is_empty() {
        warn!("no operator is configured: no pods will be asked for");
        return;
    }
    let mut teller = Teller {
        http: client(),
        operators,
        leader: 0,
        fence: 0,
        heard_at: None,
        heard: true,
    };
    let mut sequence = 0;
    let mut next = Instant::now();
    let mut gather = GATHER;
    loop {
        tokio::select! {
            () = seats.demand_changed.notified() => sleep(gather).await,
            () = sleep_until(next) => {}
        }
        let began = Instant::now();
        next = began + TOLD_EVERY;
        sequence += 1;
        let snapshot = seats.demand();
        let demand = Demand {
            gateway: gateway.name.clone(),
            boot: gateway.boot,
            sequence,
            functions: snapshot.functions,
            claims: snapshot.claims,
            finished: snapshot.finished,
            failures: snapshot.failures,
        };
        if let Some(reply) = teller.tell(&demand).await {
            for problem in &reply.problems {
                seats.hopeless(problem, snapshot.newest);
            }
            told(&sizing, reply.sizing);
        } else if !teller.has_heard_recently() {
            // Rather none than one of hours ago.
            told(&sizing, Sizing::default());
        }
        gather = (began.elapsed() * GATHER_OF_TELLING).clamp(GATHER, TOLD_EVERY);
    }
}

fn told(sizing: &watch::Sender<Sizing>, now: Sizing) {
    sizing.send_if_modified(|sizing| std::mem::replace(sizing, now) != now);
}

struct Teller {
    http: reqwest::Client,
    operators: Vec<String>,
    /// Of [`Self::operators`], the one that took the last.
    leader: usize,
    fence: u64,
    heard_at: Option<Instant>,
    /// So that a silence is one line and not thousands.
    heard: bool,
}

impl Teller {
    /// Each operator is tried once, the leader first.
    async fn tell(&mut self, demand: &Demand) -> Option<DemandReply> {
        let mut last = None;
        for _ in 0..self.operators.len() {
            match self.tell_one(demand).await {
                Ok(reply) => {
                    if !self.heard {
                        info!("operator takes demand again");
                        self.heard = true;
                    }
                    return Some(reply);
                }
                Err(error) => {
                    last = Some(error);
                    self.leader = (self.leader + 1) % self.operators.len();
                    // One address may stand for several processes: a kept connection would go on
                    // asking the one that does not lead.
                    self.http = client();
                }
            }
        }
        metrics::counter!("tradewind_region_demand_errors_total").increment(1);
        if let Some(error) = last.filter(|_| self.heard) {
            warn!(
                error = chain(&error),
                "no operator takes demand, using the existing pods"
            );
            self.heard = false;
        }
        None
    }

    async fn tell_one(&mut self, demand: &Demand) -> Result<DemandReply, TellError> {
        let operator = &self.operators[self.leader];
        let failed = |source| TellError::Exchange {
            operator: operator.clone(),
            source,
        };
        let url = format!("{}{PATH}", operator.trim_end_matches('/'));
        let response = self
            .http
            .post(url)
            .json(demand)
            .send()
            .await
            .map_err(failed)?;
        if !response.status().is_success() {
            return Err(TellError::Refused {
                operator: operator.clone(),
                status: response.status(),
            });
        }
        let reply: DemandReply = response.json().await.map_err(failed)?;
        // A lease that was made anew counts from the start: after a while its holder is believed.
        if reply.fence < self.fence && self.has_heard_recently() {
            return Err(TellError::Stale {
                operator: operator.clone(),
                fence: reply.fence,
            });
        }
        self.fence = reply.fence;
        self.heard_at = Some(Instant::now());
        Ok(reply)
    }

    fn has_heard_recently(&self) -> bool {
        self.heard_at
            .is_some_and(|at| at.elapsed() < FORGOTTEN_AFTER)
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(ANSWER_MAX)
        .build()
        .expect("nothing of the machine is needed without TLS")
}
