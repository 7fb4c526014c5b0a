//! Watches that end in ways that only a network knows.

use std::time::{Duration, Instant};

use chaos_tests_kube_api::{Calls, Verb, WatchEnd};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use region_plane_resources::Function;

use crate::region::{Region, eventually};

const OPERATOR: &str = "operator-a";

/// Threefold what the operator lets a watch say nothing.
const NOTICED_WITHIN: Duration = Duration::from_secs(3 * 65);

/// As when something between the two forgets a flow: requests go on, on other connections, so the
/// operator leads, and hears nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_falls_silent_is_begun_again_within_minutes() {
    let region = Region::start(1, 1).await;
    let operator = region.operator(Region::settings(OPERATOR));
    region.converged(&operator).await;
    let functions: Api<Function> = Api::default_namespaced(region.api.client("tests"));
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    let before = functions.list(&ListParams::default()).await.unwrap().items;
    let name = before[0].name_any();

    let watches = Calls::all().user(OPERATOR).verbs(&[Verb::Watch]);
    region.api.end_watches(&watches, WatchEnd::Silent);
    let start = Instant::now();
    // Its pod goes with it: the operator has to hear of both to make both again.
    functions
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    eventually("the function and its pod are made again", async || {
        assert!(start.elapsed() < NOTICED_WITHIN, "it hears nothing");
        let function = functions.get_opt(&name).await.unwrap()?;
        let all = pods.list(&ListParams::default()).await.unwrap().items;
        let again = function.uid() != before[0].uid()
            && all.len() == 1
            && all[0].owner_references()[0].uid == function.uid()?;
        again.then_some(())
    })
    .await;
    region.converged(&operator).await;
    println!(
        "measured: silent watches begun again after {:.1?}",
        start.elapsed()
    );
    operator.stop().await;
}
