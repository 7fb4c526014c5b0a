//! `tradewind`: runs a local federation, deploys functions, asks and tells the global plane.

mod admin;
mod deploy;
mod endpoints;
mod http;
mod names;
mod output;
mod up;

use std::process::ExitCode;

use anyhow::Context as _;
use api_client::Client;
use api_types::chain;
use clap::{Parser, Subcommand};

use self::output::Output;

/// Global nodes of the federation that `tradewind up` starts by default.
const DEFAULT_API: &str = "http://127.0.20.1:7400,http://127.0.20.2:7400,http://127.0.20.3:7400";

/// Functions deployed once, run in every region, reached under one name.
#[derive(Debug, Parser)]
#[command(
    name = "tradewind",
    version,
    arg_required_else_help = true,
    after_help = "\
Start here:
  tradewind up                                   run a federation on this machine
  tradewind deploy --app shop examples/python    deploy a function to all regions
  tradewind invoke shop hello-python             call the function
  tradewind explain shop.fn.test --from 46.4.0.1 show why a client gets its region

The addresses of the global nodes come from --api, else TRADEWIND_API, else FN_API_URL, else they
are those of `tradewind up`. With several addresses, separated by commas, a command still works
when some of the nodes are down. With a path such as http://127.0.20.1:7400/regions/fra it shows
the view of one region.

Exit codes: 0 success, 1 failure, 2 usage error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Global nodes, separated by commas, such as http://127.0.20.1:7400
    #[arg(long, global = true, value_name = "URL,URL,…")]
    api: Option<String>,
    /// Print results as JSON on stdout; notes go to stderr
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a federation on this machine
    Up(up::Args),
    /// Deploy a function from its folder
    Deploy(deploy::Args),
    /// Call a function
    Invoke(admin::invoke::Args),
    /// List, create, change and delete apps
    Apps(admin::apps::Args),
    /// List, create, change and delete functions
    Fns(admin::fns::Args),
    /// List, create, change and delete HTTP triggers
    Triggers(admin::triggers::Args),
    /// List, drain and undrain regions
    Regions(admin::planes::RegionsArgs),
    /// Show the revision that each region has applied and how far behind it is
    Replication,
    /// Show why a client gets its region
    Explain(admin::planes::ExplainArgs),
    /// List global nodes and show the leader
    Members,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    match run(cli, output) {
        Ok(code) => code,
        Err(error) => {
            output.note(&format!("error: {}", chain(error.as_ref())));
            if is_unreachable(&error) {
                output.note("`tradewind up` starts a federation on this machine");
            }
            ExitCode::FAILURE
        }
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    let is_it = |error: &api_client::Error| matches!(error, api_client::Error::Unreachable { .. });
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(is_it))
}

fn run(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(dispatch(cli, output))
}

async fn dispatch(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    let client = || {
        let environment = ["TRADEWIND_API", "FN_API_URL"].map(|name| std::env::var(name).ok());
        Client::new(&nodes(cli.api.as_deref(), environment)).context(
            "the list of global nodes comes from --api, else TRADEWIND_API, else FN_API_URL",
        )
    };
    match cli.command {
        Command::Up(args) => up::run(args, output).await,
        Command::Deploy(args) => deploy::run(args, &client()?, output).await,
        Command::Invoke(args) => admin::invoke::run(args, &client()?, output).await,
        Command::Apps(args) => admin::apps::run(args, &client()?, output).await,
        Command::Fns(args) => admin::fns::run(args, &client()?, output).await,
        Command::Triggers(args) => admin::triggers::run(args, &client()?, output).await,
        Command::Regions(args) => admin::planes::regions(args, &client()?, output).await,
        Command::Replication => admin::planes::replication(&client()?, output).await,
        Command::Explain(args) => admin::planes::explain(args, client, output).await,
        Command::Members => admin::planes::members(&client()?, output).await,
    }
}

/// The list of global nodes: from the command line, else the first variable that is set, else the
/// default. As for the `fn` CLI, an address without a scheme is one of http (Fn contract 11.1).
fn nodes(flag: Option<&str>, environment: [Option<String>; 2]) -> Vec<String> {
    let set = |text: &String| !text.trim().is_empty();
    let list = flag
        .map(str::to_owned)
        .or_else(|| environment.into_iter().flatten().find(set))
        .unwrap_or_else(|| DEFAULT_API.to_owned());
    list.split(',')
        .map(str::trim)
        .filter(|node| !node.is_empty())
        .map(|node| {
            if node.contains("://") {
                node.to_owned()
            } else {
                format!("http://{node}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nodes_come_from_the_flag_then_the_environment_then_the_default() {
        let some = |text: &str| Some(text.to_owned());
        for (flag, environment, want) in [
            (
                Some("http://a:1"),
                [some("http://b:1"), None],
                &["http://a:1"][..],
            ),
            (
                None,
                [some("http://b:1, c:2,"), some("http://d:1")],
                &["http://b:1", "http://c:2"],
            ),
            (
                None,
                [some(" "), some("d:1/regions/fra")],
                &["http://d:1/regions/fra"],
            ),
            (
                None,
                [None, None],
                &[
                    "http://127.0.20.1:7400",
                    "http://127.0.20.2:7400",
                    "http://127.0.20.3:7400",
                ],
            ),
        ] {
            assert_eq!(nodes(flag, environment), want);
        }
    }
}
