//! Which settings of a function are later than others, for the dispatcher.
//!
//! Settings themselves say only whether two definitions run alike. A change that no instance can see
//! keeps their number, and so restarts nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api_types::{App, Fn, FnId};
use region_plane_replica::{order, settings};

/// One entry for each function that was asked about and may be called here.
#[derive(Debug, Default)]
pub struct Definitions(Mutex<HashMap<FnId, Definition>>);

#[derive(Debug)]
struct Definition {
    settings: u64,
    number: u64,
}

impl Definitions {
    /// The number of a function's settings, greater than that of any others it had before. To be
    /// called with what the replica holds, while it is read: what it held before must not come later.
    pub fn number(&self, app: &App, function: &Fn) -> u64 {
        let settings = settings(app, function);
        let mut definitions = self.definitions();
        match definitions.get_mut(&function.id) {
            Some(known) if known.settings == settings => known.number,
            Some(known) => {
                let number = order(app, function).max(known.number + 1);
                *known = Definition { settings, number };
                number
            }
            None => {
                let number = order(app, function);
                definitions.insert(function.id.clone(), Definition { settings, number });
                number
            }
        }
    }

    /// A function may no longer be called here.
    pub fn forget(&self, function: &FnId) {
        self.definitions().remove(function);
    }

    /// Nothing is awaited under it and no other is taken.
    fn definitions(&self) -> MutexGuard<'_, HashMap<FnId, Definition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api_types::{AppId, Revision, Timestamp};

    use super::*;

    fn objects() -> (App, Fn) {
        let app = App {
            id: AppId::new("A"),
            name: "shop".to_owned(),
            config: BTreeMap::new(),
            annotations: BTreeMap::new(),
            syslog_url: None,
            shape: String::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: Revision(1),
        };
        let function = Fn {
            id: FnId::new("F"),
            name: "cart".to_owned(),
            app_id: AppId::new("A"),
            image: "bundle/cart".to_owned(),
            memory: 128,
            timeout_secs: 30,
            idle_timeout_secs: 30,
            config: BTreeMap::new(),
            annotations: BTreeMap::new(),
            shape: String::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: Revision(2),
        };
        (app, function)
    }

    #[test]
    fn only_what_an_instance_can_see_gets_a_later_number() {
        type Change = fn(&mut App, &mut Fn);
        let cases: [(&str, Change, bool); 12] = [
            ("nothing", |_, _| {}, false),
            (
                "a config key",
                |_, f| drop(f.config.insert("K".into(), "v".into())),
                true,
            ),
            (
                "the app's config",
                |a, _| drop(a.config.insert("K".into(), "v".into())),
                true,
            ),
            ("code", |_, f| f.image.push('2'), true),
            ("memory", |_, f| f.memory = 256, true),
            (
                "how long it may be idle",
                |_, f| f.idle_timeout_secs = 1,
                true,
            ),
            (
                "its time-out, which calls bring",
                |_, f| f.timeout_secs = 1,
                false,
            ),
            (
                "how many there may be",
                |_, f| {
                    let (name, value) = ("tradewind.dev/scaling", r#"{"max":1}"#);
                    f.annotations.insert(name.into(), value.into());
                },
                true,
            ),
            (
                "a placement that keeps it here",
                |a, _| {
                    let (name, value) = ("tradewind.dev/placement", r#"{"regions":["fra"]}"#);
                    a.annotations.insert(name.into(), value.into());
                },
                false,
            ),
            (
                "its own placement",
                |_, f| {
                    let (name, value) = ("tradewind.dev/placement", r#"{"regions":["fra"]}"#);
                    f.annotations.insert(name.into(), value.into());
                },
                false,
            ),
            (
                "somebody's own annotation",
                |_, f| {
                    drop(
                        f.annotations
                            .insert("example.com/team".into(), "\"a\"".into()),
                    )
                },
                false,
            ),
            (
                "where its app logs to",
                |a, _| a.syslog_url = Some("tcp://x".into()),
                false,
            ),
        ];
        for (case, change, is_later) in cases {
            let definitions = Definitions::default();
            let (mut app, mut function) = objects();
            let before = definitions.number(&app, &function);
            change(&mut app, &mut function);
            (app.revision, function.revision) = (Revision(3), Revision(3));
            let after = definitions.number(&app, &function);
            assert_eq!(after > before, is_later, "{case}");
            assert_eq!(after != before, is_later, "{case}");
        }
    }
}
