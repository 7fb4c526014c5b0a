//! The memory that bodies take together: calls on their way in, answers on their way out.
//!
//! An answer leaves as its reader takes it, in copied pieces, so that its memory is free once the
//! last piece is handed on. How long a reader takes is its own affair until others are refused
//! for it: then those that have stopped, or are slower than any use of a function needs, lose their
//! answers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use calls_door::Body;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// All bodies together: 85 of the longest that the default limits allow.
const BYTES_MAX: usize = 512 << 20;

/// Of these, what calls on their way in leave for answers: a call that ran and cannot be answered is
/// worse than one that is refused.
const ANSWERS_BYTES: usize = 128 << 20;

/// The unit in which memory is reserved.
const UNIT: usize = 1 << 10;

/// What a body takes longer than, at this rate or below, is cut off: 256 kbit/s.
const LEAST_BYTES_PER_SEC: u64 = 32 << 10;

/// How long a whole body of no length may take.
const BODY_MAX: Duration = Duration::from_secs(20);

/// How long a reader may stop while others are refused for it. One that reads steadily lets its peer
/// go on only once about half of its receive buffer is free: with the 128 KiB that Linux begins
/// with, after up to 4.0 s at [`LEAST_BYTES_PER_SEC`] (measured on loopback, with the bound on unsent
/// bytes that `daemon` sets), and one more for a lost packet. A larger buffer needs a faster reader:
/// 512 KiB took 10 s at that rate, 5 s at twice of it. For so long 85 readers that stop at once keep
/// everybody out.
const UNREAD_MAX: Duration = Duration::from_secs(5);

/// Between two looks for such readers: with all memory taken every call asks for one.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A piece of an answer: what a connection may hold of each beside the memory counted here. Small,
/// because an HTTP/2 connection has hundreds; it is a frame's default size (RFC 9113 section 6.5.2).
const PIECE: usize = 16 << 10;

/// How long a body of so many bytes may take from its first to its last.
#[must_use]
pub fn time_for(bytes: usize) -> Duration {
    BODY_MAX + Duration::from_millis(bytes as u64 * 1000 / LEAST_BYTES_PER_SEC)
}

/// All memory for bodies is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Memory that one body has; given back when dropped.
#[derive(Debug, Default)]
pub struct Reserved(Option<OwnedSemaphorePermit>);

impl Reserved {
    fn units(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives back all but `units`.
    fn shrink(&mut self, units: usize) {
        let surplus = self.units().saturating_sub(units);
        if let Some(permit) = &mut self.0 {
            drop(permit.split(surplus));
        }
    }
}

pub struct Memory {
    units: Arc<Semaphore>,
    unread: Arc<Mutex<Unread>>,
}

/// Answers that are not handed on yet; each has memory reserved, which bounds them.
#[derive(Default)]
struct Unread {
    last: u64,
    answers: BTreeMap<u64, Arc<Mutex<Rest>>>,
    looked: Option<Instant>,
}

/// What is left of an answer.
struct Rest {
    bytes: Bytes,
    reserved: Reserved,
    /// When its reader last took something.
    taken: Instant,
    /// When all of it should be taken.
    due: Instant,
    is_cut: bool,
}

impl Rest {
    fn is_slow(&self, now: Instant) -> bool {
        now >= self.taken + UNREAD_MAX || now >= self.due
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(BYTES_MAX)
    }
}

impl Memory {
    fn new(bytes: usize) -> Self {
        Self {
            units: Arc::new(Semaphore::new(bytes / UNIT)),
            unread: Arc::default(),
        }
    }

    /// Makes `reserved` enough for `bytes` of a call on its way in.
    ///
    /// # Errors
    /// If that would leave too little for answers; what was reserved stays.
    pub fn grow(&self, reserved: &mut Reserved, bytes: usize) -> Result<(), NoRoom> {
        self.reserve(reserved, bytes, ANSWERS_BYTES, Instant::now())
    }

    /// An answer as a body to send. It takes over what its call reserved, so one that is no longer
    /// than the call always finds room.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn answer(&self, bytes: Bytes, mut reserved: Reserved) -> Result<Body, NoRoom> {
        if bytes.is_empty() {
            return Ok(Body::empty());
        }
        let now = Instant::now();
        self.reserve(&mut reserved, bytes.len(), 0, now)?;
        reserved.shrink(bytes.len().div_ceil(UNIT));
        let rest = Arc::new(Mutex::new(Rest {
            due: now + time_for(bytes.len()),
            taken: now,
            bytes,
            reserved,
            is_cut: false,
        }));
        let mut unread = lock(&self.unread);
        unread.last += 1;
        let number = unread.last;
        unread.answers.insert(number, Arc::clone(&rest));
        Ok(Body::stream(BufferedBody {
            number,
            rest,
            unread: Arc::clone(&self.unread),
        }))
    }

    /// As long as `left` bytes are free after it.
    fn reserve(
        &self,
        reserved: &mut Reserved,
        bytes: usize,
        left: usize,
        now: Instant,
    ) -> Result<(), NoRoom> {
        let units = bytes.div_ceil(UNIT).saturating_sub(reserved.units());
        if units == 0 {
            return Ok(());
        }
        let wanted = units + left / UNIT;
        if self.units.available_permits() < wanted {
            self.cut_slow_readers(now);
        }
        // Two at once may leave a little less; it is a margin, not a bound.
        if self.units.available_permits() < wanted {
            return Err(NoRoom);
        }
        let units = u32::try_from(units).map_err(|_| NoRoom)?;
        let more = Arc::clone(&self.units)
            .try_acquire_many_owned(units)
            .map_err(|_| NoRoom)?;
        match &mut reserved.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// All of them, since whoever asks before the next look finds only what this one left free.
    fn cut_slow_readers(&self, now: Instant) {
        let mut unread = lock(&self.unread);
        if unread.looked.is_some_and(|at| now < at + LOOK_EVERY) {
            return;
        }
        unread.looked = Some(now);
        for rest in unread.answers.values() {
            let mut rest = lock(rest);
            if rest.is_cut || !rest.is_slow(now) {
                continue;
            }
            rest.bytes = Bytes::new();
            rest.reserved = Reserved::default();
            rest.is_cut = true;
            metrics::counter!("tradewind_region_answers_cut_total").increment(1);
        }
    }
}

/// A short lock: nothing is awaited and no other is taken but a [`Rest`]'s below the list's.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct BufferedBody {
    number: u64,
    rest: Arc<Mutex<Rest>>,
    unread: Arc<Mutex<Unread>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the client reads its response too slowly and memory is short")]
struct Cut;

impl hyper::body::Body for BufferedBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut rest = lock(&self.rest);
        if rest.is_cut {
            return Poll::Ready(Some(Err(Cut)));
        }
        if rest.bytes.is_empty() {
            return Poll::Ready(None);
        }
        rest.taken = Instant::now();
        let length = rest.bytes.len().min(PIECE);
        // A slice would keep all of the answer for as long as the connection keeps the piece.
        let piece = Bytes::copy_from_slice(&rest.bytes[..length]);
        rest.bytes.advance(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = lock(&self.rest);
        rest.bytes.is_empty() && !rest.is_cut
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(lock(&self.rest).bytes.len() as u64)
    }
}

impl Drop for BufferedBody {
    fn drop(&mut self) {
        lock(&self.unread).answers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use http_body_util::BodyExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    fn answer(memory: &Memory, bytes: usize) -> Result<Body, NoRoom> {
        memory.answer(Bytes::from(vec![7; bytes]), Reserved::default())
    }

    #[tokio::test]
    async fn an_answer_is_sent_whole_and_its_memory_given_back() {
        let memory = Memory::new(MIB);
        for bytes in [0, 1, PIECE, PIECE + 1, MIB] {
            let body = answer(&memory, bytes).unwrap();
            assert_eq!(
                hyper::body::Body::size_hint(&body).exact(),
                Some(bytes as u64)
            );
            let held = MIB / UNIT - bytes.div_ceil(UNIT);
            assert_eq!(memory.units.available_permits(), held);
            let got = body.collect().await.unwrap().to_bytes();
            assert_eq!(got, vec![7; bytes]);
            assert_eq!(memory.units.available_permits(), MIB / UNIT);
            assert!(lock(&memory.unread).answers.is_empty());
        }
    }

    #[tokio::test]
    async fn readers_that_stopped_lose_their_answers_once_others_need_the_memory() {
        let memory = Memory::new(4 * MIB);
        let mut stopped = answer(&memory, 2 * MIB).unwrap();
        stopped.frame().await.unwrap().unwrap();
        let now = Instant::now();
        let mut reading = answer(&memory, 2 * MIB).unwrap();
        let wants = |now| memory.reserve(&mut Reserved::default(), MIB, 0, now);
        assert_eq!(wants(now), Err(NoRoom), "neither is slow");

        lock(&lock(&memory.unread).answers[&2]).taken = now + UNREAD_MAX;
        assert_eq!(wants(now + UNREAD_MAX), Ok(()));
        assert!(
            stopped.frame().await.unwrap().is_err(),
            "what is left of it is not told as its end"
        );
        reading.frame().await.unwrap().unwrap();
        drop((stopped, reading));
        assert_eq!(memory.units.available_permits(), 4 * MIB / UNIT);
    }

    #[tokio::test]
    async fn one_look_frees_what_all_stopped_readers_hold() {
        let memory = Memory::new(4 * MIB);
        let _stopped = [(); 2].map(|()| answer(&memory, 2 * MIB).unwrap());
        let later = Instant::now() + UNREAD_MAX;
        let wants = || {
            let mut reserved = Reserved::default();
            memory.reserve(&mut reserved, 2 * MIB, 0, later)?;
            Ok::<_, NoRoom>(reserved)
        };
        let _both = [wants().unwrap(), wants().unwrap()];
        assert_eq!(wants().unwrap_err(), NoRoom);
    }

    #[test]
    fn a_reader_is_slow_that_stops_or_trickles() {
        let begun = Instant::now();
        let due = time_for(6 * MIB);
        assert_eq!(due, Duration::from_secs(20 + 192));
        let buffer_read = Duration::from_secs((128 << 10) / LEAST_BYTES_PER_SEC);
        for (case, taken, now, slow) in [
            ("at once", Duration::ZERO, Duration::ZERO, false),
            ("at the least rate", Duration::ZERO, buffer_read, false),
            ("stopped", Duration::ZERO, UNREAD_MAX, true),
            ("goes on", UNREAD_MAX, UNREAD_MAX, false),
            ("for too long", due, due, true),
        ] {
            let rest = Rest {
                bytes: Bytes::new(),
                reserved: Reserved::default(),
                taken: begun + taken,
                due: begun + due,
                is_cut: false,
            };
            assert_eq!(rest.is_slow(begun + now), slow, "{case}");
        }
    }

    #[test]
    fn an_answer_no_longer_than_its_call_always_finds_room() {
        let memory = Memory::new(ANSWERS_BYTES + 2 * MIB);
        let mut call = Reserved::default();
        memory.grow(&mut call, 2 * MIB).unwrap();
        let mut late = Reserved::default();
        assert_eq!(memory.grow(&mut late, 1), Err(NoRoom));
        let _others = answer(&memory, ANSWERS_BYTES).unwrap();
        assert_eq!(answer(&memory, 1).unwrap_err(), NoRoom);
        let body = memory.answer(Bytes::from(vec![7; MIB]), call).unwrap();
        assert_eq!(memory.units.available_permits(), MIB / UNIT, "the surplus");
        drop(body);
        assert_eq!(memory.units.available_permits(), 2 * MIB / UNIT);
    }
}
