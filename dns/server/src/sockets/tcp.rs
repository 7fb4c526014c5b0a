//! DNS over TCP (RFC 7766).
//!
//! The loop is ours: hickory 0.26.3 takes any number of connections, spins when descriptors run
//! out, and stops listening when a connection is aborted before it is accepted.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::handler::Handler;

/// How long a client may take for its next query, and for each query and answer to pass.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Each may hold a query of 64 KiB. TCP is for the few answers that UDP cannot carry. There are fewer where
/// few files may be open.
const CONNECTIONS_MAX: usize = 512;

/// Of the files that the process may have open, how many of a hundred the connections of all its addresses
/// may be. Those who ask for its status have 25, its own files and UDP sockets the rest.
const DESCRIPTORS_PERCENT: u8 = 50;

/// RFC 7766 §6.2.2 asks clients for one connection; many clients may share an address.
const CONNECTIONS_PER_IP_MAX: usize = 32;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections each of so many addresses may have.
pub fn connections_max(addresses: usize) -> usize {
    let all =
        daemon::descriptors::connections(CONNECTIONS_MAX * addresses.max(1), DESCRIPTORS_PERCENT);
    (all / addresses.max(1)).max(1)
}

/// Serves until `shutdown`, no more than `connections_max` at once. Queries under way are then cut off:
/// each takes microseconds, so what is left are idle connections.
pub async fn serve(
    listener: TcpListener,
    connections_max: usize,
    handler: Handler,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut per_ip: HashMap<IpAddr, usize> = HashMap::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(ended) = connections.join_next() => {
                match ended {
                    Ok(ip) => release(&mut per_ip, ip),
                    Err(error) => error!(%error, "connection task failed"),
                }
                continue;
            }
            // Beyond the limit, clients wait in the kernel's backlog.
            accepted = listener.accept(), if connections.len() < connections_max => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let ip = peer.ip().to_canonical();
                let held = per_ip.entry(ip).or_default();
                if *held >= CONNECTIONS_PER_IP_MAX {
                    debug!(%peer, "too many connections from one address");
                    continue;
                }
                *held += 1;
                let handler = handler.clone();
                connections.spawn(async move {
                    if let Err(error) = connection(stream, peer, &handler).await {
                        debug!(%error, %peer, "TCP connection ended");
                    }
                    ip
                });
            }
            Err(error) if is_about_one_connection(&error) => debug!(%error, "connection aborted"),
            Err(error) => {
                warn!(%error, "cannot accept TCP queries, pausing");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

fn release(per_ip: &mut HashMap<IpAddr, usize>, ip: IpAddr) {
    if let Some(held) = per_ip.get_mut(&ip) {
        *held -= 1;
        if *held == 0 {
            per_ip.remove(&ip);
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Answers one query after another until the client leaves, errs or falls silent.
async fn connection(stream: TcpStream, peer: SocketAddr, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    while let Some(query) = in_time(read(&mut stream)).await? {
        let Some(answer) = answer(query, peer, handler) else {
            return Ok(());
        };
        in_time(write(&mut stream, &answer)).await?;
    }
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A message with its length before it (RFC 1035 §4.2.2); `None` at the end of the stream.
async fn read(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(stream: &mut BufStream<TcpStream>, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_u16(length).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

/// `None` for what is never answered: less than a header, and responses, which two servers would
/// else answer for ever.
fn answer(query: Vec<u8>, peer: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(&query)).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let code = match Request::from_bytes(query, peer, Protocol::Tcp) {
        Ok(request) => match handler.respond(&request) {
            Ok(answer) => return Some(answer),
            Err(error) => {
                error!(%error, "response cannot be written");
                ResponseCode::ServFail
            }
        },
        Err(error) => {
            debug!(%error, %peer, "malformed query");
            ResponseCode::FormErr
        }
    };
    handler.count(code);
    let mut metadata = Metadata::response_from_request(&header.metadata);
    metadata.response_code = code;
    let failed = Header {
        metadata,
        counts: HeaderCounts::default(),
    };
    failed.to_bytes().ok()
}
