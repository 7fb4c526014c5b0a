//! What was decided, and why.

use std::fmt;

use api_types::placement::Why;
use api_types::{RegionName, Verdict};

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
    pub rtt_ms: Option<u32>,
    pub price_ms: u32,
    pub verdict: Verdict,
    pub placed: bool,
    pub chosen: bool,
    pub because: Because,
}

impl Candidate {
    /// What the regions are ranked by, in milliseconds.
    #[must_use]
    pub fn total_ms(&self) -> u32 {
        self.rtt_ms.unwrap_or(0).saturating_add(self.price_ms)
    }
}

/// Why a region won or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// Won: no other that serves has less.
    LeastTotal,
    /// Won although it is not placed there, because nowhere it is placed serves.
    PlacedDown,
    /// Won with all others that do not serve either.
    FailingOpen,
    /// Won because the name is this region's own.
    Named,
    Behind {
        by_ms: u32,
        winner: RegionName,
    },
    /// As good as the winner; the client's network and the name fell to the other.
    Equal {
        winner: RegionName,
    },
    /// It would have been asked, but its verdict is this.
    NotServing(Verdict),
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
            Self::PlacedDown => f.write_str("least rtt + price; no placed region serves"),
            Self::FailingOpen => f.write_str("no region serves, so all are answered"),
            Self::Named => f.write_str("named"),
            Self::Behind { by_ms, winner } => write!(f, "{by_ms} ms behind {winner}"),
            Self::Equal { winner } => write!(f, "equal to {winner}, which drew this client"),
            Self::NotServing(verdict) => write!(f, "{verdict}"),
            Self::NotPlaced => f.write_str("not placed"),
            Self::Forbidden => f.write_str("outside a strict placement"),
            Self::NotNamed => f.write_str("not named"),
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
        match self.rtt_ms {
            Some(rtt_ms) => write!(f, "{} {rtt_ms} ms + {}", self.region, self.price_ms)?,
            None => write!(f, "{} ? ms + {}", self.region, self.price_ms)?,
        }
        if !self.verdict.serves() {
            write!(f, " ({})", self.verdict)?;
        } else if !self.placed {
            f.write_str(" (not placed)")?;
        }
        Ok(())
    }
}
