//! Opening connections to gateways: here and nowhere else.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// A gateway that does not accept a connection in this time is as good as gone; the next-best region
/// is at most a few hundred milliseconds farther.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects to gateways.
///
/// Planes do not authenticate each other yet. TLS goes around the stream here, and this is where the
/// name in a gateway's certificate is held against the region that is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connector;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect")]
    Refused(#[source] io::Error),
    #[error("no connection in {CONNECT_TIMEOUT:?}")]
    TimedOut,
}

impl Connector {
    /// `address` is `host:port`; of a name with several addresses the first that accepts.
    ///
    /// # Errors
    /// Nothing was sent.
    pub async fn connect(&self, address: &str) -> Result<TcpStream, ConnectError> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Refused)?;
        // Heads and bodies are written whole or in large pieces; waiting to fill a segment only adds
        // latency. A socket that cannot be told so works all the same.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, address, "no TCP_NODELAY");
        }
        Ok(stream)
    }
}
