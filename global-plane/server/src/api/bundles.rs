//! `/v1/bundles/HEX`: code by its digest.
//!
//! Bytes never enter the log. They are stored here and copied to a majority first; only then is the
//! digest proposed, so whatever names a bundle can be served by some node of any majority.

use std::sync::Arc;
use std::time::Duration;

use api_fn_http::{ApiError, Id};
use api_types::{Digest, chain};
use api_wire::planes::BUNDLE_BYTES_MAX;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use global_plane_state::Command;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;

use super::error;
use crate::bundles::ReceiveError;
use crate::config::Member;
use crate::node::Node;
use crate::terms::Terms;

#[derive(Debug, Serialize, Deserialize)]
pub struct Stored {
    digest: String,
    size: u64,
}

/// `PUT /v1/bundles/HEX`.
pub async fn put(
    State(node): State<Arc<Node>>,
    Id(hex): Id,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (digest, size) = match receive(&node, &hex, &headers, body).await {
        Ok(stored) => stored,
        Err(refused) => return refused,
    };
    let copies = 1 + copy_to_peers(&node, digest, size).await;
    if copies < node.config.majority() {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the bundle was copied to {copies} of {} nodes only, try again",
                node.config.members.len()
            ),
        );
    }
    let key = Terms::minted();
    match node
        .writer
        .write(Command::AddBundle { digest, size }, key)
        .await
    {
        Ok(Ok(_)) => Json(Stored { digest: hex, size }).into_response(),
        Ok(Err(refusal)) => ApiError::from(refusal).into_response(),
        Err(no_leader) => super::no_leader(no_leader),
    }
}

/// `PUT /internal/bundles/HEX`: another node copies one here.
pub async fn put_copy(
    State(node): State<Arc<Node>>,
    Id(hex): Id,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match receive(&node, &hex, &headers, body).await {
        Ok((_, size)) => Json(Stored { digest: hex, size }).into_response(),
        Err(refused) => refused,
    }
}

async fn receive(
    node: &Node,
    hex: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Digest, u64), Response> {
    let digest = parse(hex).map_err(ApiError::into_response)?;
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BUNDLE_BYTES_MAX) {
        return Err(receive_failed(&ReceiveError::TooLarge));
    }
    match node.bundles.receive(digest, body.into_data_stream()).await {
        Ok(size) => Ok((digest, size)),
        Err(failed) => Err(receive_failed(&failed)),
    }
}

fn parse(hex: &str) -> Result<Digest, ApiError> {
    hex.parse()
        .map_err(|problem: api_types::bundle::DigestError| {
            ApiError::invalid(format!("{hex:?}: {problem}"))
        })
}

fn receive_failed(failed: &ReceiveError) -> Response {
    let status = match failed {
        ReceiveError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ReceiveError::Mismatch { .. } | ReceiveError::Body { .. } => StatusCode::BAD_REQUEST,
        ReceiveError::Store { source, .. } => {
            tracing::error!(error = chain(&source), "cannot store a bundle");
            StatusCode::INSUFFICIENT_STORAGE
        }
    };
    error(status, failed.to_string())
}

/// Copies a bundle that is here to every other node; returns how many have it now.
async fn copy_to_peers(node: &Node, digest: Digest, size: u64) -> usize {
    let mut copies: FuturesUnordered<_> = node
        .config
        .peers()
        .map(|member| copy(node, member, digest, size))
        .collect();
    let (mut copied, wanted) = (0, node.config.majority() - 1);
    while copied < wanted {
        match copies.next().await {
            Some(true) => copied += 1,
            Some(false) => {}
            None => return copied,
        }
    }
    // The others get a little longer; one that hangs fetches it when it is asked for it.
    let rest = async {
        while let Some(done) = copies.next().await {
            copied += usize::from(done);
        }
    };
    let _in_time = tokio::time::timeout(STRAGGLER_TIMEOUT, rest).await;
    copied
}

const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);

async fn copy(node: &Node, member: &Member, digest: Digest, size: u64) -> bool {
    let Ok(Some((file, _))) = node.bundles.read(digest).await else {
        return false;
    };
    let copied = node.peers.put_bundle(member, digest, file, size).await;
    if let Err(failed) = &copied {
        tracing::warn!(
            member = member.name,
            error = chain(&failed),
            "bundle not copied"
        );
    }
    copied.is_ok()
}

/// `GET` and `HEAD /v1/bundles/HEX`: from disk, else from a member that has it.
pub async fn get(State(node): State<Arc<Node>>, Id(hex): Id, method: Method) -> Response {
    let digest = match parse(&hex) {
        Ok(digest) => digest,
        Err(refused) => return refused.into_response(),
    };
    let known = node.knows_bundle(digest);
    if node.bundles.size(digest).await.is_none() && known.is_some() {
        fetch(&node, digest).await;
    }
    if method == Method::HEAD {
        // One that is damaged everywhere is not there: whoever asks is about to deploy it.
        let size = node.bundles.size(digest).await;
        return match known.and(size) {
            Some(size) => head(size).into_response(),
            None => unknown(&hex),
        };
    }
    send(&node, digest, &hex).await
}

/// `GET /internal/bundles/HEX`: from this node's disk only.
pub async fn get_copy(State(node): State<Arc<Node>>, Id(hex): Id) -> Response {
    match parse(&hex) {
        Ok(digest) => send(&node, digest, &hex).await,
        Err(refused) => refused.into_response(),
    }
}

fn head(size: u64) -> [(HeaderName, String); 2] {
    [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, size.to_string()),
    ]
}

async fn send(node: &Node, digest: Digest, hex: &str) -> Response {
    match node.bundles.read(digest).await {
        Ok(Some((file, size))) => {
            (head(size), Body::from_stream(ReaderStream::new(file))).into_response()
        }
        Ok(None) => unknown(hex),
        Err(failed) => {
            tracing::error!(error = chain(&failed), %digest, "cannot read a bundle");
            error(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
        }
    }
}

fn unknown(hex: &str) -> Response {
    error(StatusCode::NOT_FOUND, format!("bundle {hex} not found"))
}

/// Tries every member once; what arrives is checked like an upload.
async fn fetch(node: &Node, digest: Digest) {
    for member in node.config.peers() {
        let copied = match node.peers.bundle(member, digest).await {
            Ok(None) => continue,
            Ok(Some(bytes)) => node.bundles.receive::<reqwest::Error>(digest, bytes).await,
            Err(failed) => {
                tracing::info!(
                    member = member.name,
                    error = chain(&failed),
                    "bundle not fetched"
                );
                continue;
            }
        };
        match copied {
            Ok(size) => {
                tracing::info!(member = member.name, %digest, size, "bundle fetched");
                return;
            }
            Err(failed) => {
                tracing::warn!(
                    member = member.name,
                    error = chain(&failed),
                    "bundle not fetched"
                );
            }
        }
    }
}
