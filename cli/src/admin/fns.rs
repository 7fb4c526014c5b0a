//! `tradewind fns`.

use std::process::ExitCode;

use anyhow::Context as _;
use api_client::Client;
use api_types::BundleRef;
use api_wire::{FnBody, Page};
use clap::Subcommand;

use super::settings::{Annotated, Setting, config, unset};
use crate::endpoints::Endpoints;
use crate::names;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind fns list shop
  tradewind fns update shop hello-python --memory 256 --timeout 60
  tradewind fns config set shop hello-python GREETING=hello

`tradewind deploy` packs code and creates the function. `create` makes a function from a bundle that
is already uploaded, such as the image of another function: bundle/NAME:VERSION@sha256:HEX.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the functions of an app
    List { app: String },
    /// Create a function from an uploaded bundle
    Create {
        app: String,
        name: String,
        image: String,
        #[command(flatten)]
        change: Change,
    },
    /// Show all fields of a function
    Inspect { app: String, name: String },
    /// Change the given fields of a function
    Update {
        app: String,
        name: String,
        /// bundle/NAME:VERSION@sha256:HEX
        #[arg(long)]
        image: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a function and its triggers
    Delete { app: String, name: String },
    /// Set, unset and list the variables of a function
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Memory limit of an instance in MB, 1 to 8192
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Time-out of a call in seconds, 1 to 300
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<i32>,
    /// Seconds before an idle instance is stopped, 1 to 3600
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<i32>,
    /// Environment variable; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE")]
    config: Vec<Setting>,
    #[command(flatten)]
    annotated: Annotated,
}

impl Change {
    fn body(self) -> anyhow::Result<FnBody> {
        Ok(FnBody {
            memory: self.memory,
            timeout: self.timeout,
            idle_timeout: self.idle_timeout,
            config: config(&self.config),
            annotations: self.annotated.body()?,
            ..FnBody::default()
        })
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Set variables
    Set {
        app: String,
        name: String,
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
    },
    /// Remove variables
    Unset {
        app: String,
        name: String,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show variables
    List { app: String, name: String },
}

pub async fn run(args: Args, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { app } => list(client, &app, output).await?,
        Command::Create {
            app,
            name,
            image,
            change,
        } => {
            let (app_id, _) = names::app(client, &app).await?;
            let body = FnBody {
                name: Some(name.clone()),
                app_id: Some(app_id.to_string()),
                image: Some(image),
                ..change.body()?
            };
            let created = client.create_fn(&body).await;
            let created = created.with_context(|| format!("create function {name}"))?;
            wrote(&created.object, &format!("created function {name}"), output);
        }
        Command::Inspect { app, name } => {
            output.json(&names::function(client, &app, &name).await?.2);
        }
        Command::Update {
            app,
            name,
            image,
            change,
        } => {
            let change = FnBody {
                image,
                ..change.body()?
            };
            update(client, &app, &name, &change, output).await?;
        }
        Command::Delete { app, name } => {
            let (_, id, _) = names::function(client, &app, &name).await?;
            client
                .delete_fn(&id)
                .await
                .with_context(|| format!("delete function {name}"))?;
            output.note(&format!("deleted function {name}"));
        }
        Command::Config { command } => match command {
            ConfigCommand::Set {
                app,
                name,
                settings,
            } => {
                let change = FnBody {
                    config: config(&settings),
                    ..FnBody::default()
                };
                update(client, &app, &name, &change, output).await?;
            }
            ConfigCommand::Unset { app, name, keys } => {
                let change = FnBody {
                    config: Some(unset(&keys)),
                    ..FnBody::default()
                };
                update(client, &app, &name, &change, output).await?;
            }
            ConfigCommand::List { app, name } => {
                let (_, _, function) = names::function(client, &app, &name).await?;
                let variables = function.config.unwrap_or_default();
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

async fn list(client: &Client, app: &str, output: Output) -> anyhow::Result<()> {
    let (id, _) = names::app(client, app).await?;
    let fns = client.fns(&id).await?;
    if output.json {
        output.json(&Page::whole(fns));
        return Ok(());
    }
    let seconds = |value: Option<i32>| value.map_or_else(String::new, |secs| format!("{secs} s"));
    let rows = fns.into_iter().map(|function| {
        vec![
            function.name.unwrap_or_default(),
            function.id.unwrap_or_default(),
            short_image(&function.image.unwrap_or_default()),
            function
                .memory
                .map_or_else(String::new, |megabytes| format!("{megabytes} MB")),
            seconds(function.timeout),
            seconds(function.idle_timeout),
        ]
    });
    let headings = [
        "function",
        "id",
        "image",
        "memory",
        "timeout",
        "idle timeout",
    ];
    output.text(&table(&headings, rows));
    Ok(())
}

/// Twelve digits of a digest tell bundles apart for people.
fn short_image(image: &str) -> String {
    match image.parse::<BundleRef>() {
        Ok(bundle) => {
            let digest = bundle.digest.to_string();
            format!("{}:{} {}", bundle.name, bundle.version, &digest[..12])
        }
        Err(_) => image.to_owned(),
    }
}

async fn update(
    client: &Client,
    app: &str,
    name: &str,
    change: &FnBody,
    output: Output,
) -> anyhow::Result<()> {
    let (_, id, _) = names::function(client, app, name).await?;
    let updated = client.update_fn(&id, change).await;
    let updated = updated.with_context(|| format!("update function {name}"))?;
    wrote(&updated.object, &format!("updated function {name}"), output);
    Ok(())
}

fn wrote(function: &FnBody, what: &str, output: Output) {
    if output.json {
        output.json(function);
        return;
    }
    let id = function.id.as_deref().unwrap_or_default();
    output.text(&format!("{what} ({id})\n{}", Endpoints::of_fn(function)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_bundles_are_shortened_for_people() {
        let image = format!("bundle/hello:0.0.1@sha256:{}", "ab".repeat(32));
        assert_eq!(short_image(&image), "hello:0.0.1 abababababab");
        assert_eq!(short_image("fnproject/hello:1"), "fnproject/hello:1");
    }
}
