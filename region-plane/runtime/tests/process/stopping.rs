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
    let pid = pid.trim().to_owned();
    let lived = runs(&pid);
    region.kill().unwrap();
    region.wait().unwrap();
    read.unwrap();
    assert!(lived, "{pid:?} is one process");
    until_gone(&pid).await;
}
