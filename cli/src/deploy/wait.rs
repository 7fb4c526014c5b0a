//! Waiting until regions hold what was deployed.

use std::time::{Duration, Instant};

use anyhow::bail;
use api_client::Client;
use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::placement::{Placements, Tier};
use api_types::region::Location;
use api_types::{Digest, Placement, Region, Revision, Timestamp};
use api_wire::fns::AnnotationsBody;
use api_wire::planes::{REPORT_ITEMS_MAX, RegionItem, Replication, ReplicationItem, VerdictBody};
use api_wire::{AppBody, FnBody, json};

use super::step::Step;

/// What regions must hold.
pub struct Wanted<'a> {
    pub app: &'a AppBody,
    pub function: &'a FnBody,
    pub revision: Revision,
    pub digest: Digest,
}

/// Regions report once a second; looking more often than a few times that shows nothing new.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

impl Wanted<'_> {
    /// Waits until every live region that may hold the function does; returns their names.
    ///
    /// # Errors
    /// After `patience`, with what each region that is late lacks.
    pub async fn everywhere(
        &self,
        client: &Client,
        patience: Duration,
        step: Step,
    ) -> anyhow::Result<Vec<String>> {
        let inside = self.inside(&client.regions().await?);
        if inside.is_empty() {
            step.say(
                "its placement admits none of the regions there are; \
                 it will run once one joins that it admits",
            );
            return Ok(inside);
        }
        step.say(&format!("waiting for {}", inside.join(", ")));
        let started = Instant::now();
        let mut next_progress = PROGRESS_INTERVAL;
        loop {
            let state = self.state(&client.replication().await?, &inside);
            if state.late.is_empty() {
                if state.holding.is_empty() {
                    step.say("none of these regions is up; each fetches it when it comes back");
                } else if !state.away.is_empty() {
                    step.say(&format!(
                        "not waiting for {}, which is not up and fetches it when it comes back",
                        state.away.join(", ")
                    ));
                }
                return Ok(state.holding);
            }
            let late = state.late.join("; ");
            let elapsed = started.elapsed();
            if elapsed >= patience {
                bail!(
                    "the function is deployed, but after {} s not every region holds it: {late}; \
                     see `tradewind replication` and the regions' logs",
                    patience.as_secs()
                );
            }
            if elapsed >= next_progress {
                step.say(&format!("waiting: {late}"));
                next_progress += PROGRESS_INTERVAL;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The regions that the placements of the app and the function admit.
    fn inside(&self, regions: &[RegionItem]) -> Vec<String> {
        let placements = Placements {
            app: placement(self.app.annotations.as_ref()),
            function: placement(self.function.annotations.as_ref()),
        };
        regions
            .iter()
            .filter(|item| {
                region(item).is_none_or(|region| placements.tier(&region) == Tier::Placed)
            })
            .map(|item| item.name.clone())
            .collect()
    }

    fn state(&self, replication: &Replication, inside: &[String]) -> State {
        let mut state = State::default();
        for name in inside {
            let item = replication.items.iter().find(|item| item.region == *name);
            match item {
                Some(item) if is_live(item) => match self.lacks(item) {
                    None => state.holding.push(name.clone()),
                    Some(lack) => state.late.push(format!("{name} {lack}")),
                },
                _ => state.away.push(name.clone()),
            }
        }
        state
    }

    fn lacks(&self, item: &ReplicationItem) -> Option<String> {
        if item.revision < self.revision.0 {
            return Some(format!(
                "has applied revision {}, not yet {}",
                item.revision, self.revision
            ));
        }
        let digest = self.digest.to_string();
        // A full list may leave out ours.
        let cut = item.bundles_missing.len() >= REPORT_ITEMS_MAX;
        (cut || item.bundles_missing.contains(&digest)).then(|| "is fetching the bundle".to_owned())
    }
}

/// Regions by whether they hold the function.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    holding: Vec<String>,
    /// With what each lacks.
    late: Vec<String>,
    /// Down or silent: nothing is known of them.
    away: Vec<String>,
}

/// A region that drains still follows the global plane.
fn is_live(item: &ReplicationItem) -> bool {
    item.verdict != VerdictBody::Down && item.reported_ms_ago.is_some()
}

fn placement(annotations: Option<&AnnotationsBody>) -> Option<Placement> {
    let raw = annotations?.get(PLACEMENT_ANNOTATION)?;
    Placement::from_json(&json::compact(raw.get())).ok()
}

/// What placements look at; `None` if its name is none, and then it is waited for.
fn region(item: &RegionItem) -> Option<Region> {
    Some(Region {
        name: item.name.parse().ok()?,
        ipv4: item.ipv4,
        ipv6: item.ipv6,
        gateway: item.gateway.clone(),
        admin: item.admin.clone(),
        location: Location {
            latitude: item.latitude,
            longitude: item.longitude,
        },
        labels: item.labels.clone(),
        drained: false,
        verdict: item.verdict.into(),
        price_ms: item.price_ms,
        registered_at: Timestamp::default(),
        revision: Revision(item.revision),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_wire::planes::LoadBody;

    use super::*;

    fn item(region: &str, verdict: VerdictBody, revision: u64) -> ReplicationItem {
        ReplicationItem {
            region: region.to_owned(),
            verdict,
            revision,
            lag_ms: 0,
            hash: String::new(),
            bundles_missing: Vec::new(),
            following: None,
            reported_ms_ago: Some(10),
        }
    }

    fn annotated(placement: &str) -> Option<AnnotationsBody> {
        let raw = serde_json::value::RawValue::from_string(placement.to_owned()).unwrap();
        Some([(PLACEMENT_ANNOTATION.to_owned(), raw)].into())
    }

    #[test]
    fn live_regions_are_waited_for_until_they_have_revision_and_bundle() {
        let (app, function) = (AppBody::default(), FnBody::default());
        let wanted = Wanted {
            app: &app,
            function: &function,
            revision: Revision(7),
            digest: Digest([1; 32]),
        };
        let fetching = ReplicationItem {
            bundles_missing: vec![wanted.digest.to_string()],
            ..item("d", VerdictBody::Healthy, 9)
        };
        let other = ReplicationItem {
            bundles_missing: vec!["00".repeat(32)],
            ..item("e", VerdictBody::Draining, 7)
        };
        let cut = ReplicationItem {
            bundles_missing: vec!["00".repeat(32); REPORT_ITEMS_MAX],
            ..item("f", VerdictBody::Healthy, 7)
        };
        let silent = ReplicationItem {
            reported_ms_ago: None,
            ..item("g", VerdictBody::Healthy, 9)
        };
        let replication = Replication {
            revision: 9,
            items: vec![
                item("a", VerdictBody::Healthy, 7),
                item("b", VerdictBody::Healthy, 6),
                item("c", VerdictBody::Down, 0),
                fetching,
                other,
                cut,
                silent,
            ],
        };
        let inside = ["a", "b", "c", "d", "e", "f", "g", "h"].map(str::to_owned);
        let state = wanted.state(&replication, &inside);
        assert_eq!(state.holding, ["a", "e"]);
        assert_eq!(
            state.late,
            [
                "b has applied revision 6, not yet 7",
                "d is fetching the bundle",
                "f is fetching the bundle",
            ]
        );
        assert_eq!(state.away, ["c", "g", "h"]);
    }

    #[test]
    fn only_placed_regions_are_waited_for() {
        let region = |name: &str, geo: &str| RegionItem {
            name: name.to_owned(),
            verdict: VerdictBody::Healthy,
            price_ms: 0,
            load: LoadBody::default(),
            sizing: None,
            revision: 0,
            lag_ms: 0,
            following: None,
            ipv4: None,
            ipv6: None,
            gateway: String::new(),
            admin: String::new(),
            latitude: 0.0,
            longitude: 0.0,
            labels: [("geo".to_owned(), geo.to_owned())].into(),
        };
        let regions = [
            region("iad", "na"),
            region("fra", "eu"),
            region("lhr", "eu"),
        ];
        for (app, function, want) in [
            (None, None, vec!["iad", "fra", "lhr"]),
            (
                annotated(r#"{"regions":["geo=eu"]}"#),
                None,
                vec!["fra", "lhr"],
            ),
            (
                annotated(r#"{"regions":["geo=eu"]}"#),
                annotated(r#"{"regions":["fra","iad"]}"#),
                vec!["fra"],
            ),
            (annotated(r#"{"regions":["mars"]}"#), None, vec![]),
        ] {
            let app = AppBody {
                annotations: app,
                ..AppBody::default()
            };
            let function = FnBody {
                annotations: function,
                ..FnBody::default()
            };
            let wanted = Wanted {
                app: &app,
                function: &function,
                revision: Revision(1),
                digest: Digest([1; 32]),
            };
            assert_eq!(wanted.inside(&regions), want);
        }
    }
}
