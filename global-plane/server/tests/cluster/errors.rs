//! Every error of every route of our own is JSON.

use serde_json::{Value, json};

use crate::fn_api::create;
use crate::nodes::Nodes;

/// Methods, and a path with `*` where it has a parameter.
const ROUTES: [(&str, &str); 38] = [
    ("GET", "/"),
    ("GET", "/version"),
    ("GET POST", "/v2/apps"),
    ("GET PUT DELETE", "/v2/apps/*"),
    ("GET POST", "/v2/fns"),
    ("GET PUT DELETE", "/v2/fns/*"),
    ("GET", "/v2/fns/*/calls"),
    ("GET", "/v2/fns/*/calls/*"),
    ("GET", "/v2/fns/*/calls/*/log"),
    ("GET POST", "/v2/triggers"),
    ("GET PUT DELETE", "/v2/triggers/*"),
    ("GET", "/v2/runner/apps/*/triggerBySource/*/"),
    ("GET", "/v2/runner/apps/*/triggerBySource/*/*"),
    ("GET POST", "/v1/regions"),
    ("POST", "/v1/regions/*/drain"),
    ("POST", "/v1/regions/*/undrain"),
    ("POST", "/v1/regions/*/report"),
    ("GET", "/v1/replication"),
    ("GET", "/v1/members"),
    ("GET", "/v1/status"),
    ("GET", "/v1/snapshot"),
    ("GET", "/v1/watch"),
    ("GET", "/v1/views/steering"),
    ("GET", "/v1/explain"),
    ("GET PUT HEAD", "/v1/bundles/*"),
    ("POST", "/internal/propose"),
    ("POST", "/internal/report"),
    ("GET", "/internal/leader-regions"),
    ("GET PUT", "/internal/bundles/*"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET PUT", "/regions/*/v2/apps"),
    ("GET PUT", "/regions/*/*"),
    ("POST", "/invoke/*"),
    ("GET", "/t/*"),
    ("GET", "/t/*/"),
    ("GET", "/t/*/*"),
];

const PARAMETERS: [&str; 6] = ["%ff", "nope", "%00", "%2e%2e", "a%2Fb", "%C3%A9"];

const QUERIES: [&str; 8] = [
    "from=abc",
    "from=-1&epoch=99999999999999999999",
    "after=x&epoch=y&wait_ms=z",
    "cursor=!!&per_page=x",
    "client=x&name=%ff",
    "consistency=%ff",
    "%ff=%ff",
    "&&==",
];

const BODIES: [&[u8]; 9] = [
    b"",
    b"{",
    b"[]",
    br#"["","x"]"#,
    b"1",
    b"\"x\"",
    b"{\"name\":\"\xff\"}",
    br#"{"name":["x"],"config":[]}"#,
    br#"{"region":1,"report":[]}"#,
];

struct Asker<'a> {
    nodes: &'a Nodes,
    errors: usize,
}

impl Asker<'_> {
    /// Asks, and checks the answer if it is an error; returns its status.
    async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> u16 {
        let url = format!("{}{path}", self.nodes.api(0));
        let request = self
            .nodes
            .http
            .request(method.parse().unwrap(), url)
            .header("content-type", "text/plain")
            .body(body.to_vec());
        let case = format!("{method} {path} {:?}", String::from_utf8_lossy(body));
        let answer = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        let status = answer.status().as_u16();
        if status < 400 {
            return status;
        }
        self.errors += 1;
        let kind = answer.headers().get("content-type").cloned();
        assert!(
            kind.as_ref()
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json")),
            "{case}: {status} with {kind:?}"
        );
        if method == "HEAD" {
            return status;
        }
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{case}: {status} with {text:?}: {error}"));
        let message = body["message"].as_str();
        assert!(
            message.is_some_and(|message| !message.is_empty()) && status != 500,
            "{case}: {status} with {text:?}"
        );
        status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_every_route_is_json() {
    let nodes = Nodes::start_with(150, 1, "").await;
    create(&nodes, 0, "apps", json!({"name": "shop"})).await;
    let mut asker = Asker {
        nodes: &nodes,
        errors: 0,
    };
    for (methods, path) in ROUTES {
        for parameter in PARAMETERS {
            let path = path.replace('*', parameter);
            for method in methods.split(' ') {
                asker.ask(method, &path, b"").await;
                if !path.contains(parameter) {
                    break;
                }
            }
        }
        let path = path.replace('*', "nope");
        for method in methods.split(' ') {
            for query in QUERIES {
                // A watch that is accepted never ends.
                let status = asker.ask(method, &format!("{path}?{query}"), b"").await;
                assert!(path != "/v1/watch" || status != 200 || !query.starts_with("from"));
            }
            if method == "POST" || method == "PUT" {
                for body in BODIES {
                    let status = asker.ask(method, &path, body).await;
                    assert!(
                        status >= 400 || path.starts_with("/t/"),
                        "{method} {path} {body:?}"
                    );
                }
            }
        }
        // Calls by trigger may have any method.
        if !path.starts_with("/t/") && !path.starts_with("/regions/") {
            for method in ["PATCH", "TRACE", "MADE-UP"] {
                assert_eq!(asker.ask(method, &path, b"").await, 405, "{method} {path}");
            }
        }
    }
    for (method, path, status) in [
        ("GET", "/v2/apps/%ff", 404),
        ("PUT", "/v2/apps/%ff", 400),
        ("DELETE", "/v2/fns/%ff", 404),
        ("GET", "/v1/watch?from=abc", 400),
        ("GET", "/v1/views/steering?after=x", 400),
        ("GET", "/v2/fns/F/calls", 410),
        ("POST", "/invoke/%ff", 404),
        ("GET", "/t/%ff/x", 404),
        ("GET", "/%ff", 404),
        ("GET", "/v1/nope", 404),
    ] {
        assert_eq!(
            asker.ask(method, path, b"").await,
            status,
            "{method} {path}"
        );
    }
    assert!(asker.errors > 500, "only {} errors were met", asker.errors);
    let (_, apps) = nodes.get(0, "/v2/apps").await;
    assert_eq!(apps["items"].as_array().unwrap().len(), 1, "{apps}");
}
