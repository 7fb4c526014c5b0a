use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};

use region_plane_runner::protocol::{CALL_BODY_BYTES_MAX, RESPONSE_BYTES_MAX};

use super::*;

/// A runner, claimed as `1`, with the fake function ready.
async fn with_fake(settings: &[(&str, &str)]) -> (Runner, Process) {
    let runner = Runner::start("image", settings);
    let function = runner.function(&fake_function(), &[]);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    (runner, function)
}

/// A function that answers when the test wants it to.
struct Slow {
    listener: UnixListener,
}

impl Slow {
    fn listen(runner: &Runner) -> Self {
        let listener = UnixListener::bind(runner.sockets().join("phonylsnr.sock")).unwrap();
        symlink("phonylsnr.sock", runner.sockets().join("lsnr.sock")).unwrap();
        Self { listener }
    }

    /// The connection of the next call, once all of it is here.
    async fn called(&self) -> UnixStream {
        let listener = self.listener.try_clone().unwrap();
        let called = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"ping") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream
        });
        timeout(LONG, called).await.expect("a call").unwrap()
    }
}

fn answer(mut stream: &UnixStream) {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")
        .unwrap();
}

#[tokio::test]
async fn an_image_is_starting_until_its_function_listens() {
    let runner = Runner::start("image", &[]);
    runner.claim(&claim("1", "fn-a", None)).await;
    let mut events = runner.events("1").await;
    events.until_phase(Phase::Starting).await;
    let early = runner.ready_within("1", 1).await;
    assert_eq!(early.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(runner.call("1", "").await.call_error(), Some("busy"));
    assert_eq!(
        runner.state().await.phase,
        Phase::Starting,
        "it may be pulled yet"
    );

    let _function = runner.function(&fake_function(), &[]);
    events.until_phase(Phase::Ready).await;
    let answer = runner.call("1", "").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::OK, "ping".to_owned())
    );

    let asked = runner
        .call_request("1", "headers", 30_000)
        .header(RESPONSE_BYTES_MAX, 10_000)
        .body(Full::from("ping"));
    let headers = runner.ask(asked.unwrap()).await.text();
    for (line, there) in [
        ("fn-call-id: \"CALL\"", true),
        ("host: \"localhost\"", true),
        ("tradewind-", false),
    ] {
        assert_eq!(headers.contains(line), there, "{line} in\n{headers}");
    }
}

#[tokio::test]
async fn a_function_that_was_faster_than_its_runner_is_seen() {
    let runner = Runner::start("image", &[]);
    let _function = Slow::listen(&runner);
    runner.until(|state| state.phase == Phase::Ready).await;
    drop(runner.process);
    // Another runner with the same folder, as if it had started later.
    let sockets = runner.folders.path().join("s");
    let settings = [("TRADEWIND_RUNNER_SOCKET_DIR", sockets.to_str().unwrap())];
    let mut later = Runner::start("image", &settings);
    later.until(|state| state.phase == Phase::Ready).await;
    later.process.signal(Signal::TERM);
    assert!(later.process.ended().await.success());
}

#[tokio::test]
async fn a_bad_link_is_a_failure_with_its_reason() {
    let runner = Runner::start("image", &[]);
    runner.claim(&claim("1", "fn-a", None)).await;
    let _function = runner.function(&fake_function(), &[("BEHAVIOUR", "absolute-link")]);
    let answer = runner.ready_within("1", 30_000).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(
        answer
            .message()
            .contains("not a name in the same directory"),
        "{}",
        answer.message()
    );
    runner.release("1").await;
    let refused = runner.post(CLAIM_PATH, &claim("2", "fn-a", None)).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn failures_of_calls_are_told_apart_and_some_end_the_instance() {
    for (behave, timeout_ms, status, failure, over) in [
        ("error", 30_000, 502, "function_failed", false),
        ("answer-bytes 1001", 30_000, 502, "body_too_large", true),
        ("hang", 200, 504, "timed_out", true),
        ("crash", 30_000, 502, "broken", true),
    ] {
        let (runner, _function) = with_fake(&[]).await;
        let request = runner
            .call_request("1", behave, timeout_ms)
            .header(RESPONSE_BYTES_MAX, 1000);
        let request = request.body(Full::from("ping")).unwrap();
        let answer = runner.ask(request).await;
        assert_eq!(answer.status.as_u16(), status, "{behave}");
        assert_eq!(answer.call_error(), Some(failure), "{behave}");
        let next = runner.call("1", "").await;
        let state = runner.state().await;
        if over {
            assert_eq!(next.call_error(), Some("gone"), "{behave}");
            assert!(state.phase.is_over(), "{behave}: {state:?}");
            assert!(state.reason.is_some(), "{behave}");
        } else {
            assert_eq!(next.text(), "ping", "{behave}");
            assert_eq!(state.phase, Phase::Ready, "{behave}");
        }
    }
}

#[tokio::test]
async fn a_status_of_its_own_is_passed_on() {
    let runner = Runner::start("image", &[]);
    let raw = [
        ("BEHAVIOUR", "raw"),
        ("RESPONSE", "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
    ];
    let _function = runner.function(&fake_function(), &raw);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    let answer = runner.call("1", "").await;
    assert_eq!(answer.call_error(), Some("invalid_status"));
    assert_eq!(answer.json::<Trouble>().status, Some(500));
}

#[tokio::test]
async fn a_function_that_died_idle_is_found_gone_by_the_call_it_did_not_get() {
    let (runner, mut function) = with_fake(&[]).await;
    function.signal(Signal::KILL);
    function.ended().await;
    let answer = runner.call("1", "").await;
    assert_eq!(answer.status, StatusCode::GONE);
    assert_eq!(answer.call_error(), Some("gone"));
    assert_eq!(runner.state().await.phase, Phase::Gone);
}

#[tokio::test]
async fn one_call_is_inside_at_a_time() {
    let runner = Runner::start("image", &[]);
    let function = Slow::listen(&runner);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    let (first, ()) = tokio::join!(runner.call("1", ""), async {
        let stream = function.called().await;
        assert!(runner.state().await.running);
        assert_eq!(runner.call("1", "").await.call_error(), Some("busy"));
        answer(&stream);
    });
    assert_eq!(first.text(), "pong");
}

#[tokio::test]
async fn a_call_whose_gateway_left_goes_on_and_the_instance_serves_the_next() {
    let runner = Runner::start("image", &[]);
    let function = Slow::listen(&runner);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    let stream = tokio::select! {
        _ = runner.call("1", "") => panic!("nobody answered it"),
        stream = function.called() => stream,
    };
    assert!(runner.state().await.running);
    answer(&stream);
    runner.until(|state| !state.running).await;
    drop(stream);
    let (next, ()) = tokio::join!(runner.call("1", ""), async {
        answer(&function.called().await);
    });
    assert_eq!(next.text(), "pong");
}

#[tokio::test]
async fn a_gateway_started_again_has_the_pod_once_the_call_inside_has_ended() {
    let runner = Runner::start("image", &[]);
    let function = Slow::listen(&runner);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    let mut events = runner.events("1").await;
    let next = claim_of_next_boot("2", "fn-a", None);
    // Its predecessor is not dead, only slow: it gets its answer, and nothing more.
    let (first, ()) = tokio::join!(runner.call("1", ""), async {
        let stream = function.called().await;
        let refused = runner.post(CLAIM_PATH, &next).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
        while events.next().await.is_some() {}
        assert_eq!(runner.call("1", "").await.call_error(), Some("not_claimed"));
        let repeated = runner.post(CLAIM_PATH, &claim("1", "fn-a", None)).await;
        assert_eq!(repeated.status, StatusCode::CONFLICT);
        answer(&stream);
    });
    assert_eq!(first.text(), "pong");
    let claimed = runner.claim_soon(&next).await;
    assert_eq!(claimed.phase, Phase::Ready);
    let (second, ()) = tokio::join!(runner.call("2", ""), async {
        answer(&function.called().await);
    });
    assert_eq!(second.text(), "pong");
    assert_eq!(runner.state().await.calls, 2);
}

#[tokio::test]
async fn a_call_that_is_coming_does_not_keep_the_next_boot_waiting() {
    let (runner, _function) = with_fake(&[]).await;
    // As of a gateway that stopped in the midst of it: it neither goes on nor breaks off.
    let _half = runner.begin(&format!(
        "POST {CALL_PATH} HTTP/1.1\r\nHost: r\r\nTradewind-Claim: 1\r\nTradewind-Timeout-Ms: 86400000\r\n\
         Content-Length: 4\r\n\r\npi"
    ));
    let coming = async { while runner.call("1", "").await.call_error() != Some("busy") {} };
    timeout(LONG, coming).await.expect("it has begun");
    let claim = claim_of_next_boot("2", "fn-a", None);
    runner.claim_soon(&claim).await;
    assert_eq!(runner.call("2", "").await.text(), "ping");
}

#[tokio::test]
async fn bodies_of_requests_are_bounded() {
    let (runner, _function) = with_fake(&[]).await;
    let answer = runner.raw(&format!(
        "POST {CALL_PATH} HTTP/1.1\r\nHost: r\r\nTradewind-Claim: 1\r\nTradewind-Timeout-Ms: 9999\r\n\
         Content-Length: {}\r\n\r\n",
        CALL_BODY_BYTES_MAX + 1
    ));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let large = vec![b' '; 5 << 20];
    let answer = runner
        .ask(
            runner
                .request("POST", CLAIM_PATH)
                .body(Full::from(large))
                .unwrap(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(runner.call("1", "").await.text(), "ping", "it is not stuck");
}

#[tokio::test]
async fn the_gateway_says_how_long_an_answer_may_be_within_what_a_runner_holds() {
    let (runner, _function) = with_fake(&[]).await;
    let seven = "answer-bytes 7000000";
    let request = runner
        .call_request("1", seven, 30_000)
        .header(RESPONSE_BYTES_MAX, usize::MAX);
    let answer = runner.ask(request.body(Full::from("ping")).unwrap()).await;
    assert_eq!(
        (answer.status, answer.body.len()),
        (StatusCode::OK, 7_000_000)
    );
    // One that does not say it, of an earlier version, has 6 MiB.
    let answer = runner.call("1", seven).await;
    assert_eq!(answer.call_error(), Some("body_too_large"));
}

#[tokio::test]
async fn a_call_whose_body_comes_too_late_has_timed_out() {
    let (runner, _function) = with_fake(&[]).await;
    let answer = runner.raw(&format!(
        "POST {CALL_PATH} HTTP/1.1\r\nHost: r\r\nTradewind-Claim: 1\r\nTradewind-Timeout-Ms: 100\r\n\
         Content-Length: 4\r\n\r\npi"
    ));
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(
        answer.contains("tradewind-call-error: timed_out"),
        "{answer}"
    );
    assert_eq!(
        runner.call("1", "").await.text(),
        "ping",
        "nothing came of it"
    );
}

#[tokio::test]
async fn peers_that_say_nothing_do_not_keep_the_port_for_good() {
    let runner = Runner::start("image", &[]);
    let silent = ["", "PRI * HTTP/2.0\r\n"];
    let _silent: Vec<_> = (0..64)
        .map(|number| runner.begin(silent[number % 2]))
        .collect();
    runner.claim(&claim("1", "fn-a", None)).await;
}

#[tokio::test]
async fn claims_that_do_not_go_on_are_few_and_do_not_stay() {
    let runner = Runner::start("image", &[]);
    let claim = claim("1", "fn-a", None);
    // As of a function that means to fill its runner's memory.
    let half =
        format!("POST {CLAIM_PATH} HTTP/1.1\r\nHost: r\r\nContent-Length: 4000000\r\n\r\n{{");
    let mut begun: Vec<_> = (0..8).map(|_| runner.begin(&half)).collect();
    let too_many = async {
        while runner.post(CLAIM_PATH, &claim).await.status != StatusCode::SERVICE_UNAVAILABLE {}
    };
    timeout(LONG, too_many).await.expect("they are counted");
    let mut answers = BTreeMap::new();
    for stream in &mut begun {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        *answers.entry(answer).or_insert(0) += 1;
    }
    let of = |status: u16| answers.get(format!("HTTP/1.1 {status}").as_bytes());
    assert_eq!((of(408), of(503)), (Some(&4), Some(&4)));
    runner.claim(&claim).await;
}

#[tokio::test]
async fn a_large_call_passes_both_ways() {
    let (runner, _function) = with_fake(&[]).await;
    let body = Bytes::from(vec![b'x'; 6 << 20]);
    let request = runner
        .request("POST", CALL_PATH)
        .header(CLAIM, "1")
        .header(TIMEOUT_MS, 30_000)
        .body(Full::new(body.clone()))
        .unwrap();
    let answer = runner.ask(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == body);
}

#[tokio::test]
async fn a_large_call_is_refused_before_it_is_read() {
    let (runner, _function) = with_fake(&[]).await;
    for (claim, failure) in [("2", "not_claimed"), ("1", "gone")] {
        if failure == "gone" {
            runner.call_within("1", "hang", 50).await;
        }
        let request = runner
            .request("POST", CALL_PATH)
            .header(CLAIM, claim)
            .header(TIMEOUT_MS, 30_000)
            .body(Full::from(vec![b'x'; 6 << 20]))
            .unwrap();
        assert_eq!(runner.ask(request).await.call_error(), Some(failure));
    }
}

#[tokio::test]
async fn a_claim_is_dropped_when_its_gateway_is_silent_and_the_pod_stays_hot() {
    // Longer than any pause a busy machine makes between two requests.
    let runner = Runner::start("image", &[("TRADEWIND_RUNNER_LEASE_MS", "2000")]);
    let _function = runner.function(&fake_function(), &[]);
    runner.until(|state| state.phase == Phase::Ready).await;
    runner.claim(&claim("2", "fn-a", None)).await;
    let mut events = runner.events("2").await;
    events.until_phase(Phase::Ready).await;
    drop(events);
    let state = runner.until(|state| state.claim.is_none()).await;
    assert_eq!(state.phase, Phase::Ready);
    assert_eq!(runner.call("2", "").await.call_error(), Some("not_claimed"));
    let ready = runner.ready_within("2", 1_000).await;
    assert_eq!(ready.status, StatusCode::CONFLICT);
    let claimed = runner.claim(&claim("3", "fn-a", None)).await;
    assert_eq!(claimed.phase, Phase::Ready);
}

#[tokio::test]
async fn a_termination_waits_for_the_call_inside_and_takes_no_other() {
    let mut runner = Runner::start("image", &[("TRADEWIND_RUNNER_GRACE_MS", "30000")]);
    let function = Slow::listen(&runner);
    runner.claim(&claim("1", "fn-a", None)).await;
    runner.ready("1").await;
    let mut events = runner.events("1").await;
    let (address, terminated) = (
        runner.address,
        Pid::from_raw(i32::try_from(runner.process.0.id()).unwrap()).unwrap(),
    );
    let (answered, ()) = tokio::join!(runner.call("1", ""), async {
        let stream = function.called().await;
        kill_process(terminated, Signal::TERM).unwrap();
        while events.next().await.is_some() {}
        let refused = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, refused).await.expect("its port is closed");
        answer(&stream);
    });
    assert_eq!(answered.text(), "pong");
    assert!(runner.process.ended().await.success());
}

#[tokio::test]
async fn people_can_ask_too() {
    let (runner, _function) = with_fake(&[]).await;
    runner.call("1", "").await;
    let health = runner.raw("GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n");
    assert!(health.ends_with("ok\n"), "{health}");
    let metrics = runner.get("/metrics").await.text();
    for line in [
        "tradewind_runner_calls_total 1",
        "tradewind_runner_claimed 1",
        "tradewind_runner_ready 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    assert_eq!(runner.get("/v2/state").await.status, StatusCode::NOT_FOUND);
}
