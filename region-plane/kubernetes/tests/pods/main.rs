//! The Kubernetes driver with real runners and functions, pods of a server in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopting;
mod calls;
mod cluster;
mod listing;
mod log;
mod operator;
mod starting;

use std::time::Duration;

use api_types::CallId;
use bytes::Bytes;
use http::HeaderMap;
use region_plane_kubernetes::KubernetesInstance;
use region_plane_runtime::{CallError, CallRequest, CallResponse, Instance as _};
use tokio::time::Instant;

/// Nothing here takes as long unless it is broken.
const LONG: Duration = Duration::from_secs(30);

fn request(behave: &str) -> CallRequest {
    let mut headers = HeaderMap::new();
    headers.insert("behave", behave.parse().unwrap());
    headers.insert("fn-call-id", "CALL".parse().unwrap());
    CallRequest {
        call: CallId::new("CALL"),
        headers: headers.into(),
        deadline: None,
        body: Bytes::from_static(b"ping"),
    }
}

fn insert(asked: &mut CallRequest, name: &'static str, value: &str) {
    let mut headers = HeaderMap::clone(&asked.headers);
    headers.insert(name, value.parse().unwrap());
    asked.headers = headers.into();
}

async fn call(instance: &KubernetesInstance, behave: &str) -> Result<CallResponse, CallError> {
    instance.call(request(behave), Instant::now() + LONG).await
}

async fn text(instance: &KubernetesInstance, behave: &str) -> String {
    let response = call(instance, behave).await.unwrap();
    String::from_utf8(response.body.to_vec()).unwrap()
}

async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, waiting).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not happen"),
    }
}
