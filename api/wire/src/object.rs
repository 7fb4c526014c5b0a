//! The one form in which objects are stored and sent, on every disk and between the planes.

use api_types::{
    Bundle, Format, Kind, Knowledge, Member, MemberId, Object, ObjectRef, Region, Revision,
};
use serde::de::DeserializeOwned;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::fns::StoredError;
use crate::planes::RegionBody;
use crate::{AppBody, FnBody, TriggerBody};

/// An object as JSON, `{"type":"app","object":{…}}`.
///
/// The object stays text until somebody asks for it: what hands objects on need not know their kind,
/// and raw JSON, as annotations have it, does not come out of the buffer in which serde keeps what
/// follows a tag.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectBody {
    /// The name of the form; see [`form`].
    #[serde(rename = "type")]
    pub form: String,
    pub object: Box<RawValue>,
}

/// Why an [`ObjectBody`] is none that this program can take.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error(
        "an object has the form {form:?}, which this program does not know: a newer version wrote it; start that version or a later one"
    )]
    Unknown { form: String },
    #[error("an object of form {form:?} is malformed")]
    Json {
        form: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Stored(#[from] StoredError),
}

/// The name of the form in which objects of a kind are written: the kind's own name. A second form
/// of a kind gets a name of its own, is read beside the first from then on, and is written once
/// everybody reads it (docs/decisions/format-gate.md).
#[must_use]
pub fn form(kind: Kind) -> &'static str {
    kind.name()
}

impl ObjectBody {
    /// # Panics
    /// Never: stored forms are plain data with text keys.
    #[must_use]
    pub fn of(object: ObjectRef<'_>) -> Self {
        let text = match object {
            ObjectRef::App(app) => serde_json::to_string(&AppBody::stored(app)),
            ObjectRef::Fn(function) => serde_json::to_string(&FnBody::stored(function)),
            ObjectRef::Trigger(trigger) => serde_json::to_string(&TriggerBody::stored(trigger)),
            ObjectRef::Region(region) => serde_json::to_string(&RegionBody::from(region)),
            ObjectRef::Bundle(bundle) => serde_json::to_string(&BundleBody::from(bundle)),
            ObjectRef::Member(member) => serde_json::to_string(&MemberBody::from(member)),
            ObjectRef::Format(format) => serde_json::to_string(&FormatBody::from(format)),
            #[cfg(feature = "next-format")]
            ObjectRef::Note(note) => serde_json::to_string(&NoteBody::from(note)),
        };
        let object_text = text.and_then(RawValue::from_string);
        Self {
            form: form(object.kind()).to_owned(),
            object: object_text.expect("stored forms are plain data"),
        }
    }

    /// The record on a disk.
    ///
    /// # Panics
    /// Never, as [`Self::of`].
    #[must_use]
    pub fn to_record(object: ObjectRef<'_>) -> Vec<u8> {
        serde_json::to_vec(&Self::of(object)).expect("an object's form is plain data")
    }

    /// The reverse of [`Self::to_record`].
    ///
    /// # Errors
    /// [`ObjectError`]: the disk is damaged, or a newer program wrote it.
    pub fn from_record(record: &[u8]) -> Result<Object, ObjectError> {
        let body: Self = serde_json::from_slice(record).map_err(|source| ObjectError::Json {
            form: String::new(),
            source,
        })?;
        Object::try_from(body)
    }
}

impl TryFrom<ObjectBody> for Object {
    type Error = ObjectError;

    fn try_from(body: ObjectBody) -> Result<Self, ObjectError> {
        fn read<B, T>(body: &ObjectBody) -> Result<T, ObjectError>
        where
            B: DeserializeOwned,
            T: TryFrom<B, Error = StoredError>,
        {
            let stored: B =
                serde_json::from_str(body.object.get()).map_err(|source| ObjectError::Json {
                    form: body.form.clone(),
                    source,
                })?;
            Ok(T::try_from(stored)?)
        }
        let Some(kind) = Kind::ALL.iter().find(|kind| form(**kind) == body.form) else {
            return Err(ObjectError::Unknown { form: body.form });
        };
        Ok(match kind {
            Kind::App => Self::App(read::<AppBody, _>(&body)?),
            Kind::Fn => Self::Fn(read::<FnBody, _>(&body)?),
            Kind::Trigger => Self::Trigger(read::<TriggerBody, _>(&body)?),
            Kind::Region => Self::Region(read::<RegionBody, Region>(&body)?),
            Kind::Bundle => Self::Bundle(read::<BundleBody, Bundle>(&body)?),
            Kind::Member => Self::Member(read::<MemberBody, Member>(&body)?),
            Kind::Format => Self::Format(read::<FormatBody, Format>(&body)?),
            #[cfg(feature = "next-format")]
            Kind::Note => Self::Note(read::<NoteBody, api_types::Note>(&body)?),
        })
    }
}

/// A bundle's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleBody {
    /// 64 hexadecimal digits.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    pub tradewind_revision: u64,
}

impl From<&Bundle> for BundleBody {
    fn from(bundle: &Bundle) -> Self {
        Self {
            digest: bundle.digest.to_string(),
            size: bundle.size,
            tradewind_revision: bundle.revision.0,
        }
    }
}

impl TryFrom<BundleBody> for Bundle {
    type Error = StoredError;

    fn try_from(body: BundleBody) -> Result<Self, StoredError> {
        Ok(Self {
            digest: body.digest.parse().map_err(|_| StoredError {
                kind: "bundle",
                field: "digest",
            })?,
            size: body.size,
            revision: Revision(body.tradewind_revision),
        })
    }
}

/// What a member knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberBody {
    pub node_id: u64,
    pub knows: Vec<String>,
    pub tradewind_revision: u64,
}

impl From<&Member> for MemberBody {
    fn from(member: &Member) -> Self {
        Self {
            node_id: member.id.0,
            knows: member.knows.to_say().map(str::to_owned).collect(),
            tradewind_revision: member.revision.0,
        }
    }
}

impl TryFrom<MemberBody> for Member {
    type Error = StoredError;

    fn try_from(body: MemberBody) -> Result<Self, StoredError> {
        Ok(Self {
            id: MemberId(body.node_id),
            knows: Knowledge::said(body.knows),
            revision: Revision(body.tradewind_revision),
        })
    }
}

/// A format in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatBody {
    pub name: String,
    pub tradewind_revision: u64,
}

impl From<&Format> for FormatBody {
    fn from(format: &Format) -> Self {
        Self {
            name: format.name.to_string(),
            tradewind_revision: format.revision.0,
        }
    }
}

impl TryFrom<FormatBody> for Format {
    type Error = StoredError;

    fn try_from(body: FormatBody) -> Result<Self, StoredError> {
        Ok(Self {
            name: body.name.parse().map_err(|_| StoredError {
                kind: "format",
                field: "name",
            })?,
            revision: Revision(body.tradewind_revision),
        })
    }
}

#[cfg(feature = "next-format")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteBody {
    pub id: String,
    pub text: String,
    pub tradewind_revision: u64,
}

#[cfg(feature = "next-format")]
impl From<&api_types::Note> for NoteBody {
    fn from(note: &api_types::Note) -> Self {
        Self {
            id: note.id.0.clone(),
            text: note.text.clone(),
            tradewind_revision: note.revision.0,
        }
    }
}

#[cfg(feature = "next-format")]
impl TryFrom<NoteBody> for api_types::Note {
    type Error = StoredError;

    fn try_from(body: NoteBody) -> Result<Self, StoredError> {
        Ok(Self {
            id: api_types::NoteId(body.id),
            text: body.text,
            revision: Revision(body.tradewind_revision),
        })
    }
}

/// A line of `GET /v1/watch?from=REV&cluster_id=ID&epoch=N`: every change after REV in order,
/// progress between.
#[derive(Debug, Clone)]
pub enum WatchLine {
    /// `{"type":"app","revision":7,"object":{…}}`: an [`ObjectBody`] with the revision of the change.
    Put { revision: u64, object: ObjectBody },
    /// `{"type":"deleted","revision":7,"kind":"app","id":"…"}`: a tombstone.
    Deleted {
        revision: u64,
        kind: String,
        id: String,
    },
    /// `{"type":"progress","revision":7}`: everything up to `revision` has been sent.
    Progress { revision: u64 },
}

/// What a line says in its `type` that is no object's form.
const DELETED: &str = "deleted";
const PROGRESS: &str = "progress";

impl WatchLine {
    #[must_use]
    pub fn put(object: ObjectRef<'_>) -> Self {
        Self::Put {
            revision: object.revision().0,
            object: ObjectBody::of(object),
        }
    }

    #[must_use]
    pub fn deleted(revision: Revision, id: &api_types::ObjectId) -> Self {
        Self::Deleted {
            revision: revision.0,
            kind: id.kind().name().to_owned(),
            id: id.to_string(),
        }
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { revision, .. }
            | Self::Deleted { revision, .. }
            | Self::Progress { revision } => Revision(*revision),
        }
    }
}

impl Serialize for WatchLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Put { revision, object } => {
                let mut line = serializer.serialize_struct("WatchLine", 3)?;
                line.serialize_field("type", &object.form)?;
                line.serialize_field("revision", revision)?;
                line.serialize_field("object", &object.object)?;
                line.end()
            }
            Self::Deleted { revision, kind, id } => {
                let mut line = serializer.serialize_struct("WatchLine", 4)?;
                line.serialize_field("type", DELETED)?;
                line.serialize_field("revision", revision)?;
                line.serialize_field("kind", kind)?;
                line.serialize_field("id", id)?;
                line.end()
            }
            Self::Progress { revision } => {
                let mut line = serializer.serialize_struct("WatchLine", 2)?;
                line.serialize_field("type", PROGRESS)?;
                line.serialize_field("revision", revision)?;
                line.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for WatchLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "type")]
            form: String,
            revision: u64,
            object: Option<Box<RawValue>>,
            kind: Option<String>,
            id: Option<String>,
        }

        let line = Line::deserialize(deserializer)?;
        let missing = D::Error::missing_field;
        let revision = line.revision;
        Ok(match line.form.as_str() {
            DELETED => Self::Deleted {
                revision,
                kind: line.kind.ok_or_else(|| missing("kind"))?,
                id: line.id.ok_or_else(|| missing("id"))?,
            },
            PROGRESS => Self::Progress { revision },
            _ => Self::Put {
                revision,
                object: ObjectBody {
                    object: line.object.ok_or_else(|| missing("object"))?,
                    form: line.form,
                },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_types::object::example::example;

    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_record_and_its_line() {
        for kind in Kind::ALL {
            let object = example(*kind, Revision(7));
            let record = ObjectBody::to_record(object.by_ref());
            assert_eq!(ObjectBody::from_record(&record).unwrap(), object);
            let line = serde_json::to_string(&WatchLine::put(object.by_ref())).unwrap();
            match serde_json::from_str(&line).unwrap() {
                WatchLine::Put {
                    revision: 7,
                    object: body,
                } => {
                    assert_eq!(Object::try_from(body).unwrap(), object);
                }
                other => panic!("{kind}: {other:?}"),
            }
        }
    }

    #[test]
    fn watch_lines_read_back_as_they_were_written() {
        for text in [
            r#"{"type":"app","revision":3,"object":{"id":"A","annotations":{"k":{"b":1,"a":[2]}}}}"#,
            r#"{"type":"comet","revision":4,"object":{"tail":1.50}}"#,
            r#"{"type":"deleted","revision":6,"kind":"fn","id":"F"}"#,
            r#"{"type":"progress","revision":7}"#,
        ] {
            let line: WatchLine = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
        }
    }

    #[test]
    fn a_line_that_lacks_something_is_refused_by_name() {
        for (text, want) in [
            (r#"{"type":"app","revision":3}"#, "object"),
            (r#"{"type":"deleted","revision":3,"kind":"fn"}"#, "id"),
            (r#"{"type":"progress"}"#, "revision"),
            (r#"{"revision":3}"#, "type"),
        ] {
            let error = serde_json::from_str::<WatchLine>(text).unwrap_err();
            assert!(error.to_string().contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn an_object_that_cannot_be_taken_is_refused_by_name() {
        for (text, want) in [
            (
                r#"{"type":"comet","object":{}}"#,
                "form \"comet\", which this program does not know",
            ),
            (
                r#"{"type":"app","object":{"id":1}}"#,
                "form \"app\" is malformed",
            ),
            (
                r#"{"type":"fn","object":{"id":"F"}}"#,
                "of a stored fn is missing or malformed",
            ),
        ] {
            let error = ObjectBody::from_record(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(want), "{text}: {error}");
        }
    }
}
