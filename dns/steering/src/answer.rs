//! What was decided, and why.

use std::fmt;

use api_types::placement::Why;
use api_types::{RegionName, Verdict};

use crate::map::ClassId;
use crate::rank::Key;
use crate::split::{BAND_TENTHS, WHOLE};

/// Where a client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The winner, then the runner-ups, best first; for [`Reason::AllDown`] all of them are to be
    /// answered. Empty only for [`Reason::NothingPlaced`] and for names that are not steered.
    pub regions: Vec<RegionName>,
    pub ttl_secs: u32,
    /// How many bits of the client's address the answer depends on (RFC 7871 SCOPE PREFIX-LENGTH);
    /// 0 if any client would get it.
    pub scope: u8,
    pub reason: Reason,
    /// Every region of the view: those of `regions` in that order, then the others, nearest first.
    pub candidates: Vec<Candidate>,
    /// `None` for names that are not steered.
    pub used: Option<Used>,
}

/// What the decision used beside the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// `None` for a client that the view's map was not asked for.
    pub class: Option<ClassId>,
    /// What is drawn by between regions that are about equally good.
    pub key: Key,
    /// Part of the key, for demand that is spread over time slots too.
    pub slot: Option<u64>,
    /// See [`crate::rank::Ranked::margin_tenths`].
    pub margin_tenths: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The best of the regions that serve and hold it.
    Ranked,
    /// No region it is placed in serves, and a preference yields: the best of the others.
    Elsewhere,
    /// Nothing it may be served from serves. With every region down the verdicts are likelier wrong
    /// than the regions, so all are answered.
    AllDown,
    /// Its placement admits no region that exists: NODATA.
    NothingPlaced,
    /// The name is not steered: a region's own, or one without addresses.
    Static,
}

impl Reason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ranked => "ranked",
            Self::Elsewhere => "elsewhere",
            Self::AllDown => "all_down",
            Self::NothingPlaced => "nothing_placed",
            Self::Static => "static",
        }
    }
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        match why {
            Why::Placed => Self::Ranked,
            Why::FunctionYields | Why::AppYields => Self::Elsewhere,
            Why::AllDown => Self::AllDown,
            Why::Nowhere => Self::NothingPlaced,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One region as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub region: RegionName,
    /// `None` if nobody knows where the client is; all regions are equally far then.
    pub rtt_tenths: Option<u32>,
    /// Whether the RTT was measured; modelled by distance if not.
    pub measured: bool,
    pub price_tenths: u32,
    /// Demand in thousandths of the region's target, if it is known.
    pub utilisation_permille: Option<u16>,
    pub verdict: Verdict,
    /// Of [`WHOLE`]: how much of the demand of clients like this one it has.
    pub share: u32,
    pub placed: bool,
    pub chosen: bool,
    pub because: Because,
}

impl Candidate {
    /// What the regions are ranked by, in tenths of a millisecond.
    #[must_use]
    pub fn total_tenths(&self) -> u32 {
        self.rtt_tenths
            .unwrap_or(0)
            .saturating_add(self.price_tenths)
    }

    /// Between 0 and 100.
    #[must_use]
    pub fn share_percent(&self) -> f64 {
        f64::from(self.share) * 100.0 / f64::from(WHOLE)
    }
}

/// Why a region won or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// Won: no other that serves is within the band of indifference.
    LeastTotal,
    /// Won among those within the band of indifference, which share the clients and the names.
    Drawn,
    /// Won although it is not placed there, because nowhere it is placed serves.
    PlacedDown,
    /// Won with all others that do not serve either.
    FailingOpen,
    /// Won because the name is this region's own.
    Named,
    Behind {
        by_tenths: u32,
        winner: RegionName,
    },
    /// About as good as the winner; the client's network and the name fell to the other.
    Shared {
        winner: RegionName,
    },
    /// It has less than the winner, but only IPv6 clients could reach it.
    NoIpv4 {
        winner: RegionName,
    },
    /// It would have been asked, but its verdict is this.
    NotServing(Verdict),
    /// It serves, but not clients of this continent.
    Unreachable,
    /// A preference that others could fulfil.
    NotPlaced,
    /// A strict placement: never.
    Forbidden,
    /// The name asked is another's.
    NotNamed,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeastTotal => f.write_str("least rtt + price"),
            Self::Drawn => write!(f, "drew this client among those within {}", Ms(BAND_TENTHS)),
            Self::PlacedDown => f.write_str("least rtt + price; no placed region serves"),
            Self::FailingOpen => f.write_str("no region serves, so all are answered"),
            Self::Named => f.write_str("named"),
            Self::Behind { by_tenths, winner } => write!(f, "{} behind {winner}", Ms(*by_tenths)),
            Self::Shared { winner } => write!(
                f,
                "within {} of the least; {winner} drew this client",
                Ms(BAND_TENTHS)
            ),
            Self::NoIpv4 { winner } => write!(f, "has no IPv4 address, and {winner} has"),
            Self::NotServing(verdict) => write!(f, "{verdict}"),
            Self::Unreachable => f.write_str("cannot be reached from the client's continent"),
            Self::NotPlaced => f.write_str("not placed"),
            Self::Forbidden => f.write_str("outside a strict placement"),
            Self::NotNamed => f.write_str("not named"),
        }
    }
}

/// Tenths of a millisecond for people: `12 ms`, `9.6 ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ms(pub u32);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", Bare(self.0))
    }
}

/// Without the unit.
struct Bare(u32);

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{}", self.0 / 10),
            tenths => write!(f, "{}.{tenths}", self.0 / 10),
        }
    }
}

impl Answer {
    /// The decision in one line: `fra 12 ms + 0; lhr 9 ms + 40 -> fra`.
    ///
    /// Regions that could not win say why: `nrt 230 ms + 0 (down)`. Those outside the placement are
    /// left out unless they were answered.
    #[must_use]
    pub fn decision(&self) -> String {
        let mut line = String::new();
        let told = self.candidates.iter().filter(|candidate| {
            candidate.chosen
                || !matches!(
                    candidate.because,
                    Because::NotPlaced | Because::Forbidden | Because::NotNamed
                )
        });
        for candidate in told {
            if !line.is_empty() {
                line.push_str("; ");
            }
            line.push_str(&candidate.to_string());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        let answered = self.candidates.iter().filter(|candidate| candidate.chosen);
        let answered: Vec<&str> = answered.map(|chosen| chosen.region.as_str()).collect();
        line.push_str("-> ");
        match answered.as_slice() {
            [] => line.push_str("nothing"),
            all => line.push_str(&all.join(", ")),
        }
        line
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let price = Bare(self.price_tenths);
        match self.rtt_tenths {
            Some(rtt) => write!(f, "{} {} + {price}", self.region, Ms(rtt))?,
            None => write!(f, "{} ? ms + {price}", self.region)?,
        }
        if self.price_tenths > 0
            && let Some(permille) = self.utilisation_permille
        {
            write!(f, " ({} % of target)", permille / 10)?;
        }
        if !self.verdict.serves() {
            write!(f, " ({})", self.verdict)?;
        } else if self.because == Because::Unreachable {
            f.write_str(" (unreachable)")?;
        } else if !self.placed {
            f.write_str(" (not placed)")?;
        }
        Ok(())
    }
}
