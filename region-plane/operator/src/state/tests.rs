use region_plane_resources::Scaling;
use region_plane_resources::demand::{ClaimedPod, Demand};

use super::*;

fn secs(secs: u64) -> Moment {
    Duration::from_secs(secs)
}

fn owner() -> Owner {
    Owner::Function("fn-a".to_owned())
}

fn pod(uid: &str) -> PodSeen {
    PodSeen {
        uid: uid.to_owned(),
        owner: owner(),
        owner_uid: "u".to_owned(),
        settings: Some("1".to_owned()),
        function: None,
        dedicated: None,
        memory_mb: 128,
        asked_mb: Some(128),
        has_mb: Some(128),
        template: "t".to_owned(),
        phase: Phase::Running,
        unscheduled: false,
        trouble: None,
        deleting: false,
    }
}

fn expected(now: Moment) -> Pod {
    asked_for(&owner(), "u", Some("1".to_owned()), 128, None, "t", now)
}

fn function(version: u64, generation: i64, ready: Option<bool>) -> FunctionSeen {
    let spec = FunctionSpec {
        revision: 1,
        app_id: "A".to_owned(),
        app_name: "a".to_owned(),
        fn_id: "A".to_owned(),
        fn_name: "a".to_owned(),
        image: Some(format!("image:{generation}")),
        bundle: None,
        memory_mb: 128,
        timeout_secs: 30,
        idle_timeout_secs: 30,
        config_secret: None,
        scaling: Scaling::default(),
        shape: String::new(),
        settings: "1".repeat(16),
    };
    FunctionSeen {
        meta: Meta {
            generation,
            stated: ready.map(|ready| stated(generation, ready)),
            since: None,
            managed: true,
            foreign: false,
            uid: "u".to_owned(),
            version,
        },
        object: Ok(Arc::new(Function::new("fn-a", spec))),
    }
}

fn stated(generation: i64, ready: bool) -> Stated {
    Stated {
        generation,
        ready,
        reason: "Serving".to_owned(),
    }
}

/// A state that has listed everything and found nothing.
fn state() -> State {
    let mut state = State::new(PodSettings::default());
    state.take(Change::Functions(Seen::All(Vec::new())), secs(0));
    state.take(Change::Pools(Seen::All(Vec::new())), secs(0));
    assert!(!state.complete(), "pods were not listed");
    state.take(Change::Pods(Seen::All(Vec::new())), secs(0));
    assert!(state.complete());
    state
}

fn put(state: &mut State, name: &str, seen: PodSeen, now: Moment) {
    state.take(Change::Pods(Seen::Put(name.to_owned(), seen)), now);
}

#[test]
fn a_pod_counts_from_when_it_is_asked_for_in_whatever_order_news_of_it_come() {
    for order in ["answer first", "watch first"] {
        let mut state = state();
        state.creating("p".to_owned(), expected(secs(1)));
        assert_eq!(state.pods.len(), 1, "{order}");
        if order == "watch first" {
            put(&mut state, "p", pod("uid"), secs(3));
            state.created("p", "uid".to_owned());
        } else {
            state.created("p", "uid".to_owned());
            assert_eq!(state.pods["p"].uid, "uid");
            put(&mut state, "p", pod("uid"), secs(3));
        }
        let held = &state.pods["p"];
        assert_eq!(
            (held.phase, held.seen),
            (Phase::Running, secs(1)),
            "{order}"
        );
        state.forget(secs(100));
        assert_eq!(state.pods.len(), 1, "{order}");
    }
}

#[test]
fn a_pod_that_is_gone_before_its_answer_came_does_not_come_back() {
    let mut state = state();
    state.creating("p".to_owned(), expected(secs(1)));
    put(&mut state, "p", pod("uid"), secs(2));
    state.take(Change::Pods(Seen::Gone("p".to_owned())), secs(2));
    state.created("p", "uid".to_owned());
    assert!(state.pods.is_empty());
}

#[test]
fn a_creation_without_an_answer_counts_for_a_while() {
    let mut state = state();
    state.creating("p".to_owned(), expected(secs(1)));
    state.not_created("p", true, secs(2));
    assert_eq!(state.next_forgotten(), Some(secs(12)));
    state.forget(secs(11));
    assert_eq!(state.pods.len(), 1);
    state.forget(secs(12));
    assert!(state.pods.is_empty());
    state.creating("q".to_owned(), expected(secs(20)));
    state.not_created("q", false, secs(20));
    assert!(state.pods.is_empty(), "it was refused");
}

#[test]
fn a_pod_that_was_made_and_is_on_no_list_is_given_up_after_a_while() {
    for (case, listed_at, shown, gone_at) in [
        ("no list came", None, false, None),
        ("the list was older", Some(secs(3)), true, None),
        ("it was gone already", Some(secs(3)), false, Some(secs(33))),
    ] {
        let mut state = state();
        state.creating("p".to_owned(), expected(secs(1)));
        state.created("p", "uid".to_owned());
        if let Some(at) = listed_at {
            state.take(Change::Pods(Seen::All(Vec::new())), at);
            state.take(Change::Pods(Seen::All(Vec::new())), at + secs(1));
        }
        if shown {
            put(&mut state, "p", pod("uid"), secs(5));
        }
        assert_eq!(state.next_forgotten(), gone_at, "{case}");
        state.forget(secs(32));
        assert_eq!(state.pods.len(), 1, "{case}");
        state.forget(secs(1_000));
        assert_eq!(state.pods.is_empty(), gone_at.is_some(), "{case}");
    }
}

#[test]
fn a_list_drops_what_is_not_on_it_but_not_what_is_being_made() {
    let mut state = state();
    put(&mut state, "old", pod("uid-1"), secs(1));
    put(&mut state, "kept", pod("uid-2"), secs(1));
    state.creating("new".to_owned(), expected(secs(2)));
    let listed = vec![("kept".to_owned(), pod("uid-2"))];
    state.take(Change::Pods(Seen::All(listed)), secs(9));
    let names: Vec<&String> = state.pods.keys().collect();
    assert_eq!(names, ["kept", "new"]);
    assert_eq!(state.pods["kept"].seen, secs(1));
}

#[test]
fn what_was_asked_of_a_pod_outlasts_older_news_of_it() {
    let mut state = state();
    for name in ["deleted", "patched", "replaced"] {
        put(&mut state, name, pod(name), secs(1));
    }
    state.deleting("deleted");
    state.patching("patched");
    state.not_resizable("replaced");
    for name in ["deleted", "patched", "replaced"] {
        put(&mut state, name, pod(name), secs(2));
    }
    assert!(state.pods["deleted"].deleting);
    assert!(state.pods["patched"].busy);
    assert_eq!(state.pods["replaced"].template, "");
    state.not_deleted("deleted");
    state.patched("patched", |pod| pod.memory_mb = 256);
    assert!(!state.pods["deleted"].deleting);
    let patched = &state.pods["patched"];
    assert_eq!((patched.busy, patched.memory_mb), (false, 256));

    state.deleting("deleted");
    put(&mut state, "deleted", pod("another"), secs(3));
    assert!(!state.pods["deleted"].deleting, "another by that name");
}

#[test]
fn a_pod_grows_from_when_more_is_asked_for_until_the_kubelet_says_that_it_has_it() {
    let mut state = state();
    for (at, label, asked, has, growing_since) in [
        (1, 128, Some(128), Some(128), None),
        // Kubelets that do not say, and pods that somebody's webhook gave more than its label says.
        (2, 128, Some(128), None, None),
        (3, 128, Some(256), Some(128), Some(3)),
        (4, 128, Some(256), None, Some(3)),
        (5, 128, Some(512), Some(128), Some(5)),
        (6, 128, Some(512), Some(512), None),
        (7, 512, Some(512), Some(512), None),
        (8, 64, Some(64), Some(512), None),
        (9, 128, None, None, None),
    ] {
        let seen = PodSeen {
            memory_mb: label,
            asked_mb: asked,
            has_mb: has,
            ..pod("uid")
        };
        put(&mut state, "p", seen, secs(at));
        let growing = state.pods["p"].growing_since;
        assert_eq!(growing, growing_since.map(secs), "{at}");
    }
}

#[test]
fn an_older_version_of_a_function_does_not_undo_a_newer_one() {
    let mut state = state();
    for (version, generation, want) in [(5, 2, 2), (4, 1, 2), (6, 3, 3)] {
        let seen = function(version, generation, None);
        state.take(
            Change::Functions(Seen::Put("fn-a".to_owned(), seen)),
            secs(1),
        );
        assert_eq!(state.desired.functions["fn-a"].generation, want);
    }
}

#[test]
fn a_condition_that_was_written_is_believed_until_the_watch_has_caught_up() {
    let mut state = state();
    let see = |state: &mut State, version, ready| {
        let seen = function(version, 1, ready);
        state.take(
            Change::Functions(Seen::Put("fn-a".to_owned(), seen)),
            secs(1),
        );
        state.desired.functions["fn-a"].stated.clone()
    };
    see(&mut state, 5, None);
    state.stating(&owner(), stated(1, false));
    assert_eq!(
        see(&mut state, 6, None),
        Some(stated(1, false)),
        "not answered yet"
    );
    state.said(&owner(), 8);
    assert_eq!(see(&mut state, 7, None), Some(stated(1, false)), "older");
    assert_eq!(see(&mut state, 8, Some(false)), Some(stated(1, false)));
    assert_eq!(
        see(&mut state, 9, Some(true)),
        Some(stated(1, true)),
        "somebody else's"
    );
    state.stating(&owner(), stated(1, false));
    state.unsaid(&owner());
    assert_eq!(
        state.desired.functions["fn-a"].stated,
        Some(stated(1, true)),
        "it could not be written"
    );
}

#[test]
fn an_unreadable_function_is_there_and_names_what_the_definition_lacks() {
    let mut state = state();
    let mut seen = function(5, 1, None);
    seen.object = Err("missing field `settings`".to_owned());
    state.take(
        Change::Functions(Seen::Put("fn-a".to_owned(), seen)),
        secs(1),
    );
    let reason = |state: &State| state.desired.unreadable[&owner()].trouble.reason;
    assert_eq!(reason(&state), ConditionReason::InvalidSpec);
    let lacking = vec!["Function.spec.settings".to_owned()];
    state.take(Change::Definitions(lacking), secs(1));
    assert_eq!(reason(&state), ConditionReason::ResourceDefinitionOutdated);
    let seen = function(6, 2, None);
    state.take(
        Change::Functions(Seen::Put("fn-a".to_owned(), seen)),
        secs(1),
    );
    assert!(state.desired.unreadable.is_empty());
    assert!(state.desired.functions.contains_key("fn-a"));
}

#[test]
fn a_kind_that_is_not_defined_keeps_nothing_waiting() {
    let mut state = State::new(PodSettings::default());
    state.take(Change::Functions(Seen::All(Vec::new())), secs(0));
    state.take(Change::Pods(Seen::All(Vec::new())), secs(0));
    assert!(!state.complete());
    let broken = |broken| Change::Watch {
        kind: Kind::Pools,
        broken,
    };
    state.take(broken(Some(Broken::Failing)), secs(1));
    assert!(!state.complete());
    state.take(broken(Some(Broken::Unknown)), secs(1));
    assert!(state.complete());
    state.take(broken(None), secs(2));
    assert!(!state.complete());
    state.take(Change::Pools(Seen::All(Vec::new())), secs(2));
    assert!(state.complete());
    let unlisted: Vec<Kind> = state.unlisted().collect();
    assert_eq!(
        unlisted,
        [Kind::Secrets],
        "and who may read none is not ready"
    );
}

#[test]
fn a_pod_that_ends_is_counted_once_and_one_that_is_made_to_end_never() {
    let of_memory = || {
        Some(Trouble {
            reason: ConditionReason::OutOfMemory,
            message: "more memory".to_owned(),
        })
    };
    for (case, label, deleted, phase, trouble, told) in [
        ("it ends", None, false, Phase::Ended, None, Some("fn-a")),
        (
            "a container of it",
            None,
            false,
            Phase::Broken,
            of_memory(),
            Some("fn-a"),
        ),
        ("it was made to", None, true, Phase::Ended, None, None),
        (
            "it was given back",
            None,
            true,
            Phase::Broken,
            of_memory(),
            Some("fn-a"),
        ),
        (
            "what its label says",
            Some("fn-b"),
            false,
            Phase::Ended,
            None,
            Some("fn-b"),
        ),
        ("it runs", None, false, Phase::Running, None, None),
    ] {
        let mut state = state();
        put(&mut state, "p", pod("uid"), secs(1));
        if deleted {
            state.deleting("p");
        }
        let seen = || PodSeen {
            function: label.map(str::to_owned),
            phase,
            trouble: trouble.clone(),
            ..pod("uid")
        };
        put(&mut state, "p", seen(), secs(7));
        let ended: Vec<_> = state.ended.drain(..).collect();
        let owners: Vec<&str> = ended.iter().map(|ended| ended.owner.name()).collect();
        assert_eq!(owners, Vec::from_iter(told), "{case}");
        for ended in ended {
            assert_eq!(ended.ran, secs(6), "{case}");
        }
        // Whatever becomes of it.
        for at in 8..20 {
            state.deleting("p");
            state.not_deleted("p");
            put(&mut state, "p", seen(), secs(at));
            let listed = vec![("p".to_owned(), seen())];
            state.take(Change::Pods(Seen::All(listed)), secs(at));
        }
        if !deleted {
            assert!(state.ended.is_empty(), "{case}: {:?}", state.ended);
        }
    }
}

#[test]
fn a_pools_pod_that_ends_before_it_is_labelled_is_its_functions() {
    let mut state = state();
    let of_pool = |phase| PodSeen {
        owner: Owner::Pool("python".to_owned()),
        phase,
        ..pod("uid")
    };
    put(&mut state, "p", of_pool(Phase::Running), secs(1));
    let demand = Demand {
        gateway: "g".to_owned(),
        boot: 1,
        sequence: 1,
        functions: Vec::new(),
        claims: vec![ClaimedPod {
            pod: "p".to_owned(),
            function: "fn-b".to_owned(),
            settings: "1".to_owned(),
        }],
        finished: Vec::new(),
        failures: Vec::new(),
    };
    state.demands.take(demand, secs(2));
    put(&mut state, "p", of_pool(Phase::Ended), secs(3));
    assert_eq!(state.ended[0].owner, Owner::Function("fn-b".to_owned()));
}

#[test]
fn what_ended_is_told_apart_by_whether_its_function_is_started_so_still() {
    let current = "1".repeat(16);
    let of_pool = Owner::Pool("python".to_owned());
    for (case, owner, labelled, claimed, outdated) in [
        ("of now", owner(), Some(&*current), None, false),
        ("of before", owner(), Some("0"), None, true),
        ("taken", of_pool.clone(), None, Some(&*current), false),
        ("taken before", of_pool.clone(), None, Some("0"), true),
        ("nobody's", of_pool, None, None, false),
    ] {
        let mut state = state();
        let function = Seen::Put("fn-a".to_owned(), function(1, 1, None));
        state.take(Change::Functions(function), secs(1));
        let demand = Demand {
            gateway: "g".to_owned(),
            boot: 1,
            sequence: 1,
            functions: Vec::new(),
            claims: Vec::from_iter(claimed.map(|settings| ClaimedPod {
                pod: "p".to_owned(),
                function: "fn-a".to_owned(),
                settings: settings.to_owned(),
            })),
            finished: Vec::new(),
            failures: Vec::new(),
        };
        state.demands.take(demand, secs(1));
        let seen = PodSeen {
            owner,
            settings: labelled.map(str::to_owned),
            phase: Phase::Ended,
            ..pod("uid")
        };
        put(&mut state, "p", seen, secs(2));
        assert_eq!(state.ended[0].outdated, outdated, "{case}");
    }
}
