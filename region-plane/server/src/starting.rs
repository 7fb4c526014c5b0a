//! Starting instances: of code that is what its digest says, and knowing whether any can be started.
//!
//! Code on disk is believed by its folder's name, until an instance of it does not come up. Then it is
//! compared with its digest, and if it differs it is replaced and the instance started once more. What
//! keeps every instance from running is the region's fault, and is said in its status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::chain;
use region_plane_runtime::{Code, InstanceSpec, NotRunnable, Runtime, StartError};
use tokio::time::Instant;
use tracing::warn;

use crate::bundles::{Bundles, Repair};

/// How long it is said that no instance can be started after the last one that could not. A region that
/// says so is called less, and would not find out that it can again.
const SAID_FOR: Duration = Duration::from_secs(30);

/// A driver whose starts are looked after.
pub struct Starting<R> {
    driver: R,
    bundles: Bundles,
    health: StartHealth,
}

/// Whether instances can be started here. Cheap to clone.
#[derive(Clone, Default)]
pub struct StartHealth {
    problem: Arc<Mutex<Option<(Instant, String)>>>,
}

impl StartHealth {
    /// Why no instance can be started, if the last start failed by the region's own fault.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, text) = problem.as_ref()?;
        (since.elapsed() < SAID_FOR).then(|| format!("no instance can be started: {text}"))
    }

    fn note(&self, problem: Option<String>) {
        let noted = problem.map(|text| (Instant::now(), text));
        let failing = f64::from(u8::from(noted.is_some()));
        metrics::gauge!("tradewind_region_starts_failing").set(failing);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }
}

impl<R> Starting<R> {
    pub fn new(driver: R, bundles: Bundles, health: StartHealth) -> Self {
        Self {
            driver,
            bundles,
            health,
        }
    }
}

impl<R: Runtime> Starting<R> {
    async fn start_checked(&self, spec: InstanceSpec) -> Result<R::Instance, StartError> {
        let Code::Bundle { digest, .. } = spec.code else {
            return self.driver.start(spec).await;
        };
        let began = Instant::now();
        let is_sealed = self.bundles.is_sealed(&digest).await;
        let error = if is_sealed {
            match self.driver.start(spec.clone()).await {
                Err(error) if may_be_of_the_code(&error) => Some(error),
                started => return started,
            }
        } else {
            None
        };
        match (self.bundles.repair(&digest, began).await, error) {
            (Repair::Sound, Some(error)) => Err(error),
            (Repair::Sound | Repair::Anew, _) => self.driver.start(spec).await,
            (Repair::Lost(problem), _) => {
                Err(StartError::NotRunnable(NotRunnable::CodeLost { problem }))
            }
        }
    }
}

impl<R: Runtime> Runtime for Starting<R> {
    type Instance = R::Instance;

    async fn start(&self, spec: InstanceSpec) -> Result<R::Instance, StartError> {
        let started = self.start_checked(spec).await;
        match &started {
            Ok(_) => self.health.note(None),
            Err(error) if stops_every_instance(error) => {
                let problem = chain(error);
                warn!(error = problem, "no instance can be started");
                self.health.note(Some(problem));
            }
            Err(_) => {}
        }
        started
    }

    async fn shutdown(&self) {
        self.driver.shutdown().await;
    }
}

/// Whether other code might have come up.
fn may_be_of_the_code(error: &StartError) -> bool {
    match error {
        StartError::TimedOut | StartError::Failed { .. } => true,
        StartError::NotRunnable(problem) => match problem {
            NotRunnable::ReadManifest { .. }
            | NotRunnable::Manifest(_)
            | NotRunnable::Platform(_)
            | NotRunnable::System { .. } => true,
            NotRunnable::Cluster { reason, .. } => reason.starts_with("Bundle"),
            NotRunnable::NotABundle
            | NotRunnable::NotInstalled { .. }
            | NotRunnable::CodeLost { .. }
            | NotRunnable::Stopping => false,
        },
    }
}

fn stops_every_instance(error: &StartError) -> bool {
    matches!(error, StartError::NotRunnable(NotRunnable::System { .. }))
}
