//! Request bodies: held whole, within bounds.
//!
//! Whole, because a function is started only once all of a call is here: a slow sender then holds
//! no instance, and a call that finds no room can still be handed to a peer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::error::CallRefused;
use super::memory::{self, Memory, Reserved};

/// How long a sender may pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

pub struct Bodies {
    pub memory: Memory,
    bytes_max: usize,
}

/// A sender whose body is refused hears why only if somebody reads on: one that is still writing
/// when the connection closes sees a broken pipe. This much is read and thrown away, ...
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// ... for this long.
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// A body. Its memory is reserved until the last copy of the bytes is dropped: the engine keeps one of
/// a call that runs, whether its caller stays or not.
pub struct HeldBody {
    pub bytes: Bytes,
    memory: Arc<Mutex<Reserved>>,
}

impl HeldBody {
    fn new(bytes: Vec<u8>, memory: Reserved) -> Self {
        let memory = Arc::new(Mutex::new(memory));
        let counted = Counted {
            bytes,
            _memory: Arc::clone(&memory),
        };
        Self {
            bytes: Bytes::from_owner(counted),
            memory,
        }
    }

    /// What is reserved for it, for the answer of a call that has ended.
    pub fn into_memory(self) -> Reserved {
        std::mem::take(&mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Counted {
    bytes: Vec<u8>,
    _memory: Arc<Mutex<Reserved>>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            memory: Memory::default(),
            bytes_max,
        }
    }

    /// Refuses a body that says it is too long, before a byte of it is held.
    ///
    /// # Errors
    /// 413 with the contract's message.
    fn check_declared(&self, headers: &HeaderMap) -> Result<Option<usize>, CallRefused> {
        let declared = headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match declared {
            None => Ok(None),
            Some(length) => usize::try_from(length)
                .ok()
                .filter(|length| *length <= self.bytes_max)
                .map(Some)
                .ok_or_else(|| CallRefused::too_large(length, self.bytes_max)),
        }
    }

    /// Reads all of it; one that is refused is read on for a while and thrown away, so that its
    /// sender gets to hear why.
    ///
    /// # Errors
    /// As [`Self::check_declared`]; 413 if it is too long after all, 408 if it pauses or takes longer
    /// than [`memory::time_for`] it, 503 if memory for bodies is used up, 400 if it breaks off.
    pub async fn receive(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<HeldBody, CallRefused> {
        let held = match self.check_declared(headers) {
            Ok(declared) => self.hold(&mut body, declared).await,
            Err(refused) => Err(refused),
        };
        if held.is_err() {
            discard(body).await;
        }
        held
    }

    /// Memory is reserved for what has come and not for what was announced: who announces much and
    /// sends little must not keep others out.
    async fn hold(
        &self,
        body: &mut Body,
        declared: Option<usize>,
    ) -> Result<HeldBody, CallRefused> {
        let begun = Instant::now();
        let length_max = declared.unwrap_or(self.bytes_max);
        let (mut memory, mut bytes) = (Reserved::default(), Vec::new());
        loop {
            let by = begun + next_piece_by(begun.elapsed(), bytes.len());
            let frame = tokio::time::timeout_at(by, body.frame())
                .await
                .map_err(|_| {
                    CallRefused::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "the request body did not arrive in time",
                    )
                })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                CallRefused::new(StatusCode::BAD_REQUEST, "the request body broke off")
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let length = bytes.len() + data.len();
            if length > self.bytes_max {
                return Err(CallRefused::too_long(self.bytes_max));
            }
            if length > bytes.capacity() {
                // Doubled, so that a long body is moved a few times only.
                let capacity = (bytes.capacity() * 2).min(length_max).max(length);
                self.memory
                    .grow(&mut memory, capacity)
                    .map_err(|_| CallRefused::busy())?;
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(HeldBody::new(bytes, memory))
    }
}

/// Until when after the beginning the next piece of a body has to come, with so many bytes here.
fn next_piece_by(elapsed: Duration, bytes: usize) -> Duration {
    (elapsed + PAUSE_MAX).min(memory::time_for(bytes))
}

async fn discard(mut body: Body) {
    let discarding = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    // Either way the sender has had its chance.
    let _in_time = tokio::time::timeout(DISCARD_MAX, discarding).await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn chunked(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Bytes::from_static(chunk.as_bytes())))
            .collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn bodies_are_held_up_to_the_limit_and_refused_beyond_it() {
        let bodies = Bodies::new(10);
        for (chunks, want) in [
            (&["hello"][..], Ok("hello")),
            (&["hello", "world"], Ok("helloworld")),
            (&[], Ok("")),
            (&["hello", "world", "!"], Err(413)),
        ] {
            let held = bodies.receive(&HeaderMap::new(), chunked(chunks)).await;
            let got = held
                .as_ref()
                .map(|held| std::str::from_utf8(&held.bytes).unwrap())
                .map_err(|refused| refused.status.as_u16());
            assert_eq!(got, want);
        }
    }

    #[tokio::test]
    async fn announced_bodies_take_no_memory_before_they_come() {
        let bodies = Bodies::new(6 << 20);
        let mut headers = HeaderMap::new();
        headers.insert("content-length", (6 << 20).into());
        let silent: Vec<_> = (0..200)
            .map(|_| {
                let body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
                let body = Body::from_stream(body.chain(stream::pending()));
                bodies.receive(&headers, body)
            })
            .collect();
        let mut silent = Box::pin(futures_util::future::join_all(silent));
        tokio::select! {
            biased;
            _ = &mut silent => panic!("none of them is whole"),
            () = tokio::task::yield_now() => {}
        }
        let whole = Body::from(vec![7; 6 << 20]);
        let held = bodies.receive(&headers, whole).await;
        assert_eq!(held.map(|held| held.bytes.len()).ok(), Some(6 << 20));
    }

    #[tokio::test]
    async fn a_body_counts_for_as_long_as_anybody_has_it() {
        let bodies = Bodies::new(1 << 10);
        let all = || bodies.memory.grow(&mut Reserved::default(), 384 << 20);
        let body = Body::from(vec![7; 1 << 10]);
        let held = bodies.receive(&HeaderMap::new(), body).await.unwrap();
        let with_the_engine = held.bytes.clone();
        drop(held);
        all().unwrap_err();
        drop(with_the_engine);
        all().unwrap();
    }

    #[test]
    fn a_sender_may_neither_pause_nor_trickle() {
        for (case, elapsed, bytes, by) in [
            ("nothing yet", 0, 0, 20),
            ("a byte every 15 s", 15, 1, 20),
            ("128 KiB a second", 48, 6 << 20, 68),
            ("as slow as allowed", 190, 6 << 20, 210),
            ("slower", 200, 6 << 20, 212),
        ] {
            let by = Duration::from_secs(by);
            let elapsed = Duration::from_secs(elapsed);
            assert_eq!(next_piece_by(elapsed, bytes), by, "{case}");
        }
    }

    #[test]
    fn a_declared_length_over_the_limit_gets_the_contracts_message() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "11".parse().unwrap());
        let refused = Bodies::new(10).check_declared(&headers).unwrap_err();
        assert_eq!(
            refused.message,
            "Content-Length too large for this server, 11 > max 10"
        );
    }
}
