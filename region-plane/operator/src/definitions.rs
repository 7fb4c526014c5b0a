//! Whether the cluster's definitions of our resources are those of this version.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt as _};
use region_plane_resources::{Function, WarmPool, described_fields};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::cluster::Change;

/// Definitions change when somebody upgrades; then this is how long an old message stands.
const LOOKED_EVERY: Duration = Duration::from_secs(60);

/// Tells what is missing, whenever that changes, until nobody listens.
pub async fn follow(client: Client, changes: mpsc::Sender<Change>) -> &'static str {
    let api = Api::<CustomResourceDefinition>::all(client);
    let mut told = Vec::new();
    let mut may_not = false;
    loop {
        let mut missing = Vec::new();
        let mut all_known = true;
        for ours in [Function::crd(), WarmPool::crd()] {
            let name = ours.metadata.name.clone().unwrap_or_default();
            match api.get_opt(&name).await {
                // That it is missing altogether shows in the watch.
                Ok(None) => {}
                Ok(Some(theirs)) => missing.extend(lacking(&ours, &theirs)),
                Err(error) => {
                    all_known = false;
                    if !std::mem::replace(&mut may_not, true) {
                        warn!(%error, definition = name, "cannot compare the resource definition");
                    }
                }
            }
        }
        if all_known && missing != told {
            if !missing.is_empty() {
                error!(
                    fields = missing.join(" "),
                    "the cluster's resource definitions lack fields, install those of this version"
                );
            }
            told.clone_from(&missing);
            if changes.send(Change::Definitions(missing)).await.is_err() {
                break;
            }
        }
        tokio::select! {
            () = changes.closed() => break,
            () = tokio::time::sleep(LOOKED_EVERY) => {}
        }
    }
    "definitions"
}

/// Fields of `ours` that `theirs` does not describe, with the kind before them.
#[must_use]
pub fn lacking(ours: &CustomResourceDefinition, theirs: &CustomResourceDefinition) -> Vec<String> {
    let fields = |definition| {
        described_fields(&serde_json::to_value(definition).expect("a definition is plain data"))
    };
    let kind = &ours.spec.names.kind;
    fields(ours)
        .difference(&fields(theirs))
        .map(|field| format!("{kind}{field}"))
        .collect()
}
