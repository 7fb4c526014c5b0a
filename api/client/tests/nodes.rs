//! The client against real HTTP servers that misbehave as global nodes do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_client::{BundleSource, Client, Error};
use api_types::{Digest, Revision};
use api_wire::AppBody;
use api_wire::WatchLine;
use api_wire::planes::{BUNDLE_BYTES_MAX, LoadBody, Report};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use daemon::{HttpLimits, bind, serve};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Servers that end with the test.
#[derive(Default)]
struct Nodes {
    tasks: JoinSet<std::io::Result<()>>,
    urls: Vec<String>,
}

impl Nodes {
    fn add(&mut self, router: Router) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.urls.push(url(listener.local_addr().unwrap()));
        let limits = HttpLimits::default();
        let serving = serve(listener, router, CancellationToken::new(), limits);
        self.tasks.spawn(serving);
    }

    /// A port that nobody listens on.
    fn add_dead(&mut self) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.urls.push(url(listener.local_addr().unwrap()));
    }

    fn client(&self) -> Client {
        Client::new(&self.urls).unwrap()
    }
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}")
}

/// What a server saw, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn app(name: &str) -> AppBody {
    AppBody {
        name: Some(name.to_owned()),
        ..AppBody::default()
    }
}

fn revised(body: impl IntoResponse) -> Response {
    ([("tradewind-revision", "7")], body).into_response()
}

fn no_leader() -> Response {
    let body = Json(serde_json::json!({"message": "no leader"}));
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [("retry-after", "1")],
        body,
    )
        .into_response()
}

fn report() -> Report {
    Report {
        sequence: 1,
        started_at_ms: 0,
        load: LoadBody::default(),
        queued: 0,
        sizing: None,
        draining: false,
        revision: 0,
        hash: String::new(),
        bundles_missing: Vec::new(),
        following: None,
        functions: Vec::new(),
        knows: Vec::new(),
    }
}

fn region() -> api_types::RegionName {
    "fra".parse().unwrap()
}

#[tokio::test]
async fn the_next_node_is_asked_and_kept_when_one_is_gone() {
    let mut nodes = Nodes::default();
    nodes.add_dead();
    let leaderless = Seen::default();
    nodes.add(Router::new().fallback({
        let seen = leaderless.clone();
        async move || {
            seen.note("asked");
            no_leader()
        }
    }));
    nodes.add(Router::new().route("/v2/apps/{id}", get(async || Json(app("a")))));
    let client = nodes.client();
    let id = api_types::AppId::new("1");
    for _ in 0..3 {
        assert_eq!(client.app(&id).await.unwrap().name.as_deref(), Some("a"));
    }
    assert_eq!(
        leaderless.all().len(),
        1,
        "later calls stay with the good node"
    );
}

#[tokio::test]
async fn a_retried_write_keeps_its_idempotency_key() {
    let seen = Seen::default();
    let key = |headers: &HeaderMap| headers["idempotency-key"].to_str().unwrap().to_owned();
    let mut nodes = Nodes::default();
    let noted = seen.clone();
    nodes.add(Router::new().route(
        "/v2/apps",
        post(async move |headers: HeaderMap, Json(body): Json<AppBody>| {
            noted.note(key(&headers));
            // The first two tries fall into an election.
            if noted.all().len() < 3 {
                no_leader()
            } else {
                revised(Json(body))
            }
        }),
    ));
    let client = nodes.client();
    let written = client.create_app(&app("a")).await.unwrap();
    assert_eq!(written.object.name.as_deref(), Some("a"));
    assert_eq!(written.revision, Revision(7));
    client.create_app(&app("b")).await.unwrap();
    let keys = seen.all();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2], "{keys:?}");
    assert_ne!(keys[2], keys[3], "another write is another key");
}

#[tokio::test]
async fn a_refusal_is_not_retried_and_its_message_is_kept() {
    let seen = Seen::default();
    let noted = seen.clone();
    let mut nodes = Nodes::default();
    nodes.add(Router::new().fallback(async move || {
        noted.note("asked");
        (
            StatusCode::CONFLICT,
            Json(serde_json::json!({"message": "App already exists"})),
        )
    }));
    let error = nodes.client().create_app(&app("a")).await.unwrap_err();
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (Some(409), "App already exists")
    );
    assert_eq!(seen.all().len(), 1);
}

#[tokio::test]
async fn when_nobody_answers_every_node_is_named_with_its_reason() {
    let mut nodes = Nodes::default();
    nodes.add_dead();
    nodes.add(Router::new().fallback(async || no_leader()));
    let error = nodes
        .client()
        .report(&region(), &report())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Unreachable { .. }));
    for want in [
        &nodes.urls[0],
        "Connection refused",
        &nodes.urls[1],
        "503 no leader",
    ] {
        assert!(text.contains(want), "{want:?} not in {text}");
    }
}

#[tokio::test]
async fn a_report_leaves_a_hung_node_after_half_a_second() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().fallback(std::future::pending::<StatusCode>));
    let seen = Seen::default();
    let noted = seen.clone();
    nodes.add(Router::new().route(
        "/v1/regions/{name}/report",
        post(
            async move |Path(name): Path<String>, Json(report): Json<Report>| {
                noted.note(format!("{name} {}", report.sequence));
                StatusCode::NO_CONTENT
            },
        ),
    ));
    let started = Instant::now();
    nodes.client().report(&region(), &report()).await.unwrap();
    assert_eq!(seen.all(), ["fra 1"]);
    assert!(
        started.elapsed() < Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_unregistered_region_is_told_apart() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new());
    let error = nodes
        .client()
        .report(&region(), &report())
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[tokio::test]
async fn lists_are_read_to_their_last_page() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().route(
        "/v2/apps",
        get(async |Query(query): Query<Vec<(String, String)>>| {
            let cursor = query.iter().find(|(key, _)| key == "cursor");
            let page = match cursor.map(|(_, cursor)| cursor.as_str()) {
                None => serde_json::json!({"items": [app("a")], "next_cursor": "x&y"}),
                Some("x&y") => serde_json::json!({"items": [app("b")], "next_cursor": ""}),
                Some(_) => serde_json::json!({}),
            };
            Json(page)
        }),
    ));
    let apps = nodes.client().apps().await.unwrap();
    let names: Vec<_> = apps.into_iter().filter_map(|app| app.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn watch_lines_are_whole_however_they_arrive() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().route(
        "/v1/watch",
        get(async |request: Request| {
            let asked = request.uri().query();
            assert_eq!(asked, Some("from=0&cluster_id=demo&epoch=1"));
            let pieces = [
                "{\"type\":\"progress\",\"revision\":1}\n{\"type\":\"dele",
                "ted\",\"revision\":2,\"kind\":\"app\",\"id\":\"x\"}",
                "\n\n{\"type\":\"progress\",\"revision\":2}\n",
            ];
            let pieces = pieces.map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
            Body::from_stream(futures_util::stream::iter(pieces))
        }),
    ));
    let mut watch = nodes.client().watch("demo", 1, Revision(0)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), Revision(1));
    assert!(matches!(
        watch.next().await.unwrap(),
        WatchLine::Deleted { revision: 2, .. }
    ));
    assert!(matches!(
        watch.next().await.unwrap(),
        WatchLine::Progress { revision: 2 }
    ));
    let ended = watch.next().await.unwrap_err();
    assert!(matches!(ended, Error::Stream { .. }), "{ended}");
}

#[tokio::test]
async fn a_silent_watch_ends_and_the_next_one_asks_another_node() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().fallback(async || {
        Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>())
    }));
    nodes.add(Router::new().fallback(async || "{\"type\":\"progress\",\"revision\":9}\n"));
    let client = nodes.client();
    let error = client
        .watch("demo", 1, Revision(0))
        .await
        .unwrap()
        .next()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("silent"), "{error}");
    let mut watch = client.watch("demo", 1, Revision(0)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), Revision(9));
}

#[tokio::test]
async fn a_compacted_revision_says_where_to_take_a_snapshot() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().fallback(async || {
        let body = serde_json::json!({"message": "compacted", "snapshot_revision": 40});
        (StatusCode::GONE, Json(body))
    }));
    let error = nodes
        .client()
        .watch("demo", 1, Revision(3))
        .await
        .unwrap_err();
    let want = Revision(40);
    assert!(
        matches!(error, Error::Compacted { snapshot_revision, .. } if snapshot_revision == want),
        "{error:?}"
    );
}

#[tokio::test]
async fn no_newer_view_is_not_an_error() {
    let mut nodes = Nodes::default();
    nodes.add(Router::new().route(
        "/v1/views/steering",
        get(async |request: Request| match request.uri().query() {
            Some("after=5&epoch=1&wait_ms=20&who=dns-1") => StatusCode::NOT_MODIFIED,
            _ => StatusCode::BAD_REQUEST,
        }),
    ));
    let wait = Duration::from_millis(20);
    let view = nodes
        .client()
        .steering("dns-1", 1, Revision(5), wait)
        .await
        .unwrap();
    assert!(view.is_none());
}

#[tokio::test]
async fn a_snapshot_may_be_larger_than_any_other_answer() {
    const BYTES: usize = 70 << 20;
    let mut nodes = Nodes::default();
    nodes.add(Router::new().route(
        "/v1/snapshot",
        get(async || {
            let id = r#"{"cluster_id":"demo","epoch":1,"revision":7,"count":0,"sha256":""}"#;
            let body = "x".repeat(BYTES);
            format!(r#"{{"id":{id},"body":"{body}"}}"#)
        }),
    ));
    let envelope = nodes.client().snapshot().await.unwrap();
    assert_eq!((envelope.id.revision, envelope.body.len()), (7, BYTES));
}

#[tokio::test]
async fn bundles_go_up_from_a_file_on_every_try_and_come_down_whole() {
    let stored = Arc::new(Mutex::new(Bytes::new()));
    let tries = Seen::default();
    let mut nodes = Nodes::default();
    let (kept, given, noted) = (Arc::clone(&stored), Arc::clone(&stored), tries.clone());
    nodes.add(
        Router::new().route(
            "/v1/bundles/{hex}",
            put(async move |body: Bytes| {
                noted.note("put");
                if noted.all().len() == 1 {
                    return no_leader();
                }
                *kept.lock().unwrap() = body;
                revised("{}")
            })
            .get(async move |Path(hex): Path<String>| {
                if hex.starts_with("00") {
                    return StatusCode::NOT_FOUND.into_response();
                }
                given.lock().unwrap().clone().into_response()
            }),
        ),
    );
    let client = nodes.client();
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    std::fs::write(&path, &bytes).unwrap();
    let digest = Digest([1; 32]);
    let written = client
        .put_bundle(&digest, BundleSource::File(path))
        .await
        .unwrap();
    assert_eq!(written.revision, Revision(7));
    let down = client
        .get_bundle(&digest)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(down, bytes);
    assert!(client.has_bundle(&digest).await.unwrap());
    assert!(!client.has_bundle(&Digest([0; 32])).await.unwrap());
}

#[tokio::test]
async fn a_bundle_over_the_limit_is_not_sent() {
    let mut nodes = Nodes::default();
    nodes.add_dead();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(BUNDLE_BYTES_MAX + 1).unwrap();
    let source = BundleSource::File(path.clone());
    let error = nodes
        .client()
        .put_bundle(&Digest([0; 32]), source)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let missing = BundleSource::File(path.with_extension("gone"));
    let error = nodes
        .client()
        .put_bundle(&Digest([0; 32]), missing)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Local { .. }), "{error}");
}
