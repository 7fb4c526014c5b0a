//! Code on this region's disk: one folder a digest, complete or not there.
//!
//! A bundle is downloaded to a file, checked against its digest, unpacked beside its place and
//! renamed into it, so a folder with a digest's name can be believed after the process was killed.
//! After a power cut it cannot: nothing is synced, because that would make a deploy wait for
//! whatever else the machine writes, and the global plane still has the bundle.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_bundle::UnpackError;
use api_bundle::manifest::MANIFEST_NAME;
use api_client::Client;
use api_types::Digest;
use rand::Rng as _;
use region_plane_replica::Replica;
use region_plane_runtime::PACKED;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Downloads ahead of need. More would only share the same disk and link.
const PREFETCHES_MAX: usize = 2;

/// Downloads that calls wait for, beside those. A call that finds no place waits for one.
const DEMANDED_MAX: usize = 4;

/// How often what failed is tried again when nothing else changes.
const RETRY: Duration = Duration::from_secs(2);

/// How long code that no function here refers to is kept: a roll-back within that time is hot.
const UNREFERENCED_MAX: Duration = Duration::from_secs(600);

/// What a region does with code, and so what it keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Run as it lies: the whole bundle, unpacked.
    Unpacked,
    /// Sent on: the bundle as it came ([`PACKED`]) and its manifest, to choose a pod by.
    Packed,
}

impl Form {
    /// A folder each, so that a region whose driver was changed finds nothing of the wrong form.
    fn folder(self) -> &'static str {
        match self {
            Self::Unpacked => "bundles",
            Self::Packed => "packed-bundles",
        }
    }
}

/// In the bundles' folder: what a crash left half done.
const WORK: &str = "work";

#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Failed(Arc<str>),
    #[error("its bundle has not arrived yet")]
    TimedOut,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} {path}")]
    Disk {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
enum FetchFailure {
    #[error("download the bundle: {0}")]
    Download(#[from] api_client::Error),
    #[error("unpack the bundle: {0}")]
    Unpack(#[from] UnpackError),
    #[error("keep the bundle: {0}")]
    Disk(#[from] std::io::Error),
}

type Outcome = Option<Result<(), Arc<str>>>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Bundles {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    form: Form,
    client: Client,
    prefetches: Semaphore,
    demanded: Semaphore,
    state: Mutex<State>,
    fetches: TaskTracker,
}

#[derive(Default)]
struct State {
    here: BTreeSet<Digest>,
    /// Downloads under way or waiting for their turn; as many as functions are placed here, at most.
    fetching: BTreeMap<Digest, Fetching>,
    /// How the last try of each that is wanted and missing failed.
    problems: BTreeMap<Digest, String>,
}

struct Fetching {
    outcome: watch::Receiver<Outcome>,
    /// A call waits for it now.
    hurry: Arc<Notify>,
}

#[derive(Clone, Copy)]
enum Why {
    Prefetch,
    Demand,
}

impl Bundles {
    /// Takes stock of the folder, and clears what a crash left half done. Blocking.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(data_dir: &Path, form: Form, client: Client) -> Result<Self, StoreError> {
        let folder = data_dir.join(form.folder());
        let work = folder.join(WORK);
        let disk = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Disk { what, path, source }
        };
        if work.exists() {
            fs::remove_dir_all(&work).map_err(disk("clear", &work))?;
        }
        fs::create_dir_all(&work).map_err(disk("make", &work))?;
        let entries = fs::read_dir(&folder).map_err(disk("read", &folder))?;
        let mut here = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(disk("read", &folder))?.file_name();
            here.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                form,
                client,
                prefetches: Semaphore::new(PREFETCHES_MAX),
                demanded: Semaphore::new(DEMANDED_MAX),
                state: Mutex::new(State {
                    here,
                    fetching: BTreeMap::new(),
                    problems: BTreeMap::new(),
                }),
                fetches: TaskTracker::new(),
            }),
        })
    }

    /// A bundle's folder, if it is here.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<PathBuf> {
        self.shared
            .state()
            .here
            .contains(digest)
            .then(|| self.shared.place(digest))
    }

    /// A bundle's folder, fetching it if need be. Calls that need the same bundle share
    /// one download, which goes on if they leave.
    ///
    /// # Errors
    /// If it cannot be had, or not by `deadline`.
    pub async fn demand(&self, digest: &Digest, deadline: Instant) -> Result<PathBuf, FetchError> {
        if let Some(place) = self.get(digest) {
            return Ok(place);
        }
        let mut outcome = self.fetch(*digest, Why::Demand);
        let ended = tokio::time::timeout_at(deadline, outcome.wait_for(Option::is_some));
        match ended
            .await
            .map(|ended| ended.map(|outcome| outcome.clone()))
        {
            Err(_) => Err(FetchError::TimedOut),
            Ok(Ok(Some(Ok(())))) => Ok(self.shared.place(digest)),
            Ok(Ok(Some(Err(problem)))) => Err(FetchError::Failed(problem)),
            Ok(Ok(None) | Err(_)) => Err(FetchError::Failed("the region is stopping".into())),
        }
    }

    /// Digests placed here that are not on disk.
    #[must_use]
    pub fn missing(&self, replica: &Replica) -> Vec<Digest> {
        let wanted = wanted(replica);
        let state = self.shared.state();
        wanted.difference(&state.here).copied().collect()
    }

    /// Keeps what is on disk in step with what is placed here, until `shutdown`.
    pub async fn reconcile(self, replica: Replica, shutdown: CancellationToken) {
        let mut changed = replica.subscribe();
        let mut unreferenced = BTreeMap::new();
        loop {
            for digest in self.missing(&replica) {
                drop(self.fetch(digest, Why::Prefetch));
            }
            self.collect(&wanted(&replica), &mut unreferenced).await;
            let functions = changed.borrow().functions;
            let pause = rand::rng().random_range(RETRY / 2..RETRY);
            tokio::select! {
                () = shutdown.cancelled() => break,
                ended = changed.wait_for(|now| now.functions != functions) => {
                    if ended.is_err() { break }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.shared.fetches.close();
    }

    /// Starts a download unless one is under way; returns how it will end.
    fn fetch(&self, digest: Digest, why: Why) -> watch::Receiver<Outcome> {
        let mut state = self.shared.state();
        let fetching = state.fetching.entry(digest);
        let (ended, hurry, outcome) = match fetching {
            Entry::Occupied(under_way) => {
                if matches!(why, Why::Demand) {
                    under_way.get().hurry.notify_one();
                }
                return under_way.get().outcome.clone();
            }
            Entry::Vacant(place) => {
                let (ended, outcome) = watch::channel(None);
                let hurry = Arc::new(Notify::new());
                if matches!(why, Why::Demand) {
                    hurry.notify_one();
                }
                place.insert(Fetching {
                    outcome: outcome.clone(),
                    hurry: Arc::clone(&hurry),
                });
                (ended, hurry, outcome)
            }
        };
        drop(state);
        let shared = Arc::clone(&self.shared);
        self.shared.fetches.spawn(async move {
            let fetched = shared.fetch(&digest, &hurry).await;
            let mut state = shared.state();
            state.fetching.remove(&digest);
            let result = match fetched {
                Ok(()) => {
                    state.here.insert(digest);
                    state.problems.remove(&digest);
                    Ok(())
                }
                Err(error) => {
                    metrics::counter!("tradewind_region_bundle_failures_total").increment(1);
                    let problem = error.to_string();
                    // Tried again every few seconds; said again when it says something else.
                    if state.problems.insert(digest, problem.clone()).as_ref() != Some(&problem) {
                        warn!(%digest, error = problem, "bundle not fetched");
                    }
                    Err(Arc::from(problem))
                }
            };
            drop(state);
            ended.send_replace(Some(result));
        });
        outcome
    }

    /// Removes what nothing here has referred to for a while.
    async fn collect(
        &self,
        wanted: &BTreeSet<Digest>,
        unreferenced: &mut BTreeMap<Digest, Instant>,
    ) {
        let now = Instant::now();
        let over: Vec<Digest> = {
            let mut state = self.shared.state();
            unreferenced
                .retain(|digest, _| state.here.contains(digest) && !wanted.contains(digest));
            for digest in state.here.difference(wanted) {
                unreferenced.entry(*digest).or_insert(now);
            }
            let over = unreferenced
                .iter()
                .filter(|(_, since)| now.duration_since(**since) > UNREFERENCED_MAX)
                .map(|(digest, _)| *digest)
                .collect::<Vec<_>>();
            for digest in &over {
                state.here.remove(digest);
            }
            over
        };
        for digest in over {
            let shared = Arc::clone(&self.shared);
            let removed = tokio::task::spawn_blocking(move || {
                let doomed = shared.work(&digest);
                fs::rename(shared.place(&digest), &doomed)?;
                fs::remove_dir_all(&doomed)
            })
            .await
            .expect("removing does not panic");
            match removed {
                Ok(()) => info!(%digest, "removed a bundle that nothing refers to"),
                Err(error) => warn!(%digest, %error, "bundle not removed"),
            }
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// A name of its own below the work folder.
    fn work(&self, digest: &Digest) -> PathBuf {
        let unique: u64 = rand::random();
        self.folder
            .join(WORK)
            .join(format!("{digest}-{unique:016x}"))
    }

    async fn fetch(&self, digest: &Digest, hurry: &Notify) -> Result<(), FetchFailure> {
        // What only runs ahead stands in line; what a call waits for must not stand with it.
        let place = tokio::select! {
            biased;
            () = hurry.notified() => self.demanded.acquire().await,
            place = self.prefetches.acquire() => place,
        };
        let _place = place.expect("it is never closed");
        let packed = self.work(digest).with_extension("packed");
        let result = self.download(digest, &packed).await;
        let result = match result {
            Ok(()) => {
                let (digest, packed) = (*digest, packed.clone());
                let (unpacked, place) = (self.work(&digest), self.place(&digest));
                let form = self.form;
                tokio::task::spawn_blocking(move || keep(form, &packed, &digest, &unpacked, &place))
                    .await
                    .expect("unpacking does not panic")
            }
            Err(error) => Err(error),
        };
        // It may not have been made.
        let _absent = tokio::fs::remove_file(&packed).await;
        if result.is_ok() {
            info!(%digest, "bundle is here");
        }
        result
    }

    async fn download(&self, digest: &Digest, packed: &Path) -> Result<(), FetchFailure> {
        let mut download = self.client.get_bundle(digest).await?;
        let mut file = fs::File::create(packed)?;
        while let Some(chunk) = download.chunk().await? {
            file = tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file))
                .await
                .expect("writing does not panic")?;
        }
        Ok(())
    }
}

/// Checks a bundle that was downloaded and puts it in its place, in the form asked for. Even one
/// that is sent on is unpacked once here: what a pod would refuse must not be called held.
fn keep(
    form: Form,
    packed: &Path,
    digest: &Digest,
    unpacked: &Path,
    place: &Path,
) -> Result<(), FetchFailure> {
    let kept = unpack(packed, digest, unpacked)
        .and_then(|()| match form {
            Form::Unpacked => Ok(()),
            Form::Packed => Ok(reduce(packed, unpacked)?),
        })
        .and_then(|()| match fs::rename(unpacked, place) {
            // Another download of it was faster.
            Err(_) if place.is_dir() => Ok(fs::remove_dir_all(unpacked)?),
            renamed => Ok(renamed?),
        });
    if kept.is_err() {
        let _absent = fs::remove_dir_all(unpacked);
    }
    kept
}

fn unpack(packed: &Path, digest: &Digest, unpacked: &Path) -> Result<(), FetchFailure> {
    api_bundle::unpack(fs::File::open(packed)?, digest, unpacked)?;
    Ok(())
}

/// Leaves of an unpacked bundle its manifest, and puts the packed one beside it.
fn reduce(packed: &Path, unpacked: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(unpacked)? {
        let entry = entry?;
        if entry.file_name() == MANIFEST_NAME {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::rename(packed, unpacked.join(PACKED))
}

/// Digests of all functions placed here.
fn wanted(replica: &Replica) -> BTreeSet<Digest> {
    replica.read(|held| {
        held.here()
            .fns()
            .filter_map(|function| Some(function.bundle()?.digest))
            .collect()
    })
}
