//! How large what crosses a socket may be. What one end admits the other end must take, so both ends
//! read these.

use std::io;

use serde::Serialize;

/// An object as JSON, as it is stored and watched. An app's and a function's configuration together
/// become one environment, for which Linux has 2 MiB less a pointer for each variable (execve(2)),
/// and on Kubernetes one Secret, of 1 MiB.
pub const OBJECT_BYTES_MAX: usize = 512 << 10;

/// The body of an admin request. What a `GET` gave can be put back by any client: JSON writes no byte
/// of text with more than the six of `\u003c`, which Go writes for `<`. The rest is for what a `GET`
/// adds.
pub const REQUEST_BYTES_MAX: usize = 6 * OBJECT_BYTES_MAX + (64 << 10);

/// A line of the watch. A leader of an earlier version may have let two writes at once make an object
/// larger than [`OBJECT_BYTES_MAX`] together. The state itself stops at a MiB of configuration, of six bytes
/// each as above, and no request brings more than [`REQUEST_BYTES_MAX`] of anything else.
pub const LINE_BYTES_MAX: usize = (6 << 20) + REQUEST_BYTES_MAX + (64 << 10);

/// All objects together, each as above: 200,000 functions of the usual 600 bytes.
pub const OBJECTS_BYTES_MAX: usize = 128 << 20;

/// The answer of `GET /v1/snapshot`. It has all objects as a text inside JSON, which makes two bytes of
/// one at most. Beyond [`OBJECTS_BYTES_MAX`] there may be what was under way when the bound was met, no
/// more than the 64 MiB that Raft holds uncommitted.
pub const SNAPSHOT_BYTES_MAX: usize = 2 * (OBJECTS_BYTES_MAX + (64 << 20)) + (1 << 20);

/// How long `value` is as JSON, without writing it anywhere.
///
/// # Panics
/// If `value` has maps with other than text keys, which no wire form has.
#[must_use]
pub fn encoded_bytes<T: Serialize + ?Sized>(value: &T) -> usize {
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("wire forms are plain data");
    counter.0
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
