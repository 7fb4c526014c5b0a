//! What enters the log.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use api_types::{
    AppId, Config, Digest, FnId, FormatName, Knowledge, Location, MemberId, RegionName, Revision,
    Timestamp, TriggerId, Verdict,
};

/// A command with what makes it safe to retry and to replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Of the encoded envelope. The state does not look at it: a node that does not know a format
    /// stops before it gets here.
    pub format: u16,
    pub request: RequestId,
    /// SHA-256 of the request under a key that its client chose: method, path, preconditions and
    /// body. `None` for a request whose id the server minted. One id with two fingerprints is a
    /// mistake of the client, and its second request is refused.
    pub fingerprint: Option<Digest>,
    /// When the proposer made it. The state's own time never goes back for it.
    pub log_time: Timestamp,
    pub preconditions: Preconditions,
    pub command: Command,
}

/// Names a request however often it is sent; the first outcome is the outcome.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub String);

/// What must hold of the object that a command is about (RFC 9110 §13.1). They are looked at after
/// it is known to exist and before its change is. Commands about no object
/// ([`Command::SetVerdicts`], [`Command::AddBundle`], [`Command::SayKnown`], [`Command::UseFormats`])
/// ignore them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The object's revision. It cannot hold for an object that is yet to be created.
    pub if_match: Option<Revision>,
    /// There is no such object yet: none of that name when it is created.
    pub if_none_match_any: bool,
}

/// Ids of new objects are minted by the proposer.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    CreateApp {
        id: AppId,
        draft: AppDraft,
    },
    UpdateApp {
        id: AppId,
        change: AppDraft,
    },
    DeleteApp {
        id: AppId,
    },
    CreateFn {
        id: FnId,
        draft: FnDraft,
    },
    UpdateFn {
        id: FnId,
        change: FnDraft,
    },
    DeleteFn {
        id: FnId,
    },
    CreateTrigger {
        id: TriggerId,
        draft: TriggerDraft,
    },
    UpdateTrigger {
        id: TriggerId,
        change: TriggerDraft,
    },
    DeleteTrigger {
        id: TriggerId,
    },
    /// A region says what it is, at each of its starts. A new one is `Down` until the monitor hears
    /// from it; one that is known keeps its drain, verdict and price.
    RegisterRegion {
        region: RegionDraft,
    },
    /// Draining makes the verdict `Draining` at once; undraining makes it `Healthy` if it is still
    /// that, and the monitor corrects it from there.
    SetDrained {
        region: RegionName,
        drained: bool,
    },
    /// A drained region stays `Draining`, whatever is said of it: it takes no new clients, dead or
    /// alive.
    SetVerdicts {
        verdicts: Vec<(RegionName, Verdict)>,
    },
    /// The bytes are stored on a majority of nodes.
    AddBundle {
        digest: Digest,
        /// In bytes.
        size: u64,
    },
    /// A member says what it knows: one that starts and knows other formats than it last said.
    SayKnown {
        member: MemberId,
        knows: Knowledge,
    },
    /// From here on these formats are in use. Every member has said that it knows them; one that
    /// does not, because it was replaced by an older program since, stops here.
    UseFormats {
        formats: Vec<FormatName>,
    },
    #[cfg(feature = "next-format")]
    PutNote {
        id: api_types::NoteId,
        text: String,
    },
}

impl Command {
    /// Its name in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateApp { .. } => "create_app",
            Self::UpdateApp { .. } => "update_app",
            Self::DeleteApp { .. } => "delete_app",
            Self::CreateFn { .. } => "create_fn",
            Self::UpdateFn { .. } => "update_fn",
            Self::DeleteFn { .. } => "delete_fn",
            Self::CreateTrigger { .. } => "create_trigger",
            Self::UpdateTrigger { .. } => "update_trigger",
            Self::DeleteTrigger { .. } => "delete_trigger",
            Self::RegisterRegion { .. } => "register_region",
            Self::SetDrained { .. } => "set_drained",
            Self::SetVerdicts { .. } => "set_verdicts",
            Self::AddBundle { .. } => "add_bundle",
            Self::SayKnown { .. } => "say_known",
            Self::UseFormats { .. } => "use_formats",
            #[cfg(feature = "next-format")]
            Self::PutNote { .. } => "put_note",
        }
    }

    /// The formats that must be in use before it is proposed: its own, and those of the objects that
    /// it makes and the rules that it is applied by, unless every version knows them.
    #[must_use]
    pub fn needs(&self) -> Vec<FormatName> {
        let every = Knowledge::default();
        let own = format!("command/{}", self.name());
        let formats = self.makes().iter().copied().chain([own.as_str()]);
        let lacks = every.lacks(formats).into_iter();
        lacks.filter_map(|format| format.parse().ok()).collect()
    }

    /// The forms and rules, beside its own format, that only some versions know.
    fn makes(&self) -> &'static [&'static str] {
        match self {
            Self::CreateApp { .. }
            | Self::UpdateApp { .. }
            | Self::DeleteApp { .. }
            | Self::CreateFn { .. }
            | Self::UpdateFn { .. }
            | Self::DeleteFn { .. }
            | Self::CreateTrigger { .. }
            | Self::UpdateTrigger { .. }
            | Self::DeleteTrigger { .. }
            | Self::RegisterRegion { .. }
            | Self::SetDrained { .. }
            | Self::SetVerdicts { .. }
            | Self::AddBundle { .. }
            | Self::SayKnown { .. }
            | Self::UseFormats { .. } => &[],
            #[cfg(feature = "next-format")]
            Self::PutNote { .. } => &["object/note"],
        }
    }
}

/// Annotations as sent: the compacted JSON of the value, `None` for `null` and `""`.
pub type AnnotationChanges = BTreeMap<String, Option<String>>;

/// An app's members as sent; `None` is absent (Fn contract 2.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub config: Option<Config>,
    pub annotations: Option<AnnotationChanges>,
    pub syslog_url: Option<String>,
    pub shape: Option<String>,
}

/// A function's members as sent (Fn contract 3.1). Its shape is the app's and never its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FnDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub app_id: Option<String>,
    pub image: Option<String>,
    /// Megabytes.
    pub memory: Option<u64>,
    pub timeout_secs: Option<i32>,
    pub idle_timeout_secs: Option<i32>,
    pub config: Option<Config>,
    pub annotations: Option<AnnotationChanges>,
}

/// A trigger's members as sent (Fn contract 4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TriggerDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub app_id: Option<String>,
    pub fn_id: Option<String>,
    /// JSON `type`.
    pub kind: Option<String>,
    pub source: Option<String>,
    pub annotations: Option<AnnotationChanges>,
    /// `created_at` was sent and is not Go's zero time; refused on create (Fn contract 4.1).
    pub created_at_given: bool,
    /// `updated_at`, likewise.
    pub updated_at_given: bool,
}

/// What a region says of itself, see [`api_types::Region`].
#[derive(Debug, Clone, PartialEq)]
pub struct RegionDraft {
    pub name: RegionName,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// `host:port`.
    pub gateway: String,
    /// `host:port`.
    pub admin: String,
    pub location: Location,
    pub labels: BTreeMap<String, String>,
}
