use std::collections::BTreeMap;
use std::sync::OnceLock;

use api_bundle::{Manifest, Tree};
use api_types::{Digest, Platform};
use region_plane_runner::protocol::{Conflict, LogLine, LogStream, bundle_path};

use super::*;

/// A bundle, packed.
#[derive(Clone)]
struct Code {
    digest: Digest,
    packed: Bytes,
}

impl Code {
    fn of(program: &Path, entrypoint: &[&str]) -> Self {
        Self::built_for(&Platform::here().0, program, entrypoint)
    }

    fn built_for(platform: &str, program: &Path, entrypoint: &[&str]) -> Self {
        let mut tree = Tree::default();
        tree.add_file("function/program", program, true).unwrap();
        let manifest = Manifest {
            schema: api_bundle::manifest::SCHEMA,
            name: "f".to_owned(),
            version: "1".to_owned(),
            runtime: "executable".to_owned(),
            platform: platform.to_owned(),
            entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
            cmd: Vec::new(),
        };
        let mut packed = Vec::new();
        let digest = tree.pack(&manifest, &mut packed).unwrap().digest;
        Self {
            digest,
            packed: packed.into(),
        }
    }

    fn launch(&self, environment: &[(&str, &str)]) -> Option<Launch> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut env: BTreeMap<String, String> = environment.iter().map(owned).collect();
        env.insert("FN_FORMAT".to_owned(), "http-stream".to_owned());
        env.insert("FN_LOGFRAME_NAME".to_owned(), "tradewind-call".to_owned());
        env.insert("FN_LOGFRAME_HDR".to_owned(), "Fn-Call-Id".to_owned());
        Some(Launch {
            digest: self.digest.to_string(),
            env,
            // The machine may be busy with other tests.
            start_timeout_ms: Some(30_000),
        })
    }
}

/// Packed once for all tests.
fn fake() -> Code {
    static FAKE: OnceLock<Code> = OnceLock::new();
    FAKE.get_or_init(|| Code::of(&fake_function(), &["/function/program", "now"]))
        .clone()
}

impl Runner {
    async fn put(&self, claim: &str, digest: &Digest, packed: &Bytes) -> RunnerAnswer {
        let path = format!("{}?claim={claim}", bundle_path(digest));
        let request = self.request("PUT", &path).body(Full::new(packed.clone()));
        self.ask(request.unwrap()).await
    }

    /// Claimed as `1` and told to run the fake function, but not ready.
    async fn running_fake(&self, environment: &[(&str, &str)]) {
        let claimed = self
            .claim(&claim("1", "fn-a", fake().launch(environment)))
            .await;
        assert!(claimed.needs_bundle);
        let put = self.put("1", &fake().digest, &fake().packed).await;
        assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    }
}

#[tokio::test]
async fn a_bundle_comes_runs_answers_and_is_found_hot() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    let hello = Code::of(&hello_rust(), &["/function/program"]);
    assert_eq!(runner.state().await.phase, Phase::Empty);

    let first = claim("1", "fn-a", hello.launch(&[]));
    let claimed = runner.claim(&first).await;
    assert!(claimed.needs_bundle);
    assert_eq!(runner.claim(&first).await, claimed, "repeating it is fine");
    let mut events = runner.events("1").await;
    let put = runner.put("1", &hello.digest, &hello.packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    runner.ready("1").await;
    events.until_phase(Phase::Ready).await;

    let answer = runner.call("1", "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.text(), r#"{"message":"Hello World"}"#);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.headers.contains_key("fn-fdk-version"));

    // Another gateway finds it taken, then free, and ready at once.
    let second = claim("2", "fn-a", hello.launch(&[]));
    let refused = runner.post(CLAIM_PATH, &second).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(refused.json::<Conflict>().claim, Some(first.holder));
    runner.release("1").await;
    while events.next().await.is_some() {}
    let other = runner
        .post(CLAIM_PATH, &claim("3", "fn-b", hello.launch(&[])))
        .await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.json::<Conflict>().claim, None);
    let claimed = runner.claim(&second).await;
    assert_eq!((claimed.needs_bundle, claimed.phase), (false, Phase::Ready));
    let late = runner.call("1", "").await;
    assert_eq!(late.call_error(), Some("not_claimed"));
    assert_eq!(runner.call("2", "").await.status, StatusCode::OK);
    let state = runner.state().await;
    assert_eq!((state.calls, state.running), (2, false));
}

#[tokio::test]
async fn a_bundle_that_is_not_the_one_is_refused_and_may_come_again() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    let unclaimed = runner.put("1", &fake().digest, &fake().packed).await;
    assert_eq!(unclaimed.status, StatusCode::CONFLICT);

    runner.claim(&claim("1", "fn-a", fake().launch(&[]))).await;
    let other = runner.put("1", &Digest([7; 32]), &fake().packed).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    assert_eq!(other.message(), "the claim is not for this bundle");
    let torn = fake().packed.slice(..fake().packed.len() / 2);
    let torn = runner.put("1", &fake().digest, &torn).await;
    assert_eq!(torn.status, StatusCode::BAD_REQUEST);
    assert!(torn.message().contains("sha256"), "{}", torn.message());
    assert_eq!(runner.state().await.phase, Phase::Empty);

    let put = runner.put("1", &fake().digest, &fake().packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    runner.ready("1").await;
    let left = std::fs::read_dir(runner.code()).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["bundle", "launch.json", "stderr", "stdout"]);
}

#[tokio::test]
async fn a_bundle_that_no_pod_could_run_is_refused_and_leaves_the_pod_as_it_was() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    let foreign = Code::built_for("plan9/mips", &hello_rust(), &["/function/program"]);
    runner.claim(&claim("1", "fn-a", foreign.launch(&[]))).await;
    let put = runner.put("1", &foreign.digest, &foreign.packed).await;
    assert_eq!(put.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        put.message().contains("built for plan9/mips"),
        "{}",
        put.message()
    );
    // One whose gateway says so beforehand is not read.
    let path = bundle_path(&foreign.digest);
    let answer = runner.raw(&format!(
        "PUT {path}?claim=1 HTTP/1.1\r\nHost: r\r\nTradewind-Platform: plan9/mips\r\n\
         Content-Length: 1000\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(answer.contains("built for plan9/mips"), "{answer}");
    runner.release("1").await;

    runner.claim(&claim("2", "fn-b", fake().launch(&[]))).await;
    let put = runner.put("2", &fake().digest, &fake().packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    runner.ready("2").await;
}

#[tokio::test]
async fn a_bundle_too_large_is_refused_unread() {
    let runner = Runner::start("pool", &[]);
    runner.claim(&claim("1", "fn-a", fake().launch(&[]))).await;
    let path = bundle_path(&fake().digest);
    let length = api_bundle::PACKED_BYTES_MAX + 1;
    let answer = runner.raw(&format!(
        "PUT {path}?claim=1 HTTP/1.1\r\nHost: r\r\nContent-Length: {length}\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // It is not stuck with half of that.
    let put = runner.put("1", &fake().digest, &fake().packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
}

#[tokio::test]
async fn a_bundle_of_which_half_came_does_not_keep_the_next_boot_waiting() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    runner.claim(&claim("1", "fn-a", fake().launch(&[]))).await;
    let path = bundle_path(&fake().digest);
    let _half = runner.begin(&format!(
        "PUT {path}?claim=1 HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\nhalf"
    ));
    let coming = async {
        while !runner.code().join("bundle.packed").exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, coming).await.expect("it has begun");
    let next = claim_of_next_boot("2", "fn-a", fake().launch(&[]));
    assert!(runner.claim_soon(&next).await.needs_bundle);
    let put = runner.put("2", &fake().digest, &fake().packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    runner.ready("2").await;
    assert_eq!(runner.call("2", "").await.text(), "ping");
}

#[tokio::test]
async fn the_program_finds_its_environment_and_its_folder() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    runner
        .running_fake(&[("LEVEL", "fn"), ("FN_TYPE", "sync")])
        .await;
    runner.ready("1").await;
    let environment = runner.call("1", "environment").await.text();
    for (variable, there) in [
        ("LEVEL=fn", true),
        ("FN_TYPE=sync", true),
        ("HOME=/tmp", true),
        ("LANG=C.UTF-8", true),
        ("PATH=", true),
        ("TRADEWIND_RUNNER", false),
    ] {
        let found = environment.lines().any(|line| line.starts_with(variable));
        assert_eq!(found, there, "{variable} in\n{environment}");
    }
    let folder = runner.code().join("bundle/function");
    let directory = runner.call("1", "directory").await.text();
    assert_eq!(Path::new(&directory), folder.canonicalize().unwrap());
    let limits = runner.call("1", "read /proc/self/limits").await.text();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(files.contains(" 350 "), "{files}");
}

#[tokio::test]
async fn what_the_function_prints_arrives_with_its_call() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    runner.running_fake(&[]).await;
    let mut events = runner.events("1").await;
    runner.ready("1").await;
    runner.call("1", "print hello").await;
    let mut lines = Vec::new();
    while lines.len() < 2 {
        if let Event::Log { log } = events.next().await.unwrap() {
            lines.push(log);
        }
    }
    lines.sort_by_key(|line| line.line.len());
    let line = |stream, line: &str| LogLine {
        call: Some("CALL".to_owned()),
        stream,
        line: line.to_owned(),
    };
    assert_eq!(
        lines,
        [
            line(LogStream::Stdout, "hello"),
            line(LogStream::Stderr, "hello too")
        ]
    );

    // A reader that is away finds the newest, and how many it missed.
    drop(events);
    runner.call("1", "print-bytes 900000").await;
    let mut events = runner.events("1").await;
    let dropped = events
        .until(|event| matches!(event, Event::Dropped { .. }))
        .await;
    assert!(
        matches!(dropped, Event::Dropped { dropped } if (500..900).contains(&dropped)),
        "{dropped:?}"
    );
}

#[tokio::test]
async fn the_container_exits_as_the_function_does() {
    let runner = Runner::start("pool", &[]);
    let mut launcher = runner.launcher();
    runner.running_fake(&[("BEHAVIOUR", "exit")]).await;
    let answer = runner.ready_within("1", 30_000).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.message(), "it exited before it was ready");
    assert_eq!(launcher.ended().await.code(), Some(1));
    assert_eq!(runner.state().await.phase, Phase::Gone);
    assert_eq!(runner.call("1", "").await.call_error(), Some("gone"));
}

#[tokio::test]
async fn a_crash_breaks_its_call_and_is_noticed() {
    let runner = Runner::start("pool", &[]);
    let mut launcher = runner.launcher();
    runner.running_fake(&[]).await;
    let mut events = runner.events("1").await;
    runner.ready("1").await;
    let answer = runner.call("1", "crash").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.call_error(), Some("broken"));
    events.until_phase(Phase::Gone).await;
    let abort = Signal::ABORT.as_raw();
    assert_eq!(launcher.ended().await.signal(), Some(abort));
}

#[tokio::test]
async fn an_idle_function_that_exits_is_noticed() {
    let runner = Runner::start("pool", &[]);
    let launcher = runner.launcher();
    runner.running_fake(&[]).await;
    let mut events = runner.events("1").await;
    runner.ready("1").await;
    launcher.signal(Signal::KILL);
    events.until_phase(Phase::Gone).await;
    assert_eq!(runner.call("1", "").await.call_error(), Some("gone"));
}

#[tokio::test]
async fn a_function_that_never_listens_times_out() {
    let runner = Runner::start("pool", &[]);
    let _launcher = runner.launcher();
    let mut launch = fake().launch(&[("BEHAVIOUR", "never-ready")]).unwrap();
    launch.start_timeout_ms = Some(300);
    runner.claim(&claim("1", "fn-a", Some(launch))).await;
    let put = runner.put("1", &fake().digest, &fake().packed).await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());
    let answer = runner.ready_within("1", 30_000).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(runner.state().await.phase, Phase::Failed);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_in_the_log() {
    let runner = Runner::start("pool", &[]);
    let mut launcher = runner.launcher();
    let code = Code::of(&hello_rust(), &["no-such-program"]);
    runner.claim(&claim("1", "fn-a", code.launch(&[]))).await;
    let mut events = runner.events("1").await;
    runner.put("1", &code.digest, &code.packed).await;
    let event = events
        .until(|event| matches!(event, Event::Log { .. }))
        .await;
    let Event::Log { log } = event else {
        unreachable!("it is one")
    };
    assert!(log.line.starts_with("exec no-such-program in"), "{log:?}");
    assert_eq!(launcher.ended().await.code(), Some(127));
    assert_eq!(
        runner.ready_within("1", 30_000).await.status,
        StatusCode::BAD_GATEWAY
    );
}
