//! Who may write: the holder of a Lease.
//!
//! [`Election`] is the pure core: it is told what the Lease says and what became of our writes, and
//! says what to do next. Others' times are never compared with ours: a lease has run out when it
//! was not changed for its duration on our own clock. A lease is no mutual exclusion (an operator
//! may sleep between looking and writing), so its count of transitions goes with what is written
//! as a fence, and whoever did not renew in two thirds of the time stops by itself.

use std::time::Duration;

use api_types::chain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use region_plane_resources::labels;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::plan::Moment;
use crate::settings::Settings;

/// Annotation on the Lease by which a person says that a mass deletion is meant. It is acted upon by
/// who takes it off, for a while.
pub const ACCEPT_DELETIONS: &str = "tradewind.dev/accept-deletions";

/// What the Lease says, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Empty if it was given up.
    pub holder: String,
    pub transitions: u64,
    pub ttl: Duration,
    /// Differs with every write.
    pub version: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look again at this time.
    Look { at: Moment },
    /// Write the lease as ours, with this fence, if it is still of this version; `None` if there is
    /// none.
    Write {
        version: Option<String>,
        transitions: u64,
    },
}

#[derive(Debug)]
pub struct Election {
    identity: String,
    ttl: Duration,
    seen: Option<(Record, Moment)>,
    held: Option<HeldLease>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeldLease {
    fence: u64,
    since: Moment,
    /// When the last write that succeeded was begun.
    renewed: Moment,
}

impl Election {
    #[must_use]
    pub fn new(identity: String, ttl: Duration) -> Self {
        Self {
            identity,
            ttl,
            seen: None,
            held: None,
        }
    }

    /// The Lease was read at `now`.
    pub fn saw(&mut self, record: Option<Record>, now: Moment) -> Step {
        let Some(record) = record else {
            self.seen = None;
            self.held = None;
            return Step::Write {
                version: None,
                transitions: 0,
            };
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let ours = record.holder == self.identity;
        if !ours {
            self.held = None;
        }
        let expired = record.holder.is_empty() || now >= since + record.ttl;
        let step = if ours
            && self
                .held
                .is_some_and(|held| held.fence == record.transitions)
        {
            Step::Write {
                version: Some(record.version.clone()),
                transitions: record.transitions,
            }
        } else if ours || expired {
            // Ours by name, but we do not remember: we were another process then.
            Step::Write {
                version: Some(record.version.clone()),
                transitions: record.transitions + 1,
            }
        } else {
            Step::Look {
                at: (since + record.ttl).min(now + self.ttl / 3),
            }
        };
        self.seen = Some((record, since));
        step
    }

    /// A write that was begun at `began` succeeded.
    pub fn wrote(&mut self, record: Record, began: Moment) -> Step {
        let fence = record.transitions;
        self.held = Some(match self.held {
            Some(held) if held.fence == fence => HeldLease {
                renewed: began,
                ..held
            },
            _ => HeldLease {
                fence,
                since: began,
                renewed: began,
            },
        });
        self.seen = Some((record, began));
        Step::Look {
            at: began + self.ttl / 3,
        }
    }

    /// Reading or writing failed, with an answer or without one.
    pub fn failed(&mut self, now: Moment) -> Step {
        if self.held.is_some_and(|held| now >= self.ends(held)) {
            self.held = None;
        }
        Step::Look {
            at: now + self.ttl / 10,
        }
    }

    /// Whether we may write, as far as is known.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        self.held.map(|held| Leadership {
            fence: held.fence,
            since: held.since,
            until: self.ends(held),
        })
    }

    /// Before anybody else can take it.
    fn ends(&self, held: HeldLease) -> Moment {
        held.renewed + self.ttl * 2 / 3
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Greater than that of everyone who led before, as long as nobody deletes the Lease.
    pub fence: u64,
    pub since: Moment,
    /// Not to be relied on from then on.
    pub until: Moment,
}

impl Leadership {
    #[must_use]
    pub fn holds(&self, now: Moment) -> bool {
        now < self.until
    }
}

/// Why nothing is known of the lease.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the server did not answer in time")]
    Silent,
    #[error("read the lease")]
    Read {
        #[source]
        source: kube::Error,
    },
    #[error("write the lease")]
    Write {
        #[source]
        source: kube::Error,
    },
}

/// Contends for the lease until `shutdown`, then gives it up.
pub(crate) struct Contender {
    api: Api<Lease>,
    settings: Settings,
    /// The start of every [`Moment`].
    start: Instant,
    leadership: watch::Sender<Option<Leadership>>,
    /// Counts requests to accept a mass deletion.
    accepted: watch::Sender<u64>,
}

impl Contender {
    pub fn new(
        client: Client,
        settings: Settings,
        start: Instant,
        leadership: watch::Sender<Option<Leadership>>,
        accepted: watch::Sender<u64>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            settings,
            start,
            leadership,
            accepted,
        }
    }

    pub async fn run(self, shutdown: CancellationToken) {
        let mut election = Election::new(self.settings.identity.clone(), self.settings.lease_ttl);
        let mut troubled = false;
        loop {
            let step = tokio::select! {
                () = shutdown.cancelled() => break,
                step = self.round(&mut election, &mut troubled) => step,
            };
            self.publish(&election);
            let Step::Look { at } = step else { continue };
            let until = election
                .leadership()
                .map_or(at, |leadership| at.min(leadership.until));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(until.saturating_sub(self.now())) => {}
            }
        }
        let held = self.leadership.send_replace(None);
        if held.is_some_and(|held| held.holds(self.now())) {
            self.give_up().await;
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// Longest wait for an answer: a second try must fit before we would have to stop.
    fn patience(&self) -> Duration {
        self.settings.lease_ttl / 6
    }

    async fn round(&self, election: &mut Election, troubled: &mut bool) -> Step {
        match self.look_and_write(election).await {
            Ok(step) => {
                *troubled = false;
                step
            }
            Err(problem) => {
                if !std::mem::replace(troubled, true) {
                    warn!(
                        error = chain(&problem),
                        lease = self.settings.lease_name,
                        "cannot use the lease"
                    );
                }
                election.failed(self.now())
            }
        }
    }

    async fn look_and_write(&self, election: &mut Election) -> Result<Step, LeaseError> {
        let name = &self.settings.lease_name;
        let looked = timeout(self.patience(), self.api.get_opt(name)).await;
        let lease = looked
            .map_err(|_| LeaseError::Silent)?
            .map_err(|source| LeaseError::Read { source })?;
        let step = election.saw(lease.as_ref().map(record), self.now());
        let Step::Write { transitions, .. } = &step else {
            return Ok(step);
        };
        let began = self.now();
        let accepts = lease
            .as_ref()
            .and_then(|lease| lease.metadata.annotations.as_ref())
            .is_some_and(|annotations| annotations.contains_key(ACCEPT_DELETIONS));
        // Before the write that takes it off, whose answer may be lost.
        if accepts {
            self.accepted.send_modify(|count| *count += 1);
        }
        let ours = self.ours(lease, *transitions);
        let params = PostParams::default();
        let written = async {
            match &ours.metadata.resource_version {
                None => self.api.create(&params, &ours).await,
                Some(_) => self.api.replace(name, &params, &ours).await,
            }
        };
        let written = timeout(self.patience(), written)
            .await
            .map_err(|_| LeaseError::Silent)?;
        match written {
            Ok(lease) => Ok(election.wrote(record(&lease), began)),
            // Another was faster; who, the next look says.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Step::Look {
                at: self.now() + self.settings.lease_ttl / 10,
            }),
            Err(source) => Err(LeaseError::Write { source }),
        }
    }

    fn ours(&self, lease: Option<Lease>, transitions: u64) -> Lease {
        let before = lease.unwrap_or_default();
        let spec = before.spec.unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let kept = spec.holder_identity.as_deref() == Some(&self.settings.identity)
            && spec.lease_transitions.map(u64_of) == Some(transitions);
        let mut annotations = before.metadata.annotations.unwrap_or_default();
        annotations.remove(ACCEPT_DELETIONS);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.settings.lease_name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                labels: Some(
                    [(
                        labels::MANAGED_BY.to_owned(),
                        labels::MANAGED_BY_VALUE.to_owned(),
                    )]
                    .into(),
                ),
                annotations: Some(annotations),
                resource_version: before.metadata.resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: i32::try_from(self.settings.lease_ttl.as_secs().max(1))
                    .ok(),
                lease_transitions: i32::try_from(transitions).ok(),
                acquire_time: match kept {
                    true => spec.acquire_time,
                    false => Some(now.clone()),
                },
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    fn publish(&self, election: &Election) {
        let now = self.now();
        let leadership = election.leadership().filter(|held| held.holds(now));
        self.leadership.send_if_modified(|current| {
            let changed = *current != leadership;
            match (current.as_ref(), leadership) {
                (None, Some(leadership)) => info!(fence = leadership.fence, "leading"),
                (Some(_), None) => warn!("not leading any more"),
                _ => {}
            }
            *current = leadership;
            changed
        });
    }

    /// So that another need not wait for it to run out.
    async fn give_up(&self) {
        let given_up = async {
            let Some(mut lease) = self.api.get_opt(&self.settings.lease_name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            let params = PostParams::default();
            self.api
                .replace(&self.settings.lease_name, &params, &lease)
                .await
                .map(|_| ())
        };
        match timeout(self.patience(), given_up).await {
            Ok(Ok(())) => info!("gave up the lease"),
            Ok(Err(error)) => warn!(
                error = chain(&error),
                "lease not given up, it expires by itself"
            ),
            Err(_) => warn!("lease not given up in time, it expires by itself"),
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.map_or(0, u64_of),
        ttl: Duration::from_secs(spec.lease_duration_seconds.map_or(0, u64_of)),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// What the API has as a signed number that is never negative.
fn u64_of(number: i32) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests;
