//! The words every plane shares: ids, the kinds of objects, placement, verdicts and views.
//!
//! Pure data and the rules that need nothing but that data. It knows no wire format beyond the JSON
//! text that Fn keeps verbatim in annotations, no clock and no disk; `api-wire` has the serde forms.

pub mod bundle;
pub mod catalog;
mod chain;
pub mod dns_label;
pub mod fns;
pub mod id;
pub mod knowledge;
pub mod member;
#[cfg(feature = "next-format")]
pub mod note;
pub mod object;
pub mod placement;
pub mod refusal;
pub mod region;
pub mod time;

pub use bundle::{Bundle, BundleRef, Digest, Platform};
pub use catalog::Catalog;
pub use chain::chain;
pub use fns::{Annotations, App, Config, Fn, Trigger};
pub use id::{AppId, CallId, FnId, Revision, TriggerId};
pub use knowledge::Knowledge;
pub use member::{Format, FormatName, Member, MemberId};
#[cfg(feature = "next-format")]
pub use note::{Note, NoteId};
pub use object::{Kind, Object, ObjectId, ObjectRef};
pub use placement::Placement;
pub use refusal::{Refusal, RefusalKind};
pub use region::{Following, Load, Location, Region, RegionName, Sizing, Verdict};
pub use time::Timestamp;
