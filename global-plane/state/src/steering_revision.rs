//! Which revision last changed what DNS servers are sent.
//!
//! Every node must name the same revision for the same content, also one that has restarted or has taken
//! a snapshot. So the rule looks only at the changes of the state, and a node keeps the revision on disk.

use std::collections::BTreeMap;

use api_types::{ObjectId, ObjectRef, Revision};

use crate::outcome::Change;

/// The revision of the steering view, and what it is worked out from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringRevision {
    at: Revision,
    /// [`ObjectRef::dns_part`] of every object that has one.
    parts: BTreeMap<ObjectId, String>,
}

impl SteeringRevision {
    /// Of a state that was read back: `at` is what [`at`](Self::at) was when it was kept.
    #[must_use]
    pub fn of<'a>(objects: impl Iterator<Item = ObjectRef<'a>>, at: Revision) -> Self {
        let parts = objects
            .filter_map(|object| Some((object.id(), object.dns_part()?.into_owned())))
            .collect();
        Self { at, parts }
    }

    /// The revision that last changed what DNS servers are sent.
    #[must_use]
    pub fn at(&self) -> Revision {
        self.at
    }

    /// Follows the changes that one command made; `revision` is the state's after them.
    pub fn follow(&mut self, changes: &[Change], revision: Revision) {
        for change in changes {
            let (id, part) = match change {
                Change::Put(object) => {
                    let object = object.by_ref();
                    (object.id(), object.dns_part())
                }
                Change::Deleted { object, .. } => (object.clone(), None),
                Change::Session(_) | Change::SessionGone { .. } | Change::Counters { .. } => {
                    continue;
                }
            };
            if self.parts.get(&id).map(String::as_str) == part.as_deref() {
                continue;
            }
            self.at = revision;
            match part {
                Some(part) => self.parts.insert(id, part.into_owned()),
                None => self.parts.remove(&id),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::fns::PLACEMENT_ANNOTATION;
    use api_types::object::example::example;
    use api_types::{Kind, Object};
    use proptest::prelude::*;

    use super::*;

    /// An object of a kind, placed in a region or, if that is empty, nowhere.
    fn object(kind: Kind, placement: &str, revision: u64) -> Object {
        let mut object = example(kind, Revision(revision));
        let annotations = match &mut object {
            Object::App(app) => &mut app.annotations,
            Object::Fn(function) => &mut function.annotations,
            _ => return object,
        };
        match placement {
            "" => annotations.remove(PLACEMENT_ANNOTATION),
            region => annotations.insert(
                PLACEMENT_ANNOTATION.to_owned(),
                format!(r#"{{"regions":["{region}"]}}"#),
            ),
        };
        object
    }

    fn put(kind: Kind, placement: &str, revision: u64) -> Change {
        Change::Put(object(kind, placement, revision))
    }

    fn deleted(kind: Kind, revision: u64) -> Change {
        Change::Deleted {
            revision: Revision(revision),
            object: example(kind, Revision(1)).id(),
        }
    }

    #[test]
    fn only_placements_and_regions_move_the_steering_revision() {
        let mut steering = SteeringRevision::default();
        for (at, (case, change, moves)) in (1..).zip([
            ("plain app", put(Kind::App, "", 1), false),
            ("region", put(Kind::Region, "", 2), true),
            ("region again", put(Kind::Region, "", 3), true),
            ("placed app", put(Kind::App, "fra", 4), true),
            ("same placement", put(Kind::App, "fra", 5), false),
            ("other placement", put(Kind::App, "lhr", 6), true),
            ("no placement", put(Kind::App, "", 7), true),
            ("placed function", put(Kind::Fn, "fra", 8), true),
            ("trigger", put(Kind::Trigger, "", 9), false),
            ("bundle", put(Kind::Bundle, "", 10), false),
            ("plain app deleted", deleted(Kind::App, 11), false),
            ("placed function deleted", deleted(Kind::Fn, 12), true),
            ("deleted again", deleted(Kind::Fn, 13), false),
            ("region deleted", deleted(Kind::Region, 14), true),
        ]) {
            steering.follow(&[change], Revision(at));
            assert_eq!(steering.at() == Revision(at), moves, "{case}");
        }
    }

    /// A state's objects, changed as the state would.
    #[derive(Default)]
    struct Objects(BTreeMap<ObjectId, Object>);

    impl Objects {
        fn take(&mut self, change: &Change) {
            match change {
                Change::Put(object) => drop(self.0.insert(object.id(), object.clone())),
                Change::Deleted { object, .. } => drop(self.0.remove(object)),
                Change::Session(_) | Change::SessionGone { .. } | Change::Counters { .. } => {}
            }
        }

        fn parts(&self) -> BTreeMap<ObjectId, String> {
            SteeringRevision::of(self.0.values().map(Object::by_ref), Revision(0)).parts
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(usize, Option<&'static str>, bool)>> {
        let placement = prop::option::of(prop::sample::select(vec!["", "fra", "lhr"]));
        prop::collection::vec((0..Kind::ALL.len(), placement, any::<bool>()), 1..40)
    }

    proptest! {
        /// A node that restarts names the revision that one that never did names, and the revision moves
        /// exactly when what DNS servers are sent changes.
        #[test]
        fn every_node_names_the_same_revision_and_moves_it_with_the_content(steps in steps()) {
            let (mut steady, mut restarted) = (SteeringRevision::default(), SteeringRevision::default());
            let mut objects = Objects::default();
            for (revision, (kind, placement, restarts)) in (1..).zip(steps) {
                let kind = Kind::ALL[kind];
                let change = match placement {
                    Some(placement) => put(kind, placement, revision),
                    None => deleted(kind, revision),
                };
                let before = objects.parts();
                objects.take(&change);
                steady.follow(std::slice::from_ref(&change), Revision(revision));
                restarted.follow(&[change], Revision(revision));
                let moved = steady.at() == Revision(revision);
                prop_assert_eq!(moved, objects.parts() != before);
                if restarts {
                    let read_back = objects.0.values().map(Object::by_ref);
                    restarted = SteeringRevision::of(read_back, restarted.at());
                }
                prop_assert_eq!(&restarted, &steady);
            }
        }
    }
}
