//! What the server refuses slows the operator or is said on the function; nothing is made twice.

use std::time::{Duration, Instant};

use chaos_tests_kube_api::cluster::{ClusterConfig, Ending};
use chaos_tests_kube_api::{Calls, Effect, Verb, WatchEnd};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use region_plane_resources::Function;

use crate::region::{Region, events_told, eventually, object_writes, patience};

const OPERATOR: &str = "operator-a";

fn creations() -> Calls {
    Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Create])
        .resource("pods")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_slows_creation_and_everything_is_made_all_the_same() {
    const ALLOWED: u32 = 20;
    let region = Region::start(40, 4).await;
    region.api.faults().begin(
        creations(),
        Effect::Limit {
            per_second: ALLOWED,
        },
    );
    let mut settings = Region::settings(OPERATOR);
    settings.creates_per_sec = 200;
    let operator = region.operator(settings);
    let start = Instant::now();
    let slowed = operator
        .until("it slows down", |status| {
            status.leading && (1.0..=100.0).contains(&status.creates_per_sec)
        })
        .await;
    region.converged(&operator).await;
    let tally = region.api.counts().of(&creations());
    println!(
        "measured: {} pods in {:.1?} at {ALLOWED} a second, {} refused, asked for {:.0} a second when first slowed, {:.0} at the end",
        tally.changed,
        start.elapsed(),
        tally.refused,
        slowed.creates_per_sec,
        operator.handle.status().creates_per_sec,
    );
    assert_eq!(tally.changed, region.pods() as u64, "none is made twice");
    assert!(
        tally.refused < tally.changed * 3,
        "{} refused for {} made: it does not slow down",
        tally.refused,
        tally.changed
    );
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creations_whose_answers_are_lost_are_not_repeated() {
    let region = Region::start(20, 2).await;
    region
        .api
        .faults()
        .next(10, creations(), Effect::DropAnswer);
    let operator = region.operator(Region::settings(OPERATOR));
    region.converged(&operator).await;
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    let all = pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), region.pods());
    let counts = region.api.counts();
    let made = counts.of(&creations());
    assert_eq!(made.changed, region.pods() as u64, "{counts}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_or_is_slow_is_written_to_once_all_the_same() {
    for effect in [
        Effect::InternalError,
        Effect::Unavailable,
        Effect::TooManyRequests {
            retry_after_secs: 1,
        },
        Effect::Delay(Duration::from_millis(500)),
        Effect::Drop,
    ] {
        let region = Region::start(5, 2).await;
        let fault = region.api.faults().next(10, creations(), effect.clone());
        let operator = region.operator(Region::settings(OPERATOR));
        region.converged(&operator).await;
        assert_eq!(region.api.faults().left(fault), 0, "{effect:?}");
        let made = region.api.counts().of(&creations()).changed;
        assert_eq!(made, region.pods() as u64, "{effect:?}");
        operator.stop().await;
    }
}

/// What a quota says to creations that come together, and what a deletion meets whose pod has just
/// been written: neither is a failure of anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_of_creations_and_deletions_are_tried_again_and_blame_nobody() {
    let region = Region::start(5, 2).await;
    let faults = region.api.faults();
    let of_creations = faults.next(10, creations(), Effect::Conflict);
    let operator = region.operator(Region::settings(OPERATOR));
    region.converged(&operator).await;
    assert_eq!(faults.left(of_creations), 0);
    let counts = region.api.counts();
    assert_eq!(counts.of(&creations()).changed, region.pods() as u64);

    let deletions = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Delete])
        .resource("pods");
    let of_deletions = faults.next(1, deletions, Effect::Conflict);
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    let ended = pods.list(&ListParams::default()).await.unwrap().items[0]
        .metadata
        .name
        .clone()
        .unwrap();
    for container in ["function", "runner"] {
        region
            .cluster
            .end_container("tradewind", &ended, container, Ending::Exited(0))
            .unwrap();
    }
    eventually("the pod that ended is gone", async || {
        pods.get_opt(&ended).await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(faults.left(of_deletions), 0);
    region.converged(&operator).await;
    let status = operator.handle.status();
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_without_their_definition_say_so_and_are_made_once_it_is_there() {
    let region = Region::undefined(3, 1, ClusterConfig::default()).await;
    let operator = region.operator(Region::settings(OPERATOR));
    let status = operator
        .until("it says what is missing", |status| {
            !status.problems.is_empty()
        })
        .await;
    let problem = &status.problems[0];
    assert_eq!(problem.reason, "ResourceDefinitionOutdated", "{problem:?}");
    assert!(problem.message.contains("install"), "{problem:?}");
    region.define();
    region.converged(&operator).await;
    let status = operator
        .until("nothing is wrong", |status| status.problems.is_empty())
        .await;
    assert_eq!(status.functions, 3);
    operator.stop().await;
}

/// The reason of a function's `Ready` condition once it is `False`.
async fn unready(region: &Region) -> (String, String) {
    let functions: Api<Function> = Api::default_namespaced(region.api.client("tests"));
    let found = async {
        loop {
            for function in functions.list(&ListParams::default()).await.unwrap() {
                let conditions = function.status.map(|status| status.conditions);
                let condition = conditions
                    .into_iter()
                    .flatten()
                    .find(|condition| condition.type_ == "Ready" && condition.status == "False");
                if let Some(condition) = condition {
                    return (condition.reason, condition.message);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience(), found)
        .await
        .expect("a condition says what is wrong")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_become_conditions_and_events_that_say_what_to_do() {
    for (case, want, advice) in [
        ("quota", "QuotaExceeded", "ResourceQuota"),
        ("rbac", "Forbidden", "Role"),
        ("image", "ImagePullFailed", "push it"),
    ] {
        let region = Region::start(1, 2).await;
        match case {
            "quota" => region.api.set_quota("pods", "tradewind", 1),
            "rbac" => drop(region.api.faults().begin(creations(), Effect::Forbidden)),
            _ => region.cluster.lose_image("localhost/tradewind/hello:1"),
        }
        let operator = region.operator(Region::settings(OPERATOR));
        let (reason, message) = unready(&region).await;
        assert_eq!(reason, want, "{case}");
        assert!(message.contains(advice), "{case}: {message}");
        let events: Api<Event> = Api::default_namespaced(region.api.client("tests"));
        let said = async {
            loop {
                let all = events.list(&ListParams::default()).await.unwrap();
                if all
                    .iter()
                    .any(|event| event.reason.as_deref() == Some(want))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience(), said).await.expect(case);
        if case == "image" {
            // The kubelet says ErrImagePull and ImagePullBackOff in turns; saying so once is enough.
            let counts = region.api.counts();
            region.quiet(OPERATOR, Duration::from_secs(1)).await;
            let since = region.api.counts().since(&counts);
            let told = events_told(&since, OPERATOR);
            assert!(told <= 2, "{since}");
            assert_eq!(object_writes(&since, OPERATOR), told, "{since}");
        }
        operator.stop().await;
    }
}

/// A server that forgets pods for a moment, as one restored from an old backup would: they are made
/// again, and what is too many goes when the others show, but no more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_a_list_forgot_cost_no_more_than_what_was_made_for_them() {
    let region = Region::start(20, 2).await;
    let mut settings = Region::settings(OPERATOR);
    settings.rules.surplus_after = Duration::from_millis(500);
    let mut operator = region.operator(settings);
    region.converged(&operator).await;
    // Without one nothing is too many.
    operator.idle_gateway();
    let counts = region.api.counts();
    let calls = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Watch])
        .resource("pods");
    region
        .api
        .faults()
        .next(1, calls.clone(), Effect::EmptyList);
    region.api.end_watches(&calls, WatchEnd::Expired);
    operator
        .until("it misses them", |status| {
            status.pods.running < region.pods()
        })
        .await;
    region.quiet(OPERATOR, Duration::from_secs(1)).await;
    region.api.end_watches(&calls, WatchEnd::Expired);
    region.quiet(OPERATOR, Duration::from_secs(2)).await;
    region.converged(&operator).await;
    let since = region.api.counts().since(&counts);
    let made = since.of(&creations()).changed;
    let deletions = Calls::all().user(OPERATOR).verbs(&[Verb::Delete]);
    let deleted = since.of(&deletions).changed;
    println!(
        "measured: {made} pods made for {} forgotten, {deleted} deleted",
        region.pods()
    );
    assert!(deleted <= made, "{since}");
    assert!(made <= region.pods() as u64, "{since}");
    operator.stop().await;
}
