//! `tradewind-runner`: serves its pod, or prepares the container beside it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use api_types::chain;
use region_plane_runner::settings::{Settings, VARIABLES};
use region_plane_runner::{launch, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// `EX_CONFIG` of sysexits.h: trying again would not help.
const BAD_SETTINGS: u8 = 78;

/// `EX_USAGE`.
const BAD_USAGE: u8 = 64;

/// Of the file that `install` makes.
const NAME: &str = "tradewind-runner";

const USAGE: &str = "\
Runs in every pod beside the function. Takes claims, bundles and calls for it, and passes on its log.

  tradewind-runner                serve; the environment configures it
  tradewind-runner install DIR    copy this program into DIR, which the function's container mounts
  tradewind-runner launch         in that container: wait for a bundle, then become its program

Environment variables of `serve`, with defaults:
";

/// What the first argument asks for.
enum Mode {
    Serve,
    Install(PathBuf),
    Launch,
    Help,
    Version,
}

fn main() -> ExitCode {
    let done = match mode(std::env::args_os().skip(1).collect()) {
        Some(Mode::Serve) => return serve(),
        Some(Mode::Install(dir)) => {
            install(&dir).with_context(|| format!("install into {}", dir.display()))
        }
        Some(Mode::Launch) => launch::become_program()
            .map(|never| match never {})
            .map_err(anyhow::Error::from),
        Some(Mode::Help) => say(&format!("{USAGE}{VARIABLES}\n")),
        Some(Mode::Version) => say(concat!(
            "tradewind-runner ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
        None => {
            eprintln!("{NAME}: no such command; see {NAME} --help");
            return ExitCode::from(BAD_USAGE);
        }
    };
    ended(done)
}

fn mode(args: Vec<OsString>) -> Option<Mode> {
    let words: Vec<_> = args.iter().map(|arg| arg.to_str()).collect();
    match words[..] {
        [] => Some(Mode::Serve),
        [Some("install"), _] => Some(Mode::Install(args.into_iter().nth(1)?.into())),
        [Some("launch")] => Some(Mode::Launch),
        [Some("--help" | "-h")] => Some(Mode::Help),
        [Some("--version" | "-V")] => Some(Mode::Version),
        _ => None,
    }
}

fn serve() -> ExitCode {
    let settings = match Settings::from_environment(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in problems {
                eprintln!("{NAME}: {problem}");
            }
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(settings.log)
        .init();
    ended(run(settings))
}

/// On one thread: a pod has one call at a time, and each thread would cost memory.
fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // One unpacks a bundle while the other writes to disk.
        .max_blocking_threads(2)
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut serving = Box::pin(server::serve(settings, shutdown.clone()));
        tokio::select! {
            served = serving.as_mut() => return Ok(served?),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        Ok(serving.await?)
    })
}

/// Under its name only once it is whole.
fn install(dir: &Path) -> io::Result<()> {
    let unfinished = dir.join(format!("{NAME}.new"));
    // Not the program's path, which may have been replaced since by another version.
    fs::copy("/proc/self/exe", &unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
    fs::rename(unfinished, dir.join(NAME))
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
