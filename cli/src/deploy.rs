//! `tradewind deploy`: from a function's folder to every region that may hold it.

mod func_yaml;
mod gather;
mod ignore;
mod step;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use api_bundle::Packed;
use api_client::{BundleSource, Client};
use api_types::{AppId, BundleRef, FnId, Revision};
use api_wire::fns::AnnotationsBody;
use api_wire::view::SteeringBody;
use api_wire::{AppBody, FnBody, TriggerBody};
use serde::Serialize;

use self::func_yaml::FuncYaml;
use self::step::Step;
use crate::endpoints::{Endpoints, Zone};
use crate::names;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind deploy --app shop examples/python
  tradewind deploy --app shop --no-wait .

DIR holds the func.yaml that `fn init` writes. The runtime in it decides what is packed:
  python…   requirements.txt is installed beside the function (pip)
  node…     package.json is installed (npm ci, or npm install without a lock file), without
            development dependencies
  rust      the crate is built with `cargo build --release`; only the program is packed
  others    the folder is packed as it is; entrypoint names a program in it: /function/PROGRAM
  go, java, kotlin, dotnet, ruby and docker are refused; the error says what to do instead

A .fnignore file in DIR lists files to leave out, in the syntax of .gitignore. A missing app is
created. The command returns once every healthy region in the placement has downloaded the bundle.")]
pub struct Args {
    /// Folder of the function
    dir: PathBuf,
    /// App of the function
    #[arg(long)]
    app: String,
    /// Return once the global plane has stored it; do not wait for the regions
    #[arg(long)]
    no_wait: bool,
    /// Create the app if it does not exist
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    create_app: bool,
    /// Seconds to wait for the regions
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait_secs: u64,
}

/// The result, with `--json`.
#[derive(Debug, Serialize)]
struct Deployed {
    app: String,
    function: FnBody,
    triggers: Vec<TriggerBody>,
    revision: u64,
    bundle_bytes: u64,
    /// Its triggers under their app's name, for whoever resolves the zone.
    urls: Vec<String>,
    /// Regions that hold it now; empty with `--no-wait`.
    regions: Vec<String>,
}

pub async fn run(args: Args, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let step = Step::new(output);
    // Tools run inside the folder, so it must not depend on where this command runs.
    let folder = std::fs::canonicalize(&args.dir)
        .with_context(|| format!("open the function's folder {}", args.dir.display()))?;
    let yaml = FuncYaml::read(&folder)?;
    for note in &yaml.notes {
        output.note(&format!("note: {note}"));
    }
    // An app that is not wanted is found missing before minutes of building, not after.
    let app = client.app_named(&args.app).await?;
    ensure!(
        app.is_some() || args.create_app,
        "there is no app {:?}; create it with `tradewind apps create {}`, or leave out \
         `--create-app false`",
        args.app,
        args.app
    );

    let gathered = gather::gather(&yaml, &folder, step).await?;
    let mut file = tempfile::NamedTempFile::new().context("make a file for the bundle")?;
    step.say("packing");
    let (packed, file) = tokio::task::spawn_blocking(move || {
        let packed = gathered.tree.pack(
            &gathered.manifest,
            std::io::BufWriter::new(file.as_file_mut()),
        )?;
        anyhow::Ok((packed, file))
    })
    .await
    .context("pack")??;
    upload(client, &packed, file.path().to_owned(), step).await?;

    let app = match app {
        Some(app) => app,
        None => create_app(client, &args.app, step).await?,
    };
    let app_id = AppId::new(app.id.clone().context("the app in the answer has no id")?);
    let image = BundleRef {
        name: yaml.name.clone(),
        version: yaml.version.clone(),
        digest: packed.digest,
    };
    let (function, mut revision) = put_fn(client, &app_id, &yaml, &image, step).await?;
    let fn_id = names::fn_id(&function)?;
    for trigger in &yaml.triggers {
        let written = put_trigger(client, &app_id, &fn_id, trigger, step).await?;
        revision = revision.max(written);
    }

    let regions = if args.no_wait {
        Vec::new()
    } else {
        let waited = wait::Wanted {
            app: &app,
            function: &function,
            revision,
            digest: packed.digest,
        };
        waited
            .everywhere(client, Duration::from_secs(args.wait_secs), step)
            .await?
    };
    // Read again: what a PUT answers lacks the endpoints (Fn contract 3.3).
    let triggers = client.triggers(&app_id, Some(&fn_id)).await?;
    let urls = match zone(client).await? {
        Some(zone) => triggers
            .iter()
            .filter_map(|trigger| zone.trigger_url(&args.app, trigger))
            .collect(),
        None => Vec::new(),
    };
    let deployed = Deployed {
        app: args.app,
        function: client.function(&fn_id).await?,
        triggers,
        urls,
        revision: revision.0,
        bundle_bytes: packed.size,
        regions,
    };
    report(&deployed, args.no_wait, output);
    Ok(ExitCode::SUCCESS)
}

async fn upload(client: &Client, packed: &Packed, file: PathBuf, step: Step) -> anyhow::Result<()> {
    let kilobytes = packed.size.div_ceil(1024);
    if client.has_bundle(&packed.digest).await? {
        step.say(&format!(
            "bundle sha256:{} ({kilobytes} KiB) is there already",
            packed.digest
        ));
        return Ok(());
    }
    step.say(&format!(
        "uploading bundle sha256:{} ({kilobytes} KiB)",
        packed.digest
    ));
    client
        .put_bundle(&packed.digest, BundleSource::File(file))
        .await
        .context("upload the bundle")?;
    Ok(())
}

async fn create_app(client: &Client, name: &str, step: Step) -> anyhow::Result<AppBody> {
    step.say(&format!("creating app {name}"));
    let body = AppBody {
        name: Some(name.to_owned()),
        ..AppBody::default()
    };
    match client.create_app(&body).await {
        Ok(written) => Ok(written.object),
        // Another deploy created it meanwhile.
        Err(error) if error.status() == Some(409) => Ok(names::app(client, name).await?.1),
        Err(error) => Err(error).with_context(|| format!("create app {name}")),
    }
}

async fn put_fn(
    client: &Client,
    app: &AppId,
    yaml: &FuncYaml,
    image: &BundleRef,
    step: Step,
) -> anyhow::Result<(FnBody, Revision)> {
    let body = FnBody {
        image: Some(image.to_string()),
        memory: yaml.memory,
        timeout: yaml.timeout,
        idle_timeout: yaml.idle_timeout,
        config: Some(yaml.config.clone()),
        annotations: Some(annotations(&yaml.annotations)),
        ..FnBody::default()
    };
    let name = &yaml.name;
    let written = if let Some(function) = client.fn_named(app, name).await? {
        step.say(&format!("updating function {name} to {}", yaml.version));
        client.update_fn(&names::fn_id(&function)?, &body).await
    } else {
        step.say(&format!("creating function {name} {}", yaml.version));
        let body = FnBody {
            name: Some(name.clone()),
            app_id: Some(app.to_string()),
            ..body
        };
        client.create_fn(&body).await
    };
    let written = written.with_context(|| format!("deploy function {name}"))?;
    Ok((written.object, written.revision))
}

fn annotations(values: &BTreeMap<String, serde_json::Value>) -> AnnotationsBody {
    values
        .iter()
        .filter_map(|(key, value)| {
            let raw = serde_json::value::to_raw_value(value).ok()?;
            Some((key.clone(), raw))
        })
        .collect()
}

async fn put_trigger(
    client: &Client,
    app: &AppId,
    function: &FnId,
    trigger: &func_yaml::Trigger,
    step: Step,
) -> anyhow::Result<Revision> {
    let (name, source) = (&trigger.name, &trigger.source);
    let context = || format!("deploy trigger {name}");
    let body = TriggerBody {
        name: Some(name.clone()),
        app_id: Some(app.to_string()),
        fn_id: Some(function.to_string()),
        kind: Some("http".to_owned()),
        source: Some(source.clone()),
        ..TriggerBody::default()
    };
    let Some(held) = client.trigger_named(app, function, name).await? else {
        step.say(&format!("creating trigger {name} at {source}"));
        return Ok(client
            .create_trigger(&body)
            .await
            .with_context(context)?
            .revision);
    };
    if held.source.as_ref() == Some(source) {
        return Ok(Revision(0));
    }
    step.say(&format!("moving trigger {name} to {source}"));
    let change = TriggerBody {
        source: Some(source.clone()),
        ..TriggerBody::default()
    };
    let id = names::trigger_id(&held)?;
    Ok(client
        .update_trigger(&id, &change)
        .await
        .with_context(context)?
        .revision)
}

/// `None` before any region has registered.
async fn zone(client: &Client) -> anyhow::Result<Option<Zone>> {
    let view = client.steering("", 0, Revision(0), Duration::ZERO).await?;
    let Some(view) = view else { return Ok(None) };
    let body: SteeringBody = view.open().context("read the steering view")?;
    Ok(Some(Zone {
        name: body.zone,
        gateway_port: body.gateway_port,
    }))
}

fn report(deployed: &Deployed, no_wait: bool, output: Output) {
    if output.json {
        output.json(deployed);
        return;
    }
    let name = deployed.function.name.as_deref().unwrap_or_default();
    let held = match deployed.regions.as_slice() {
        [] if no_wait => "; regions are fetching it, see `tradewind replication`".to_owned(),
        [] => String::new(),
        regions => format!(" in {}", regions.join(", ")),
    };
    output.text(&format!(
        "deployed {}/{name} at revision {}{held}\n",
        deployed.app, deployed.revision
    ));
    let mut endpoints = Endpoints::of_fn(&deployed.function);
    for trigger in &deployed.triggers {
        endpoints.extend(Endpoints::of_trigger(trigger));
    }
    for url in &deployed.urls {
        endpoints.add("by name".to_owned(), url.clone());
    }
    output.text(&endpoints.to_string());
    output.text(&format!(
        "call it: tradewind invoke {} {name}\n",
        deployed.app
    ));
}
