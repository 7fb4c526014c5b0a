//! How much the state may hold, beside how many objects of each kind: that is part of the kind's
//! declaration (`api_types::object`).

/// Of one app, so that deleting an app stays one command of bounded size.
pub const FNS_PER_APP_MAX: usize = 10_000;

/// Of one app; see [`FNS_PER_APP_MAX`].
pub const TRIGGERS_PER_APP_MAX: usize = 10_000;

/// Labels of one region.
pub const REGION_LABELS_MAX: usize = 64;

/// Of a label's key or value.
pub const REGION_LABEL_BYTES_MAX: usize = 128;

/// A bundle's bytes; it is copied whole between nodes.
pub const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Keys and values of one object's configuration together. Fn has no limit (Fn contract 5.2), but
/// it becomes an environment, and Linux gives a process's arguments and environment 2 MiB.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Requests whose outcome is remembered: 16 writes a second for all of [`SESSION_MILLIS_MAX`], and in
/// a burst of a thousand a second still every retry of the last ten seconds. A session has 1.2 KiB at
/// most, so all of them have 12 MiB.
pub const SESSIONS_MAX: usize = 10_000;

/// How long an outcome is remembered, in milliseconds of log time. Clients give a write up within
/// seconds; ten minutes covers one who waits out an outage and asks again.
pub const SESSION_MILLIS_MAX: u64 = 10 * 60 * 1000;

/// Of a remembered refusal's message, which may quote what was sent.
pub const SESSION_MESSAGE_BYTES_MAX: usize = 512;
