//! `PUT /v1/notes/ID`: the command that only the next version knows. `make test-upgrade` calls it.

use std::sync::Arc;

use api_fn_http::ApiError;
use api_fn_http::body::Json as Body;
use api_types::NoteId;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use global_plane_state::Command;
use http::StatusCode;
use serde::Deserialize;

use super::no_leader;
use crate::node::Node;
use crate::terms::Terms;

#[derive(Debug, Deserialize)]
pub struct NoteRequest {
    text: String,
}

pub async fn put(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    body: Body<NoteRequest>,
) -> Response {
    let command = Command::PutNote {
        id: NoteId(id),
        text: body.0.text,
    };
    match node.writer.write(command, Terms::minted()).await {
        Ok(Ok(_)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(refusal)) => ApiError::from(refusal).into_response(),
        Err(unwritten) => no_leader(unwritten),
    }
}
