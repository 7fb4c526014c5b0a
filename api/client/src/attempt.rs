//! One request, tried on one node after another until one answers.

use std::time::Duration;

use api_types::Knowledge;
use api_wire::call_headers::REVISION;
use api_wire::fns::ErrorBody;
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng as _;
use reqwest::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use crate::error::{Error, Tried, root_cause};
use crate::{BundleSource, Client, IDEMPOTENCY_HEADER, Written};

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until one node has sent the head of its answer.
    pub per_try: Duration,
    /// Over all tries.
    pub total: Duration,
}

impl Patience {
    /// A node without a leader says so after 2 s, and an election takes 1 to 2 s: five rounds fit.
    pub const ORDINARY: Self = Self {
        per_try: Duration::from_secs(5),
        total: Duration::from_secs(15),
    };
    /// 64 MiB at 1 MiB a second, twice.
    pub const BUNDLE: Self = Self {
        per_try: Duration::from_secs(64),
        total: Duration::from_secs(128),
    };
}

/// Bounds a loop whose end is otherwise only its deadline: reached when nodes refuse at once.
const TRIES_MAX: u32 = 60;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// JSON answers are pages, of 100 objects of half a MiB at most, and steering views.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Text of an error that is not ours is shown to this length.
const MESSAGE_CHARS_MAX: usize = 300;

pub(crate) struct Ask<'a> {
    pub method: Method,
    pub path: &'a [&'a str],
    pub query: Vec<(&'a str, String)>,
    pub body: Option<Sent>,
    pub patience: Patience,
    /// Whether to come round to a node again before the deadline.
    pub again: bool,
}

pub(crate) enum Sent {
    Json(Bytes),
    Bundle(BundleSource),
}

/// A response whose status is 2xx, 304 or 410, and the node it came from.
pub(crate) struct NodeResponse {
    pub response: Response,
    pub node: usize,
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a [&'a str]) -> Self {
        Self {
            method: Method::GET,
            path,
            query: Vec::new(),
            body: None,
            patience: Patience::ORDINARY,
            again: true,
        }
    }

    pub fn write(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            ..Self::get(path)
        }
    }

    pub fn query(mut self, key: &'a str, value: &(impl ToString + ?Sized)) -> Self {
        self.query.push((key, value.to_string()));
        self
    }

    /// Says which formats this program knows, beside those that every version does.
    pub fn knowing(self) -> Self {
        let knows: Vec<String> = Knowledge::own().to_say().map(str::to_owned).collect();
        match knows.is_empty() {
            true => self,
            false => self.query("knows", &knows.join(",")),
        }
    }

    pub fn json<T: Serialize>(mut self, body: &T) -> Self {
        let json = serde_json::to_vec(body).expect("wire forms are plain data with text keys");
        self.body = Some(Sent::Json(json.into()));
        self
    }
}

impl Client {
    /// Asks nodes in turn, the one that last answered first, and all again after a pause.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<NodeResponse, Error> {
        let started = Instant::now();
        let deadline = started + ask.patience.total;
        let key = (ask.method != Method::GET && ask.method != Method::HEAD)
            .then(|| format!("{:032x}", rand::rng().random::<u128>()));
        let mut tried = Tried::default();
        let mut backoff = BACKOFF_MIN;
        let mut tries = 0;
        loop {
            for node in self.nodes.in_order() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || tries == TRIES_MAX {
                    return Err(unreachable(started, tried));
                }
                tries += 1;
                let per_try = ask.patience.per_try.min(left);
                let name = self.node_name(node);
                match self.try_node(node, &ask, key.as_deref(), per_try).await? {
                    Tries::Answer(response) => {
                        self.nodes.answered(node);
                        return self.judge(&ask, node, response).await;
                    }
                    Tries::Next(problem) => {
                        debug!(node = name, problem, "global node did not answer");
                        self.nodes.failed(node);
                        tried.note(&name, problem);
                    }
                }
            }
            if !ask.again {
                return Err(unreachable(started, tried));
            }
            let pause = rand::rng().random_range(backoff / 2..=backoff);
            tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    pub(crate) fn node_name(&self, node: usize) -> String {
        let url = &self.nodes.urls[node];
        url.as_str().trim_end_matches('/').to_owned()
    }

    async fn try_node(
        &self,
        node: usize,
        ask: &Ask<'_>,
        key: Option<&str>,
        per_try: Duration,
    ) -> Result<Tries, Error> {
        let url = self.nodes.url(node, ask.path, &ask.query);
        let mut request = self.http.request(ask.method.clone(), url);
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY_HEADER, key);
        }
        request = match &ask.body {
            None => request,
            Some(Sent::Json(json)) => request
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(json.clone()),
            Some(Sent::Bundle(source)) => source.attach(request).await?,
        };
        Ok(match tokio::time::timeout(per_try, request.send()).await {
            Err(_) => Tries::Next("timed out".to_owned()),
            Ok(Err(error)) => Tries::Next(root_cause(&error)),
            // 503 is a node that cannot serve now; 502 and 504 come from something in front of it.
            Ok(Ok(response)) => match response.status().as_u16() {
                status @ (502..=504) => {
                    Tries::Next(format!("{status} {}", message(response).await))
                }
                _ => Tries::Answer(response),
            },
        })
    }

    async fn judge(
        &self,
        ask: &Ask<'_>,
        node: usize,
        response: Response,
    ) -> Result<NodeResponse, Error> {
        let status = response.status();
        let is_answer = status.is_success()
            || status == StatusCode::NOT_MODIFIED
            || (status == StatusCode::GONE && ask.path == ["v1", "watch"]);
        if is_answer {
            return Ok(NodeResponse { response, node });
        }
        Err(Error::Refused {
            status: status.as_u16(),
            message: message(response).await,
            node: self.node_name(node),
        })
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, Error> {
        let answer = self.ask(ask).await?;
        self.body(answer).await
    }

    /// A write whose answer is an object.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        ask: Ask<'_>,
    ) -> Result<Written<T>, Error> {
        let answer = self.ask(ask).await?;
        let revision = self.revision(&answer)?;
        let object = self.body(answer).await?;
        Ok(Written { object, revision })
    }

    /// A write whose answer has no body.
    pub(crate) async fn write_empty(&self, ask: Ask<'_>) -> Result<Written<()>, Error> {
        let answer = self.ask(ask).await?;
        let revision = self.revision(&answer)?;
        Ok(Written {
            object: (),
            revision,
        })
    }

    fn revision(&self, answer: &NodeResponse) -> Result<api_types::Revision, Error> {
        answer
            .response
            .headers()
            .get(REVISION)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(api_types::Revision)
            .ok_or_else(|| Error::Garbled {
                node: self.node_name(answer.node),
                problem: format!("no {REVISION} header"),
            })
    }

    pub(crate) async fn body<T: DeserializeOwned>(&self, answer: NodeResponse) -> Result<T, Error> {
        self.body_within(answer, ANSWER_BYTES_MAX).await
    }

    pub(crate) async fn body_within<T: DeserializeOwned>(
        &self,
        answer: NodeResponse,
        bytes_max: usize,
    ) -> Result<T, Error> {
        let NodeResponse { response, node } = answer;
        let bytes = match gather(response, bytes_max).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Err(Error::TooLarge {
                    what: format!("the answer of {}", self.node_name(node)),
                    bytes_max: bytes_max as u64,
                });
            }
            Err(problem) => {
                self.nodes.failed(node);
                return Err(Error::Stream {
                    node: self.node_name(node),
                    problem,
                });
            }
        };
        serde_json::from_slice(&bytes).map_err(|error| Error::Garbled {
            node: self.node_name(node),
            problem: error.to_string(),
        })
    }
}

enum Tries {
    Answer(Response),
    Next(String),
}

fn unreachable(started: Instant, tried: Tried) -> Error {
    Error::Unreachable {
        waited: started.elapsed(),
        tried,
    }
}

/// How long a body may pause: a node that has begun to answer has the answer.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The whole body; `None` if it is larger than allowed.
async fn gather(mut response: Response, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(BODY_PAUSE_MAX, response.chunk()).await {
            Err(_) => return Err("timed out".to_owned()),
            Ok(Err(error)) => return Err(root_cause(&error)),
            Ok(Ok(None)) => return Ok(Some(bytes)),
            Ok(Ok(Some(chunk))) if bytes.len() + chunk.len() > bytes_max => return Ok(None),
            Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
        }
    }
}

/// The message of an error's body, or as much of the body as helps.
async fn message(response: Response) -> String {
    let status = response.status();
    let bytes = gather(response, 64 << 10).await.ok().flatten();
    let bytes = bytes.unwrap_or_default();
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) {
        return body.message;
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned(),
        text => text.chars().take(MESSAGE_CHARS_MAX).collect(),
    }
}
