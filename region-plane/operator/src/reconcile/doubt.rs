//! A mass deletion that waits for a person's confirmation, and its message.

use tracing::{error, info};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDeletion {
    pub count: usize,
    pub message: String,
}

/// Logs when a mass deletion begins and ends to be held back. Its count may change many times a second and
/// is not logged.
#[derive(Debug, Default)]
pub struct Doubt {
    now: Option<HeldDeletion>,
    /// The message of its beginning.
    told: Option<String>,
}

impl Doubt {
    /// Takes the deletion that is held back now. Returns its message, which stays the same while it lasts.
    pub fn look(&mut self, held: Option<HeldDeletion>) -> Option<String> {
        match (&self.told, &held) {
            (None, Some(held)) => {
                error!(message = held.message, "mass deletion held back");
                self.told = Some(held.message.clone());
            }
            (Some(_), None) => {
                info!("mass deletion no longer held back");
                self.told = None;
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.now = held;
        self.told.clone()
    }

    #[must_use]
    pub fn held(&self) -> Option<&HeldDeletion> {
        self.now.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: usize) -> Option<HeldDeletion> {
        let message = format!("{count} are held");
        Some(HeldDeletion { count, message })
    }

    #[test]
    fn a_doubt_is_told_as_it_began_and_known_as_it_is() {
        let mut doubt = Doubt::default();
        for (now, told) in [
            (None, None),
            (held(11), Some("11 are held")),
            (held(12), Some("11 are held")),
            (held(400), Some("11 are held")),
            (None, None),
            (held(400), Some("400 are held")),
        ] {
            assert_eq!(doubt.look(now.clone()).as_deref(), told, "{now:?}");
            assert_eq!(doubt.held(), now.as_ref());
        }
    }
}
