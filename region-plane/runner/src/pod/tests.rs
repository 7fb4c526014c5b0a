#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_secs(15);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn holder(claim: &str, function: &str) -> Holder {
    Holder {
        claim: claim.to_owned(),
        gateway: format!("gateway of {claim}"),
        boot: 1,
        tenant: Tenant {
            function: function.to_owned(),
            settings: "000000000000002a".to_owned(),
        },
    }
}

/// A claim of function `a` by a boot of the one gateway `g`.
fn boot(claim: &str, boot: u64) -> Holder {
    Holder {
        gateway: "g".to_owned(),
        boot,
        ..holder(claim, "a")
    }
}

fn bundle(number: u8) -> ToLaunch {
    ToLaunch {
        digest: Digest([number; 32]),
        environment: BTreeMap::from([("FN_TYPE".to_owned(), "sync".to_owned())]),
        start_timeout: secs(5),
    }
}

/// A pool's pod in which function `a` is ready, claimed as `1`.
fn ready_pod() -> Pod {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    pod.claim(None, &holder("1", "a"), Some(bundle(7)), secs(0))
        .unwrap();
    pod.put_bundle("1", &bundle(7).digest).unwrap();
    pod.launch("1").unwrap();
    pod.ready(secs(1));
    pod
}

#[test]
fn a_pool_pod_is_launched_once_and_found_hot_by_the_next() {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    let claimed = pod
        .claim(None, &holder("1", "a"), Some(bundle(7)), secs(0))
        .unwrap();
    assert_eq!((claimed.needs_bundle, claimed.phase), (true, Phase::Empty));
    let digest = bundle(7).digest;
    assert_eq!(pod.put_bundle("1", &digest), Ok(Bundle::Wanted));
    assert_eq!(pod.launch("1"), Ok(bundle(7)));
    assert_eq!(pod.put_bundle("1", &digest), Ok(Bundle::Here));
    pod.ready(secs(1));
    pod.release("1");

    let claimed = pod
        .claim(None, &holder("2", "a"), Some(bundle(7)), secs(2))
        .unwrap();
    assert_eq!((claimed.needs_bundle, claimed.phase), (false, Phase::Ready));
    assert_eq!(pod.begin_call("2"), Ok(()));
}

#[test]
fn claims_are_refused_with_the_reason() {
    let claimed = ready_pod;
    let released = || {
        let mut pod = ready_pod();
        pod.release("1");
        pod
    };
    let failed = || {
        let mut pod = released();
        pod.fail(EndReason::StartTimedOut);
        pod
    };
    let image = || Pod::new(Kind::Image, None, LEASE);
    let adopted = || {
        let mut pod = image();
        pod.claim(None, &holder("1", "a"), None, secs(0)).unwrap();
        pod.release("1");
        pod
    };
    let cases = [
        ("again", claimed(), holder("1", "a"), Some(bundle(7)), None),
        (
            "another",
            claimed(),
            holder("2", "a"),
            Some(bundle(7)),
            Some("claimed by gateway of 1"),
        ),
        (
            "again, for another function",
            claimed(),
            holder("1", "b"),
            Some(bundle(7)),
            Some("another function or bundle"),
        ),
        (
            "again, for another bundle",
            claimed(),
            holder("1", "a"),
            Some(bundle(8)),
            Some("another function or bundle"),
        ),
        (
            "of what ran another function",
            released(),
            holder("2", "b"),
            Some(bundle(7)),
            Some("the pod runs a"),
        ),
        (
            "of what ran another bundle",
            released(),
            holder("2", "a"),
            Some(bundle(8)),
            Some("the pod runs a"),
        ),
        (
            "of a failed one",
            failed(),
            holder("2", "a"),
            Some(bundle(7)),
            Some("did not listen in time"),
        ),
        (
            "with nothing to launch",
            released(),
            holder("2", "a"),
            None,
            Some("has to name a bundle"),
        ),
        ("of an image", image(), holder("1", "a"), None, None),
        (
            "of an image that ran another function",
            adopted(),
            holder("2", "b"),
            None,
            Some("the pod runs a"),
        ),
        (
            "of an image, with a bundle",
            image(),
            holder("1", "a"),
            Some(bundle(7)),
            Some("must not name a bundle"),
        ),
    ];
    for (case, mut pod, holder, launch, refusal) in cases {
        let before = pod.state(secs(2));
        match (pod.claim(None, &holder, launch, secs(2)), refusal) {
            (Ok(_), None) => {}
            (Err(refused), Some(want)) => {
                assert!(refused.to_string().contains(want), "{case}: {refused}");
                assert_eq!(pod.state(secs(2)), before, "{case}");
            }
            (got, _) => panic!("{case}: {got:?}"),
        }
    }
}

#[test]
fn a_claim_for_another_pod_is_refused_where_both_uids_are_known() {
    for (case, uid, claimed, refused) in [
        ("its own", Some("this"), Some("this"), false),
        ("another's", Some("this"), Some("that"), true),
        ("an earlier gateway", Some("this"), None, false),
        ("an earlier operator", None, Some("that"), false),
        ("both earlier", None, None, false),
    ] {
        let mut pod = Pod::new(Kind::Image, uid.map(str::to_owned), LEASE);
        let before = pod.state(secs(0));
        let made = pod.claim(claimed, &holder("1", "a"), None, secs(0));
        assert_eq!(made.is_err(), refused, "{case}: {made:?}");
        if let Err(refusal) = made {
            assert_eq!(pod.state(secs(0)), before, "{case}");
            let conflict = refusal.conflict().unwrap();
            assert_eq!(conflict.reason, Some(ConflictReason::OtherPod));
        }
    }
}

#[test]
fn a_claim_for_another_pod_ends_no_claim_of_an_earlier_boot() {
    let mut pod = Pod::new(Kind::Image, Some("this".to_owned()), LEASE);
    pod.claim(Some("this"), &boot("first", 1), None, secs(0))
        .unwrap();
    let refused = pod.claim(Some("that"), &boot("second", 2), None, secs(1));
    assert!(matches!(refused, Err(ClaimRefused::OtherPod { .. })));
    assert_eq!(pod.holder(), Some(&boot("first", 1)));
}

#[test]
fn words_of_other_versions_are_understood() {
    let conflict = |text| serde_json::from_str::<Conflict>(text).unwrap().reason;
    assert_eq!(conflict(r#"{"message":"m","claim":null}"#), None);
    assert_eq!(
        conflict(r#"{"message":"m","claim":null,"reason":"other_pod"}"#),
        Some(ConflictReason::OtherPod)
    );
    assert_eq!(
        conflict(r#"{"message":"m","claim":null,"reason":"full_moon"}"#),
        Some(ConflictReason::Unknown)
    );
    let claim = r#"{"claim":"1","gateway":"g","function":"f","settings":"s","launch":null}"#;
    let claim: crate::protocol::Claim = serde_json::from_str(claim).unwrap();
    assert_eq!(claim.pod, None);
}

#[test]
fn a_pod_that_was_not_launched_is_free_for_any_function() {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    pod.claim(None, &holder("1", "a"), Some(bundle(7)), secs(0))
        .unwrap();
    pod.put_bundle("1", &bundle(7).digest).unwrap();
    pod.release("1");
    assert_eq!(pod.launch("1"), Err(NotClaimed));
    let claimed = pod
        .claim(None, &holder("2", "b"), Some(bundle(8)), secs(1))
        .unwrap();
    assert!(claimed.needs_bundle);
}

#[test]
fn a_bundle_is_put_by_one_request_at_a_time_and_again_after_a_failure() {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    let digest = bundle(7).digest;
    assert_eq!(
        pod.put_bundle("1", &digest),
        Err(BundleRefused::NotClaimed(NotClaimed))
    );
    pod.claim(None, &holder("1", "a"), Some(bundle(7)), secs(0))
        .unwrap();
    assert_eq!(
        pod.put_bundle("1", &bundle(8).digest),
        Err(BundleRefused::Other)
    );
    assert_eq!(pod.put_bundle("1", &digest), Ok(Bundle::Wanted));
    assert_eq!(pod.put_bundle("1", &digest), Err(BundleRefused::Coming));
    pod.bundle_failed();
    assert_eq!(pod.put_bundle("1", &digest), Ok(Bundle::Wanted));
}

#[test]
fn a_claim_outlives_its_last_request_by_the_lease() {
    let mut pod = ready_pod();
    assert_eq!(pod.expires(), Some(LEASE), "from the claim");
    pod.attend("1").unwrap();
    pod.attend("1").unwrap();
    pod.leave("1", secs(20));
    assert_eq!(pod.expires(), None, "one is left");
    pod.leave("1", secs(30));
    assert_eq!(pod.expires(), Some(secs(30) + LEASE));

    pod.begin_call("1").unwrap();
    pod.enter_call("1").unwrap();
    assert_eq!(pod.expires(), None, "a call runs");
    assert_eq!(pod.expire(secs(99)), None);
    pod.end_call(CallEnd::Whole, secs(99));
    assert_eq!(pod.expire(secs(99)).unwrap().claim, "1");
    assert_eq!(pod.attend("1"), Err(NotClaimed));
    assert_eq!(
        pod.state(secs(99)).phase,
        Phase::Ready,
        "it is hot and free"
    );
}

#[test]
fn an_expired_claim_does_not_stand_in_the_way_of_another() {
    let mut pod = ready_pod();
    let next = |pod: &mut Pod, now| pod.claim(None, &holder("2", "a"), Some(bundle(7)), now);
    assert!(next(&mut pod, LEASE - secs(1)).is_err());
    assert!(next(&mut pod, LEASE).is_ok());
}

/// A pool's pod in which function `a` is ready, claimed by the first boot of `g`.
fn pod_of_first_boot() -> Pod {
    let mut pod = ready_pod();
    pod.release("1");
    pod.claim(None, &boot("first", 1), Some(bundle(7)), secs(2))
        .unwrap();
    pod.attend("first").unwrap();
    pod
}

#[test]
fn a_later_boot_of_the_same_gateway_has_the_pod_at_once_and_no_other_claim_does() {
    let other = Holder {
        gateway: "h".to_owned(),
        ..boot("other", 9)
    };
    for (case, holder, made) in [
        ("a later boot", boot("second", 2), true),
        ("a much later one", boot("second", 900), true),
        ("the same boot", boot("second", 1), false),
        ("an earlier one", boot("second", 0), false),
        ("another gateway, of whatever boot", other, false),
    ] {
        let mut pod = pod_of_first_boot();
        let claimed = pod.claim(None, &holder, Some(bundle(7)), secs(2));
        assert_eq!(claimed.is_ok(), made, "{case}: {claimed:?}");
        assert_eq!(
            pod.begin_call("first"),
            if made {
                Err(CallFailure::NotClaimed)
            } else {
                Ok(())
            },
            "{case}"
        );
        assert_eq!(pod.attend("first").is_ok(), !made, "{case}");
    }
}

#[test]
fn an_earlier_boot_gets_nothing_back_however_it_asks() {
    let mut pod = pod_of_first_boot();
    pod.claim(None, &boot("second", 2), Some(bundle(7)), secs(2))
        .unwrap();
    // What it had open ends, and what it thinks it has it gives back.
    pod.leave("first", secs(3));
    pod.release("first");
    assert_eq!(pod.holder(), Some(&boot("second", 2)));
    for claim in ["first", "third"] {
        let refused = pod.claim(None, &boot(claim, 1), Some(bundle(7)), secs(3));
        assert!(
            matches!(refused, Err(ClaimRefused::Superseded { .. })),
            "{claim}"
        );
    }
    pod.release("second");
    let refused = pod.claim(None, &boot("first", 1), Some(bundle(7)), secs(3));
    let refused = refused.expect_err("it is dead though the pod is free");
    let told = refused.conflict().unwrap().reason;
    assert_eq!(told, Some(ConflictReason::Superseded));
}

#[test]
fn the_call_of_a_boot_that_is_no_more_ends_before_the_pod_is_had() {
    let mut pod = pod_of_first_boot();
    pod.begin_call("first").unwrap();
    pod.enter_call("first").unwrap();
    let second = |pod: &mut Pod| pod.claim(None, &boot("second", 2), Some(bundle(7)), secs(3));
    assert_eq!(second(&mut pod), Err(ClaimRefused::Busy));
    assert_eq!(pod.holder(), None, "the first has lost it all the same");
    assert_eq!(second(&mut pod), Err(ClaimRefused::Busy));
    pod.end_call(CallEnd::Whole, secs(4));
    assert_eq!(pod.begin_call("first"), Err(CallFailure::NotClaimed));
    assert!(second(&mut pod).is_ok());
    assert_eq!(pod.begin_call("second"), Ok(()));
}

#[test]
fn what_comes_from_a_boot_that_is_no_more_is_not_let_in() {
    let mut pod = pod_of_first_boot();
    pod.begin_call("first").unwrap();
    let second = |pod: &mut Pod| pod.claim(None, &boot("second", 2), Some(bundle(7)), secs(3));
    assert_eq!(second(&mut pod), Err(ClaimRefused::Busy));
    assert_eq!(pod.enter_call("first"), Err(CallFailure::NotClaimed));
    assert!(second(&mut pod).is_ok());

    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    let digest = bundle(7).digest;
    pod.claim(None, &boot("first", 1), Some(bundle(7)), secs(0))
        .unwrap();
    assert_eq!(pod.put_bundle("first", &digest), Ok(Bundle::Wanted));
    assert_eq!(
        second(&mut pod),
        Err(ClaimRefused::Busy),
        "its bundle comes"
    );
    assert_eq!(pod.launch("first"), Err(NotClaimed));
    assert!(second(&mut pod).unwrap().needs_bundle);
    assert_eq!(pod.put_bundle("second", &digest), Ok(Bundle::Wanted));
}

#[test]
fn a_call_is_refused_where_nothing_would_reach_the_function() {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    assert_eq!(pod.begin_call("1"), Err(CallFailure::NotClaimed));
    pod.claim(None, &holder("1", "a"), Some(bundle(7)), secs(0))
        .unwrap();
    assert_eq!(
        pod.begin_call("1"),
        Err(CallFailure::Busy),
        "it has no bundle"
    );
    pod.launch("1").unwrap();
    assert_eq!(pod.begin_call("1"), Err(CallFailure::Busy), "it starts");
    pod.ready(secs(1));
    assert_eq!(pod.begin_call("2"), Err(CallFailure::NotClaimed));
    assert_eq!(pod.begin_call("1"), Ok(()));
    assert_eq!(
        pod.begin_call("1"),
        Err(CallFailure::Busy),
        "another is coming"
    );
    pod.call_given_up();
    assert_eq!(pod.begin_call("1"), Ok(()));
    pod.release("1");
    assert_eq!(
        pod.enter_call("1"),
        Err(CallFailure::NotClaimed),
        "it was too slow"
    );
    pod.claim(None, &holder("2", "a"), Some(bundle(7)), secs(2))
        .unwrap();
    pod.begin_call("2").unwrap();
    pod.enter_call("2").unwrap();
    assert_eq!(pod.begin_call("2"), Err(CallFailure::Busy), "one is inside");
    let broken = CallEnd::Broken {
        reason: "Timed out".to_owned(),
    };
    pod.end_call(broken, secs(3));
    assert_eq!(pod.begin_call("2"), Err(CallFailure::Gone));
    let state = pod.state(secs(5));
    assert_eq!(
        (state.phase, state.reason.as_deref()),
        (Phase::Failed, Some("Timed out"))
    );
    assert_eq!((state.calls, state.idle_ms), (1, 2_000));
}

#[test]
fn what_is_over_stays_over_and_keeps_its_first_reason() {
    let mut pod = ready_pod();
    pod.fail(EndReason::StartTimedOut);
    pod.ready(secs(2));
    assert_eq!(
        pod.phase(),
        (Phase::Failed, Some(&EndReason::StartTimedOut))
    );
    pod.gone("the function exited".to_owned());
    pod.fail(EndReason::Reported("later".to_owned()));
    assert_eq!(pod.phase(), (Phase::Gone, Some(&EndReason::StartTimedOut)));
}

/// Two gateways, three boots of each.
const CLAIMS: u8 = 6;

fn claim_of(claim: u8, function: u8) -> Holder {
    Holder {
        gateway: format!("gateway {}", claim % 2),
        boot: u64::from(claim / 2),
        ..holder(&claim.to_string(), &function.to_string())
    }
}

/// What anyone may do to a pod, with claims and functions of few names so that they meet.
#[derive(Debug, Clone)]
enum Act {
    Claim {
        claim: u8,
        function: u8,
        pod: Option<u8>,
    },
    Attend {
        claim: u8,
    },
    Leave {
        claim: u8,
    },
    Release {
        claim: u8,
    },
    Put {
        claim: u8,
        function: u8,
    },
    BundleEnds {
        claim: u8,
        whole: bool,
    },
    Ready,
    BeginCall {
        claim: u8,
    },
    BodyEnds {
        claim: u8,
        whole: bool,
    },
    EndCall {
        whole: bool,
    },
    Gone,
    Expire,
    Wait {
        secs: u64,
    },
}

/// Mostly the one pod that there is, if the claimant knows it.
fn for_pod() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(prop::sample::select(vec![0, 0, 0, 1]))
}

fn act() -> impl Strategy<Value = Act> {
    let claim = 0..CLAIMS;
    let function = 0..2_u8;
    prop_oneof![
        (claim.clone(), function.clone(), for_pod()).prop_map(|(claim, function, pod)| {
            Act::Claim {
                claim,
                function,
                pod,
            }
        }),
        claim.clone().prop_map(|claim| Act::Attend { claim }),
        claim.clone().prop_map(|claim| Act::Leave { claim }),
        claim.clone().prop_map(|claim| Act::Release { claim }),
        (claim.clone(), function).prop_map(|(claim, function)| Act::Put { claim, function }),
        (claim.clone(), any::<bool>()).prop_map(|(claim, whole)| Act::BundleEnds { claim, whole }),
        Just(Act::Ready),
        claim.clone().prop_map(|claim| Act::BeginCall { claim }),
        (claim, any::<bool>()).prop_map(|(claim, whole)| Act::BodyEnds { claim, whole }),
        prop::bool::weighted(0.9).prop_map(|whole| Act::EndCall { whole }),
        Just(Act::Expire),
        (0..20_u64).prop_map(|secs| Act::Wait { secs }),
        prop::bool::weighted(0.1).prop_map(|gone| if gone { Act::Gone } else { Act::Ready }),
    ]
}

/// A pod and what its shell knows besides: which bundle is on its way, which call.
struct Driven {
    pod: Pod,
    now: Duration,
    putting: Option<String>,
    call: Option<RunningCall>,
    /// Who had it last.
    last: Option<Holder>,
}

impl Driven {
    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let before = self.pod.state(self.now);
        let pod = &mut self.pod;
        match *act {
            Act::Claim {
                claim,
                function,
                pod: for_pod,
            } => {
                let for_pod = for_pod.map(|pod| pod.to_string());
                let of_other = matches!((&for_pod, &pod.uid), (Some(one), Some(two)) if one != two);
                let holder = claim_of(claim, function);
                let launch = (before.kind == Kind::Pool).then(|| bundle(function));
                let expired = pod.expires().is_some_and(|at| at <= self.now);
                let repeated = before.claim.as_ref() == Some(&holder) && !expired;
                let superseded = before.claim.as_ref().is_some_and(|before| {
                    before.gateway == holder.gateway && before.boot < holder.boot
                });
                let suits =
                    before.tenant.is_none() || before.tenant.as_ref() == Some(&holder.tenant);
                let occupied = self.call.is_some() || self.putting.is_some();
                let made = pod
                    .claim(for_pod.as_deref(), &holder, launch, self.now)
                    .is_ok();
                if of_other {
                    prop_assert!(!made);
                    prop_assert_eq!(pod.state(self.now), before, "as if nobody had asked");
                    return Ok(());
                }
                if made {
                    let free = before.claim.is_none() || expired;
                    prop_assert!(free || repeated || superseded);
                    prop_assert!(suits);
                    prop_assert!(repeated || !occupied, "what was begun has not ended");
                    prop_assert_eq!(pod.holder(), Some(&holder));
                    let last = self.last.replace(holder.clone());
                    prop_assert!(
                        last.is_none_or(
                            |last| last.gateway != holder.gateway || last.boot <= holder.boot
                        ),
                        "an earlier boot never follows a later one"
                    );
                } else if superseded {
                    prop_assert_eq!(
                        pod.holder(),
                        None,
                        "a later boot ends an earlier one's claim"
                    );
                    prop_assert!(occupied || !suits || before.phase.is_over());
                }
            }
            Act::Attend { claim } => {
                let attended = pod.attend(&claim.to_string()).is_ok();
                prop_assert_eq!(
                    attended,
                    pod.holder()
                        .is_some_and(|holder| { holder.claim == claim.to_string() })
                );
                prop_assert!(!attended || pod.expires().is_none());
            }
            Act::Leave { claim } => pod.leave(&claim.to_string(), self.now),
            Act::Release { claim } => pod.release(&claim.to_string()),
            Act::Put { claim, function } => {
                let claim = claim.to_string();
                if pod.put_bundle(&claim, &bundle(function).digest) == Ok(Bundle::Wanted) {
                    prop_assert_eq!(before.phase, Phase::Empty);
                    prop_assert_eq!(&self.putting, &None, "one bundle comes at a time");
                    self.putting = Some(claim);
                }
            }
            Act::BundleEnds { claim, whole } => {
                let ours = self
                    .putting
                    .take_if(|putting| *putting == claim.to_string());
                match ours {
                    Some(claim) if whole => {
                        let launched = pod.launch(&claim).is_ok();
                        let held = before.claim.is_some_and(|holder| holder.claim == claim);
                        prop_assert_eq!(launched, held && !before.phase.is_over());
                    }
                    Some(_) => pod.bundle_failed(),
                    None => {}
                }
            }
            Act::Ready => pod.ready(self.now),
            Act::BeginCall { claim } => {
                if pod.begin_call(&claim.to_string()).is_ok() {
                    prop_assert_eq!(self.call, None);
                    prop_assert_eq!(before.phase, Phase::Ready);
                    prop_assert_eq!(before.claim.unwrap().claim, claim.to_string());
                    self.call = Some(RunningCall::Coming);
                }
            }
            Act::BodyEnds { claim, whole } if self.call == Some(RunningCall::Coming) => {
                self.call = None;
                if !whole {
                    pod.call_given_up();
                } else if pod.enter_call(&claim.to_string()).is_ok() {
                    self.call = Some(RunningCall::Inside);
                    prop_assert_eq!(pod.calls, before.calls + 1);
                    let held = before
                        .claim
                        .is_some_and(|held| held.claim == claim.to_string());
                    prop_assert!(held, "no call of a claim that is dropped gets through");
                }
            }
            Act::EndCall { whole } if self.call == Some(RunningCall::Inside) => {
                self.call = None;
                let reason = || "broke".to_owned();
                let end = match whole {
                    true => CallEnd::Whole,
                    false => CallEnd::Broken { reason: reason() },
                };
                pod.end_call(end, self.now);
            }
            Act::BodyEnds { .. } | Act::EndCall { .. } => {}
            Act::Gone => pod.gone("gone".to_owned()),
            Act::Expire => {
                let due = pod.expires().is_some_and(|at| at <= self.now);
                prop_assert_eq!(pod.expire(self.now).is_some(), due);
            }
            Act::Wait { secs } => self.now += Duration::from_secs(secs),
        }
        Ok(())
    }
}

fn order(phase: Phase) -> u8 {
    match phase {
        Phase::Empty => 0,
        Phase::Starting => 1,
        Phase::Ready => 2,
        Phase::Failed => 3,
        Phase::Gone => 4,
    }
}

#[test]
fn a_pod_that_went_while_its_bundle_came_starts_nothing() {
    let mut pod = Pod::new(Kind::Pool, None, LEASE);
    let holder = holder("1", "1");
    pod.claim(None, &holder, Some(bundle(1)), Duration::ZERO)
        .unwrap();
    let put = pod.put_bundle(&holder.claim, &bundle(1).digest);
    assert_eq!(put, Ok(Bundle::Wanted));
    pod.gone("the launcher was killed".to_owned());
    assert!(pod.launch(&holder.claim).is_err());
    assert_eq!(pod.state(Duration::ZERO).phase, Phase::Gone);
}

proptest! {
    #[test]
    fn whatever_is_asked_one_function_has_the_pod_and_one_call_is_inside(
        image in any::<bool>(),
        knows_its_uid in any::<bool>(),
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let kind = if image { Kind::Image } else { Kind::Pool };
        let mut driven = Driven {
            pod: Pod::new(kind, knows_its_uid.then(|| 0.to_string()), LEASE),
            now: Duration::ZERO,
            putting: None,
            call: None,
            last: None,
        };
        let mut before = driven.pod.state(driven.now);
        for act in &acts {
            driven.act(act)?;
            let after = driven.pod.state(driven.now);
            prop_assert!(order(after.phase) >= order(before.phase), "phases only go forward");
            prop_assert!(
                before.tenant.is_none() || before.tenant == after.tenant,
                "a pod never changes its function"
            );
            prop_assert_eq!(after.phase.is_over(), after.reason.is_some());
            prop_assert_eq!(driven.pod.call, driven.call);
            prop_assert_eq!(after.running, driven.call == Some(RunningCall::Inside));
            if kind == Kind::Pool {
                let launched = matches!(after.phase, Phase::Starting | Phase::Ready);
                prop_assert!(!launched || after.tenant.is_some());
            }
            before = after;
        }
    }
}
