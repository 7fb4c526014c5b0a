//! `serve` over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use calls_door::{Body, Caller, Limits, Refusal, bind, serve};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// This only ends a hung test.
const PATIENCE: Duration = Duration::from_secs(20);

struct Door {
    address: SocketAddr,
    /// A request to `/wait` has come.
    entered: Arc<Notify>,
    /// It may go on.
    finish: Arc<Notify>,
    /// It was given up.
    left: Arc<Notify>,
    _tasks: JoinSet<std::io::Result<()>>,
}

struct Leaving(Arc<Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn door(limits: Limits) -> Door {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let [entered, finish, left] = [(); 3].map(|()| Arc::new(Notify::new()));
    let shared = (Arc::clone(&entered), Arc::clone(&finish), Arc::clone(&left));
    let service = move |caller: Caller| {
        let (entered, finish, left) = shared.clone();
        service_fn(move |request: Request<Body>| {
            let (entered, finish, left) = (entered.clone(), finish.clone(), left.clone());
            async move {
                let answer = match request.uri().path() {
                    "/caller" => text(caller.address.to_string()),
                    "/refuse" => Refusal::not_found("nothing here").respond(),
                    "/wait" => {
                        let leaving = Leaving(left);
                        entered.notify_one();
                        finish.notified().await;
                        std::mem::forget(leaving);
                        text("waited".to_owned())
                    }
                    _ => match request.into_body().collect().await {
                        Ok(body) => Response::new(Body::from(body.to_bytes())),
                        Err(_) => Refusal::body_broken().respond(),
                    },
                };
                Ok::<_, Infallible>(answer)
            }
        })
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, service, CancellationToken::new(), limits));
    Door {
        address,
        entered,
        finish,
        left,
        _tasks: tasks,
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(Body::from(Bytes::from(text)))
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the door answers or closes")
        .expect("the connection is not reset");
    String::from_utf8(answer).unwrap()
}

fn post(path: &str, fields: &str, bytes: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {bytes}\r\n\r\n{}",
        "x".repeat(bytes)
    )
}

#[tokio::test]
async fn a_client_that_closed_its_sending_half_gets_its_answer() {
    let door = door(Limits::default());
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream
        .write_all(post("/wait", "", 3).as_bytes())
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    door.entered.notified().await;
    door.finish.notify_one();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with("waited"), "{answer}");
}

#[tokio::test]
async fn a_call_of_a_client_that_reset_its_connection_is_given_up() {
    let door = door(Limits::default());
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream
        .write_all(post("/wait", "", 0).as_bytes())
        .await
        .unwrap();
    door.entered.notified().await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    timeout(PATIENCE, door.left.notified())
        .await
        .expect("the reset is noticed");
}

/// Its end says no more than that of a client that reads on, until it is sent something.
#[tokio::test]
async fn a_call_of_a_client_that_closed_its_connection_is_given_up() {
    let door = door(Limits::default());
    for case in ["at once", "after it had closed its sending half"] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream
            .write_all(post("/wait", "", 3).as_bytes())
            .await
            .unwrap();
        door.entered.notified().await;
        if case != "at once" {
            stream.shutdown().await.unwrap();
            let mut interim = [0; 25];
            stream.read_exact(&mut interim).await.unwrap();
            assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        drop(stream);
        timeout(PATIENCE, door.left.notified()).await.expect(case);
    }
}

/// Longer than between two looks for clients that left: what is not given up within three of them is kept.
const THREE_LOOKS: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_client_that_reads_on_is_asked_in_http_1_1_alone_and_gets_its_answer() {
    let door = door(Limits::default());
    for (version, asked) in [("1.1", true), ("1.0", false)] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let request = post("/wait", "", 3).replace("HTTP/1.1", &format!("HTTP/{version}"));
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        door.entered.notified().await;
        // A span of time is what is promised.
        let given_up = timeout(THREE_LOOKS, door.left.notified()).await;
        assert!(given_up.is_err(), "{version}: the client still reads");
        door.finish.notify_one();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.ends_with("waited"), "{version}: {answer}");
        assert_eq!(
            answer.contains("100 Continue"),
            asked,
            "{version}: {answer}"
        );
        assert!(answer.contains(" 200 OK\r\n"), "{version}: {answer}");
    }
}

#[tokio::test]
async fn heads_have_a_budget_together_that_small_ones_do_not_need() {
    let door = door(Limits {
        heads_bytes_max: 256 << 10,
        ..Limits::default()
    });
    let field = |kib: usize| format!("x: {}\r\n", "v".repeat(kib << 10));
    let begun = |kib: usize| format!("GET / HTTP/1.1\r\nhost: x\r\n{}", field(kib));
    let end = "connection: close\r\n\r\n";
    // Two that are half here have nearly all there is.
    let mut half: Vec<TcpStream> = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(begun(120).as_bytes()).await.unwrap();
        half.push(stream);
    }
    let ask = async |kib: usize| {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let request = begun(kib) + end;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    };
    let refused = loop {
        // Until all of the two has been read.
        let answer = ask(100).await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            break answer;
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 15\r\n"), "{refused}");
    assert!(
        refused.ends_with("\"}\n") && refused.contains("header"),
        "{refused}"
    );
    let small = ask(8).await;
    assert!(small.starts_with("HTTP/1.1 200 "), "{small}");

    // What was begun is answered, and gives back what it had. So does what its client gave up.
    let mut first = half.remove(0);
    first.write_all(end.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut first).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(half);
    let all = async { while !ask(240).await.starts_with("HTTP/1.1 200 ") {} };
    timeout(PATIENCE, all).await.expect("all is given back");

    // A request that waits holds its head, in HTTP/2 too.
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://{}{path}", door.address);
        let request = Request::get(uri).header("x", "v".repeat(200 << 10));
        request.body(http_body_util::Empty::<Bytes>::new()).unwrap()
    };
    let waiting = sender.send_request(request("/wait"));
    door.entered.notified().await;
    let second = sender.send_request(request("/")).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    door.finish.notify_one();
    assert_eq!(waiting.await.unwrap().status(), StatusCode::OK);
    let third = async {
        while sender.send_request(request("/")).await.unwrap().status() != StatusCode::OK {}
    };
    timeout(PATIENCE, third).await.expect("it is given back");
}

/// The question is that of forwarders, which come by connections of their own.
#[tokio::test]
async fn a_full_door_says_so_and_answers_whether_its_process_lives() {
    let door = door(Limits {
        connections_max: 8,
        descriptors_percent: 100,
        ..Limits::default()
    });
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream
            .write_all(post("/wait", "connection: close\r\n", 0).as_bytes())
            .await
            .unwrap();
        door.entered.notified().await;
        all.push(stream);
    }
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        answer.split("\r\n").next().unwrap().to_owned()
    };
    // More of them than may wait: one after another they all hear it.
    let calls = futures_util::future::join_all((0..20).map(|_| ask("/")));
    let alive = ask("/.well-known/tradewind-alive");
    let (calls, alive) = timeout(PATIENCE, futures_util::future::join(calls, alive))
        .await
        .unwrap();
    for call in calls {
        assert_eq!(call, "HTTP/1.1 503 Service Unavailable");
    }
    assert_eq!(alive, "HTTP/1.1 200 OK", "of the service itself");
    // With a place free again calls are served as ever.
    door.finish.notify_one();
    let free = async { while ask("/").await != "HTTP/1.1 200 OK" {} };
    timeout(PATIENCE, free).await.expect("a place is free");
}

#[tokio::test]
async fn refused_uploads_hear_why_and_small_ones_keep_their_connection() {
    let door = door(Limits::default());
    for (case, request, keeps) in [
        ("small", post("/refuse", "", 1 << 10), true),
        ("large", post("/refuse", "", 8 << 20), false),
        (
            "one that waits for a 100",
            "POST /refuse HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
             content-length: 5\r\n\r\n"
                .to_owned(),
            false,
        ),
    ] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if keeps {
            let last = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                        content-length: 4\r\n\r\nlast";
            stream.write_all(last.as_bytes()).await.unwrap();
        }
        let answer = read_to_end(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 404 Not Found\r\n"),
            "{case}: {answer}"
        );
        assert!(answer.contains("nothing here"), "{case}: {answer}");
        assert!(!answer.contains(" 100 "), "{case}: {answer}");
        assert_eq!(answer.ends_with("last"), keeps, "{case}: {answer}");
        let closes = answer.contains("connection: close");
        assert!(closes, "{case}: {answer}");
    }
}

#[tokio::test]
async fn heads_that_the_library_refuses_are_refused_in_our_words() {
    let door = door(Limits::default());
    let fields =
        |count: usize| -> String { (0..count).map(|at| format!("x-{at}: v\r\n")).collect() };
    for (case, fields, status) in [
        ("a hundred and more", fields(150), "200 OK"),
        ("all there may be", fields(9_998), "200 OK"),
        (
            "too many",
            fields(10_001),
            "431 Request Header Fields Too Large",
        ),
        (
            "too long",
            format!("x: {}\r\n", "v".repeat(1 << 20)),
            "431 Request Header Fields Too Large",
        ),
        ("malformed", "x y: z\r\n".to_owned(), "400 Bad Request"),
    ] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{case}: {answer}"
        );
        let is_ours = answer.ends_with("\"}\n") && answer.contains("application/json");
        assert_eq!(is_ours, status != "200 OK", "{case}: {answer}");
    }
}

#[tokio::test]
async fn http2_heads_have_the_same_bounds() {
    let door = door(Limits::default());
    let stream = TcpStream::connect(door.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(executor)
        .handshake(io)
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    for (fields, status) in [
        (9_000, StatusCode::OK),
        (11_000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ] {
        let mut request = Request::get(format!("http://{}/", door.address))
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        for at in 0..fields {
            let name: http::HeaderName = format!("x-{at}").parse().unwrap();
            request.headers_mut().insert(name, "v".parse().unwrap());
        }
        let answer = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.status(), status, "{fields} fields");
        if status != StatusCode::OK {
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(b"{\"message\""), "{body:?}");
        }
    }
}

#[tokio::test]
async fn proxies_of_listed_networks_say_who_calls() {
    let limits = Limits {
        proxies: vec!["127.0.0.1".parse().unwrap()],
        ..Limits::default()
    };
    let door = door(limits);
    let ask = "GET /caller HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let v4 = [203, 0, 113, 9, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
    let proxied = [&signature[..], &[0x21, 0x11, 0, 12], &v4, ask.as_bytes()].concat();
    let by_itself = [&signature[..], &[0x20, 0, 0, 0], ask.as_bytes()].concat();
    for (case, sent, want) in [
        ("a caller", &proxied[..], "203.0.113.9:8080"),
        ("the proxy itself", &by_itself, "127.0.0.1:"),
    ] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        // In two pieces, as it may come.
        let (first, second) = sent.split_at(7);
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(second).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.contains(want), "{case}: {answer}");
    }
    let mut plain = TcpStream::connect(door.address).await.unwrap();
    plain.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Reset or closed: either way nothing is said.
    let _closed = timeout(PATIENCE, plain.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"", "no proxy may leave the header out");
}

#[tokio::test]
async fn nobody_is_believed_whose_network_is_not_listed() {
    let limits = Limits {
        proxies: vec!["192.0.2.0/24".parse().unwrap()],
        ..Limits::default()
    };
    let door = door(limits);
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let v4 = [203, 0, 113, 9, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
    let sent = [&signature[..], &[0x21, 0x11, 0, 12], &v4].concat();
    stream.write_all(&sent).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
