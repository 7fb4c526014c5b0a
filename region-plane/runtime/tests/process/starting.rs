use std::error::Error as _;

use region_plane_runtime::StartError;

use super::*;

const FAILED: &str =
    "Container failed to initialize, please ensure you are using the latest fdk and check the logs";
const TIMED_OUT: &str = "Container initialization timed out, please ensure you are using the latest fdk and check the logs";

#[tokio::test]
async fn functions_that_do_not_come_up_are_told_apart() {
    let driver = driver_with(|settings| settings.hot_start_timeout = Duration::from_secs(1));
    let bundle = fake_bundle();
    for (behaviour, message, reason) in [
        ("exit", FAILED, "exited before"),
        ("absolute-link", FAILED, "not a name"),
        ("never-ready", TIMED_OUT, ""),
    ] {
        let error = driver
            .start(spec(bundle.path(), &[("BEHAVIOUR", behaviour)]))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), message, "{behaviour}");
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains(reason), "{behaviour}: {source}");
    }
}

#[tokio::test]
async fn a_program_that_does_not_exist_fails_to_initialize() {
    let bundle = bundle("executable", &Platform::here().0, "/function/missing");
    let error = driver().start(spec(bundle.path(), &[])).await.unwrap_err();
    assert!(matches!(error, StartError::Failed { .. }), "{error:?}");
}

#[tokio::test]
async fn bundles_that_cannot_run_here_are_refused_with_the_reason() {
    let here = Platform::here().0;
    let driver = driver();
    for (runtime, platform, entrypoint, reason) in [
        ("rust", "plan9/mips", "/function/f", "built for plan9/mips"),
        (
            "python2.3",
            &here,
            "/python/bin/fdk f.py",
            "needs python2.3",
        ),
        ("cobol", &here, "cobol-5.9 f.cob", "needs cobol-5.9"),
    ] {
        let bundle = bundle(runtime, platform, entrypoint);
        let error = driver.start(spec(bundle.path(), &[])).await.unwrap_err();
        assert!(matches!(error, StartError::NotRunnable(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let nothing = tempfile::tempdir().unwrap();
    let error = driver.start(spec(nothing.path(), &[])).await.unwrap_err();
    assert!(error.to_string().contains("manifest"), "{error}");
}

#[tokio::test]
async fn the_environment_is_the_contracts_and_nothing_of_the_regions() {
    let (_driver, instance, bundle) = started(&[("COLOUR", "red"), ("FN_TYPE", "mine")]).await;
    let environment = text(&instance, "environment").await;
    let of = |name: &str| {
        let found = environment
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        found.map(str::to_owned)
    };
    for (name, want) in [
        ("FN_APP_ID", "APP"),
        ("FN_FN_ID", "FN"),
        ("FN_APP_NAME", "shop"),
        ("FN_FN_NAME", "cart"),
        ("FN_MEMORY", "64"),
        ("FN_TYPE", "sync"),
        ("FN_FORMAT", "http-stream"),
        ("COLOUR", "red"),
    ] {
        assert_eq!(of(name).as_deref(), Some(want), "{name}");
    }
    // Cargo sets it for tests, so it stands for whatever secrets the region may have.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
    assert_eq!(of("CARGO_MANIFEST_DIR"), None);
    let home = of("HOME").unwrap();
    assert!(Path::new(&home).is_dir(), "{home}");
    let directory = bundle.path().join("function").canonicalize().unwrap();
    assert_eq!(
        text(&instance, "directory").await,
        directory.display().to_string()
    );
}

#[tokio::test]
async fn an_instance_is_limited_and_leads_a_group_of_its_own() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let limits = text(&instance, "read /proc/self/limits").await;
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(limit("Max open files"), "350 350");
    assert_eq!(limit("Max core file size"), "0 0");
    let status = text(&instance, "read /proc/self/status").await;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let stat = text(&instance, "read /proc/self/stat").await;
    let group = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(2)
        .unwrap()
        .to_owned();
    assert_eq!(group, text(&instance, "pid").await);
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
}

/// A machine that allows fewer open files than the contract does is not the function's fault.
#[tokio::test]
async fn a_lower_limit_of_the_machine_is_the_functions_too() {
    let bundle = fake_bundle();
    let program = bundle.path().join("function/limited");
    let script = "#!/bin/sh\nulimit -n 200 && exec \"$LAUNCHER\" \"$@\"\n";
    fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, executable).unwrap();
    let driver = driver_with(|settings| settings.launcher = program);
    let launcher = fake_function();
    let config = [("LAUNCHER", launcher.to_str().unwrap())];
    let instance = driver.start(spec(bundle.path(), &config)).await.unwrap();
    let limits = text(&instance, "read /proc/self/limits").await;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("200"), "{line}");
}

/// What keeps every instance from running is the machine's, and says so.
#[tokio::test]
async fn what_stops_every_instance_is_no_fault_of_the_function() {
    let bundle = fake_bundle();
    let no_files = bundle.path().join("function/no-files");
    let script = "#!/bin/sh\nulimit -n 3 && exec \"$LAUNCHER\" \"$@\"\n";
    fs::write(&no_files, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&no_files, executable).unwrap();
    let driver = driver_with(|settings| settings.launcher = no_files);
    let launcher = fake_function();
    let config = [("LAUNCHER", launcher.to_str().unwrap())];
    let error = driver
        .start(spec(bundle.path(), &config))
        .await
        .unwrap_err();
    assert!(error.is_of_the_region(), "{error:?}");
    assert!(
        error.to_string().contains("starting an instance's process"),
        "{error}"
    );
}
