//! The read half of Fn's v2 API over a real catalog (Fn contract 1 and 5.3).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use api_fn_http::body::Json;
use api_fn_http::conventions::conventional;
use api_fn_http::{ApiError, Consistency, Reached, Source, Unavailable, reads};
use api_types::{
    Annotations, App, AppId, Catalog, Config, Fn, FnId, Refusal, Revision, Timestamp, Trigger,
    TriggerId,
};
use api_wire::AppBody;
use api_wire::bounds::REQUEST_BYTES_MAX;
use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// A catalog that only stale reads are sure to find when there is no leader.
#[derive(Clone)]
struct Node {
    catalog: Arc<Catalog>,
    leader: bool,
}

impl Source for Node {
    async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> Result<R, Unavailable> {
        if !self.leader && consistency == Consistency::Linearizable {
            return Err(Unavailable("no leader".to_owned()));
        }
        Ok(answer(&self.catalog, Revision(42)))
    }

    fn base_url(&self, _app: Option<&App>, reached: &Reached) -> String {
        format!("http://{}", reached.host.as_deref().unwrap_or("unknown"))
    }
}

const AT: Timestamp = Timestamp(1_767_366_245_678);

fn app(id: &str, name: &str) -> App {
    App {
        id: AppId::new(id),
        name: name.to_owned(),
        config: Config::new(),
        annotations: Annotations::new(),
        syslog_url: None,
        shape: String::new(),
        created_at: AT,
        updated_at: AT,
        revision: Revision(1),
    }
}

fn function(id: &str, app: &str, name: &str) -> Fn {
    Fn {
        id: FnId::new(id),
        name: name.to_owned(),
        app_id: AppId::new(app),
        image: "hello:0.0.1".to_owned(),
        memory: 128,
        timeout_secs: 30,
        idle_timeout_secs: 30,
        config: Config::new(),
        annotations: Annotations::new(),
        shape: String::new(),
        created_at: AT,
        updated_at: AT,
        revision: Revision(2),
    }
}

fn trigger(id: &str, app: &str, function: &str, name: &str, source: &str) -> Trigger {
    Trigger {
        id: TriggerId::new(id),
        name: name.to_owned(),
        app_id: AppId::new(app),
        fn_id: FnId::new(function),
        kind: "http".to_owned(),
        source: source.to_owned(),
        annotations: Annotations::new(),
        created_at: AT,
        updated_at: AT,
        revision: Revision(3),
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (id, name) in [("A1", "shop"), ("A2", "Blog"), ("A3", "apex")] {
        catalog.put(app(id, name));
    }
    for (id, name) in [("F1", "pay"), ("F2", "buy"), ("F3", "a.b")] {
        catalog.put(function(id, "A1", name));
    }
    for (id, function, name, source) in [
        ("T1", "F1", "same", "/pay"),
        ("T2", "F2", "same", "/buy"),
        ("T3", "F2", "root", "/"),
    ] {
        catalog.put(trigger(id, "A1", function, name, source));
    }
    catalog
}

fn router(leader: bool) -> Router {
    let node = Node {
        catalog: Arc::new(catalog()),
        leader,
    };
    let echo = async |Json(body): Json<AppBody>| Json(body);
    let writes = Router::new().route("/v2/apps", post(echo));
    conventional(reads(node).merge(writes))
}

async fn send(router: Router, request: Request<Body>) -> (Response<()>, String) {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (Response::from_parts(parts, ()), text)
}

async fn asked(method: &str, path: &str) -> (Response<()>, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "api.test:7400");
    send(router(true), request.body(Body::empty()).unwrap()).await
}

async fn get(path: &str) -> (StatusCode, Value) {
    let (response, text) = asked("GET", path).await;
    let kind = &response.headers()["content-type"];
    assert_eq!(kind, "application/json; charset=utf-8", "{path}");
    (response.status(), serde_json::from_str(&text).unwrap())
}

/// The `name`s of a list and its cursor.
async fn page(path: &str) -> (Vec<String>, Option<String>) {
    let (status, body) = get(path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    let names = body["items"].as_array().unwrap().iter();
    let names = names.map(|item| item["name"].as_str().unwrap().to_owned());
    let cursor = body
        .get("next_cursor")
        .map(|c| c.as_str().unwrap().to_owned());
    (names.collect(), cursor)
}

#[tokio::test]
async fn fixed_answers_are_fns() {
    let hello = json!({"goto": "https://github.com/fnproject/fn", "hello": "world!"});
    assert_eq!(get("/").await, (StatusCode::OK, hello));
    let version = json!({"version": "0.3.753"});
    assert_eq!(get("/version").await, (StatusCode::OK, version));
    for path in ["calls", "calls/C1", "calls/C1/log"] {
        let (response, text) = asked("GET", &format!("/v2/fns/F1/{path}")).await;
        assert_eq!((response.status(), text.as_str()), (StatusCode::GONE, ""));
    }
}

#[tokio::test]
async fn objects_carry_what_the_server_adds_and_the_revision_rides_beside() {
    let at = "2026-01-02T15:04:05.678Z";
    let (response, _) = asked("GET", "/v2/apps/A1").await;
    assert_eq!(response.headers()["tradewind-revision"], "42");
    for (path, want) in [
        (
            "/v2/apps/A1",
            json!({"id": "A1", "name": "shop", "created_at": at, "updated_at": at}),
        ),
        (
            "/v2/fns/F1",
            json!({"id": "F1", "name": "pay", "app_id": "A1", "image": "hello:0.0.1", "memory": 128,
                "timeout": 30, "idle_timeout": 30, "config": {}, "created_at": at, "updated_at": at,
                "annotations":
                    {"fnproject.io/fn/invokeEndpoint": "http://api.test:7400/invoke/F1"}}),
        ),
        (
            "/v2/triggers/T1",
            json!({"id": "T1", "name": "same", "app_id": "A1", "fn_id": "F1", "type": "http",
                "source": "/pay", "created_at": at, "updated_at": at, "annotations":
                    {"fnproject.io/trigger/httpEndpoint": "http://api.test:7400/t/shop/pay"}}),
        ),
    ] {
        assert_eq!(get(path).await, (StatusCode::OK, want), "{path}");
    }
    for (path, why) in [
        (
            "/v2/apps/A2",
            "none: Blog has characters other than lower-case letters, digits and hyphens",
        ),
        (
            "/v2/fns/F3",
            "none: a.b has characters other than lower-case letters, digits and hyphens",
        ),
    ] {
        let (_, body) = get(path).await;
        assert_eq!(body["annotations"]["tradewind.dev/dns-name"], why);
    }
    let (_, list) = get("/v2/fns?app_id=A1&name=pay").await;
    let (_, one) = get("/v2/fns/F1").await;
    assert_eq!(list["items"], json!([one]), "a list shows the same");
}

#[tokio::test]
async fn what_is_not_there_is_404_whatever_its_id_looks_like() {
    for (path, message) in [
        ("/v2/apps/X", "App not found"),
        ("/v2/apps/%FF", "App not found"),
        ("/v2/fns/X", "Fn not found"),
        ("/v2/triggers/X", "Trigger not found"),
        (
            "/v2/runner/apps/A1/triggerBySource/http/nope",
            "Trigger not found",
        ),
        (
            "/v2/runner/apps/A1/triggerBySource/udp/pay",
            "Trigger not found",
        ),
        ("/x", "Path not found: GET /x"),
        ("//evil.test/", "Path not found: GET //evil.test/"),
    ] {
        let want = (StatusCode::NOT_FOUND, json!({"message": message}));
        assert_eq!(get(path).await, want, "{path}");
    }
    let (response, text) = asked("PUT", "/v2/apps").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(text, "{\"message\":\"Method not allowed: PUT /v2/apps\"}\n");
}

#[tokio::test]
async fn triggers_are_found_by_their_exact_source() {
    for (rest, id) in [("pay", "T1"), ("buy", "T2"), ("", "T3")] {
        let path = format!("/v2/runner/apps/A1/triggerBySource/http/{rest}");
        let (status, body) = get(&path).await;
        assert_eq!(
            (status, &body["id"]),
            (StatusCode::OK, &json!(id)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn lists_are_by_name_in_pages_with_exact_filters() {
    for (path, want) in [
        ("/v2/apps", vec!["Blog", "apex", "shop"]),
        ("/v2/apps?name=shop", vec!["shop"]),
        ("/v2/apps?name=sho", vec![]),
        ("/v2/apps?name=&per_page=0", vec!["Blog", "apex", "shop"]),
        ("/v2/apps?name=shop&name=Blog&sort_by=x", vec!["shop"]),
        ("/v2/fns?app_id=A1", vec!["a.b", "buy", "pay"]),
        ("/v2/fns?app_id=A1&name=buy", vec!["buy"]),
        ("/v2/fns?app_id=nowhere", vec![]),
        ("/v2/triggers?app_id=A1", vec!["root", "same", "same"]),
        ("/v2/triggers?app_id=A1&fn_id=F2", vec!["root", "same"]),
        ("/v2/triggers?app_id=A1&fn_id=F1&name=root", vec![]),
        ("/v2/triggers?app_id=nowhere", vec![]),
    ] {
        let want = want.into_iter().map(str::to_owned).collect();
        assert_eq!(page(path).await, (want, None), "{path}");
    }
    for (path, message) in [
        ("/v2/fns", "Missing AppID on Fn"),
        ("/v2/fns?app_id=", "Missing AppID on Fn"),
        ("/v2/triggers", "Missing App ID on Trigger"),
    ] {
        let want = (StatusCode::BAD_REQUEST, json!({"message": message}));
        assert_eq!(get(path).await, want, "{path}");
    }
}

#[tokio::test]
async fn walking_the_pages_meets_everything_once() {
    for (path, want) in [
        ("/v2/apps?", vec!["Blog", "apex", "shop"]),
        ("/v2/fns?app_id=A1&", vec!["a.b", "buy", "pay"]),
        // A page of one ends between two triggers of one name.
        ("/v2/triggers?app_id=A1&", vec!["root", "same", "same"]),
    ] {
        let (mut met, mut cursor) = (Vec::new(), String::new());
        for _ in 0..=want.len() {
            let (names, next) = page(&format!("{path}per_page=1&cursor={cursor}")).await;
            assert_eq!(next.is_some(), names.len() == 1, "iff the page is full");
            met.extend(names);
            cursor = next.unwrap_or_default();
        }
        assert_eq!(met, want, "{path}");
    }
}

#[tokio::test]
async fn cursors_that_no_page_gave_are_400() {
    let (_, of_apps) = page("/v2/apps?per_page=1").await;
    let of_apps = of_apps.unwrap();
    for path in [
        "/v2/apps?cursor=!!",
        "/v2/fns?app_id=A1&cursor=_w",
        &format!("/v2/triggers?app_id=A1&cursor={of_apps}"),
    ] {
        let (status, body) = get(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
    }
}

#[tokio::test]
async fn a_slash_too_many_is_redirected_on_our_own_paths() {
    for (method, path, status, location) in [
        ("GET", "/v2/apps/?name=x", 301, "/v2/apps?name=x"),
        ("GET", "/version/", 301, "/version"),
        ("POST", "/v2/apps/", 307, "/v2/apps"),
    ] {
        let (response, _) = asked(method, path).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert_eq!(response.headers()["location"], location);
    }
}

#[tokio::test]
async fn without_a_leader_reads_are_503_unless_stale_ones_will_do() {
    for (path, status) in [
        ("/v2/apps", StatusCode::SERVICE_UNAVAILABLE),
        ("/v2/apps/A1", StatusCode::SERVICE_UNAVAILABLE),
        ("/v2/apps?consistency=stale", StatusCode::OK),
        ("/version", StatusCode::OK),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let (response, text) = send(router(false), request).await;
        assert_eq!(response.status(), status, "{path}");
        if status != StatusCode::OK {
            assert_eq!(response.headers()["retry-after"], "1");
            assert_eq!(text, "{\"message\":\"no leader\"}\n");
        }
    }
}

#[tokio::test]
async fn bodies_that_are_not_the_json_asked_for_are_400() {
    for (body, status, want) in [
        ("", 400, "{\"message\":\"Invalid JSON\"}\n"),
        ("{", 400, "{\"message\":\"Invalid JSON\"}\n"),
        ("{\"name\":1}", 400, "{\"message\":\"Invalid JSON\"}\n"),
        (
            "{\"config\":{\"k\":1}}",
            400,
            "{\"message\":\"Invalid JSON\"}\n",
        ),
        (
            &"x".repeat(REQUEST_BYTES_MAX + 1),
            413,
            "{\"message\":\"Request body too large for this server, max 3211264 bytes\"}\n",
        ),
        ("[\"\",\"x\"]", 400, "{\"message\":\"Invalid JSON\"}\n"),
        ("{\"name\":\"a\",\"unknown\":1}", 200, "{\"name\":\"a\"}\n"),
        ("{\"name\":\"a\",\"Name\":\"b\"}", 200, "{\"name\":\"b\"}\n"),
        ("null", 200, "{}\n"),
    ] {
        let request = Request::post("/v2/apps").body(Body::from(body.to_owned()));
        let (response, text) = send(router(true), request.unwrap()).await;
        assert_eq!((response.status().as_u16(), text.as_str()), (status, want));
    }
}

#[test]
fn refusals_have_one_status_each() {
    for (refusal, status) in [
        (Refusal::invalid("x"), 400),
        (Refusal::not_found("x"), 404),
        (Refusal::conflict("x"), 409),
        (Refusal::precondition("x"), 412),
        (Refusal::full("x"), 409),
        (Refusal::key_reused("x"), 422),
    ] {
        assert_eq!(ApiError::from(refusal).status.as_u16(), status);
    }
}
