//! Events: what people who look at an object should know.
//!
//! The same of the same object is said once in a while, and all together slowly: a trouble that
//! hits every function must not become one more.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::plan::Moment;

/// As long as an event is shown by default is much longer; a person looks within this.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// After the first [`EVENTS_BURST`], one is written each so often.
const EVENTS_EVERY: Duration = Duration::from_millis(200);

/// As many as one wrong change in a small region makes.
const EVENTS_BURST: u32 = 25;

/// Those that wait to be written; what does not fit is dropped, and counted.
pub const WAITING_MAX: usize = 256;

/// What is remembered so as not to be repeated. A function has a few; beyond this all is forgotten.
const SAID_MAX: usize = 50_000;

#[derive(Debug)]
pub struct Note {
    pub about: ObjectReference,
    pub reason: String,
    pub message: String,
}

pub struct Notes {
    /// Object, reason and message: one object may have several of one reason to tell, in turns.
    said: HashMap<(String, String, String), Moment>,
    sender: mpsc::Sender<Note>,
}

impl Notes {
    pub fn new(sender: mpsc::Sender<Note>) -> Self {
        Self {
            said: HashMap::new(),
            sender,
        }
    }

    /// Has a warning written, unless it was lately.
    pub fn warn(&mut self, about: ObjectReference, reason: &str, message: String, now: Moment) {
        let object = format!(
            "{}/{}",
            about.kind.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default()
        );
        let key = (object, reason.to_owned(), message.clone());
        let lately = |at: &Moment| now < *at + SAID_AGAIN_AFTER;
        if self.said.get(&key).is_some_and(lately) {
            return;
        }
        let note = Note {
            about,
            reason: reason.to_owned(),
            message,
        };
        if self.sender.try_send(note).is_err() {
            metrics::counter!("tradewind_operator_events_dropped_total").increment(1);
            return;
        }
        if self.said.len() >= SAID_MAX {
            self.said.clear();
        }
        self.said.insert(key, now);
    }
}

/// Writes them one after the other.
pub async fn publish(
    client: Client,
    identity: String,
    mut notes: mpsc::Receiver<Note>,
    shutdown: CancellationToken,
) {
    let reporter = Reporter {
        controller: "tradewind-operator".to_owned(),
        instance: Some(identity),
    };
    let recorder = Recorder::new(client, reporter);
    let mut troubled = false;
    // When the next would be due if they came evenly: as far behind now as the burst allows.
    let mut due = Instant::now();
    loop {
        let note = tokio::select! {
            () = shutdown.cancelled() => return,
            note = notes.recv() => note,
        };
        let now = Instant::now();
        due = due.max(now - EVENTS_EVERY * EVENTS_BURST) + EVENTS_EVERY;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep_until(due) => {}
        }
        let Some(note) = note else { return };
        let mut text = note.message;
        // The API refuses longer ones.
        text.truncate(text.floor_char_boundary(1_000));
        let event = Event {
            type_: EventType::Warning,
            reason: note.reason,
            note: Some(text),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = tokio::time::timeout(
            Duration::from_secs(10),
            recorder.publish(&event, &note.about),
        );
        let problem = match published.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(problem) = &problem
            && !troubled
        {
            warn!(error = problem, "cannot write events");
        }
        troubled = problem.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_turns_of_one_object_is_told_once_each_and_again_after_a_while() {
        let (sender, mut notes) = mpsc::channel(WAITING_MAX);
        let mut said = Notes::new(sender);
        let lease = ObjectReference {
            kind: Some("Lease".to_owned()),
            name: Some("tradewind-operator".to_owned()),
            ..ObjectReference::default()
        };
        let mut tell = |second| {
            for function in ["function A is skipped", "function B is skipped"] {
                let now = Duration::from_secs(second);
                said.warn(lease.clone(), "FunctionSkipped", function.to_owned(), now);
            }
            let mut told = 0;
            while notes.try_recv().is_ok() {
                told += 1;
            }
            told
        };
        for (second, told) in [(1, 2), (2, 0), (3, 0), (600, 0), (601, 2), (602, 0)] {
            assert_eq!(tell(second), told, "{second} s");
        }
    }
}
