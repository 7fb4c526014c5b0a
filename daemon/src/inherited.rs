//! What a process has of whoever started it, and must not have.
//!
//! A shell, a build tool or a test hands on whatever it has open, and the signals that it ignores or
//! blocks: `nohup` leaves SIGHUP ignored, a script's `&` SIGINT. A daemon would hand them on to its
//! functions, which may hold a stranger's files open or never hear a signal. Everything that a daemon opens
//! itself is closed in its children, so it is enough to begin clean.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};

/// Rust ignores it in every program, so that writing to a closed connection is an error and no end. It
/// gives children the default again.
const SIGPIPE: u32 = 13;

/// Leaves descriptors 0, 1 and 2 open, no signal blocked, and none but SIGPIPE ignored. To be called
/// before anything else: what is open by then is taken for inherited.
///
/// A signal that is ignored can be set to its default without unsafe code in one way only: it is given a
/// handler, which execve(2) resets, and the program starts itself again, as the same process. That happens
/// once, since nothing is ignored then, and mostly not at all. SIGILL, SIGFPE and SIGSEGV are left: they
/// cannot be given one, and what the processor raises is never ignored.
pub fn drop_inherited() {
    close_descriptors();
    // Before the program starts itself again: the mask is handed on.
    let _refused = SigSet::empty().thread_set_mask();
    if handle_ignored() {
        start_again();
    }
}

fn close_descriptors() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    // Read to the end first: the listing has a descriptor itself, which is not open any more then.
    let open: Vec<i32> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _not_open = nix::unistd::close(descriptor);
    }
}

/// Gives ignored signals a handler; whether there was one.
fn handle_ignored() -> bool {
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let numbers: Vec<u32> = (1..=64)
        .filter(|number| ignored & (1 << (number - 1)) != 0 && *number != SIGPIPE)
        .collect();
    if numbers.is_empty() {
        return false;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
    else {
        return false;
    };
    let _inside = runtime.enter();
    let handled = numbers
        .into_iter()
        .filter_map(|number| i32::try_from(number).ok())
        .filter(|number| signal(SignalKind::from_raw(*number)).is_ok());
    handled.count() > 0
}

/// The mask of `SigIgn` (proc(5)): the lowest bit is signal 1.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Returns only if it cannot; signals that were ignored have handlers that do nothing then.
fn start_again() {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let rest: Vec<_> = args.collect();
    // By its path, which names the process; the file may have been replaced meanwhile.
    let path = std::env::current_exe().unwrap_or_default();
    for program in [path.as_path(), "/proc/self/exe".as_ref()] {
        let _error = Command::new(program).arg0(&name).args(&rest).exec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        for (status, want) in [
            ("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t1\n", 0x1001),
            ("SigIgn:\tx\n", 0),
            ("", 0),
        ] {
            assert_eq!(ignored(status), want, "{status}");
        }
    }
}
