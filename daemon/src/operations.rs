//! `/healthz`, `/readyz` and `/metrics`, the same on every daemon.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Routes for operators: `/healthz` answers 200 while the process lives, `/readyz` 200 or 503 with
/// the reason that `ready` gives, `/metrics` everything recorded through the `metrics` crate.
pub fn operations(ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Router {
    recorder();
    let ready = Arc::new(ready);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(move || {
                let ready = Arc::clone(&ready);
                async move {
                    match ready() {
                        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
                    }
                }
            }),
        )
        .route(
            "/metrics",
            get(async || {
                (
                    [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
                    recorder().render(),
                )
            }),
        )
}

/// Upper bounds for every histogram in seconds: from a warm call's overhead to a cold start.
const SECONDS_BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The process's recorder, installed when first asked for. Metrics recorded before that are lost,
/// so [`crate::main`] asks first.
pub(crate) fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .expect("there are buckets")
            .install_recorder()
            .expect("no other recorder is installed in a daemon")
    })
}

/// Folds samples into buckets now and then, so that a process nobody scrapes does not grow.
pub(crate) async fn upkeep() {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        recorder().run_upkeep();
    }
}
