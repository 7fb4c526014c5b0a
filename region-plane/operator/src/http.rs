//! What gateways and people ask over HTTP.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use region_plane_resources::demand::{Demand, PATH};
use serde_json::json;

use crate::Handle;

/// A gateway that holds 100,000 pods says so in half of this.
const DEMAND_BYTES_MAX: usize = 32 << 20;

/// `POST /v1/demand` and `GET /v1/status`.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route(PATH, post(demand))
        .route("/v1/status", get(status))
        .layer(DefaultBodyLimit::max(DEMAND_BYTES_MAX))
        .with_state(handle)
}

async fn demand(State(handle): State<Handle>, Json(demand): Json<Demand>) -> Response {
    match handle.demand(demand).await {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => {
            let body = json!({ "message": error.to_string() });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn status(State(handle): State<Handle>) -> Response {
    Json(handle.status()).into_response()
}
