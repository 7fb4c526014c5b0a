//! The views that other planes hold: built from state, sealed, and kept until their content changes.

use std::sync::{Arc, Mutex, PoisonError};

use api_types::{Revision, dns_label};
use api_wire::planes::RegionBody;
use api_wire::view::{Envelope, MetadataBody, PlacedApp, PlacedFn, SteeringBody, ViewId};
use bytes::Bytes;
use dns_steering::{View, ViewError, ViewParts, World};
use global_plane_state::State;

use crate::machine::Replica;

/// A restore from backup would start another; there is none yet.
pub const EPOCH: u64 = 1;

/// What every view of this node says beside the state.
#[derive(Debug, Clone)]
pub struct Site {
    pub cluster_id: String,
    pub zone: String,
    pub gateway_port: u16,
    pub map_sha256: String,
    /// Where clients are, for calls that come here.
    pub world: Arc<World>,
}

/// The steering view, ready to send and ready to ask.
#[derive(Debug)]
pub struct Steering {
    pub id: ViewId,
    /// The sealed envelope as JSON.
    pub sealed: Bytes,
    /// The same, for calls that come here: unlike DNS they may name any app.
    pub view: Result<View, ViewError>,
}

pub struct Views {
    site: Site,
    /// Rebuilding walks every app and fn, so it happens once per steering revision, whoever asks.
    steering: Mutex<Option<Arc<Steering>>>,
}

impl Views {
    #[must_use]
    pub fn new(site: Site) -> Self {
        Self {
            site,
            steering: Mutex::new(None),
        }
    }

    /// The steering view of the state this node has applied.
    ///
    /// Its revision is the one that last changed what DNS is told, so that writes of functions do
    /// not send a new view to every DNS server.
    pub fn steering(&self, replica: &Replica) -> Arc<Steering> {
        let mut held = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(steering) = &*held
            && steering.id.revision == replica.position().steering.0
        {
            return Arc::clone(steering);
        }
        let last = held.as_deref();
        let (revision, body, parts) = replica.read_core(|core| {
            let parts = self.parts(&core.state);
            (core.steering.at(), self.steering_body(&parts), parts)
        });
        let envelope = Envelope::seal(self.id(revision, body.regions.len()), &body);
        let steering = Arc::new(Steering {
            id: envelope.id.clone(),
            sealed: Bytes::from(serde_json::to_vec(&envelope).expect("views are plain data")),
            view: View::new(parts).and_then(|view| {
                view.located(
                    &self.site.world,
                    last.and_then(|last| last.view.as_ref().ok()),
                )
            }),
        });
        if let Err(error) = &steering.view {
            tracing::error!(%revision, %error, "calls cannot be steered by this view");
        }
        *held = Some(Arc::clone(&steering));
        steering
    }

    /// Everything a region holds, as of the state this node has applied.
    #[must_use]
    pub fn metadata(&self, replica: &Replica) -> Envelope {
        let (revision, body) = replica.read(|state| {
            let catalog = state.catalog();
            let (zone, port) = (&self.site.zone, self.site.gateway_port);
            let body = MetadataBody::of(zone, port, catalog.objects());
            (state.revision(), body)
        });
        Envelope::seal(self.id(revision, body.objects.len()), &body)
    }

    fn id(&self, revision: Revision, count: usize) -> ViewId {
        ViewId {
            cluster_id: self.site.cluster_id.clone(),
            epoch: EPOCH,
            revision: revision.0,
            count: count as u64,
            sha256: String::new(),
        }
    }

    fn parts(&self, state: &State) -> ViewParts {
        ViewParts::new(
            self.site.zone.clone(),
            self.site.gateway_port,
            state.catalog(),
            state.catalog().regions().cloned().collect(),
        )
    }

    /// What DNS is told of it: only names that can be DNS names.
    fn steering_body(&self, parts: &ViewParts) -> SteeringBody {
        let apps = parts.placed_apps.iter();
        let fns = parts.placed_fns.iter();
        SteeringBody {
            zone: parts.zone.clone(),
            gateway_port: parts.gateway_port,
            map_sha256: self.site.map_sha256.clone(),
            regions: parts.regions.iter().map(RegionBody::from).collect(),
            placed_apps: apps
                .filter(|app| dns_label::app_label(&app.name).is_ok())
                .map(|app| PlacedApp {
                    name: app.name.clone(),
                    regions: app.regions.clone(),
                    strict: app.strict,
                })
                .collect(),
            placed_fns: fns
                .filter(|function| dns_label::fn_label(&function.name, &function.app).is_ok())
                .map(|function| PlacedFn {
                    app: function.app.clone(),
                    name: function.name.clone(),
                    regions: function.regions.clone(),
                    strict: function.strict,
                })
                .collect(),
        }
    }
}
