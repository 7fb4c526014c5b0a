//! The tables of Fn's contract, sections 2 to 5, row by row, as stock tools meet them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fn_api::create;
use crate::nodes::Nodes;

const ZERO: &str = "0001-01-01T00:00:00.000Z";

const NO_VALUE: &str = "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays";
const BAD_KEY: &str =
    "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace";
const LONG_KEY: &str =
    "Invalid annotation key length, annotation keys may not be larger than 128 bytes";
const LONG_VALUE: &str = "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON";
const MANY_KEYS: &str = "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)";

struct Shop {
    nodes: Nodes,
    app: String,
    function: String,
    trigger: String,
    /// Of another app.
    foreign: String,
}

impl Shop {
    /// `base` as for [`Nodes::start`].
    async fn start(base: u8) -> Self {
        let nodes = Nodes::start_with(base, 1, "").await;
        let app = create(&nodes, 0, "apps", json!({"name": "shop"})).await;
        let other = create(&nodes, 0, "apps", json!({"name": "other"})).await;
        let a_fn = |app: &str| json!({"name": "hello", "app_id": app, "image": "hello:1"});
        let function = create(&nodes, 0, "fns", a_fn(&app)).await;
        let foreign = create(&nodes, 0, "fns", a_fn(&other)).await;
        let trigger = json!({
            "name": "hi", "app_id": app, "fn_id": function, "type": "http", "source": "/hi",
        });
        let trigger = create(&nodes, 0, "triggers", trigger).await;
        Self {
            nodes,
            app,
            function,
            trigger,
            foreign,
        }
    }

    /// Sends `base` with some members replaced; a null removes its member.
    async fn send(&self, method: &str, path: &str, base: &Value, change: &Value) -> (u16, Value) {
        let mut body = base.clone();
        for (key, value) in change.as_object().unwrap() {
            if value.is_null() {
                body.as_object_mut().unwrap().remove(key);
            } else {
                body[key] = value.clone();
            }
        }
        let method: Method = method.parse().unwrap();
        self.nodes.send(method, 0, path, Some(body), &[]).await
    }

    /// Every row is refused as it says.
    async fn refuses(&self, method: &str, path: &str, base: &Value, rows: Vec<(Value, u16, &str)>) {
        for (change, status, message) in rows {
            let (answered, answer) = self.send(method, path, base, &change).await;
            let case = format!("{method} {path} with {change}");
            assert_eq!(answered, status, "{case}: {answer}");
            assert_eq!(answer, json!({"message": message}), "{case}");
        }
    }
}

fn many_annotations(count: usize) -> Value {
    (0..count).map(|n| (format!("k{n}"), json!(n))).collect()
}

/// Rows of 5.1, the same for every kind of object.
fn annotation_rows() -> Vec<(Value, u16, &'static str)> {
    let row =
        |key: &str, value: Value, message| (json!({"annotations": {key: value}}), 400, message);
    vec![
        row("", json!(1), BAD_KEY),
        row("a b", json!(1), BAD_KEY),
        row("ключ", json!(1), BAD_KEY),
        row("a\u{7f}", json!(1), BAD_KEY),
        row(&"k".repeat(129), json!(1), LONG_KEY),
        row("k", json!(""), NO_VALUE),
        row("k", json!("x".repeat(511)), LONG_VALUE),
        row("k", json!({"a": "x".repeat(600)}), LONG_VALUE),
        (
            json!({"annotations": many_annotations(101)}),
            400,
            MANY_KEYS,
        ),
        (json!({"annotations": []}), 400, "Invalid JSON"),
        (json!({"annotations": "x"}), 400, "Invalid JSON"),
        (json!({"config": {"k": 1}}), 400, "Invalid JSON"),
        (json!({"config": ["k"]}), 400, "Invalid JSON"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_are_refused_as_section_2_says() {
    let shop = Shop::start(166).await;
    let base = json!({"name": "new", "created_at": ZERO, "updated_at": ZERO});
    let mut rows = vec![
        (
            json!({"id": "x"}),
            400,
            "App ID cannot be supplied on create",
        ),
        // The first that fails is the answer.
        (
            json!({"id": "x", "name": ""}),
            400,
            "App ID cannot be supplied on create",
        ),
        (json!({"name": null}), 400, "Missing Name"),
        (json!({"name": ""}), 400, "Missing Name"),
        (
            json!({"name": "x".repeat(256)}),
            400,
            "App name must be 255 characters or less",
        ),
        (json!({"name": "a/b"}), 400, "Invalid app name"),
        (json!({"name": "a.b"}), 400, "Invalid app name"),
        (
            json!({"name": "a b", "shape": "ROUND"}),
            400,
            "Invalid app name",
        ),
        (json!({"shape": "ROUND"}), 400, "Invalid app shape"),
        (json!({"name": "shop"}), 409, "App already exists"),
    ];
    rows.extend(annotation_rows());
    shop.refuses("POST", "/v2/apps", &base, rows).await;
    for url in ["gopher://x", "nothing"] {
        let (status, answer) = shop
            .send("POST", "/v2/apps", &base, &json!({"syslog_url": url}))
            .await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!(status, 400, "{answer}");
        assert!(
            message.starts_with(&format!("invalid syslog url: \"{url}\"")),
            "{message}"
        );
    }
    let path = format!("/v2/apps/{}", shop.app);
    let rows = vec![
        (
            json!({"id": "x"}),
            400,
            "App ID in path does not match ID in body",
        ),
        (
            json!({"name": "x"}),
            409,
            "Could not update - name is immutable",
        ),
        (
            json!({"annotations": {"k": "x".repeat(511)}}),
            400,
            LONG_VALUE,
        ),
        (
            json!({"annotations": many_annotations(101)}),
            400,
            MANY_KEYS,
        ),
    ];
    shop.refuses("PUT", &path, &json!({}), rows).await;
    for method in ["PUT", "DELETE"] {
        let rows = vec![(json!({}), 404, "App not found")];
        shop.refuses(method, "/v2/apps/nope", &json!({}), rows)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_refused_as_section_3_says() {
    let shop = Shop::start(168).await;
    let base = json!({"name": "new", "app_id": shop.app, "image": "i:1"});
    let timeout = "timeout value is out of range, must be between 0 and 300";
    let idle = "idle_timeout value is out of range, must be between 0 and 3600";
    let memory = "memory value is out of range. It should be between 0 and 8192";
    let mut rows = vec![
        (
            json!({"id": "x"}),
            400,
            "ID cannot be provided for Fn creation",
        ),
        (json!({"app_id": null}), 400, "Missing AppID on Fn"),
        (
            json!({"app_id": "", "name": ""}),
            400,
            "Missing AppID on Fn",
        ),
        (json!({"name": null}), 400, "Missing Fn name"),
        (
            json!({"name": "x".repeat(256)}),
            400,
            "Fn name must be 255 characters or less",
        ),
        (json!({"name": "a/b"}), 400, "name must be a valid string"),
        (json!({"name": "é"}), 400, "name must be a valid string"),
        (json!({"image": null}), 400, "Missing image on Fn"),
        (
            json!({"image": "", "timeout": 301}),
            400,
            "Missing image on Fn",
        ),
        (json!({"timeout": 301}), 400, timeout),
        (json!({"timeout": -1}), 400, timeout),
        (json!({"timeout": 301, "idle_timeout": 3601}), 400, timeout),
        (json!({"idle_timeout": 3601}), 400, idle),
        (json!({"idle_timeout": -1}), 400, idle),
        (json!({"memory": 8193}), 400, memory),
        (json!({"memory": -1}), 400, "Invalid JSON"),
        (json!({"memory": 1.5}), 400, "Invalid JSON"),
        (json!({"memory": "128"}), 400, "Invalid JSON"),
        (json!({"app_id": "nope"}), 404, "App not found"),
        (
            json!({"name": "hello"}),
            409,
            "Fn with specified name already exists",
        ),
    ];
    rows.extend(annotation_rows());
    shop.refuses("POST", "/v2/fns", &base, rows).await;
    let path = format!("/v2/fns/{}", shop.function);
    let rows = vec![
        (
            json!({"id": shop.foreign}),
            400,
            "Fn ID in path does not match that in body",
        ),
        (json!({"timeout": 301}), 400, timeout),
        (json!({"idle_timeout": 3601}), 400, idle),
        (json!({"memory": 8193}), 400, memory),
        (
            json!({"annotations": {"k": "x".repeat(511)}}),
            400,
            LONG_VALUE,
        ),
    ];
    shop.refuses("PUT", &path, &json!({}), rows).await;
    for method in ["PUT", "DELETE"] {
        let rows = vec![(json!({}), 404, "Fn not found")];
        shop.refuses(method, "/v2/fns/nope", &json!({}), rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_refused_as_section_4_says() {
    let shop = Shop::start(170).await;
    let base = json!({
        "name": "new", "app_id": shop.app, "fn_id": shop.function, "type": "http",
        "source": "/new", "created_at": ZERO, "updated_at": ZERO,
    });
    let at = "2026-01-02T15:04:05.678Z";
    let same_source = "Trigger with the same type and source exists on this app";
    let mut rows = vec![
        (
            json!({"id": "x"}),
            400,
            "ID cannot be provided for Trigger creation",
        ),
        (
            json!({"created_at": at}),
            400,
            "Trigger Created At Provided for Create",
        ),
        (
            json!({"updated_at": at}),
            400,
            "Trigger ID Provided for Create",
        ),
        (json!({"app_id": null}), 400, "Missing App ID on Trigger"),
        (json!({"name": null}), 400, "Missing name on Trigger"),
        (
            json!({"name": "x".repeat(256)}),
            400,
            "Trigger name must be 255 characters or less",
        ),
        (json!({"name": "a/b"}), 400, "Invalid name for Trigger"),
        (json!({"fn_id": null}), 400, "Missing Fn ID on Trigger"),
        (json!({"type": "cron"}), 400, "Trigger Type Not Supported"),
        (json!({"type": null}), 400, "Trigger Type Not Supported"),
        (json!({"source": null}), 400, "Missing Trigger Source"),
        (
            json!({"source": "new"}),
            400,
            "Missing Trigger Source Prefix '/'",
        ),
        (json!({"app_id": "nope"}), 404, "App not found"),
        (json!({"fn_id": "nope"}), 404, "Fn not found"),
        (
            json!({"fn_id": shop.foreign}),
            400,
            "Invalid Fn ID - not owned by specified app",
        ),
        (json!({"source": "/hi"}), 409, same_source),
        (json!({"name": "hi"}), 409, "Trigger already exists"),
    ];
    // A trigger has no configuration.
    rows.extend(
        annotation_rows()
            .into_iter()
            .filter(|(change, ..)| change.get("config").is_none()),
    );
    shop.refuses("POST", "/v2/triggers", &base, rows).await;
    let (status, second) = shop.send("POST", "/v2/triggers", &base, &json!({})).await;
    assert_eq!(status, 200, "{second}");
    let path = format!("/v2/triggers/{}", shop.trigger);
    let rows = vec![
        (
            json!({"id": "x"}),
            400,
            "ID in path does not match ID in body",
        ),
        (json!({"source": "/new"}), 409, same_source),
        (json!({"name": "new"}), 409, "Trigger already exists"),
        (json!({"fn_id": "nope"}), 404, "Fn not found"),
        (
            json!({"fn_id": shop.foreign}),
            400,
            "Invalid Fn ID - not owned by specified app",
        ),
        (
            json!({"source": "new"}),
            400,
            "Missing Trigger Source Prefix '/'",
        ),
    ];
    shop.refuses("PUT", &path, &json!({}), rows).await;
    for method in ["PUT", "DELETE"] {
        let rows = vec![(json!({}), 404, "Trigger not found")];
        shop.refuses(method, "/v2/triggers/nope", &json!({}), rows)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_is_kept_and_shown_as_the_contract_says() {
    let shop = Shop::start(172).await;
    let nodes = &shop.nodes;
    // Fn contract 2.1, 5.1, 5.2: values as sent but for white space, empty config kept on create.
    let sent = r#"{"name":"données-1_x","config":{"EMPTY":"","A":"1"},"unknown":[1],
        "annotations":{"b":true,"n":1.50,"o":{ "z": 1, "a": [ 2 ] },"k":"v"},
        "syslog_url":"tcp+tls://h:514","shape":"GENERIC_ARM"}"#;
    let id = create(nodes, 0, "apps", json!(sent)).await;
    let path = format!("/v2/apps/{id}");
    let url = format!("{}{path}", nodes.api(0));
    let text = nodes
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        text.contains(r#""annotations":{"b":true,"k":"v","n":1.50,"o":{"z":1,"a":[2]},"#),
        "{text}"
    );
    let (_, app) = nodes.get(0, &path).await;
    assert_eq!(app["config"], json!({"A": "1", "EMPTY": ""}));
    assert_eq!(app["shape"], "GENERIC_ARM");
    for (change, member, want) in [
        (json!({"shape": "ROUND"}), "shape", json!("GENERIC_ARM")),
        (json!({}), "syslog_url", json!("tcp+tls://h:514")),
        (
            json!({"syslog_url": null}),
            "syslog_url",
            json!("tcp+tls://h:514"),
        ),
        (json!({"syslog_url": ""}), "syslog_url", Value::Null),
        (
            json!({"config": {"A": "", "B": null, "C": "3"}}),
            "config",
            json!({"C": "3", "EMPTY": ""}),
        ),
        (
            json!({"config": {"C": "", "EMPTY": ""}}),
            "config",
            Value::Null,
        ),
    ] {
        let (status, answer) = nodes.put(0, &path, change.clone()).await;
        assert_eq!(status, 200, "{change}: {answer}");
        assert_eq!(answer[member], want, "{change}");
    }
    let gone = json!({"annotations": {"b": "", "n": null, "o": "", "k": ""}});
    let (status, answer) = nodes.put(0, &path, gone).await;
    assert_eq!(status, 200, "{answer}");
    for key in ["b", "n", "o", "k"] {
        assert_eq!(answer["annotations"][key], Value::Null, "{answer}");
    }

    // 3.1: zero is the default on create and unchanged on update; name and app are ignored.
    let zeros = json!({"name": "z~$&+=:@.-_", "app_id": shop.app, "image": "i:1", "memory": 0,
        "timeout": 0, "idle_timeout": 0, "config": null});
    let id = create(nodes, 0, "fns", zeros).await;
    let path = format!("/v2/fns/{id}");
    for (change, want) in [
        (json!({}), (128, 30, 30, "i:1")),
        (
            json!({"memory": 256, "timeout": 300, "idle_timeout": 3600}),
            (256, 300, 3600, "i:1"),
        ),
        (
            json!({"memory": 0, "timeout": 0, "idle_timeout": 0, "image": ""}),
            (256, 300, 3600, "i:1"),
        ),
        (
            json!({"name": "", "app_id": "", "image": "i:2"}),
            (256, 300, 3600, "i:2"),
        ),
        (
            json!({"name": "x", "app_id": "y", "shape": "z"}),
            (256, 300, 3600, "i:2"),
        ),
    ] {
        let (status, put) = nodes.put(0, &path, change.clone()).await;
        assert_eq!(status, 200, "{change}: {put}");
        assert_eq!(
            put["annotations"]["fnproject.io/fn/invokeEndpoint"],
            Value::Null
        );
        let (_, got) = nodes.get(0, &path).await;
        let (memory, timeout, idle, image) = want;
        assert_eq!(got["memory"], memory, "{change}");
        assert_eq!(
            (&got["timeout"], &got["idle_timeout"]),
            (&json!(timeout), &json!(idle))
        );
        assert_eq!(
            (&got["image"], &got["config"]),
            (&json!(image), &json!({})),
            "{change}"
        );
        assert_eq!(
            (&got["name"], &got["app_id"]),
            (&json!("z~$&+=:@.-_"), &json!(shop.app))
        );
    }

    // 4.2: the type is ignored; the answer to a create has an endpoint, that to a PUT has none.
    let endpoint = "fnproject.io/trigger/httpEndpoint";
    let path = format!("/v2/triggers/{}", shop.trigger);
    let change = json!({"type": "cron", "name": "ho", "source": "/ho/ho"});
    let (status, put) = nodes.put(0, &path, change).await;
    assert_eq!(
        (status, &put["type"], &put["name"]),
        (200, &json!("http"), &json!("ho")),
        "{put}"
    );
    assert_eq!(put["annotations"], Value::Null);
    let (_, got) = nodes.get(0, &path).await;
    let want = format!("{}/t/shop/ho/ho", nodes.api(0));
    assert_eq!(got["annotations"][endpoint], json!(want));
}
