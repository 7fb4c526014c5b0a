//! Messages between nodes: one ordered TCP stream from each node to each peer.
//!
//! A connection opens with a hello that names cluster and sender; frames are length, CRC-32 and
//! bytes. A message is delivered at most once and in order within a connection; a newer connection
//! of a sender ends the older one, so that old rejections cannot overtake new ones (raft-rs 0.7.0
//! mistakes them, tikv/raft-rs#555). What cannot be sent at once is dropped: Raft repeats itself.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::NodeId;

/// A peer that takes nothing for this many messages is behind anyway and will be told again.
const QUEUE_MAX: usize = 1024;
/// A snapshot of the whole state is one frame; a hundred thousand functions are about 100 MiB.
const FRAME_BYTES_MAX: u32 = 512 << 20;
const HELLO_MAGIC: &[u8; 8] = b"tw-raft1";
const CLUSTER_BYTES_MAX: u8 = 255;
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const HELLO_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that a peer's machine does not acknowledge for this long end the connection. Without it, a
/// link that was cut is only tried again as TCP backs off, up to two minutes after it has healed.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
/// Between attempts to reach a peer that refuses; well under an election.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What a transport tells its node.
#[derive(Debug)]
pub enum Incoming {
    Message { from: NodeId, bytes: Bytes },
    Unreachable { peer: NodeId },
    SnapshotSent { peer: NodeId, whole: bool },
}

/// Where a transport delivers. Returns without waiting; drops what there is no room for.
pub type Deliver = Arc<dyn Fn(Incoming) + Send + Sync>;

#[derive(Debug, Clone)]
pub struct Peers {
    pub cluster: String,
    pub me: NodeId,
    pub addresses: BTreeMap<NodeId, SocketAddr>,
}

struct Frame {
    bytes: Bytes,
    is_snapshot: bool,
}

/// The sending side. Cloneable, never waits.
#[derive(Clone)]
pub struct Transport {
    queues: Arc<BTreeMap<NodeId, mpsc::Sender<Frame>>>,
    deliver: Deliver,
}

impl Transport {
    /// Starts sending to peers and accepting from them, as tasks of `tasks`, which owns them.
    pub fn start(
        peers: &Peers,
        listener: TcpListener,
        deliver: Deliver,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let mut queues = BTreeMap::new();
        for (peer, address) in peers
            .addresses
            .iter()
            .filter(|(peer, _)| **peer != peers.me)
        {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            queues.insert(*peer, sender);
            tasks.spawn(send_to(
                *peer,
                *address,
                hello(peers),
                queue,
                Arc::clone(&deliver),
            ));
        }
        tasks.spawn(accept(listener, peers.clone(), Arc::clone(&deliver)));
        Self {
            queues: Arc::new(queues),
            deliver,
        }
    }

    pub fn send(&self, to: NodeId, bytes: Bytes, is_snapshot: bool) {
        let sent = self
            .queues
            .get(&to)
            .is_some_and(|queue| queue.try_send(Frame { bytes, is_snapshot }).is_ok());
        if !sent && is_snapshot {
            // Raft sends that peer nothing more until it hears what became of the snapshot.
            (self.deliver)(Incoming::SnapshotSent {
                peer: to,
                whole: false,
            });
        }
    }
}

fn hello(peers: &Peers) -> Bytes {
    let cluster = peers.cluster.as_bytes();
    let length = u8::try_from(cluster.len()).unwrap_or(CLUSTER_BYTES_MAX);
    let mut hello = BytesMut::new();
    hello.extend_from_slice(HELLO_MAGIC);
    hello.extend_from_slice(&peers.me.0.to_be_bytes());
    hello.extend_from_slice(&[length]);
    hello.extend_from_slice(&cluster[..usize::from(length)]);
    hello.freeze()
}

async fn send_to(
    peer: NodeId,
    address: SocketAddr,
    hello: Bytes,
    mut queue: mpsc::Receiver<Frame>,
    deliver: Deliver,
) {
    while let Some(mut frame) = queue.recv().await {
        let connected = timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await;
        let Ok(Ok(stream)) = connected else {
            deliver(Incoming::Unreachable { peer });
            // What waited is stale by the time the peer is back.
            loop {
                if frame.is_snapshot {
                    deliver(Incoming::SnapshotSent { peer, whole: false });
                }
                match queue.try_recv() {
                    Ok(next) => frame = next,
                    Err(_) => break,
                }
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        if let Err(error) = pump(stream, &hello, frame, &mut queue, peer, &deliver).await {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection to a peer broke");
            deliver(Incoming::Unreachable { peer });
        }
    }
}

async fn pump(
    stream: TcpStream,
    hello: &Bytes,
    first: Frame,
    queue: &mut mpsc::Receiver<Frame>,
    peer: NodeId,
    deliver: &Deliver,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    let mut stream = BufWriter::new(stream);
    stream.write_all(hello).await?;
    let mut frame = first;
    loop {
        let sent = write_frame(&mut stream, &frame.bytes).await;
        if frame.is_snapshot {
            deliver(Incoming::SnapshotSent {
                peer,
                whole: sent.is_ok(),
            });
        }
        sent?;
        frame = match queue.try_recv() {
            Ok(next) => next,
            Err(_) => {
                stream.flush().await?;
                match queue.recv().await {
                    Some(next) => next,
                    None => return Ok(()),
                }
            }
        };
    }
}

async fn write_frame(stream: &mut BufWriter<TcpStream>, bytes: &Bytes) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a message is larger than a frame"))?;
    stream.write_u32(length).await?;
    stream.write_u32(crc32fast::hash(bytes)).await?;
    stream.write_all(bytes).await
}

/// The newest connection of each peer, by the order of acceptance; dropping a sender ends the
/// connection it belongs to.
type Newest = Arc<Mutex<BTreeMap<NodeId, (u64, oneshot::Sender<()>)>>>;

async fn accept(listener: TcpListener, peers: Peers, deliver: Deliver) {
    let peers = Arc::new(peers);
    let newest: Newest = Arc::default();
    let mut connections = JoinSet::new();
    let mut accepted = 0;
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                accepted += 1;
                connections.spawn(receive(
                    stream,
                    accepted,
                    Arc::clone(&peers),
                    Arc::clone(&newest),
                    Arc::clone(&deliver),
                ));
            }
            Err(error) => {
                // Out of descriptors, or the peer was gone already: neither ends the listener.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "accept from a peer failed"
                );
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

async fn receive(
    mut stream: TcpStream,
    session: u64,
    peers: Arc<Peers>,
    newest: Newest,
    deliver: Deliver,
) {
    let from = match timeout(HELLO_PATIENCE, read_hello(&mut stream, &peers)).await {
        Ok(Ok(from)) => from,
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "refused a connection that is no peer's"
            );
            return;
        }
        Err(_) => return,
    };
    let (replaced, mut superseded) = oneshot::channel();
    {
        let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&from).is_some_and(|(held, _)| *held > session) {
            return;
        }
        newest.insert(from, (session, replaced));
    }
    loop {
        let frame = tokio::select! {
            frame = read_frame(&mut stream) => frame,
            _ = &mut superseded => return,
        };
        match frame {
            Ok(bytes) => {
                // Under the lock, so that nothing of an older connection follows a newer one's.
                let newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
                if newest.get(&from).is_none_or(|(held, _)| *held != session) {
                    return;
                }
                deliver(Incoming::Message { from, bytes });
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::debug!(%from, error = &error as &dyn std::error::Error, "connection from a peer broke");
                }
                return;
            }
        }
    }
}

async fn read_hello(stream: &mut TcpStream, peers: &Peers) -> io::Result<NodeId> {
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).await?;
    if &magic != HELLO_MAGIC {
        return Err(io::Error::other("not our protocol"));
    }
    let from = NodeId(stream.read_u64().await?);
    let length = stream.read_u8().await?;
    let mut cluster = vec![0; usize::from(length)];
    stream.read_exact(&mut cluster).await?;
    if cluster != peers.cluster.as_bytes() {
        return Err(io::Error::other("another cluster"));
    }
    if from == peers.me || !peers.addresses.contains_key(&from) {
        return Err(io::Error::other("not a member"));
    }
    Ok(from)
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let length = stream.read_u32().await?;
    let crc = stream.read_u32().await?;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too large"));
    }
    // Grown as bytes arrive, so that a length alone costs nothing.
    let mut bytes = BytesMut::new();
    let mut body = stream.take(u64::from(length));
    while body.read_buf(&mut bytes).await? > 0 {}
    if bytes.len() as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if crc32fast::hash(&bytes) != crc {
        return Err(io::Error::other("a frame's checksum does not hold"));
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn peers(cluster: &str, me: u64, addresses: &[(u64, SocketAddr)]) -> Peers {
        Peers {
            cluster: cluster.to_owned(),
            me: NodeId(me),
            addresses: addresses
                .iter()
                .map(|(id, at)| (NodeId(*id), *at))
                .collect(),
        }
    }

    /// Node 1 of cluster "ours", which knows node 2, and what it is told.
    async fn listening(
        tasks: &mut JoinSet<()>,
    ) -> (SocketAddr, mpsc::UnboundedReceiver<(NodeId, Bytes)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, heard) = mpsc::unbounded_channel();
        let deliver: Deliver = Arc::new(move |incoming| {
            if let Incoming::Message { from, bytes } = incoming {
                let _ = told.send((from, bytes));
            }
        });
        // Nobody listens where node 2 is said to be; node 1 sends it nothing.
        let peers = peers("ours", 1, &[(1, address), (2, address)]);
        tasks.spawn(accept(listener, peers, deliver));
        (address, heard)
    }

    async fn dial(address: SocketAddr, cluster: &str, me: u64) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(&hello(&peers(cluster, me, &[])))
            .await
            .unwrap();
        stream
    }

    async fn write(stream: &mut TcpStream, bytes: &[u8], crc: u32) {
        stream
            .write_u32(u32::try_from(bytes.len()).unwrap())
            .await
            .unwrap();
        stream.write_u32(crc).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }

    /// The other side has ended the connection.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let read = timeout(PATIENCE, stream.read(&mut byte)).await.unwrap();
        matches!(read, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn only_members_of_the_same_cluster_are_heard() {
        let mut tasks = JoinSet::new();
        let (address, mut heard) = listening(&mut tasks).await;
        for (case, cluster, me) in [
            ("another cluster", "theirs", 2),
            ("no member", "ours", 3),
            ("oneself", "ours", 1),
        ] {
            let mut stream = dial(address, cluster, me).await;
            write(&mut stream, b"hello", crc32fast::hash(b"hello")).await;
            assert!(is_closed(&mut stream).await, "{case}");
        }
        let mut member = dial(address, "ours", 2).await;
        write(&mut member, b"hello", crc32fast::hash(b"hello")).await;
        let first = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        assert_eq!(first, (NodeId(2), Bytes::from_static(b"hello")));
    }

    #[tokio::test]
    async fn a_damaged_or_oversized_frame_ends_the_connection() {
        let mut tasks = JoinSet::new();
        let (address, mut heard) = listening(&mut tasks).await;
        let mut damaged = dial(address, "ours", 2).await;
        write(&mut damaged, b"hello", crc32fast::hash(b"hullo")).await;
        assert!(is_closed(&mut damaged).await);

        let mut oversized = dial(address, "ours", 2).await;
        oversized.write_u32(FRAME_BYTES_MAX + 1).await.unwrap();
        oversized.write_u32(0).await.unwrap();
        assert!(is_closed(&mut oversized).await);
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_newer_connection_silences_the_older_one() {
        let mut tasks = JoinSet::new();
        let (address, mut heard) = listening(&mut tasks).await;
        let mut older = dial(address, "ours", 2).await;
        write(&mut older, b"1", crc32fast::hash(b"1")).await;
        assert_eq!(heard.recv().await.unwrap().1, Bytes::from_static(b"1"));
        let mut newer = dial(address, "ours", 2).await;
        write(&mut newer, b"2", crc32fast::hash(b"2")).await;
        assert_eq!(heard.recv().await.unwrap().1, Bytes::from_static(b"2"));
        assert!(is_closed(&mut older).await);
    }
}
