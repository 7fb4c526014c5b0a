//! Whether a process that was sent a signal has stopped or ended: all of its threads.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// A thread stops when it is scheduled next, which on a busy machine is a matter of tenths of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until every thread of a process that was sent SIGSTOP has stopped.
///
/// `kill` returns before that: one thread takes the signal and stops the others, and until it is scheduled
/// the others go on and may still answer.
///
/// # Errors
/// If the process is gone, or still runs after half a minute.
pub fn wait_until_stopped(pid: u32) -> io::Result<()> {
    let began = Instant::now();
    while !is_stopped(pid)? {
        if began.elapsed() > PATIENCE {
            let problem = format!("process {pid} was not stopped within {PATIENCE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether every thread of a process has ended, whether or not its parent has waited for it.
///
/// Its main thread can have ended while others still hold its sockets open, and even answer.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    // Gone, or gone while it was looked at.
    all_threads(pid, &['Z', 'X']).unwrap_or(true)
}

fn is_stopped(pid: u32) -> io::Result<bool> {
    all_threads(pid, &['T'])
}

/// Whether each thread is in one of these states (proc(5)).
fn all_threads(pid: u32, states: &[char]) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else {
            continue;
        };
        // The state follows the program's name, which is in brackets and may have some itself.
        let state = stat.rsplit_once(") ");
        let state = state.and_then(|(_, rest)| rest.chars().next());
        if !state.is_some_and(|state| states.contains(&state)) {
            return Ok(false);
        }
    }
    Ok(true)
}
