//! Fn's resources as JSON (Fn contract 2 to 5).
//!
//! One struct serves requests and responses: a request leaves out what it does not say, a response
//! leaves out what Fn leaves out. `tradewind_revision` is ours and rides in responses of the
//! planes to each other (watch, snapshot); `fn` tools never see it.

use std::collections::BTreeMap;

use api_types::{Annotations, App, AppId, Fn, FnId, Revision, Trigger, TriggerId};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{json, time};

/// Annotation values as raw JSON, so that key order and number spelling survive.
pub type AnnotationsBody = BTreeMap<String, Box<RawValue>>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "config", skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tradewind_revision: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FnBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<i32>,
    #[serde(deserialize_with = "config", skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tradewind_revision: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fn_id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tradewind_revision: Option<u64>,
}

/// A value of `null` is the empty text, as Go reads it.
fn config<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let config = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    let text = |(key, value): (String, Option<String>)| (key, value.unwrap_or_default());
    Ok(config.map(|config| config.into_iter().map(text).collect()))
}

/// `{"message":"…"}`, the body of every error (Fn contract 1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub message: String,
}

/// A stored body that cannot be one of ours: a replica's disk or peer is corrupt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of a stored {kind} is missing or malformed")]
pub struct StoredError {
    pub kind: &'static str,
    pub field: &'static str,
}

/// Annotation values as compacted text.
#[must_use]
pub fn annotations_in(body: &AnnotationsBody) -> Annotations {
    body.iter()
        .map(|(key, value)| (key.clone(), json::compact(value.get())))
        .collect()
}

/// The reverse of [`annotations_in`]. Stored text is JSON because it came in as JSON.
#[must_use]
pub fn annotations_out(annotations: &Annotations) -> AnnotationsBody {
    annotations
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), RawValue::from_string(value.clone()).ok()?)))
        .collect()
}

fn unless_empty<T>(map: T, is_empty: bool) -> Option<T> {
    if is_empty { None } else { Some(map) }
}

impl From<&App> for AppBody {
    fn from(app: &App) -> Self {
        Self {
            id: Some(app.id.to_string()),
            name: Some(app.name.clone()),
            config: unless_empty(app.config.clone(), app.config.is_empty()),
            annotations: unless_empty(
                annotations_out(&app.annotations),
                app.annotations.is_empty(),
            ),
            syslog_url: app.syslog_url.clone(),
            shape: unless_empty(app.shape.clone(), app.shape.is_empty()),
            created_at: Some(time::format(app.created_at)),
            updated_at: Some(time::format(app.updated_at)),
            tradewind_revision: None,
        }
    }
}

impl From<&Fn> for FnBody {
    fn from(function: &Fn) -> Self {
        Self {
            id: Some(function.id.to_string()),
            name: Some(function.name.clone()),
            app_id: Some(function.app_id.to_string()),
            image: Some(function.image.clone()),
            memory: Some(function.memory),
            timeout: i32::try_from(function.timeout_secs).ok(),
            idle_timeout: i32::try_from(function.idle_timeout_secs).ok(),
            // The one map that is present when empty (Fn contract 3.1).
            config: Some(function.config.clone()),
            annotations: unless_empty(
                annotations_out(&function.annotations),
                function.annotations.is_empty(),
            ),
            shape: unless_empty(function.shape.clone(), function.shape.is_empty()),
            created_at: Some(time::format(function.created_at)),
            updated_at: Some(time::format(function.updated_at)),
            tradewind_revision: None,
        }
    }
}

impl From<&Trigger> for TriggerBody {
    fn from(trigger: &Trigger) -> Self {
        Self {
            id: Some(trigger.id.to_string()),
            name: Some(trigger.name.clone()),
            app_id: Some(trigger.app_id.to_string()),
            fn_id: Some(trigger.fn_id.to_string()),
            kind: Some(trigger.kind.clone()),
            source: Some(trigger.source.clone()),
            annotations: unless_empty(
                annotations_out(&trigger.annotations),
                trigger.annotations.is_empty(),
            ),
            created_at: Some(time::format(trigger.created_at)),
            updated_at: Some(time::format(trigger.updated_at)),
            tradewind_revision: None,
        }
    }
}

impl AppBody {
    /// The form that planes store and send each other: the revision rides along.
    #[must_use]
    pub fn stored(app: &App) -> Self {
        Self {
            tradewind_revision: Some(app.revision.0),
            ..Self::from(app)
        }
    }
}

impl FnBody {
    /// See [`AppBody::stored`].
    #[must_use]
    pub fn stored(function: &Fn) -> Self {
        Self {
            tradewind_revision: Some(function.revision.0),
            ..Self::from(function)
        }
    }
}

impl TriggerBody {
    /// See [`AppBody::stored`].
    #[must_use]
    pub fn stored(trigger: &Trigger) -> Self {
        Self {
            tradewind_revision: Some(trigger.revision.0),
            ..Self::from(trigger)
        }
    }
}

/// Takes members of a stored body, naming the one that is missing or garbled.
struct Stored(&'static str);

impl Stored {
    fn take<T>(&self, field: &'static str, value: Option<T>) -> Result<T, StoredError> {
        value.ok_or(StoredError {
            kind: self.0,
            field,
        })
    }

    fn time(
        &self,
        field: &'static str,
        value: Option<&String>,
    ) -> Result<api_types::Timestamp, StoredError> {
        self.take(field, value.and_then(|text| time::parse(text)))
    }
}

impl TryFrom<AppBody> for App {
    type Error = StoredError;

    fn try_from(body: AppBody) -> Result<Self, StoredError> {
        let stored = Stored("app");
        Ok(Self {
            id: AppId::new(stored.take("id", body.id)?),
            name: stored.take("name", body.name)?,
            config: body.config.unwrap_or_default(),
            annotations: body
                .annotations
                .as_ref()
                .map(annotations_in)
                .unwrap_or_default(),
            syslog_url: body.syslog_url,
            shape: body.shape.unwrap_or_default(),
            created_at: stored.time("created_at", body.created_at.as_ref())?,
            updated_at: stored.time("updated_at", body.updated_at.as_ref())?,
            revision: Revision(stored.take("tradewind_revision", body.tradewind_revision)?),
        })
    }
}

impl TryFrom<FnBody> for Fn {
    type Error = StoredError;

    fn try_from(body: FnBody) -> Result<Self, StoredError> {
        let stored = Stored("fn");
        let secs = |field, value: Option<i32>| {
            stored.take(field, value.and_then(|secs| u32::try_from(secs).ok()))
        };
        Ok(Self {
            timeout_secs: secs("timeout", body.timeout)?,
            idle_timeout_secs: secs("idle_timeout", body.idle_timeout)?,
            id: FnId::new(stored.take("id", body.id)?),
            name: stored.take("name", body.name)?,
            app_id: AppId::new(stored.take("app_id", body.app_id)?),
            image: stored.take("image", body.image)?,
            memory: stored.take("memory", body.memory)?,
            config: body.config.unwrap_or_default(),
            annotations: body
                .annotations
                .as_ref()
                .map(annotations_in)
                .unwrap_or_default(),
            shape: body.shape.unwrap_or_default(),
            created_at: stored.time("created_at", body.created_at.as_ref())?,
            updated_at: stored.time("updated_at", body.updated_at.as_ref())?,
            revision: Revision(stored.take("tradewind_revision", body.tradewind_revision)?),
        })
    }
}

impl TryFrom<TriggerBody> for Trigger {
    type Error = StoredError;

    fn try_from(body: TriggerBody) -> Result<Self, StoredError> {
        let stored = Stored("trigger");
        Ok(Self {
            id: TriggerId::new(stored.take("id", body.id)?),
            name: stored.take("name", body.name)?,
            app_id: AppId::new(stored.take("app_id", body.app_id)?),
            fn_id: FnId::new(stored.take("fn_id", body.fn_id)?),
            kind: stored.take("type", body.kind)?,
            source: stored.take("source", body.source)?,
            annotations: body
                .annotations
                .as_ref()
                .map(annotations_in)
                .unwrap_or_default(),
            created_at: stored.time("created_at", body.created_at.as_ref())?,
            updated_at: stored.time("updated_at", body.updated_at.as_ref())?,
            revision: Revision(stored.take("tradewind_revision", body.tradewind_revision)?),
        })
    }
}
