//! Which revision last changed what DNS is told.
//!
//! Every node must name the same revision for the same content, also one that restarted or took a
//! snapshot, so the rule looks only at the changes themselves and the revision is kept on disk.

use std::collections::BTreeMap;

use api_types::{ObjectId, ObjectRef, Revision};

#[derive(Debug, Default)]
pub struct Placed {
    revision: Revision,
    /// What DNS servers were told of each object they are told of; see [`ObjectRef::dns_part`].
    told: BTreeMap<ObjectId, String>,
}

impl Placed {
    /// Of a state read back, whose steering content last changed at `revision`.
    #[must_use]
    pub fn of<'a>(objects: impl Iterator<Item = ObjectRef<'a>>, revision: Revision) -> Self {
        let told = objects
            .filter_map(|object| Some((object.id(), object.dns_part()?.into_owned())))
            .collect();
        Self { revision, told }
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// An object was written.
    pub fn put(&mut self, object: ObjectRef<'_>, revision: Revision) {
        let (id, part) = (object.id(), object.dns_part());
        if self.told.get(&id).map(String::as_str) == part.as_deref() {
            return;
        }
        self.revision = revision;
        match part {
            Some(part) => self.told.insert(id, part.into_owned()),
            None => self.told.remove(&id),
        };
    }

    /// An object was deleted.
    pub fn deleted(&mut self, id: &ObjectId, revision: Revision) {
        if self.told.remove(id).is_some() {
            self.revision = revision;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_types::Object;
    use api_wire::ObjectBody;

    use super::*;

    /// An object of `form` with what every form has, its placement and its revision.
    fn object(form: &str, placement: &str, revision: u64) -> Object {
        let time = "2026-01-02T15:04:05.678Z";
        let annotations = match placement {
            "" => String::new(),
            regions => format!(
                r#""annotations":{{"tradewind.dev/placement":{{"regions":["{regions}"]}}}},"#
            ),
        };
        let own = match form {
            "fn" => r#""app_id":"A","image":"i:1","memory":128,"timeout":30,"idle_timeout":30"#,
            "trigger" => r#""app_id":"A","fn_id":"X","type":"http","source":"/""#,
            "region" => {
                r#""gateway":"","admin":"","latitude":0,"longitude":0,"drained":false,"verdict":"down","price_ms":0"#
            }
            _ => r#""shape":"""#,
        };
        let text = format!(
            r#"{{"type":"{form}","object":{{"id":"X","name":"x",{annotations}{own},"created_at":"{time}",
                "updated_at":"{time}","registered_at":"{time}","tradewind_revision":{revision}}}}}"#
        );
        ObjectBody::from_record(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_placements_and_regions_move_the_steering_revision() {
        let mut tracked = Placed::default();
        for (at, (case, form, placement, want)) in (1..).zip([
            ("plain app", "app", "", false),
            ("region", "region", "", true),
            ("region again", "region", "", true),
            ("placed", "app", "fra", true),
            ("same placement", "app", "fra", false),
            ("unplaced", "app", "", true),
            ("placed fn of the same id", "fn", "fra", true),
            ("trigger", "trigger", "", false),
        ]) {
            let object = object(form, placement, at);
            tracked.put(object.by_ref(), Revision(at));
            assert_eq!(tracked.revision() == Revision(at), want, "{case}");
        }
        for (at, (case, form, want)) in (20..).zip([
            ("plain app", "app", false),
            ("placed fn", "fn", true),
            ("gone already", "fn", false),
            ("region", "region", true),
        ]) {
            tracked.deleted(&object(form, "", 1).id(), Revision(at));
            assert_eq!(tracked.revision() == Revision(at), want, "{case} deleted");
        }
    }
}
