//! `tradewind apps`.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use api_client::Client;
use api_types::AppId;
use api_wire::{AppBody, Page};
use clap::Subcommand;

use super::settings::{Annotated, Setting, config, unset};
use crate::names;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind apps create shop --placement geo=eu --strict    its functions run only in Europe
  tradewind apps update shop --placement anywhere           remove the restriction
  tradewind apps config set shop GREETING=hello             a variable for all its functions
  tradewind apps delete shop --recursive                    and its functions and triggers")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List apps (the default)
    List,
    /// Create an app
    Create {
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Show all fields of an app
    Inspect { name: String },
    /// Change the given fields of an app
    Update {
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Delete an app
    Delete {
        name: String,
        /// Also delete its functions and their triggers
        #[arg(long)]
        recursive: bool,
    },
    /// Set, unset and list the variables of all functions of an app
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Environment variable for all functions of the app; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE")]
    config: Vec<Setting>,
    /// Send the logs of its functions to this URL; an empty value removes it
    #[arg(long, value_name = "URL")]
    syslog_url: Option<String>,
    #[command(flatten)]
    annotated: Annotated,
}

impl Change {
    fn body(self) -> anyhow::Result<AppBody> {
        Ok(AppBody {
            config: config(&self.config),
            annotations: self.annotated.body()?,
            syslog_url: self.syslog_url,
            ..AppBody::default()
        })
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Set variables
    Set {
        app: String,
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
    },
    /// Remove variables
    Unset {
        app: String,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show variables
    List { app: String },
}

pub async fn run(args: Args, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    match args.command.unwrap_or(Command::List) {
        Command::List => list(client, output).await?,
        Command::Create { name, change } => {
            let body = AppBody {
                name: Some(name.clone()),
                ..change.body()?
            };
            let created = client.create_app(&body).await;
            let created = created.with_context(|| format!("create app {name}"))?;
            wrote(&created.object, &format!("created app {name}"), output);
        }
        Command::Inspect { name } => output.json(&names::app(client, &name).await?.1),
        Command::Update { name, change } => update(client, &name, &change.body()?, output).await?,
        Command::Delete { name, recursive } => delete(client, &name, recursive, output).await?,
        Command::Config { command } => match command {
            ConfigCommand::Set { app, settings } => {
                let change = AppBody {
                    config: config(&settings),
                    ..AppBody::default()
                };
                update(client, &app, &change, output).await?;
            }
            ConfigCommand::Unset { app, keys } => {
                let change = AppBody {
                    config: Some(unset(&keys)),
                    ..AppBody::default()
                };
                update(client, &app, &change, output).await?;
            }
            ConfigCommand::List { app } => {
                let (_, app) = names::app(client, &app).await?;
                let variables = app.config.unwrap_or_default();
                if output.json {
                    output.json(&variables);
                } else {
                    let rows = variables.into_iter().map(|(key, value)| vec![key, value]);
                    output.text(&table(&["variable", "value"], rows));
                }
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let apps = client.apps().await?;
    if output.json {
        output.json(&Page::whole(apps));
        return Ok(());
    }
    let rows = apps.into_iter().map(|app| {
        vec![
            app.name.unwrap_or_default(),
            app.id.unwrap_or_default(),
            app.updated_at.unwrap_or_default(),
        ]
    });
    output.text(&table(&["app", "id", "updated"], rows));
    Ok(())
}

async fn update(
    client: &Client,
    name: &str,
    change: &AppBody,
    output: Output,
) -> anyhow::Result<()> {
    let (id, _) = names::app(client, name).await?;
    let updated = client.update_app(&id, change).await;
    let updated = updated.with_context(|| format!("update app {name}"))?;
    wrote(&updated.object, &format!("updated app {name}"), output);
    Ok(())
}

async fn delete(
    client: &Client,
    name: &str,
    recursive: bool,
    output: Output,
) -> anyhow::Result<()> {
    let (id, _): (AppId, AppBody) = names::app(client, name).await?;
    let functions = client.fns(&id).await?.len();
    ensure!(
        functions == 0 || recursive,
        "app {name} has {functions} functions; delete them too with --recursive"
    );
    client
        .delete_app(&id)
        .await
        .with_context(|| format!("delete app {name}"))?;
    output.note(&format!("deleted app {name}"));
    Ok(())
}

fn wrote(app: &AppBody, what: &str, output: Output) {
    if output.json {
        output.json(app);
    } else {
        output.text(&format!(
            "{what} ({})\n",
            app.id.as_deref().unwrap_or_default()
        ));
    }
}
