//! What the planes say to each other and to operators under `/v1`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use api_types::{Following, Load, Location, Region, RegionName, Revision, Sizing, Verdict};
use serde::{Deserialize, Serialize};

use crate::time;

/// Bytes a bundle may have; it never enters the log.
pub const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// `POST /v1/regions`: a region registers, idempotently, at every start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRegion {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// `host:port`.
    pub gateway: String,
    /// `host:port`.
    pub admin: String,
    pub latitude: f64,
    pub longitude: f64,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A region in `/v1/regions`, in views, on disk and in the watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionBody {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    pub gateway: String,
    pub admin: String,
    pub latitude: f64,
    pub longitude: f64,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub drained: bool,
    pub verdict: VerdictBody,
    pub price_ms: u32,
    pub registered_at: String,
    /// The revision that last changed the row.
    pub tradewind_revision: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictBody {
    Healthy,
    Suspect,
    Down,
    Recovering,
    Draining,
}

/// An item of `GET /v1/regions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionItem {
    pub name: String,
    pub verdict: VerdictBody,
    pub price_ms: u32,
    pub load: LoadBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<SizingBody>,
    /// The revision the region says it has applied; 0 before its first report.
    pub revision: u64,
    /// How long the oldest change it lacks has been waiting; 0 when it lacks none.
    pub lag_ms: u64,
    /// Absent if the region has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<FollowingBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    pub gateway: String,
    pub admin: String,
    pub latitude: f64,
    pub longitude: f64,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoadBody {
    pub current: u32,
    pub target: u32,
    pub capacity: u32,
}

/// How much room the region's cluster has, see [`Sizing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizingBody {
    pub nodes: u32,
    pub allocatable_memory_mb: u64,
    pub pending_instances: u32,
}

/// `POST /v1/regions/NAME/report`, every second to any node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Counts up within one start of the region; with `started_at` it orders reports that took
    /// different ways.
    pub sequence: u64,
    pub started_at_ms: i64,
    pub load: LoadBody,
    /// Calls waiting for an instance.
    pub queued: u32,
    /// Of the cluster the region runs on; absent where it runs on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<SizingBody>,
    /// The region itself asks for no more clients (it is stopping).
    pub draining: bool,
    /// Metadata applied and its rolling hash.
    pub revision: u64,
    pub hash: String,
    /// Digests of bundles placed here that are not on the region's disk yet; at most
    /// [`REPORT_ITEMS_MAX`].
    #[serde(default)]
    pub bundles_missing: Vec<String>,
    /// Absent from regions that are too old to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<FollowingBody>,
    /// Busiest functions since the last report; at most [`REPORT_ITEMS_MAX`].
    #[serde(default)]
    pub functions: Vec<FunctionCount>,
    /// Formats that the region knows beside those that every version does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub knows: Vec<String>,
}

/// How the region follows the global plane, see [`Following`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowingBody {
    pub silent_ms: u64,
    #[serde(default)]
    pub behind_ms: u64,
    pub forced_snapshots: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl From<FollowingBody> for Following {
    fn from(body: FollowingBody) -> Self {
        Self {
            silent_ms: body.silent_ms,
            behind_ms: body.behind_ms,
            forced_snapshots: body.forced_snapshots,
            problem: body.problem,
        }
    }
}

impl From<&Following> for FollowingBody {
    fn from(following: &Following) -> Self {
        Self {
            silent_ms: following.silent_ms,
            behind_ms: following.behind_ms,
            forced_snapshots: following.forced_snapshots,
            problem: following.problem.clone(),
        }
    }
}

/// Bounds the size of a report; what is cut is the least busy.
pub const REPORT_ITEMS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCount {
    pub fn_id: String,
    pub calls: u64,
    pub errors: u64,
    pub running: u32,
    pub instances: u32,
}

/// `GET /v1/replication`: `revision` is the global plane's, items are regions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    pub revision: u64,
    pub items: Vec<ReplicationItem>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicationItem {
    pub region: String,
    pub verdict: VerdictBody,
    pub revision: u64,
    pub lag_ms: u64,
    pub hash: String,
    pub bundles_missing: Vec<String>,
    /// Absent if the region has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<FollowingBody>,
    /// Milliseconds since its last report; absent if this leader has had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_ms_ago: Option<u64>,
}

/// An item of `GET /v1/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub api: String,
    /// `leader`, `follower` or `learner`.
    pub role: String,
    /// Last known on the answering node; 0 for a member it has not heard from.
    pub revision: u64,
}

/// Header of the answer to a region's report: for how many seconds DNS answers may be kept. So long,
/// and for the time in which its end gets known, a region that stops goes on taking calls.
pub const DNS_TTL_SECS: &str = "tradewind-dns-ttl-secs";

/// An item of `GET /v1/formats`: a format that not every version knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatItem {
    pub name: String,
    /// Whoever does not know it can no longer take part.
    pub in_use: bool,
    /// Members that have not said that they know it.
    pub lacking: Vec<String>,
}

/// The body of 410 from `/v1/watch`: take `GET /v1/snapshot` and watch from its revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    pub message: String,
    pub snapshot_revision: u64,
}

/// `GET /v1/explain?name=&client=`: every candidate and why it won or lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub name: String,
    /// The block steered for, as `203.0.113.0/24`.
    pub client: String,
    /// Where the block is thought to be, as `DE (worldmap)`, or `unknown`.
    pub located: String,
    /// One line: `fra 12 ms + 0; iad 91.5 ms + 0 -> fra`.
    pub decision: String,
    /// `ranked`, `all_down`, `nothing_placed`.
    pub reason: String,
    pub ttl_secs: u32,
    pub view: crate::view::ViewId,
    /// Class of the client map that the block is of; absent for names that are not steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u32>,
    /// What regions that are about equally good are drawn by, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Number of the time slot, for demand that is spread over those too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    /// By how much some price has to change at least before the answer can be another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_ms: Option<f64>,
    pub candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub region: String,
    pub rtt_ms: f64,
    /// Whether the RTT was measured; modelled by distance if not.
    #[serde(default)]
    pub measured: bool,
    /// With tenths.
    pub price_ms: f64,
    pub verdict: VerdictBody,
    /// How much of the demand of clients like this one it has, 0 to 100.
    #[serde(default)]
    pub share_percent: f64,
    pub placed: bool,
    pub chosen: bool,
    /// Why it won or lost, as `least rtt + price` or `down`.
    pub because: String,
}

impl From<Verdict> for VerdictBody {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Healthy => Self::Healthy,
            Verdict::Suspect => Self::Suspect,
            Verdict::Down => Self::Down,
            Verdict::Recovering => Self::Recovering,
            Verdict::Draining => Self::Draining,
        }
    }
}

impl From<VerdictBody> for Verdict {
    fn from(verdict: VerdictBody) -> Self {
        match verdict {
            VerdictBody::Healthy => Self::Healthy,
            VerdictBody::Suspect => Self::Suspect,
            VerdictBody::Down => Self::Down,
            VerdictBody::Recovering => Self::Recovering,
            VerdictBody::Draining => Self::Draining,
        }
    }
}

impl From<Sizing> for SizingBody {
    fn from(sizing: Sizing) -> Self {
        Self {
            nodes: sizing.nodes,
            allocatable_memory_mb: sizing.allocatable_memory_mb,
            pending_instances: sizing.pending_instances,
        }
    }
}

impl From<SizingBody> for Sizing {
    fn from(sizing: SizingBody) -> Self {
        Self {
            nodes: sizing.nodes,
            allocatable_memory_mb: sizing.allocatable_memory_mb,
            pending_instances: sizing.pending_instances,
        }
    }
}

impl From<Load> for LoadBody {
    fn from(load: Load) -> Self {
        Self {
            current: load.current,
            target: load.target,
            capacity: load.capacity,
        }
    }
}

impl From<LoadBody> for Load {
    fn from(load: LoadBody) -> Self {
        Self {
            current: load.current,
            target: load.target,
            capacity: load.capacity,
        }
    }
}

impl From<&Region> for RegionBody {
    fn from(region: &Region) -> Self {
        Self {
            name: region.name.to_string(),
            ipv4: region.ipv4,
            ipv6: region.ipv6,
            gateway: region.gateway.clone(),
            admin: region.admin.clone(),
            latitude: region.location.latitude,
            longitude: region.location.longitude,
            labels: region.labels.clone(),
            drained: region.drained,
            verdict: region.verdict.into(),
            price_ms: region.price_ms,
            registered_at: time::format(region.registered_at),
            tradewind_revision: region.revision.0,
        }
    }
}

impl TryFrom<RegionBody> for Region {
    type Error = crate::fns::StoredError;

    fn try_from(body: RegionBody) -> Result<Self, Self::Error> {
        let garbled = |field| crate::fns::StoredError {
            kind: "region",
            field,
        };
        Ok(Self {
            name: body
                .name
                .parse::<RegionName>()
                .map_err(|_| garbled("name"))?,
            ipv4: body.ipv4,
            ipv6: body.ipv6,
            gateway: body.gateway,
            admin: body.admin,
            location: Location {
                latitude: body.latitude,
                longitude: body.longitude,
            },
            labels: body.labels,
            drained: body.drained,
            verdict: body.verdict.into(),
            price_ms: body.price_ms,
            registered_at: time::parse(&body.registered_at)
                .ok_or_else(|| garbled("registered_at"))?,
            revision: Revision(body.tradewind_revision),
        })
    }
}
