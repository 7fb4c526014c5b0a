//! Bounds on heads of messages: the same at every listener and in every client.

/// Fields of one head. The Fn contract bounds heads by size alone (6.4), so this one only keeps
/// `http::HeaderMap`, which panics past 24,576 entries, far away. It costs 64 bytes a field for as
/// long as a head is parsed.
pub const FIELDS_MAX: usize = 10_000;

/// Bytes of one head, its first line included: what Go's server, and so Fn's, takes (Fn contract 6.4).
pub const HEAD_BYTES_MAX: usize = 1 << 20;

/// The same for HTTP/2, where a field counts 32 bytes more (RFC 9113 section 6.5.2). The library
/// refuses what is longer without a body, so it is told twice of what [`crate::head::admit`] takes:
/// between the two a refusal says why.
pub const HTTP2_HEAD_BYTES_MAX: u32 = 2 << 20;

/// Bytes of a head that cost nothing of what a listener has for heads: as much as a connection's buffers
/// have anyway, and more than an ordinary request needs, so that nobody's large heads keep it out.
pub const HEAD_BYTES_FREE: usize = 16 << 10;

/// What is read of a body that was refused, so that its sender, which may send all of it before it
/// reads, hears why: connections with unread bytes are reset when they are closed (RFC 9112 section
/// 9.6). The largest thing a client sends is a bundle of 64 MiB, of which it may say a little more, ...
pub const LINGER_BYTES_MAX: u64 = 80 << 20;

/// ... and this is for how long.
pub const LINGER_MAX: std::time::Duration = std::time::Duration::from_secs(5);
