//! Keeps one region's cluster in step: `Function` objects with the metadata, pods with what
//! gateways want.
//!
//! [`plan`] decides, from plain data; everything else gathers what it needs and does what it says.
//! Gateways are told nothing they wait for: an instance is started by claiming a pod at the pod's
//! own runner, and what is written to the cluster only refills. This crate refuses to know of calls.
//!
//! Safe to run several times: the holder of a Lease writes, and the others watch.

mod api_failure;
mod bucket;
mod client;
mod cluster;
pub mod config;
mod definitions;
pub mod http;
mod lease;
mod notes;
pub mod plan;
mod reconcile;
mod settings;
mod state;
pub mod template;
mod write;
mod writer;

use kube::Client;
use region_plane_resources::demand::{Demand, DemandReply};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use lease::Contender;
use notes::Notes;
use reconcile::{Ask, Reconciler};
use write::Writer;

pub use client::connect;
pub use lease::{ACCEPT_DELETIONS, Leadership};
pub use reconcile::{PodCounts, PoolPods, Source, Status};
pub use settings::{PodSettings, Settings};

/// Watches tell in bursts; the task that decides takes them by the thousand.
const CHANGES_MAX: usize = 4_096;

/// Gateways tell once a second and wait for the answer.
const ASKS_MAX: usize = 256;

/// An operator that is ready to [`run`](Self::run).
pub struct Operator {
    settings: Settings,
    client: Client,
    source: Source,
    asks: mpsc::Receiver<Ask>,
    status: watch::Sender<Status>,
    handle: Handle,
}

/// Talks to a running [`Operator`]. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<Status>,
}

impl Operator {
    /// `client` is one that [`connect`] made.
    #[must_use]
    pub fn new(settings: Settings, client: Client, source: Source) -> Self {
        let (ask, asks) = mpsc::channel(ASKS_MAX);
        let status = Status {
            identity: settings.identity.clone(),
            waiting_for: Some("the start".to_owned()),
            not_listed: state::LISTED_BEFORE_READY
                .map(|kind| kind.resource().to_owned())
                .into(),
            ..Status::default()
        };
        let (status, statuses) = watch::channel(status);
        Self {
            settings,
            client,
            source,
            asks,
            status,
            handle: Handle {
                asks: ask,
                status: statuses,
            },
        }
    }

    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown`, then gives up the lease. Survives whatever the API server does.
    pub async fn run(self, shutdown: CancellationToken) {
        let start = Instant::now();
        let (change, changes) = mpsc::channel(CHANGES_MAX);
        let (lead, leadership) = watch::channel(None);
        let (accept, accepted) = watch::channel(0);
        let (note, noted) = mpsc::channel(notes::WAITING_MAX);
        // Cancelled last, so that what is under way is seen through while the lease is held.
        let end = CancellationToken::new();
        let mut watches = JoinSet::new();
        cluster::follow(
            &mut watches,
            &self.client,
            &self.settings.namespace,
            &change,
        );
        watches.spawn(definitions::follow(self.client.clone(), change));

        let mut tasks = JoinSet::new();
        let contender = Contender::new(
            self.client.clone(),
            self.settings.clone(),
            start,
            lead,
            accept,
        );
        tasks.spawn(contender.run(end.child_token()));
        tasks.spawn(notes::publish(
            self.client.clone(),
            self.settings.identity.clone(),
            noted,
            end.child_token(),
        ));
        let reconciler = Reconciler {
            writer: Writer::new(
                self.client,
                self.settings.namespace.clone(),
                start,
                self.settings.lease_ttl,
                leadership.clone(),
            ),
            notes: Notes::new(note),
            settings: self.settings,
            start,
            source: self.source,
            leadership,
            accepted,
            changes,
            asks: self.asks,
            status: self.status,
        };
        let mut deciding = JoinSet::new();
        let shutdown = shutdown.child_token();
        deciding.spawn(reconciler.run(shutdown.clone()));
        let unasked = tokio::select! {
            ended = deciding.join_next() => ended.and_then(Result::err).map(|error| error.to_string()),
            Some(ended) = watches.join_next() => Some(format!("{ended:?}")),
            Some(ended) = tasks.join_next() => Some(format!("{ended:?}")),
        };
        if let Some(unasked) = unasked {
            error!(error = unasked, "a task ended unexpectedly");
        }
        shutdown.cancel();
        while deciding.join_next().await.is_some() {}
        watches.shutdown().await;
        end.cancel();
        while tasks.join_next().await.is_some() {}
    }
}

/// Another leads, or none does: ask the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this operator is not the leader")]
pub struct NotLeading;

impl Handle {
    /// Takes what a gateway wants.
    ///
    /// # Errors
    /// If this operator does not lead.
    pub async fn demand(&self, demand: Demand) -> Result<DemandReply, NotLeading> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { demand, reply };
        self.asks.send(ask).await.map_err(|_| NotLeading)?;
        answer.await.ok().flatten().ok_or(NotLeading)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Changes with every decision.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}
