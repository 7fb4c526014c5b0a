//! `GET /v1/explain?name=&client=`: why a client is sent where it is.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use dns_worldmap::explain::explain as explanation;
use http::StatusCode;
use serde::Deserialize;

use super::error;
use crate::node::Node;

#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct ExplainQuery {
    name: String,
    client: String,
}

pub async fn explain(State(node): State<Arc<Node>>, Query(asked): Query<ExplainQuery>) -> Response {
    // `203.0.113.0/24` means its first address.
    let address = asked.client.split('/').next().unwrap_or_default();
    let Ok(client) = address.parse::<IpAddr>() else {
        return error(
            StatusCode::BAD_REQUEST,
            format!("client {:?} is not an IP address", asked.client),
        );
    };
    if asked.name.is_empty() {
        return error(StatusCode::BAD_REQUEST, "name is missing");
    }
    let held = node.views.steering(&node.replica);
    let view = match &held.view {
        Ok(view) => view,
        Err(failed) => return error(StatusCode::SERVICE_UNAVAILABLE, failed.to_string()),
    };
    let policy = node.config.policy();
    match explanation(view, &held.id, &node.map, &policy, &asked.name, client) {
        Some(explanation) => Json(explanation).into_response(),
        None => error(
            StatusCode::NOT_FOUND,
            format!("{:?} is no name in {}", asked.name, view.zone()),
        ),
    }
}
