//! The process between the region and a function's program.
//!
//! What must be set in a process before its program runs would need unsafe code in the region. So the
//! region starts itself again, which sets it as an ordinary process and starts the program as its child.
//!
//! It stays as the program's keeper, because a process may leave its group, its session and its parent,
//! and then nobody would know whose it was. The keeper is the subreaper (prctl(2)) of all that comes of
//! the program: orphans become its children, and it kills them all once the program has ended, the region
//! asks, or the region is gone: its input ends then. So the region itself adopts nothing, and never waits
//! for a process that it has not started. A function that kills its own keeper is killed by the region;
//! what it started may outlive it, as this driver confines no hostile function.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid,
    getrlimit, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
    set_child_subreaper, setrlimit, waitid, waitpid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// The first argument by which a program knows that it is to become a keeper.
const EXEC_INSTANCE: &str = "exec-instance";

/// Open files of an instance (Fn contract 9.5).
const OPEN_FILES_MAX: u64 = 350;

/// How a keeper exits whose function came to run and is gone, with all that came of it.
const ENDED: i32 = 0;

/// How one exits whose program cannot be executed.
const NOT_EXECUTABLE: i32 = 255;

/// What else a keeper exits with is the number of the system's error that kept it from trying. Above
/// these are the numbers by which a shell or the dynamic linker says that there was no keeper.
const SYSTEM_ERROR_MAX: i32 = 125;

/// Keeps an instance if this process was started for that; else returns.
///
/// A program whose [`super::ProcessSettings::launcher`] is itself calls it before anything else: what
/// runs before runs for every instance, too.
pub fn exec_instance_if_asked() {
    let mut args = env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(EXEC_INSTANCE)) {
        return;
    }
    let Some(program) = args.next() else {
        say(&format!("{EXEC_INSTANCE} is the region's to use"));
        std::process::exit(NOT_EXECUTABLE);
    };
    std::process::exit(match keep(&program, args) {
        Ok(()) => ENDED,
        Err(Failed::Program(error)) => {
            say(&format!("exec {}: {error}", Path::new(&program).display()));
            NOT_EXECUTABLE
        }
        Err(Failed::System(error)) => error.raw_os_error(),
    })
}

/// The command that runs `program` by way of `launcher`. It ends when its input does.
pub(super) fn by_way_of(launcher: &Path, program: &OsStr) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(launcher);
    command
        .arg(EXEC_INSTANCE)
        .arg(program)
        .process_group(0)
        .stdin(Stdio::piped());
    command
}

/// What kept an instance from running that has exited so, unless it was its own program: the machine,
/// which keeps all others from running too.
pub(super) fn kept_by_the_system(exited: ExitStatus) -> Option<io::Error> {
    match exited.code()? {
        ENDED | NOT_EXECUTABLE => None,
        number if number <= SYSTEM_ERROR_MAX => Some(io::Error::from_raw_os_error(number)),
        other => Some(io::Error::other(format!(
            "its launcher exited with {other}"
        ))),
    }
}

enum Failed {
    /// It is the program's or its bundle's fault, and goes into the function's log, where its owner
    /// looks for why it does not come up.
    Program(io::Error),
    System(Errno),
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

fn keep(program: &OsStr, args: impl Iterator<Item = OsString>) -> Result<(), Failed> {
    set_child_subreaper(Some(getpid()))?;
    confine()?;
    let function = Command::new(program)
        .args(args)
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .map_err(
            |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(error @ (Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE)) => {
                    Failed::System(error)
                }
                _ => Failed::Program(error),
            },
        )?;
    let function = Pid::from_child(&function);
    // By descriptor: the number is another process's once this one is reaped.
    let handle = pidfd_open(function, PidfdFlags::empty())?;
    let asked = std::thread::Builder::new()
        .name("asked".to_owned())
        .spawn(move || {
            until_asked();
            let _gone = pidfd_send_signal(handle.as_fd(), Signal::KILL);
        });
    if asked.is_err() {
        // Nobody could end it, so it must not begin.
        let _gone = kill_process(function, Signal::KILL);
        end_all(function);
        return Err(Failed::System(Errno::AGAIN));
    }
    let status = until_ended(function);
    end_all(function);
    say_how(status);
    Ok(())
}

/// Returns once the region closes our input, which it does by its death, too.
fn until_asked() {
    let mut nothing = [0; 16];
    while io::stdin().read(&mut nothing).is_ok_and(|read| read > 0) {}
}

/// Reaps every process that ends until the function has, and with it all of its group.
fn until_ended(function: Pid) -> Option<ExitStatus> {
    loop {
        // Without reaping it: until then its group has its number.
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
        let ended = match waitid(
            WaitId::Pid(function),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG,
        ) {
            Ok(ended) => ended.is_some(),
            Err(_) => return None,
        };
        if ended {
            let _empty = kill_process_group(function, Signal::KILL);
            let reaped = waitpid(Some(function), WaitOptions::empty());
            let (_, status) = reaped.ok().flatten()?;
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
        let _none = rustix::process::wait(WaitOptions::NOHANG);
    }
}

/// Kills and reaps all children until there is none. What a killed one leaves becomes ours, and is killed
/// next.
fn end_all(function: Pid) {
    loop {
        for child in children() {
            let _gone = kill_process(child, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    // Where the kernel lists no children (CONFIG_PROC_CHILDREN) the group is all there is to kill.
    let _empty = kill_process_group(function, Signal::KILL);
}

/// All of them, whichever thread they count as children of. Only this thread reaps them, so each number
/// is the child's.
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|child| Pid::from_raw(child.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What an instance may use of its machine, of which cgroups know nothing (Fn contract 9.5). For the
/// process itself and all that come from it.
///
/// # Errors
/// Those of the system calls; none is to be expected.
pub fn limit() -> io::Result<()> {
    Ok(confine()?)
}

fn confine() -> Result<(), Errno> {
    set_no_new_privs(true)?;
    for (resource, most) in [(Resource::Nofile, OPEN_FILES_MAX), (Resource::Core, 0)] {
        // The machine's own limit may be lower, and only a privileged process could raise it.
        let most = getrlimit(resource)
            .maximum
            .map_or(most, |hard| most.min(hard));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    // Where the region is root's, its functions would be bound by no permissions.
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}

/// Into the function's log. That it is not heard changes nothing.
fn say(text: &str) {
    let _unheard = writeln!(io::stderr(), "{text}");
}

/// Its owner wants to know of a crash; that it was killed as everything ends is no news.
fn say_how(status: Option<ExitStatus>) {
    if let Some(status) = status
        && !status.success()
        && status.signal() != Some(Signal::KILL.as_raw())
    {
        say(&format!("the function ended: {status}"));
    }
}
