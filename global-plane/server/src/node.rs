//! One node: what its handlers share.

use std::net::IpAddr;
use std::sync::Arc;

use api_fn_http::endpoints::{self, Names};
use api_fn_http::{Consistency, Reached, Unavailable};
use api_types::{App, Catalog, Digest, Revision};
use calls_forward::{Forwarder, Gateway};
use dns_steering::Target;
use global_plane_consensus::{Handle, NodeId};
use global_plane_state::Outcome;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::agreement::Agreement;
use crate::bundles::BundleStore;
use crate::config::{Config, Member};
use crate::leader::Leader;
use crate::machine::Replica;
use crate::peers::Peers;
use crate::reader::Reader;
use crate::steering;
use crate::views::Views;
use crate::writer::Writer;

pub struct Node {
    pub config: Arc<Config>,
    pub replica: Arc<Replica>,
    pub consensus: Handle<Outcome>,
    pub reader: Reader,
    pub writer: Arc<Writer>,
    pub leader: Arc<Leader>,
    pub agreement: Arc<Agreement>,
    pub peers: Peers,
    pub views: Views,
    pub bundles: BundleStore,
    pub forwarder: Arc<Forwarder>,
    pub map: Arc<dns_worldmap::WorldMap>,
    /// Metadata snapshots built at once: each is a copy of the whole catalog in memory.
    pub snapshots: Semaphore,
    pub shutdown: CancellationToken,
}

/// Raft's state as this node sees it.
#[derive(Debug, Clone, Copy)]
pub struct Raft<'a> {
    pub role: &'static str,
    pub term: u64,
    pub leader: Option<&'a Member>,
}

impl Node {
    #[must_use]
    pub fn raft(&self) -> Raft<'_> {
        let status = self.consensus.status();
        let status = status.borrow();
        Raft {
            role: status.role.as_str(),
            term: status.term,
            leader: status.leader.and_then(|NodeId(id)| self.config.member(id)),
        }
    }

    /// Where endpoints begin, as [`endpoints::base_url`] has it. `host` is the one that was asked.
    #[must_use]
    pub fn base_url(&self, app: Option<&App>, host: Option<&str>) -> String {
        let listen = self.config.api_listen.to_string();
        let names = Names {
            zone: &self.config.zone,
            gateway_port: self.config.gateway_port,
        };
        endpoints::base_url(&self.config.public_url, names, app, host.unwrap_or(&listen))
    }

    /// Size of a bundle that a majority has.
    #[must_use]
    pub fn knows_bundle(&self, digest: Digest) -> Option<u64> {
        self.replica
            .read(|state| state.catalog().bundle(&digest).map(|bundle| bundle.size))
    }

    /// Gateways that may serve a call, best first.
    #[must_use]
    pub fn steer(&self, client: IpAddr, called: &Target) -> Vec<Gateway> {
        match &self.views.steering(&self.replica).view {
            Ok(view) => steering::gateways(view, &self.config.policy(), client, called),
            Err(_) => Vec::new(),
        }
    }
}

/// The catalog as the reading half of Fn's API asks for it.
#[derive(Clone)]
pub struct Source(pub Arc<Node>);

impl api_fn_http::Source for Source {
    async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> Result<R, Unavailable> {
        let read = self.0.reader.read(consistency, |state| {
            answer(state.catalog(), state.revision())
        });
        read.await.map_err(|none| Unavailable(none.to_string()))
    }

    fn base_url(&self, app: Option<&App>, reached: &Reached) -> String {
        self.0.base_url(app, reached.host.as_deref())
    }
}
