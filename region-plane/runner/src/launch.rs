//! How a bundle gets from the runner's container into the function's.
//!
//! In a pool's pod the function's container runs `tradewind-runner launch`: it waits for a [`Program`]
//! in the folder that both share, and becomes it. So the container's exit status is the function's,
//! and its memory limit meets the function alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use inotify::{Inotify, WatchMask};
use region_plane_runtime::output::Stream;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::settings::{CODE_DIR, CODE_DIR_VARIABLE};

/// What the function's container is to run, once it is there.
const PROGRAM: &str = "launch.json";

/// The bundle, unpacked.
pub const BUNDLE: &str = "bundle";

/// What is written to it by anyone, and read by its owner.
const PIPE_MODE: u32 = 0o622;

/// What a process is that died of SIGTERM, to a shell.
const TERMINATED: i32 = 128 + 15;

/// A program with all it is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub argv: Vec<String>,
    /// Beside what the container has.
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
}

/// The program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("wait for {path}")]
    Wait {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} names no program")]
    NoProgram { path: PathBuf },
    #[error("open {path}")]
    Pipe {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("limit the process")]
    Limit {
        #[source]
        source: io::Error,
    },
}

/// The two pipes by which the runner reads what the function prints.
///
/// Pipes with names, since a program can open `/dev/stdout` again if it is one.
///
/// # Errors
/// If they cannot be made; they may be there already.
pub fn make_pipes(code_dir: &Path) -> io::Result<[(Stream, pipe::Receiver); 2]> {
    let open = |stream| -> io::Result<_> {
        let path = code_dir.join(name(stream));
        match mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error)),
        }
        // Whatever the umask; the function has another user.
        fs::set_permissions(&path, fs::Permissions::from_mode(PIPE_MODE))?;
        Ok((stream, pipe::OpenOptions::new().open_receiver(path)?))
    };
    Ok([open(Stream::Stdout)?, open(Stream::Stderr)?])
}

/// Has `program` run in the function's container. Blocking.
///
/// # Errors
/// If it cannot be written.
pub fn launch(code_dir: &Path, program: &Program) -> io::Result<()> {
    let json = serde_json::to_vec(program)?;
    let unfinished = code_dir.join("launch.json.new");
    fs::write(&unfinished, json)?;
    // The other container's user reads it.
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644))?;
    fs::rename(unfinished, code_dir.join(PROGRAM))
}

/// `tradewind-runner launch`: becomes the program, once there is one. Returns only if it cannot.
///
/// Terminated while it waits, it exits: as the container's first process it would not die of the
/// signal by itself.
///
/// # Errors
/// If there is no program to become. That a program cannot be executed goes to the function's log,
/// and this process exits as a shell would.
pub fn become_program() -> Result<Infallible, LaunchError> {
    let code_dir = std::env::var_os(CODE_DIR_VARIABLE).unwrap_or_else(|| CODE_DIR.into());
    let code_dir = Path::new(&code_dir);
    let path = code_dir.join(PROGRAM);
    wait_for(code_dir).map_err(|source| LaunchError::Wait {
        path: path.clone(),
        source,
    })?;
    let program = read(&path).map_err(|source| LaunchError::Read {
        path: path.clone(),
        source,
    })?;
    let Some((executable, args)) = program.argv.split_first() else {
        return Err(LaunchError::NoProgram { path });
    };
    let output = |stream| {
        let path = code_dir.join(name(stream));
        OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| LaunchError::Pipe { path, source })
    };
    let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
    let mut log = stderr.try_clone().ok();
    region_plane_runtime::process::limit().map_err(|source| LaunchError::Limit { source })?;
    let error = Command::new(executable)
        .args(args)
        .current_dir(&program.cwd)
        .env_remove(CODE_DIR_VARIABLE)
        .envs(&program.env)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .exec();
    refuse(executable, &program.cwd, &error, log.as_mut())
}

/// Into the function's log, where its owner looks for why it does not come up.
fn refuse(program: &str, cwd: &Path, error: &io::Error, log: Option<&mut File>) -> ! {
    let cwd = cwd.display();
    let message = format!("exec {program} in {cwd}: {error}\n");
    eprint!("{message}");
    if let Some(log) = log {
        let _ = io::Write::write_all(log, message.as_bytes());
    }
    std::process::exit(match error.kind() {
        io::ErrorKind::PermissionDenied => 126,
        _ => 127,
    })
}

/// Returns once the program is there.
fn wait_for(code_dir: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let inotify = Inotify::init()?;
        inotify.watches().add(code_dir, WatchMask::MOVED_TO)?;
        let mut events = inotify.into_event_stream([0; 4096])?;
        while !code_dir.join(PROGRAM).exists() {
            tokio::select! {
                _ = terminated.recv() => std::process::exit(TERMINATED),
                event = futures_util::StreamExt::next(&mut events) => {
                    event.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
                }
            }
        }
        Ok(())
    })
}

fn read(path: &Path) -> io::Result<Program> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn name(stream: Stream) -> &'static OsStr {
    OsStr::new(match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    })
}
