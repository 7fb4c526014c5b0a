//! What a request costs at a door, beside what its service does. Fails when it grows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use allocation_counter::measure;
use bytes::Bytes;
use calls_door::{Body, Caller, Limits, bind, serve};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const REQUESTS: u32 = 200;

/// Measured: 7. Two of them are the tables that a head of [`calls_door::limits::FIELDS_MAX`] fields would
/// need; they are not written to.
const ALLOCATIONS_MAX: u64 = 8;

async fn ask(stream: &mut TcpStream) {
    const REQUEST: &[u8] = b"POST /invoke/F HTTP/1.1\r\nhost: a.test\r\nuser-agent: x\r\n\
                             content-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = [0; 512];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\nhello") {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "closed");
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_request_on_a_kept_connection_allocates_no_more_than_it_did() {
    // One thread, so that what is counted on it is all there is.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let served = Arc::new(AtomicU32::new(0));
    let (mut stream, _tasks) = runtime.block_on(async {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&served);
        let service = move |_: Caller| {
            let served = Arc::clone(&served);
            service_fn(move |request: Request<Body>| {
                served.fetch_add(1, Ordering::Relaxed);
                async move {
                    let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
                    Ok::<_, Infallible>(Response::new(Body::from(body)))
                }
            })
        };
        let mut tasks = JoinSet::new();
        let shutdown = CancellationToken::new();
        tasks.spawn(serve(listener, service, shutdown, Limits::default()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..20 {
            ask(&mut stream).await;
        }
        (stream, tasks)
    });
    let before = served.load(Ordering::Relaxed);
    let counted = measure(|| {
        runtime.block_on(async {
            for _ in 0..REQUESTS {
                ask(&mut stream).await;
            }
        });
    });
    assert_eq!(served.load(Ordering::Relaxed) - before, REQUESTS);
    let requests = u64::from(REQUESTS);
    let (count, bytes) = (
        counted.count_total / requests,
        counted.bytes_total / requests,
    );
    println!("measured: {count} allocations of {bytes} bytes a request");
    assert!(
        count <= ALLOCATIONS_MAX,
        "{count} allocations of {bytes} bytes"
    );
}
