//! Instances of functions: how they come up, take a call, and go.
//!
//! The contract with a function is Fn's `http-stream` (Fn contract 9): HTTP over a Unix socket, one
//! call at a time. [`Runtime`] is the seam between the region and whatever runs instances; the
//! [`process`] driver runs an unpacked bundle as a child process of the region. This crate refuses
//! to know which call goes to which instance and when one is started: that is dispatch.

pub mod call;
pub mod process;
mod start;

use std::path::PathBuf;

use api_types::{App, AppId, Config, Fn, FnId};
use tokio::time::Instant;

pub use call::{CallError, CallRequest, CallResponse};
pub use process::{
    ProcessInstance, ProcessRuntime, ProcessSettings, SettingsError, exec_instance_if_asked,
};
pub use start::{NotRunnable, StartError};

/// Where instances run.
pub trait Runtime: Send + Sync + 'static {
    type Instance: Instance;

    /// An instance that is ready for its first call. When this fails, nothing of it is left.
    ///
    /// Cancel safe: dropped, the instance is killed.
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
    /// Where the function's bundle is unpacked.
    pub bundle: PathBuf,
}

impl InstanceSpec {
    #[must_use]
    pub fn new(app: &App, function: &Fn, bundle: PathBuf) -> Self {
        Self {
            app_id: app.id.clone(),
            app_name: app.name.clone(),
            fn_id: function.id.clone(),
            fn_name: function.name.clone(),
            memory_mb: function.memory,
            app_config: app.config.clone(),
            fn_config: function.config.clone(),
            bundle,
        }
    }
}
