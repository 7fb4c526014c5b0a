//! The moment between the region's fork and the function's program.
//!
//! What must be set in the child before its program runs would need unsafe code in the parent. So
//! the region starts itself again, sets it as an ordinary process, and becomes the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::set_no_new_privs;

/// The first argument by which a program knows that it is to become an instance.
const EXEC_INSTANCE: &str = "exec-instance";

/// Open files of an instance (Fn contract 9.5).
const OPEN_FILES_MAX: u64 = 350;

/// What a shell says when it cannot run a program.
const CANNOT_EXEC: i32 = 127;

/// Becomes the program of an instance if this process was started for that; else returns.
///
/// A program whose [`super::ProcessSettings::launcher`] is itself calls it before anything else: what
/// runs before runs in every instance, too.
pub fn exec_instance_if_asked() {
    let mut args = env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(EXEC_INSTANCE)) {
        return;
    }
    let (Some(parent), Some(program)) = (args.next(), args.next()) else {
        refuse(
            Path::new(EXEC_INSTANCE),
            &io::Error::other("it is the region's to use"),
        );
    };
    let error = exec(&parent, &program, args);
    refuse(Path::new(&program), &error);
}

/// The command that becomes `program` by way of `launcher`, as a child of this process.
pub(super) fn by_way_of(launcher: &Path, program: &OsStr) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(launcher);
    command
        .arg(EXEC_INSTANCE)
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

fn exec(parent: &OsStr, program: &OsStr, args: impl Iterator<Item = OsString>) -> io::Error {
    match confine(parent) {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => error,
    }
}

fn confine(parent: &OsStr) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the signal was asked for; nobody would send it then.
    let alive = getppid()
        .map(Pid::as_raw_nonzero)
        .map(|pid| pid.to_string());
    if alive.as_deref().map(OsStr::new) != Some(parent) {
        return Err(io::Error::other("the region is gone"));
    }
    limit()
}

/// What an instance may use of its machine, of which cgroups know nothing (Fn contract 9.5). For
/// the process itself and all that come from it.
///
/// # Errors
/// If its limits are lower already.
pub fn limit() -> io::Result<()> {
    set_no_new_privs(true)?;
    for (resource, most) in [(Resource::Nofile, OPEN_FILES_MAX), (Resource::Core, 0)] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Into the function's log, where its owner looks for why it does not come up.
fn refuse(program: &Path, error: &io::Error) -> ! {
    let _ = writeln!(io::stderr(), "exec {}: {error}", program.display());
    std::process::exit(CANNOT_EXEC)
}
