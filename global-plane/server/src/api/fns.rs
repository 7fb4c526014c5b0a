//! The writing half of Fn's v2 API (Fn contract 2 to 4); `api-fn-http` is the reading half.

use std::sync::Arc;

use api_fn_http::body::json;
use api_fn_http::{ApiError, Id, REVISION, decorate};
use api_types::{AppId, FnId, Object, TriggerId};
use api_wire::{FnBody, TriggerBody};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{post, put};
use global_plane_state::{Command, Reply};
use http::{HeaderValue, StatusCode};

use super::write::{self, Received};
use super::{no_leader, unexpected};
use crate::node::Node;
use daemon::clock;

pub fn writes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v2/apps", post(create_app))
        .route("/v2/apps/{id}", put(update_app).delete(delete_app))
        .route("/v2/fns", post(create_fn))
        .route("/v2/fns/{id}", put(update_fn).delete(delete_fn))
        .route("/v2/triggers", post(create_trigger))
        .route(
            "/v2/triggers/{id}",
            put(update_trigger).delete(delete_trigger),
        )
        .with_state(node)
}

type Answered = Result<Response, ApiError>;

async fn create_app(State(node): State<Arc<Node>>, received: Received) -> Answered {
    let command = Command::CreateApp {
        id: AppId::new(clock::mint()),
        draft: write::app(received.object()?),
    };
    change(&node, command, received).await
}

async fn update_app(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::UpdateApp {
        id: AppId::new(id),
        change: write::app(received.object()?),
    };
    change(&node, command, received).await
}

async fn delete_app(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::DeleteApp { id: AppId::new(id) };
    change(&node, command, received).await
}

async fn create_fn(State(node): State<Arc<Node>>, received: Received) -> Answered {
    let command = Command::CreateFn {
        id: FnId::new(clock::mint()),
        draft: write::function(received.object()?),
    };
    change(&node, command, received).await
}

async fn update_fn(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::UpdateFn {
        id: FnId::new(id),
        change: write::function(received.object()?),
    };
    change(&node, command, received).await
}

async fn delete_fn(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::DeleteFn { id: FnId::new(id) };
    change(&node, command, received).await
}

async fn create_trigger(State(node): State<Arc<Node>>, received: Received) -> Answered {
    let command = Command::CreateTrigger {
        id: TriggerId::new(clock::mint()),
        draft: write::trigger(received.object()?),
    };
    change(&node, command, received).await
}

async fn update_trigger(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::UpdateTrigger {
        id: TriggerId::new(id),
        change: write::trigger(received.object()?),
    };
    change(&node, command, received).await
}

async fn delete_trigger(State(node): State<Arc<Node>>, Id(id): Id, received: Received) -> Answered {
    let command = Command::DeleteTrigger {
        id: TriggerId::new(id),
    };
    change(&node, command, received).await
}

async fn change(node: &Node, command: Command, received: Received) -> Answered {
    let is_create = matches!(
        command,
        Command::CreateApp { .. } | Command::CreateFn { .. } | Command::CreateTrigger { .. }
    );
    let reply = match node.writer.write(command, received.terms).await {
        Ok(outcome) => outcome?,
        Err(none) => return Ok(no_leader(none)),
    };
    let host = received.host.as_deref();
    let mut response = match &reply {
        Reply::Put(Object::App(app)) => json(StatusCode::OK, &decorate::app(app)),
        // The answer to a PUT has no endpoint (Fn contract 3.3, 4.2).
        Reply::Put(Object::Fn(function)) if !is_create => {
            json(StatusCode::OK, &FnBody::from(function))
        }
        Reply::Put(Object::Trigger(trigger)) if !is_create => {
            json(StatusCode::OK, &TriggerBody::from(trigger))
        }
        Reply::Put(Object::Fn(function)) => {
            let body = node.replica.read(|state| {
                let app = state.catalog().app(&function.app_id);
                decorate::function(function, app, &node.base_url(app, host))
            });
            json(StatusCode::OK, &body)
        }
        Reply::Put(Object::Trigger(trigger)) => {
            let body = node.replica.read(|state| {
                let app = state.catalog().app(&trigger.app_id);
                decorate::trigger(trigger, app, &node.base_url(app, host))
            });
            json(StatusCode::OK, &body)
        }
        Reply::Deleted(_) => StatusCode::NO_CONTENT.into_response(),
        Reply::Put(_) | Reply::Done(_) => return Ok(unexpected(&reply)),
    };
    response
        .headers_mut()
        .insert(REVISION, HeaderValue::from(reply.revision().0));
    Ok(response)
}
