//! Regions and what the global plane thinks of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{Revision, Timestamp};

/// A region's name: a DNS label, because `REGION.at.Z` is its static name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a region name is 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct RegionNameError;

impl RegionName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionName {
    type Err = RegionNameError;

    fn from_str(text: &str) -> Result<Self, RegionNameError> {
        if !crate::dns_label::is_label(text) {
            return Err(RegionNameError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place on Earth, in degrees; south and west are negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Location {
    pub latitude: f64,
    pub longitude: f64,
}

/// What the global plane holds of a region: what it registered and the derived status row.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    pub name: RegionName,
    /// What DNS answers with. At least one family is present.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// Where gateways of other regions and global nodes reach its gateway, `host:port`.
    pub gateway: String,
    /// Its admin listener, `host:port`.
    pub admin: String,
    pub location: Location,
    pub labels: BTreeMap<String, String>,
    /// An operator asked it to drain; outlives restarts of the region.
    pub drained: bool,
    pub verdict: Verdict,
    /// Milliseconds added to its RTT while demand exceeds its target; 0 until prices are computed.
    pub price_ms: u32,
    pub registered_at: Timestamp,
    pub revision: Revision,
}

/// What is thought of a region, after hysteresis. One probe result is not a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Healthy,
    Suspect,
    Down,
    Recovering,
    Draining,
}

impl Verdict {
    /// Whether clients may be sent there while others serve too.
    #[must_use]
    pub fn serves(self) -> bool {
        match self {
            Self::Healthy | Self::Suspect | Self::Recovering => true,
            Self::Down | Self::Draining => false,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Recovering => "recovering",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much room a region's cluster has, where it runs on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizing {
    /// Machines that are ready and take instances.
    pub nodes: u32,
    /// What they may give to instances and everything else, all together.
    pub allocatable_memory_mb: u64,
    /// Instances that no machine has taken yet.
    pub pending_instances: u32,
}

/// How a region follows the global plane's changes, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Following {
    /// Milliseconds since it last heard something new, progress marks included. They come every
    /// second, so more than a few seconds mean that it gets no further.
    pub silent_ms: u64,
    /// Milliseconds since it could have had the oldest revision that it lacks; 0 while that is within
    /// the bound that it allows itself, and while it hears no global node.
    pub behind_ms: u64,
    /// Snapshots that it took because its watch failed twice at one revision, since its start.
    pub forced_snapshots: u64,
    /// Why nothing new came since it last did.
    pub problem: Option<String>,
}

/// Admitted concurrency: calls running or holding a place, against the admission limits. Never CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    pub current: u32,
    /// Where steering starts to shed.
    pub target: u32,
    /// Where the gateway starts to refuse.
    pub capacity: u32,
}
