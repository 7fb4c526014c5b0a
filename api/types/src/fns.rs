//! Fn's resources (Fn contract 2 to 5), as stored: what the server adds on reading is not here.

use std::collections::BTreeMap;

use crate::{AppId, BundleRef, FnId, Placement, Revision, Timestamp, TriggerId};

/// Environment of a function; keys and values are unrestricted text (Fn contract 5.2).
pub type Config = BTreeMap<String, String>;

/// Annotation key to the whitespace-compacted JSON text of its value (Fn contract 5.1).
pub type Annotations = BTreeMap<String, String>;

/// Annotation that says where an app or a function may run, see [`Placement`].
pub const PLACEMENT_ANNOTATION: &str = "tradewind.dev/placement";

/// Annotation by which the server says why an object has no DNS name.
pub const DNS_NAME_ANNOTATION: &str = "tradewind.dev/dns-name";

/// Set by the server on reading a function (Fn contract 5.3).
pub const INVOKE_ENDPOINT_ANNOTATION: &str = "fnproject.io/fn/invokeEndpoint";

/// Set by the server on reading an http trigger (Fn contract 5.3).
pub const HTTP_ENDPOINT_ANNOTATION: &str = "fnproject.io/trigger/httpEndpoint";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub id: AppId,
    pub name: String,
    pub config: Config,
    pub annotations: Annotations,
    pub syslog_url: Option<String>,
    /// Empty where none was given.
    pub shape: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The revision that last changed it.
    pub revision: Revision,
}

impl App {
    /// Where the app may run. The stored annotation was checked when it was written.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        placement_of(&self.annotations)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fn {
    pub id: FnId,
    pub name: String,
    pub app_id: AppId,
    pub image: String,
    /// Megabytes.
    pub memory: u64,
    pub timeout_secs: u32,
    pub idle_timeout_secs: u32,
    pub config: Config,
    pub annotations: Annotations,
    pub shape: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub revision: Revision,
}

impl Fn {
    /// The bundle its image names, if the image is one.
    #[must_use]
    pub fn bundle(&self) -> Option<BundleRef> {
        self.image.parse().ok()
    }

    /// The function's own narrowing of its app's placement.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        placement_of(&self.annotations)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub id: TriggerId,
    pub name: String,
    pub app_id: AppId,
    pub fn_id: FnId,
    /// Always `http` today.
    pub kind: String,
    /// Starts with `/`.
    pub source: String,
    pub annotations: Annotations,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub revision: Revision,
}

fn placement_of(annotations: &Annotations) -> Option<Placement> {
    annotations
        .get(PLACEMENT_ANNOTATION)
        .and_then(|json| Placement::from_json(json).ok())
}
