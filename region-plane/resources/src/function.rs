//! `Function`: what the region should hold of one function.
#![expect(
    clippy::duplicated_attributes,
    reason = "each printed column has the same keys, which clippy takes for attributes"
)]

use api_types::{App, Fn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// One function as this region should run it.
///
/// Written by the metadata replica (field manager [`crate::labels::REPLICA_MANAGER`]) and by nobody
/// else: what a person changes in a managed field is put back.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tradewind.dev",
    version = "v1alpha1",
    kind = "Function",
    namespaced,
    derive = "PartialEq",
    doc = "A function as this region should run it. Written by Tradewind's metadata replica; change the function through Fn's API instead.",
    shortname = "twfn",
    category = "tradewind",
    status = "FunctionStatus",
    printcolumn(name = "App", type_ = "string", json_path = ".spec.appName"),
    printcolumn(name = "Function", type_ = "string", json_path = ".spec.fnName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Memory", type_ = "integer", json_path = ".spec.memoryMb"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision"),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        priority = 1
    ),
    printcolumn(
        name = "Bundle",
        type_ = "string",
        json_path = ".spec.bundle",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new("has(self.image) != has(self.bundle)")
        .message("exactly one of image and bundle must be given")
)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// Position in the global plane's history of the newest change this reflects.
    #[schemars(range(min = 0))]
    pub revision: i64,
    #[schemars(length(min = 1, max = 255))]
    pub app_id: String,
    #[schemars(length(min = 1, max = 255))]
    pub app_name: String,
    #[schemars(length(min = 1, max = 255))]
    pub fn_id: String,
    #[schemars(length(min = 1, max = 255))]
    pub fn_name: String,
    /// A container image that speaks Fn's container contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// SHA-256 of the function's bundle, which a pod of a warm pool loads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-f]{64}$')")
            .message("bundle must be a SHA-256 as 64 lower-case hexadecimal digits")
    )]
    #[schemars(length(min = 64, max = 64))]
    pub bundle: Option<String>,
    /// Megabytes one instance may use.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub memory_mb: i64,
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_secs: i32,
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_timeout_secs: i32,
    /// The Secret whose keys are the environment of an image's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub config_secret: Option<String>,
    #[serde(default)]
    pub scaling: Scaling,
    /// As Fn has it, `GENERIC_X86` for one; empty means any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 255))]
    pub shape: String,
    /// Stands for everything an instance is started with, as 16 hexadecimal digits.
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-f]{16}$')")
            .message("settings must be 16 lower-case hexadecimal digits")
    )]
    #[schemars(length(min = 16, max = 16))]
    pub settings: String,
}

/// How many instances there may be, whatever calls ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.min <= self.max").message("min must not exceed max")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Kept hot without any call.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub min: i32,
    #[serde(default = "default_instances_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: i32,
}

fn default_instances_max() -> i32 {
    1_000
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min: 0,
            max: default_instances_max(),
        }
    }
}

/// Annotation of an app or a function: `{"min":0,"max":100}` instances. The function's wins.
const SCALING: &str = "tradewind.dev/scaling";

/// An annotation does not say how many instances there may be.
#[derive(Debug, thiserror::Error)]
pub enum NotScaling {
    #[error("{SCALING} is invalid: expected {{\"min\":0,\"max\":100}}")]
    Malformed(#[source] serde_json::Error),
    #[error("{SCALING} is out of range: min is 0 to 10000, max 1 to 10000")]
    Bounds,
    #[error("{SCALING} has a min of {min}, which exceeds its max of {max}")]
    Swapped { min: i32, max: i32 },
}

impl Scaling {
    /// What the annotations of a function and its app ask for, or the default where they ask for
    /// nothing.
    ///
    /// # Errors
    /// If the annotation that counts cannot be followed; the default is used then.
    pub fn of(app: &App, function: &Fn) -> Result<Self, NotScaling> {
        let stated = [&function.annotations, &app.annotations]
            .into_iter()
            .find_map(|annotations| annotations.get(SCALING));
        stated.map_or(Ok(Self::default()), |json| Self::parse(json))
    }

    fn parse(json: &str) -> Result<Self, NotScaling> {
        let scaling: Self = serde_json::from_str(json).map_err(NotScaling::Malformed)?;
        let Self { min, max } = scaling;
        if !(0..=10_000).contains(&min) || !(1..=10_000).contains(&max) {
            return Err(NotScaling::Bounds);
        }
        if min > max {
            return Err(NotScaling::Swapped { min, max });
        }
        Ok(scaling)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The `metadata.generation` this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One of type `Ready`: `True`, or `False` with a reason and a message that says what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use api_types::{Annotations, AppId, FnId, Revision, Timestamp};

    use super::*;

    fn annotated(json: Option<&str>) -> Annotations {
        let pair = json.map(|json| (SCALING.to_owned(), json.to_owned()));
        pair.into_iter().collect()
    }

    fn app(annotations: Annotations) -> App {
        App {
            id: AppId::new("A"),
            name: "app".to_owned(),
            config: [].into(),
            annotations,
            syslog_url: None,
            shape: String::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: Revision(1),
        }
    }

    fn function(annotations: Annotations) -> Fn {
        Fn {
            id: FnId::new("F"),
            name: "function".to_owned(),
            app_id: AppId::new("A"),
            image: "image".to_owned(),
            memory: 128,
            timeout_secs: 30,
            idle_timeout_secs: 60,
            config: [].into(),
            annotations,
            shape: String::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: Revision(1),
        }
    }

    #[test]
    fn scaling_is_the_functions_else_the_apps_else_the_default() {
        let default = Scaling::default();
        let whole = Some(r#"{"min":1,"max":9}"#);
        for (case, apps, functions, want) in [
            ("none", None, None, Some(default)),
            ("app's", whole, None, Some(Scaling { min: 1, max: 9 })),
            (
                "function's",
                whole,
                Some(r#"{"min":2}"#),
                Some(Scaling { min: 2, ..default }),
            ),
            ("not JSON", whole, Some("{"), None),
            ("swapped", None, Some(r#"{"min":9,"max":1}"#), None),
            ("too many", None, Some(r#"{"max":100000}"#), None),
            ("none at all", None, Some(r#"{"max":0}"#), None),
            ("negative", None, Some(r#"{"min":-1}"#), None),
        ] {
            let scaling = Scaling::of(&app(annotated(apps)), &function(annotated(functions)));
            assert_eq!(scaling.ok(), want, "{case}");
        }
    }
}
