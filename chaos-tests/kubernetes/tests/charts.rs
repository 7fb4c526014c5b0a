//! What the charts make is taken by an API server that is strict about it. Nothing is stored.

use anyhow::{Context as _, ensure};
use chaos_tests_kubernetes::{Needs, cluster_for, install, skip};
use deploy_check::{Helm, documents};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde_json::Value;

const CHARTS: [(&str, &str); 5] = [
    ("region", "regions/iad.yaml"),
    ("region", "regions/fra.yaml"),
    ("region", "regions/nrt.yaml"),
    ("global", "examples/global-iad.yaml"),
    ("dns", "examples/dns.yaml"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_takes_what_the_charts_make() -> anyhow::Result<()> {
    let Some(cluster) = cluster_for("charts", Needs::ApiServer).await? else {
        return Ok(());
    };
    let Some(helm) = Helm::find()? else {
        skip(
            "charts",
            "no helm; `scripts/install-helm ~/.cache/tradewind/tools` or HELM=PATH",
        );
        return Ok(());
    };
    let client = &cluster.client;
    let namespace = format!("tradewind-{}-charts", std::process::id());
    install::definitions(client).await?;
    install::namespace(client, &namespace).await?;
    let taken = all_taken(client, &helm, &namespace).await;
    install::remove_namespace(client, &namespace, cluster.has_nodes).await?;
    taken
}

async fn all_taken(client: &Client, helm: &Helm, namespace: &str) -> anyhow::Result<()> {
    for (chart, values) in CHARTS {
        let text = helm.template(chart, &[&format!("--values={values}")])?;
        let objects = documents(&text)?;
        for object in &objects {
            taken(client, object, namespace).await.with_context(|| {
                format!(
                    "{values}: {} {}",
                    object["kind"], object["metadata"]["name"]
                )
            })?;
        }
        println!("measured: {values}: {} objects are taken", objects.len());
        ensure!(objects.len() >= 5, "{values}: {} objects", objects.len());
    }
    Ok(())
}

async fn taken(client: &Client, object: &Value, namespace: &str) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    let (version, kind) = (text(&object["apiVersion"])?, text(&object["kind"])?);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &kind);
    let (resource, capabilities) = pinned_kind(client, &kind).await?;
    let mut object = object.clone();
    let api = match capabilities.scope {
        Scope::Cluster => Api::<DynamicObject>::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            object["metadata"]["namespace"] = namespace.into();
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    let strictly = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("tradewind-install").force()
    };
    let name = text(&object["metadata"]["name"])?;
    api.patch(&name, &strictly, &Patch::Apply(&object)).await?;
    Ok(())
}
