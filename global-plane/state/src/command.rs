//! Commands and what comes of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use api_types::{
    App, AppId, Digest, Fn, FnId, Location, Refusal, Region, RegionName, Revision, Timestamp,
    Trigger, TriggerId, Verdict,
};

use crate::sessions::Session;
use crate::state::Bundle;

/// What every command travels in.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub format: u16,
    /// A command whose id was seen before gets its first outcome and changes nothing.
    pub request: RequestId,
    /// The proposer's clock. Where it is behind what was applied before, the later time counts.
    pub log_time: Timestamp,
    pub preconditions: Preconditions,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub String);

/// `If-Match` and `If-None-Match: *`, checked against the object that the command names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Preconditions {
    pub if_match: Option<Revision>,
    pub if_none_match_any: bool,
}

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
    RegisterRegion {
        registration: Registration,
    },
    SetDrained {
        region: RegionName,
        drained: bool,
    },
    SetVerdicts {
        verdicts: Vec<(RegionName, Verdict)>,
    },
    /// The bundle's bytes are on a majority of the nodes.
    AddBundle {
        digest: Digest,
        size: u64,
    },
}

/// Annotations as sent: `None` is `""` or `null`.
pub type AnnotationsDraft = BTreeMap<String, Option<String>>;

/// An app as a client sent it; what it left out is `None` (Fn contract 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub config: Option<BTreeMap<String, String>>,
    pub annotations: Option<AnnotationsDraft>,
    pub syslog_url: Option<String>,
    pub shape: Option<String>,
}

/// A fn as a client sent it (Fn contract 3.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FnDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub app_id: Option<String>,
    pub image: Option<String>,
    pub memory: Option<u64>,
    pub timeout_secs: Option<i32>,
    pub idle_timeout_secs: Option<i32>,
    pub config: Option<BTreeMap<String, String>>,
    pub annotations: Option<AnnotationsDraft>,
}

/// A trigger as a client sent it (Fn contract 4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TriggerDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub app_id: Option<String>,
    pub fn_id: Option<String>,
    pub kind: Option<String>,
    pub source: Option<String>,
    pub annotations: Option<AnnotationsDraft>,
    /// The client set a time, which only the server may.
    pub created_at_given: bool,
    pub updated_at_given: bool,
}

/// A region's own words about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub name: RegionName,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub gateway: String,
    pub admin: String,
    pub location: Location,
    pub labels: BTreeMap<String, String>,
}

pub type Outcome = Result<Reply, Refusal>;

#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Region(Region),
    /// The revision of the deletion.
    Deleted(Revision),
    /// The revision after a command that has no object to show.
    Done(Revision),
}

/// What applying one command came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: Outcome,
    /// The request id was known: this is its first outcome, and nothing changed.
    pub replayed: bool,
    /// The state's revision afterwards; all changes of the command carry it.
    pub revision: Revision,
    /// Everything a shell must persist to have this state again.
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Region(Region),
    Deleted(Deleted),
    Bundle(Digest, Bundle),
    Session(RequestId, Session),
    SessionDropped(RequestId),
    /// The state's revision and log time, in every change list that has anything.
    Position {
        revision: Revision,
        log_time: Timestamp,
    },
}

/// A tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    App(AppId),
    Fn(FnId),
    Trigger(TriggerId),
}
