//! A bundle's way from a gateway into the pod: streamed to disk, checked, unpacked beside its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api_bundle::{Manifest, PACKED_BYTES_MAX, PlatformMismatch, UnpackError};
use api_types::{Digest, Platform};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use region_plane_runtime::trash;
use tracing::warn;

use crate::launch::BUNDLE;

/// Folders that may be set aside in one pod: more have a cause that moving them does not end.
const SET_ASIDE_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the claim was lost while the bundle was received")]
    ClaimLost,
    #[error("the bundle has more than {} MiB", PACKED_BYTES_MAX >> 20)]
    TooLarge,
    #[error("receive the bundle")]
    Receive {
        #[source]
        source: hyper::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("unpack the bundle")]
    Unpack {
        #[source]
        source: UnpackError,
    },
    #[error("the bundle is not for this machine")]
    Platform(#[from] PlatformMismatch),
}

/// Writes the body to disk, and unpacks it if it is the bundle of that digest.
///
/// On an error nothing of it is in the bundle's place, and it may be tried again. No two at once: it
/// is waited for no longer once `claim_lost` returns, since the next claim waits for its end.
///
/// # Errors
/// If the claim is lost, it does not come whole, is another, is malformed or for another platform, or
/// the disk fails.
pub async fn receive(
    code_dir: &Path,
    digest: Digest,
    body: Incoming,
    claim_lost: impl Future<Output = ()>,
) -> Result<Manifest, BundleError> {
    let packed = code_dir.join("bundle.packed");
    let received = tokio::select! {
        biased;
        received = write(&packed, body) => received,
        () = claim_lost => Err(BundleError::ClaimLost),
    };
    let code_dir = code_dir.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        let manifest = received.and_then(|()| unpack(&code_dir, &packed, &digest));
        // Unpacked it is no longer needed, and failed it is of no use.
        let _ = fs::remove_file(&packed);
        manifest
    });
    unpacking.await.expect("unpacking does not panic")
}

async fn write(packed: &Path, mut body: Incoming) -> Result<(), BundleError> {
    let failed = |source| BundleError::Write {
        path: packed.to_owned(),
        source,
    };
    if body.size_hint().lower() > PACKED_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    let mut file = File::create(packed).await.map_err(failed)?;
    let mut bytes_left = PACKED_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| BundleError::Receive { source })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        bytes_left = bytes_left
            .checked_sub(data.len() as u64)
            .ok_or(BundleError::TooLarge)?;
        file.write_all(&data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}

fn unpack(code_dir: &Path, packed: &Path, digest: &Digest) -> Result<Manifest, BundleError> {
    let place = code_dir.join(BUNDLE);
    let beside = code_dir.join("bundle.new");
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| BundleError::Write { path, source }
    };
    // One may be left of an earlier attempt, whole or in part.
    for left in [&beside, &place] {
        clear(code_dir, left).map_err(failed(left))?;
    }
    let file = fs::File::open(packed).map_err(failed(packed))?;
    let manifest = api_bundle::unpack(file, digest, &beside)
        .map_err(|source| BundleError::Unpack { source })?;
    manifest.check_platform(&Platform::here())?;
    fs::rename(&beside, &place).map_err(failed(&place))?;
    Ok(manifest)
}

/// Takes away what is left in a place. What cannot be removed is moved aside, and goes with the pod.
fn clear(code_dir: &Path, left: &Path) -> io::Result<()> {
    let Err(error) = trash::remove(left) else {
        return Ok(());
    };
    warn!(path = %left.display(), %error, "earlier bundle not removed");
    for number in 0..SET_ASIDE_MAX {
        let aside = code_dir.join(format!("left-{number}"));
        if !aside.exists() {
            return trash::rename(left, &aside);
        }
    }
    Err(error)
}
