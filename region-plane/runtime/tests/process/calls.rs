use http::StatusCode;

use super::*;

#[tokio::test]
async fn a_call_carries_headers_and_bodies_both_ways() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let response = call(&instance, "").await.unwrap();
    assert_eq!(response.body, "ping");
    assert_eq!(response.headers["content-type"], "application/octet-stream");
    assert_eq!(response.headers["fn-fdk-runtime"], "rust");
    assert!(!response.headers.contains_key("content-length"));

    let mut asked = request("headers");
    for name in [
        "connection",
        "transfer-encoding",
        "content-length",
        "host",
        "fn-deadline",
    ] {
        insert(&mut asked, name, "7");
    }
    let mut headers = HeaderMap::clone(&asked.headers);
    headers.append("x-twice", "1".parse().unwrap());
    headers.append("x-twice", "2".parse().unwrap());
    asked.headers = headers.into();
    asked.deadline = Some("2026-12-01T00:00:00Z".parse().unwrap());
    let response = instance.call(asked, Instant::now() + LONG).await.unwrap();
    let headers = String::from_utf8(response.body.to_vec()).unwrap();
    for (line, there) in [
        ("host: \"localhost\"", true),
        ("host: \"7\"", false),
        ("fn-deadline: \"2026-12-01T00:00:00Z\"", true),
        ("fn-deadline: \"7\"", false),
        ("content-length: \"4\"", true),
        ("fn-call-id: \"CALL\"", true),
        ("x-twice: \"1\"\nx-twice: \"2\"", true),
        ("connection:", false),
        ("transfer-encoding:", false),
    ] {
        assert_eq!(headers.contains(line), there, "{line} in\n{headers}");
    }
}

#[tokio::test]
async fn a_failing_handler_keeps_its_instance() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let pid = text(&instance, "pid").await;
    for behave in ["error", "panic"] {
        let error = call(&instance, behave).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(error.to_string(), "function failed");
        assert!(!error.instance_lost());
        assert_eq!(text(&instance, "pid").await, pid, "after {behave}");
    }
}

#[tokio::test]
async fn a_function_over_its_deadline_is_lost() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = instance.call(request("hang"), deadline).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(error.to_string(), "Timed out");
    assert!(error.instance_lost());
    let error = call(&instance, "").await.unwrap_err();
    assert!(error.instance_lost(), "it is still busy: {error:?}");
}

#[tokio::test]
async fn a_crash_is_an_error_and_an_exit() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let error = call(&instance, "crash").await.unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(error.to_string(), "error receiving function response");
    assert!(error.instance_lost());
    tokio::time::timeout(LONG, instance.exited()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_given_up_midway_spoils_the_instance() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), call(&instance, "hang")).await;
    assert!(given_up.is_err());
    let error = call(&instance, "").await.unwrap_err();
    assert_eq!(error.to_string(), "error receiving function response");
    assert!(error.instance_lost());
}

#[tokio::test]
async fn bodies_are_bounded() {
    let driver = driver_with(|settings| settings.response_body_bytes_max = 100_000);
    let bundle = fake_bundle();
    let instance = driver.start(spec(bundle.path(), &[])).await.unwrap();
    let response = call(&instance, "answer-bytes 100000").await.unwrap();
    assert_eq!(response.body.len(), 100_000);
    let error = call(&instance, "answer-bytes 100001").await.unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(error.to_string(), "function response body too large");
}

#[tokio::test]
async fn answers_that_are_no_answers_are_told_apart() {
    for (response, message, lost) in [
        (
            "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
            "invalid function response",
            true,
        ),
        ("HTTP/1.1 204 No\r\n\r\n", "invalid function response", true),
        (
            "HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nhm",
            "function failed",
            false,
        ),
        (
            "HTTP/1.1 504 Late\r\nContent-Length: 2\r\n\r\nhm",
            "Timed out",
            false,
        ),
        (
            "this is not HTTP\r\n\r\n",
            "error receiving function response",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "error receiving function response",
            true,
        ),
        ("LARGE HEADERS", "function response header too large", true),
    ] {
        let config = [
            ("BEHAVIOUR", "raw"),
            ("RESPONSE", response),
            ("AFTERWARDS", "close"),
        ];
        let (_driver, instance, _bundle) = started(&config).await;
        let error = call(&instance, "").await.unwrap_err();
        assert_eq!(error.to_string(), message, "{response}");
        assert_eq!(error.instance_lost(), lost, "{response}");
    }
}

#[tokio::test]
async fn one_connection_serves_call_after_call_until_it_has_been_idle_for_a_second() {
    let numbered = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nCONNECTION";
    let (_driver, instance, _bundle) =
        started(&[("BEHAVIOUR", "raw"), ("RESPONSE", numbered)]).await;
    for _ in 0..3 {
        assert_eq!(text(&instance, "").await, "001");
    }
    // The function serves one connection at a time: were the first one still open, this would hang.
    let second = async {
        loop {
            // The time that is promised, and some; no event tells that the connection is closed.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            if text(&instance, "").await == "002" {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, second).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_function_closed_after_its_answer_is_replaced() {
    let numbered = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nCONNECTION";
    let config = [
        ("BEHAVIOUR", "raw"),
        ("RESPONSE", numbered),
        ("AFTERWARDS", "close"),
    ];
    let (_driver, instance, _bundle) = started(&config).await;
    for want in ["001", "002", "003"] {
        assert_eq!(text(&instance, "").await, want);
    }
}

/// A function need not read what it does not need.
#[tokio::test]
async fn an_answer_before_the_call_is_read_is_an_answer() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nCONNECTION";
    for afterwards in ["wait", "close"] {
        let config = [
            ("BEHAVIOUR", "raw"),
            ("READS", "head"),
            ("RESPONSE", answer),
            ("AFTERWARDS", afterwards),
        ];
        let (_driver, instance, _bundle) = started(&config).await;
        // The instance goes on, each time by a connection that has nothing unread on it.
        for want in 1..=20 {
            let mut large = request("");
            large.body = Bytes::from(vec![b'x'; 4 << 20]);
            let deadline = Instant::now() + LONG;
            let response = instance.call(large, deadline).await;
            let response =
                response.unwrap_or_else(|error| panic!("{afterwards} {want}: {error:?}"));
            assert_eq!(response.body, format!("{want:03}"), "{afterwards}");
        }
    }
}

#[tokio::test]
async fn an_answer_may_have_ten_thousand_fields() {
    for (fields, fits) in [(98, true), (101, true), (10_000, true), (10_001, false)] {
        let response = format!("FIELDS {fields}");
        let config = [("BEHAVIOUR", "raw"), ("RESPONSE", response.as_str())];
        let (_driver, instance, _bundle) = started(&config).await;
        match call(&instance, "").await {
            // Without its length, which is of the connection.
            Ok(response) => assert_eq!((response.headers.len(), fits), (fields - 1, true)),
            Err(error) => {
                assert!(!fits, "{fields}: {error}");
                assert_eq!(error.to_string(), "function response header too large");
            }
        }
    }
}
