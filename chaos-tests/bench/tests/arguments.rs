//! What the program makes of its arguments, before it starts anything.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn a_part_that_is_not_known_is_refused_with_those_that_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_tradewind-bench"))
        .args(["calls", "speed"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "nothing was measured");
    for word in ["speed", "calls", "cold", "writes", "dns", "replication"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}
