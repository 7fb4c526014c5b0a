//! `serve` over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use daemon::{BindError, HttpLimits, bind, operations, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Promised waits are milliseconds here; this only ends a hung test.
const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
}

fn start(router: Router, limits: HttpLimits) -> Served {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, router, shutdown.clone(), limits));
    Served {
        addr,
        shutdown,
        tasks,
    }
}

/// Writes `request` and reads until the server closes.
async fn exchange(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server answers or closes")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn operations_tell_liveness_readiness_and_metrics() {
    let router = operations(|| Err("no view yet".to_owned()));
    let served = start(router, HttpLimits::default());
    assert!(
        exchange(served.addr, &get_request("/healthz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    let ready = exchange(served.addr, &get_request("/readyz")).await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("no view yet"),
        "{ready}"
    );
    metrics::counter!("daemon_test_total").increment(3);
    let metrics = exchange(served.addr, &get_request("/metrics")).await;
    assert!(metrics.contains("daemon_test_total 3"), "{metrics}");
}

#[tokio::test]
async fn handlers_see_the_peer_on_http1_and_http2() {
    let router = Router::new().route(
        "/",
        get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()),
    );
    let served = start(router, HttpLimits::default());
    let answer = exchange(served.addr, &get_request("/")).await;
    assert!(answer.ends_with("127.0.0.1"), "{answer}");

    let stream = TcpStream::connect(served.addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = hyper::Request::get(format!("http://{}/", served.addr))
        .body(axum::body::Body::empty())
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 100)
        .await
        .unwrap();
    assert_eq!(body, "127.0.0.1");
}

#[tokio::test]
async fn shutdown_finishes_requests_in_flight_and_closes_idle_connections() {
    let (entered, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new().route(
        "/slow",
        get({
            let (entered, finish) = (Arc::clone(&entered), Arc::clone(&finish));
            async move || {
                entered.notify_one();
                finish.notified().await;
                "done"
            }
        }),
    );
    let mut served = start(router, HttpLimits::default());
    let mut idle = TcpStream::connect(served.addr).await.unwrap();
    let mut clients = JoinSet::new();
    clients.spawn(async move { exchange(served.addr, &get_request("/slow")).await });
    entered.notified().await;
    served.shutdown.cancel();
    let mut nothing = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut nothing))
        .await
        .unwrap()
        .unwrap();
    assert!(
        served.tasks.try_join_next().is_none(),
        "the request still runs"
    );
    finish.notify_one();
    let answer = clients.join_next().await.unwrap().unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    timeout(PATIENCE, served.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        TcpStream::connect(served.addr).await.is_err(),
        "the listener is closed"
    );
}

#[tokio::test]
async fn who_connected_before_the_shutdown_is_answered() {
    let router = Router::new().route("/", get(async || "answered"));
    let limits = HttpLimits {
        linger: PATIENCE,
        ..HttpLimits::default()
    };
    let served = start(router, limits);
    let mut kept = TcpStream::connect(served.addr).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 256];
    timeout(PATIENCE, kept.read(&mut first))
        .await
        .unwrap()
        .unwrap();
    // The server has it when it has answered one that came later.
    let silent = TcpStream::connect(served.addr).await.unwrap();
    exchange(served.addr, &get_request("/")).await;
    // On one thread the server runs only when this one waits, so these are still in the queue.
    let connect = || std::net::TcpStream::connect(served.addr).unwrap();
    let queued = [connect(), connect(), connect()];
    served.shutdown.cancel();
    timeout(PATIENCE, async {
        while TcpStream::connect(served.addr).await.is_ok() {}
    })
    .await
    .expect("the listener closes");
    let queued = queued.map(|stream| {
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    });
    let mut clients = queued.into_iter().chain([kept, silent]).collect::<Vec<_>>();
    for stream in &mut clients {
        stream.write_all(&get_request("/")).await.unwrap();
    }
    for mut stream in clients {
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.ends_with("answered"), "{answer:?}");
    }
}

#[tokio::test]
async fn shutdown_cuts_off_what_outlasts_the_grace() {
    let entered = Arc::new(Notify::new());
    let router = Router::new().route(
        "/never",
        get({
            let entered = Arc::clone(&entered);
            async move || {
                entered.notify_one();
                std::future::pending::<String>().await
            }
        }),
    );
    let limits = HttpLimits {
        grace: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    let mut served = start(router, limits);
    let mut clients = JoinSet::new();
    clients.spawn(async move { exchange(served.addr, &get_request("/never")).await });
    entered.notified().await;
    served.shutdown.cancel();
    timeout(PATIENCE, served.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(clients.join_next().await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn peers_that_do_not_ask_in_time_are_dropped() {
    let limits = HttpLimits {
        header_read_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    let served = start(Router::new(), limits);
    for (case, sent) in [
        ("silence", &b""[..]),
        ("half a preface", b"PRI * HTTP"),
        ("half a head", b"GET / HTTP/1.1\r\nhost:"),
    ] {
        let answer = exchange(served.addr, sent).await;
        assert!(!answer.contains(" 200 "), "{case}: {answer}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_are_then_served() {
    let limits = HttpLimits {
        connections_max: 1,
        ..HttpLimits::default()
    };
    let (entered, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, finish) = (Arc::clone(&entered), Arc::clone(&finish));
        async move || {
            entered.notify_one();
            finish.notified().await;
            "done"
        }
    };
    let hello = Router::new().route("/", get(async || "hello"));
    let served = start(hello.clone().route("/slow", get(slow)), limits);
    let mut first = JoinSet::new();
    first.spawn(async move { exchange(served.addr, &get_request("/slow")).await });
    entered.notified().await;
    let mut second = TcpStream::connect(served.addr).await.unwrap();
    second.write_all(&get_request("/")).await.unwrap();
    // On this one thread whatever was sent before is looked at before, so once a later exchange with
    // another server is over the second connection would have its answer.
    let other = start(hello, HttpLimits::default());
    for _ in 0..3 {
        exchange(other.addr, &get_request("/")).await;
    }
    let unread = second.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(unread.kind(), std::io::ErrorKind::WouldBlock);
    finish.notify_one();
    assert!(first.join_next().await.unwrap().unwrap().ends_with("done"));
    let mut answer = String::new();
    timeout(PATIENCE, second.read_to_string(&mut answer))
        .await
        .expect("it is served")
        .unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_for_another_and_one_in_use_is_not() {
    let (entered, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, finish) = (Arc::clone(&entered), Arc::clone(&finish));
        async move || {
            entered.notify_one();
            finish.notified().await;
            "done"
        }
    };
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/slow", get(slow));
    let limits = HttpLimits {
        connections_max: 2,
        header_read_timeout: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let served = start(router, limits);
    let mut clients = JoinSet::new();
    clients.spawn(async move { exchange(served.addr, &get_request("/slow")).await });
    entered.notified().await;
    let mut idle = TcpStream::connect(served.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();

    let third = exchange(served.addr, &get_request("/")).await;
    assert!(third.ends_with("hello"), "{third}");
    let mut answer = String::new();
    timeout(PATIENCE, idle.read_to_string(&mut answer))
        .await
        .expect("the idle connection is closed")
        .unwrap();
    assert!(answer.ends_with("hello"), "after its answer: {answer}");
    finish.notify_one();
    let slow = clients.join_next().await.unwrap().unwrap();
    assert!(slow.ends_with("done"), "{slow}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
    let dropped = Arc::new(std::sync::Mutex::new(Some(dropped)));
    let router = Router::new().route(
        "/",
        get(async move || {
            let held = dropped.lock().unwrap().take();
            let endless = futures_util::stream::repeat_with(move || {
                let _until_dropped = &held;
                Ok::<_, std::convert::Infallible>(vec![7_u8; 1 << 16])
            });
            axum::body::Body::from_stream(endless)
        }),
    );
    let limits = HttpLimits {
        unread_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let served = start(router, limits);
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    stream.write_all(&get_request("/")).await.unwrap();
    let cut = timeout(PATIENCE, gone)
        .await
        .expect("the answer is dropped");
    cut.unwrap_err();
}

#[tokio::test]
async fn a_steady_reader_takes_from_its_answer_steadily() {
    const ANSWER_BYTES: usize = 6 << 20;
    const PIECE: usize = 16 << 10;
    const READ: usize = 8 << 10;
    // Half of it is for data; what is set is never made larger, however fast the reader.
    const RECEIVE_BUFFER: u32 = 128 << 10;
    // In bytes, so that a machine that is busy makes it longer but no larger: the reader's buffer
    // and what waits to be sent, three times. Without a bound on the latter it is over a MiB.
    const READ_BETWEEN_MAX: usize = 3 * (192 << 10);

    let taken = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route("/", {
        let taken = Arc::clone(&taken);
        get(async move || {
            let pieces = (0..ANSWER_BYTES / PIECE).map(move |_| {
                taken.fetch_add(PIECE, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(vec![7_u8; PIECE])
            });
            axum::body::Body::from_stream(futures_util::stream::iter(pieces))
        })
    });
    let served = start(router, HttpLimits::default());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER / 2).unwrap();
    let mut stream = socket.connect(served.addr).await.unwrap();
    stream.write_all(&get_request("/")).await.unwrap();

    let reading = async {
        let (mut seen, mut since, mut longest) = (0, 0, 0);
        let mut buffer = [0; READ];
        // Without a pause it would be as fast as the server, and show nothing.
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        while seen < ANSWER_BYTES {
            pace.tick().await;
            since += stream.read_exact(&mut buffer).await.unwrap();
            longest = longest.max(since);
            let now = taken.load(Ordering::Relaxed);
            if now > seen {
                (seen, since) = (now, 0);
            }
        }
        longest
    };
    let longest = timeout(PATIENCE, reading).await.unwrap();
    assert!(longest <= READ_BETWEEN_MAX, "{longest} bytes");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let held = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = held.local_addr().unwrap();
    let error = bind(addr).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}
