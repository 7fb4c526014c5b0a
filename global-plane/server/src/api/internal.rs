//! What nodes ask each other. The same listener as the API: between nodes there is no more trust
//! than between a node and its callers until both authenticate.

use std::sync::Arc;

use api_types::chain;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use global_plane_consensus::driver::PAYLOAD_BYTES_MAX;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::{bundles, error, regions};
use crate::agreement::LACKING;
use crate::machine::disk;
use crate::node::Node;
use crate::writer::Again;

pub fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route(
            "/internal/bundles/{hex}",
            put(bundles::put_copy).get(bundles::get_copy),
        )
        .route("/internal/propose", post(propose))
        .route("/internal/report", post(regions::forwarded_report))
        .route("/internal/leader-regions", get(regions::leader_rows))
        .layer(DefaultBodyLimit::max(PAYLOAD_BYTES_MAX))
        .with_state(node)
}

/// Proposes another node's envelope, if this node leads. 503 means try again under the same id.
async fn propose(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let envelope = match disk::decode_envelope(&body) {
        Ok(envelope) => envelope,
        Err(failed) => {
            tracing::warn!(
                error = chain(&failed),
                "a node sent an envelope that cannot be read"
            );
            if failed.is_newer() {
                let name = &node.config.name;
                let message =
                    format!("{name} leads and is older: {failed}; upgrade it and try again");
                return error(LACKING, message);
            }
            return error(StatusCode::BAD_REQUEST, failed.to_string());
        }
    };
    match node.writer.propose_here(&envelope).await {
        Ok(outcome) => (
            [(CONTENT_TYPE, "application/json; charset=utf-8")],
            disk::encode_outcome(&outcome),
        )
            .into_response(),
        Err(Again::Lacking(lacking)) => error(LACKING, lacking.to_string()),
        Err(again) => error(StatusCode::SERVICE_UNAVAILABLE, again.to_string()),
    }
}
