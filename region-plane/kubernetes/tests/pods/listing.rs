//! What the API server says of all pods at once, right or wrong.

use std::time::Duration;

use chaos_tests_kube_api::{Calls, Effect, Verb, WatchEnd};
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use region_plane_kubernetes::KubernetesRuntime;
use region_plane_runtime::{Instance as _, Runtime as _};

use crate::cluster::{Cluster, GATEWAY, image_spec};
use crate::log::Said;
use crate::{soon, text};

const LOOK_EVERY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn lists_that_break_off_or_lack_pods_take_no_instance_away() {
    let said = Said::from_now_on();
    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let _pods = (
        cluster.image_pod("a", "fn-f", 1).await,
        cluster.image_pod("b", "fn-f", 1).await,
    );
    let one = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let two = soon("a start", driver.start(image_spec("F", 1)))
        .await
        .unwrap();
    let watches = Calls::all().user(GATEWAY).verbs(&[Verb::Watch]);
    // What is said of a list that was taken, and how often a list is asked for.
    for (effect, taken, asked) in [
        // Each is the last only once there is another.
        (Effect::BreakList { after: 1 }, None, 2),
        (Effect::EmptyList, Some("pods listed pods=0"), 1),
    ] {
        let fault = cluster.api.faults().begin(watches.clone(), effect.clone());
        let before = cluster.api.counts();
        cluster.api.compact();
        cluster.api.end_watches(&watches, WatchEnd::Expired);
        let asked_anew = async {
            // Polls, since nothing announces what the driver asks.
            while cluster.api.counts().since(&before).of(&watches).requests < asked {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        soon("another list", asked_anew).await;
        if let Some(taken) = taken {
            said.until(taken, 1).await;
        }
        for instance in [&one, &two] {
            assert_eq!(instance.exited().now_or_never(), None, "{effect:?}");
        }
        cluster.api.faults().end(fault);
    }
    assert_eq!(text(&one, "").await, "ping");
    assert_eq!(text(&two, "").await, "ping");
    cluster.assert_no_writes();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_streams_no_lists_is_asked_for_pages() {
    let cluster = Cluster::start().await;
    let inner = cluster.api.client(GATEWAY);
    let older = tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("sendInitialEvents=true") {
                // As a server answers whose feature gate WatchList is off.
                let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"}"#;
                return Response::builder()
                    .status(StatusCode::UNPROCESSABLE_ENTITY)
                    .body(Body::from(status.as_bytes().to_vec()))
                    .map_err(kube::Error::HttpError);
            }
            inner.send(request).await
        }
    });
    let client = Client::new(older, "tradewind");
    let driver = KubernetesRuntime::new(cluster.settings("one"), client);
    let _early = cluster.image_pod("a", "fn-f", 1).await;
    soon("the pods", driver.handle().pods_known()).await;
    let _late = cluster.image_pod("b", "fn-f", 1).await;
    for _ in 0..2 {
        let instance = soon("a start", driver.start(image_spec("F", 1)))
            .await
            .unwrap();
        assert_eq!(text(&instance, "").await, "ping");
    }
    cluster.assert_no_writes();
}
