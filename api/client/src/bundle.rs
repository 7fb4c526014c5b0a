//! Bundles by digest.

use std::path::PathBuf;
use std::time::Duration;

use api_types::Digest;
use api_wire::planes::BUNDLE_BYTES_MAX;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Method, header};
use reqwest::{RequestBuilder, Response};
use tokio::io::AsyncReadExt as _;

use crate::attempt::{Ask, Patience, Sent};
use crate::error::root_cause;
use crate::{Client, Error, Written};

/// Where a bundle's bytes come from. A file is read anew on every try and never held whole.
#[derive(Debug, Clone)]
pub enum BundleSource {
    Bytes(Bytes),
    File(PathBuf),
}

const CHUNK_BYTES: usize = 64 << 10;

/// How long a download may pause before it is given up.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl BundleSource {
    fn describe(&self) -> String {
        match self {
            Self::Bytes(_) => "the bundle".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    async fn size(&self) -> Result<u64, Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => tokio::fs::metadata(path)
                .await
                .map(|metadata| metadata.len())
                .map_err(|source| Error::Local {
                    what: self.describe(),
                    source,
                }),
        }
    }

    pub(crate) async fn attach(&self, request: RequestBuilder) -> Result<RequestBuilder, Error> {
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        match self {
            Self::Bytes(bytes) => Ok(request.body(bytes.clone())),
            Self::File(path) => {
                let local = |source| Error::Local {
                    what: self.describe(),
                    source,
                };
                let file = tokio::fs::File::open(path).await.map_err(local)?;
                let size = file.metadata().await.map_err(local)?.len();
                Ok(request
                    .header(header::CONTENT_LENGTH, size)
                    .body(reqwest::Body::wrap_stream(chunks(file))))
            }
        }
    }
}

fn chunks(file: tokio::fs::File) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(chunk), file)))
    })
}

impl Client {
    /// Stores a bundle on a majority of global nodes; storing it again is cheap.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 64 MiB, before anything is sent; 400 if the bytes do not have
    /// that digest.
    pub async fn put_bundle(
        &self,
        digest: &Digest,
        source: BundleSource,
    ) -> Result<Written<()>, Error> {
        if source.size().await? > BUNDLE_BYTES_MAX {
            return Err(Error::TooLarge {
                what: source.describe(),
                bytes_max: BUNDLE_BYTES_MAX,
            });
        }
        let hex = digest.to_string();
        let path = ["v1", "bundles", &hex];
        let mut ask = Ask::write(Method::PUT, &path);
        ask.body = Some(Sent::Bundle(source));
        ask.patience = Patience::BUNDLE;
        self.write_empty(ask).await
    }

    /// Whether the global plane holds a bundle.
    ///
    /// # Errors
    /// Only if it cannot be asked.
    pub async fn has_bundle(&self, digest: &Digest) -> Result<bool, Error> {
        let hex = digest.to_string();
        let path = ["v1", "bundles", &hex];
        match self.ask(Ask::write(Method::HEAD, &path)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins a download. The caller checks the digest of what it gets.
    ///
    /// # Errors
    /// 404 if the global plane does not hold it.
    pub async fn get_bundle(&self, digest: &Digest) -> Result<Download, Error> {
        let hex = digest.to_string();
        let path = ["v1", "bundles", &hex];
        let mut ask = Ask::get(&path);
        ask.patience = Patience::BUNDLE;
        let answer = self.ask(ask).await?;
        Ok(Download {
            node: self.node_name(answer.node),
            response: answer.response,
            bytes_left: BUNDLE_BYTES_MAX,
        })
    }
}

/// A bundle on its way, 64 MiB at most.
#[derive(Debug)]
pub struct Download {
    node: String,
    response: Response,
    bytes_left: u64,
}

impl Download {
    /// The next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// If the stream breaks off, pauses for 10 s, or has more bytes than a bundle may have.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let broken = |problem: String| Error::Stream {
            node: self.node.clone(),
            problem,
        };
        let chunk = tokio::time::timeout(PAUSE_MAX, self.response.chunk())
            .await
            .map_err(|_| broken("timed out".to_owned()))?
            .map_err(|error| broken(root_cause(&error)))?;
        let Some(chunk) = chunk else {
            return Ok(None);
        };
        self.bytes_left = self
            .bytes_left
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| Error::TooLarge {
                what: format!("the bundle from {}", self.node),
                bytes_max: BUNDLE_BYTES_MAX,
            })?;
        Ok(Some(chunk))
    }

    /// The whole bundle in memory.
    ///
    /// # Errors
    /// As [`Download::chunk`].
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }
}
