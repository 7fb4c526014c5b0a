//! Calls of real functions through the gateway.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::plane::{Plane, function};
use crate::process::{Region, Until, at, client, eventually, start};

/// A plane and a region that runs function `F` of app `shop`, with trigger `/a`.
pub async fn serving(
    ip: &str,
    plane_ip: &str,
    settings: &str,
) -> (Plane, tempfile::TempDir, Region) {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{plane_ip}:7400"));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    plane.put_fn(function("F", &image));
    let revision = plane.put_trigger("T", "A", "F", "/a");
    let region = start("fra", ip, dir.path(), &plane.url, settings);
    eventually("the region listens", async || region.status().await).await;
    region.applied(revision).await;
    (plane, dir, region)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_runs_cold_then_hot_and_by_every_way_to_it() {
    let (plane, _dir, region) = serving(&at(1, 1), &at(1, 20), "").await;

    let cold = region.post("/invoke/F", "hello").await;
    assert_eq!(
        (cold.status, cold.text.as_str()),
        (200, "hello"),
        "{cold:?}"
    );
    assert_eq!(cold.region.as_deref(), Some("fra"));
    assert_eq!(cold.call.as_ref().unwrap().len(), 26);
    assert_eq!(cold.headers["content-length"], "5");
    let hot = region.post("/invoke/F", "again").await;
    assert_eq!(hot.pid, cold.pid, "the same instance");
    assert_ne!(hot.call, cold.call);

    let at = |host: &str, path: &str| {
        client()
            .post(format!("{}{path}", region.gateway))
            .header("host", host)
            .header("x-mine", "1")
            .body("headers")
    };
    let invoked = region.send(at("x", "/invoke/F?q=1")).await;
    assert!(invoked.text.contains("x-mine: 1"), "{}", invoked.text);
    assert!(invoked.text.contains("fn-deadline: 20"), "{}", invoked.text);
    assert!(!invoked.text.contains("fn-http-"), "{}", invoked.text);
    let named = region.send(at("f--shop.fn.test", "/")).await;
    assert_eq!(named.status, 200, "{named:?}");
    for (host, path) in [("x", "/t/shop/a?q=1"), ("shop.fn.test:8080", "/a?q=1")] {
        let triggered = region.send(at(host, path)).await;
        assert_eq!(triggered.status, 200, "{triggered:?}");
        for line in [
            "fn-http-h-x-mine: 1".to_owned(),
            "fn-http-method: POST".to_owned(),
            format!("fn-http-request-url: http://{host}{path}"),
            "fn-intent: httprequest".to_owned(),
        ] {
            assert!(triggered.text.contains(&line), "{line}: {}", triggered.text);
        }
        assert_eq!(triggered.pid, None, "only what is addressed to the caller");
    }
    let missing = region.post("/t/shop/a", "http 404").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.headers["x-answer"], "1");

    // Held and sent in pieces.
    let long = "0123456789abcdef".repeat(6 << 16);
    let echoed = region.post("/invoke/F", &long).await;
    assert_eq!(echoed.headers["content-length"], "6291456");
    assert!(echoed.status == 200 && echoed.text == long);

    let two = http2(&region.gateway.replace("http://", "")).await;
    assert_eq!(two, (200, "fra".to_owned()), "HTTP/2 with prior knowledge");

    let counted = eventually("the calls are reported", async || {
        let report = plane.report("fra")?;
        report
            .functions
            .first()
            .filter(|f| f.instances == 1)
            .cloned()
    })
    .await;
    assert_eq!(counted.fn_id, "F");
}

async fn http2(address: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let request = http::Request::post("http://shop.fn.test/a")
        .body(http_body_util::Full::new(bytes::Bytes::from_static(b"x")))
        .unwrap();
    let sent = async {
        let response = sender.send_request(request).await.unwrap();
        let region = response.headers()["tradewind-region"].to_str().unwrap();
        (response.status().as_u16(), region.to_owned())
    };
    tokio::select! {
        answer = sent => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_the_contracts_status_and_message() {
    let (plane, _dir, region) = serving(&at(2, 1), &at(2, 20), "").await;
    let image = plane.store_bundle();
    let with_config = |id: &str, start: &str| {
        let mut function = function(id, &image);
        function.config = Some([("START".to_owned(), start.to_owned())].into());
        function
    };
    plane.put_fn(with_config("EXITS", "exit"));
    plane.put_fn(with_config("HANGS", "hang"));
    plane.put_fn(function("IMAGE", "registry/hello:1"));
    plane.put_fn(function(
        "GONE",
        &format!("bundle/gone:1@sha256:{}", "00".repeat(32)),
    ));
    let forged = "11".repeat(32);
    plane.keep(forged.parse().unwrap(), b"not a bundle".to_vec());
    plane.put_fn(function("FORGED", &format!("bundle/x:1@sha256:{forged}")));
    let mut slow = function("SLOW", &image);
    slow.timeout = Some(1);
    plane.put_fn(slow);
    let mut huge = function("HUGE", &image);
    huge.memory = Some(8192);
    let revision = plane.put_fn(huge);
    region.applied(revision).await;

    let too_busy = "Timed out - server too busy";
    let init = "please ensure you are using the latest fdk and check the logs";
    for (path, body, status, message) in [
        ("/invoke/NOPE", "", 404, "Fn not found"),
        ("/t/nope/a", "", 404, "App not found"),
        ("/t/shop/nope", "", 404, "Trigger not found"),
        ("/nope", "", 404, "Path not found: POST /nope"),
        ("/invoke/F", "wire 502", 502, "function failed"),
        ("/invoke/F", "wire 504", 504, "Timed out"),
        ("/invoke/F", "wire 500", 502, "invalid function response"),
        (
            "/invoke/F",
            "exit",
            502,
            "error receiving function response",
        ),
        (
            "/invoke/F",
            "large 6291457",
            502,
            "function response body too large",
        ),
        ("/t/shop/a", "http 99", 502, "invalid function response"),
        ("/invoke/SLOW", "sleep 20000", 504, "Timed out"),
        (
            "/invoke/EXITS",
            "",
            502,
            &format!("Container failed to initialize, {init}"),
        ),
        (
            "/invoke/HANGS",
            "",
            504,
            &format!("Container initialization timed out, {init}"),
        ),
        (
            "/invoke/IMAGE",
            "",
            502,
            "Failed to pull image 'registry/hello:1': this region runs bundles; \
             deploy the function with `tradewind deploy`",
        ),
        (
            "/invoke/GONE",
            "",
            502,
            "Failed to pull image 'bundle/gone:1@sha256:00",
        ),
        ("/invoke/FORGED", "", 502, "sha256"),
        (
            "/invoke/HUGE",
            "",
            400,
            "Requested CPU/Memory cannot be allocated",
        ),
    ] {
        let answer = region.post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body:?}: {answer:?}");
        assert!(
            answer.message().contains(message),
            "{path} {body:?}: {}",
            answer.message()
        );
        assert_ne!(answer.message(), too_busy);
        assert_eq!(answer.region.as_deref(), Some("fra"));
        assert_eq!(answer.call.is_some(), status != 404, "{path} {body:?}");
    }

    let get = client().get(format!("{}/invoke/F", region.gateway));
    let answer = region.send(get).await;
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (405, "Method not allowed: GET /invoke/F")
    );
    let detached = client()
        .post(format!("{}/invoke/F", region.gateway))
        .header("fn-invoke-type", "detached");
    let answer = region.send(detached).await;
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (
            501,
            "Detach call functions are not supported on this server"
        )
    );

    let long = vec![b'x'; (6 << 20) + 1];
    let declared = client()
        .post(format!("{}/invoke/F", region.gateway))
        .body(long.clone());
    let answer = region.send(declared).await;
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (
            413,
            "Content-Length too large for this server, 6291457 > max 6291456"
        )
    );
    let chunks = futures_util::stream::iter(
        long.chunks(1 << 16)
            .map(|chunk| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(chunk)))
            .collect::<Vec<_>>(),
    );
    let chunked = client()
        .post(format!("{}/invoke/F", region.gateway))
        .body(reqwest::Body::wrap_stream(chunks));
    let answer = region.send(chunked).await;
    assert_eq!(answer.status, 413, "{answer:?}");

    let fits = client()
        .post(format!("{}/invoke/F", region.gateway))
        .body(vec![b'y'; 6 << 20]);
    let answer = region.send(fits).await;
    assert_eq!((answer.status, answer.text.len()), (200, 6 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_calls_are_served_in_turn_refused_in_time_and_forgotten_when_their_client_leaves() {
    // Memory for one instance; three may run or wait.
    let settings = "memory_budget_mb = 128\ncalls_max = 3\nwait_max_ms = 1500";
    let (_plane, dir, region) = serving(&at(3, 1), &at(3, 20), settings).await;
    assert_eq!(region.post("/invoke/F", "warm").await.status, 200);

    let load = async |current: u64| {
        eventually("the load is seen", async || {
            let status = region.status().await?;
            (status["load"]["current"].as_u64()? == current).then_some(())
        })
        .await;
    };
    // One runs, one waits its turn and gets it.
    let both = tokio::join!(
        region.post("/invoke/F", "sleep 300"),
        region.post("/invoke/F", "sleep 301"),
    );
    assert_eq!((both.0.status, both.1.status), (200, 200), "{both:?}");

    let until = Until::new(dir.path());
    let busy = async {
        load(1).await;
        let waited = Instant::now();
        let refused = region.post("/invoke/F", "x").await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(refused.message(), "Timed out - server too busy");
        assert_eq!(refused.retry_after.as_deref(), Some("15"));
        let waited = waited.elapsed();
        assert!(
            waited >= Duration::from_millis(1400) && waited < Duration::from_millis(4500),
            "{waited:?}"
        );

        // A client that hangs up while it waits gives its place back.
        let left = client()
            .post(format!("{}/invoke/F", region.gateway))
            .body("left")
            .timeout(Duration::from_millis(300))
            .send();
        let (left, ()) = tokio::join!(left, load(2));
        assert!(left.unwrap_err().is_timeout());
        load(1).await;
        until.now();
    };
    let (running, ()) = tokio::join!(region.post("/invoke/F", &until.body), busy);
    assert_eq!(running.status, 200, "{running:?}");

    // Three places and no more.
    let until = Until::new(dir.path());
    let fourth = async {
        load(3).await;
        let fourth = region.post("/invoke/F", "x").await;
        until.now();
        fourth
    };
    let four = tokio::join!(
        region.post("/invoke/F", &until.body),
        region.post("/invoke/F", &until.body),
        region.post("/invoke/F", &until.body),
        fourth,
    );
    let statuses = [four.0.status, four.1.status, four.2.status, four.3.status];
    assert_eq!(statuses, [200, 200, 200, 503]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_function_gets_new_instances_and_a_deleted_one_is_gone() {
    let (plane, _dir, region) = serving(&at(4, 1), &at(4, 20), "").await;
    let before = region.post("/invoke/F", "x").await;
    let image = plane.store_bundle();
    let mut changed = function("F", &image);
    changed.idle_timeout = Some(1);
    region.applied(plane.put_fn(changed)).await;
    let after = region.post("/invoke/F", "x").await;
    assert_eq!(after.status, 200);
    assert_ne!(after.pid, before.pid);
    eventually(
        "the old instance is stopped and the new one idles out",
        async || region.instances().await.is_empty().then_some(()),
    )
    .await;
    region.applied(plane.delete_fn("F")).await;
    assert_eq!(
        region.post("/invoke/F", "x").await.message(),
        "Fn not found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_function_is_mended_while_it_starts_gets_the_mended_one() {
    let settings = "hot_start_timeout_ms = 60000";
    let (plane, _dir, region) = serving(&at(15, 1), &at(15, 20), settings).await;
    let image = plane.store_bundle();
    // Here, and elsewhere with no region there that serves.
    for placement in [None, Some(r#"{"regions":["nrt"]}"#)] {
        plane.put_app("A", "shop", placement);
        let mut hangs = function("HANGS", &image);
        hangs.config = Some([("START".to_owned(), "hang".to_owned())].into());
        region.applied(plane.put_fn(hangs)).await;
        let mended = async {
            eventually("it starts", async || {
                let instances = region.instances().await;
                (instances.first()?["state"] == "starting").then_some(())
            })
            .await;
            plane.put_fn(function("HANGS", &image));
        };
        let (answer, ()) = tokio::join!(region.post("/invoke/HANGS", "x"), mended);
        let answer = (answer.status, answer.text.as_str().to_owned());
        assert_eq!(answer, (200, "x".to_owned()), "{placement:?}");
        eventually("the hanging start has ended", async || {
            (region.instances().await.len() == 1).then_some(())
        })
        .await;
    }
    region.applied(plane.delete_fn("HANGS")).await;
    eventually("the instance of what is gone has ended", async || {
        region.instances().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_is_removed_while_a_calls_body_comes_is_not_started() {
    let (plane, _dir, region) = serving(&at(17, 1), &at(17, 20), "").await;
    let mut caller = TcpStream::connect(format!("{}:8080", at(17, 1)))
        .await
        .unwrap();
    let head = "POST /invoke/F HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\
                expect: 100-continue\r\nconnection: close\r\n\r\n";
    caller.write_all(head.as_bytes()).await.unwrap();
    // Said by who has found the function and waits for the body.
    let mut told = [0; 12];
    caller.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100");
    region.applied(plane.delete_fn("F")).await;
    caller.write_all(b"x").await.unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("Fn not found"), "{answer}");
    assert!(region.instances().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_share_as_many_instances_as_their_function_may_have() {
    let (plane, _dir, region) = serving(&at(16, 1), &at(16, 20), "").await;
    let mut single = function("SINGLE", &plane.store_bundle());
    let scaling = serde_json::value::RawValue::from_string(r#"{"max":1}"#.to_owned()).unwrap();
    single.annotations = Some([("tradewind.dev/scaling".to_owned(), scaling)].into());
    region.applied(plane.put_fn(single)).await;
    let (first, second) = tokio::join!(
        region.post("/invoke/SINGLE", "sleep 300"),
        region.post("/invoke/SINGLE", "sleep 300"),
    );
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.pid, second.pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_a_listed_network_says_who_calls_and_may_not_leave_it_out() {
    let settings = "proxy_protocol_from = [\"127.0.0.0/8\"]";
    let (_plane, _dir, _region) = serving(&at(63, 1), &at(63, 20), settings).await;
    let call = b"POST /invoke/F HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\
                 connection: close\r\n\r\nhello";
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\x01\x1f\x90\0\x50";
    for (case, sent, is_answered) in [
        ("proxied", [&header[..], call].concat(), true),
        ("plain", call.to_vec(), false),
    ] {
        let mut caller = TcpStream::connect(format!("{}:8080", at(63, 1)))
            .await
            .unwrap();
        caller.write_all(&sent).await.unwrap();
        let mut answer = Vec::new();
        // Closed or reset where nothing is said.
        let _end = caller.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(
            answer.starts_with("HTTP/1.1 200 "),
            is_answered,
            "{case}: {answer}"
        );
        assert_eq!(answer.is_empty(), !is_answered, "{case}: {answer}");
    }
}
