//! Sessions and preconditions.

use api_types::RefusalKind::{Conflict, KeyReused, NotFound, Precondition};
use api_types::{AppId, Digest, Revision, Timestamp};
use global_plane_state::{AppDraft, Change, Command, Preconditions, bounds};

use super::{Log, app_of, text};

fn create(id: &str, name: &str) -> Command {
    Command::CreateApp {
        id: AppId::new(id),
        draft: AppDraft {
            name: text(name),
            ..AppDraft::default()
        },
    }
}

#[test]
fn a_retry_gets_the_first_outcome_and_changes_nothing() {
    let mut log = Log::new();
    let first = log.apply("key", create("1", "shop"));
    let refused = log.apply("refused", create("2", "shop"));
    log.app("other");
    let before = log.state.clone();
    log.time += 1_000_000;
    for (request, first) in [("key", first), ("refused", refused)] {
        let again = log.apply(request, create("3", "other name"));
        assert_eq!(again.outcome, first.outcome);
        assert!(again.replayed && !first.replayed);
        assert!(again.changes.is_empty());
    }
    assert_eq!(log.state, before);
}

#[test]
fn sessions_are_forgotten_oldest_first_by_age_and_by_number() {
    let mut log = Log::new();
    let gone = |changes: &[Change]| -> Vec<u64> {
        let gone = changes.iter().filter_map(|change| match change {
            Change::SessionGone { index } => Some(*index),
            _ => None,
        });
        gone.collect()
    };
    let lifetime = i64::try_from(bounds::SESSION_MILLIS_MAX).unwrap();
    log.apply("old", create("1", "shop"));
    log.time += lifetime;
    assert_eq!(
        gone(&log.apply("in time", create("2", "x")).changes),
        [] as [u64; 0]
    );
    log.time += 1;
    assert_eq!(gone(&log.apply("late", create("3", "y")).changes), [1]);
    let again = log.apply("old", create("4", "shop"));
    assert!(!again.replayed, "it is a new request by now");

    let held = log.state.parts().sessions.len();
    for n in held..bounds::SESSIONS_MAX {
        let delete = Command::DeleteApp {
            id: AppId::new("?"),
        };
        assert_eq!(
            gone(&log.apply(&format!("fill {n}"), delete).changes),
            [] as [u64; 0]
        );
    }
    let one_more = log.apply("one more", create("5", "z"));
    assert_eq!(gone(&one_more.changes), [2]);
}

#[test]
fn large_writes_push_no_outcome_out() {
    let mut log = Log::new();
    let id = log.app("shop");
    log.apply("kept", create("2", "other"));
    for n in 0..100 {
        let blob = format!("{n} {}", "x".repeat(1_000_000));
        let change = AppDraft {
            config: super::map([("blob", blob)]),
            ..AppDraft::default()
        };
        let id = id.clone();
        log.write(Command::UpdateApp { id, change }).unwrap();
    }
    assert!(log.apply("kept", create("2", "other")).replayed);
    let sessions = log.state.parts().sessions;
    assert_eq!(sessions.len(), 102);
    let mut refused = create("3", "shop");
    if let Command::CreateApp { draft, .. } = &mut refused {
        draft.syslog_url = Some(format!("gopher:{}", "é".repeat(1_000_000)));
    }
    log.apply("refused", refused.clone());
    let message = log.apply("refused", refused).outcome.unwrap_err().message;
    assert!(
        message.len() <= bounds::SESSION_MESSAGE_BYTES_MAX,
        "{}",
        message.len()
    );
    assert!(message.starts_with("invalid syslog url"), "{message}");
}

#[test]
fn a_retry_gets_the_object_as_it_is_now_or_hears_that_it_is_gone() {
    let mut log = Log::new();
    log.apply("key", create("1", "shop"));
    let change = AppDraft {
        config: super::map([("A", "1".to_owned())]),
        ..AppDraft::default()
    };
    let id = AppId::new("1");
    let update = Command::UpdateApp {
        id: id.clone(),
        change,
    };
    let updated = app_of(log.apply("update", update).outcome);
    assert_eq!(
        app_of(log.apply("key", create("1", "shop")).outcome),
        updated
    );
    log.apply("delete", Command::DeleteApp { id });
    let refusal = log.apply("key", create("1", "shop")).outcome.unwrap_err();
    assert_eq!(refusal.kind, NotFound);
    assert!(refusal.message.contains("app 1 at revision 1"), "{refusal}");
    assert!(log.state.catalog().apps().next().is_none());
}

#[test]
fn one_request_id_with_another_fingerprint_is_refused() {
    let mut log = Log::new();
    log.fingerprint = Some(Digest([1; 32]));
    let first = log.apply("key", create("1", "shop"));
    log.apply("refused", create("2", "shop"));
    let before = log.state.clone();
    for fingerprint in [Some(Digest([2; 32])), None] {
        log.fingerprint = fingerprint;
        for request in ["key", "refused"] {
            let refusal = log.apply(request, create("3", "new")).outcome.unwrap_err();
            assert_eq!(refusal.kind, KeyReused, "{request}: {refusal}");
        }
    }
    log.fingerprint = Some(Digest([1; 32]));
    assert_eq!(log.apply("key", create("3", "new")).outcome, first.outcome);
    assert_eq!(log.state, before);
}

#[test]
fn log_time_never_goes_back() {
    let mut log = Log::new();
    log.time = 5000;
    log.apply("a", create("1", "shop"));
    log.time = 3000;
    let app = app_of(log.apply("b", create("2", "other")).outcome);
    assert_eq!(app.created_at, Timestamp(5000));
    assert_eq!(log.state.log_time(), Timestamp(5000));
}

#[test]
fn preconditions_are_held_to_after_existence_and_before_the_change() {
    let mut log = Log::new();
    let id = log.app("shop");
    let revision = log.state.revision();
    log.app("other");
    let rename = |id: &AppId| Command::UpdateApp {
        id: id.clone(),
        change: AppDraft {
            name: text("renamed"),
            ..AppDraft::default()
        },
    };
    let if_match = |revision| Preconditions {
        if_match: Some(revision),
        ..Preconditions::default()
    };
    let if_none_match = Preconditions {
        if_none_match_any: true,
        ..Preconditions::default()
    };
    for (case, conditions, command, want) in [
        ("stale", if_match(Revision(0)), rename(&id), Precondition),
        ("fresh", if_match(revision), rename(&id), Conflict),
        (
            "the state's revision is not the object's",
            if_match(revision.next()),
            rename(&id),
            Precondition,
        ),
        (
            "gone",
            if_match(revision),
            rename(&AppId::new("?")),
            NotFound,
        ),
        ("exists", if_none_match.clone(), rename(&id), Precondition),
        (
            "name taken",
            if_none_match.clone(),
            create("9", "shop"),
            Precondition,
        ),
        (
            "nothing to match",
            if_match(revision),
            create("9", "new"),
            Precondition,
        ),
    ] {
        log.conditions = conditions;
        let (kind, message) = log.refused(command);
        assert_eq!(kind, want, "{case}: {message}");
    }
    log.conditions = if_none_match;
    log.write(create("9", "new")).unwrap();
    log.conditions = if_match(revision);
    log.write(Command::DeleteApp { id }).unwrap();
}
