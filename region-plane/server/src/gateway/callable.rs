//! What calls need of a function, worked out once for each state of the metadata.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api_types::placement::Why;
use api_types::{App, Fn, FnId};
use region_plane_dispatch::{Key, Spec};
use region_plane_replica::{RegionCopy, placement};
use region_plane_resources::Scaling;
use region_plane_runtime::{Code, InstanceSpec};

use super::route;
use crate::definitions::Definitions;
use crate::spill::Onward;

/// A function as its calls see it. It does not change: a call that has one keeps it, and the next
/// gets what the function has become.
#[derive(Debug)]
pub struct Callable {
    pub function: FnId,
    pub app_name: String,
    pub spec: Arc<Spec>,
    /// Its bundle's folder is found when a call comes.
    pub launch: Arc<InstanceSpec>,
    pub timeout: Duration,
    pub place: Place,
    /// Where a call may go instead.
    pub onward: Onward,
    /// An operator wants this region's calls handed on first.
    pub is_drained: bool,
}

#[derive(Debug)]
pub enum Place {
    Here,
    /// Other regions serve it, or none does at the moment.
    Elsewhere {
        /// `host:port` that is steered to where it is, if there is such a name.
        host: Option<String>,
    },
}

impl Callable {
    fn new(held: &RegionCopy, app: &App, function: &Fn, settings: u64, port: u16) -> Self {
        let code = match function.bundle() {
            Some(bundle) => Code::Bundle {
                digest: bundle.digest,
                folder: PathBuf::new(),
            },
            None => Code::Image,
        };
        let peers = placement::peers(held, function);
        let runs_alike = region_plane_replica::settings(app, function);
        Self {
            function: function.id.clone(),
            app_name: app.name.clone(),
            spec: Arc::new(spec(app, function, settings)),
            launch: Arc::new(InstanceSpec::new(app, function, runs_alike, code)),
            timeout: Duration::from_secs(function.timeout_secs.into()),
            place: match placement::serves_itself(held, function) {
                true => Place::Here,
                false => Place::Elsewhere {
                    // A redirect to a name without a region that serves would leave its caller with
                    // nothing.
                    host: match peers.why {
                        Why::AllDown | Why::Nowhere => None,
                        Why::Placed | Why::FunctionYields | Why::AppYields => {
                            host(held, app, function, port)
                        }
                    },
                },
            },
            onward: Onward::new(peers.regions, app, function),
            is_drained: held.drained(),
        }
    }
}

/// The callables of one state of the metadata: of each function at most one, made when it is called.
pub struct Callables {
    definitions: Arc<Definitions>,
    /// The port callers reach gateways on, before the first snapshot says it.
    port: u16,
    current: RwLock<Current>,
}

#[derive(Default)]
struct Current {
    version: u64,
    of: HashMap<FnId, Arc<Callable>>,
}

impl Callables {
    #[must_use]
    pub fn new(definitions: Arc<Definitions>, port: u16) -> Self {
        Self {
            definitions,
            port,
            current: RwLock::default(),
        }
    }

    /// The callable of a function that `held` has. `version` is the replica's from before it was read.
    pub fn get(&self, version: u64, held: &RegionCopy, app: &App, function: &Fn) -> Arc<Callable> {
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if current.version >= version
                && let Some(callable) = current.of.get(&function.id)
            {
                return Arc::clone(callable);
            }
        }
        let settings = self.definitions.number(app, function);
        let callable = Arc::new(Callable::new(held, app, function, settings, self.port));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.version < version {
            current.version = version;
            current.of.clear();
        }
        if current.version == version {
            let made = Arc::clone(&callable);
            current.of.insert(function.id.clone(), made);
        }
        callable
    }
}

/// What the dispatcher must know.
fn spec(app: &App, function: &Fn, settings: u64) -> Spec {
    // What is wrong with annotations the operator says where they are looked for.
    let scaling = Scaling::of(app, function).unwrap_or_default();
    Spec {
        key: Key {
            function: function.id.clone(),
            settings,
        },
        memory_mb: function.memory.max(1),
        instances_max: scaling.max.unsigned_abs(),
        idle_timeout: Duration::from_secs(function.idle_timeout_secs.into()),
    }
}

/// The name that is steered to where a function is, with the port that it is called at.
fn host(held: &RegionCopy, app: &App, function: &Fn, port: u16) -> Option<String> {
    // A function that narrows its app's placement is steered by its own name.
    let narrowed = function.placement().map(|_| function.name.as_str());
    let name = route::dns_name(held.zone(), narrowed, &app.name)?;
    Some(format!("{name}:{}", held.gateway_port().unwrap_or(port)))
}
