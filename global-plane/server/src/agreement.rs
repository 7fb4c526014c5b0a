//! Whether something new may be used: everybody has to know it first.
//!
//! Members say what they know by a command, so that every leader knows it. Regions say it with each
//! report and DNS servers with each request for a view; that is soft state of the leader, which both
//! come to every second. docs/decisions/format-gate.md has the reasons.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::{Catalog, FormatName, Kind, Knowledge, MemberId, Verdict};
use global_plane_state::Command;
use http::StatusCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::leader::Leader;
use crate::machine::Replica;
use crate::reader::{Consistency, Reader};
use crate::terms::Terms;
use crate::writer::Writer;

/// By which a leader tells another node that a command's formats may not be used yet. Callers get 503.
pub const LACKING: StatusCode = StatusCode::FAILED_DEPENDENCY;

/// Who lacks what, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lacking(pub String);

/// Those of `formats` that are not in use yet.
#[must_use]
pub fn not_in_use(catalog: &Catalog, mut formats: Vec<FormatName>) -> Vec<FormatName> {
    formats.retain(|format| catalog.format(format).is_none());
    formats
}

/// Knows what everybody said that they know.
pub struct Agreement {
    pub config: Arc<Config>,
    pub replica: Arc<Replica>,
    pub leader: Arc<Leader>,
    pub askers: Askers,
}

/// Everybody who may meet a new format, by name, with what they said they know.
#[derive(Debug, Default)]
struct Everybody {
    members: Vec<(String, Knowledge)>,
    regions: Vec<(String, Knowledge)>,
    dns_servers: Vec<(String, Knowledge)>,
}

impl Everybody {
    /// As the leader knows them.
    fn of(agreement: &Agreement) -> Self {
        let rows = agreement.leader.rows().unwrap_or_default();
        agreement.replica.read(|state| {
            let catalog = state.catalog();
            let members = agreement.config.members.iter().map(|member| {
                let said = catalog.member(MemberId(member.node_id));
                let knows = said.map_or_else(Knowledge::default, |said| said.knows.clone());
                (member.name.clone(), knows)
            });
            // A region that is down says nothing. It is refused the new formats when it comes back
            // without knowing them, and serves what it holds.
            let up = catalog
                .regions()
                .filter(|region| region.verdict != Verdict::Down);
            let regions = up.map(|region| {
                let row = rows.get(region.name.as_str());
                let knows = row.map_or_else(Knowledge::default, |row| Knowledge::said(&row.knows));
                (region.name.to_string(), knows)
            });
            Self {
                members: members.collect(),
                regions: regions.collect(),
                dns_servers: agreement.askers.lately(Instant::now()),
            }
        })
    }

    /// Who does not know which of these formats: members, all of them; others, those they meet.
    fn lacking(&self, formats: &[FormatName]) -> Vec<String> {
        /// What they are, who they are, and what they meet.
        type Party<'a> = (&'a str, &'a [(String, Knowledge)], fn(&str) -> bool);
        let all: [Party<'_>; 3] = [
            ("global node", &self.members, |_| true),
            ("region", &self.regions, is_for_regions),
            ("DNS server", &self.dns_servers, is_for_dns),
        ];
        let formats = || formats.iter().map(FormatName::as_str);
        all.into_iter()
            .flat_map(|(what, named, meets)| named.iter().map(move |named| (what, named, meets)))
            .filter_map(|(what, (name, knows), meets)| {
                let lacks = knows.lacks(formats().filter(|format| meets(format)));
                let some = !lacks.is_empty();
                some.then(|| format!("{what} {name} does not know {}", lacks.join(", ")))
            })
            .collect()
    }
}

impl Agreement {
    /// Whether all who would meet these formats know them. Only the leader hears regions.
    ///
    /// # Errors
    /// [`Lacking`] names all who do not.
    pub fn all_know(&self, formats: &[FormatName]) -> Result<(), Lacking> {
        let lacking = Everybody::of(self).lacking(formats);
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Lacking(format!(
            "this needs a newer version everywhere: {}; upgrade and try again",
            lacking.join("; ")
        )))
    }
}

/// What regions are sent: the forms of objects that they receive, of which `object/app.2` would be a
/// second.
fn is_for_regions(format: &str) -> bool {
    let form = format.strip_prefix("object/");
    let kind = form.and_then(|form| Kind::named(form.split('.').next()?));
    kind.is_some_and(Kind::received_by_regions)
}

fn is_for_dns(format: &str) -> bool {
    format.starts_with("view/")
}

/// What of what is in use a region that asks does not know.
#[must_use]
pub fn region_lacks(catalog: &Catalog, knows: &Knowledge) -> Vec<String> {
    lacks(catalog, knows, is_for_regions)
}

/// What of what is in use a DNS server that asks does not know.
#[must_use]
pub fn dns_server_lacks(catalog: &Catalog, knows: &Knowledge) -> Vec<String> {
    lacks(catalog, knows, is_for_dns)
}

fn lacks(catalog: &Catalog, knows: &Knowledge, meets: fn(&str) -> bool) -> Vec<String> {
    let in_use = catalog.formats().map(|format| format.name.as_str());
    let lacking = knows.lacks(in_use.filter(|format| meets(format)));
    lacking.into_iter().map(str::to_owned).collect()
}

/// DNS servers that asked this node lately, by name, and what they said they know.
#[derive(Debug, Default)]
pub struct Askers {
    heard: Mutex<BTreeMap<String, (Instant, Knowledge)>>,
}

/// A DNS server asks every global node each time its long poll ends, after 10 s at most. What has not
/// asked for this long is gone, or cut off and on its last view.
const ASKER_LASTS: Duration = Duration::from_secs(60);

/// Far more DNS servers than there are. Names beyond it are not remembered: whoever invents names can
/// hold back an upgrade no further than this.
const ASKERS_MAX: usize = 1024;

/// A host's name is shorter.
const ASKER_BYTES_MAX: usize = 255;

impl Askers {
    /// A DNS server asked.
    pub fn heard(&self, name: &str, knows: Knowledge, now: Instant) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (at, _)| now.duration_since(*at) < ASKER_LASTS);
        if name.len() <= ASKER_BYTES_MAX && (heard.len() < ASKERS_MAX || heard.contains_key(name)) {
            heard.insert(name.to_owned(), (now, knows));
        }
    }

    fn lately(&self, now: Instant) -> Vec<(String, Knowledge)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = heard
            .iter()
            .filter(|(_, (at, _))| now.duration_since(*at) < ASKER_LASTS);
        lately
            .map(|(name, (_, knows))| (name.clone(), knows.clone()))
            .collect()
    }
}

/// Between tries to say what this node knows; the write itself is tried for seconds.
const SAY_PAUSE: Duration = Duration::from_secs(1);

/// Has the federation know what this program knows, where that is not what this node last said. Ends
/// when it does, or when the node stops.
pub async fn say_known(reader: &Reader, writer: &Writer, shutdown: CancellationToken) {
    let own = Knowledge::own();
    let id = MemberId(writer.config.node_id);
    loop {
        // A node that has not caught up yet may believe what it said long ago; so the read is
        // confirmed by the leader.
        let said = reader.read(Consistency::Linearizable, |state| {
            let said = state.catalog().member(id);
            said.map_or_else(Knowledge::default, |member| member.knows.clone())
        });
        let told = tokio::select! {
            said = said => match said {
                Ok(said) if said == own => Ok(true),
                Ok(_) => Ok(false),
                Err(none) => Err(none.to_string()),
            },
            () = shutdown.cancelled() => return,
        };
        match told {
            Ok(true) => break,
            Ok(false) => {
                let command = Command::SayKnown {
                    member: id,
                    knows: own.clone(),
                };
                let wrote = tokio::select! {
                    wrote = writer.write(command, Terms::minted()) => wrote,
                    () = shutdown.cancelled() => return,
                };
                match wrote {
                    Ok(Ok(_)) => tracing::info!(knows = ?own, "said which formats this node knows"),
                    Ok(Err(refusal)) => {
                        tracing::warn!(%refusal, "cannot say which formats this node knows")
                    }
                    Err(unwritten) => tracing::debug!(error = %unwritten, "not said yet"),
                }
            }
            Err(problem) => tracing::debug!(error = problem, "not said yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(SAY_PAUSE) => {}
            () = shutdown.cancelled() => return,
        }
    }
    // A task that ends stops the node.
    shutdown.cancelled().await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn named(all: &[(&str, &[&str])]) -> Vec<(String, Knowledge)> {
        let said = |(name, knows): &(&str, &[&str])| ((*name).to_owned(), Knowledge::said(*knows));
        all.iter().map(said).collect()
    }

    #[test]
    fn who_meets_a_format_and_does_not_know_it_is_named() {
        let (fresh, view) = ("object/app.2", "view/comet");
        let everybody = |members, regions, dns_servers| Everybody {
            members: named(members),
            regions: named(regions),
            dns_servers: named(dns_servers),
        };
        let formats = [fresh, view, "command/comet"].map(|name| name.parse().unwrap());
        let new: &[&str] = &[fresh, view, "command/comet"];
        for (case, everybody, want) in [
            (
                "all are new",
                everybody(
                    &[("global-1", new)],
                    &[("fra", &[fresh])],
                    &[("dns-1", &[view])],
                ),
                vec![],
            ),
            (
                "one member is old",
                everybody(&[("global-1", new), ("global-2", &[])], &[], &[]),
                vec!["global node global-2 does not know object/app.2, view/comet, command/comet"],
            ),
            (
                "a region and a DNS server are old, each as to what it meets",
                everybody(
                    &[("global-1", new)],
                    &[("fra", &[])],
                    &[("dns-1", &[fresh])],
                ),
                vec![
                    "region fra does not know object/app.2",
                    "DNS server dns-1 does not know view/comet",
                ],
            ),
        ] {
            assert_eq!(everybody.lacking(&formats), want, "{case}");
        }
        // What regions receive by its kind.
        let formats = [
            "object/app",
            "object/app.2",
            "object/bundle",
            "object/comet",
            "command/app",
        ];
        assert_eq!(
            formats.map(is_for_regions),
            [true, true, false, false, false]
        );
    }

    #[test]
    fn dns_servers_count_for_as_long_as_they_ask() {
        let askers = Askers::default();
        let begun = Instant::now();
        let heard = |name: &str, at: Instant| askers.heard(name, Knowledge::default(), at);
        let names = |at: Instant| -> Vec<String> {
            let lately = askers.lately(at).into_iter();
            lately.map(|(name, _)| name).collect()
        };
        heard("dns-1", begun);
        heard(&"x".repeat(ASKER_BYTES_MAX + 1), begun);
        assert_eq!(names(begun), ["dns-1"]);
        heard("dns-2", begun + ASKER_LASTS / 2);
        let later = begun + ASKER_LASTS;
        assert_eq!(names(later), ["dns-2"]);
        for n in 0..=ASKERS_MAX {
            heard(&format!("made up {n}"), later);
        }
        assert_eq!(names(later).len(), ASKERS_MAX);
        assert!(names(later).contains(&"dns-2".to_owned()));
    }
}
