//! What a gateway leaves behind is found by the next.

use region_plane_runtime::Runtime as _;

use crate::cluster::{Bundle, Cluster};
use crate::{soon, text};

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

    let driver = cluster.driver_with(|settings| settings.gateway = "two".to_owned());
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

    let driver = cluster.driver_with(|settings| settings.gateway = "two".to_owned());
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    assert_eq!(text(&instance, "pid").await, pid, "it is the same process");
}
