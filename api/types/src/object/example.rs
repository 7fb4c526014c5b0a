//! One object of every kind, for tests that walk the kinds.

use crate::fns::PLACEMENT_ANNOTATION;
use crate::{
    Annotations, App, AppId, Bundle, Digest, Fn, FnId, Format, Kind, Knowledge, Location, Member,
    MemberId, Object, Region, Revision, Timestamp, Trigger, TriggerId, Verdict,
};

/// An object that has a value in every field its kind has, at `revision`. Those of different kinds
/// refer to each other: together they are a catalog that a global plane could have.
///
/// # Panics
/// Never: what it parses are constants.
#[must_use]
pub fn example(kind: Kind, revision: Revision) -> Object {
    let text = str::to_owned;
    let config = || [(text("KEY"), text("é \"value\"\n"))].into();
    let annotations = || {
        Annotations::from([
            (text("own"), text(r#"{"b":1.50,"a":[2,"x y"]}"#)),
            (text(PLACEMENT_ANNOTATION), text(r#"{"regions":["fra"]}"#)),
        ])
    };
    let (created_at, updated_at) = (Timestamp(1_700_000_000_123), Timestamp(1_700_000_001_456));
    match kind {
        Kind::App => Object::App(App {
            id: AppId::new("A"),
            name: text("shop"),
            config: config(),
            annotations: annotations(),
            syslog_url: Some(text("tcp://logs:514")),
            shape: text("GENERIC_X86"),
            created_at,
            updated_at,
            revision,
        }),
        Kind::Fn => Object::Fn(Fn {
            id: FnId::new("F"),
            name: text("hello"),
            app_id: AppId::new("A"),
            image: format!("bundle/hello:1@sha256:{}", Digest([7; 32])),
            memory: 256,
            timeout_secs: 30,
            idle_timeout_secs: 60,
            config: config(),
            annotations: annotations(),
            shape: text("GENERIC_X86"),
            created_at,
            updated_at,
            revision,
        }),
        Kind::Trigger => Object::Trigger(Trigger {
            id: TriggerId::new("T"),
            name: text("web"),
            app_id: AppId::new("A"),
            fn_id: FnId::new("F"),
            kind: text("http"),
            source: text("/hello/"),
            annotations: annotations(),
            created_at,
            updated_at,
            revision,
        }),
        Kind::Region => Object::Region(Region {
            name: "fra".parse().expect("it is a label"),
            ipv4: Some([192, 0, 2, 1].into()),
            ipv6: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
            gateway: text("192.0.2.1:8080"),
            admin: text("192.0.2.1:8081"),
            location: Location {
                latitude: 50.110_924,
                longitude: 8.682_127,
            },
            labels: [(text("geo"), text("eu"))].into(),
            drained: true,
            verdict: Verdict::Draining,
            price_ms: 12,
            registered_at: created_at,
            revision,
        }),
        Kind::Bundle => Object::Bundle(Bundle {
            digest: Digest([7; 32]),
            size: 4096,
            revision,
        }),
        Kind::Member => Object::Member(Member {
            id: MemberId(3),
            knows: Knowledge::said(["object/comet", "rule/moon.2"]),
            revision,
        }),
        // Of those that every version knows: a node refuses to start on one that it does not.
        Kind::Format => Object::Format(Format {
            name: "object/app".parse().expect("it is a format"),
            revision,
        }),
        #[cfg(feature = "next-format")]
        Kind::Note => Object::Note(crate::Note {
            id: crate::NoteId(text("N")),
            text: text("é \"text\"\n"),
            revision,
        }),
    }
}
