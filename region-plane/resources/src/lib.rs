//! What a region keeps in its Kubernetes cluster: the custom resources, the names on its pods, and
//! what a gateway tells the operator.
//!
//! The custom resource definitions in the chart are generated from these types
//! (`cargo run -p region-plane-resources --example crds`). This crate refuses to know who writes an
//! object and when: that is the operator.

pub mod demand;
pub mod function;
pub mod labels;
pub mod pool;
pub mod watches;

use std::collections::BTreeSet;

use api_types::FnId;

pub use function::{Function, FunctionSpec, FunctionStatus, NotScaling, Scaling};
pub use pool::{WarmPool, WarmPoolSpec, WarmPoolStatus};

/// The API group of our resources.
pub const GROUP: &str = "tradewind.dev";

/// Their one version.
pub const VERSION: &str = "v1alpha1";

/// Where a runner listens in its pod.
pub const RUNNER_PORT: u16 = 8090;

/// The name of a function's objects: `fn-` and its id in lower case.
///
/// Ids that were minted use one case only, so different ids have different names. An id that is no
/// DNS label even in lower case cannot be stored in a cluster: `None`.
#[must_use]
pub fn object_name(id: &FnId) -> Option<String> {
    let name = format!("fn-{}", id.as_str().to_ascii_lowercase());
    api_types::dns_label::is_label(&name).then_some(name)
}

/// What an instance is started with, as labels and specs write it: 16 hexadecimal digits.
#[must_use]
pub fn settings_text(settings: u64) -> String {
    format!("{settings:016x}")
}

/// Every field a definition of ours describes, as dotted paths, so that two can be compared.
#[must_use]
pub fn described_fields(definition: &serde_json::Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    collect_fields(schema, "", &mut fields);
    fields
}

fn collect_fields(schema: &serde_json::Value, above: &str, fields: &mut BTreeSet<String>) {
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (name, inner) in properties {
        let path = format!("{above}.{name}");
        collect_fields(inner, &path, fields);
        collect_fields(&inner["items"], &path, fields);
        fields.insert(path);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use kube::CustomResourceExt as _;

    #[test]
    fn only_ids_that_are_labels_have_objects() {
        for (id, want) in [
            (
                "01KB2V9X8M5Q0RSTVWXYZ12345",
                Some("fn-01kb2v9x8m5q0rstvwxyz12345"),
            ),
            ("a_b", None),
            ("x-", None),
            ("", None),
            (&"A".repeat(61), None),
        ] {
            assert_eq!(object_name(&FnId::new(id)).as_deref(), want, "{id:?}");
        }
    }

    #[test]
    fn settings_keep_their_width() {
        assert_eq!(settings_text(0x2a), "000000000000002a");
    }

    #[test]
    fn a_missing_field_shows_in_the_comparison() {
        let ours = serde_json::to_value(Function::crd()).unwrap();
        let mut older = ours.clone();
        older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            .as_object_mut()
            .unwrap()
            .remove("settings");
        let missing: Vec<String> = described_fields(&ours)
            .difference(&described_fields(&older))
            .cloned()
            .collect();
        assert_eq!(missing, [".spec.settings"]);
    }

    #[test]
    fn definitions_carry_their_rules_and_columns() {
        let text = serde_json::to_string(&Function::crd()).unwrap();
        for want in [
            "exactly one of image and bundle",
            "min must not exceed max",
            "Revision",
            "\"twfn\"",
        ] {
            assert!(text.contains(want), "{want}");
        }
        let text = serde_json::to_string(&WarmPool::crd()).unwrap();
        assert!(text.contains("\"twpool\""));
    }
}
