//! Calls forwarded to gateways on real sockets that misbehave in one way each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gateway;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use calls_forward::{Call, ForwardError, Forwarded, Forwarder, Gateway, Outcome};
use gateway::{Scripted, Step, refusing};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::task::JoinSet;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const NOT_HERE: &str =
    "HTTP/1.1 404 Not Found\r\ntradewind-not-started: 1\r\ncontent-length: 0\r\n\r\n";
const TOO_LARGE: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";

/// Of a machine that does other things besides.
const SLACK: Duration = Duration::from_secs(3);

fn request() -> http::request::Parts {
    let request = Request::post("/t/shop/hello?x=1")
        .header("host", "shop.fn.test")
        .header("x-forwarded-for", "203.0.113.9")
        .header("tradewind-min-revision", "999")
        .body(());
    request.unwrap().into_parts().0
}

/// Forwards one call; what came of it, and what of each gateway.
async fn forward(
    forwarder: &Forwarder,
    gateways: &[&str],
    body: &'static str,
) -> (
    Result<Forwarded, ForwardError<std::convert::Infallible>>,
    Vec<Outcome>,
) {
    let gateways: Vec<Gateway> = gateways
        .iter()
        .map(|address| Gateway {
            region: "there".to_owned(),
            address: (*address).to_owned(),
        })
        .collect();
    let head = request();
    let call = Call {
        head: &head,
        body: Full::new(Bytes::from_static(body.as_bytes())),
        caller: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        min_revision: Some(7),
        timeout: Duration::from_secs(30),
    };
    let told = Mutex::new(Vec::new());
    let came = forwarder
        .forward(call, &gateways, |_, outcome| {
            told.lock().unwrap().push(outcome)
        })
        .await;
    (came, told.into_inner().unwrap())
}

async fn text<B>(response: Response<B>) -> (StatusCode, String)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn answered(
    came: Result<Forwarded, ForwardError<std::convert::Infallible>>,
) -> Response<calls_forward::Reply> {
    match came {
        Ok(Forwarded::Answered(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn forwarder() -> Forwarder {
    Forwarder::new(api_wire::call_headers::BY_GLOBAL)
}

#[tokio::test]
async fn a_gateway_gets_the_body_once_it_has_said_100() {
    let mut tasks = JoinSet::new();
    for (body, framing, sent) in [
        ("hello", "Content-Length: 5", "hello"),
        ("", "Transfer-Encoding: chunked", "0\r\n\r\n"),
    ] {
        let gateway = Scripted::start(&mut tasks, [Step::Continue(body), Step::Say(ANSWER)]).await;
        let (came, told) = forward(&forwarder(), &[&gateway.address], body).await;
        assert_eq!(
            text(answered(came)).await,
            (StatusCode::OK, "hi".to_owned())
        );
        assert_eq!(told, [Outcome::Answered]);
        let heard = gateway.heard();
        let (head, received) = heard.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            format!(
                "POST /t/shop/hello?x=1 HTTP/1.1\r\nHost: shop.fn.test\r\n\
                 Tradewind-Forwarded-By: global\r\nTradewind-Min-Revision: 7\r\n\
                 X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n{framing}\r\nExpect: 100-continue"
            )
        );
        assert_eq!(received, sent);
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_take_a_call_costs_two_seconds_and_not_the_call() {
    let mut tasks = JoinSet::new();
    let taking = Scripted::start(&mut tasks, [Step::Continue("hello"), Step::Say(ANSWER)]).await;
    for (case, first, outcome, at_most) in [
        (
            "accepts and says nothing, as a stopped process's kernel does",
            Scripted::start(&mut tasks, [Step::Silence]).await,
            Outcome::Silent,
            Duration::from_secs(2),
        ),
        (
            "closes",
            Scripted::start(&mut tasks, [Step::Head, Step::Close]).await,
            Outcome::Unreachable,
            Duration::ZERO,
        ),
        (
            "has not the function",
            Scripted::start(&mut tasks, [Step::Head, Step::Say(NOT_HERE)]).await,
            Outcome::NotStarted,
            Duration::ZERO,
        ),
        (
            "speaks no HTTP",
            Scripted::start(&mut tasks, [Step::Head, Step::Say("220 smtp\r\n\r\n")]).await,
            Outcome::Unreachable,
            Duration::ZERO,
        ),
    ] {
        let began = Instant::now();
        let gateways = [first.address.as_str(), taking.address.as_str()];
        let (came, told) = forward(&forwarder(), &gateways, "hello").await;
        assert_eq!(text(answered(came)).await.1, "hi", "{case}");
        assert_eq!(told, [outcome, Outcome::Answered], "{case}");
        assert!(
            began.elapsed() < at_most + SLACK,
            "{case}: {:?}",
            began.elapsed()
        );
        assert!(
            !first.heard().ends_with("hello"),
            "{case}: the body stayed here"
        );
    }
    let refused = refusing().await;
    let (came, told) = forward(&forwarder(), &[&refused, &taking.address], "hello").await;
    assert_eq!(text(answered(came)).await.1, "hi");
    assert_eq!(told, [Outcome::Unreachable, Outcome::Answered]);
}

#[tokio::test]
async fn what_no_gateway_takes_has_not_been_started() {
    let mut tasks = JoinSet::new();
    let without = Scripted::start(&mut tasks, [Step::Head, Step::Say(NOT_HERE)]).await;
    let refused = refusing().await;
    let (came, told) = forward(&forwarder(), &[&without.address, &refused], "hello").await;
    match came {
        Ok(Forwarded::NotStarted {
            refusal: Some(refusal),
        }) => {
            assert_eq!(refusal.status(), StatusCode::NOT_FOUND);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(told, [Outcome::NotStarted, Outcome::Unreachable]);
}

#[tokio::test]
async fn an_answer_without_the_body_is_the_callers() {
    let mut tasks = JoinSet::new();
    let strict = Scripted::start(&mut tasks, [Step::Head, Step::Say(TOO_LARGE)]).await;
    let other = Scripted::start(&mut tasks, [Step::Continue("hello"), Step::Say(ANSWER)]).await;
    let gateways = [strict.address.as_str(), other.address.as_str()];
    let (came, _) = forward(&forwarder(), &gateways, "hello").await;
    assert_eq!(answered(came).status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(other.heard(), "");
}

#[tokio::test]
async fn a_gateway_that_falls_silent_with_the_call_is_given_up_and_nobody_else_gets_it() {
    let mut tasks = JoinSet::new();
    let silent = Scripted::start(&mut tasks, [Step::Continue("hello"), Step::Silence]).await;
    let other = Scripted::start(&mut tasks, [Step::Continue("hello"), Step::Say(ANSWER)]).await;
    let began = Instant::now();
    let gateways = [silent.address.as_str(), other.address.as_str()];
    let (came, told) = forward(&forwarder(), &gateways, "hello").await;
    assert!(matches!(came, Err(ForwardError::Silent { .. })), "{came:?}");
    assert_eq!(told, [Outcome::Failed]);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(5) + SLACK,
        "{took:?}"
    );
    assert_eq!(other.heard(), "");
}

#[tokio::test]
async fn a_long_call_is_waited_for_while_the_gateways_process_answers() {
    let mut tasks = JoinSet::new();
    let slow = [
        Step::Continue("hello"),
        Step::Work(Duration::from_secs(7)),
        Step::Say(ANSWER),
    ];
    let gateway = Scripted::start(&mut tasks, slow).await;
    let (came, _) = forward(&forwarder(), &[&gateway.address], "hello").await;
    assert_eq!(text(answered(came)).await.1, "hi");
    assert!(
        gateway.asked() >= 4,
        "asked {} times in 7 s",
        gateway.asked()
    );
}

#[tokio::test]
async fn connections_are_kept_and_a_stale_one_costs_nothing() {
    let mut tasks = JoinSet::new();
    let steps = [
        Step::Continue("hello"),
        Step::Say(ANSWER),
        Step::Continue("hello"),
        Step::Say(ANSWER),
        // Closed on the third, with its head already read.
        Step::Head,
        Step::Close,
    ];
    let gateway = Scripted::start(&mut tasks, steps).await;
    let forwarder = forwarder();
    for connections in [1, 1, 2] {
        let (came, told) = forward(&forwarder, &[&gateway.address], "hello").await;
        assert_eq!(text(answered(came)).await.1, "hi");
        assert_eq!(told, [Outcome::Answered]);
        assert_eq!(gateway.connections(), connections);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_whole_one() {
    let mut tasks = JoinSet::new();
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
    ] {
        let steps = [Step::Continue("hello"), Step::Say(cut), Step::Close];
        let gateway = Scripted::start(&mut tasks, steps).await;
        let (came, _) = forward(&forwarder(), &[&gateway.address], "hello").await;
        answered(came).into_body().collect().await.unwrap_err();
    }
}
