use std::io;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing::subscriber::DefaultGuard;

use super::*;

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

impl Captured {
    /// Of this thread only, which is the one that all of a test runs on.
    fn start() -> (Self, DefaultGuard) {
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (captured, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let of_function = text.lines().filter(|line| line.contains("DEBUG function:"));
        of_function.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn lines_are_logged_with_the_call_that_printed_them() {
    let (captured, _guard) = Captured::start();
    let (driver, instance, _bundle) = started(&[]).await;
    for id in ["FIRST", "SECOND"] {
        let mut asked = request(&format!("print from-{id}"));
        asked.call = CallId::new(id);
        insert(&mut asked, "fn-call-id", id);
        instance.call(asked, Instant::now() + LONG).await.unwrap();
    }
    // All that was printed has been read once the instance is gone.
    driver.shutdown().await;
    let lines = captured.lines();
    for id in ["FIRST", "SECOND"] {
        for line in [format!("from-{id}"), format!("from-{id} too")] {
            let want = format!(r#"app="shop" function="cart" call="{id}" line="{line}""#);
            let count = lines.iter().filter(|line| line.ends_with(&want)).count();
            assert_eq!(count, 1, "{want} in {lines:#?}");
        }
    }
    assert!(
        !lines.iter().any(|line| line.contains("tradewind-call")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn a_call_that_prints_too_much_is_cut_and_the_next_is_not() {
    let (captured, _guard) = Captured::start();
    let (driver, instance, _bundle) = started(&[]).await;
    text(&instance, "print-bytes 3000000").await;
    text(&instance, "print after").await;
    driver.shutdown().await;
    let lines = captured.lines();
    let kept = lines.iter().filter(|line| line.contains("yyy")).count();
    // 1 MiB in lines of 1000 bytes; what is still in the pipe when the next call begins counts for that.
    assert!((1_000..1_200).contains(&kept), "{kept} lines were kept");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("printed more than is kept"))
    );
    assert!(lines.iter().any(|line| line.ends_with(r#"line="after""#)));
}
