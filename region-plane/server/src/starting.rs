//! Starting instances: of code that is what its digest says, and knowing whether any can be started.
//!
//! Code is compared with its digest before the first instance of it is started, and again when a file of it
//! was changed or an instance does not come up. If it differs it is replaced. What
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
        if let Repair::Lost(problem) = self.bundles.vouch(&digest).await {
            return Err(StartError::NotRunnable(NotRunnable::CodeLost { problem }));
        }
        let began = Instant::now();
        let error = match self.driver.start(spec.clone()).await {
            Err(error) if may_be_of_the_code(&error) => error,
            started => return started,
        };
        match self.bundles.repair(&digest, began).await {
            Repair::Sound => Err(error),
            Repair::Anew => self.driver.start(spec).await,
            Repair::Lost(problem) => {
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
