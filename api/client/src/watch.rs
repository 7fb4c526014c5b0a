//! The stream of changes after a revision.

use std::time::Duration;

use api_types::Revision;
use api_wire::WatchLine;
use api_wire::bounds::LINE_BYTES_MAX;
use api_wire::planes::Compacted;
use http::StatusCode;
use reqwest::Response;

use crate::attempt::Ask;
use crate::error::root_cause;
use crate::{Client, Error};

/// Five missed progress lines, one a second: the node is gone or has stalled.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Changes of the global plane in order. Dropping it ends the stream.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    node: usize,
    response: Response,
    /// Received and not yet returned; `searched` bytes of it are known to hold no line end.
    pending: Vec<u8>,
    searched: usize,
}

impl Client {
    /// Every change after `from` in order, and progress every second between. `from` is a revision
    /// of a cluster in an epoch, both as its snapshot said.
    ///
    /// # Errors
    /// [`Error::Compacted`] if `from` is too long ago, [`Error::Refused`] with 409 if the nodes are
    /// of another cluster or epoch: take a [`Client::snapshot`].
    pub async fn watch(
        &self,
        cluster_id: &str,
        epoch: u64,
        from: Revision,
    ) -> Result<Watch, Error> {
        let ask = Ask::get(&["v1", "watch"])
            .query("from", &from)
            .query("cluster_id", cluster_id)
            .query("epoch", &epoch)
            .knowing();
        let answer = self.ask(ask).await?;
        if answer.response.status() == StatusCode::GONE {
            let compacted: Compacted = self.body(answer).await?;
            return Err(Error::Compacted {
                from,
                snapshot_revision: Revision(compacted.snapshot_revision),
            });
        }
        Ok(Watch {
            client: self.clone(),
            node: answer.node,
            response: answer.response,
            pending: Vec::new(),
            searched: 0,
        })
    }
}

/// Why there is no next line.
enum Broken {
    LineTooLong,
    Off(String),
}

impl Watch {
    /// The next line. Cancel safe: a line is returned whole or kept.
    ///
    /// # Errors
    /// When the stream breaks off or is silent for 5 s; the next [`Client::watch`] then asks
    /// another node. Go on from the last revision applied. [`Error::TooLarge`] and
    /// [`Error::Garbled`] are about the line: other nodes probably have the same.
    pub async fn next(&mut self) -> Result<WatchLine, Error> {
        let line = match self.line().await {
            Ok(line) => line,
            Err(problem) => {
                self.client.nodes.failed(self.node);
                return Err(match problem {
                    Broken::LineTooLong => Error::TooLarge {
                        what: "a watch line".to_owned(),
                        bytes_max: LINE_BYTES_MAX as u64,
                    },
                    Broken::Off(problem) => Error::Stream {
                        node: self.client.node_name(self.node),
                        problem,
                    },
                });
            }
        };
        serde_json::from_slice(&line).map_err(|error| Error::Garbled {
            node: self.client.node_name(self.node),
            problem: format!("watch line: {error}"),
        })
    }

    async fn line(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            let unsearched = &self.pending[self.searched..];
            if let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                self.searched = 0;
                line.pop();
                if line.is_empty() {
                    continue;
                }
                return Ok(line);
            }
            self.searched = self.pending.len();
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(Broken::LineTooLong);
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk())
                .await
                .map_err(|_| Broken::Off(format!("silent for {SILENCE_MAX:?}")))?
                .map_err(|error| Broken::Off(root_cause(&error)))?
                .ok_or_else(|| Broken::Off("closed".to_owned()))?;
            self.pending.extend_from_slice(&chunk);
        }
    }
}
