//! A daemon's life: arguments, configuration, logging, signals, exit code.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api_types::chain;
use calls_door::descriptors;
use clap::{Arg, ArgAction, Command, value_parser};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{self, Config, LOG_VARIABLE};
use crate::{VERSION, inherited, operations};

/// `EX_CONFIG` of `sysexits.h`: started wrongly, and starting again would not help.
const EXIT_CONFIG: u8 = 78;

const INTERRUPT: &str = "SIGINT";

/// What `run` fails with where starting the same program on the same data again would not help: its
/// data folder is of a version that this program cannot take. The process exits 78.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {to_do}")]
pub struct Unfit {
    /// What this program cannot take, and why.
    pub what: String,
    /// What a person does about it.
    pub to_do: String,
}

impl Unfit {
    /// Of an error that a person can do something about, if it is known what; else the error.
    pub fn if_known<E>(to_do: Option<&str>, error: E) -> anyhow::Error
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let Some(to_do) = to_do else {
            return error.into();
        };
        let what = chain(&error);
        let to_do = to_do.to_owned();
        Self { what, to_do }.into()
    }
}

/// Asks a daemon to stop: finish what is in flight, take nothing new, return.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    begun: CancellationToken,
    at_once: CancellationToken,
    /// The daemon waits before it stops, and may be told not to.
    pauses: Arc<AtomicBool>,
}

impl Shutdown {
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// A token that is cancelled with this one, and can be cancelled alone.
    #[must_use]
    pub fn child_token(&self) -> CancellationToken {
        self.begun.child_token()
    }

    /// Cancelled when a daemon that goes on working for a while after SIGTERM, for clients that have
    /// not heard of its end, is to leave that out: by SIGINT, or by a second signal. For a daemon that
    /// has not asked for it a second signal ends the wait for what is in flight.
    #[must_use]
    pub fn at_once(&self) -> CancellationToken {
        self.pauses.store(true, Ordering::Relaxed);
        self.at_once.clone()
    }

    /// Begins the shutdown, as SIGTERM does.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Whether a second signal has nothing left to shorten.
    fn hurries(&self) -> bool {
        !self.pauses.load(Ordering::Relaxed) || self.at_once.is_cancelled()
    }
}

/// Runs a daemon to its end: the whole of its `fn main`.
///
/// Reads `--config FILE` and the environment, and exits 78 with every problem listed before `run`
/// is called, so before any port is bound. Of whoever started it a daemon keeps descriptors 0, 1 and 2
/// alone, and no signal ignored or blocked ([`inherited`]); its soft limit of open files is raised to the
/// hard one. SIGTERM and SIGINT begin the shutdown; `run` then has [`Config::drain_grace`] to return. A
/// second signal ends that wait, or first the pause of a daemon that has one ([`Shutdown::at_once`]).
/// Exits 1 if `run` fails or is cut off, 78 if it fails with [`Unfit`].
pub fn main<C, Fut>(name: &'static str, run: impl FnOnce(C, Shutdown) -> Fut) -> ExitCode
where
    C: Config,
    Fut: Future<Output = anyhow::Result<()>>,
{
    inherited::drop_inherited();
    let matches = command::<C>(name).get_matches();
    let path: &PathBuf = matches.get_one("config").expect("clap requires it");
    let config = config::load::<C>(path, std::env::vars_os(), matches.get_flag("insecure"));
    let filter = log_filter();
    let (config, filter) = match (config, filter) {
        (Ok(config), Ok(filter)) => (config, filter),
        (config, filter) => {
            let mut problems = config.err().unwrap_or_default();
            problems.extend(filter.err());
            eprintln!("{name}: {} is not a valid configuration:", path.display());
            for problem in problems {
                eprintln!("  - {problem}");
            }
            eprintln!("`{name} --help` lists the keys");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
    match descriptors::raise() {
        Ok(limit) => info!(limit, "open files"),
        Err((limit, error)) => warn!(limit, %error, "limit of open files not raised"),
    }
    operations::recorder();
    metrics::gauge!("tradewind_build_info", "daemon" => name, "version" => VERSION).set(1.0);

    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(supervise(name, config, run));
    // Threads that only wait (a blocking read, a name look-up) must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn supervise<C, Fut>(
    name: &'static str,
    config: C,
    run: impl FnOnce(C, Shutdown) -> Fut,
) -> ExitCode
where
    C: Config,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            error!(%error, "cannot listen for signals");
            return ExitCode::FAILURE;
        }
    };
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => INTERRUPT,
        }
    };
    let grace = config.drain_grace();
    let shutdown = Shutdown::default();
    info!(
        daemon = name,
        version = VERSION,
        pid = std::process::id(),
        "started"
    );
    let mut running = Box::pin(run(config, shutdown.clone()));
    let asked = async {
        tokio::select! {
            signal = signalled() => {
                info!(signal, ?grace, "stopping");
                if signal == INTERRUPT {
                    shutdown.at_once.cancel();
                }
            }
            () = shutdown.cancelled() => info!(?grace, "stopping"),
            () = operations::upkeep() => {}
        }
        shutdown.begin();
        let mut over = pin!(tokio::time::sleep(grace));
        loop {
            tokio::select! {
                () = &mut over => {
                    warn!(?grace, "drain timed out");
                    return;
                }
                signal = signalled() => {
                    if shutdown.hurries() {
                        warn!(signal, "drain cut off");
                        return;
                    }
                    info!(signal, "stopping at once");
                    shutdown.at_once.cancel();
                }
            }
        }
    };
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = asked => return ExitCode::FAILURE,
    };
    match ended {
        Ok(()) if shutdown.is_cancelled() => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(()) => {
            error!("stopped unexpectedly");
            ExitCode::FAILURE
        }
        Err(error) => {
            error!(error = chain(error.as_ref()), "failed");
            match error.downcast_ref::<Unfit>() {
                Some(_) => ExitCode::from(EXIT_CONFIG),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn command<C: Config>(name: &'static str) -> Command {
    Command::new(name)
        .version(VERSION)
        .about(C::ABOUT)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file (TOML)"),
        )
        .arg(
            Arg::new("insecure")
                .long("insecure")
                .action(ArgAction::SetTrue)
                .help("Allow addresses other than loopback, although callers are not authenticated"),
        )
        .after_help(format!(
            "Keys of FILE:\n\n{keys}\n\n\
             Environment:\n\
             \x20 TRADEWIND_KEY, TRADEWIND_TABLE__KEY   override a key; a value is TOML or plain text\n\
             \x20 {LOG_VARIABLE}   what to log, such as `info` or `warn,{crate_name}=debug` (default info)\n\
             \x20                 `info,hickory_server=info` also logs each DNS query\n\n\
             Exit codes: 0 stopped on request; 1 failed; 78 invalid configuration, or data of another version.",
            keys = indented(C::KEYS),
            crate_name = name.replace('-', "_"),
        ))
}

fn indented(text: &str) -> String {
    text.trim_matches('\n')
        .lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Always in front of what is asked for, which may name these again.
///
/// An error is something a person must act on; `kube_client` calls each try so that fails while the API
/// server is away, and whoever asked says it once. `hickory_server` logs two lines of each query at
/// `info`: writing them took a quarter of a DNS server's speed, and filled 6 MB a second.
const LOG_QUIET: &str = "kube_client::client::builder=off,hickory_server=warn";

fn log_filter() -> Result<EnvFilter, String> {
    let text = std::env::var(LOG_VARIABLE).unwrap_or_default();
    filter(&text).map_err(|error| format!("environment {LOG_VARIABLE}={text:?}: {error}"))
}

fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let text = if text.is_empty() { "info" } else { text };
    EnvFilter::try_new(format!("{LOG_QUIET},{text}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn libraries_that_say_too_much_are_heard_only_when_asked_for() {
        for (asked, tries, queries) in [
            ("", false, false),
            ("info", false, false),
            ("debug", false, false),
            ("info,kube_client=debug,hickory=info", false, false),
            ("info,kube_client::client::builder=error", true, false),
            ("info,hickory_server=info", false, true),
            ("warn,hickory_server=debug", false, true),
            ("info,hickory_server::server=info", false, true),
        ] {
            let subscriber = tracing_subscriber::registry().with(filter(asked).unwrap());
            tracing::subscriber::with_default(subscriber, || {
                let said = tracing::enabled!(target: "kube_client::client::builder", tracing::Level::ERROR);
                assert_eq!(said, tries, "{asked}");
                let said =
                    tracing::enabled!(target: "hickory_server::server", tracing::Level::INFO);
                assert_eq!(said, queries, "{asked}");
                assert!(tracing::enabled!(target: "kube_client::other", tracing::Level::WARN));
                assert!(tracing::enabled!(target: "hickory_server::server", tracing::Level::WARN));
            });
        }
        filter("info,=nonsense=").unwrap_err();
    }
}
