//! A mass deletion that waits for a person, and what the person is told of it.

use tracing::{error, info};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDeletion {
    pub count: usize,
    pub message: String,
}

/// Said once, when it begins: its count may change many times a second, and is no news.
#[derive(Debug, Default)]
pub struct Doubt {
    now: Option<HeldDeletion>,
    /// As it was when it began.
    told: Option<String>,
}

impl Doubt {
    /// Takes what is held now. Returns what people are told, the same for as long as it lasts.
    pub fn look(&mut self, held: Option<HeldDeletion>) -> Option<String> {
        match (&self.told, &held) {
            (None, Some(held)) => {
                error!(message = held.message, "a mass deletion is held");
                self.told = Some(held.message.clone());
            }
            (Some(_), None) => {
                info!("a mass deletion is not held any more");
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
