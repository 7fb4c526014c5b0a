//! Which revision last changed what DNS is told.
//!
//! Every node must name the same revision for the same content, also one that restarted or took a
//! snapshot, so the rule looks only at the changes themselves and the revision is kept on disk.

use std::collections::BTreeMap;

use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::{Annotations, Catalog, Revision};

#[derive(Debug, Default)]
pub struct Placed {
    revision: Revision,
    /// Apps and fns with a placement, by id, and its text. Ids of both kinds come from one
    /// generator, so they share a map.
    placements: BTreeMap<String, String>,
}

impl Placed {
    /// Of a state read back, whose steering content last changed at `revision`.
    #[must_use]
    pub fn of(catalog: &Catalog, revision: Revision) -> Self {
        let apps = catalog
            .apps()
            .map(|app| (app.id.as_str(), &app.annotations));
        let fns = catalog
            .fns()
            .map(|function| (function.id.as_str(), &function.annotations));
        let placements = apps
            .chain(fns)
            .filter_map(|(id, annotations)| {
                Some((
                    id.to_owned(),
                    annotations.get(PLACEMENT_ANNOTATION)?.clone(),
                ))
            })
            .collect();
        Self {
            revision,
            placements,
        }
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A region's row was written or deleted.
    pub fn region_changed(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// An app or a fn was written.
    pub fn put(&mut self, id: &str, annotations: &Annotations, revision: Revision) {
        let placement = annotations.get(PLACEMENT_ANNOTATION);
        if self.placements.get(id) == placement {
            return;
        }
        self.revision = revision;
        match placement {
            Some(text) => self.placements.insert(id.to_owned(), text.clone()),
            None => self.placements.remove(id),
        };
    }

    /// An app or a fn was deleted.
    pub fn deleted(&mut self, id: &str, revision: Revision) {
        if self.placements.remove(id).is_some() {
            self.revision = revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placements_and_regions_move_the_steering_revision() {
        let plain = Annotations::new();
        let placed = Annotations::from([(
            PLACEMENT_ANNOTATION.to_owned(),
            r#"{"regions":["fra"]}"#.to_owned(),
        )]);
        let mut tracked = Placed::default();
        let mut at = 0;
        let mut moves = |case: &str, change: &dyn Fn(&mut Placed, Revision), want: bool| {
            at += 1;
            change(&mut tracked, Revision(at));
            assert_eq!(tracked.revision() == Revision(at), want, "{case}");
        };
        moves("plain app", &|t, r| t.put("A", &plain, r), false);
        moves("region", &|t, r| t.region_changed(r), true);
        moves("placed", &|t, r| t.put("A", &placed, r), true);
        moves("same placement", &|t, r| t.put("A", &placed, r), false);
        moves("other deleted", &|t, r| t.deleted("B", r), false);
        moves("unplaced", &|t, r| t.put("A", &plain, r), true);
        moves("placed fn", &|t, r| t.put("F", &placed, r), true);
        moves("deleted", &|t, r| t.deleted("F", r), true);
    }
}
