//! `scripts/with-skips`, by what it prints and how it ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// As `.ci/skips-allowed` is written.
const ALLOWED: &str = "# Comments are no names.\n\nlisted: no cluster\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn with_skips(allowed: &Path, in_ci: bool, command: &[&str]) -> Output {
    Command::new(root().join("scripts/with-skips"))
        .arg(allowed)
        .args(command)
        .env("CI", if in_ci { "true" } else { "" })
        .output()
        .unwrap()
}

/// Run by the test below, which gives it a list.
#[test]
#[ignore = "skips"]
fn skips() {
    chaos_tests_machine::skip("skips", "it is asked to");
}

#[test]
fn ci_fails_on_a_skip_that_is_not_on_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = folder.path().join("allowed");
    std::fs::write(&allowed, ALLOWED).unwrap();
    let skip = |line: &str| format!("echo '{line}' >>\"$TRADEWIND_SKIPS\"");
    let listed = skip("listed: no cluster");
    for (case, script, in_ci, want, last) in [
        ("nothing is skipped", "echo ran".to_owned(), true, 0, "ran"),
        ("nothing runs", "exit 3".to_owned(), true, 3, ""),
        ("listed", listed.clone(), true, 0, "  listed: no cluster"),
        (
            "twice",
            format!("{listed};{listed}"),
            true,
            0,
            "  listed: no cluster",
        ),
        (
            "listed, and a failure",
            format!("{listed}; exit 101"),
            true,
            101,
            "  listed: no cluster",
        ),
        (
            "unlisted",
            skip("other: no cluster"),
            true,
            1,
            "other: no cluster",
        ),
        (
            "unlisted, at home",
            skip("other: no cluster"),
            false,
            0,
            "  other: no cluster",
        ),
        (
            "for another reason",
            skip("listed: no helm"),
            true,
            1,
            "listed: no helm",
        ),
        (
            "part of a listed line",
            skip("listed: no"),
            true,
            1,
            "listed: no",
        ),
        ("a comment's words", skip("names"), true, 1, "names"),
        (
            "unlisted, and a failure",
            format!("{}; exit 101", skip("other: x")),
            true,
            101,
            "other: x",
        ),
    ] {
        let output = with_skips(&allowed, in_ci, &["bash", "-c", &script]);
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(want), "{case}: {printed}");
        assert_eq!(printed.lines().last().unwrap_or_default(), last, "{case}");
    }
}

#[test]
fn no_list_allows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = with_skips(&folder.path().join("none"), true, &["true"]);
    assert!(!output.status.success());
}

#[test]
fn a_test_that_skips_passes_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = folder.path().join("allowed");
    std::fs::write(&allowed, ALLOWED).unwrap();
    let test = std::env::current_exe().unwrap();
    let test = test.to_str().unwrap();
    for (in_ci, want) in [(false, 0), (true, 1)] {
        let output = with_skips(&allowed, in_ci, &[test, "--exact", "--ignored", "skips"]);
        let printed = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(want), "{printed}{said}");
        assert!(printed.contains("1 passed"), "{printed}");
        assert!(
            printed.ends_with("skipped:\n  skips: it is asked to\n"),
            "{printed}"
        );
        assert!(
            said.starts_with("SKIPPED skips: it is asked to\n"),
            "{said}"
        );
    }
}

/// The list is of lines that this would print; a typing error would allow nothing.
#[test]
fn the_list_of_this_repository_names_skips_with_their_reasons() {
    let text = std::fs::read_to_string(root().join(".ci/skips-allowed")).unwrap();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, why) = line.split_once(": ").expect(line);
        assert!(!name.is_empty() && !why.is_empty(), "{line}");
        assert_eq!(line.trim(), line);
    }
}

/// Any other way to say it would go past the list.
#[test]
fn nothing_else_says_that_a_test_is_skipped() {
    let found = Command::new("grep")
        .args([
            "--recursive",
            "--files-with-matches",
            "--include=*.rs",
            "--exclude-dir=target",
        ])
        .args(["--exclude-dir=.git", "SKIPPED", "."])
        .current_dir(root())
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let mut files: Vec<&str> = found.lines().collect();
    files.sort_unstable();
    let here = [
        "./chaos-tests/machine/src/skip.rs",
        "./chaos-tests/machine/tests/with_skips.rs",
    ];
    assert_eq!(files, here);
}
