//! What the charts make is taken by an API server that is strict about it, and is upgraded as the guide
//! says.

use anyhow::{Context as _, ensure};
use chaos_tests_kubernetes::{Ended, Needs, cluster_for, in_namespace, skip};
use deploy_check::helm::deploy;
use deploy_check::{Helm, documents};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde_json::{Value, json};

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
    in_namespace(&cluster, "charts", async |namespace| {
        all_taken(&cluster.client, &helm, namespace).await
    })
    .await
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

/// helm 4 applies what is in crds/ under its own name and never again. Another group than ours, so that
/// no other test's definitions change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_helm_installed_is_changed_by_force_only() -> anyhow::Result<()> {
    let Some(cluster) = cluster_for("definitions-upgrade", Needs::ApiServer).await? else {
        return Ok(());
    };
    let group = format!("upgrade-{}.tradewind.test", std::process::id());
    let path = deploy().join("charts/tradewind-region/crds/tradewind.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let api = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    for mut definition in documents(&text)? {
        let plural = definition["spec"]["names"]["plural"].as_str();
        let name = format!("{}.{group}", plural.context("a plural")?);
        definition["metadata"]["name"] = name.as_str().into();
        definition["spec"]["group"] = group.as_str().into();
        let ended = Ended::of(changed_by_force(&api, &name, definition)).await;
        let removed = api.delete(&name, &DeleteParams::default()).await;
        ended
            .after(removed.map(drop).map_err(anyhow::Error::from))
            .context(name)?;
    }
    Ok(())
}

async fn changed_by_force(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    mut definition: Value,
) -> anyhow::Result<()> {
    let by_helm = PatchParams::apply("helm");
    api.patch(name, &by_helm, &Patch::Apply(&definition))
        .await?;

    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = definition.pointer_mut(spec).context("a spec")?;
    fields["ofTheNextVersion"] = json!({"type": "string"});
    let by_kubectl = PatchParams::apply("kubectl");
    let changed = Patch::Apply(&definition);
    match api.patch(name, &by_kubectl, &changed).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => anyhow::bail!("without force it should be a conflict: {other:?}"),
    }
    let stored = api.patch(name, &by_kubectl.force(), &changed).await?;
    let stored = serde_json::to_value(stored)?;
    ensure!(
        stored
            .pointer(&format!("{spec}/ofTheNextVersion"))
            .is_some(),
        "{stored}"
    );
    Ok(())
}
