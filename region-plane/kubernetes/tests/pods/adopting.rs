//! What a gateway leaves behind is found by the next.

use region_plane_runtime::{CallError, CallResponse, Instance as _, Runtime as _};

use crate::cluster::{Bundle, Cluster, image_spec};
use crate::operator::Operator;
use crate::{call, soon, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_gateway_that_died_are_adopted_hot() {
    let cluster = Cluster::start().await;
    let _pod = cluster.pool_pod("a", 128).await;
    let bundle = Bundle::new();

    // Its tasks and connections end without a word, as those of a process that is killed.
    let first = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let driver = {
        let _inside = first.enter();
        cluster.driver()
    };
    let spec = bundle.spec("F", 1);
    let (pid, driver, instance) = first
        .spawn(async move {
            let instance = soon("a start", driver.start(spec)).await.unwrap();
            (text(&instance, "pid").await, driver, instance)
        })
        .await
        .unwrap();
    first.shutdown_background();
    drop((driver, instance));

    let driver = cluster.driver_with(|settings| settings.gateway.name = "two".to_owned());
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "pid").await, pid, "it is the same process");
    cluster.assert_no_writes();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_replaced_hands_its_pods_over() {
    let cluster = Cluster::start().await;
    let _pod = cluster.pool_pod("a", 128).await;
    let bundle = Bundle::new();
    let driver = cluster.driver();
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    let pid = text(&instance, "pid").await;
    driver.handle().hand_over();
    drop(instance);
    soon("the shutdown", driver.shutdown()).await;

    let driver = cluster.driver_with(|settings| settings.gateway.name = "two".to_owned());
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "pid").await, pid, "it is the same process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_started_again_has_its_pods_from_one_that_is_only_slow() {
    let cluster = Cluster::start().await;
    let pods = [
        cluster.pool_pod("a", 128).await,
        cluster.image_pod("b", "fn-g", 1).await,
    ];
    let bundle = Bundle::new();
    let spec = |function: &str| match function {
        "F" => bundle.spec("F", 1),
        other => image_spec(other, 1),
    };
    let operator = Operator::start().await;
    let before = cluster.driver_with(|settings| settings.operators = vec![operator.url()]);
    let after = cluster.driver_with(|settings| settings.gateway.boot += 1);
    for (function, pod) in ["F", "G"].into_iter().zip(&pods) {
        let old = soon("a start", before.start(spec(function))).await.unwrap();
        let process = |answer: CallResponse| String::from_utf8(answer.body.to_vec()).unwrap();
        let pid = text(&old, "pid").await;
        // Begun before the other gateway is there; it is answered, and nothing comes between.
        let slow = async { call(&old, "sleep-ms 600").await.map(process) };
        let taking = async {
            pod.has_call().await;
            let new = soon("a start", after.start(spec(function))).await.unwrap();
            assert_eq!(pod.calls().await, (false, 2), "one call at a time");
            new
        };
        let (answer, new) = tokio::join!(slow, taking);
        assert_eq!(answer.unwrap(), "slept");
        assert_eq!(text(&new, "pid").await, pid, "it is the same process");

        soon("the end of what was", old.exited()).await;
        let late = call(&old, "").await;
        assert!(
            matches!(late, Err(CallError::NotStarted { .. })),
            "{late:?}"
        );
        drop(old);
        let mut again = Box::pin(before.start(spec(function)));
        let wanted = format!("fn-{}", function.to_lowercase());
        tokio::select! {
            _ = &mut again => panic!("it is the other's"),
            () = operator.answered_start(&wanted) => {}
        }
        new.stop().await;
        tokio::select! {
            _ = &mut again => panic!("it is nobody's"),
            () = operator.answered_start(&wanted) => {}
        }
    }
    cluster.assert_no_writes();
}
