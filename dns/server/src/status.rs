//! HTTP for operators: health, metrics, the view held, and why a client gets what it gets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api_wire::fns::ErrorBody;
use api_wire::view::ViewId;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::steering::Setting;
use crate::view::Views;

/// What the routes answer from.
#[derive(Clone)]
pub struct Status {
    pub name: String,
    pub listen: Vec<SocketAddr>,
    pub views: Arc<Views>,
    pub setting: Arc<Setting>,
}

/// `GET /v1/status`.
#[derive(Serialize)]
struct StatusBody {
    name: String,
    pid: u32,
    version: &'static str,
    zone: String,
    listen: Vec<SocketAddr>,
    view: Option<ViewId>,
    /// Seconds since a global node last confirmed the view.
    staleness_secs: Option<f64>,
    /// Views refused since the start, and why the last one was.
    refused: u64,
    last_refusal: Option<String>,
    /// SHA-256 of the world map here, and of the one the view was made for.
    map_sha256: String,
    view_map_sha256: Option<String>,
}

pub fn routes(status: Status) -> Router {
    let views = Arc::clone(&status.views);
    let operations = daemon::operations(move || match views.current() {
        Some(_) => Ok(()),
        None => Err(
            "no steering view yet: no global node has given one and there is none on disk"
                .to_owned(),
        ),
    });
    let routes = Router::new()
        .route("/v1/status", get(show))
        .route("/v1/explain", get(explain))
        .with_state(status)
        .merge(operations)
        .fallback(async || refusal(StatusCode::NOT_FOUND, "Path not found".to_owned()));
    daemon::json_errors(routes)
}

async fn show(State(status): State<Status>) -> Json<StatusBody> {
    let loaded = status.views.current();
    let (refused, last_refusal) = status.views.refused();
    let staleness = status.views.staleness(Instant::now());
    Json(StatusBody {
        name: status.name,
        pid: std::process::id(),
        version: daemon::VERSION,
        zone: status.setting.zone.clone(),
        listen: status.listen,
        view: loaded.as_ref().map(|loaded| loaded.id.clone()),
        staleness_secs: staleness.map(|staleness| staleness.as_secs_f64()),
        refused,
        last_refusal,
        map_sha256: status.setting.map.sha256(),
        view_map_sha256: loaded.map(|loaded| loaded.steering.map_sha256().to_owned()),
    })
}

#[derive(Deserialize)]
struct Question {
    #[serde(default)]
    name: String,
    client: Option<String>,
}

async fn explain(
    State(status): State<Status>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(question): Query<Question>,
) -> Result<Json<api_wire::planes::Explanation>, (StatusCode, Json<ErrorBody>)> {
    let client: IpAddr = match &question.client {
        None => peer.ip().to_canonical(),
        Some(text) => text.parse().map_err(|_| {
            refusal(
                StatusCode::BAD_REQUEST,
                format!("client={text:?} is not an IP address"),
            )
        })?,
    };
    let Some(loaded) = status.views.current() else {
        return Err(refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "no steering view yet".to_owned(),
        ));
    };
    loaded
        .steering
        .explain(&loaded.id, &question.name, client, &status.setting)
        .map(Json)
        .map_err(|problem| refusal(StatusCode::NOT_FOUND, problem))
}

fn refusal(status: StatusCode, message: String) -> (StatusCode, Json<ErrorBody>) {
    (status, Json(ErrorBody { message }))
}
