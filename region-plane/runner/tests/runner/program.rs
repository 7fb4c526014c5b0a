use super::*;

fn runner(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-runner"));
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn bad_settings_are_all_told_before_anything_starts() {
    let output = runner(&[])
        .env("TRADEWIND_RUNNER_KIND", "both")
        .env("TRADEWIND_RUNNER_LEASE_MS", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("_KIND") && told.contains("_LEASE_MS"),
        "{told}"
    );
}

#[test]
fn the_help_tells_modes_and_settings() {
    let output = runner(&["--help"]).output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for word in ["install DIR", "launch", "TRADEWIND_RUNNER_KIND"] {
        assert!(help.contains(word), "{word} in\n{help}");
    }
    assert_eq!(runner(&["serve"]).status().unwrap().code(), Some(64));
}

#[test]
fn what_is_installed_is_the_program() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let status = runner(&["install"]).arg(dir.path()).status().unwrap();
        assert!(status.success());
    }
    let installed = dir.path().join("tradewind-runner");
    let version = Command::new(installed).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"tradewind-runner "));
    let missing = runner(&["install"])
        .arg(dir.path().join("no/such"))
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

#[tokio::test]
async fn a_folder_that_is_not_there_stops_it() {
    let output = runner(&[])
        .env("TRADEWIND_RUNNER_KIND", "image")
        .env("TRADEWIND_RUNNER_LISTEN", "127.0.0.1:0")
        .env("TRADEWIND_RUNNER_SOCKET_DIR", "/no/such/folder")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("watch the socket folder /no/such/folder"),
        "{told}"
    );
}

#[tokio::test]
async fn a_launcher_that_waits_can_be_terminated() {
    let pool = Runner::start("pool", &[]);
    let mut launcher = pool.launcher();
    // It watches the folder once it waits.
    let fds = format!("/proc/{}/fd", launcher.0.id());
    let waits = || {
        std::fs::read_dir(&fds).is_ok_and(|fds| {
            fds.flatten().any(|fd| {
                std::fs::read_link(fd.path())
                    .is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
            })
        })
    };
    let waiting = async {
        while !waits() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.ended().await.code(), Some(143));
}
