//! What a start needs of a pod, and what the pod is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_bundle::Manifest;
use api_bundle::manifest::MANIFEST_NAME;
use api_types::Digest;
use region_plane_resources::{demand, object_name, settings_text};
use region_plane_runner::protocol::Launch;
use region_plane_runtime::{Code, InstanceSpec, NotRunnable, PACKED, contract_environment};

use crate::claims::{Pair, Wanted};

#[derive(Debug, Clone)]
pub struct Launching {
    pub wanted: Wanted,
    /// What a pool's pod is to run.
    pub launch: Option<Launch>,
    /// To be sent if the pod does not have it.
    pub bundle: Option<Packed>,
    pub names: Names,
}

/// A bundle as the region keeps it.
#[derive(Debug, Clone)]
pub struct Packed {
    pub digest: Digest,
    pub file: PathBuf,
    /// What it was built for.
    pub platform: String,
}

/// For the log.
#[derive(Debug, Clone)]
pub struct Names {
    pub app: Arc<str>,
    pub function: Arc<str>,
}

/// `start_timeout` is what an instance may take from having its code to being ready.
pub async fn prepare(
    spec: &InstanceSpec,
    start_timeout: Duration,
) -> Result<Launching, NotRunnable> {
    let function = object_name(&spec.fn_id).ok_or_else(|| NotRunnable::Cluster {
        reason: "InvalidName".to_owned(),
        message: format!(
            "the function's id {} is no name in a cluster; create the function anew without \
             choosing its id",
            spec.fn_id
        ),
    })?;
    let pair = Pair {
        function,
        settings: settings_text(spec.settings),
    };
    let names = Names {
        app: spec.app_name.as_str().into(),
        function: spec.fn_name.as_str().into(),
    };
    let Code::Bundle { digest, folder } = &spec.code else {
        return Ok(Launching {
            wanted: Wanted {
                pair,
                code: demand::Code::Image,
            },
            launch: None,
            bundle: None,
            names,
        });
    };
    let json = tokio::fs::read(folder.join(MANIFEST_NAME))
        .await
        .map_err(|source| NotRunnable::ReadManifest {
            bundle: folder.clone(),
            source,
        })?;
    let manifest = Manifest::from_json(&json)?;
    Ok(Launching {
        wanted: Wanted {
            pair,
            code: demand::Code::Bundle {
                runtime: manifest.runtime,
                memory_mb: spec.memory_mb,
            },
        },
        launch: Some(Launch {
            digest: digest.to_string(),
            env: contract_environment(spec),
            start_timeout_ms: u64::try_from(start_timeout.as_millis()).ok(),
        }),
        bundle: Some(Packed {
            digest: *digest,
            file: folder.join(PACKED),
            platform: manifest.platform,
        }),
        names,
    })
}
