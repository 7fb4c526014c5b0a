//! What an operator is told, and what it answers. The real one makes pods by it; here the test does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use region_plane_resources::demand::{Demand, DemandReply, PATH, Problem, Sizing};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::soon;

#[derive(Clone)]
struct Shared {
    told: Arc<watch::Sender<Option<Demand>>>,
    reply: Arc<Mutex<Option<DemandReply>>>,
}

pub struct Operator {
    pub address: SocketAddr,
    shared: Shared,
    _serving: JoinSet<()>,
}

impl Operator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            told: Arc::new(watch::Sender::new(None)),
            reply: Arc::new(Mutex::new(Some(DemandReply::default()))),
        };
        let router = Router::new()
            .route(PATH, post(take))
            .with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _serving: serving,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `None`: it does not lead.
    pub fn set_reply(&self, reply: Option<DemandReply>) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    pub fn report(&self, fence: u64, problems: &[(&str, &str, &str)], nodes: u32) {
        let problems = problems.iter().map(|(function, reason, message)| Problem {
            settings: None,
            function: (*function).to_owned(),
            reason: (*reason).to_owned(),
            message: (*message).to_owned(),
        });
        self.set_reply(Some(DemandReply {
            fence,
            problems: problems.collect(),
            sizing: Sizing {
                nodes,
                ..Sizing::default()
            },
        }));
    }

    /// Returns once the driver was told of a start, and has read what was answered: it tells again only
    /// then.
    pub async fn answered_start(&self, function: &str) {
        let start = |demand: &Demand| demand.functions.iter().any(|it| it.function == function);
        let told = self.told("the start", start).await;
        self.told("what is next", |demand| demand.sequence > told.sequence)
            .await;
    }

    /// The first demand from now on for which this holds.
    pub async fn told(&self, what: &str, holds: impl Fn(&Demand) -> bool) -> Demand {
        let mut told = self.shared.told.subscribe();
        let told = told.wait_for(|demand| demand.as_ref().is_some_and(&holds));
        soon(what, told).await.unwrap().clone().unwrap()
    }
}

async fn take(
    State(shared): State<Shared>,
    Json(demand): Json<Demand>,
) -> Result<Json<DemandReply>, StatusCode> {
    shared.told.send_replace(Some(demand));
    let reply = shared.reply.lock().unwrap().clone();
    reply.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}
