//! Tests that do nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Names the file that skips are added to, a line each. `scripts/with-skips` sets it.
const LIST_VARIABLE: &str = "TRADEWIND_SKIPS";

/// Says that the test `name` does nothing on this machine, and why. The test should then return.
///
/// Prints `SKIPPED name: why`, also where the output of a test that passes is captured. `name: why` is
/// added to the list of skips if there is one. CI fails on a line that is not in `.ci/skips-allowed`, so
/// both should be the same in each run.
///
/// # Panics
/// If the list cannot be written: the skip would be taken for a pass.
pub fn skip(name: &str, why: &str) {
    let line = line(name, why);
    // Not `eprint`, which is shown of tests that fail only. Nothing can be done about a closed stream.
    let _unheard = io::stderr().write_all(format!("SKIPPED {line}").as_bytes());
    if let Some(list) = std::env::var_os(LIST_VARIABLE).filter(|list| !list.is_empty()) {
        let list = Path::new(&list);
        add(list, &line).unwrap_or_else(|error| {
            panic!("add {name} to the skips in {}: {error}", list.display())
        });
    }
}

fn line(name: &str, why: &str) -> String {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}: {}\n", words(name), words(why))
}

/// In one write to a file that is open for appending, which Linux keeps apart from others' writes.
fn add(list: &Path, line: &str) -> io::Result<()> {
    let mut list = File::options().append(true).create(true).open(list)?;
    let written = list.write(line.as_bytes())?;
    if written == line.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn tests_that_run_beside_each_other_write_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("skips");
        std::thread::scope(|scope| {
            for test in 0..8 {
                let list = &list;
                scope.spawn(move || {
                    for round in 0..100 {
                        let why = format!("{round} {}", "x".repeat(1000));
                        add(list, &line(&test.to_string(), &why)).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(list).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 800);
        assert!(lines.iter().all(|line| line.len() > 1000), "{lines:?}");
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 800);
    }

    #[test]
    fn a_skip_is_one_line_whatever_the_reason_holds() {
        assert_eq!(line("a", "two\n  lines\n"), "a: two lines\n");
    }
}
