//! Calls, and pods that go.

use region_plane_resources::demand::Demand;
use region_plane_runtime::{Breach, CallError, Instance as _, Runtime as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cluster::{A_WHILE, Bundle, Cluster, image_spec, nowhere};
use crate::operator::Operator;
use crate::{LONG, call, request, soon, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_call_is_told_as_on_one_machine() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver_with(|settings| settings.response_body_bytes_max = 4000);
    for (number, (behave, lost, want)) in [
        ("", false, "ok"),
        ("error", false, "function failed"),
        ("crash", true, "error receiving function response"),
        ("answer-bytes 4000", false, "ok"),
        (
            "answer-bytes 4001",
            true,
            "function response body too large",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let _pod = cluster.image_pod(&format!("p{number}"), "fn-f", 1).await;
        let instance = soon("a start", driver.start(image_spec("F", 1)))
            .await
            .unwrap();
        let answer = call(&instance, behave).await;
        let is_lost = answer.as_ref().is_err_and(CallError::instance_lost);
        let got = answer.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
        assert_eq!((got.as_str(), is_lost), (want, lost), "{behave}");
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_cut_off() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let _pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let deadline = Instant::now() + A_WHILE;
    let cut = soon("an end", instance.call(request("hang"), deadline)).await;
    assert!(matches!(cut, Err(CallError::TimedOut)), "{cut:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_killed_during_a_call_fails_it_and_is_gone() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let mut pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let killing = async {
        pod.has_call().await;
        pod.kill();
    };
    let calling = soon("the call's end", call(&instance, "hang"));
    let (broken, ()) = tokio::join!(calling, killing);
    assert!(
        matches!(broken, Err(CallError::Broken { .. })),
        "{broken:?}"
    );
    soon("the instance's end", instance.exited()).await;
    // Whoever had not heard yet knows that the function saw nothing of the next, unless that met the
    // runner's end.
    let unseen = call(&instance, "").await;
    assert!(
        matches!(
            unseen,
            Err(CallError::NotStarted { .. }
                | CallError::Broken {
                    source: Breach::Runner { .. }
                })
        ),
        "{unseen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_is_gone_with_its_runner_or_its_function() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let mut pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    pod.kill_runner();
    soon("the end", instance.exited()).await;

    let mut pod = cluster.pool_pod("b", 128).await;
    let bundle = Bundle::new();
    let instance = soon("a start", driver.start(bundle.spec("G", 1)))
        .await
        .unwrap();
    pod.kill_function();
    soon("the end", instance.exited()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_answers_its_call_and_takes_no_more() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let slow = async {
        let answer = call(&instance, "sleep-ms 600").await;
        String::from_utf8(answer.unwrap().body.to_vec()).unwrap()
    };
    let deleting = async {
        pod.has_call().await;
        cluster.delete("a").await;
        pod.terminate_runner();
        soon("the end", instance.exited()).await;
    };
    let (answer, ()) = tokio::join!(slow, deleting);
    assert_eq!(answer, "slept");
}

/// Longer than a silent runner is waited for, which one that is stopping is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_answers_its_call_however_long_its_grace_is() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let deleting = async {
        pod.has_call().await;
        cluster.delete("a").await;
        pod.terminate_runner();
        soon("the end", instance.exited()).await;
    };
    let (answer, ()) = tokio::join!(call(&instance, "sleep-ms 13000"), deleting);
    assert_eq!(answer.unwrap().body, "slept");
}

/// hyper's connection task ends when it meets the runner's GOAWAY, which is not the end of the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_a_stopping_pod_is_answered_whatever_else_is_asked_of_it() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let asking = async {
        pod.has_call().await;
        pod.terminate_runner();
        soon("the end", instance.exited()).await;
        // Refused by the runner, and then, since its connection takes no more, by the driver. One that
        // crosses the runner's GOAWAY may have been seen, for all the driver knows.
        loop {
            match call(&instance, "").await {
                Err(CallError::NotStarted {
                    source: Breach::Reported { message },
                }) if message.contains("not claimed") => {
                    // A gateway asks now and then. A flood of requests would cross the GOAWAY each time.
                    tokio::time::sleep(A_WHILE / 15).await;
                }
                Err(
                    CallError::NotStarted { .. }
                    | CallError::Broken {
                        source: Breach::Runner { .. },
                    },
                ) => return,
                answer => panic!("{answer:?}"),
            }
        }
    };
    let (answer, ()) = tokio::join!(call(&instance, "sleep-ms 4000"), asking);
    assert_eq!(answer.unwrap().body, "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_a_stopping_pod_whose_node_is_gone_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let vanishing = async {
        pod.has_call().await;
        pod.terminate_runner();
        soon("the end", instance.exited()).await;
        pod.freeze_runner();
    };
    let deadline = Instant::now() + 4 * LONG;
    let calling = soon("an end", instance.call(request("hang"), deadline));
    let (answer, ()) = tokio::join!(calling, vanishing);
    assert!(
        matches!(answer, Err(CallError::Broken { .. })),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_takes_longer_answers_gets_them() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver_with(|settings| settings.response_body_bytes_max = 8_000_000);
    let _pod = cluster.image_pod("a", "fn-f", 1).await;
    let instance = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let answer = call(&instance, "answer-bytes 8000000").await.unwrap();
    assert_eq!(answer.body.len(), 8_000_000);
    let error = call(&instance, "answer-bytes 8000001").await.unwrap_err();
    assert!(matches!(error, CallError::BodyTooLarge), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_taken_away_under_load_fails_no_call_it_began() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    for round in 0..8_u32 {
        let pod = cluster.image_pod(&format!("p{round}"), "fn-f", 1).await;
        let instance = soon("a start", driver.start(image_spec("F", 1)))
            .await
            .unwrap();
        let answered = watch::Sender::new(0);
        let calling = async {
            loop {
                match call(&instance, "").await {
                    Ok(_) => answered.send_modify(|answered| *answered += 1),
                    Err(CallError::NotStarted { .. }) => return,
                    Err(error) => panic!("after {} calls: {error:?}", *answered.borrow()),
                }
            }
        };
        let ending = async {
            let mut answered = answered.subscribe();
            let some = answered.wait_for(|answered| *answered > 3 * round);
            some.await.unwrap();
            pod.terminate_runner();
            cluster.delete(&format!("p{round}")).await;
        };
        soon("the end", async { tokio::join!(calling, ending) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_and_pool_pods_serve_while_the_operator_is_away() {
    let cluster = Cluster::start().await;
    let driver = cluster.driver_with(|settings| {
        settings.operators = vec![nowhere()];
    });
    let _pods = (
        cluster.pool_pod("a", 128).await,
        cluster.image_pod("b", "fn-g", 1).await,
    );
    let bundle = Bundle::new();
    let pooled = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    let own = soon("a start", driver.start(image_spec("G", 1)))
        .await
        .unwrap();
    assert_eq!(text(&pooled, "").await, "ping");
    assert_eq!(text(&own, "").await, "ping");
    cluster.assert_no_writes();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_starts_go_on_while_the_api_server_is_away() {
    let cluster = Cluster::start().await;
    let operator = Operator::start().await;
    let driver = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let _pods = (
        cluster.pool_pod("a", 128).await,
        cluster.pool_pod("b", 128).await,
    );
    let bundle = Bundle::new();
    let first = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    cluster.api.begin_outage();
    assert_eq!(text(&first, "").await, "ping");
    let second = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_eq!(text(&second, "").await, "ping");
    let mut third = Box::pin(driver.start(bundle.spec("F", 1)));
    let wanted = |demand: &Demand| demand.functions.iter().any(|function| function.wanted == 3);
    tokio::select! {
        started = &mut third => panic!("without a pod: {:?}", started.err()),
        _ = operator.told("the third start", wanted) => {}
    }
    // It has forgotten what the driver saw last, so the driver has to ask for everything.
    cluster.api.end_outage();
    cluster.api.compact();
    let _third_pod = cluster.pool_pod("c", 128).await;
    let third = timeout(2 * LONG, third).await.unwrap().unwrap();
    for instance in [&first, &second, &third] {
        assert_eq!(text(instance, "").await, "ping");
    }
    cluster.assert_no_writes();
}
