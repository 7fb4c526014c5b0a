//! What instances of a function are started with, as two numbers.

use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::{App, Config, Fn};
use sha2::{Digest as _, Sha256};

/// Before the annotations that may say how a function runs.
const OURS: &str = "tradewind.dev/";

/// Stands for everything an instance of the function is started with, and for how many there may be and
/// how long they are kept (Fn contract 9.5: the hot-slot key). Functions of equal settings can share
/// instances: gateways and operators, which have each their own copy of the metadata, agree on it.
///
/// It does not change with what no instance can see: users' own annotations, and placements, which
/// only say where a function may run.
#[must_use]
pub fn settings(app: &App, function: &Fn) -> u64 {
    let mut hash = Hash(Sha256::new());
    for text in [
        app.id.as_str(),
        &app.name,
        function.id.as_str(),
        &function.name,
        &function.image,
        &app.shape,
        &function.shape,
    ] {
        hash.text(text);
    }
    hash.number(function.memory);
    hash.number(function.idle_timeout_secs.into());
    hash.config(&app.config);
    hash.config(&function.config);
    for annotations in [&app.annotations, &function.annotations] {
        let ours = annotations
            .iter()
            .filter(|(name, _)| name.starts_with(OURS) && *name != PLACEMENT_ANNOTATION);
        for (name, value) in ours {
            hash.text(name);
            hash.text(value.as_str());
        }
        hash.number(u64::MAX);
    }
    let digest = hash.0.finalize();
    let head = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
    u64::from_be_bytes(*head)
}

/// Orders what the function has been: greater with each change of it or of its app.
///
/// Unique for revisions below 2^32, which is more than a century of one write a second.
#[must_use]
pub fn order(app: &App, function: &Fn) -> u64 {
    app.revision.0.rotate_left(32) ^ function.revision.0
}

struct Hash(Sha256);

impl Hash {
    /// With its length, so that no two lists of texts are one.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn config(&mut self, config: &Config) {
        self.number(config.len() as u64);
        for (name, value) in config {
            self.text(name);
            self.text(value);
        }
    }
}
