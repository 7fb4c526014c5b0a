//! Instances of functions: how they come up, take a call, and go.
//!
//! The contract with a function is Fn's `http-stream` (Fn contract 9): HTTP over a Unix socket, one
//! call at a time. [`Runtime`] is the seam between the region and whatever runs instances; the
//! [`process`] driver runs an unpacked bundle as a child process of the region. This crate refuses
//! to know which call goes to which instance and when one is started: that is dispatch.

pub mod call;
pub mod command;
pub mod output;
pub mod process;
pub mod readiness;
mod start;
pub mod trash;

use std::path::PathBuf;

use api_types::{App, AppId, Config, Digest, Fn, FnId};
use tokio::time::Instant;

pub use call::{Breach, CallError, CallHeaders, CallRequest, CallResponse};
pub use command::contract_environment;
pub use process::{
    ProcessInstance, ProcessRuntime, ProcessSettings, SettingsError, exec_instance_if_asked,
};
pub use start::{INIT_FAILED, INIT_TIMED_OUT, InitFailure, NotRunnable, StartError};

/// Where instances run.
pub trait Runtime: Send + Sync + 'static {
    type Instance: Instance;

    /// An instance that is ready for its first call. When this fails, nothing of it is left.
    ///
    /// Cancel safe: dropped, the instance is killed, or left to the next start of the same.
    fn start(
        &self,
        spec: InstanceSpec,
    ) -> impl Future<Output = Result<Self::Instance, StartError>> + Send;

    /// Kills all instances and returns once they are gone. None can be started afterwards.
    fn shutdown(&self) -> impl Future<Output = ()> + Send;
}

/// One running copy of a function. It is killed when it is dropped.
pub trait Instance: Send + Sync + 'static {
    /// Gives it a call and waits for the answer until `deadline`. One call at a time.
    ///
    /// Not cancel safe: dropped midway, the function is still busy with the call and nobody knows
    /// until when, so every later call fails as [`CallError::Broken`].
    fn call(
        &self,
        request: CallRequest,
        deadline: Instant,
    ) -> impl Future<Output = Result<CallResponse, CallError>> + Send;

    /// Kills it and returns once it is gone. Calls of others return with an error.
    fn stop(&self) -> impl Future<Output = ()> + Send;

    /// Returns once it is gone, asked to or not.
    fn exited(&self) -> impl Future<Output = ()> + Send;
}

/// What an instance is started with.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    pub app_id: AppId,
    pub app_name: String,
    pub fn_id: FnId,
    pub fn_name: String,
    pub memory_mb: u64,
    pub app_config: Config,
    pub fn_config: Config,
    /// Stands for everything above and the code: instances with equal ones are interchangeable.
    pub settings: u64,
    /// As the function has it.
    pub image: String,
    pub code: Code,
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// A container image: [`InstanceSpec::image`].
    Image,
    /// `folder` is the region's copy of the bundle. A driver on this machine runs it as it lies
    /// there, unpacked; one that sends it on finds `manifest.json` and [`PACKED`] there.
    Bundle { digest: Digest, folder: PathBuf },
}

/// The name of a bundle as it was downloaded, in the folder of a region that sends bundles on.
pub const PACKED: &str = "packed";

impl InstanceSpec {
    #[must_use]
    pub fn new(app: &App, function: &Fn, settings: u64, code: Code) -> Self {
        Self {
            settings,
            image: function.image.clone(),
            code,
            app_id: app.id.clone(),
            app_name: app.name.clone(),
            fn_id: function.id.clone(),
            fn_name: function.name.clone(),
            memory_mb: function.memory,
            app_config: app.config.clone(),
            fn_config: function.config.clone(),
        }
    }
}
