//! Names on the objects of a region. Selectors of charts and operators' tools rely on them.

/// On every object we make.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const MANAGED_BY_VALUE: &str = "tradewind";

/// Selects every pod that runs or may run a function.
pub const POD_SELECTOR: &str = "app.kubernetes.io/managed-by=tradewind,tradewind.dev/kind";

/// [`KIND_IMAGE`] or [`KIND_POOL`].
pub const KIND: &str = "tradewind.dev/kind";
pub const KIND_IMAGE: &str = "image";
pub const KIND_POOL: &str = "pool";

/// The name of the pool a pod was made for.
pub const POOL: &str = "tradewind.dev/pool";

/// Of the bundles a pool's pod can load.
pub const RUNTIME: &str = "tradewind.dev/runtime";

/// Megabytes the function container may use.
pub const MEMORY_MB: &str = "tradewind.dev/memory-mb";

/// The [`crate::object_name`] of the function it runs. A pool's pod has it once it was taken, and
/// some time later than it was.
pub const FUNCTION: &str = "tradewind.dev/function";

/// The [`crate::settings_text`] an image's container was started with.
pub const SETTINGS: &str = "tradewind.dev/settings";

/// Annotation: what the pod was made from, without its resources.
pub const TEMPLATE: &str = "tradewind.dev/template";

/// Annotation: the lease transitions of the operator that made it.
pub const FENCE: &str = "tradewind.dev/fence";

/// The field manager of `Function` objects and their Secrets.
pub const REPLICA_MANAGER: &str = "tradewind-replica";

/// The field manager of everything else the operator writes.
pub const OPERATOR_MANAGER: &str = "tradewind-operator";

/// The container of a pod that is the function.
pub const FUNCTION_CONTAINER: &str = "function";

/// The container beside it.
pub const RUNNER_CONTAINER: &str = "runner";
