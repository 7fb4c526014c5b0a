//! How commands, outcomes and objects look in the log, on disk and between nodes.
//!
//! Self-describing JSON: a node must be able to say what it does not know, and an operator to read
//! a log entry. Every command has a name; one that this node does not know stops it, because to
//! skip it would let its state part from the others' for good.

use std::collections::BTreeMap;

use api_types::{
    AppId, Digest, FnId, Knowledge, Location, MemberId, Object, ObjectId, Refusal, RefusalKind,
    RegionName, Revision, Timestamp, TriggerId,
};
use api_wire::planes::{RegisterRegion, VerdictBody};
use api_wire::{ObjectBody, ObjectError, WatchLine};
use global_plane_state::{
    AppDraft, Command, Envelope, FnDraft, Outcome, Preconditions, RegionDraft, Remembered, Reply,
    RequestId, Session, StateParts, TriggerDraft,
};
use serde::{Deserialize, Serialize};

/// The newest envelope this node reads and the one it writes.
pub const FORMAT: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("its format is {found}, this program reads up to {FORMAT}")]
    Format { found: u64 },
    #[error("the command {command:?} is not known to this program")]
    UnknownCommand { command: String },
    #[error("formats are in use that this program does not know: {}", formats.join(", "))]
    UnknownFormats { formats: Vec<String> },
    #[error("{what} is corrupt")]
    Json {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{what} is corrupt: {field}")]
    Field {
        what: &'static str,
        field: &'static str,
    },
    #[error("an object cannot be read")]
    Object(#[from] ObjectError),
}

impl DecodeError {
    /// A newer program wrote it; else it is damaged.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Format { .. } | Self::UnknownCommand { .. } | Self::UnknownFormats { .. } => true,
            Self::Object(error) => matches!(error, ObjectError::Unknown { .. }),
            Self::Json { .. } | Self::Field { .. } => false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeForm {
    format: u16,
    request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    log_time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_match: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    if_none_match_any: bool,
    command: CommandForm,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
enum CommandForm {
    CreateApp {
        id: String,
        draft: AppDraftForm,
    },
    UpdateApp {
        id: String,
        change: AppDraftForm,
    },
    DeleteApp {
        id: String,
    },
    CreateFn {
        id: String,
        draft: FnDraftForm,
    },
    UpdateFn {
        id: String,
        change: FnDraftForm,
    },
    DeleteFn {
        id: String,
    },
    CreateTrigger {
        id: String,
        draft: TriggerDraftForm,
    },
    UpdateTrigger {
        id: String,
        change: TriggerDraftForm,
    },
    DeleteTrigger {
        id: String,
    },
    RegisterRegion {
        region: RegisterRegion,
    },
    SetDrained {
        region: String,
        drained: bool,
    },
    SetVerdicts {
        verdicts: Vec<(String, VerdictBody)>,
    },
    AddBundle {
        digest: String,
        size: u64,
    },
    SayKnown {
        member: u64,
        knows: Vec<String>,
    },
    UseFormats {
        formats: Vec<String>,
    },
    #[cfg(feature = "next-format")]
    PutNote {
        id: String,
        text: String,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AppDraftForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syslog_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FnDraftForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_secs: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timeout_secs: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TriggerDraftForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fn_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    created_at_given: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    updated_at_given: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OutcomeForm {
    Done(Box<ReplyForm>),
    Refused(RefusedForm),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedForm {
    kind: RefusalForm,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplyForm {
    Put(ObjectBody),
    Deleted(u64),
    Done(u64),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RefusalForm {
    Invalid,
    NotFound,
    Conflict,
    Precondition,
    Full,
    KeyReused,
}

impl From<&Refusal> for RefusedForm {
    fn from(refusal: &Refusal) -> Self {
        Self {
            kind: refusal.kind.into(),
            message: refusal.message.clone(),
        }
    }
}

impl From<RefusedForm> for Refusal {
    fn from(form: RefusedForm) -> Self {
        Self {
            kind: form.kind.into(),
            message: form.message,
        }
    }
}

impl From<RefusalKind> for RefusalForm {
    fn from(kind: RefusalKind) -> Self {
        match kind {
            RefusalKind::Invalid => Self::Invalid,
            RefusalKind::NotFound => Self::NotFound,
            RefusalKind::Conflict => Self::Conflict,
            RefusalKind::Precondition => Self::Precondition,
            RefusalKind::Full => Self::Full,
            RefusalKind::KeyReused => Self::KeyReused,
        }
    }
}

impl From<RefusalForm> for RefusalKind {
    fn from(kind: RefusalForm) -> Self {
        match kind {
            RefusalForm::Invalid => Self::Invalid,
            RefusalForm::NotFound => Self::NotFound,
            RefusalForm::Conflict => Self::Conflict,
            RefusalForm::Precondition => Self::Precondition,
            RefusalForm::Full => Self::Full,
            RefusalForm::KeyReused => Self::KeyReused,
        }
    }
}

impl From<AppDraft> for AppDraftForm {
    fn from(draft: AppDraft) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            config: draft.config,
            annotations: draft.annotations,
            syslog_url: draft.syslog_url,
            shape: draft.shape,
        }
    }
}

impl From<AppDraftForm> for AppDraft {
    fn from(draft: AppDraftForm) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            config: draft.config,
            annotations: draft.annotations,
            syslog_url: draft.syslog_url,
            shape: draft.shape,
        }
    }
}

impl From<FnDraft> for FnDraftForm {
    fn from(draft: FnDraft) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            app_id: draft.app_id,
            image: draft.image,
            memory: draft.memory,
            timeout_secs: draft.timeout_secs,
            idle_timeout_secs: draft.idle_timeout_secs,
            config: draft.config,
            annotations: draft.annotations,
        }
    }
}

impl From<FnDraftForm> for FnDraft {
    fn from(draft: FnDraftForm) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            app_id: draft.app_id,
            image: draft.image,
            memory: draft.memory,
            timeout_secs: draft.timeout_secs,
            idle_timeout_secs: draft.idle_timeout_secs,
            config: draft.config,
            annotations: draft.annotations,
        }
    }
}

impl From<TriggerDraft> for TriggerDraftForm {
    fn from(draft: TriggerDraft) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            app_id: draft.app_id,
            fn_id: draft.fn_id,
            kind: draft.kind,
            source: draft.source,
            annotations: draft.annotations,
            created_at_given: draft.created_at_given,
            updated_at_given: draft.updated_at_given,
        }
    }
}

impl From<TriggerDraftForm> for TriggerDraft {
    fn from(draft: TriggerDraftForm) -> Self {
        Self {
            id: draft.id,
            name: draft.name,
            app_id: draft.app_id,
            fn_id: draft.fn_id,
            kind: draft.kind,
            source: draft.source,
            annotations: draft.annotations,
            created_at_given: draft.created_at_given,
            updated_at_given: draft.updated_at_given,
        }
    }
}

impl From<Command> for CommandForm {
    fn from(command: Command) -> Self {
        match command {
            Command::CreateApp { id, draft } => Self::CreateApp {
                id: id.to_string(),
                draft: draft.into(),
            },
            Command::UpdateApp { id, change } => Self::UpdateApp {
                id: id.to_string(),
                change: change.into(),
            },
            Command::DeleteApp { id } => Self::DeleteApp { id: id.to_string() },
            Command::CreateFn { id, draft } => Self::CreateFn {
                id: id.to_string(),
                draft: draft.into(),
            },
            Command::UpdateFn { id, change } => Self::UpdateFn {
                id: id.to_string(),
                change: change.into(),
            },
            Command::DeleteFn { id } => Self::DeleteFn { id: id.to_string() },
            Command::CreateTrigger { id, draft } => Self::CreateTrigger {
                id: id.to_string(),
                draft: draft.into(),
            },
            Command::UpdateTrigger { id, change } => Self::UpdateTrigger {
                id: id.to_string(),
                change: change.into(),
            },
            Command::DeleteTrigger { id } => Self::DeleteTrigger { id: id.to_string() },
            Command::RegisterRegion { region } => Self::RegisterRegion {
                region: RegisterRegion {
                    name: region.name.to_string(),
                    ipv4: region.ipv4,
                    ipv6: region.ipv6,
                    gateway: region.gateway,
                    admin: region.admin,
                    latitude: region.location.latitude,
                    longitude: region.location.longitude,
                    labels: region.labels,
                },
            },
            Command::SetDrained { region, drained } => Self::SetDrained {
                region: region.to_string(),
                drained,
            },
            Command::SetVerdicts { verdicts } => Self::SetVerdicts {
                verdicts: verdicts
                    .into_iter()
                    .map(|(region, verdict)| (region.to_string(), verdict.into()))
                    .collect(),
            },
            Command::AddBundle { digest, size } => Self::AddBundle {
                digest: digest.to_string(),
                size,
            },
            Command::SayKnown { member, knows } => Self::SayKnown {
                member: member.0,
                knows: knows.to_say().map(str::to_owned).collect(),
            },
            Command::UseFormats { formats } => Self::UseFormats {
                formats: formats.iter().map(ToString::to_string).collect(),
            },
            #[cfg(feature = "next-format")]
            Command::PutNote { id, text } => Self::PutNote { id: id.0, text },
        }
    }
}

impl TryFrom<CommandForm> for Command {
    type Error = DecodeError;

    fn try_from(form: CommandForm) -> Result<Self, DecodeError> {
        Ok(match form {
            CommandForm::CreateApp { id, draft } => Self::CreateApp {
                id: AppId::new(id),
                draft: draft.into(),
            },
            CommandForm::UpdateApp { id, change } => Self::UpdateApp {
                id: AppId::new(id),
                change: change.into(),
            },
            CommandForm::DeleteApp { id } => Self::DeleteApp { id: AppId::new(id) },
            CommandForm::CreateFn { id, draft } => Self::CreateFn {
                id: FnId::new(id),
                draft: draft.into(),
            },
            CommandForm::UpdateFn { id, change } => Self::UpdateFn {
                id: FnId::new(id),
                change: change.into(),
            },
            CommandForm::DeleteFn { id } => Self::DeleteFn { id: FnId::new(id) },
            CommandForm::CreateTrigger { id, draft } => Self::CreateTrigger {
                id: TriggerId::new(id),
                draft: draft.into(),
            },
            CommandForm::UpdateTrigger { id, change } => Self::UpdateTrigger {
                id: TriggerId::new(id),
                change: change.into(),
            },
            CommandForm::DeleteTrigger { id } => Self::DeleteTrigger {
                id: TriggerId::new(id),
            },
            CommandForm::RegisterRegion { region } => Self::RegisterRegion {
                region: region_draft(region).map_err(|_| garbled("region"))?,
            },
            CommandForm::SetDrained { region, drained } => Self::SetDrained {
                region: region_name(&region)?,
                drained,
            },
            CommandForm::SetVerdicts { verdicts } => Self::SetVerdicts {
                verdicts: verdicts
                    .into_iter()
                    .map(|(region, verdict)| Ok((region_name(&region)?, verdict.into())))
                    .collect::<Result<_, DecodeError>>()?,
            },
            CommandForm::AddBundle { digest, size } => Self::AddBundle {
                digest: digest_of(&digest)?,
                size,
            },
            CommandForm::SayKnown { member, knows } => Self::SayKnown {
                member: MemberId(member),
                knows: Knowledge::said(knows),
            },
            CommandForm::UseFormats { formats } => Self::UseFormats {
                formats: formats
                    .iter()
                    .map(|format| format.parse().map_err(|_| garbled("format")))
                    .collect::<Result<_, DecodeError>>()?,
            },
            #[cfg(feature = "next-format")]
            CommandForm::PutNote { id, text } => Self::PutNote {
                id: api_types::NoteId(id),
                text,
            },
        })
    }
}

/// A region's registration, its place to the micro-degree.
///
/// Decimals that short are read back as the very number that was written (serde_json's general
/// reader may be off by one in the last bit), so a state that went through a disk or a snapshot
/// seals the same views as one that did not. A micro-degree is 11 cm.
///
/// # Errors
/// If the name is none.
pub fn region_draft(
    region: RegisterRegion,
) -> Result<RegionDraft, api_types::region::RegionNameError> {
    Ok(RegionDraft {
        name: region.name.parse()?,
        ipv4: region.ipv4,
        ipv6: region.ipv6,
        gateway: region.gateway,
        admin: region.admin,
        location: Location {
            latitude: micro_degrees(region.latitude),
            longitude: micro_degrees(region.longitude),
        },
        labels: region.labels,
    })
}

fn micro_degrees(degrees: f64) -> f64 {
    (degrees * 1e6).round() / 1e6
}

fn garbled(field: &'static str) -> DecodeError {
    DecodeError::Field {
        what: "a record",
        field,
    }
}

fn region_name(text: &str) -> Result<RegionName, DecodeError> {
    text.parse().map_err(|_| garbled("region"))
}

fn digest_of(text: &str) -> Result<Digest, DecodeError> {
    text.parse().map_err(|_| garbled("digest"))
}

fn fingerprint_of(text: Option<&str>) -> Result<Option<Digest>, DecodeError> {
    text.map(digest_of).transpose()
}

/// An envelope for the log or for the leader.
#[must_use]
pub fn encode_envelope(envelope: &Envelope) -> Vec<u8> {
    encode(&EnvelopeForm {
        format: envelope.format,
        request: envelope.request.0.clone(),
        fingerprint: envelope.fingerprint.map(|digest| digest.to_string()),
        log_time: envelope.log_time.0,
        if_match: envelope.preconditions.if_match.map(|revision| revision.0),
        if_none_match_any: envelope.preconditions.if_none_match_any,
        command: envelope.command.clone().into(),
    })
}

/// # Errors
/// If it is corrupt, or of a newer program than this.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope, DecodeError> {
    let form = match serde_json::from_slice::<EnvelopeForm>(bytes) {
        Ok(form) if form.format <= FORMAT => form,
        Ok(form) => {
            return Err(DecodeError::Format {
                found: form.format.into(),
            });
        }
        Err(source) => return Err(why_unreadable(bytes, source)),
    };
    Ok(Envelope {
        format: form.format,
        request: RequestId(form.request),
        fingerprint: fingerprint_of(form.fingerprint.as_deref())?,
        log_time: Timestamp(form.log_time),
        preconditions: Preconditions {
            if_match: form.if_match.map(Revision),
            if_none_match_any: form.if_none_match_any,
        },
        command: form.command.try_into()?,
    })
}

/// Tells an entry of a newer program from a corrupt one, for the operator who meets it.
fn why_unreadable(bytes: &[u8], source: serde_json::Error) -> DecodeError {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return DecodeError::Json {
            what: "a log entry",
            source,
        };
    };
    if let Some(found) = value["format"]
        .as_u64()
        .filter(|found| *found > FORMAT.into())
    {
        return DecodeError::Format { found };
    }
    match value["command"]["name"].as_str() {
        Some(command) if source.to_string().contains("unknown variant") => {
            DecodeError::UnknownCommand {
                command: command.to_owned(),
            }
        }
        _ => DecodeError::Json {
            what: "a log entry",
            source,
        },
    }
}

impl OutcomeForm {
    fn of(outcome: &Outcome) -> Self {
        let reply = match outcome {
            Ok(Reply::Put(object)) => ReplyForm::Put(ObjectBody::of(object.by_ref())),
            Ok(Reply::Deleted(revision)) => ReplyForm::Deleted(revision.0),
            Ok(Reply::Done(revision)) => ReplyForm::Done(revision.0),
            Err(refusal) => return Self::Refused(refusal.into()),
        };
        Self::Done(Box::new(reply))
    }

    fn outcome(self) -> Result<Outcome, DecodeError> {
        let reply = match self {
            Self::Done(reply) => *reply,
            Self::Refused(refused) => return Ok(Err(refused.into())),
        };
        Ok(Ok(match reply {
            ReplyForm::Put(object) => Reply::Put(object.try_into()?),
            ReplyForm::Deleted(revision) => Reply::Deleted(Revision(revision)),
            ReplyForm::Done(revision) => Reply::Done(Revision(revision)),
        }))
    }
}

/// An outcome for the node that forwarded the command, which reads it with [`decode_outcome`].
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    encode(&OutcomeForm::of(outcome))
}

/// # Errors
/// If it is corrupt.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, DecodeError> {
    decode::<OutcomeForm>("an outcome", bytes)?.outcome()
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionForm {
    index: u64,
    request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    at: i64,
    outcome: RememberedForm,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RememberedForm {
    /// `key` is the object's.
    Wrote {
        key: String,
        revision: u64,
    },
    Deleted(u64),
    Done(u64),
    Refused(RefusedForm),
}

impl From<&Remembered> for RememberedForm {
    fn from(remembered: &Remembered) -> Self {
        match remembered {
            Remembered::Wrote { id, revision } => Self::Wrote {
                key: id.key(),
                revision: revision.0,
            },
            Remembered::Deleted(revision) => Self::Deleted(revision.0),
            Remembered::Done(revision) => Self::Done(revision.0),
            Remembered::Refused(refusal) => Self::Refused(refusal.into()),
        }
    }
}

impl TryFrom<RememberedForm> for Remembered {
    type Error = DecodeError;

    fn try_from(form: RememberedForm) -> Result<Self, DecodeError> {
        Ok(match form {
            RememberedForm::Wrote { key, revision } => Self::Wrote {
                id: ObjectId::from_key(&key).ok_or(ObjectError::Unknown { form: key })?,
                revision: Revision(revision),
            },
            RememberedForm::Deleted(revision) => Self::Deleted(Revision(revision)),
            RememberedForm::Done(revision) => Self::Done(Revision(revision)),
            RememberedForm::Refused(refused) => Self::Refused(refused.into()),
        })
    }
}

#[must_use]
pub fn encode_session(session: &Session) -> Vec<u8> {
    encode(&session_form(session))
}

fn session_form(session: &Session) -> SessionForm {
    SessionForm {
        index: session.index,
        request: session.request.0.clone(),
        fingerprint: session.fingerprint.map(|digest| digest.to_string()),
        at: session.at.0,
        outcome: (&session.outcome).into(),
    }
}

fn session_of(form: SessionForm) -> Result<Session, DecodeError> {
    Ok(Session {
        index: form.index,
        request: RequestId(form.request),
        fingerprint: fingerprint_of(form.fingerprint.as_deref())?,
        at: Timestamp(form.at),
        outcome: form.outcome.try_into()?,
    })
}

/// # Errors
/// If it is corrupt.
pub fn decode_session(bytes: &[u8]) -> Result<Session, DecodeError> {
    session_of(decode("a session", bytes)?)
}

/// Where the state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    pub revision: u64,
    pub log_time: i64,
    /// The revision that last changed the steering view.
    pub steering: u64,
}

/// A whole state on its way to a node that is too far behind for the log.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotForm {
    format: u16,
    cluster_id: String,
    standing: Standing,
    objects: Vec<ObjectBody>,
    sessions: Vec<SessionForm>,
}

#[must_use]
pub fn encode_snapshot(parts: &StateParts, steering: Revision) -> Vec<u8> {
    encode(&SnapshotForm {
        format: FORMAT,
        cluster_id: parts.cluster_id.clone(),
        standing: Standing {
            revision: parts.revision.0,
            log_time: parts.log_time.0,
            steering: steering.0,
        },
        objects: parts
            .objects
            .iter()
            .map(|object| ObjectBody::of(object.by_ref()))
            .collect(),
        sessions: parts.sessions.iter().map(session_form).collect(),
    })
}

/// The state and its steering revision.
///
/// # Errors
/// If it is corrupt, or of a newer program than this.
pub fn decode_snapshot(bytes: &[u8]) -> Result<(StateParts, Revision), DecodeError> {
    let form: SnapshotForm = decode("a snapshot", bytes)?;
    if form.format > FORMAT {
        return Err(DecodeError::Format {
            found: form.format.into(),
        });
    }
    let parts = StateParts {
        cluster_id: form.cluster_id,
        objects: form
            .objects
            .into_iter()
            .map(Object::try_from)
            .collect::<Result<_, _>>()?,
        sessions: form
            .sessions
            .into_iter()
            .map(session_of)
            .collect::<Result<_, _>>()?,
        revision: Revision(form.standing.revision),
        log_time: Timestamp(form.standing.log_time),
    };
    Ok((parts, Revision(form.standing.steering)))
}

/// A line of the watch as it is kept and sent.
#[must_use]
pub fn encode_line(line: &WatchLine) -> Vec<u8> {
    let mut bytes = encode(line);
    bytes.push(b'\n');
    bytes
}

#[must_use]
pub fn encode<T: Serialize>(form: &T) -> Vec<u8> {
    serde_json::to_vec(form).expect("forms are plain data with text keys")
}

/// # Errors
/// If the bytes are not what they should be.
pub fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError::Json { what, source })
}

#[cfg(test)]
mod tests;
