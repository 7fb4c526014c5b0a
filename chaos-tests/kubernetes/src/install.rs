//! What an installation puts into a cluster before the operator starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chaos_tests_cluster::eventually;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, CustomResourceExt as _, Resource, ResourceExt as _};
use region_plane_resources::{Function, WarmPool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const INSTALLER: &str = "tradewind-install";

/// A kubelet ends dozens of pods, on a busy machine.
const GONE_PATIENCE: Duration = Duration::from_secs(180);

const ESTABLISHED_PATIENCE: Duration = Duration::from_secs(20);

/// Marks a definition that was not there before tests: the last of them removes it.
const OF_TESTS: &str = "tradewind.dev/of-tests";

/// Puts our resource definitions in and waits until they are served.
///
/// # Errors
/// If the cluster has objects of them that are not of tests: a region runs there, or did.
pub async fn definitions(client: &Client) -> anyhow::Result<()> {
    no_region(client).await?;
    definition(client, Function::crd()).await?;
    definition(client, WarmPool::crd()).await
}

/// # Errors
/// If the cluster has functions or pools that are not of tests.
pub async fn no_region(client: &Client) -> anyhow::Result<()> {
    nobody_elses::<Function>(client).await?;
    nobody_elses::<WarmPool>(client).await
}

async fn nobody_elses<K>(client: &Client) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let all = everywhere::<K>(client);
    let objects = match all.list_metadata(&ListParams::default()).await {
        Ok(objects) => objects.items,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("look for regions in the cluster"),
    };
    for object in objects {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        ensure!(
            is_of_tests(&namespace),
            "the cluster has {} {name} in namespace {namespace}: these tests change our resource \
             definitions under it; use a cluster without a region, or delete what is left of one",
            K::kind(&()),
        );
    }
    Ok(())
}

/// Whether a namespace is one of [`crate::namespace`]'s.
#[must_use]
pub fn is_of_tests(namespace: &str) -> bool {
    let rest = namespace.strip_prefix("tradewind-");
    let parts = rest.and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(pid, _)| pid.parse::<u32>().is_ok())
}

/// Whether our resource definitions are in.
pub async fn are_defined(client: &Client) -> anyhow::Result<bool> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let functions = definitions.get_metadata_opt(Function::crd_name()).await?;
    Ok(functions.is_some())
}

/// Makes definitions that came otherwise, by helm for one, those of tests.
pub async fn adopt_definitions(client: &Client) -> anyhow::Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {OF_TESTS: "true"}}}));
    for name in [Function::crd_name(), WarmPool::crd_name()] {
        if definitions.get_metadata_opt(name).await?.is_some() {
            let by = PatchParams::default();
            definitions.patch_metadata(name, &by, &label).await?;
        }
    }
    Ok(())
}

/// Takes away the definitions that tests put in, unless another test needs them, and waits until
/// they are gone: one that still goes calls itself established.
pub async fn remove_definitions(client: &Client) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let namespaces = namespaces.list_metadata(&ListParams::default()).await?;
    if namespaces.iter().any(|it| is_of_tests(&it.name_any())) {
        return Ok(());
    }
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let ours = ListParams::default().labels(OF_TESTS);
    for definition in definitions.list_metadata(&ours).await? {
        definitions
            .delete(&definition.name_any(), &DeleteParams::default())
            .await?;
    }
    eventually("our definitions are gone", GONE_PATIENCE, async || {
        let left = definitions.list_metadata(&ours).await?.items;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Puts one definition in, in place of an older or newer one.
pub async fn definition(
    client: &Client,
    mut definition: CustomResourceDefinition,
) -> anyhow::Result<()> {
    let name = definition.metadata.name.clone().context("it has a name")?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let before = definitions.get_metadata_opt(&name).await?;
    if before.is_none_or(|before| before.labels().contains_key(OF_TESTS)) {
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert(OF_TESTS.to_owned(), "true".to_owned());
    }
    let patch = Patch::Apply(&definition);
    let by = PatchParams::apply(INSTALLER).force();
    definitions.patch(&name, &by, &patch).await?;
    eventually(
        &format!("{name} is served"),
        ESTABLISHED_PATIENCE,
        async || {
            let found = definitions.get(&name).await?;
            let conditions = found
                .status
                .into_iter()
                .flat_map(|status| status.conditions);
            let served = conditions
                .flatten()
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            ensure!(served, "it is not established");
            Ok(())
        },
    )
    .await?;
    Ok(())
}

pub async fn namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let namespace: Namespace = read(json!({"metadata": {"name": name}}))?;
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(())
}

/// Deletes a namespace, if it was made, with all that is in it, and waits for it where a controller manager runs.
pub async fn remove_namespace(client: &Client, name: &str, wait: bool) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    match namespaces.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(error).context("delete a namespace"),
    }
    if wait {
        let gone = format!("namespace {name} is gone");
        eventually(&gone, GONE_PATIENCE, async || {
            let found = namespaces.get_opt(name).await?;
            ensure!(found.is_none(), "{:?}", found.map(|found| found.status));
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// An account for what an operator or a gateway may do.
pub const OPERATOR: &str = "tradewind-operator";
pub const GATEWAY: &str = "tradewind-gateway";

/// What the chart grants, so that a right that is missing there is missing here.
const ACCESS: &str = include_str!("../../../deploy/charts/tradewind-region/templates/access.yaml");

/// Makes the accounts of a region and gives them the rights that the chart gives them.
pub async fn rights(client: &Client, namespace: &str) -> anyhow::Result<()> {
    for object in access(namespace)? {
        let kind = object["kind"]
            .as_str()
            .context("an object has a kind")?
            .to_owned();
        let name = object["metadata"]["name"]
            .as_str()
            .context("an object has a name")?
            .to_owned();
        match kind.as_str() {
            "ServiceAccount" => {
                apply(
                    &Api::<ServiceAccount>::namespaced(client.clone(), namespace),
                    &name,
                    object,
                )
                .await?
            }
            "Role" => {
                apply(
                    &Api::<Role>::namespaced(client.clone(), namespace),
                    &name,
                    object,
                )
                .await?
            }
            "RoleBinding" => {
                apply(
                    &Api::<RoleBinding>::namespaced(client.clone(), namespace),
                    &name,
                    object,
                )
                .await?
            }
            "ClusterRole" => apply(&everywhere::<ClusterRole>(client), &name, object).await?,
            "ClusterRoleBinding" => {
                apply(&everywhere::<ClusterRoleBinding>(client), &name, object).await?;
            }
            other => bail!("the chart's access.yaml has a {other}, which is not known here"),
        }
    }
    Ok(())
}

/// The chart's objects in `namespace`. Templates are left out or replaced: only names vary in them.
fn access(namespace: &str) -> anyhow::Result<Vec<Value>> {
    let (_, text) = ACCESS
        .split_once("*/ -}}")
        .context("it begins with a comment")?;
    let text: String = text
        .replace("{{ .Release.Namespace | quote }}", namespace)
        .replace("{{ include \"region.clusterName\" . }}", namespace)
        .lines()
        .filter(|line| !line.contains("labels: {{- include"))
        .flat_map(|line| [line, "\n"])
        .collect();
    ensure!(
        !text.contains("{{"),
        "the chart's access.yaml has a template that is not known here"
    );
    let objects = text.split("\n---\n").map(serde_saphyr::from_str);
    objects
        .collect::<Result<_, _>>()
        .context("read the chart's access.yaml")
}

/// Takes the rights outside the namespace away again.
pub async fn remove_cluster_rights(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let roles = everywhere::<ClusterRole>(client);
    let bindings = everywhere::<ClusterRoleBinding>(client);
    let name = format!("{namespace}-operator");
    for deleted in [
        bindings.delete(&name, &DeleteParams::default()).await.err(),
        roles.delete(&name, &DeleteParams::default()).await.err(),
    ] {
        match deleted {
            None => {}
            Some(kube::Error::Api(status)) if status.is_not_found() => {}
            Some(error) => return Err(error).context("take rights away"),
        }
    }
    Ok(())
}

/// Writes a kubeconfig into `dir` with which whoever uses it has the rights of a service account and
/// no more.
pub fn kubeconfig(
    admin: &Path,
    namespace: &str,
    account: &str,
    dir: &Path,
) -> anyhow::Result<PathBuf> {
    let mut config = Kubeconfig::read_from(admin).context("read the kubeconfig")?;
    let user_name = format!("system:serviceaccount:{namespace}:{account}");
    for user in &mut config.auth_infos {
        let info = user.auth_info.get_or_insert_default();
        info.impersonate = Some(user_name.clone());
    }
    for context in &mut config.contexts {
        if let Some(context) = &mut context.context {
            context.namespace = Some(namespace.to_owned());
        }
    }
    let path = dir.join(format!("{account}.kubeconfig"));
    let text = serde_json::to_string(&config).context("write a kubeconfig")?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn everywhere<K: Resource<DynamicType = ()>>(client: &Client) -> Api<K> {
    Api::all(client.clone())
}

/// Writes an object as the installer.
pub async fn apply<K>(api: &Api<K>, name: &str, fields: Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let mut object = fields;
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    let by = PatchParams::apply(INSTALLER).force();
    api.patch(name, &by, &Patch::Apply(&object))
        .await
        .with_context(|| format!("apply {} {name}", K::kind(&())))?;
    Ok(())
}

/// An object from its JSON.
pub fn read<K: DeserializeOwned>(object: Value) -> anyhow::Result<K> {
    serde_json::from_value(object).context("read an object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_of_the_chart_can_be_read() -> anyhow::Result<()> {
        let objects = access("tradewind-1-rights")?;
        let named = |object: &Value| object["metadata"]["name"] == OPERATOR;
        assert!(objects.iter().any(named), "{objects:?}");
        Ok(())
    }

    #[test]
    fn namespaces_of_tests_are_known_from_those_of_regions() {
        for (namespace, ours) in [
            (crate::namespace("kills").as_str(), true),
            ("tradewind-4711-in-cluster", true),
            ("tradewind", false),
            ("tradewind-fra", false),
            ("tradewind-4711", false),
            ("tradewind-fra-1", false),
            ("default", false),
        ] {
            assert_eq!(is_of_tests(namespace), ours, "{namespace}");
        }
    }
}
