//! What functions print.

use std::io;
use std::sync::{Arc, Mutex};

use api_types::CallId;
use region_plane_runtime::{Instance as _, Runtime as _};
use tokio::time::Instant;
use tracing_subscriber::filter::LevelFilter;

use crate::cluster::{Bundle, Cluster};
use crate::{LONG, request, soon};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// On one thread, which is the one whose lines are captured.
#[tokio::test]
async fn lines_are_logged_with_the_call_that_printed_them_up_to_the_last() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let cluster = Cluster::start().await;
    let driver = cluster.driver();
    let _pod = cluster.pool_pod("a", 128).await;
    let bundle = Bundle::new();
    let instance = soon("a start", driver.start(bundle.spec("F", 1)))
        .await
        .unwrap();
    for id in ["FIRST", "SECOND"] {
        let mut asked = request(&format!("print from-{id}"));
        asked.call = CallId::new(id);
        asked.headers.insert("fn-call-id", id.parse().unwrap());
        let answer = instance.call(asked, Instant::now() + LONG).await;
        answer.unwrap();
    }
    // At once, so that what the last call printed is still under way.
    soon("a stop", instance.stop()).await;
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    for id in ["FIRST", "SECOND"] {
        for (stream, line) in [
            ("Stdout", format!("from-{id}")),
            ("Stderr", format!("from-{id} too")),
        ] {
            let want =
                format!(r#"app="shop" function="cart" call="{id}" stream={stream} line="{line}""#);
            let count = text.lines().filter(|line| line.ends_with(&want)).count();
            assert_eq!(count, 1, "{want} in {text}");
        }
    }
}
