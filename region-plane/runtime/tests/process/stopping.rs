use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

#[tokio::test]
async fn stopping_kills_the_whole_group_and_removes_its_directory() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let (pid, child) = (text(&instance, "pid").await, text(&instance, "child").await);
    let home = text(&instance, "environment").await;
    let home = home
        .lines()
        .find_map(|line| line.strip_prefix("HOME="))
        .unwrap()
        .to_owned();
    assert!(runs(&pid) && runs(&child) && Path::new(&home).exists());

    instance.stop().await;
    assert!(!runs(&pid));
    until_gone(&child).await;
    let removed = async {
        while Path::new(&home).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, removed).await.unwrap();
    instance.stop().await;
}

#[tokio::test]
async fn an_instance_that_exits_by_itself_takes_its_children_along() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let child = text(&instance, "child").await;
    assert!(call(&instance, "crash").await.is_err());
    tokio::time::timeout(LONG, instance.exited()).await.unwrap();
    until_gone(&child).await;
}

#[tokio::test]
async fn a_dropped_instance_is_killed() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let pid = text(&instance, "pid").await;
    drop(instance);
    until_gone(&pid).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_behind() {
    let (driver, bundle) = (driver(), fake_bundle());
    let mark = bundle.path().display().to_string();
    let start = driver.start(spec(bundle.path(), &[("BEHAVIOUR", "never-ready")]));
    let given_up = async {
        while !anything_runs(&mark) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = start => panic!("it never becomes ready"),
        () = given_up => {}
    }
    let gone = async {
        while anything_runs(&mark) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

/// Whether a process has this text in its command line.
fn anything_runs(mark: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(mark)
    })
}

#[tokio::test]
async fn shutting_down_kills_every_instance_and_lets_none_start() {
    let (driver, bundle) = (driver(), fake_bundle());
    let mut pids = Vec::new();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let instance = driver.start(spec(bundle.path(), &[])).await.unwrap();
        pids.push(text(&instance, "pid").await);
        instances.push(instance);
    }
    tokio::time::timeout(LONG, driver.shutdown()).await.unwrap();
    for pid in &pids {
        assert!(!runs(pid));
    }
    let error = driver.start(spec(bundle.path(), &[])).await.unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
}

#[tokio::test]
async fn functions_do_not_outlive_a_region_that_is_killed() {
    let bundle = fake_bundle();
    let mut region = Command::new(fake_function())
        .arg("region")
        .arg(bundle.path())
        // It cannot tidy up.
        .env("TMPDIR", bundle.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    let read = BufReader::new(region.stdout.take().unwrap()).read_line(&mut pid);
    let pids: Vec<_> = pid.split_whitespace().collect();
    let lived = pids.iter().all(|pid| runs(pid));
    region.kill().unwrap();
    region.wait().unwrap();
    read.unwrap();
    assert!(
        lived && pids.len() == 2,
        "{pids:?} are a keeper and a daemon"
    );
    for pid in pids {
        until_gone(pid).await;
    }
}

/// Has the function start a process that nothing but its keeper knows to be its own.
async fn daemon(instance: &ProcessInstance, folder: &Path) -> String {
    let file = folder.join("daemon");
    call(instance, &format!("daemon {}", file.display()))
        .await
        .unwrap();
    let written = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, written).await.unwrap();
    fs::read_to_string(file).unwrap().trim().to_owned()
}

#[tokio::test]
async fn what_left_its_parent_and_its_session_ends_with_its_instance() {
    for end in ["stop", "drop", "crash", "shutdown"] {
        let folder = tempfile::tempdir().unwrap();
        let (driver, instance, _bundle) = started(&[]).await;
        let daemon = daemon(&instance, folder.path()).await;
        assert!(runs(&daemon));
        match end {
            "stop" => {
                instance.stop().await;
                assert!(!runs(&daemon), "nothing of it is left once it is gone");
            }
            "drop" => drop(instance),
            "crash" => assert!(call(&instance, "crash").await.is_err()),
            _ => driver.shutdown().await,
        }
        until_gone(&daemon).await;
    }
}

/// That of another instance lives on: each has a keeper of its own.
#[tokio::test]
async fn an_instance_that_ends_takes_nothing_of_another_along() {
    let (folder, bundle) = (tempfile::tempdir().unwrap(), fake_bundle());
    let driver = driver();
    let staying = driver.start(spec(bundle.path(), &[])).await.unwrap();
    let going = driver.start(spec(bundle.path(), &[])).await.unwrap();
    let daemon = daemon(&staying, folder.path()).await;
    going.stop().await;
    assert!(runs(&daemon));
    assert_eq!(call(&staying, "").await.unwrap().body, "ping");
}

#[tokio::test]
async fn a_function_does_not_outlive_the_keeper_it_killed() {
    let (_driver, instance, _bundle) = started(&[]).await;
    let (pid, keeper) = (
        text(&instance, "pid").await,
        text(&instance, "parent").await,
    );
    Command::new("kill")
        .args(["-KILL", &keeper])
        .status()
        .unwrap();
    tokio::time::timeout(LONG, instance.exited()).await.unwrap();
    until_gone(&pid).await;
}

/// More levels than the stack of `fs::remove_dir_all` has room for.
#[tokio::test]
async fn folders_in_one_another_end_nobody_and_are_removed() {
    // In memory where there is a place for it: some disks take milliseconds to remove a folder.
    let parent = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let driver = driver_with(|settings| settings.socket_dir = Some(parent.path().to_owned()));
    let bundle = fake_bundle();
    let instance = driver.start(spec(bundle.path(), &[])).await.unwrap();
    let home = text(&instance, "environment").await;
    let home = home
        .lines()
        .find_map(|line| line.strip_prefix("HOME="))
        .unwrap()
        .to_owned();
    assert_eq!(
        text(&instance, &format!("nest 20000 {home}")).await,
        "nested"
    );
    instance.stop().await;
    driver.shutdown().await;
    let removed = async {
        while walk_is_empty(parent.path()) == Some(false) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG * 3, removed).await.unwrap();
}

/// Whether all trash is gone; `None` while it cannot be told.
fn walk_is_empty(parent: &Path) -> Option<bool> {
    for root in fs::read_dir(parent).ok()?.flatten() {
        let trash = fs::read_dir(root.path().join("trash")).ok()?;
        if trash.count() > 0 {
            return Some(false);
        }
    }
    Some(true)
}
