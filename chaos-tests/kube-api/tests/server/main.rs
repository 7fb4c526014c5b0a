//! The server, asked by a real client of kube.
//!
//! The cases that [`both`] lists run against a real API server too, where there is one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod both;
mod cluster;
mod faults;
mod objects;
mod watches;

use chaos_tests_kube_api::KubeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::Status;
use kube::{Api, CustomResourceExt as _};
use region_plane_resources::{Function, WarmPool};
use serde_json::json;

/// Who the tests' clients are, where it does not matter.
const USER: &str = "tests";

async fn server() -> KubeApi {
    let api = KubeApi::start().await.unwrap();
    for crd in [Function::crd(), WarmPool::crd()] {
        api.install(serde_json::to_value(crd).unwrap()).unwrap();
    }
    api
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": value } },
        "data": { "key": value },
    }))
    .unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "function",
                "image": "localhost/fn:1",
                "resources": { "requests": { "memory": "128Mi" }, "limits": { "memory": "128Mi" } },
            }, {
                "name": "runner",
                "image": "localhost/runner:1",
            }],
        },
    }))
    .unwrap()
}

/// The status that a request was refused with.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> Box<Status> {
    match result {
        Err(kube::Error::Api(status)) => status,
        other => panic!("not refused: {other:?}"),
    }
}

fn config_maps(api: &KubeApi) -> Api<ConfigMap> {
    Api::default_namespaced(api.client(USER))
}

fn pods(api: &KubeApi) -> Api<Pod> {
    Api::default_namespaced(api.client(USER))
}
