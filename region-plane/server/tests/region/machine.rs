//! A machine that is not as it should be: damaged code, trees that end programs, few open files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use region_plane_runtime::trash;
use tempfile::TempDir;

use crate::plane::{Plane, function};
use crate::process::{Region, at, eventually, get, start, start_by};

/// In memory where there is a place for it: some disks take milliseconds to remove a folder.
fn quick_place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A plane with one function, and a region that holds it.
async fn region(
    net: u8,
    dir: &Path,
    start: impl FnOnce(&str, &Plane) -> Region,
) -> (Plane, Region) {
    let plane = Plane::start(&format!("{}:7400", at(net, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    let revision = plane.put_fn(function("F", &image));
    let region = start(&at(net, 1), &plane);
    eventually("the region listens", async || region.status().await).await;
    region.applied(revision).await;
    eventually("the bundle is here", async || bundle(dir).map(drop)).await;
    (plane, region)
}

/// The folder of the one bundle.
fn bundle(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir.join("fra/bundles")).ok()?;
    let mut folders = entries.flatten().map(|entry| entry.path());
    folders.find(|path| path.join("packed").exists())
}

fn program(dir: &Path) -> PathBuf {
    let folder = bundle(dir).unwrap().join("function");
    let mut files = fs::read_dir(folder).unwrap().flatten();
    files.next().unwrap().path()
}

/// As a crash of the machine or a full disk leaves it.
fn cut_short(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    let length = fs::metadata(file).unwrap().len();
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_was_damaged_on_disk_is_replaced_when_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (plane, region) = region(50, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    // Unpacked it is damaged, and beside it lies what it was unpacked from.
    cut_short(&program(dir.path()));
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let first = answer.pid.unwrap();
    drop(region);

    // Both are damaged, so it is downloaded again.
    let region = start("fra", &at(50, 2), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    cut_short(&program(dir.path()));
    cut_short(&bundle(dir.path()).unwrap().join("packed"));
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(answer.pid.unwrap(), first);
    drop(region);

    // And there is no other: the bundle is missing, and the call may go elsewhere.
    let region = start("fra", &at(50, 3), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    plane.lose_bundles();
    cut_short(&program(dir.path()));
    cut_short(&bundle(dir.path()).unwrap().join("packed"));
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.message().contains("damaged"), "{answer:?}");
    eventually("it says that it lacks the bundle", async || {
        plane
            .report("fra")
            .filter(|report| !report.bundles_missing.is_empty())
    })
    .await;
}

/// Functions run as the region's own user, so one can change another's code and leave it as it looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_another_function_has_changed_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let (_plane, region) = region(57, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    assert_eq!(region.post("/invoke/F", "x").await.status, 200);
    assert_eq!(region.post("/invoke/F", "exit").await.status, 502);
    let program = program(dir.path());
    let before = fs::metadata(&program).unwrap();
    let mut changed = fs::read(&program).unwrap();
    // It starts as well.
    changed.push(0);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    eventually("its last instance has ended", async || {
        fs::write(&program, &changed).ok()
    })
    .await;
    let file = fs::File::options().write(true).open(&program).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    fs::set_permissions(&program, before.permissions()).unwrap();

    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let after = fs::metadata(&program).unwrap().len();
    assert_eq!(after, before.len(), "what ran is what was deployed");
}

/// More levels than the stack of a thread has room for, in the function's own folder and in its code's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_in_one_another_end_no_region_and_stop_no_start() {
    let dir = quick_place();
    let sockets = format!("socket_dir = \"{}/s\"", dir.path().display());
    let (plane, first) = region(51, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, &sockets)
    })
    .await;
    let answer = first.post("/invoke/F", "nest 20000 home").await;
    assert_eq!(answer.text, "nested", "{answer:?}");
    // Its folder is removed with it.
    let answer = first.post("/invoke/F", "exit").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let answer = first.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // Nobody writes to a bundle's folder by mistake, ...
    let answer = first.post("/invoke/F", "nest 1 code").await;
    assert!(answer.text.contains("ermission denied"), "{answer:?}");
    // ... and whoever does it on purpose ends nobody.
    let answer = first.post("/invoke/F", "nest 20000 opened-code").await;
    assert_eq!(answer.text, "nested", "{answer:?}");
    first.kill();
    // Code that differs is unpacked anew before it starts, and what was there is removed.
    let second = start("fra", &at(51, 2), dir.path(), &plane.url, &sockets);
    eventually("the region listens", async || second.status().await).await;
    let answer = second.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(second);
    eventually("all is removed", async || trash::remove(dir.path()).ok()).await;
}

/// What keeps every function from running is the region's fault: it says so, and hands calls on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_can_start_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join("s");
    let settings = format!("socket_dir = \"{}\"", sockets.display());
    let (_plane, region) = region(52, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, &settings)
    })
    .await;
    let ready = async || {
        get(&format!("{}/readyz", region.admin))
            .await
            .unwrap()
            .status()
    };
    assert_eq!(ready().await, 200);
    // An operator, or a job that tidies up, removes the folder under it.
    fs::remove_dir_all(&sockets).unwrap();
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.message().contains("socket directory"), "{answer:?}");
    let status = region.status().await.unwrap();
    let problem = status["start_problem"].as_str().unwrap();
    assert!(problem.contains("no instance can be started"), "{problem}");
    assert_eq!(ready().await, 503);
}

fn of_process(pid: u32, what: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap()
}

/// A soft limit is the shell's, a hard one the machine's; neither stops a function.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_open_files_are_enough_for_every_function() {
    let dir = tempfile::tempdir().unwrap();
    let (_plane, region) = region(53, dir.path(), |ip, plane| {
        let few = "ulimit -Sn 100; ulimit -Hn 300";
        start_by(few, "fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    let limits = of_process(region.pid(), "limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["300", "300"], "the soft limit is raised");
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // More clients than it may have files open: those that ask are answered, for as long as others do not.
    let silent: Vec<_> = (0..400)
        .filter_map(|_| std::net::TcpStream::connect((at(53, 1).as_str(), 8080)).ok())
        .collect();
    assert!(silent.len() > 300);
    let begun = std::time::Instant::now();
    let answer = region.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let waited = begun.elapsed();
    assert!(waited < std::time::Duration::from_secs(60), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_starting_shell_reaches_a_region_or_its_functions() {
    let dir = tempfile::tempdir().unwrap();
    let (_plane, region) = region(54, dir.path(), |ip, plane| {
        let left = "trap '' HUP INT QUIT USR1; exec 7</etc/hostname 9</etc/hostname";
        start_by(left, "fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    let mask = |status: &str, name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let hex = line.split_whitespace().nth(1).unwrap().to_owned();
        // Of signals 1 to 31: those of the C library cannot be set.
        u64::from_str_radix(&hex, 16).unwrap() & 0x7fff_ffff
    };
    let pid = region.pid();
    let status = of_process(pid, "status");
    assert!(status.contains("tradewind-regio"), "{status}");
    assert_eq!(mask(&status, "SigIgn"), 1 << 12, "SIGPIPE alone: {status}");
    assert_eq!(mask(&status, "SigBlk"), 0, "{status}");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    for descriptor in open {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        assert_ne!(target, Path::new("/etc/hostname"));
    }
    let signals = region.post("/invoke/F", "signals").await.text;
    assert_eq!(mask(&signals, "SigBlk"), 0, "{signals}");
    assert_eq!(mask(&signals, "SigIgn") & !(1 << 12), 0, "{signals}");
    let descriptors = region.post("/invoke/F", "descriptors").await.text;
    assert!(!descriptors.contains("/etc/hostname"), "{descriptors}");
}

/// Ten thousand fields go through a region, as the caller reads them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_many_fields_reaches_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let (_plane, _region) = region(55, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    let read = tokio::task::spawn_blocking(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect((at(55, 1).as_str(), 8080)).unwrap();
        let request = "POST /invoke/F HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\
                       Content-Length: 11\r\n\r\nfields 5000";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let text = read.await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 "),
        "{}",
        &text[..200.min(text.len())]
    );
    let fields = text
        .lines()
        .filter(|line| line.to_lowercase().starts_with("x-field-"));
    assert_eq!(fields.count(), 5000);
}

/// A small disk of its own, gone with this.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "none"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|done| done.status.success())
            .then(|| Self(at.to_owned()))
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.0.join("filler"))
            .unwrap();
        for bytes in [64 << 10, 4096, 1] {
            while file.write_all(&vec![0; bytes]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has it open keeps it, and nobody finds it.
        let _unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .output();
    }
}

/// A full disk ends no region. What came meanwhile is on disk once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_disk_is_full_serves_on_and_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("fra")) else {
        chaos_tests_machine::skip("region/full-disk", "it takes root to mount a file system");
        return;
    };
    let (plane, first) = region(56, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, "")
    })
    .await;
    disk.fill();
    let mut number = 0;
    eventually("the copy cannot be written", async || {
        number += 1;
        let revision = plane.put_app(&format!("B{number}"), &format!("full-{number}"), None);
        first.applied(revision).await;
        disk.fill();
        let status = first.status().await?;
        status["copy_problem"].as_str().map(drop)
    })
    .await;
    // It goes on from memory, and says so.
    let revision = plane.put_app("C", "served", None);
    first.applied(revision).await;
    let answer = first.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("it reports that", async || {
        let following = plane.report("fra")?.following?;
        following
            .problem
            .filter(|problem| problem.contains("behind"))
    })
    .await;

    fs::remove_file(disk.0.join("filler")).unwrap();
    eventually("the copy is written", async || {
        first.status().await?["copy_problem"]
            .is_null()
            .then_some(())
    })
    .await;
    first.kill();
    // Of a plane that is away it has all that it had.
    let second = start(
        "fra",
        &at(56, 2),
        dir.path(),
        &format!("http://{}:7400", at(56, 99)),
        "",
    );
    second.applied(revision).await;
    let found = get(&format!("{}/v2/apps/C", second.admin)).await.unwrap();
    assert_eq!(found.status(), 200);
}

/// A full disk stops no start: what is on it is served, of a plane that is away too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_starts_on_a_full_disk_and_serves_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("fra")) else {
        chaos_tests_machine::skip("region/full-disk", "it takes root to mount a file system");
        return;
    };
    let sockets = format!("socket_dir = \"{}/s\"", dir.path().display());
    let (_plane, first) = region(58, dir.path(), |ip, plane| {
        start("fra", ip, dir.path(), &plane.url, &sockets)
    })
    .await;
    first.kill();
    disk.fill();
    let away = format!("http://{}:7400", at(58, 99));
    let second = start("fra", &at(58, 2), dir.path(), &away, &sockets);
    eventually("the region listens", async || second.status().await).await;
    let answer = second.post("/invoke/F", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
