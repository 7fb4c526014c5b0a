//! Request bodies: held whole, within bounds.
//!
//! Whole, because a function is started only once all of a call is here: a slow sender then holds
//! no instance, and a call that finds no room can still be handed to a peer.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::CallRefused;

/// How long a sender may pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Memory that bodies being held may take together; a flood of large ones is refused beyond it.
const HELD_BYTES_MAX: usize = 512 << 20;

/// The unit in which memory is reserved.
const UNIT: usize = 1 << 10;

pub struct Bodies {
    memory: Semaphore,
    bytes_max: usize,
}

/// A sender whose body is refused hears why only if somebody reads on: one that is still writing
/// when the connection closes sees a broken pipe. This much is read and thrown away, ...
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// ... for this long.
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// A body, and the memory reserved for it.
pub struct HeldBody<'a> {
    pub bytes: Bytes,
    _memory: SemaphorePermit<'a>,
}

impl Bodies {
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            memory: Semaphore::new(HELD_BYTES_MAX / UNIT),
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
    /// As [`Self::check_declared`]; 413 if it is longer than it said, 408 if it pauses, 503 if memory
    /// for bodies is used up, 400 if it breaks off.
    pub async fn receive(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<HeldBody<'_>, CallRefused> {
        let held = match self.check_declared(headers) {
            Ok(declared) => self.hold(&mut body, declared).await,
            Err(refused) => Err(refused),
        };
        if held.is_err() {
            discard(body).await;
        }
        held
    }

    async fn hold(
        &self,
        body: &mut Body,
        declared: Option<usize>,
    ) -> Result<HeldBody<'_>, CallRefused> {
        let unit = |bytes: usize| u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let reserve = |bytes| {
            self.memory
                .try_acquire_many(unit(bytes))
                .map_err(|_| CallRefused::busy())
        };
        let mut memory = reserve(declared.unwrap_or(UNIT))?;
        let mut held_bytes = declared.unwrap_or(UNIT);
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0));
        loop {
            let frame = tokio::time::timeout(PAUSE_MAX, body.frame())
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
            if bytes.len() + data.len() > self.bytes_max {
                return Err(CallRefused::too_long(self.bytes_max));
            }
            bytes.extend_from_slice(&data);
            if bytes.len() > held_bytes {
                let more = bytes.len().max(held_bytes);
                memory.merge(reserve(more)?);
                held_bytes += more;
            }
        }
        Ok(HeldBody {
            bytes: bytes.freeze(),
            _memory: memory,
        })
    }
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

    use futures_util::stream;

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
        assert_eq!(
            bodies.memory.available_permits(),
            HELD_BYTES_MAX / UNIT,
            "memory is given back"
        );
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
