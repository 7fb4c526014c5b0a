//! Following the global nodes: every one is long-polled, one task decides what is served.
//!
//! All nodes are followed at once rather than one at a time: a node that hangs or is cut off from
//! its peers then delays nothing, and the fastest of the others is heard first. A node without
//! news holds the poll, so it costs one idle connection.

use std::sync::Arc;
use std::time::Duration;

use api_client::{Client, NewClientError};
use api_types::{Revision, chain};
use api_wire::view::Envelope;
use metrics::{counter, gauge};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::steering::Setting;
use crate::view::disk::ViewFile;
use crate::view::{Admission, Loaded, Position, ViewRefused, Views, admit};

/// As long as a node holds a poll.
const POLL_WAIT: Duration = Duration::from_secs(10);

/// Before asking again a node whose view was refused, or that failed: it answers at once and would
/// be asked in a loop. A fifth of the 5 s in which a lost region must leave the answers.
const PAUSE: Duration = Duration::from_secs(1);

/// Before asking again a cluster that has no regions yet.
const PAUSE_EMPTY: Duration = Duration::from_millis(250);

/// A view from a node, and where its decision goes.
struct Offer {
    node: String,
    envelope: Envelope,
    /// What was asked for: newer than this.
    after: Position,
    decided: oneshot::Sender<Decided>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    Served,
    /// As new as what is held, or overtaken by another node's while on its way.
    NoNews,
    /// No regions yet, and nothing is held.
    Empty,
    Refused,
}

/// Serves what is on disk, if it is sound. Whatever is wrong with it is reported and no reason not
/// to start: the global nodes have another.
pub fn load(file: &ViewFile, views: &Views, setting: &Setting) {
    let envelope = match file.read() {
        Ok(Some(envelope)) => envelope,
        Ok(None) => return,
        Err(error) => {
            error!(
                error = chain(&error),
                "steering view on disk cannot be read"
            );
            return;
        }
    };
    match admit(None, &envelope, setting) {
        Ok(Admission::Admitted(loaded)) => {
            info!(view = %Position::from(&loaded.id), "serving the view on disk");
            let age = file.age().unwrap_or_default();
            views.loaded_from_disk(age, Instant::now());
            serve(views, *loaded);
        }
        Ok(Admission::Unchanged) => {}
        Err(refusal) => refuse(views, "disk", &refusal),
    }
}

/// Follows until `shutdown`. `name` is this server's.
///
/// # Errors
/// If an entry of `globals` is not a URL.
pub async fn follow(
    name: &str,
    globals: &[String],
    file: ViewFile,
    views: Arc<Views>,
    setting: Arc<Setting>,
    shutdown: CancellationToken,
) -> Result<(), NewClientError> {
    // Each follower waits for its decision, so there are never more offers than followers.
    let (offers, inbox) = mpsc::channel(globals.len().max(1));
    let mut followers = JoinSet::new();
    for node in globals {
        let client = Client::new(std::slice::from_ref(node))?;
        followers.spawn(poll(
            name.to_owned(),
            node.clone(),
            client,
            offers.clone(),
            Arc::clone(&views),
            shutdown.clone(),
        ));
    }
    drop(offers);
    decide(inbox, file, &views, &setting).await;
    followers.join_all().await;
    Ok(())
}

async fn poll(
    name: String,
    node: String,
    client: Client,
    offers: mpsc::Sender<Offer>,
    views: Arc<Views>,
    shutdown: CancellationToken,
) {
    let asking = async {
        let mut last_problem = String::new();
        loop {
            let after = views.position();
            let asked = client.steering(&name, after.epoch, Revision(after.revision), POLL_WAIT);
            let pause = match asked.await {
                Ok(None) => {
                    views.confirm(Instant::now());
                    continue;
                }
                Ok(Some(envelope)) => {
                    let (decided, decision) = oneshot::channel();
                    let offer = Offer {
                        node: node.clone(),
                        envelope,
                        after,
                        decided,
                    };
                    if offers.send(offer).await.is_err() {
                        return;
                    }
                    match decision.await {
                        Ok(Decided::Served | Decided::NoNews) => continue,
                        Ok(Decided::Empty) => PAUSE_EMPTY,
                        Ok(Decided::Refused) => PAUSE,
                        Err(_) => return,
                    }
                }
                Err(error) => {
                    let problem = chain(&error);
                    // A node that is away for an hour is one line, not a thousand.
                    if problem != last_problem {
                        warn!(node, error = problem, "global node not followed");
                        last_problem = problem;
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = asking => {}
    }
}

/// Owns what is served and what is on disk: offers are decided one at a time, so an older view can
/// overtake a newer one nowhere.
async fn decide(
    mut inbox: mpsc::Receiver<Offer>,
    file: ViewFile,
    views: &Views,
    setting: &Setting,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let offer = tokio::select! {
            _ = ticks.tick() => {
                if let Some(staleness) = views.staleness(Instant::now()) {
                    gauge!("tradewind_dns_view_staleness_seconds").set(staleness.as_secs_f64());
                }
                continue;
            }
            offer = inbox.recv() => match offer {
                Some(offer) => offer,
                None => return,
            },
        };
        let decided = consider(&offer, views, setting);
        if matches!(decided, Decided::Served | Decided::NoNews) {
            views.confirm(Instant::now());
        }
        if decided == Decided::Served {
            // After the switch: clients wait for no disk.
            keep(&file, offer.envelope).await;
        }
        // The follower may be gone at a shutdown.
        let _follower_gone = offer.decided.send(decided);
    }
}

fn consider(offer: &Offer, views: &Views, setting: &Setting) -> Decided {
    let held = views.current();
    let offered = Position::from(&offer.envelope.id);
    match admit(held.as_deref(), &offer.envelope, setting) {
        Ok(Admission::Admitted(loaded)) => {
            debug!(node = offer.node, view = %offered, "new view");
            serve(views, *loaded);
            Decided::Served
        }
        Ok(Admission::Unchanged) => Decided::NoNews,
        Err(ViewRefused::Older { .. }) if offered > offer.after => Decided::NoNews,
        Err(ViewRefused::Emptied) if held.is_none() => Decided::Empty,
        Err(refusal) => {
            refuse(views, &offer.node, &refusal);
            Decided::Refused
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge of a revision is read to the unit below 2^53"
)]
fn serve(views: &Views, loaded: Loaded) {
    gauge!("tradewind_dns_view_revision").set(loaded.id.revision as f64);
    gauge!("tradewind_dns_view_regions").set(loaded.id.count as f64);
    views.serve(loaded);
}

fn refuse(views: &Views, node: &str, refusal: &ViewRefused) {
    counter!("tradewind_dns_views_refused_total", "reason" => refusal.label()).increment(1);
    let reason = chain(refusal);
    // A node offers the same view every second until it has another.
    if views.refuse(reason.clone()) {
        error!(node, reason, "view refused");
    }
}

async fn keep(file: &ViewFile, envelope: Envelope) {
    let file = file.clone();
    let written = tokio::task::spawn_blocking(move || file.write(&envelope)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            counter!("tradewind_dns_view_write_failures_total").increment(1);
            error!(error = chain(&error), "steering view not written to disk");
        }
        Err(error) => error!(%error, "steering view not written to disk"),
    }
}
