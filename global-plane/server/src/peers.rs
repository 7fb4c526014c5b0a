//! What nodes of the global plane ask each other over HTTP, under `/internal`.

use std::time::Duration;

use api_types::Digest;
use api_wire::fns::ErrorBody;
use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap};
use reqwest::{Body, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use crate::config::Member;

/// Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Peers {
    http: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("ask {member}")]
    Unreachable {
        member: String,
        #[source]
        source: reqwest::Error,
    },
    /// It answered, with an error.
    #[error("{member} answered {status}: {message}")]
    Refused {
        member: String,
        status: StatusCode,
        message: String,
    },
}

/// Nodes are a continent away at most; a connection that takes longer is as good as refused.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// 64 MiB at 8 Mbit/s, with some room.
const BUNDLE_TIMEOUT: Duration = Duration::from_secs(90);

impl Peers {
    /// # Errors
    /// If the TLS or resolver back-end cannot start.
    pub fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // Shorter than the time for which our daemons keep an idle connection.
            .pool_idle_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { http })
    }

    /// # Errors
    /// [`PeerError`]; after `Unreachable` the request may or may not have been taken.
    pub async fn post<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        member: &Member,
        path: &str,
        body: &T,
        timeout: Duration,
    ) -> Result<R, PeerError> {
        let request = self.http.post(format!("{}{path}", member.api)).json(body);
        let response = send(member, request.timeout(timeout)).await?;
        read(member, response).await
    }

    /// # Errors
    /// [`PeerError`].
    pub async fn get<R: DeserializeOwned>(
        &self,
        member: &Member,
        path: &str,
        timeout: Duration,
    ) -> Result<R, PeerError> {
        let request = self.http.get(format!("{}{path}", member.api));
        let response = send(member, request.timeout(timeout)).await?;
        read(member, response).await
    }

    /// Has the leader propose an encoded envelope; returns the encoded outcome.
    ///
    /// # Errors
    /// [`PeerError`]; after `Unreachable` it may or may not have been proposed.
    pub async fn propose(
        &self,
        leader: &Member,
        envelope: Vec<u8>,
        timeout: Duration,
    ) -> Result<Bytes, PeerError> {
        let url = format!("{}/internal/propose", leader.api);
        let request = self.http.post(url).body(envelope).timeout(timeout);
        let response = send(leader, request).await?;
        response.bytes().await.map_err(unreachable(leader))
    }

    /// Another server's answer to a read, whatever its status.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn proxy(
        &self,
        url: &str,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Response, reqwest::Error> {
        let request = self.http.get(url).headers(headers);
        request.timeout(timeout).send().await
    }

    /// Has a member store a bundle.
    ///
    /// # Errors
    /// [`PeerError`]; the member does not have it then, or nobody knows.
    pub async fn put_bundle(
        &self,
        member: &Member,
        digest: Digest,
        file: File,
        size: u64,
    ) -> Result<(), PeerError> {
        let request = self
            .http
            .put(bundle_url(member, digest))
            .header(CONTENT_LENGTH, size)
            .body(Body::wrap_stream(ReaderStream::new(file)));
        send(member, request.timeout(BUNDLE_TIMEOUT)).await?;
        Ok(())
    }

    /// A member's copy of a bundle; `None` if it has none.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn bundle(
        &self,
        member: &Member,
        digest: Digest,
    ) -> Result<Option<impl Stream<Item = Result<Bytes, reqwest::Error>> + use<>>, PeerError> {
        let request = self.http.get(bundle_url(member, digest));
        match send(member, request.timeout(BUNDLE_TIMEOUT)).await {
            Ok(response) => Ok(Some(response.bytes_stream())),
            Err(PeerError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn bundle_url(member: &Member, digest: Digest) -> String {
    format!("{}/internal/bundles/{digest}", member.api)
}

async fn send(member: &Member, request: RequestBuilder) -> Result<Response, PeerError> {
    let response = request.send().await.map_err(unreachable(member))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.map_err(unreachable(member))?;
    let message = serde_json::from_str::<ErrorBody>(&text).map_or(text, |body| body.message);
    Err(PeerError::Refused {
        member: member.name.clone(),
        status,
        message,
    })
}

async fn read<R: DeserializeOwned>(member: &Member, response: Response) -> Result<R, PeerError> {
    response.json().await.map_err(unreachable(member))
}

fn unreachable(member: &Member) -> impl FnOnce(reqwest::Error) -> PeerError + use<> {
    let member = member.name.clone();
    |source| PeerError::Unreachable { member, source }
}
