#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::fs::mkdirat;

use super::*;

/// More levels than a stack of 8 MiB had room for in `fs::remove_dir_all`.
const DEEP: usize = 20_000;

/// Makes folders in one another without ever naming the whole path, as a function does.
fn nest(at: &Path, levels: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, at, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&folder, c"d", Mode::RWXU).unwrap();
        folder = openat(&folder, c"d", flags, Mode::empty()).unwrap();
    }
}

/// In memory where there is a place for it: some disks take milliseconds to remove a folder.
fn quick_place() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[test]
fn whatever_a_function_leaves_is_removed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    type Make = fn(&Path, &Path);
    let cases: [(&str, Make); 9] = [
        ("nothing", |tree, _| fs::remove_dir(tree).unwrap()),
        ("a file", |tree, _| {
            fs::remove_dir(tree).unwrap();
            fs::write(tree, "x").unwrap();
        }),
        ("an empty folder", |_, _| {}),
        ("deep", |tree, _| nest(tree, DEEP)),
        ("deep twice", |tree, _| {
            for half in ["a", "b"] {
                fs::create_dir(tree.join(half)).unwrap();
                nest(&tree.join(half), DEEP / 4);
            }
        }),
        ("wide", |tree, _| {
            for folder in 0..200 {
                let folder = tree.join(folder.to_string());
                fs::create_dir_all(folder.join("full/of")).unwrap();
                for file in 0..20 {
                    fs::write(folder.join(file.to_string()), "x").unwrap();
                }
            }
        }),
        ("links out of it", |tree, outside| {
            symlink(outside, tree.join("folder")).unwrap();
            symlink(outside.join("kept"), tree.join("file")).unwrap();
            fs::create_dir(tree.join("in")).unwrap();
            symlink(outside, tree.join("in/folder")).unwrap();
        }),
        ("no permissions", |tree, _| {
            fs::create_dir_all(tree.join("a/b/c")).unwrap();
            fs::write(tree.join("a/b/file"), "x").unwrap();
            for folder in ["a/b/c", "a/b", "a"] {
                let none = fs::Permissions::from_mode(0o000);
                fs::set_permissions(tree.join(folder), none).unwrap();
            }
        }),
        ("names that are ours", |tree, _| {
            for taken in ["removed-0", "removed-1", "a/removed-0/b"] {
                fs::create_dir_all(tree.join(taken).join("full/too")).unwrap();
            }
            fs::write(tree.join("removed-2"), "x").unwrap();
        }),
    ];
    for (case, make) in cases {
        let parent = quick_place();
        let tree = parent.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make(&tree, outside.path());
        let enough = Duration::from_secs(300);
        remove_within(enough, &tree, None, &|| false)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(tree.symlink_metadata().is_err(), "{case}");
        assert_eq!(
            fs::read(outside.path().join("kept")).unwrap(),
            b"kept",
            "{case}"
        );
    }
}

/// Runs as a user whom permissions bind: root may read and write anything, by its capabilities.
fn without_capabilities(test: impl FnOnce() + Send + 'static) {
    let alone = std::thread::spawn(|| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        // Those of this thread alone.
        rustix::thread::set_capabilities(None, sets).unwrap();
        test();
    });
    alone.join().unwrap();
}

#[test]
fn permissions_that_keep_a_user_out_of_his_own_folders_are_changed() {
    without_capabilities(|| {
        for mode in [0o000, 0o100, 0o400, 0o555] {
            let parent = tempfile::tempdir().unwrap();
            let tree = parent.path().join("tree");
            fs::create_dir_all(tree.join("a/b/c/d")).unwrap();
            fs::write(tree.join("a/b/file"), "x").unwrap();
            for folder in ["a/b/c", "a/b", "a", ""] {
                let changed = fs::Permissions::from_mode(mode);
                fs::set_permissions(tree.join(folder), changed).unwrap();
            }
            remove(&tree).unwrap_or_else(|error| panic!("{mode:o}: {error}"));
            assert!(!tree.exists(), "{mode:o}");

            let sealed = parent.path().join("sealed");
            fs::create_dir(&sealed).unwrap();
            fs::set_permissions(&sealed, fs::Permissions::from_mode(mode)).unwrap();
            fs::create_dir(parent.path().join("other")).unwrap();
            rename(&sealed, &parent.path().join("other/sealed")).unwrap();
        }
    });
}

/// A folder of somebody else stands for what cannot be removed: an immutable one looks the same.
#[test]
fn what_cannot_be_removed_is_an_error_and_the_rest_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let tree = parent.path().join("tree");
    fs::create_dir_all(tree.join("a/stuck/full")).unwrap();
    fs::create_dir_all(tree.join("b/full")).unwrap();
    if std::os::unix::fs::chown(tree.join("a/stuck"), Some(65_533), None).is_err() {
        chaos_tests_machine::skip(
            "runtime/not-removable",
            "it takes root to give a folder away",
        );
        return;
    }
    without_capabilities({
        let tree = tree.clone();
        move || {
            remove(&tree).unwrap_err();
            assert!(!tree.join("b").exists());
        }
    });
    remove(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn the_last_file_stays_while_anything_else_does() {
    let parent = tempfile::tempdir().unwrap();
    let tree = parent.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("lock"), "").unwrap();
    let stopped = remove_within(ATTEMPT_MAX, &tree, Some(c"lock"), &|| true).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::TimedOut);
    assert!(tree.join("lock").exists());
    remove_with_last(&tree, c"lock").unwrap();
    assert!(!tree.exists());
}

#[test]
fn what_is_in_the_trash_is_removed_now_or_by_the_next_who_opens_it() {
    let parent = quick_place();
    let folder = parent.path().join("trash");
    // Left by one that was killed, with a name that the next one begins with.
    fs::create_dir_all(folder.join("0/a/b")).unwrap();
    nest(&folder.join("0/a/b"), DEEP);
    let trash = Trash::open(folder.clone()).unwrap();
    for tree in ["x", "y"] {
        let tree = parent.path().join(tree);
        fs::create_dir_all(tree.join("a/b")).unwrap();
        trash.throw(&tree).unwrap();
        assert!(!tree.exists());
        trash.throw(&tree).unwrap();
        assert_eq!(
            trash.take(&tree).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
    let start = Instant::now();
    while fs::read_dir(&folder).unwrap().next().is_some() {
        assert!(start.elapsed() < Duration::from_secs(60), "not emptied");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(trash);
}

#[test]
fn a_tree_that_grows_while_it_is_removed_is_gone_once_it_no_longer_does() {
    let parent = quick_place();
    let tree = parent.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let grows = Arc::new(AtomicBool::new(true));
    let growing = std::thread::spawn({
        let (grows, tree) = (Arc::clone(&grows), tree.clone());
        move || {
            let mut number = 0_u64;
            while grows.load(Ordering::Relaxed) {
                number += 1;
                // The tree may be gone in between; it is made again.
                let _gone = fs::create_dir_all(tree.join(format!("{number}/a/b")));
                let _gone = fs::write(tree.join(format!("{number}/a/file")), "x");
            }
        }
    });
    let attempt = Duration::from_millis(50);
    let begun = Instant::now();
    for _ in 0..5 {
        // Whether an attempt succeeds, fails or runs out of time depends on which thread is faster.
        let _grown = remove_within(attempt, &tree, None, &|| false);
    }
    assert!(begun.elapsed() < ATTEMPT_MAX, "an attempt ends");
    grows.store(false, Ordering::Relaxed);
    growing.join().unwrap();
    // On a slow disk, what has grown may take longer to remove than one attempt may.
    let enough = Duration::from_secs(300);
    remove_within(enough, &tree, None, &|| false).unwrap();
    assert!(!tree.exists());
}
