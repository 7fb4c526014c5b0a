//! Which resources exist: the built-in ones that a region touches, and CRDs as they are installed.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::refusal::{self, FailureStatus};
use crate::schema::Schema;

/// What is kept about one resource, built in or from a CRD.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) group: String,
    /// Every served version; objects are stored as the first.
    pub(crate) versions: Vec<String>,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    /// Status changes only through `/status`.
    pub(crate) status: bool,
    /// `metadata.generation` counts changes of the desired state.
    pub(crate) generation: bool,
    /// Present for CRDs only; built-in types are read into `k8s-openapi`'s.
    pub(crate) schema: Option<Schema>,
}

impl Definition {
    /// `pods`, or `functions.tradewind.dev`, as messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.versions[0].clone()
        } else {
            format!("{}/{}", self.group, self.versions[0])
        }
    }

    pub(crate) fn key(&self) -> ResourceKey {
        ResourceKey {
            group: self.group.clone(),
            plural: self.plural.clone(),
        }
    }

    pub(crate) fn is_pods(&self) -> bool {
        self.group.is_empty() && self.plural == "pods"
    }

    pub(crate) fn is_crds(&self) -> bool {
        self.group == "apiextensions.k8s.io"
    }

    /// Reads a `CustomResourceDefinition`.
    pub(crate) fn from_crd(crd: &Value) -> Result<Self, FailureStatus> {
        let text = |pointer: &str| {
            crd.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| refusal::bad_request(&format!("the CRD has no {pointer}")))
        };
        let versions: Vec<&Value> = crd
            .pointer("/spec/versions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|version| version["served"] == true)
            .collect();
        let stored = versions
            .iter()
            .find(|version| version["storage"] == true)
            .ok_or_else(|| refusal::bad_request("the CRD serves no stored version"))?;
        let name_of = |version: &Value| version["name"].as_str().unwrap_or_default().to_owned();
        let first = name_of(stored);
        let mut names: Vec<String> = versions.iter().map(|version| name_of(version)).collect();
        names.retain(|name| *name != first);
        names.insert(0, first);
        Ok(Self {
            group: text("/spec/group")?,
            versions: names,
            plural: text("/spec/names/plural")?,
            kind: text("/spec/names/kind")?,
            namespaced: text("/spec/scope")? == "Namespaced",
            status: stored.pointer("/subresources/status").is_some(),
            generation: true,
            schema: stored
                .pointer("/schema/openAPIV3Schema")
                .map(|schema| Schema::new(schema.clone())),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourceKey {
    pub(crate) group: String,
    pub(crate) plural: String,
}

struct BuiltIn(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Scope,
    Shape,
);

#[derive(PartialEq)]
enum Scope {
    Namespaced,
    Cluster,
}

#[derive(PartialEq)]
enum Shape {
    /// Data without desired state: no generation, no status subresource.
    Data,
    /// `spec` and a `status` subresource.
    SpecAndStatus,
}

#[rustfmt::skip]
const BUILT_IN: [BuiltIn; 19] = [
    BuiltIn("", "v1", "namespaces", "Namespace", Scope::Cluster, Shape::Data),
    BuiltIn("", "v1", "nodes", "Node", Scope::Cluster, Shape::Data),
    BuiltIn("", "v1", "pods", "Pod", Scope::Namespaced, Shape::SpecAndStatus),
    BuiltIn("", "v1", "secrets", "Secret", Scope::Namespaced, Shape::Data),
    BuiltIn("", "v1", "configmaps", "ConfigMap", Scope::Namespaced, Shape::Data),
    BuiltIn("", "v1", "events", "Event", Scope::Namespaced, Shape::Data),
    BuiltIn("", "v1", "services", "Service", Scope::Namespaced, Shape::Data),
    BuiltIn("", "v1", "serviceaccounts", "ServiceAccount", Scope::Namespaced, Shape::Data),
    BuiltIn("", "v1", "resourcequotas", "ResourceQuota", Scope::Namespaced, Shape::Data),
    BuiltIn("events.k8s.io", "v1", "events", "Event", Scope::Namespaced, Shape::Data),
    BuiltIn("coordination.k8s.io", "v1", "leases", "Lease", Scope::Namespaced, Shape::Data),
    BuiltIn("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", Scope::Cluster, Shape::Data),
    BuiltIn("apps", "v1", "deployments", "Deployment", Scope::Namespaced, Shape::SpecAndStatus),
    BuiltIn("apps", "v1", "daemonsets", "DaemonSet", Scope::Namespaced, Shape::SpecAndStatus),
    BuiltIn("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", Scope::Namespaced, Shape::SpecAndStatus),
    BuiltIn("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", Scope::Cluster, Shape::Data),
    BuiltIn("rbac.authorization.k8s.io", "v1", "roles", "Role", Scope::Namespaced, Shape::Data),
    BuiltIn("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", Scope::Namespaced, Shape::Data),
    BuiltIn("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", Scope::Cluster, Shape::Data),
];

pub(crate) fn built_in() -> impl Iterator<Item = Definition> {
    BUILT_IN.iter().map(
        |BuiltIn(group, version, plural, kind, scope, shape)| Definition {
            group: (*group).to_owned(),
            versions: vec![(*version).to_owned()],
            plural: (*plural).to_owned(),
            kind: (*kind).to_owned(),
            namespaced: *scope == Scope::Namespaced,
            status: *shape == Shape::SpecAndStatus,
            generation: *shape == Shape::SpecAndStatus,
            schema: None,
        },
    )
}

/// Where a request points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: ResourceKey,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`; `None` for any other path.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let (group, version) = match parts.next()? {
            "api" => ("", parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut rest: Vec<&str> = parts.collect();
        let mut namespace = None;
        // `namespaces/NAME` and `namespaces/NAME/status` are the namespace itself.
        if rest.len() > 2 && rest[0] == "namespaces" && !matches!(rest[2], "status" | "finalize") {
            namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        let mut rest = rest.into_iter().map(str::to_owned);
        let target = Self {
            resource: ResourceKey {
                group: group.to_owned(),
                plural: rest.next()?,
            },
            version: version.to_owned(),
            namespace,
            name: rest.next(),
            subresource: rest.next(),
        };
        rest.next().is_none().then_some(target)
    }
}

/// Fields of built-in types that are lists of named things, with the fields that name them: what
/// server-side apply merges by. Anything else is replaced whole.
pub(crate) fn built_in_list_keys() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("containers", ["name"].as_slice()),
        ("initContainers", &["name"]),
        ("ephemeralContainers", &["name"]),
        ("env", &["name"]),
        ("volumes", &["name"]),
        ("imagePullSecrets", &["name"]),
        ("volumeMounts", &["mountPath"]),
        ("containerPorts", &["containerPort", "protocol"]),
        ("conditions", &["type"]),
        ("ownerReferences", &["uid"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_group_namespace_object_and_subresource() {
        for (path, want) in [
            ("/api/v1/nodes", Some(("", "nodes", None, None, None))),
            (
                "/api/v1/namespaces/a",
                Some(("", "namespaces", None, Some("a"), None)),
            ),
            (
                "/api/v1/namespaces/a/status",
                Some(("", "namespaces", None, Some("a"), Some("status"))),
            ),
            (
                "/api/v1/namespaces/a/pods",
                Some(("", "pods", Some("a"), None, None)),
            ),
            (
                "/api/v1/namespaces/a/pods/b/resize",
                Some(("", "pods", Some("a"), Some("b"), Some("resize"))),
            ),
            (
                "/apis/tradewind.dev/v1alpha1/namespaces/a/functions/b/status",
                Some((
                    "tradewind.dev",
                    "functions",
                    Some("a"),
                    Some("b"),
                    Some("status"),
                )),
            ),
            (
                "/apis/apps/v1/deployments",
                Some(("apps", "deployments", None, None, None)),
            ),
            ("/version", None),
            ("/api/v1", None),
            ("/api/v1/namespaces/a/pods/b/resize/c", None),
        ] {
            let target = Target::parse(path);
            let got = target.as_ref().map(|target| {
                (
                    target.resource.group.as_str(),
                    target.resource.plural.as_str(),
                    target.namespace.as_deref(),
                    target.name.as_deref(),
                    target.subresource.as_deref(),
                )
            });
            assert_eq!(got, want, "{path}");
        }
    }
}
