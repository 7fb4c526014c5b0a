#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn pair(function: &str, settings: u64) -> Pair {
    Pair {
        function: function.to_owned(),
        settings: settings.to_string(),
    }
}

fn image(function: &str, settings: u64) -> Wanted {
    Wanted {
        pair: pair(function, settings),
        code: Code::Image,
    }
}

fn bundle(function: &str, settings: u64, memory_mb: u64) -> Wanted {
    Wanted {
        pair: pair(function, settings),
        code: Code::Bundle {
            runtime: "node".to_owned(),
            memory_mb,
        },
    }
}

fn pod(name: &str, node: &str, purpose: Purpose) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        node: node.to_owned(),
        purpose,
        standing: Standing::Running([127, 0, 0, 1].into()),
    }
}

fn image_pod(name: &str, function: &str, settings: u64) -> Pod {
    pod(name, "n1", Purpose::Image(pair(function, settings)))
}

fn pool_pod(name: &str, memory_mb: u64, function: Option<&str>) -> Pod {
    let purpose = Purpose::Pool {
        runtime: "node".to_owned(),
        memory_mb,
        function: function.map(str::to_owned),
    };
    pod(name, "n1", purpose)
}

/// The pod each start was offered.
fn offered(effects: &Effects) -> Vec<(u64, &str)> {
    let offers = effects.offers.iter();
    offers
        .map(|offer| (offer.start.0, offer.pod.as_str()))
        .collect()
}

fn with(pods: Vec<Pod>) -> Claims {
    let mut claims = Claims::new("g");
    claims.pods_listed(pods);
    claims
}

#[test]
fn an_image_pod_that_was_claimed_with_other_settings_is_finished() {
    for (case, pods, wanted, holds, finished, offered_again) in [
        (
            "relabelled since it was claimed",
            vec![image_pod("a", "f", 2)],
            image("f", 2),
            pair("f", 1),
            true,
            false,
        ),
        (
            "another gateway's, with the same settings",
            vec![image_pod("a", "f", 2)],
            image("f", 2),
            pair("f", 2),
            false,
            true,
        ),
        (
            "a pool's, which others want",
            vec![pool_pod("a", 128, None)],
            bundle("f", 2, 128),
            pair("f", 1),
            false,
            false,
        ),
    ] {
        let mut claims = with(pods);
        claims.started(StartId(1), wanted);
        claims.refused(NOW, StartId(1), PodRefusal::Holds(holds));
        let (functions, _, told) = claims.demand();
        assert_eq!(functions[0].wanted, 1, "{case}");
        assert_eq!(told == ["a"], finished, "{case}: {told:?}");
        let again = claims.tick(NOW + REST_MAX);
        assert_eq!(!offered(&again).is_empty(), offered_again, "{case}");
    }
}

#[test]
fn an_offer_names_the_pod_that_has_the_name_now() {
    let mut claims = with(vec![image_pod("a", "f", 1)]);
    let next = Pod {
        uid: "next".to_owned(),
        ..image_pod("a", "f", 1)
    };
    claims.pod_seen(next);
    let effects = claims.started(StartId(1), image("f", 1));
    assert_eq!(effects.offers[0].uid, "next");
}

#[test]
fn a_start_takes_the_best_pod_that_suits_it() {
    let other_runtime = pod(
        "python",
        "n1",
        Purpose::Pool {
            runtime: "python3.11".to_owned(),
            memory_mb: 128,
            function: None,
        },
    );
    for (case, pods, wanted, want) in [
        (
            "its own image",
            vec![image_pod("a", "f", 1), image_pod("b", "g", 1)],
            image("g", 1),
            Some("b"),
        ),
        (
            "an image started with other settings",
            vec![image_pod("a", "f", 1)],
            image("f", 2),
            None,
        ),
        (
            "an image for a bundle",
            vec![image_pod("a", "f", 1)],
            bundle("f", 1, 64),
            None,
        ),
        (
            "a hot one before an empty one",
            vec![pool_pod("a", 128, None), pool_pod("b", 128, Some("f"))],
            bundle("f", 1, 128),
            Some("b"),
        ),
        (
            "another function's",
            vec![pool_pod("b", 128, Some("g"))],
            bundle("f", 1, 128),
            None,
        ),
        (
            "the least memory that suffices",
            vec![
                pool_pod("a", 1024, None),
                pool_pod("b", 64, None),
                pool_pod("c", 256, None),
            ],
            bundle("f", 1, 128),
            Some("c"),
        ),
        (
            "too little memory",
            vec![pool_pod("a", 64, None)],
            bundle("f", 1, 128),
            None,
        ),
        (
            "another runtime",
            vec![other_runtime],
            bundle("f", 1, 128),
            None,
        ),
        (
            "one that does not run yet",
            vec![Pod {
                standing: Standing::Coming,
                ..pool_pod("a", 128, None)
            }],
            bundle("f", 1, 128),
            None,
        ),
        (
            "one that leaves",
            vec![Pod {
                standing: Standing::Leaving,
                ..pool_pod("a", 128, None)
            }],
            bundle("f", 1, 128),
            None,
        ),
    ] {
        let mut claims = with(pods);
        let effects = claims.started(StartId(1), wanted);
        let want: Vec<_> = want.into_iter().map(|name| (1, name)).collect();
        assert_eq!(offered(&effects), want, "{case}");
    }
}

#[test]
fn pods_of_one_kind_are_taken_from_all_nodes_alike() {
    let mut pods = Vec::new();
    for node in ["n1", "n2", "n3"] {
        for number in 0..4 {
            pods.push(Pod {
                node: node.to_owned(),
                ..pool_pod(&format!("{node}-{number}"), 128, None)
            });
        }
    }
    let mut claims = with(pods);
    let mut by_node: HashMap<String, u32> = HashMap::new();
    for start in 0..6 {
        let effects = claims.started(StartId(start), bundle("f", 1, 128));
        let node = effects.offers[0].pod.split('-').next().unwrap().to_owned();
        *by_node.entry(node).or_default() += 1;
    }
    assert!(by_node.values().all(|taken| *taken == 2), "{by_node:?}");
}

#[test]
fn those_who_waited_longest_get_what_comes() {
    let mut claims = with(Vec::new());
    for (start, wanted) in [
        (1, image("f", 1)),
        (2, bundle("g", 1, 512)),
        (3, bundle("h", 1, 64)),
        (4, bundle("g", 1, 64)),
    ] {
        assert_eq!(claims.started(StartId(start), wanted), Effects::default());
    }
    for (pod, want) in [
        (pool_pod("a", 128, None), (3, "a")),
        (pool_pod("b", 1024, None), (2, "b")),
        (image_pod("c", "f", 1), (1, "c")),
        (pool_pod("d", 64, Some("g")), (4, "d")),
    ] {
        assert_eq!(offered(&claims.pod_seen(pod)), [want]);
    }
}

#[test]
fn a_refused_pod_rests_and_others_are_tried_meanwhile() {
    let mut claims = with(vec![pool_pod("a", 128, None), pool_pod("b", 128, None)]);
    let start = StartId(1);
    let first = claims.started(start, bundle("f", 1, 128)).offers[0]
        .pod
        .clone();
    let second = claims.refused(NOW, start, PodRefusal::Unavailable).offers[0]
        .pod
        .clone();
    assert_ne!(first, second);
    assert_eq!(
        claims.refused(NOW, start, PodRefusal::Unavailable),
        Effects::default()
    );
    assert_eq!(claims.next_tick(), Some(NOW + REST_MIN));
    assert_eq!(claims.tick(NOW), Effects::default());
    assert_eq!(claims.tick(NOW + REST_MIN).offers.len(), 1);
    // Its second refusal makes it rest twice as long.
    claims.refused(NOW + REST_MIN, start, PodRefusal::Unavailable);
    let rests: Vec<_> = std::iter::from_fn(|| {
        let next = claims.next_tick()?;
        claims.tick(next);
        Some(next)
    })
    .collect();
    assert!(
        rests.contains(&(NOW + REST_MIN + 2 * REST_MIN)),
        "{rests:?}"
    );
}

#[test]
fn what_a_runner_says_that_it_holds_is_remembered() {
    let mut claims = with(vec![pool_pod("a", 128, None)]);
    let start = StartId(1);
    claims.started(start, bundle("f", 2, 128));
    claims.refused(NOW, start, PodRefusal::Holds(pair("f", 1)));
    // It will never be had for these settings, but for those.
    assert_eq!(claims.tick(NOW + REST_MAX), Effects::default());
    let effects = claims.started(StartId(2), bundle("f", 1, 128));
    assert_eq!(offered(&effects), [(2, "a")]);
}

#[test]
fn a_pod_that_was_claimed_is_a_functions_only_once_its_bundle_is_there() {
    for (loaded, other, same) in [
        (false, vec![(2, "a")], vec![]),
        (true, vec![], vec![(3, "a")]),
    ] {
        let mut claims = with(vec![pool_pod("a", 128, None)]);
        claims.started(StartId(1), bundle("f", 1, 128));
        claims.claimed(StartId(1));
        if loaded {
            claims.loaded(StartId(1));
        }
        claims.refused(NOW, StartId(1), PodRefusal::Unavailable);
        claims.ended(StartId(1), Fate::Reusable);
        claims.tick(NOW + REST_MAX);
        let of_other = claims.started(StartId(2), bundle("g", 1, 128));
        assert_eq!(offered(&of_other), other, "{loaded}");
        let of_same = claims.started(StartId(3), bundle("f", 1, 128));
        assert_eq!(offered(&of_same), same, "{loaded}");
    }
}

#[test]
fn a_pod_that_is_over_is_told_as_finished() {
    let mut claims = with(vec![image_pod("a", "f", 1)]);
    claims.started(StartId(1), image("f", 1));
    claims.refused(NOW, StartId(1), PodRefusal::Over);
    assert_eq!(claims.next_tick(), None);
    assert_eq!(claims.demand().2, ["a"]);
}

#[test]
fn a_lost_pod_is_told_to_whoever_had_it_and_is_not_told_twice() {
    let gone = |claims: &mut Claims| claims.pod_gone("a");
    let leaving = |claims: &mut Claims| {
        claims.pod_seen(Pod {
            standing: Standing::Leaving,
            ..image_pod("a", "f", 1)
        })
    };
    let ended = |claims: &mut Claims| {
        claims.pod_seen(Pod {
            standing: Standing::Ended("OOMKilled".to_owned()),
            ..image_pod("a", "f", 1)
        })
    };
    let replaced = |claims: &mut Claims| {
        claims.pod_seen(Pod {
            uid: "other".to_owned(),
            standing: Standing::Coming,
            ..image_pod("a", "f", 1)
        })
    };
    type Event<'a> = &'a dyn Fn(&mut Claims) -> Effects;
    let cases: [(&str, Event<'_>, Loss); 4] = [
        ("gone", &gone, Loss::PodLeaves),
        ("leaving", &leaving, Loss::PodLeaves),
        (
            "ended",
            &ended,
            Loss::FunctionExited("OOMKilled".to_owned()),
        ),
        ("replaced", &replaced, Loss::PodLeaves),
    ];
    for (case, event, loss) in cases {
        for held in [false, true] {
            let mut claims = with(vec![image_pod("a", "f", 1)]);
            let start = StartId(1);
            assert_eq!(offered(&claims.started(start, image("f", 1))), [(1, "a")]);
            if held {
                claims.claimed(start);
            }
            let bereft = Bereft {
                start,
                pod: "a".to_owned(),
                loss: loss.clone(),
            };
            assert_eq!(event(&mut claims).bereft, [bereft], "{case}");
            assert_eq!(event(&mut claims).bereft, [], "{case}");
            assert_eq!(claims.demand().0, [], "{case}: nothing is wanted of it");
        }
    }
}

#[test]
fn a_pod_that_a_list_lacks_stays_with_whoever_has_it() {
    let mut claims = with(vec![image_pod("a", "f", 1), image_pod("b", "f", 1)]);
    let had = claims.started(StartId(1), image("f", 1)).offers[0]
        .pod
        .clone();
    claims.claimed(StartId(1));
    assert_eq!(claims.pods_listed(Vec::new()), Effects::default());
    assert_eq!(claims.demand().1[0].pod, had);
    // The other is not offered, and neither is this one once it is given back.
    let effects = claims.started(StartId(2), image("f", 1));
    assert_eq!(effects, Effects::default());
    assert_eq!(claims.ended(StartId(1), Fate::Finished), Effects::default());
    assert_eq!(claims.counts().pods, 0);
    let effects = claims.pod_seen(image_pod("b", "f", 1));
    assert_eq!(offered(&effects), [(2, "b")]);
}

#[test]
fn demand_counts_instances_and_those_who_wait() {
    let mut claims = with(vec![
        pool_pod("a", 128, None),
        image_pod("b", "f", 1),
        image_pod("c", "f", 1),
    ]);
    for (start, wanted) in [
        (1, bundle("g", 7, 128)),
        (2, image("f", 1)),
        (3, image("f", 1)),
        (4, image("f", 1)),
        (5, image("f", 2)),
    ] {
        claims.started(StartId(start), wanted);
    }
    claims.claimed(StartId(1));
    claims.claimed(StartId(2));
    claims.ended(StartId(2), Fate::Finished);
    let (functions, held, finished) = claims.demand();
    let functions: Vec<_> = functions
        .iter()
        .map(|demand| {
            (
                demand.function.as_str(),
                demand.settings.as_str(),
                demand.wanted,
            )
        })
        .collect();
    assert_eq!(functions, [("f", "1", 2), ("f", "2", 1), ("g", "7", 1)]);
    let held: Vec<_> = held.iter().map(|claim| claim.pod.as_str()).collect();
    assert_eq!(held, ["a"]);
    assert_eq!(finished.len(), 1);
    claims.pod_gone(&finished[0]);
    assert!(claims.demand().2.is_empty(), "told until it is gone");
}

#[test]
fn a_finished_pod_is_offered_to_nobody_and_a_reusable_one_to_the_next() {
    for (fate, want) in [(Fate::Finished, None), (Fate::Reusable, Some("a"))] {
        let mut claims = with(vec![pool_pod("a", 128, None)]);
        claims.started(StartId(1), bundle("f", 1, 128));
        claims.claimed(StartId(1));
        claims.started(StartId(2), bundle("f", 1, 128));
        let effects = claims.ended(StartId(1), fate);
        let want: Vec<_> = want.into_iter().map(|name| (2, name)).collect();
        assert_eq!(offered(&effects), want, "{fate:?}");
    }
}

#[test]
fn starts_that_waited_for_the_list_take_the_best_of_all_of_it() {
    let mut claims = Claims::new("g");
    for start in 1..=3 {
        claims.started(StartId(start), bundle("f", 1, 64));
    }
    let effects = claims.pods_listed(vec![
        pool_pod("a", 64, None),
        pool_pod("b", 64, Some("f")),
        pool_pod("c", 64, None),
        pool_pod("d", 64, Some("f")),
    ]);
    let mut hot: Vec<_> = offered(&effects).into_iter().take(2).collect();
    hot.sort_by_key(|(_, pod)| *pod);
    assert_eq!(
        hot.iter().map(|(_, pod)| *pod).collect::<Vec<_>>(),
        ["b", "d"]
    );
    assert_eq!(effects.offers.len(), 3, "the last gets an empty one");
}

#[test]
fn what_is_handed_over_is_held_but_wanted_by_the_next_gateway_alone() {
    let mut claims = with(vec![image_pod("a", "f", 1), image_pod("b", "f", 1)]);
    for start in 1..=3 {
        claims.started(StartId(start), image("f", 1));
    }
    claims.claimed(StartId(1));
    claims.claimed(StartId(2));
    claims.hand_over();
    let (functions, held, _) = claims.demand();
    assert_eq!(functions[0].wanted, 1, "for the start that waits");
    assert_eq!(held.len(), 2);
    claims.ended(StartId(3), Fate::Finished);
    claims.ended(StartId(1), Fate::Finished);
    let (functions, held, finished) = claims.demand();
    assert_eq!((functions[0].wanted, held.len(), finished.len()), (0, 1, 0));
}

#[test]
fn only_starts_the_operator_knew_of_are_hopeless() {
    let mut claims = with(vec![image_pod("a", "f", 1)]);
    for start in 1..=4 {
        let function = if start == 3 { "g" } else { "f" };
        claims.started(StartId(start), image(function, 1));
    }
    // The first has a pod.
    assert_eq!(claims.waiting_for("f", None, StartId(3)), [StartId(2)]);
}

#[test]
fn a_start_of_mended_settings_is_not_hopeless_for_those_before() {
    let mut claims = with(Vec::new());
    for settings in [1, 2] {
        claims.started(StartId(settings), image("f", settings));
    }
    for (settings, want) in [
        (Some("1"), vec![StartId(1)]),
        (Some("2"), vec![StartId(2)]),
        (None, vec![StartId(1), StartId(2)]),
    ] {
        let hopeless = claims.waiting_for("f", settings, StartId(9));
        assert_eq!(hopeless, want, "{settings:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    See {
        pod: u8,
        purpose: u8,
        standing: u8,
        reborn: bool,
    },
    Gone(u8),
    List(Vec<u8>),
    Start(u8),
    Claimed(usize),
    Loaded(usize),
    Refused(usize, u8),
    Ended(usize, bool),
    Tick(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8, 0..6_u8, 0..8_u8, prop::bool::weighted(0.1))
            .prop_map(|(pod, purpose, standing, reborn)| Step::See { pod, purpose, standing, reborn }),
        1 => (0..8_u8).prop_map(Step::Gone),
        1 => prop::collection::vec(0..8_u8, 0..8).prop_map(Step::List),
        4 => (0..6_u8).prop_map(Step::Start),
        2 => any::<usize>().prop_map(Step::Claimed),
        2 => any::<usize>().prop_map(Step::Loaded),
        2 => (any::<usize>(), 0..8_u8).prop_map(|(s, p)| Step::Refused(s, p)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(s, f)| Step::Ended(s, f)),
        1 => (0..2000_u16).prop_map(Step::Tick),
    ]
}

fn wanted_of(kind: u8) -> Wanted {
    match kind {
        0 => image("f", 1),
        1 => image("f", 2),
        2 => bundle("f", 1, 128),
        3 => bundle("f", 2, 128),
        4 => bundle("g", 1, 128),
        _ => bundle("g", 1, 512),
    }
}

fn model_pod(number: u8, purpose: u8, standing: u8, generation: u32) -> Pod {
    let name = format!("p{number}");
    let pod = match purpose {
        0 => image_pod(&name, "f", 1),
        1 => image_pod(&name, "f", 2),
        2 => pool_pod(&name, 128, None),
        3 => pool_pod(&name, 1024, None),
        4 => pool_pod(&name, 128, Some("f")),
        _ => pool_pod(&name, 128, Some("g")),
    };
    Pod {
        uid: format!("{number}-{generation}"),
        node: format!("n{}", number % 3),
        standing: match standing {
            0 => Standing::Coming,
            1 => Standing::Ended(String::new()),
            2 => Standing::Leaving,
            _ => Standing::Running([127, 0, 0, number].into()),
        },
        ..pod
    }
}

/// What the shell knows: which start has which pod.
#[derive(Default)]
struct Shell {
    now: Duration,
    starts: u64,
    /// `None` while it waits.
    live: BTreeMap<StartId, Option<String>>,
    bereft: BTreeSet<StartId>,
    generations: HashMap<u8, u32>,
}

impl Shell {
    fn pick(&self, number: usize) -> Option<StartId> {
        let count = self.live.len();
        (count > 0).then(|| *self.live.keys().nth(number % count).unwrap())
    }

    fn hear(&mut self, effects: Effects) {
        // Whoever lost a pod is told before another gets it.
        for Bereft { start, pod, .. } in effects.bereft {
            let had = self.live.get_mut(&start).unwrap().take();
            assert_eq!(had, Some(pod), "only those who have pods lose them");
            self.bereft.insert(start);
        }
        for offer in effects.offers {
            let holder = self
                .live
                .iter()
                .find(|(_, pod)| pod.as_ref() == Some(&offer.pod));
            assert_eq!(holder, None, "two starts have {}", offer.pod);
            assert!(!self.bereft.contains(&offer.start));
            let place = self.live.get_mut(&offer.start).unwrap();
            assert_eq!(*place, None, "a start has one pod at most");
            *place = Some(offer.pod);
        }
    }
}

fn check(claims: &Claims, shell: &Shell) {
    for (name, known) in &claims.pods {
        let mut indexed = Vec::new();
        for (slot, nodes) in &claims.free {
            for (node, pods) in nodes {
                let its = pods.iter().filter(|ranked| ranked.name == *name);
                indexed.extend(its.map(|ranked| (slot.clone(), node.clone(), ranked.clone())));
            }
        }
        assert_eq!(indexed, Vec::from_iter(known.place(claims.salt)), "{name}");
    }
    let by_node = claims.free.values().flat_map(BTreeMap::values);
    let indexed: usize = by_node.map(BTreeSet::len).sum();
    assert!(indexed <= claims.pods.len(), "no pod that is gone is free");
    let waiting: BTreeSet<StartId> = claims.waiting.values().flatten().copied().collect();
    for id in &waiting {
        let wanted = &claims.starts[id].wanted;
        assert_eq!(claims.best(wanted), None, "{id:?} waits for what is free");
    }
    for (id, pod) in &shell.live {
        let at = match (pod, shell.bereft.contains(id)) {
            (None, true) => matches!(claims.starts[id].at, At::Bereft),
            (None, false) => waiting.contains(id),
            (Some(pod), _) => {
                claims.pods[pod].taken_by == Some(*id)
                    && matches!(&claims.starts[id].at, At::Asking(at) | At::Held(at) if at == pod)
            }
        };
        assert!(at, "{id:?} is at {:?}", claims.starts[id].at);
    }
    assert_eq!(claims.starts.len(), shell.live.len());
    let with_pods = shell.live.values().flatten().count();
    assert_eq!(claims.taken_on.values().sum::<usize>(), with_pods);
    let (functions, held, finished) = claims.demand();
    let wanted: u32 = functions.iter().map(|demand| demand.wanted).sum();
    assert_eq!(wanted as usize, shell.live.len() - shell.bereft.len());
    assert!(held.len() <= with_pods);
    for name in finished {
        assert!(claims.pods[&name].finished);
    }
    for (until, name) in &claims.resting {
        assert_eq!(claims.pods[name].resting_until, Some(*until));
    }
}

proptest! {
    #[test]
    fn no_pod_has_two_takers_and_nobody_waits_for_a_free_one(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut claims = Claims::new("g");
        let mut shell = Shell::default();
        for step in steps {
            let effects = match step {
                Step::See { pod, purpose, standing, reborn } => {
                    let generation = shell.generations.entry(pod).or_default();
                    *generation += u32::from(reborn);
                    claims.pod_seen(model_pod(pod, purpose, standing, *generation))
                }
                Step::Gone(pod) => claims.pod_gone(&format!("p{pod}")),
                Step::List(pods) => {
                    let names: BTreeSet<u8> = pods.into_iter().collect();
                    let listed = names.into_iter().map(|pod| model_pod(pod, pod % 6, 3, 0));
                    claims.pods_listed(listed.collect())
                }
                Step::Start(kind) => {
                    shell.starts += 1;
                    let id = StartId(shell.starts);
                    shell.live.insert(id, None);
                    claims.started(id, wanted_of(kind))
                }
                Step::Claimed(number) => {
                    if let Some(id) = shell.pick(number) {
                        claims.claimed(id);
                    }
                    Effects::default()
                }
                Step::Loaded(number) => {
                    if let Some(id) = shell.pick(number) {
                        claims.loaded(id);
                    }
                    Effects::default()
                }
                Step::Refused(number, why) => match shell.pick(number) {
                    Some(id) if shell.live[&id].is_some() || shell.bereft.contains(&id) => {
                        shell.live.insert(id, None);
                        shell.bereft.remove(&id);
                        let refusal = match why {
                            0 | 1 => PodRefusal::Unavailable,
                            2 => PodRefusal::Over,
                            kind => PodRefusal::Holds(wanted_of(kind).pair),
                        };
                        claims.refused(shell.now, id, refusal)
                    }
                    _ => Effects::default(),
                },
                Step::Ended(number, finished) => match shell.pick(number) {
                    Some(id) => {
                        shell.live.remove(&id);
                        shell.bereft.remove(&id);
                        let fate = if finished { Fate::Finished } else { Fate::Reusable };
                        claims.ended(id, fate)
                    }
                    None => Effects::default(),
                },
                Step::Tick(millis) => {
                    shell.now += Duration::from_millis(millis.into());
                    claims.tick(shell.now)
                }
            };
            shell.hear(effects);
            check(&claims, &shell);
        }
    }
}
