#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use region_plane_resources::demand::{Demand, FunctionDemand, StartFailure};

use super::*;

const PLENTY: Budget = Budget {
    creates: 100_000,
    deletes: 100_000,
    patches: 100_000,
};

fn secs(secs: u64) -> Moment {
    Duration::from_secs(secs)
}

/// A cluster that does what it is told, and what it is not.
struct Cluster {
    now: Moment,
    desired: Desired,
    pods: BTreeMap<String, Pod>,
    demands: Demands,
    setbacks: Setbacks,
    fills: BTreeMap<String, Fill>,
    surplus_from: Option<Moment>,
    /// Its nodes have no more memory for the pods that they have.
    full: bool,
    named: usize,
    boot: u64,
    sequence: u64,
}

fn function(settings: u64, min: u32, max: u32) -> Function {
    Function {
        uid: "u".to_owned(),
        generation: 1,
        image: true,
        settings: settings.to_string(),
        memory_mb: 128,
        template: "t".to_owned(),
        min,
        max,
        stated: Some(serving()),
    }
}

fn pool(size: u32) -> Pool {
    Pool {
        uid: "u".to_owned(),
        generation: 1,
        runtime: "python3.11".to_owned(),
        memory_mb: 128,
        size,
        template: "t".to_owned(),
        stated: Some(serving()),
    }
}

fn serving() -> Stated {
    Stated {
        generation: 1,
        ready: true,
        reason: "Serving".to_owned(),
    }
}

fn wants(function: &str, settings: u64, wanted: u32) -> FunctionDemand {
    FunctionDemand {
        function: function.to_owned(),
        settings: settings.to_string(),
        wanted,
        code: Code::Image,
    }
}

fn wants_bundle(function: &str, wanted: u32, memory_mb: u64) -> FunctionDemand {
    FunctionDemand {
        code: Code::Bundle {
            runtime: "python3.11".to_owned(),
            memory_mb,
        },
        ..wants(function, 1, wanted)
    }
}

impl Cluster {
    fn new(functions: Vec<(&str, Function)>, pools: Vec<(&str, Pool)>) -> Self {
        let named = |(name, value)| (str::to_owned(name), value);
        Self {
            now: secs(1_000),
            desired: Desired {
                functions: functions.into_iter().map(named).collect(),
                pools: pools
                    .into_iter()
                    .map(|(name, pool)| (name.to_owned(), pool))
                    .collect(),
                unreadable: BTreeMap::new(),
            },
            pods: BTreeMap::new(),
            demands: Demands::default(),
            setbacks: Setbacks::default(),
            fills: BTreeMap::new(),
            surplus_from: Some(secs(0)),
            full: false,
            named: 0,
            boot: 1,
            sequence: 0,
        }
    }

    fn demand(
        &mut self,
        functions: Vec<FunctionDemand>,
        claims: &[(&str, &str)],
        finished: &[&str],
    ) {
        self.sequence += 1;
        let claims = claims.iter().map(|(pod, function)| ClaimedPod {
            pod: (*pod).to_owned(),
            function: (*function).to_owned(),
            settings: "1".to_owned(),
        });
        let demand = Demand {
            gateway: "g".to_owned(),
            boot: self.boot,
            sequence: self.sequence,
            functions,
            claims: claims.collect(),
            finished: finished.iter().map(|pod| (*pod).to_owned()).collect(),
            failures: Vec::new(),
        };
        self.demands.take(demand, self.now);
    }

    fn plan(&self, budget: Budget) -> Plan {
        let observed = Observed {
            now: self.now,
            rules: Rules::default(),
            pods: &self.pods,
            demands: &self.demands,
            setbacks: &self.setbacks,
            fills: &self.fills,
            surplus_from: self.surplus_from,
        };
        plan(&self.desired, &observed, budget)
    }

    /// Does all that the plan says.
    fn apply(&mut self, plan: &Plan) {
        self.fills.clone_from(&plan.fills);
        for action in &plan.actions {
            self.apply_one(action);
        }
    }

    fn apply_one(&mut self, action: &Action) {
        match action {
            Action::Create {
                owner,
                memory_mb,
                dedicated,
            } => {
                self.named += 1;
                let (settings, template) = match owner {
                    Owner::Function(name) => {
                        let function = &self.desired.functions[name];
                        (Some(function.settings.clone()), function.template.clone())
                    }
                    Owner::Pool(name) => (None, self.desired.pools[name].template.clone()),
                };
                let name = format!("{}-{:05}", owner.name(), self.named);
                let pod = Pod {
                    uid: format!("uid-{}", self.named),
                    owner: owner.clone(),
                    owner_uid: "u".to_owned(),
                    settings,
                    function: None,
                    dedicated: dedicated.clone(),
                    memory_mb: *memory_mb,
                    asked_mb: *memory_mb,
                    growing_since: None,
                    template,
                    phase: Phase::Pending,
                    trouble: None,
                    deleting: false,
                    busy: false,
                    seen: self.now,
                    ran_from: None,
                };
                self.pods.insert(name, pod);
            }
            Action::Delete { pod, uid, .. } => {
                assert_eq!(&self.pods[pod].uid, uid);
                self.pods.remove(pod);
            }
            Action::Resize {
                pod,
                memory_mb,
                settings,
                how,
                ..
            } => {
                let pod = self.pods.get_mut(pod).unwrap();
                pod.asked_mb = *memory_mb;
                if *how == Resizing::Grow {
                    pod.growing_since = self.full.then_some(self.now);
                    return;
                }
                assert!(*memory_mb <= pod.memory_mb || pod.growing_since.is_none());
                pod.memory_mb = *memory_mb;
                if settings.is_some() {
                    pod.settings.clone_from(settings);
                }
            }
            Action::Label {
                pod,
                function,
                settings,
                ..
            } => {
                let pod = self.pods.get_mut(pod).unwrap();
                pod.function = Some(function.clone());
                pod.settings = Some(settings.clone());
            }
            Action::State { owner, condition } => {
                let stated = Some(Stated {
                    generation: condition.generation,
                    ready: condition.trouble.is_none(),
                    reason: condition.reason(),
                });
                match owner {
                    Owner::Function(name) => {
                        self.desired.functions.get_mut(name).unwrap().stated = stated;
                    }
                    Owner::Pool(name) => {
                        self.desired.pools.get_mut(name).unwrap().stated = stated;
                    }
                }
            }
        }
    }

    fn all_run(&mut self) {
        for pod in self.pods.values_mut() {
            pod.phase = Phase::Running;
        }
    }

    fn of(&self, owner: &str) -> Vec<String> {
        let of = |(_, pod): &(&String, &Pod)| pod.owner.name() == owner && !pod.deleting;
        let pods = self.pods.iter().filter(of);
        pods.map(|(name, _)| name.clone()).collect()
    }

    /// Plans and does until nothing more is to be done now.
    fn settle(&mut self) {
        for _ in 0..4 {
            let plan = self.plan(PLENTY);
            self.apply(&plan);
        }
        assert_eq!(self.plan(PLENTY).actions, [], "it does not settle");
    }
}

fn deleted(plan: &Plan) -> Vec<(&str, Why)> {
    let deletes = plan.actions.iter().filter_map(|action| match action {
        Action::Delete { pod, why, .. } => Some((pod.as_str(), *why)),
        _ => None,
    });
    deletes.collect()
}

fn created(plan: &Plan) -> Vec<&str> {
    let creates = plan.actions.iter().filter_map(|action| match action {
        Action::Create { owner, .. } => Some(owner.name()),
        _ => None,
    });
    creates.collect()
}

#[test]
fn as_many_pods_are_made_as_are_wanted_within_min_and_max() {
    for (case, wanted, min, max, want) in [
        ("nobody calls", 0, 0, 10, 0),
        ("some", 3, 0, 10, 3),
        ("kept hot", 0, 2, 10, 2),
        ("more than may be", 30, 0, 10, 10),
    ] {
        let mut cluster = Cluster::new(vec![("fn-a", function(1, min, max))], vec![]);
        cluster.demand(vec![wants("fn-a", 1, wanted)], &[], &[]);
        cluster.settle();
        assert_eq!(cluster.of("fn-a").len(), want, "{case}");
    }
}

#[test]
fn pods_of_settings_that_the_function_does_not_have_are_not_made() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 10))], vec![]);
    cluster.demand(vec![wants("fn-a", 2, 3)], &[], &[]);
    assert_eq!(created(&cluster.plan(PLENTY)), Vec::<&str>::new());
}

#[test]
fn what_goes_first_is_finished_then_idle_for_longest_and_never_what_is_held() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 10))], vec![]);
    cluster.demand(vec![wants("fn-a", 1, 5)], &[], &[]);
    cluster.settle();
    cluster.all_run();
    let pods = cluster.of("fn-a");
    let all = || {
        pods.iter()
            .map(|pod| (pod.as_str(), "fn-a"))
            .collect::<Vec<_>>()
    };
    cluster.demand(vec![wants("fn-a", 1, 5)], &all(), &[]);
    for (seconds, released) in [(0, 3), (2, 1)] {
        cluster.now += secs(seconds);
        let held: Vec<_> = all()
            .into_iter()
            .filter(|(pod, _)| *pod != pods[released] && *pod != pods[3])
            .collect();
        cluster.demand(vec![wants("fn-a", 1, 5)], &held, &[]);
    }
    cluster.now += secs(5);
    let held = [(pods[0].as_str(), "fn-a"), (pods[2].as_str(), "fn-a")];
    cluster.demand(vec![wants("fn-a", 1, 2)], &held, &[&pods[4], &pods[0]]);
    cluster.now += secs(9);
    cluster.demand(vec![wants("fn-a", 1, 2)], &held, &[&pods[4], &pods[0]]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(
        deleted(&plan),
        [
            (pods[4].as_str(), Why::Finished),
            (pods[3].as_str(), Why::Surplus),
            (pods[1].as_str(), Why::Surplus),
        ]
    );
    let one = Budget {
        deletes: 1,
        ..PLENTY
    };
    assert_eq!(
        deleted(&cluster.plan(one)),
        [(pods[4].as_str(), Why::Finished)]
    );
}

#[test]
fn surplus_waits_until_it_is_sure_and_says_when() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 2, 10))], vec![]);
    cluster.settle();
    cluster.desired.functions.get_mut("fn-a").unwrap().min = 0;
    cluster.surplus_from = Some(cluster.now + secs(30));
    cluster.now += secs(20);
    let plan = cluster.plan(PLENTY);
    assert_eq!(deleted(&plan), []);
    assert_eq!(plan.next_wakeup, Some(secs(1_030)));
    cluster.surplus_from = None;
    cluster.now += secs(20);
    assert_eq!(deleted(&cluster.plan(PLENTY)), [], "no gateway is heard");
    cluster.surplus_from = Some(secs(0));
    assert_eq!(deleted(&cluster.plan(PLENTY)).len(), 2);
}

#[test]
fn a_silent_gateways_pods_are_left_for_a_while() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 10))], vec![]);
    cluster.demand(vec![wants("fn-a", 1, 1)], &[], &[]);
    cluster.settle();
    cluster.all_run();
    let pod = cluster.of("fn-a")[0].clone();
    cluster.demand(vec![wants("fn-a", 1, 1)], &[(&pod, "fn-a")], &[]);
    for (after, gone) in [(9, false), (11, false), (29, false), (30, true)] {
        let mut later = secs(after);
        std::mem::swap(&mut later, &mut cluster.now);
        cluster.now += later;
        let plan = cluster.plan(PLENTY);
        assert_eq!(!deleted(&plan).is_empty(), gone, "{after} s");
        let holds = cluster.demands.holds("fn-a", cluster.now);
        assert_eq!(holds, !gone, "its object goes no sooner, {after} s");
        if after == 11 {
            let next = cluster.demands.next_change(cluster.now);
            assert_eq!(next, Some(secs(1_030)));
        }
        cluster.now = later;
    }
}

#[test]
fn that_gateways_are_heard_begins_with_the_first_and_ends_with_the_last() {
    let mut demands = Demands::default();
    assert_eq!(demands.heard_since(secs(5)), None);
    for (at, gateway, since) in [
        (100, "g", 100),
        (109, "g", 100),
        (112, "h", 100),
        (121, "g", 100),
        // Ten seconds of silence later.
        (131, "h", 131),
    ] {
        let demand = Demand {
            gateway: gateway.to_owned(),
            boot: 1,
            sequence: at,
            functions: Vec::new(),
            claims: Vec::new(),
            finished: Vec::new(),
            failures: Vec::new(),
        };
        demands.take(demand, secs(at));
        assert_eq!(demands.heard_since(secs(at)), Some(secs(since)), "{at} s");
    }
    assert_eq!(demands.heard_since(secs(140)), Some(secs(131)));
    assert_eq!(demands.heard_since(secs(141)), None);
}

#[test]
fn pods_that_a_gateway_has_count_though_a_list_lacks_them() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 4))], vec![]);
    cluster.demand(vec![wants("fn-a", 1, 3)], &[], &[]);
    cluster.settle();
    cluster.all_run();
    let pods = cluster.of("fn-a");
    let claims: Vec<_> = pods.iter().map(|pod| (pod.as_str(), "fn-a")).collect();
    cluster.demand(vec![wants("fn-a", 1, 3)], &claims, &[]);
    cluster.pods.clear();
    assert_eq!(cluster.plan(PLENTY).actions, []);
    cluster.demand(vec![wants("fn-a", 1, 9)], &claims, &[]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a"], "its max is four");
    cluster.demand(vec![wants("fn-a", 1, 3)], &claims[..1], &[]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a"; 2], "of two it has heard too");
}

#[test]
fn a_gateway_started_again_wants_only_what_it_says_now_and_finds_its_pods() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 10))], vec![]);
    cluster.demand(vec![wants("fn-a", 1, 2)], &[], &[]);
    cluster.settle();
    cluster.all_run();
    let pods = cluster.of("fn-a");
    let claims = [(pods[0].as_str(), "fn-a"), (pods[1].as_str(), "fn-a")];
    cluster.demand(vec![wants("fn-a", 1, 2)], &claims, &[]);

    let said_before = cluster.sequence;
    (cluster.boot, cluster.sequence) = (2, 0);
    cluster.demand(vec![], &[], &[]);
    assert_eq!(cluster.demands.gateways(cluster.now), 1);
    assert_eq!(cluster.plan(PLENTY).actions, [], "they wait for it");
    cluster.demand(vec![wants("fn-a", 1, 2)], &claims[..1], &[]);
    assert_eq!(created(&cluster.plan(PLENTY)), [""; 0], "two are enough");

    // What the other said last comes late.
    (cluster.boot, cluster.sequence) = (1, said_before);
    cluster.demand(vec![wants("fn-a", 1, 9)], &[], &[&pods[0]]);
    assert_eq!(cluster.plan(PLENTY).actions, []);

    (cluster.boot, cluster.sequence) = (2, 2);
    cluster.now += secs(30);
    cluster.demand(vec![wants("fn-a", 1, 1)], &claims[..1], &[]);
    let surplus = cluster.plan(PLENTY);
    assert_eq!(deleted(&surplus), [(pods[1].as_str(), Why::Surplus)]);
}

#[test]
fn a_failed_pod_is_replaced_at_once_and_a_crash_loop_is_slowed_and_told() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 1, 10))], vec![]);
    cluster.settle();
    let owner = Owner::Function("fn-a".to_owned());
    let trouble = Trouble {
        reason: ConditionReason::OutOfMemory,
        message: "more memory".to_owned(),
    };
    for (failure, made) in [(1, 1), (2, 0)] {
        cluster.now += secs(5);
        for pod in cluster.pods.values_mut() {
            pod.phase = Phase::Ended;
        }
        let plan = cluster.plan(PLENTY);
        assert_eq!(deleted(&plan)[0].1, Why::Failed);
        cluster
            .setbacks
            .ended(owner.clone(), trouble.clone(), secs(0), cluster.now);
        let deletes = plan
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Delete { .. }));
        for action in deletes.cloned().collect::<Vec<_>>() {
            cluster.apply_one(&action);
        }
        let plan = cluster.plan(PLENTY);
        assert_eq!(created(&plan).len(), made, "failure {failure}");
        assert_eq!(plan.problems.len(), 1 - made, "failure {failure}");
        cluster.apply(&plan);
    }
    let stated = cluster.desired.functions["fn-a"].stated.clone().unwrap();
    assert_eq!(
        (stated.ready, stated.reason.as_str()),
        (false, "OutOfMemory")
    );
    assert_eq!(
        cluster.plan(PLENTY).next_wakeup,
        Some(cluster.now + secs(1))
    );

    // Whoever waits gets the next one, of which nobody knows yet.
    cluster.now += secs(1);
    cluster.demand(vec![wants("fn-a", 1, 1)], &[], &[]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a"]);
    assert_eq!(plan.problems, []);
    cluster.settle();
    let stated = cluster.desired.functions["fn-a"].stated.clone().unwrap();
    assert_eq!(stated.reason, "OutOfMemory", "until it is shown to be over");
}

#[test]
fn a_pod_of_which_a_container_ended_stays_while_its_gateway_holds_it() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 1, 10))], vec![]);
    cluster.settle();
    let pod = cluster.of("fn-a")[0].clone();
    cluster.demand(vec![wants("fn-a", 1, 1)], &[(&pod, "fn-a")], &[]);
    cluster.pods.get_mut(&pod).unwrap().phase = Phase::Broken;
    assert_eq!(deleted(&cluster.plan(PLENTY)), []);
    assert_eq!(
        created(&cluster.plan(PLENTY)),
        ["fn-a"],
        "it is replaced meanwhile"
    );
    cluster.demand(vec![wants("fn-a", 1, 1)], &[], &[&pod]);
    assert_eq!(
        deleted(&cluster.plan(PLENTY)),
        [(pod.as_str(), Why::Failed)]
    );
}

#[test]
fn pods_of_a_lost_node_count_only_for_whoever_has_them() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 2))], vec![("python", pool(2))]);
    cluster.demand(vec![wants("fn-a", 1, 2)], &[], &[]);
    cluster.settle();
    cluster.all_run();
    let pods = cluster.of("fn-a");
    let claims = [(pods[0].as_str(), "fn-a")];
    cluster.demand(vec![wants("fn-a", 1, 2)], &claims, &[]);
    assert_eq!(cluster.plan(PLENTY).actions, []);
    let waits = cluster.of("python")[0].clone();
    for pod in [&pods[0], &pods[1], &waits] {
        cluster.pods.get_mut(pod).unwrap().phase = Phase::Unheard;
    }
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a", "python"], "the idle ones");
    assert_eq!(deleted(&plan), []);
    assert_eq!(plan.fills["python"].waiting, 1);
    cluster.apply(&plan);
    cluster.settle();

    // The node is back, and with it more than are wanted.
    cluster.all_run();
    cluster.now += secs(10);
    cluster.demand(vec![wants("fn-a", 1, 2)], &claims, &[]);
    let plan = cluster.plan(PLENTY);
    let gone: Vec<&str> = deleted(&plan).iter().map(|(pod, _)| *pod).collect();
    assert_eq!(gone, [pods[1].as_str(), waits.as_str()]);
}

#[test]
fn where_only_memory_or_settings_differ_an_idle_pod_is_adapted() {
    for (case, memory_mb, all) in [
        ("grows", 256, vec![Resizing::Grow, Resizing::Tell]),
        ("shrinks", 64, vec![Resizing::Shrink]),
        ("relabelled", 128, vec![Resizing::Tell]),
    ] {
        let mut cluster = Cluster::new(vec![("fn-a", function(1, 2, 10))], vec![]);
        cluster.settle();
        cluster.all_run();
        let held = cluster.of("fn-a")[0].clone();
        cluster.demand(vec![], &[(&held, "fn-a")], &[]);
        let function = cluster.desired.functions.get_mut("fn-a").unwrap();
        function.settings = "2".to_owned();
        function.memory_mb = memory_mb;
        let idle = cluster.of("fn-a")[1].clone();
        let uid = cluster.pods[&idle].uid.clone();
        for (n, how) in all.into_iter().enumerate() {
            let plan = cluster.plan(PLENTY);
            assert!(
                plan.actions.contains(&Action::Resize {
                    pod: idle.clone(),
                    uid: uid.clone(),
                    memory_mb,
                    settings: Some("2".to_owned()),
                    how,
                }),
                "{case}: {plan:?}"
            );
            assert_eq!(deleted(&plan), [], "{case}");
            let made = vec!["fn-a"; usize::from(n == 0)];
            assert_eq!(created(&plan), made, "{case}: for the one that is held");
            cluster.apply(&plan);
        }
        cluster.settle();
        let adapted = &cluster.pods[&idle];
        assert_eq!(adapted.settings.as_deref(), Some("2"), "{case}");
        assert_eq!(adapted.memory_mb, memory_mb, "{case}");
    }
}

#[test]
fn a_pod_that_gets_no_more_memory_is_told_of_as_it_is_and_replaced_after_a_while() {
    let mut cluster = Cluster::new(
        vec![("fn-a", function(1, 1, 10))],
        vec![("python", pool(1))],
    );
    cluster.settle();
    cluster.all_run();
    cluster.full = true;
    let old = [cluster.of("fn-a"), cluster.of("python")].concat();
    let function = cluster.desired.functions.get_mut("fn-a").unwrap();
    (function.settings, function.memory_mb) = ("2".to_owned(), 256);
    cluster.desired.pools.get_mut("python").unwrap().memory_mb = 256;
    let plan = cluster.plan(PLENTY);
    assert_eq!(plan.actions.len(), 2, "{plan:?}");
    cluster.apply(&plan);

    let until = cluster.now + GROWN_WITHIN;
    let plan = cluster.plan(PLENTY);
    assert_eq!(plan.actions, [], "they wait");
    assert_eq!(plan.next_wakeup, Some(until));
    for pod in &old {
        assert_eq!(cluster.pods[pod].memory_mb, 128);
    }
    cluster.now = until;
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a", "python"]);
    assert_eq!(deleted(&plan), [(old[0].as_str(), Why::Outdated)]);
    cluster.apply(&plan);
    assert_eq!(
        cluster.plan(PLENTY).actions,
        [],
        "it serves smaller bundles"
    );
    cluster.all_run();
    assert_eq!(
        deleted(&cluster.plan(PLENTY)),
        [(old[1].as_str(), Why::Outdated)]
    );
}

#[test]
fn another_template_replaces_idle_pods_only_once_new_ones_run() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(3))]);
    cluster.settle();
    cluster.all_run();
    let old = cluster.of("python");
    cluster.desired.pools.get_mut("python").unwrap().template = "t2".to_owned();
    cluster.now += secs(60);
    let plan = cluster.plan(PLENTY);
    assert_eq!((created(&plan).len(), deleted(&plan).len()), (3, 0));
    cluster.apply(&plan);
    assert_eq!(
        cluster.plan(PLENTY).actions,
        [],
        "none of the new ones runs yet"
    );
    let new = cluster
        .of("python")
        .into_iter()
        .find(|pod| !old.contains(pod));
    cluster.pods.get_mut(&new.unwrap()).unwrap().phase = Phase::Running;
    assert_eq!(deleted(&cluster.plan(PLENTY)).len(), 1);
    cluster.all_run();
    cluster.settle();
    assert!(cluster.of("python").iter().all(|pod| !old.contains(pod)));
}

#[test]
fn a_pool_of_another_template_and_memory_keeps_old_pods_until_new_ones_run() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(3))]);
    cluster.settle();
    cluster.all_run();
    let old = cluster.of("python");
    let pool = cluster.desired.pools.get_mut("python").unwrap();
    (pool.template, pool.memory_mb) = ("t2".to_owned(), 256);
    cluster.now += secs(60);
    for left in [3, 2, 1, 0] {
        cluster.settle();
        let now = cluster.of("python");
        assert_eq!(now.iter().filter(|pod| old.contains(pod)).count(), left);
        let new = now.into_iter().find(|pod| {
            let pod = &cluster.pods[pod];
            pod.memory_mb == 256 && pod.phase == Phase::Pending
        });
        if let Some(new) = new {
            cluster.pods.get_mut(&new).unwrap().phase = Phase::Running;
        }
    }
    assert_eq!(cluster.of("python").len(), 3);
}

#[test]
fn a_function_that_may_have_no_more_pods_has_old_ones_replaced_one_by_one() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 2, 2))], vec![]);
    cluster.settle();
    cluster.all_run();
    let old = cluster.of("fn-a");
    cluster.desired.functions.get_mut("fn-a").unwrap().template = "t2".to_owned();
    for left in [1, 0] {
        let plan = cluster.plan(PLENTY);
        assert_eq!((deleted(&plan).len(), created(&plan).len()), (1, 0));
        cluster.settle();
        let now = cluster.of("fn-a");
        assert_eq!(now.len(), 2, "a new one for it");
        assert_eq!(now.iter().filter(|pod| old.contains(pod)).count(), left);
        cluster.all_run();
    }
    cluster.settle();

    // The new ones do not stay up: the last old one does.
    cluster.desired.functions.get_mut("fn-a").unwrap().template = "t3".to_owned();
    cluster.settle();
    let owner = Owner::Function("fn-a".to_owned());
    let trouble = Trouble {
        reason: ConditionReason::FunctionExited,
        message: "it exited".to_owned(),
    };
    for _ in 0..5 {
        cluster.now += secs(2);
        for pod in cluster.pods.values_mut() {
            if pod.template == "t3" {
                pod.phase = Phase::Ended;
                cluster
                    .setbacks
                    .ended(owner.clone(), trouble.clone(), secs(1), cluster.now);
            }
        }
        cluster.settle();
        let stays = |pod: &&Pod| pod.template == "t2";
        assert_eq!(cluster.pods.values().filter(stays).count(), 1);
    }
}

#[test]
fn a_changed_function_starts_anew_and_its_idle_old_pods_go() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 2, 10))], vec![]);
    cluster.settle();
    cluster.all_run();
    let old = cluster.of("fn-a");
    cluster.demand(vec![], &[(&old[0], "fn-a")], &[]);
    let function = cluster.desired.functions.get_mut("fn-a").unwrap();
    function.settings = "2".to_owned();
    function.template = "t2".to_owned();
    let plan = cluster.plan(PLENTY);
    assert_eq!(deleted(&plan), [(old[1].as_str(), Why::Outdated)]);
    assert_eq!(created(&plan).len(), 2);
}

#[test]
fn a_pool_is_refilled_by_what_was_taken_and_what_waits() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(2))]);
    cluster.settle();
    cluster.all_run();
    let pods = cluster.of("python");
    assert_eq!(pods.len(), 2);
    cluster.demand(vec![wants_bundle("fn-b", 5, 128)], &[], &[]);
    cluster.settle();
    assert_eq!(cluster.of("python").len(), 7, "two to keep, five that wait");
    cluster.all_run();
    let taken: Vec<_> = cluster.of("python")[..5].to_vec();
    let claims: Vec<_> = taken.iter().map(|pod| (pod.as_str(), "fn-b")).collect();
    cluster.demand(vec![wants_bundle("fn-b", 5, 128)], &claims, &[]);
    let plan = cluster.plan(PLENTY);
    assert_eq!((created(&plan).len(), deleted(&plan).len()), (0, 0));
    cluster.settle();
    assert!(
        taken
            .iter()
            .all(|pod| cluster.pods[pod].function.as_deref() == Some("fn-b"))
    );

    cluster.demand(vec![], &[], &[&taken[0]]);
    assert_eq!(
        deleted(&cluster.plan(PLENTY)),
        [(taken[0].as_str(), Why::Finished)]
    );
    cluster.now += secs(10);
    cluster.demand(vec![], &[], &[&taken[0]]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(deleted(&plan).len(), 5, "used pods that nobody took over");
    assert_eq!(created(&plan), Vec::<&str>::new());
}

/// Takes every pod that waits in the pool, as calls of one function would.
fn take_all(cluster: &mut Cluster) {
    let pods = cluster.of("python");
    let running = pods
        .iter()
        .filter(|pod| cluster.pods[*pod].phase == Phase::Running);
    let claims: Vec<(String, &str)> = running.map(|pod| (pod.clone(), "fn-b")).collect();
    let claims: Vec<(&str, &str)> = claims.iter().map(|(pod, to)| (pod.as_str(), *to)).collect();
    cluster.demand(vec![wants_bundle("fn-b", 1, 128)], &claims, &[]);
}

fn stated(plan: &Plan) -> Vec<String> {
    let states = plan.actions.iter().filter_map(|action| match action {
        Action::State { owner, condition } => {
            Some(format!("{} {}", owner.name(), condition.reason()))
        }
        _ => None,
    });
    states.collect()
}

#[test]
fn a_pool_in_which_no_pod_waits_says_so_after_a_while_and_until_one_does() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(2))]);
    cluster.settle();
    cluster.all_run();
    let plan = cluster.plan(PLENTY);
    let fill = |waiting, empty_since| Fill {
        size: 2,
        waiting,
        empty_since,
    };
    assert_eq!(plan.fills["python"], fill(2, None));

    // Its pods are taken as they come, sooner or later: that is what it is for.
    for _ in 0..20 {
        take_all(&mut cluster);
        cluster.settle();
        let plan = cluster.plan(PLENTY);
        assert_eq!(plan.fills["python"], fill(0, Some(cluster.now)));
        cluster.now += secs(29);
        assert_eq!(stated(&cluster.plan(PLENTY)), [""; 0]);
        cluster.all_run();
        cluster.settle();
    }

    take_all(&mut cluster);
    cluster.settle();
    let since = cluster.now;
    cluster.now += secs(29);
    take_all(&mut cluster);
    assert_eq!(cluster.plan(PLENTY).next_wakeup, Some(since + secs(30)));
    cluster.now = since + secs(30);
    let plan = cluster.plan(PLENTY);
    assert_eq!(stated(&plan), ["python PoolEmpty"]);
    assert_eq!(plan.problems, [], "who waits is served as pods come");
    cluster.apply(&plan);
    // Another leader has not watched it so long, and believes the first.
    cluster.fills.clear();
    cluster.settle();

    cluster.all_run();
    let plan = cluster.plan(PLENTY);
    assert_eq!(stated(&plan), ["python Serving"]);
    cluster.apply(&plan);
    cluster.settle();
}

#[test]
fn a_pool_that_is_to_have_no_pods_is_not_empty() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(0))]);
    cluster.settle();
    cluster.now += secs(300);
    let plan = cluster.plan(PLENTY);
    assert_eq!((stated(&plan), plan.next_wakeup), (vec![], None));
}

#[test]
fn a_bundle_too_large_for_any_pool_gets_a_pod_of_its_own() {
    let mut cluster = Cluster::new(
        vec![],
        vec![
            ("python", pool(1)),
            (
                "python-large",
                Pool {
                    memory_mb: 512,
                    ..pool(1)
                },
            ),
        ],
    );
    cluster.settle();
    cluster.demand(
        vec![wants_bundle("fn-m", 3, 256), wants_bundle("fn-l", 2, 1_024)],
        &[],
        &[],
    );
    let plan = cluster.plan(PLENTY);
    let dedicated = |action: &&Action| matches!(action, Action::Create { memory_mb: 1_024, dedicated: Some(function), .. } if function == "fn-l");
    assert_eq!(plan.actions.iter().filter(dedicated).count(), 2);
    assert_eq!(created(&plan), ["python-large"; 5], "three of them shared");
    cluster.settle();
    cluster.demand(vec![], &[], &[]);
    cluster.now += secs(9);
    cluster.demand(vec![], &[], &[]);
    cluster.now += secs(1);
    cluster.settle();
    assert_eq!(cluster.of("python-large").len(), 1);
}

#[test]
fn a_bundle_without_a_pool_is_told_what_is_missing() {
    let bundle = Function {
        image: false,
        ..function(1, 0, 10)
    };
    let mut cluster = Cluster::new(vec![("fn-b", bundle)], vec![]);
    cluster.demand(vec![wants_bundle("fn-b", 1, 128)], &[], &[]);
    let plan = cluster.plan(PLENTY);
    assert_eq!(plan.problems[0].reason, "NoWarmPool");
    assert!(plan.problems[0].message.contains("python3.11"));
    cluster.settle();
    assert!(
        !cluster.desired.functions["fn-b"]
            .stated
            .as_ref()
            .unwrap()
            .ready
    );
}

#[test]
fn a_function_that_does_not_come_up_in_its_pod_is_stated_and_still_tried() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 0, 10))], vec![]);
    let tell = |cluster: &mut Cluster, settings: &str, failed: bool| {
        cluster.sequence += 1;
        let failure = StartFailure {
            function: "fn-a".to_owned(),
            settings: settings.to_owned(),
            message: "it never listened".to_owned(),
        };
        let demand = Demand {
            gateway: "g".to_owned(),
            boot: 1,
            sequence: cluster.sequence,
            functions: vec![wants("fn-a", 1, 1)],
            claims: Vec::new(),
            finished: Vec::new(),
            failures: failed.then_some(failure).into_iter().collect(),
        };
        cluster.demands.take(demand, cluster.now);
    };
    tell(&mut cluster, "1", true);
    let plan = cluster.plan(PLENTY);
    assert_eq!(created(&plan), ["fn-a"]);
    assert!(plan.problems.is_empty(), "or no start would be tried again");
    cluster.settle();
    let stated = |cluster: &Cluster| cluster.desired.functions["fn-a"].stated.clone().unwrap();
    assert_eq!(stated(&cluster).reason, "StartFailed");

    cluster.all_run();
    tell(&mut cluster, "0", true);
    cluster.settle();
    assert!(stated(&cluster).ready, "what it was before does not count");
    tell(&mut cluster, "1", true);
    cluster.settle();
    assert!(!stated(&cluster).ready);
    // Not in turns, where some starts fail and some do not.
    for (seconds, failed) in [(30, false), (30, true), (30, false), (29, false)] {
        cluster.now += secs(seconds);
        tell(&mut cluster, "1", failed);
        assert_eq!(cluster.plan(PLENTY).actions, []);
    }
    cluster.now += secs(1);
    tell(&mut cluster, "1", false);
    cluster.settle();
    assert!(stated(&cluster).ready);
}

#[test]
fn a_bundle_that_waits_is_told_what_keeps_its_pool_from_filling() {
    let bundle = Function {
        image: false,
        ..function(1, 0, 10)
    };
    let mut cluster = Cluster::new(vec![("fn-b", bundle)], vec![("python", pool(1))]);
    cluster.settle();
    for pod in cluster.pods.values_mut() {
        pod.trouble = Some(Trouble {
            reason: ConditionReason::ImagePullFailed,
            message: "no such image".to_owned(),
        });
    }
    assert_eq!(cluster.plan(PLENTY).problems, [], "nobody waits");
    cluster.demand(vec![wants_bundle("fn-b", 1, 128)], &[], &[]);
    let problems = cluster.plan(PLENTY).problems;
    assert_eq!(problems[0].reason, "PoolEmpty");
    assert_eq!(
        problems[0].message,
        "its pool python does not fill, ImagePullFailed: no such image"
    );

    let owner = Owner::Pool("python".to_owned());
    let exited = Trouble {
        reason: ConditionReason::FunctionExited,
        message: "it exited".to_owned(),
    };
    for _ in 0..2 {
        cluster.now += secs(2);
        let (owner, exited) = (owner.clone(), exited.clone());
        cluster.setbacks.ended(owner, exited, secs(1), cluster.now);
    }
    let plan = cluster.plan(PLENTY);
    assert_eq!(stated(&plan), ["python FunctionExited", "fn-b PoolEmpty"]);
    assert_eq!(plan.problems.len(), 1);
    assert_eq!(plan.problems[0].reason, "PoolEmpty", "it is not fn-b's");
}

#[test]
fn what_keeps_a_functions_own_pod_from_coming_is_told_to_that_function_alone() {
    let bundle = Function {
        image: false,
        ..function(1, 0, 10)
    };
    let functions = vec![("fn-b", bundle.clone()), ("fn-l", bundle)];
    let mut cluster = Cluster::new(functions, vec![("python", pool(1))]);
    cluster.settle();
    cluster.all_run();
    let wanted = vec![wants_bundle("fn-b", 1, 128), wants_bundle("fn-l", 1, 1_024)];
    cluster.demand(wanted.clone(), &[], &[]);
    cluster.settle();
    let of_its_own = |pod: &&mut Pod| pod.dedicated.is_some();
    let own = cluster.pods.values_mut().find(of_its_own).unwrap();
    own.trouble = Some(Trouble {
        reason: ConditionReason::PodUnschedulable,
        message: "0/3 nodes".to_owned(),
    });
    assert_eq!(cluster.plan(PLENTY).problems, [], "a scheduler at work");

    let none_made = Budget {
        creates: 0,
        ..PLENTY
    };
    let told = |cluster: &Cluster| {
        let problems = cluster.plan(none_made).problems.into_iter();
        let told = problems.map(|problem| format!("{} {}", problem.function, problem.reason));
        told.collect::<Vec<_>>()
    };
    cluster.now += secs(5);
    cluster.demand(wanted.clone(), &[], &[]);
    assert_eq!(told(&cluster), ["fn-l PodUnschedulable"], "others wait");
    let plan = cluster.plan(PLENTY);
    assert_eq!(stated(&plan), ["fn-l PodUnschedulable"]);
    assert_eq!(
        plan.problems[0].message,
        "no pod of its pool python comes that is large enough for it, PodUnschedulable: 0/3 nodes"
    );
    cluster.pods.retain(|_, pod| pod.dedicated.is_some());
    assert_eq!(told(&cluster), ["fn-l PodUnschedulable"], "no other waits");

    cluster.settle();
    for pod in cluster.pods.values_mut() {
        pod.trouble = pod.dedicated.is_none().then(|| Trouble {
            reason: ConditionReason::ImagePullFailed,
            message: "no such image".to_owned(),
        });
    }
    assert_eq!(told(&cluster), ["fn-b PoolEmpty"], "the large one comes");
    cluster.pods.retain(|_, pod| pod.dedicated.is_none());
    let both = ["fn-b PoolEmpty", "fn-l PoolEmpty"];
    assert_eq!(told(&cluster), both, "none can be made");
}

#[test]
fn a_pod_that_stands_still_is_no_problem_while_others_come() {
    let bundle = Function {
        image: false,
        ..function(1, 0, 10)
    };
    for owner in ["fn-a", "python"] {
        let mut cluster = Cluster::new(
            vec![("fn-a", function(1, 0, 10)), ("fn-b", bundle.clone())],
            vec![("python", pool(3))],
        );
        let wanted = vec![wants("fn-a", 1, 3), wants_bundle("fn-b", 1, 128)];
        cluster.demand(wanted.clone(), &[], &[]);
        cluster.settle();
        let stuck = cluster.of(owner);
        let trouble = Trouble {
            reason: ConditionReason::ImagePullFailed,
            message: "no such image".to_owned(),
        };
        for (n, pod) in stuck.iter().enumerate() {
            assert_eq!(cluster.plan(PLENTY).problems, [], "{owner}, {n} stuck");
            cluster.pods.get_mut(pod).unwrap().trouble = Some(trouble.clone());
        }
        assert_eq!(cluster.plan(PLENTY).problems.len(), 1, "{owner}");
        let last = stuck.last().unwrap();
        let pod = cluster.pods.get_mut(last).unwrap();
        (pod.phase, pod.trouble) = (Phase::Running, None);
        assert_eq!(cluster.plan(PLENTY).problems, [], "{owner}, one waits");
        let (function, wanted) = match owner {
            "fn-a" => ("fn-a", wanted),
            _ => ("fn-b", vec![wants_bundle("fn-b", 2, 128)]),
        };
        cluster.demand(wanted, &[(last, function)], &[]);
        assert_eq!(
            cluster.plan(PLENTY).problems.len(),
            1,
            "{owner}, it is taken"
        );
    }
}

#[test]
fn pods_whose_owner_is_not_known_are_left_to_kubernetes() {
    let mut cluster = Cluster::new(
        vec![("fn-a", function(1, 3, 10))],
        vec![("python", pool(2))],
    );
    cluster.settle();
    cluster.all_run();
    let whole = std::mem::take(&mut cluster.desired);
    cluster.now += secs(100);
    cluster.demand(vec![], &[], &[]);
    assert_eq!(cluster.plan(PLENTY).actions, [], "of neither kind");
    cluster.desired = whole;
    for (name, uid) in [("fn-a", "another"), ("python", "another")] {
        if let Some(function) = cluster.desired.functions.get_mut(name) {
            function.uid = uid.to_owned();
        } else {
            cluster.desired.pools.get_mut(name).unwrap().uid = uid.to_owned();
        }
    }
    let plan = cluster.plan(PLENTY);
    assert_eq!(deleted(&plan), [], "another by that name");
    assert_eq!(created(&plan).len(), 5, "and it has none yet");
}

#[test]
fn what_is_short_is_shared_and_starts_from_nothing_come_first() {
    let names = ["fn-a", "fn-b", "fn-c"];
    let mut cluster = Cluster::new(
        names.map(|name| (name, function(1, 0, 100))).to_vec(),
        vec![("python", pool(5))],
    );
    cluster.demand(vec![wants("fn-a", 1, 1)], &[], &[]);
    cluster.apply(&cluster.plan(Budget {
        creates: 1,
        ..PLENTY
    }));
    cluster.demand(names.map(|name| wants(name, 1, 50)).to_vec(), &[], &[]);
    let plan = cluster.plan(Budget {
        creates: 6,
        ..PLENTY
    });
    assert!(plan.short);
    let want = ["fn-b", "fn-c", "fn-b", "fn-c", "fn-b", "fn-c"];
    assert_eq!(created(&plan), want);
}

#[test]
fn troubles_of_pods_are_stated_once_and_until_something_runs() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 1, 10))], vec![]);
    cluster.settle();
    let pod = cluster.of("fn-a")[0].clone();
    let trouble = |message: &str| {
        Some(Trouble {
            reason: ConditionReason::ImagePullFailed,
            message: message.to_owned(),
        })
    };
    cluster.pods.get_mut(&pod).unwrap().trouble = trouble("not found");
    let plan = cluster.plan(PLENTY);
    assert_eq!(plan.actions.len(), 1, "{plan:?}");
    cluster.apply(&plan);
    cluster.pods.get_mut(&pod).unwrap().trouble = trouble("back-off");
    assert_eq!(cluster.plan(PLENTY).actions, [], "the same in other words");
    cluster.desired.functions.get_mut("fn-a").unwrap().min = 0;
    cluster.now += secs(20);
    cluster.settle();
    assert!(
        !cluster.desired.functions["fn-a"]
            .stated
            .as_ref()
            .unwrap()
            .ready,
        "nothing shows that it is over"
    );
    cluster.desired.functions.get_mut("fn-a").unwrap().min = 1;
    cluster.settle();
    cluster.all_run();
    cluster.settle();
    assert!(
        cluster.desired.functions["fn-a"]
            .stated
            .as_ref()
            .unwrap()
            .ready
    );
}

#[test]
fn a_pod_that_no_node_takes_or_that_never_runs_is_a_trouble_after_a_while() {
    let mut cluster = Cluster::new(vec![("fn-a", function(1, 1, 10))], vec![]);
    cluster.settle();
    assert_eq!(cluster.plan(PLENTY).next_wakeup, Some(secs(1_060)));
    cluster.now += secs(60);
    assert_eq!(cluster.plan(PLENTY).problems[0].reason, "PodNeverReady");
    cluster.now -= secs(60);
    let pod = cluster.pods.values_mut().next().unwrap();
    pod.trouble = Some(Trouble {
        reason: ConditionReason::PodUnschedulable,
        message: "0/3 nodes".to_owned(),
    });
    assert_eq!(cluster.plan(PLENTY).problems, []);
    assert_eq!(cluster.plan(PLENTY).next_wakeup, Some(secs(1_005)));
    cluster.now += secs(5);
    assert_eq!(cluster.plan(PLENTY).problems[0].reason, "PodUnschedulable");
}

/// What happens to a cluster between two plans.
#[derive(Debug, Clone)]
enum Happening {
    Runs(usize),
    Unheard(usize),
    Ends(usize),
    Breaks(usize),
    Demand(u8, u8, u32),
    Claim(usize),
    Release(usize),
    Finish(usize),
    Changed(u8, u8),
    Scaled(u8, u32, u32),
    Template(u8),
    Removed(u8),
    Silence,
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0usize..64).prop_map(Happening::Runs),
        1 => (0usize..64).prop_map(Happening::Unheard),
        1 => (0usize..64).prop_map(Happening::Ends),
        1 => (0usize..64).prop_map(Happening::Breaks),
        4 => (0u8..4, 1u8..3, 0u32..8).prop_map(|(f, s, n)| Happening::Demand(f, s, n)),
        4 => (0usize..64).prop_map(Happening::Claim),
        2 => (0usize..64).prop_map(Happening::Release),
        2 => (0usize..64).prop_map(Happening::Finish),
        1 => (0u8..4, 1u8..3).prop_map(|(f, s)| Happening::Changed(f, s)),
        1 => (0u8..4, 0u32..4, 1u32..8).prop_map(|(f, min, max)| Happening::Scaled(f, min, max)),
        1 => (0u8..4).prop_map(Happening::Template),
        1 => (0u8..4).prop_map(Happening::Removed),
        1 => Just(Happening::Silence),
        2 => (0u64..20).prop_map(Happening::Wait),
    ]
}

/// A cluster and the gateway that uses it.
struct World {
    cluster: Cluster,
    wanted: BTreeMap<(u8, u8), u32>,
    claims: BTreeMap<String, String>,
    finished: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        let names = ["fn-0", "fn-1", "fn-2", "fn-3"];
        let mut functions = names.map(|name| (name, function(1, 0, 6))).to_vec();
        // The last is a bundle.
        functions[3].1.image = false;
        let mut cluster = Cluster::new(functions, vec![("python", pool(3))]);
        // Somebody else's.
        let stranger = Pod {
            uid: "stranger".to_owned(),
            owner: Owner::Function("fn-0".to_owned()),
            owner_uid: "u".to_owned(),
            settings: Some("1".to_owned()),
            function: None,
            dedicated: None,
            memory_mb: 128,
            asked_mb: 128,
            growing_since: None,
            template: "t".to_owned(),
            phase: Phase::Running,
            trouble: None,
            deleting: true,
            busy: false,
            seen: secs(0),
            ran_from: None,
        };
        cluster.pods.insert("going".to_owned(), stranger);
        Self {
            cluster,
            wanted: BTreeMap::new(),
            claims: BTreeMap::new(),
            finished: BTreeSet::new(),
        }
    }

    fn pick(&self, n: usize, of: impl Fn(&str, &Pod) -> bool) -> Option<String> {
        let pods: Vec<&String> = self
            .cluster
            .pods
            .iter()
            .filter(|(name, pod)| !pod.deleting && of(name, pod))
            .map(|(name, _)| name)
            .collect();
        (!pods.is_empty()).then(|| pods[n % pods.len()].clone())
    }

    fn tell(&mut self) {
        let functions = self.wanted.iter().map(|((function, settings), wanted)| {
            let name = format!("fn-{function}");
            match function {
                3 => wants_bundle(&name, *wanted, 128),
                _ => wants(&name, (*settings).into(), *wanted),
            }
        });
        let functions = functions.collect();
        let claims: Vec<_> = self
            .claims
            .iter()
            .map(|(pod, function)| (pod.as_str(), function.as_str()))
            .collect();
        let finished: Vec<_> = self.finished.iter().map(String::as_str).collect();
        self.cluster.demand(functions, &claims, &finished);
    }

    fn happen(&mut self, happening: &Happening) {
        let mut tell = true;
        match *happening {
            Happening::Runs(n) => {
                let stands = [Phase::Pending, Phase::Unheard];
                if let Some(pod) = self.pick(n, |_, pod| stands.contains(&pod.phase)) {
                    self.cluster.pods.get_mut(&pod).unwrap().phase = Phase::Running;
                }
            }
            Happening::Unheard(n) => {
                if let Some(pod) = self.pick(n, |_, pod| pod.phase == Phase::Running) {
                    self.cluster.pods.get_mut(&pod).unwrap().phase = Phase::Unheard;
                }
            }
            Happening::Ends(n) | Happening::Breaks(n) => {
                if let Some(pod) = self.pick(n, |_, _| true) {
                    let phase = match happening {
                        Happening::Ends(_) => Phase::Ended,
                        _ => Phase::Broken,
                    };
                    self.cluster.pods.get_mut(&pod).unwrap().phase = phase;
                }
            }
            Happening::Demand(function, settings, count) => {
                self.wanted.insert((function, settings), count);
            }
            Happening::Claim(n) => {
                let free = |name: &str, pod: &Pod| {
                    pod.phase == Phase::Running
                        && pod.function.is_none()
                        && !self.claims.contains_key(name)
                        && !self.finished.contains(name)
                };
                if let Some(pod) = self.pick(n, free) {
                    let function = match &self.cluster.pods[&pod].owner {
                        Owner::Function(function) => function.clone(),
                        Owner::Pool(_) => "fn-3".to_owned(),
                    };
                    self.claims.insert(pod, function);
                }
            }
            Happening::Release(n) | Happening::Finish(n) => {
                let held: Vec<String> = self.claims.keys().cloned().collect();
                if !held.is_empty() {
                    let pod = held[n % held.len()].clone();
                    self.claims.remove(&pod);
                    if matches!(happening, Happening::Finish(_)) {
                        self.finished.insert(pod);
                    }
                }
            }
            Happening::Changed(function, settings) => {
                if let Some(function) = self.function(function) {
                    function.settings = settings.to_string();
                    function.memory_mb = 128 * u64::from(settings);
                }
            }
            Happening::Scaled(function, min, max) => {
                if let Some(function) = self.function(function) {
                    (function.min, function.max) = (min.min(max), max);
                }
            }
            Happening::Template(function) => {
                if let Some(function) = self.function(function) {
                    function.template.push('x');
                }
            }
            Happening::Removed(function) => {
                self.cluster
                    .desired
                    .functions
                    .remove(&format!("fn-{function}"));
            }
            Happening::Silence => {
                tell = false;
                self.cluster.now += secs(45);
                self.claims.clear();
            }
            Happening::Wait(seconds) => self.cluster.now += secs(seconds),
        }
        if tell {
            self.tell();
        }
        let pods = &self.cluster.pods;
        self.cluster
            .demands
            .forget(self.cluster.now, |pod| pods.contains_key(pod));
        self.finished.retain(|pod| pods.contains_key(pod));
        self.claims.retain(|pod, _| pods.contains_key(pod));
    }

    fn function(&mut self, n: u8) -> Option<&mut Function> {
        self.cluster.desired.functions.get_mut(&format!("fn-{n}"))
    }

    /// What must be true of every plan.
    fn check(&self, plan: &Plan, budget: Budget) {
        let (mut creates, mut deletes, mut patches) = (0, 0, 0);
        let mut made = HashMap::<&str, usize>::new();
        let mut gone = BTreeSet::new();
        for action in &plan.actions {
            match action {
                Action::Create { owner, .. } => {
                    creates += 1;
                    *made.entry(owner.name()).or_default() += 1;
                }
                Action::Delete { pod, .. } => {
                    deletes += 1;
                    let held = &self.cluster.pods[pod];
                    assert!(gone.insert(pod), "{pod} is deleted twice");
                    assert!(!held.deleting, "{pod} goes already");
                    assert!(
                        !self.claims.contains_key(pod) || held.phase == Phase::Ended,
                        "{pod} is held"
                    );
                }
                _ => patches += 1,
            }
        }
        assert!(
            creates <= budget.creates && deletes <= budget.deletes && patches <= budget.patches
        );
        for (name, function) in &self.cluster.desired.functions {
            let made = made.get(name.as_str()).copied().unwrap_or_default();
            let live = self.cluster.of(name).into_iter();
            let live = live
                .filter(|pod| {
                    let pod = &self.cluster.pods[pod];
                    matches!(pod.phase, Phase::Pending | Phase::Running)
                })
                .count();
            assert!(
                made == 0 || live + made <= function.max as usize,
                "{name}: {live} and {made} of {}",
                function.max
            );
        }
    }
}

proptest! {
    #[test]
    fn plans_keep_their_promises_whatever_happens(
        happenings in prop::collection::vec((happening(), 0u8..8, 0usize..8), 1..60),
        budget in (0u32..6, 0u32..6, 0u32..6),
    ) {
        let budget = Budget { creates: budget.0, deletes: budget.1, patches: budget.2 };
        let mut world = World::new();
        for (happening, lost, order) in happenings {
            world.happen(&happening);
            let plan = world.cluster.plan(budget);
            world.check(&plan, budget);
            world.cluster.fills = plan.fills;
            // Some writes get nowhere, and they are done in any order.
            let mut actions = plan.actions;
            let turn = order.min(actions.len());
            actions.rotate_left(turn);
            for (n, action) in actions.iter().enumerate() {
                if n % 8 != usize::from(lost) {
                    world.cluster.apply_one(action);
                }
            }
        }
        // Left in peace, it comes to what is wanted and stays there.
        world.claims.clear();
        for _ in 0..10 {
            world.cluster.now += secs(15);
            world.tell();
            for _ in 0..3 {
                let plan = world.cluster.plan(PLENTY);
                world.check(&plan, PLENTY);
                world.cluster.apply(&plan);
            }
            world.cluster.all_run();
            let pods = &world.cluster.pods;
            world.finished.retain(|pod| pods.contains_key(pod));
        }
        world.tell();
        world.cluster.settle();
        for (name, function) in &world.cluster.desired.functions {
            let n: u8 = name[3..].parse().unwrap();
            let settings: u8 = function.settings.parse().unwrap();
            let wanted = world.wanted.get(&(n, settings)).copied().unwrap_or_default();
            let want = match function.image {
                true => wanted.max(function.min).min(function.max) as usize,
                false => 0,
            };
            let pods = world.cluster.of(name);
            prop_assert_eq!(pods.len(), want, "{}", name);
            for pod in pods {
                let template = &world.cluster.pods[&pod].template;
                prop_assert_eq!(template, &function.template, "{}", name);
            }
        }
        prop_assert!(world.cluster.of("python").len() >= 3);
        prop_assert!(world.cluster.pods.contains_key("going"));
    }

    #[test]
    fn without_functions_or_pools_to_be_sure_of_nothing_is_deleted(pods in 1usize..40) {
        let mut cluster = Cluster::new(vec![("fn-a", function(1, 40, 40))], vec![]);
        cluster.settle();
        cluster.desired = Desired::default();
        cluster.surplus_from = None;
        cluster.now += secs(pods as u64);
        prop_assert_eq!(cluster.plan(PLENTY).actions, vec![]);
    }
}

/// Planning is on the way of every cold start, so it is held to a deadline, in the dev profile:
/// a tenth of a second for 5,000 functions and 20,000 pods, with threefold slack.
#[test]
fn a_full_plan_of_a_large_region_is_quick() {
    let mut cluster = Cluster::new(vec![], vec![("python", pool(100))]);
    for n in 0..5_000 {
        let name = format!("fn-{n:026}");
        cluster.desired.functions.insert(name, function(1, 0, 10));
    }
    let wanted = (0..5_000).map(|n| wants(&format!("fn-{n:026}"), 1, 4));
    cluster.demand(wanted.clone().collect(), &[], &[]);
    cluster.settle();
    cluster.all_run();
    assert_eq!(cluster.pods.len(), 20_100);
    let names: Vec<(String, String)> = cluster
        .pods
        .iter()
        .filter(|(_, pod)| matches!(pod.owner, Owner::Function(_)))
        .map(|(name, pod)| (name.clone(), pod.owner.name().to_owned()))
        .collect();
    let claims: Vec<_> = names
        .iter()
        .map(|(pod, function)| (pod.as_str(), function.as_str()))
        .collect();
    cluster.demand(wanted.collect(), &claims, &[]);
    // The quickest of some: others use the machine as well.
    let quickest = (0..5).map(|_| {
        let began = std::time::Instant::now();
        assert_eq!(cluster.plan(PLENTY).actions, []);
        began.elapsed()
    });
    let took = quickest.min().unwrap();
    assert!(took < Duration::from_millis(300), "{took:?}");
    println!("{took:?}");
}
