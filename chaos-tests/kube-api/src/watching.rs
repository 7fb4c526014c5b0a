//! Watch streams: each reads the resource's log from a position of its own, so a slow watcher costs
//! the others nothing and holds no queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::answer::{Dropped, Shared, status_json};
use crate::count::Tally;
use crate::refusal::{self, FailureStatus};
use crate::request::Call;
use crate::resource::{Definition, ResourceKey};
use crate::selector::Selector;
use crate::store::{ChangeKind, Stored};

/// Changes taken from the log at once: what a watcher writes in one piece.
const BATCH_MAX: usize = 500;

/// How a test ends watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// As the real server does at `timeoutSeconds`.
    Finished,
    /// The connection breaks.
    Dropped,
    /// An `ERROR` event with 410 in the stream: the watcher must list again.
    Expired,
    /// Nothing more is said and nothing closes, not even at `timeoutSeconds`: a flow that something
    /// on the way forgot.
    Silent,
}

/// What a watch asks for, read from its query.
pub(crate) struct WatchQuery {
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata_only: bool,
    /// Changes after this revision.
    pub(crate) from: u64,
    pub(crate) initial: Initial,
}

/// What comes before the changes.
pub(crate) enum Initial {
    Nothing,
    /// The state as it is, as `ADDED` events.
    State(Vec<Arc<Stored>>),
    /// The same, with the bookmark that ends it.
    StateThenBookmark(Vec<Arc<Stored>>),
    /// The connection breaks after these.
    Broken(Vec<Arc<Stored>>),
    /// Changes from there on are compacted away.
    TooOld(FailureStatus),
}

pub(crate) struct Watcher {
    shared: Arc<Shared>,
    call: Call,
    definition: Arc<Definition>,
    resource: ResourceKey,
    query: WatchQuery,
    initial: VecDeque<Arc<Stored>>,
    after_initial: AfterInitial,
    position: u64,
    changed: watch::Receiver<u64>,
    ended: oneshot::Receiver<WatchEnd>,
    bookmark_at: Instant,
    end_at: Instant,
    over: bool,
}

enum AfterInitial {
    Nothing,
    Bookmark,
    Break,
    Refuse(FailureStatus),
}

impl Watcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        call: Call,
        definition: Arc<Definition>,
        mut query: WatchQuery,
        changed: watch::Receiver<u64>,
        ended: oneshot::Receiver<WatchEnd>,
    ) -> Self {
        let (initial, after_initial) = match std::mem::replace(&mut query.initial, Initial::Nothing)
        {
            Initial::Nothing => (Vec::new(), AfterInitial::Nothing),
            Initial::State(state) => (state, AfterInitial::Nothing),
            Initial::StateThenBookmark(state) => (state, AfterInitial::Bookmark),
            Initial::Broken(state) => (state, AfterInitial::Break),
            Initial::TooOld(refused) => (Vec::new(), AfterInitial::Refuse(refused)),
        };
        let now = Instant::now();
        Self {
            resource: definition.key(),
            initial: initial.into(),
            after_initial,
            position: query.from,
            bookmark_at: now + shared.bookmark_every(),
            // Without a timeout the real server picks 30 to 60 minutes.
            end_at: now + query.timeout.unwrap_or(Duration::from_secs(1800)),
            over: false,
            shared,
            call,
            definition,
            query,
            changed,
            ended,
        }
    }

    pub(crate) fn stream(self) -> impl Stream<Item = Result<Frame<Bytes>, Dropped>> {
        stream::unfold(self, |mut watcher| async move {
            let piece = watcher.next_piece().await?;
            Some((piece.map(Frame::data), watcher))
        })
    }

    async fn next_piece(&mut self) -> Option<Result<Bytes, Dropped>> {
        if self.over {
            return None;
        }
        if let Some(piece) = self.initial_piece() {
            return Some(piece);
        }
        loop {
            // Marked as seen before the log is read, so that a change in between wakes us.
            self.changed.borrow_and_update();
            match self.changes() {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => {}
                Err(refused) => return Some(Ok(self.error(&refused))),
            }
            let bookmark_at = if self.query.bookmarks {
                self.bookmark_at
            } else {
                self.end_at
            };
            tokio::select! {
                biased;
                end = &mut self.ended => {
                    self.over = true;
                    return match end {
                        Ok(WatchEnd::Expired) => {
                            Some(Ok(self.error(&refusal::too_old(self.position, self.position + 1))))
                        }
                        Ok(WatchEnd::Dropped) => Some(Err(Dropped)),
                        Ok(WatchEnd::Silent) => std::future::pending().await,
                        Ok(WatchEnd::Finished) | Err(_) => None,
                    };
                }
                changed = self.changed.changed() => {
                    // The resource's CRD went.
                    if changed.is_err() {
                        self.over = true;
                        return None;
                    }
                }
                () = sleep_until(self.end_at) => {
                    self.over = true;
                    return None;
                }
                () = sleep_until(bookmark_at), if self.query.bookmarks => {
                    self.bookmark_at = Instant::now() + self.shared.bookmark_every();
                    return Some(Ok(self.bookmark(false)));
                }
            }
        }
    }

    fn initial_piece(&mut self) -> Option<Result<Bytes, Dropped>> {
        let mut piece = BytesMut::new();
        let mut events = 0;
        while events < BATCH_MAX as u64
            && let Some(object) = self.initial.pop_front()
        {
            self.write_event(&mut piece, ChangeKind::Added, &object);
            events += 1;
        }
        if self.initial.is_empty() {
            match std::mem::replace(&mut self.after_initial, AfterInitial::Nothing) {
                AfterInitial::Nothing => {}
                AfterInitial::Bookmark => piece.put(self.bookmark(true)),
                // First the events, then on the next poll the break.
                AfterInitial::Break if events > 0 => self.after_initial = AfterInitial::Break,
                AfterInitial::Break => {
                    self.over = true;
                    return Some(Err(Dropped));
                }
                AfterInitial::Refuse(refused) => return Some(Ok(self.error(&refused))),
            }
        }
        if piece.is_empty() {
            return None;
        }
        self.count(events, piece.len());
        Some(Ok(piece.freeze()))
    }

    /// The next changes that this watcher sees, if any.
    fn changes(&mut self) -> Result<Option<Bytes>, FailureStatus> {
        loop {
            let (changes, revision) = {
                let store = self.shared.store();
                let changes = store.changes_after(&self.resource, self.position, BATCH_MAX)?;
                (changes, store.revision())
            };
            if changes.len() < BATCH_MAX {
                // Nothing of this resource is left between here and now. A watch may begin at a
                // version that is not reached yet, and waits for it.
                self.position = self.position.max(revision);
            } else if let Some(last) = changes.last() {
                self.position = last.object.revision;
            }
            if changes.is_empty() {
                return Ok(None);
            }
            let mut piece = BytesMut::new();
            let mut events = 0;
            for change in &changes {
                let namespace = self.query.namespace.as_ref();
                if namespace.is_some_and(|namespace| change.object.name.namespace != *namespace) {
                    continue;
                }
                if let Some(kind) = change.seen_through(&self.query.selector) {
                    self.write_event(&mut piece, kind, &change.object);
                    events += 1;
                }
            }
            if events > 0 {
                self.count(events, piece.len());
                return Ok(Some(piece.freeze()));
            }
        }
    }

    fn write_event(&self, piece: &mut BytesMut, kind: ChangeKind, object: &Stored) {
        piece.reserve(object.json.len() + 40);
        piece.put_slice(b"{\"type\":\"");
        piece.put_slice(kind.as_str().as_bytes());
        piece.put_slice(b"\",\"object\":");
        if self.query.metadata_only {
            piece.put_slice(&crate::answer::metadata_only(&object.json));
        } else {
            piece.put_slice(&object.json);
        }
        piece.put_slice(b"}\n");
    }

    fn bookmark(&self, ends_initial: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": self.position.to_string() });
        if ends_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let (api_version, kind) = if self.query.metadata_only {
            ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata")
        } else {
            (self.definition.api_version(), self.definition.kind.as_str())
        };
        let event = json!({
            "type": "BOOKMARK",
            "object": { "apiVersion": api_version, "kind": kind, "metadata": metadata },
        });
        Bytes::from(format!("{event}\n"))
    }

    fn error(&mut self, refused: &FailureStatus) -> Bytes {
        self.over = true;
        let event = json!({ "type": "ERROR", "object": status_json(refused) });
        Bytes::from(format!("{event}\n"))
    }

    fn count(&self, events: u64, bytes: usize) {
        let tally = Tally {
            objects_out: events,
            bytes_out: bytes as u64,
            ..Tally::default()
        };
        self.shared.counters.add(&self.call, tally);
    }
}
