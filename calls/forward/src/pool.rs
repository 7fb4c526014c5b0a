//! Gateways, their idle connections, and when they were last heard.
//!
//! An idle connection waits in a slot, and a time stamp beside the slot says since when. Slots are
//! looked through and claimed by their stamps; the lock of a slot is only ever taken by whoever has
//! claimed it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::link::Link;

/// Shorter than the 20 s after which our own servers close an idle connection, so that a call is
/// rarely sent into a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Idle connections of one gateway: what a burst of as many calls leaves behind.
const PEER_IDLE_MAX: usize = 64;

/// Of all gateways together: an eighth of the descriptors that a service gets by default would be
/// 2,500; a federation of 30 regions keeps its bursts with this.
const IDLE_ALL_MAX: usize = 1024;

/// More gateways than any federation has; beyond it connections are not kept.
const PEERS_MAX: usize = 4096;

/// A gateway that nothing was sent to for this long is forgotten.
const PEER_UNUSED_MAX: Duration = Duration::from_secs(600);

type TcpLink = Link<TcpStream>;

#[derive(Debug)]
pub(crate) struct Pool {
    began: Instant,
    peers: ArcSwap<HashMap<String, Arc<Peer>>>,
    idle: Arc<AtomicUsize>,
}

/// One gateway.
#[derive(Debug)]
pub(crate) struct Peer {
    pub address: String,
    began: Instant,
    slots: [Slot; PEER_IDLE_MAX],
    /// Of all peers.
    idle: Arc<AtomicUsize>,
    /// Stamps: when something was last sent there, and when its process last said anything.
    used: AtomicU64,
    heard: AtomicU64,
    is_asked: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    /// [`EMPTY`], [`CLAIMED`], or since when its connection is idle.
    since: AtomicU64,
    link: Mutex<Option<TcpLink>>,
}

const EMPTY: u64 = 0;
const CLAIMED: u64 = u64::MAX;

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            peers: ArcSwap::default(),
            idle: Arc::default(),
        }
    }

    pub(crate) fn peer(&self, address: &str) -> Arc<Peer> {
        if let Some(peer) = self.peers.load().get(address) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer {
            address: address.to_owned(),
            began: self.began,
            slots: std::array::from_fn(|_| Slot::default()),
            idle: Arc::clone(&self.idle),
            used: AtomicU64::new(stamp(self.began)),
            heard: AtomicU64::new(EMPTY),
            is_asked: AtomicBool::new(false),
        });
        self.peers.rcu(|peers| {
            let mut peers = HashMap::clone(peers);
            if peers.len() < PEERS_MAX {
                let known = peers.entry(address.to_owned());
                known.or_insert_with(|| Arc::clone(&peer));
            }
            peers
        });
        // Another call may have been quicker.
        self.peers.load().get(address).map_or(peer, Arc::clone)
    }

    /// Closes what has been idle for too long, and forgets gateways that nobody calls any more.
    pub(crate) fn sweep(&self) {
        self.sweep_at(stamp(self.began));
    }

    fn sweep_at(&self, now: u64) {
        let peers = self.peers.load();
        let mut unused = false;
        for peer in peers.values() {
            peer.close_expired(now);
            unused |= peer.is_unused(now);
        }
        if unused {
            self.peers.rcu(|peers| {
                let mut peers = HashMap::clone(peers);
                peers.retain(|_, peer| !peer.is_unused(now));
                peers
            });
        }
    }
}

impl Peer {
    /// The connection that was used last, which is the likeliest to be open.
    pub(crate) fn take(&self) -> Option<TcpLink> {
        let now = stamp(self.began);
        self.used.store(now, Ordering::Relaxed);
        loop {
            let (slot, since) = self
                .slots
                .iter()
                .map(|slot| (slot, slot.since.load(Ordering::Relaxed)))
                .filter(|(_, since)| *since != EMPTY && *since != CLAIMED)
                .max_by_key(|(_, since)| *since)?;
            let link = slot.claim(since).and_then(|()| self.empty(slot));
            if let Some(mut link) = link
                && !is_expired(since, now)
                && link.is_open()
            {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for the next call if there is room.
    pub(crate) fn put(&self, link: TcpLink) {
        if self.idle.fetch_add(1, Ordering::Relaxed) >= IDLE_ALL_MAX {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let free = self.slots.iter().find(|slot| slot.claim(EMPTY).is_some());
        let Some(slot) = free else {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        *slot.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        slot.since.store(stamp(self.began), Ordering::Release);
    }

    fn close_expired(&self, now: u64) {
        for slot in &self.slots {
            let since = slot.since.load(Ordering::Relaxed);
            if since != EMPTY
                && since != CLAIMED
                && is_expired(since, now)
                && slot.claim(since).is_some()
            {
                drop(self.empty(slot));
            }
        }
    }

    /// What a claimed slot holds.
    fn empty(&self, slot: &Slot) -> Option<TcpLink> {
        let link = slot
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        slot.since.store(EMPTY, Ordering::Release);
        self.idle.fetch_sub(1, Ordering::Relaxed);
        link
    }

    fn is_unused(&self, now: u64) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        Duration::from_millis(now.saturating_sub(used)) >= PEER_UNUSED_MAX
    }

    /// Its process has said something.
    pub(crate) fn hear(&self) {
        self.heard.store(stamp(self.began), Ordering::Relaxed);
    }

    /// When its process last said something.
    pub(crate) fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// The right to ask whether it lives, for one call at a time.
    pub(crate) fn begin_asking(&self) -> Option<Asking<'_>> {
        let first = !self.is_asked.swap(true, Ordering::AcqRel);
        first.then_some(Asking(self))
    }
}

impl Slot {
    fn claim(&self, since: u64) -> Option<()> {
        self.since
            .compare_exchange(since, CLAIMED, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|_| ())
    }
}

pub(crate) struct Asking<'a>(&'a Peer);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.is_asked.store(false, Ordering::Release);
    }
}

/// Milliseconds since the pool began, never [`EMPTY`].
fn stamp(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).map_or(CLAIMED - 1, |millis| millis + 1)
}

fn is_expired(since: u64, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(since)) >= IDLE_MAX
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::net::TcpListener;

    use super::*;

    async fn link(listener: &TcpListener) -> (TcpLink, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Link::new(client.unwrap()), server.unwrap().0)
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first_and_a_closed_one_never() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new();
        let peer = pool.peer("a:1");
        assert!(peer.take().is_none());
        let mut servers = Vec::new();
        for closed in [false, true, false] {
            let (link, server) = link(&listener).await;
            if closed {
                drop(server);
                link.io.readable().await.unwrap();
            } else {
                servers.push(server);
            }
            peer.put(link);
            // Connections used within one millisecond have the same stamp.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for server in servers.iter().rev() {
            let taken = peer.take().unwrap().io.local_addr().unwrap();
            assert_eq!(taken, server.peer_addr().unwrap());
        }
        assert!(peer.take().is_none());
        assert_eq!(pool.idle.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn idle_connections_are_bounded_and_closed_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new();
        let peer = pool.peer("a:1");
        let mut servers = Vec::new();
        for _ in 0..=PEER_IDLE_MAX {
            let (link, server) = link(&listener).await;
            peer.put(link);
            servers.push(server);
        }
        assert_eq!(pool.idle.load(Ordering::Relaxed), PEER_IDLE_MAX);
        let after = |time: Duration| stamp(pool.began) + u64::try_from(time.as_millis()).unwrap();
        pool.sweep();
        assert_eq!(pool.idle.load(Ordering::Relaxed), PEER_IDLE_MAX);
        pool.sweep_at(after(IDLE_MAX));
        assert_eq!(pool.idle.load(Ordering::Relaxed), 0);
        assert!(!pool.peers.load().is_empty());
        pool.sweep_at(after(PEER_UNUSED_MAX));
        assert!(pool.peers.load().is_empty());
    }
}
