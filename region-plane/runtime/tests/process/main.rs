//! The process driver with real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod fdks;
mod log;
mod starting;
mod stopping;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_types::{AppId, CallId, Config, Digest, FnId, Platform};
use bytes::Bytes;
use http::HeaderMap;
use region_plane_runtime::{
    CallError, CallRequest, CallResponse, Code, Instance as _, InstanceSpec, ProcessInstance,
    ProcessRuntime, ProcessSettings, Runtime as _,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// Nothing here takes as long unless it is broken.
const LONG: Duration = Duration::from_secs(20);

/// Built by cargo along with the tests.
fn fake_function() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/fake_function");
    assert!(
        built.exists(),
        "{} is missing: build it by `cargo build -p region-plane-runtime --examples`",
        built.display()
    );
    built
}

/// An unpacked bundle whose manifest has these fields.
fn bundle(runtime: &str, platform: &str, entrypoint: &str) -> TempDir {
    let bundle = tempfile::tempdir().unwrap();
    let words: Vec<_> = entrypoint
        .split_whitespace()
        .map(|word| format!("{word:?}"))
        .collect();
    let manifest = format!(
        r#"{{"schema":1,"name":"f","version":"1","runtime":"{runtime}","platform":"{platform}","entrypoint":[{}],"cmd":[]}}"#,
        words.join(",")
    );
    fs::write(bundle.path().join("manifest.json"), manifest).unwrap();
    fs::create_dir(bundle.path().join("function")).unwrap();
    bundle
}

fn fake_bundle() -> TempDir {
    let bundle = bundle("executable", &Platform::here().0, "/function/fake now");
    let program = bundle.path().join("function/fake");
    std::os::unix::fs::symlink(fake_function(), program).unwrap();
    bundle
}

fn spec(bundle: &Path, config: &[(&str, &str)]) -> InstanceSpec {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    InstanceSpec {
        app_id: AppId::new("APP"),
        app_name: "shop".to_owned(),
        fn_id: FnId::new("FN"),
        fn_name: "cart".to_owned(),
        memory_mb: 64,
        app_config: Config::new(),
        fn_config: config.iter().map(owned).collect(),
        settings: 1,
        image: String::new(),
        code: Code::Bundle {
            digest: Digest([0; 32]),
            folder: bundle.to_owned(),
        },
    }
}

fn driver() -> ProcessRuntime {
    driver_with(|_| {})
}

fn driver_with(change: impl FnOnce(&mut ProcessSettings)) -> ProcessRuntime {
    let mut settings = ProcessSettings {
        launcher: fake_function(),
        // The machine may be busy with other tests.
        hot_start_timeout: LONG,
        ..ProcessSettings::default()
    };
    change(&mut settings);
    ProcessRuntime::new(settings).unwrap()
}

/// A driver and one instance of the fake function, with this environment.
async fn started(config: &[(&str, &str)]) -> (ProcessRuntime, ProcessInstance, TempDir) {
    let (driver, bundle) = (driver(), fake_bundle());
    let instance = driver.start(spec(bundle.path(), config)).await.unwrap();
    (driver, instance, bundle)
}

fn request(behave: &str) -> CallRequest {
    let mut headers = HeaderMap::new();
    headers.insert("behave", behave.parse().unwrap());
    headers.insert("fn-call-id", "CALL".parse().unwrap());
    CallRequest {
        call: CallId::new("CALL"),
        headers: headers.into(),
        deadline: None,
        body: Bytes::from_static(b"ping"),
    }
}

fn insert(asked: &mut CallRequest, name: &'static str, value: &str) {
    let mut headers = HeaderMap::clone(&asked.headers);
    headers.insert(name, value.parse().unwrap());
    asked.headers = headers.into();
}

async fn call(instance: &ProcessInstance, behave: &str) -> Result<CallResponse, CallError> {
    instance.call(request(behave), Instant::now() + LONG).await
}

async fn text(instance: &ProcessInstance, behave: &str) -> String {
    let response = call(instance, behave).await.unwrap();
    String::from_utf8(response.body.to_vec()).unwrap()
}

/// Whether a process of this number runs. One that nobody has reaped does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything and ends with the last parenthesis.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Polls, since nothing announces the end of a process that is not ours.
async fn until_gone(pid: &str) {
    let poll = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, poll)
        .await
        .unwrap_or_else(|_| panic!("process {pid} lives on"));
}
