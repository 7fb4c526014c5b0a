#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(15);

fn secs(secs: u64) -> Moment {
    Duration::from_secs(secs)
}

fn lease(holder: &str, transitions: u64, version: u64) -> Option<Record> {
    Some(Record {
        holder: holder.to_owned(),
        transitions,
        ttl: TTL,
        version: version.to_string(),
    })
}

fn written(version: Option<&str>, transitions: u64) -> Step {
    Step::Write {
        version: version.map(str::to_owned),
        transitions,
    }
}

#[test]
fn a_lease_that_nobody_has_is_taken_at_once() {
    let mut election = Election::new("a".to_owned(), TTL);
    assert_eq!(election.saw(None, secs(1)), written(None, 0));
    assert_eq!(
        election.saw(lease("", 4, 9), secs(1)),
        written(Some("9"), 5)
    );
}

#[test]
fn anothers_lease_is_taken_when_it_was_not_renewed_for_its_time() {
    let mut election = Election::new("a".to_owned(), TTL);
    assert!(matches!(
        election.saw(lease("b", 4, 1), secs(100)),
        Step::Look { .. }
    ));
    assert!(matches!(
        election.saw(lease("b", 4, 1), secs(114)),
        Step::Look { .. }
    ));
    assert!(
        matches!(election.saw(lease("b", 4, 2), secs(114)), Step::Look { .. }),
        "renewed"
    );
    assert!(matches!(
        election.saw(lease("b", 4, 2), secs(128)),
        Step::Look { .. }
    ));
    assert_eq!(
        election.saw(lease("b", 4, 2), secs(129)),
        written(Some("2"), 5)
    );
}

#[test]
fn a_name_of_ours_that_we_do_not_remember_is_fenced_off() {
    let mut election = Election::new("a".to_owned(), TTL);
    assert_eq!(
        election.saw(lease("a", 4, 1), secs(100)),
        written(Some("1"), 5)
    );
}

#[test]
fn a_leader_renews_and_stops_by_itself_before_another_can_start() {
    let mut election = Election::new("a".to_owned(), TTL);
    election.saw(None, secs(100));
    assert_eq!(
        election.wrote(lease("a", 0, 1).unwrap(), secs(100)),
        Step::Look { at: secs(105) }
    );
    assert_eq!(
        election.saw(lease("a", 0, 1), secs(105)),
        written(Some("1"), 0)
    );
    election.wrote(lease("a", 0, 2).unwrap(), secs(105));
    let leadership = election.leadership().unwrap();
    assert_eq!(
        leadership,
        Leadership {
            fence: 0,
            since: secs(100),
            until: secs(115),
        }
    );
    for now in 106..115 {
        election.failed(secs(now));
        assert!(election.leadership().unwrap().holds(secs(now)));
    }
    election.failed(secs(115));
    assert_eq!(election.leadership(), None);
}

#[test]
fn a_leader_that_sees_another_stops() {
    let mut election = Election::new("a".to_owned(), TTL);
    election.saw(None, secs(100));
    election.wrote(lease("a", 0, 1).unwrap(), secs(100));
    election.saw(lease("b", 1, 2), secs(101));
    assert_eq!(election.leadership(), None);
}

/// The server's side: one write of each version wins.
#[derive(Default)]
struct Server {
    record: Option<Record>,
    version: u64,
}

impl Server {
    fn write(&mut self, holder: &str, version: Option<&str>, transitions: u64) -> Option<Record> {
        if self.record.as_ref().map(|record| record.version.as_str()) != version {
            return None;
        }
        self.version += 1;
        self.record = lease(holder, transitions, self.version);
        self.record.clone()
    }
}

proptest! {
    #[test]
    fn at_no_time_do_two_lead_and_fences_only_grow(
        // Who acts, how much later in tenths of a second, and whether the server answers.
        turns in prop::collection::vec((0usize..3, 0u64..40, 0u8..4), 1..400),
    ) {
        let mut server = Server::default();
        let mut elections: Vec<Election> =
            ["a", "b", "c"].map(|name| Election::new(name.to_owned(), TTL)).into();
        let mut now = secs(1);
        let mut fence = 0;
        for (who, later, answer) in turns {
            now += Duration::from_millis(later * 100);
            let election = &mut elections[who];
            if answer == 0 {
                election.failed(now);
            } else if let Step::Write { version, transitions } = election.saw(server.record.clone(), now) {
                let began = now;
                // The answer may take a while, or be lost although the write was done.
                let identity = election.identity.clone();
                let record = server.write(&identity, version.as_deref(), transitions);
                now += Duration::from_millis(u64::from(answer) * 300);
                match record {
                    Some(record) if answer != 3 => {
                        election.wrote(record, began);
                    }
                    _ => {
                        election.failed(now);
                    }
                }
            }
            let leading: Vec<u64> = elections
                .iter()
                .filter_map(Election::leadership)
                .filter(|held| held.holds(now))
                .map(|held| held.fence)
                .collect();
            prop_assert!(leading.len() <= 1, "{leading:?}");
            if let Some(&led) = leading.first() {
                prop_assert!(led >= fence);
                fence = led;
            }
        }
    }
}
