//! Waiting for a process to have stopped.

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

fn is_stopped(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // The state follows the program's name, which is in brackets and may have some itself (proc(5)).
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        if state != Some('T') {
            return Ok(false);
        }
    }
    Ok(true)
}
