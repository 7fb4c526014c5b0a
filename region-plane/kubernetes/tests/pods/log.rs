//! What functions print, and what the driver says.

use std::io;
use std::sync::Arc;

use api_types::CallId;
use region_plane_runtime::{Instance as _, Runtime as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::subscriber::DefaultGuard;

use crate::cluster::{Bundle, Cluster};
use crate::{LONG, insert, request, soon};

/// Said of each claim that a runner refuses.
pub const REFUSED: &str = "a pod is not to be had";

/// What is logged on this thread, as long as it lives. For tests on one thread, whose tasks all run there.
pub struct Said {
    lines: Lines,
    _until: DefaultGuard,
}

#[derive(Clone)]
struct Lines(Arc<watch::Sender<String>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.send_modify(|lines| lines.push_str(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    pub fn from_now_on() -> Self {
        let lines = Lines(Arc::new(watch::Sender::default()));
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("region_plane_kubernetes=debug,function=debug")
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        Self {
            lines,
            _until: tracing::subscriber::set_default(subscriber),
        }
    }

    pub async fn until(&self, phrase: &str, times: usize) {
        let mut lines = self.lines.0.subscribe();
        let said = lines.wait_for(|lines| lines.matches(phrase).count() >= times);
        soon(phrase, said).await.unwrap();
    }
}

#[tokio::test]
async fn lines_are_logged_with_the_call_that_printed_them_up_to_the_last() {
    let said = Said::from_now_on();
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
        insert(&mut asked, "fn-call-id", id);
        let answer = instance.call(asked, Instant::now() + LONG).await;
        answer.unwrap();
    }
    // At once, so that what the last call printed is still under way.
    soon("a stop", instance.stop()).await;
    let text = said.lines.0.borrow().clone();
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
