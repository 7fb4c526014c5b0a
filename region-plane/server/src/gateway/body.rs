//! Request bodies: held whole, within bounds.
//!
//! Whole, because a function is started only once all of a call is here: a slow sender then holds
//! no instance, and a call that finds no room can still be handed to a peer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use calls_door::{Body, Refusal};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::Instant;

use super::error::CallRefused;
use super::memory::{self, Memory, Reserved};

/// How long a sender may pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

pub struct Bodies {
    pub memory: Memory,
    bytes_max: usize,
}

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

    /// Reads all of it. Not a byte is asked for of one that says it is too long; what becomes of the
    /// rest of one that is refused is the door's affair.
    ///
    /// # Errors
    /// 413 if it is too long, 408 if it pauses or takes longer than [`memory::time_for`] it, 503 if
    /// memory for bodies is used up, 400 if it breaks off.
    pub async fn receive(&self, mut body: Body) -> Result<HeldBody, CallRefused> {
        let declared = body.size_hint().exact();
        let length_max = match declared {
            None => self.bytes_max,
            Some(length) => usize::try_from(length)
                .ok()
                .filter(|length| *length <= self.bytes_max)
                .ok_or_else(|| Refusal::too_large(length, self.bytes_max as u64))?,
        };
        self.hold(&mut body, length_max).await
    }

    /// Memory is reserved for what has come and not for what was announced: who announces much and
    /// sends little must not keep others out.
    async fn hold(&self, body: &mut Body, length_max: usize) -> Result<HeldBody, CallRefused> {
        let begun = Instant::now();
        let (mut memory, mut bytes) = (Reserved::default(), Vec::new());
        loop {
            let by = begun + next_piece_by(begun.elapsed(), bytes.len());
            let frame = tokio::time::timeout_at(by, body.frame())
                .await
                .map_err(|_| Refusal::body_late())?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Refusal::body_broken())?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let length = bytes.len() + data.len();
            if length > self.bytes_max {
                return Err(Refusal::too_long(self.bytes_max as u64).into());
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
        streamed(stream::iter(chunks))
    }

    fn streamed<S>(chunks: S) -> Body
    where
        S: futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
    {
        use hyper::body::Frame;
        Body::stream(http_body_util::StreamBody::new(
            chunks.map(|chunk| chunk.map(Frame::data)),
        ))
    }

    /// A body that says how long it is.
    struct Announced(Body, u64);

    impl hyper::body::Body for Announced {
        type Data = Bytes;
        type Error = calls_door::BodyError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, calls_door::BodyError>>>
        {
            std::pin::Pin::new(&mut self.0).poll_frame(context)
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(self.1)
        }
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
            let held = bodies.receive(chunked(chunks)).await;
            let got = held
                .as_ref()
                .map(|held| std::str::from_utf8(&held.bytes).unwrap())
                .map_err(|refused| refused.refusal.status.as_u16());
            assert_eq!(got, want);
        }
    }

    #[tokio::test]
    async fn announced_bodies_take_no_memory_before_they_come() {
        let bodies = Bodies::new(6 << 20);
        let silent: Vec<_> = (0..200)
            .map(|_| {
                let body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
                let body = streamed(body.chain(stream::pending()));
                bodies.receive(Body::stream(Announced(body, 6 << 20)))
            })
            .collect();
        let mut silent = Box::pin(futures_util::future::join_all(silent));
        tokio::select! {
            biased;
            _ = &mut silent => panic!("none of them is whole"),
            () = tokio::task::yield_now() => {}
        }
        let whole = Body::from(Bytes::from(vec![7; 6 << 20]));
        let held = bodies.receive(whole).await;
        assert_eq!(held.map(|held| held.bytes.len()).ok(), Some(6 << 20));
    }

    #[tokio::test]
    async fn a_body_counts_for_as_long_as_anybody_has_it() {
        let bodies = Bodies::new(1 << 10);
        let all = || bodies.memory.grow(&mut Reserved::default(), 384 << 20);
        let body = Body::from(Bytes::from(vec![7; 1 << 10]));
        let held = bodies.receive(body).await.unwrap();
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

    #[tokio::test]
    async fn a_declared_length_over_the_limit_gets_the_contracts_message() {
        let body = Body::stream(Announced(streamed(stream::pending()), 11));
        let refused = Bodies::new(10).receive(body).await.err().unwrap();
        assert_eq!(
            refused.refusal.message,
            "Content-Length too large for this server, 11 > max 10"
        );
    }
}
