//! `tradewind up`: its whole life, also when it is killed.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::federation::{Up, lives, stderr};

#[test]
fn a_federation_is_started_mended_lost_and_found() {
    let mut up = Up::new();
    let pids = up.start();
    assert_eq!(pids.len(), 3);
    assert!(up.run(&["--status"]).status.success());

    // A second one is refused, and says which process is in the way.
    let second = up.run(&[]);
    let pid = up.child.as_ref().unwrap().id().to_string();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("already") && stderr(&second).contains(&pid),
        "{}",
        stderr(&second)
    );

    // A part that runs is not started twice; one that died is, and the file says so.
    let twice = up.run(&["--start", "iad"]);
    assert!(
        !twice.status.success() && stderr(&twice).contains("runs already"),
        "{}",
        stderr(&twice)
    );
    let unknown = up.run(&["--start", "mars"]);
    assert!(
        stderr(&unknown).contains("no mars here"),
        "{}",
        stderr(&unknown)
    );
    let region = pids[2];
    kill_process(Pid::from_raw(region).unwrap(), Signal::KILL).unwrap();
    let again = up.run(&["--start", "iad"]);
    assert!(again.status.success(), "{}", stderr(&again));
    let pids = up.pids();
    assert!(pids[2] != region && lives(pids[2]));
    assert!(
        up.log().contains("iad died (signal: 9 (SIGKILL))"),
        "{}",
        up.log()
    );

    // Killed itself, it leaves its parts, which the next one names and --stop ends.
    up.signal(Signal::KILL);
    assert!(pids.iter().all(|pid| lives(*pid)));
    assert_eq!(up.run(&["--status"]).status.code(), Some(1));
    let next = up.run(&[]);
    assert_eq!(next.status.code(), Some(1));
    for pid in &pids {
        assert!(
            stderr(&next).contains(&format!("(process {pid})")),
            "{}",
            stderr(&next)
        );
    }
    assert!(stderr(&next).contains("--stop"), "{}", stderr(&next));
    let stop = up.run(&["--stop"]);
    assert!(stop.status.success(), "{}", stderr(&stop));
    assert!(!pids.iter().any(|pid| lives(*pid)));

    // The same folder goes on with its data; told to stop, it ends everything.
    let pids = up.start();
    up.signal(Signal::TERM);
    assert!(!pids.iter().any(|pid| lives(*pid)));
    assert!(!up.ready_file().exists(), "nothing is ready any more");
    assert!(up.log().contains("stopped in"), "{}", up.log());

    let larger = Command::new(env!("CARGO_BIN_EXE_tradewind"))
        .args(["up", "--net", &up.network.to_string()])
        .args(["--globals", "3", "--dir"])
        .arg(up.dir())
        .output()
        .unwrap();
    assert!(
        stderr(&larger).contains("--globals 1"),
        "{}",
        stderr(&larger)
    );
}
