//! What members know, and what is in use.

use api_types::{Format, FormatName, Kind, Knowledge, Member, MemberId};

use super::State;
use crate::outcome::{Change, Outcome, Reply};

impl State {
    pub(super) fn say_known(
        &mut self,
        id: MemberId,
        knows: &Knowledge,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let said = self.catalog.member(id);
        if said.is_some_and(|member| member.knows == *knows) {
            return Ok(Reply::Done(self.revision));
        }
        if said.is_none() {
            self.room_for(Kind::Member)?;
        }
        let revision = self.revision.next();
        let member = Member {
            id,
            knows: knows.clone(),
            revision,
        };
        self.put(member, changes);
        Ok(Reply::Done(revision))
    }

    pub(super) fn use_formats(
        &mut self,
        formats: &[FormatName],
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let next = self.revision.next();
        for name in formats {
            if self.catalog.format(name).is_some() {
                continue;
            }
            let format = Format {
                name: name.clone(),
                revision: next,
            };
            self.put(format, changes);
        }
        let changed = !changes.is_empty();
        Ok(Reply::Done(if changed { next } else { self.revision }))
    }
}
