//! Every kind of object there is, and what is declared of each.
//!
//! An object is what the global plane stores under a kind and an id and changes at a revision. Its
//! store, history, watch, snapshot, views and the copies in regions do not know one kind from
//! another: they go by this list. ARCHITECTURE.md says how a kind is added.

pub mod example;

use std::borrow::Cow;
use std::fmt;

use crate::fns::PLACEMENT_ANNOTATION;
use crate::{
    Annotations, App, AppId, Bundle, Digest, Fn, FnId, Format, FormatName, Member, MemberId,
    Region, RegionName, Revision, Trigger, TriggerId,
};
#[cfg(feature = "next-format")]
use crate::{Note, NoteId};

/// What holds for every object of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// Its name in keys, records, the watch, tombstones and errors. Never changes and never has a `/`.
    pub name: &'static str,
    /// Several of them, in messages.
    pub plural: &'static str,
    /// Where the admin API has it; the object itself is at `API/ID`.
    pub api: &'static str,
    /// Who gets it whole. What DNS servers are told of it is [`ObjectRef::dns_part`].
    pub receivers: Receivers,
    /// How many the global plane stores. Every node holds all of them in memory, and every region
    /// those it receives, so the bound is far above what a federation is built for and far below
    /// what would take a node down.
    pub count_max: usize,
}

/// Who gets the objects of a kind, in snapshots and in the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receivers {
    /// Every region, also one that none of it is placed in: it serves it when it has to stand in.
    EveryRegion,
    /// Global nodes keep it to themselves.
    Nobody,
}

/// Makes the list: [`Kind`], [`Object`], [`ObjectRef`], [`ObjectId`] and what they answer from it.
macro_rules! kinds {
    ($(
        $(#[cfg($cfg:meta)])?
        $kind:ident {
            id: $id:ident: $id_type:ty = $parse:expr,
            name: $name:literal,
            plural: $plural:literal,
            api: $api:literal,
            receivers: $receivers:expr,
            count_max: $count_max:expr,
            dns: $dns:expr,
        }
    )+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[cfg($cfg)])? $kind,)+
        }

        impl Kind {
            /// Every kind; what others refer to comes first.
            pub const ALL: &'static [Self] = &[$($(#[cfg($cfg)])? Self::$kind,)+];

            #[must_use]
            pub fn declared(self) -> &'static Declaration {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind => &Declaration {
                        name: $name,
                        plural: $plural,
                        api: $api,
                        receivers: $receivers,
                        count_max: $count_max,
                    },)+
                }
            }
        }

        /// An object as it is stored.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($(#[cfg($cfg)])? $kind($kind),)+
        }

        impl Object {
            #[must_use]
            pub fn by_ref(&self) -> ObjectRef<'_> {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(object) => ObjectRef::$kind(object),)+
                }
            }
        }

        $(
            $(#[cfg($cfg)])?
            impl From<$kind> for Object {
                fn from(object: $kind) -> Self {
                    Self::$kind(object)
                }
            }

            $(#[cfg($cfg)])?
            impl<'a> From<&'a $kind> for ObjectRef<'a> {
                fn from(object: &'a $kind) -> Self {
                    Self::$kind(object)
                }
            }
        )+

        /// An object that somebody else holds.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum ObjectRef<'a> {
            $($(#[cfg($cfg)])? $kind(&'a $kind),)+
        }

        impl<'a> ObjectRef<'a> {
            #[must_use]
            pub fn kind(self) -> Kind {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(_) => Kind::$kind,)+
                }
            }

            #[must_use]
            pub fn id(self) -> ObjectId {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(object) => ObjectId::$kind(object.$id.clone()),)+
                }
            }

            /// The revision that last changed it.
            #[must_use]
            pub fn revision(self) -> Revision {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(object) => object.revision,)+
                }
            }

            #[must_use]
            pub fn to_owned(self) -> Object {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(object) => Object::$kind(object.clone()),)+
                }
            }

            /// Stands for what DNS servers are told of the object, `None` if that is nothing: their
            /// view is made anew when, and only when, this changes.
            #[must_use]
            pub fn dns_part(self) -> Option<Cow<'a, str>> {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(object) => {
                        let of: fn(&$kind) -> Option<Cow<'_, str>> = $dns;
                        of(object)
                    })+
                }
            }
        }

        /// Names an object among all of them.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ObjectId {
            $($(#[cfg($cfg)])? $kind($id_type),)+
        }

        impl ObjectId {
            /// `None` if the text can name no object of that kind.
            #[must_use]
            pub fn parse(kind: Kind, text: &str) -> Option<Self> {
                match kind {
                    $($(#[cfg($cfg)])? Kind::$kind => {
                        let parse: fn(&str) -> Option<$id_type> = $parse;
                        parse(text).map(Self::$kind)
                    })+
                }
            }

            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(_) => Kind::$kind,)+
                }
            }
        }

        /// The id alone, without its kind.
        impl fmt::Display for ObjectId {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($(#[cfg($cfg)])? Self::$kind(id) => id.fmt(f),)+
                }
            }
        }
    };
}

kinds! {
    App {
        id: id: AppId = |text| Some(AppId::new(text)),
        name: "app",
        plural: "apps",
        api: "/v2/apps",
        receivers: Receivers::EveryRegion,
        // A walk over their list is a thousand full pages.
        count_max: 100_000,
        dns: |app| placement_text(&app.annotations),
    }
    Fn {
        id: id: FnId = |text| Some(FnId::new(text)),
        name: "fn",
        plural: "functions",
        api: "/v2/fns",
        receivers: Receivers::EveryRegion,
        // How many bytes all of them may have is bounded apart, `api_wire::bounds::OBJECTS_BYTES_MAX`.
        count_max: 200_000,
        dns: |function| placement_text(&function.annotations),
    }
    Trigger {
        id: id: TriggerId = |text| Some(TriggerId::new(text)),
        name: "trigger",
        plural: "triggers",
        api: "/v2/triggers",
        receivers: Receivers::EveryRegion,
        count_max: 200_000,
        dns: |_| None,
    }
    Region {
        id: name: RegionName = |text| text.parse().ok(),
        name: "region",
        plural: "regions",
        api: "/v1/regions",
        receivers: Receivers::EveryRegion,
        // Every DNS server ranks all regions for every client; the largest clouds have fewer than 100.
        count_max: 256,
        dns: |region| Some(whole(region.revision)),
    }
    Bundle {
        id: digest: Digest = |text| text.parse().ok(),
        name: "bundle",
        plural: "bundles",
        api: "/v1/bundles",
        // Regions fetch the bytes by the digest that a function's image names.
        receivers: Receivers::Nobody,
        // A record is a hundred bytes; the files behind them fill a disk long before.
        count_max: 100_000,
        dns: |_| None,
    }
    Member {
        id: id: MemberId = |text| text.parse().ok().map(MemberId),
        name: "member",
        plural: "members",
        api: "/v1/members",
        receivers: Receivers::Nobody,
        // Five is the most a federation is built for; the rest are nodes that were replaced.
        count_max: 1_000,
        dns: |_| None,
    }
    Format {
        id: name: FormatName = |text| text.parse().ok(),
        name: "format",
        plural: "formats",
        api: "/v1/formats",
        receivers: Receivers::Nobody,
        count_max: crate::knowledge::FORMATS_MAX,
        dns: |_| None,
    }
    #[cfg(feature = "next-format")]
    Note {
        id: id: NoteId = |text| Some(NoteId(text.to_owned())),
        name: "note",
        plural: "notes",
        api: "/v1/notes",
        receivers: Receivers::EveryRegion,
        count_max: 1_000,
        dns: |_| None,
    }
}

/// DNS servers are told where it may run, and nothing else of it.
fn placement_text(annotations: &Annotations) -> Option<Cow<'_, str>> {
    annotations
        .get(PLACEMENT_ANNOTATION)
        .map(|text| Cow::Borrowed(text.as_str()))
}

/// DNS servers are told all of it, so every change counts.
fn whole(revision: Revision) -> Cow<'static, str> {
    Cow::Owned(revision.to_string())
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        self.declared().name
    }

    /// The reverse of [`Self::name`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The format by which objects of this kind are stored and sent.
    #[must_use]
    pub fn form(self) -> String {
        format!("object/{self}")
    }

    #[must_use]
    pub fn received_by_regions(self) -> bool {
        self.declared().receivers == Receivers::EveryRegion
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.by_ref().kind()
    }

    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.by_ref().id()
    }

    /// The revision that last changed it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.by_ref().revision()
    }
}

impl ObjectId {
    /// Where its record is kept, on every disk: `KIND/ID`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{self}", self.kind())
    }

    /// The reverse of [`Self::key`]; `None` for a key that is not one, or of a kind that this program
    /// does not know.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, id) = key.split_once('/')?;
        Self::parse(Kind::named(kind)?, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_name_and_keys_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
            assert!(!kind.name().contains('/'), "{kind}");
        }
        assert_eq!(Kind::named("comet"), None);
        for kind in Kind::ALL {
            let object = example::example(*kind, Revision(1));
            assert_eq!(object.kind(), *kind);
            assert_eq!(ObjectId::from_key(&object.id().key()), Some(object.id()));
        }
        let digest = format!("bundle/{}", "ab".repeat(32));
        for key in ["app/A/b", "fn/F", "trigger/", "region/fra", &digest] {
            let id = ObjectId::from_key(key).map(|id| id.key());
            assert_eq!(id.as_deref(), Some(key));
        }
        for key in ["comet/A", "app", "region/Mars!", "bundle/xyz"] {
            assert_eq!(ObjectId::from_key(key), None, "{key}");
        }
    }
}
