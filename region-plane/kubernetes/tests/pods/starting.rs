//! From a start to an instance.

use region_plane_resources::demand::{Code, Sizing};
use region_plane_runtime::{Instance as _, NotRunnable, Runtime as _, StartError};

use crate::cluster::{A_WHILE, Bundle, Cluster, image_spec, nowhere};
use crate::log::{REFUSED, Said};
use crate::operator::Operator;
use crate::{soon, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_starts_in_a_pod_of_a_pool_and_ends_with_it() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.pool_pod("a", 128).await;
    let bundle = Bundle::new();

    let instance = soon("a start", driver.start(bundle.spec("F", 7)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "").await, "ping");
    let environment = text(&instance, "environment").await;
    for line in ["LEVEL=fn", "FN_FN_NAME=cart", "FN_MEMORY=64"] {
        assert!(environment.lines().any(|has| has == line), "{environment}");
    }

    let told = operator
        .told("the claim", |demand| !demand.claims.is_empty())
        .await;
    assert_eq!(told.gateway, "one");
    assert_eq!(told.claims[0].pod, "a");
    assert_eq!(told.functions.len(), 1);
    assert_eq!(told.functions[0].function, "fn-f");
    assert_eq!(told.functions[0].settings, "0000000000000007");
    assert_eq!(told.functions[0].wanted, 1);
    let code = Code::Bundle {
        runtime: "executable".to_owned(),
        memory_mb: 64,
    };
    assert_eq!(told.functions[0].code, code);

    soon("a stop", instance.stop()).await;
    soon("the end", instance.exited()).await;
    let told = operator
        .told("the end", |demand| !demand.finished.is_empty())
        .await;
    assert_eq!(told.finished, ["a"]);
    assert_eq!((told.claims, told.functions), (vec![], vec![]));
    // The operator takes it away, and it is told no longer.
    cluster.delete("a").await;
    operator
        .told("nothing", |demand| demand.finished.is_empty())
        .await;
    soon("the shutdown", driver.shutdown()).await;
    cluster.assert_no_writes();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_starts_once_the_operator_has_made_a_pod() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    operator.report(3, &[], 5);
    let driver = cluster.driver_with(|settings| {
        // The first does not answer, as one that is gone.
        settings.operators = vec![nowhere(), operator.url()];
    });
    let making = async {
        let told = operator
            .told("the start", |demand| !demand.functions.is_empty())
            .await;
        assert_eq!(told.functions[0].code, Code::Image);
        assert_eq!(told.functions[0].wanted, 1);
        cluster.image_pod("other", "fn-f", 2).await.kill();
        cluster.image_pod("mine", "fn-f", 1).await
    };
    let (instance, _pod) = tokio::join!(driver.start(image_spec("F", 1)), making);
    let instance = instance.unwrap();
    assert_eq!(text(&instance, "").await, "ping");
    let mut sizing = driver.handle().sizing();
    soon("a sizing", sizing.wait_for(|sizing| sizing.nodes == 5))
        .await
        .unwrap();
    cluster.assert_no_writes();
}

#[tokio::test]
async fn a_pod_at_the_address_of_one_that_is_gone_does_not_run_that_ones_function() {
    let said = Said::from_now_on();
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let b = cluster.image_pod("b", "fn-b", 1).await;
    cluster.image_pod_before(&b, "a", "fn-a", 1).await;
    let mut of_a = Box::pin(driver.start(image_spec("A", 1)));
    tokio::select! {
        started = &mut of_a => panic!("it is b's: {:?}", started.err()),
        () = said.until(REFUSED, 1) => {}
    }
    let instance = soon("its own start", driver.start(image_spec("B", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "").await, "ping");
    let _a = cluster.image_pod("a-2", "fn-a", 1).await;
    let instance = soon("a pod of a's", of_a).await.unwrap();
    assert_eq!(text(&instance, "").await, "ping");
    let told = operator
        .told("both", |demand| demand.claims.len() == 2)
        .await;
    assert_eq!(told.finished, [""; 0], "a itself was not asked");
}

#[tokio::test]
async fn two_drivers_never_have_one_pod() {
    let said = Said::from_now_on();
    let cluster = Cluster::start().await;
    let (one, two) = (
        cluster.driver(),
        cluster.driver_with(|settings| settings.gateway.name = "two".to_owned()),
    );
    let _pod = cluster.pool_pod("a", 128).await;
    for driver in [&one, &two] {
        soon("the pods", driver.handle().pods_known()).await;
    }
    let bundle = Bundle::new();
    let mut first = Box::pin(one.start(bundle.spec("F", 1)));
    let mut second = Box::pin(two.start(bundle.spec("F", 1)));
    let (winner, loser) = soon("a start", async {
        tokio::select! {
            won = &mut first => (won, second),
            won = &mut second => (won, first),
        }
    })
    .await;
    let winner = winner.unwrap();
    let pid = text(&winner, "pid").await;
    let mut loser = loser;
    tokio::select! {
        started = &mut loser => panic!("one has it: {:?}", started.err()),
        () = said.until(REFUSED, 1) => {}
    }
    // What the winner gives back is hot for the other.
    drop(winner);
    let instance = soon("the other start", loser).await.unwrap();
    assert_eq!(text(&instance, "pid").await, pid);
    cluster.assert_no_writes();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_holds_another_bundle_is_not_taken_twice_for_it() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let _hot = cluster.pool_pod("a", 128).await;
    let bundle = Bundle::new();
    driver.handle().hand_over();
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    let pid = text(&instance, "pid").await;
    drop(instance);

    // Other settings of the same function need another pod; the same ones find it hot.
    let _empty = cluster.pool_pod("b", 128).await;
    let other = soon("another start", driver.start(bundle.spec("F", 2)))
        .await
        .unwrap();
    let again = soon("a start again", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_ne!(text(&other, "pid").await, pid);
    assert_eq!(text(&again, "pid").await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_does_not_come_up_fails_its_start_and_its_pod_is_finished() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.pool_pod("a", 128).await;
    let script = "for n in 1 2 3 4; do echo line $n >&2; done; echo said; exit 1";
    let bundle = Bundle::with_entrypoint(&["/bin/sh", "-c", script]);
    let failed = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap_err();
    assert!(matches!(failed, StartError::Failed { .. }), "{failed:?}");
    let told = operator
        .told("the end", |demand| !demand.finished.is_empty())
        .await;
    assert_eq!(told.finished, ["a"]);
    let message = &told.failures[0].message;
    assert!(message.starts_with("it exited"), "{message}");
    assert!(
        message.ends_with("it printed: line 2 / line 3 / line 4"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_exits_fails_its_start_as_soon_as_the_cluster_knows() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.image_pod_that("a", "fn-f", 1, "exit").await;
    let starting = Box::pin(driver.start(image_spec("F", 1)));
    let ending = async {
        operator
            .told("the claim", |demand| !demand.claims.is_empty())
            .await;
        let ended = chaos_tests_kube_api::cluster::Ending::Exited(1);
        cluster
            .kubelets
            .end_container("tradewind", "a", "function", ended)
            .unwrap();
    };
    let (failed, ()) = soon("a start", async { tokio::join!(starting, ending) }).await;
    let failed = failed.unwrap_err();
    assert!(matches!(failed, StartError::Failed { .. }), "{failed:?}");
    let told = operator.told("the failure", |demand| !demand.failures.is_empty());
    let failures = told.await.failures;
    assert_eq!(failures[0].function, "fn-f");
    assert!(failures[0].message.contains("exit"), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_refused_costs_no_pod() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.pool_pod("a", 128).await;
    let spoilt = Bundle::new();
    spoilt.spoil();
    let lost = Bundle::new();
    lost.lose();
    let foreign = Bundle::built_for("plan9/mips", &["/function/data"]);
    for (function, bundle, want, of_the_region) in [
        ("S", &spoilt, "BundleRefused", true),
        ("L", &lost, "BundleUnreadable", true),
        ("F", &foreign, "BundleInvalid", false),
    ] {
        let failed = soon("a start", driver.start(bundle.spec(function, 1)))
            .await
            .unwrap_err();
        assert_eq!(failed.is_of_the_region(), of_the_region);
        let StartError::NotRunnable(NotRunnable::Cluster { reason, .. }) = &failed else {
            panic!("{failed:?}");
        };
        assert_eq!(reason, want);
    }
    let instance = soon("a start", driver.start(Bundle::new().spec("G", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "").await, "ping");
    let told = operator
        .told("the claim", |demand| {
            demand.claims.iter().any(|claim| claim.function == "fn-g")
        })
        .await;
    assert_eq!(told.finished, [""; 0]);
    // Of the others nobody who owns them could correct anything.
    assert_eq!(told.failures.len(), 1, "{:?}", told.failures);
    assert_eq!(told.failures[0].function, "fn-f");
    assert!(told.failures[0].message.contains("plan9/mips"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_may_take_as_long_to_listen_as_the_gateway_says() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let _pod = cluster.pool_pod("a", 128).await;
    // Longer than a runner waits that is not told.
    let bundle = Bundle::with_entrypoint(&["/bin/sh", "-c", &Bundle::after_a_sleep(6)]);
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "").await, "ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_leaves_its_pod_to_the_next() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.image_pod_that("a", "fn-f", 1, "never-ready").await;
    for _ in 0..2 {
        tokio::select! {
            started = driver.start(image_spec("F", 1)) => panic!("{:?}", started.err()),
            told = operator.told("the claim", |demand| !demand.claims.is_empty()) => {
                assert_eq!(told.claims[0].pod, "a");
            }
        }
        let told = operator
            .told("the end", |demand| demand.claims.is_empty())
            .await;
        assert_eq!(told.finished, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_gets_no_pod_has_no_place() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver_with(|settings| settings.pod_start_timeout = A_WHILE);
    let failed = soon("a failure", driver.start(image_spec("F", 1)))
        .await
        .unwrap_err();
    assert!(failed.is_of_the_region(), "{failed:?}");
    assert!(failed.to_string().starts_with("no pod came"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_knowing_the_pods_a_gateway_says_so() {
    let cluster = Cluster::start().await;
    cluster.api.begin_outage();
    let driver = cluster.driver();
    let failed = soon("a failure", driver.start(image_spec("F", 1)))
        .await
        .unwrap_err();
    assert!(failed.is_of_the_region(), "{failed:?}");
    assert!(!driver.handle().knows_pods());
    cluster.api.end_outage();
    soon("the pods", driver.handle().pods_known()).await;
    assert!(driver.handle().knows_pods());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_not_heard_leaves_no_sizing() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    operator.report(1, &[], 5);
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let mut sizing = driver.handle().sizing();
    let known = sizing.wait_for(|sizing| sizing.nodes == 5);
    soon("a sizing", known).await.unwrap();
    operator.set_reply(None);
    let forgotten = sizing.wait_for(|sizing| *sizing == Sizing::default());
    soon("its end", forgotten).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_fails_the_starts_that_wait_and_nothing_else() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pod = cluster.image_pod("a", "fn-f", 1).await;
    let serving = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    operator.report(1, &[("fn-f", "ImagePullFailed", "manifest unknown")], 1);
    let failed = soon("a failure", driver.start(image_spec("F", 1)))
        .await
        .unwrap_err();
    assert_eq!(failed.to_string(), "manifest unknown");
    assert!(!failed.is_of_the_region());
    // One whose pod was there and whose function did not come up says so as a start does.
    operator.report(1, &[("fn-f", "OutOfMemory", "it needs more")], 1);
    let failed = soon("a failure", driver.start(image_spec("F", 1)))
        .await
        .unwrap_err();
    assert!(matches!(failed, StartError::Failed { .. }), "{failed:?}");
    tokio::select! {
        started = driver.start(image_spec("G", 1)) => panic!("{:?}", started.err()),
        () = operator.answered_start("fn-g") => {}
    }
    assert_eq!(text(&serving, "").await, "ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_region_is_told_to_callers_by_its_reason_alone() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    for (reason, message) in [
        (
            "RunnerFailed",
            "its runner exited with 1. It printed: a secret",
        ),
        (
            "PoolEmpty",
            "its pool python does not fill, FunctionExited: its container exited with 1. It printed: a secret",
        ),
    ] {
        operator.report(1, &[("fn-f", reason, message)], 1);
        let failed = soon("a failure", driver.start(image_spec("F", 1)))
            .await
            .unwrap_err();
        assert!(failed.is_of_the_region(), "{failed:?}");
        let want = format!("no pod comes up for it ({reason})");
        assert_eq!(failed.to_string(), want);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_was_replaced_is_not_believed() {
    let cluster = Cluster::start().await;
    let (old, new) = (Operator::start().await, Operator::start().await);
    new.report(2, &[], 2);
    old.report(1, &[("fn-f", "QuotaExceeded", "of old")], 1);
    let driver = cluster.driver_with(|settings| settings.operators = vec![new.url(), old.url()]);
    let mut sizing = driver.handle().sizing();
    soon("a sizing", sizing.wait_for(|sizing| sizing.nodes == 2))
        .await
        .unwrap();
    // It leads no longer, as it says; the other has not noticed yet that it does not either.
    new.set_reply(None);
    tokio::select! {
        started = driver.start(image_spec("F", 1)) => panic!("{:?}", started.err()),
        () = old.answered_start("fn-f") => {}
    }
    assert_eq!(sizing.borrow().nodes, 2);
    cluster.assert_no_writes();
}
