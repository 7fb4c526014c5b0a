//! `tradewind triggers`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use api_client::Client;
use api_wire::{Page, TriggerBody};
use clap::Subcommand;

use super::settings::Annotated;
use crate::endpoints::{Endpoints, trigger_endpoint};
use crate::names;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind triggers list shop
  tradewind triggers create shop hello-python greet --source /greet
  tradewind triggers update shop hello-python greet --source /welcome

A trigger is called at http://APP.ZONE:PORT/SOURCE in every region, and at /t/APP/SOURCE on any host.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the triggers of an app or of one function
    List {
        app: String,
        function: Option<String>,
    },
    /// Create an HTTP trigger for a function
    Create {
        app: String,
        function: String,
        name: String,
        /// Request path that calls the function; it has to match exactly
        #[arg(long, value_name = "PATH")]
        source: String,
        #[command(flatten)]
        annotated: Annotated,
    },
    /// Show all fields of a trigger
    Inspect {
        app: String,
        function: String,
        name: String,
    },
    /// Change the given fields of a trigger
    Update {
        app: String,
        function: String,
        name: String,
        /// Request path that calls the function; it has to match exactly
        #[arg(long, value_name = "PATH")]
        source: Option<String>,
        #[command(flatten)]
        annotated: Annotated,
    },
    /// Delete a trigger
    Delete {
        app: String,
        function: String,
        name: String,
    },
}

pub async fn run(args: Args, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { app, function } => list(client, &app, function.as_deref(), output).await?,
        Command::Create {
            app,
            function,
            name,
            source,
            annotated,
        } => {
            let (app_id, fn_id, _) = names::function(client, &app, &function).await?;
            let body = TriggerBody {
                name: Some(name.clone()),
                app_id: Some(app_id.to_string()),
                fn_id: Some(fn_id.to_string()),
                kind: Some("http".to_owned()),
                source: Some(names::source(&source)),
                annotations: annotated.body()?,
                ..TriggerBody::default()
            };
            let created = client.create_trigger(&body).await;
            let created = created.with_context(|| format!("create trigger {name}"))?;
            wrote(&created.object, &format!("created trigger {name}"), output);
        }
        Command::Inspect {
            app,
            function,
            name,
        } => output.json(&names::trigger(client, &app, &function, &name).await?.1),
        Command::Update {
            app,
            function,
            name,
            source,
            annotated,
        } => {
            let (id, _) = names::trigger(client, &app, &function, &name).await?;
            let change = TriggerBody {
                source: source.as_deref().map(names::source),
                annotations: annotated.body()?,
                ..TriggerBody::default()
            };
            let updated = client.update_trigger(&id, &change).await;
            let updated = updated.with_context(|| format!("update trigger {name}"))?;
            wrote(&updated.object, &format!("updated trigger {name}"), output);
        }
        Command::Delete {
            app,
            function,
            name,
        } => {
            let (id, _) = names::trigger(client, &app, &function, &name).await?;
            client
                .delete_trigger(&id)
                .await
                .with_context(|| format!("delete trigger {name}"))?;
            output.note(&format!("deleted trigger {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(
    client: &Client,
    app: &str,
    function: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let (app_id, fn_id) = match function {
        None => (names::app(client, app).await?.0, None),
        Some(function) => {
            let (app_id, fn_id, _) = names::function(client, app, function).await?;
            (app_id, Some(fn_id))
        }
    };
    let triggers = client.triggers(&app_id, fn_id.as_ref()).await?;
    if output.json {
        output.json(&Page::whole(triggers));
        return Ok(());
    }
    let functions: BTreeMap<String, String> = client
        .fns(&app_id)
        .await?
        .into_iter()
        .filter_map(|function| Some((function.id?, function.name?)))
        .collect();
    let rows = triggers.into_iter().map(|trigger| {
        let endpoint = trigger_endpoint(&trigger).unwrap_or_default();
        let fn_id = trigger.fn_id.unwrap_or_default();
        vec![
            trigger.name.unwrap_or_default(),
            functions.get(&fn_id).cloned().unwrap_or(fn_id),
            trigger.source.unwrap_or_default(),
            endpoint,
        ]
    });
    output.text(&table(&["trigger", "function", "source", "endpoint"], rows));
    Ok(())
}

fn wrote(trigger: &TriggerBody, what: &str, output: Output) {
    if output.json {
        output.json(trigger);
        return;
    }
    let id = trigger.id.as_deref().unwrap_or_default();
    output.text(&format!(
        "{what} ({id})\n{}",
        Endpoints::of_trigger(trigger)
    ));
}
