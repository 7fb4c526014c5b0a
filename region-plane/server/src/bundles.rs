//! Code on this region's disk: one folder a digest, complete or not there.
//!
//! A bundle is downloaded to a file, checked against its digest, unpacked beside its place and
//! renamed into it, so a folder with a digest's name is whole after the process was killed. After a power
//! cut it may not be: nothing is synced, because that would make a deploy wait for whatever else the machine
//! writes. And functions run as the region's own user, so that one can change another's code.
//!
//! So code is compared with its digest before the first instance of it starts ([`Bundles::vouch`]), and what
//! lstat(2) says of its files is kept in memory, where no function reaches. Before each further start that
//! alone is compared: nobody can change a file and leave its ctime as it was. Not seen is a change in the
//! moment between unpacking and the note, or between the look and the start, and what is done to an
//! instance that runs. Packed bundles ([`Form::Packed`]) are compared by the pod that gets them. Of those the
//! machine's boot is noted, and what is found after another one is made anew from the bundle as it came.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_bundle::UnpackError;
use api_bundle::manifest::MANIFEST_NAME;
use api_client::Client;
use api_types::Digest;
use rand::Rng as _;
use region_plane_replica::{News, Reference, Replica};
use region_plane_runtime::PACKED;
use region_plane_runtime::trash::{self, Trash};
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

/// How often one bundle is compared with its digest at most: a function that never comes up must not have
/// the region read its code all the time.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// How long code is kept that no function refers to any more that may be called here: a roll-back
/// within that time is hot.
const UNREFERENCED_MAX: Duration = Duration::from_secs(600);

/// What a region does with code, and so what it keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Run as it lies: the whole bundle unpacked, and as it came ([`PACKED`]).
    Unpacked,
    /// Sent on: the bundle as it came, and its manifest, to choose a pod by.
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

/// In it: what is no longer needed, until it is removed. Functions run in these folders, so they may
/// have left anything there.
const TRASH: &str = "trash";

/// In it: the boot of the machine in which all with a digest's name was put there, ...
const BOOT: &str = "boot";

/// ... and what was there before it. Removed once nothing is missing.
const UNSURE: &str = "unsure";

/// Differs after each boot (proc(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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

type FetchResult = Option<Result<(), Arc<str>>>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Bundles {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    form: Form,
    trash: Trash,
    client: Client,
    prefetches: Semaphore,
    demanded: Semaphore,
    state: Mutex<State>,
    fetches: TaskTracker,
    stopping: CancellationToken,
    /// When each was last compared with its digest, and found to be damaged or not. One at a time: it
    /// reads all of a bundle.
    checked: tokio::sync::Mutex<BTreeMap<Digest, (Instant, bool)>>,
    /// How each that is here was when it was last compared or unpacked.
    stamps: Mutex<BTreeMap<Digest, Stamp>>,
    /// So that nobody can make files of which a stamp is the same.
    key: RandomState,
}

/// What lstat(2) says of all files and folders of an unpacked bundle, [`PACKED`] aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    entries: u64,
    /// The sum of all entries' hashes, which does not depend on their order.
    hash: u64,
}

impl Stamp {
    /// Without recursion, since functions may have made any tree there; `None` if it has more than
    /// `entries_max` or cannot be read. Blocking.
    fn of(place: &Path, entries_max: u64, key: &RandomState) -> Option<Self> {
        let mut stamp = Self {
            entries: 0,
            hash: 0,
        };
        let mut left = vec![place.to_owned()];
        while let Some(path) = left.pop() {
            let found = fs::symlink_metadata(&path).ok()?;
            if found.is_dir() {
                for entry in fs::read_dir(&path).ok()? {
                    let entry = entry.ok()?.path();
                    if entry.parent() == Some(place) && entry.ends_with(PACKED) {
                        continue;
                    }
                    left.push(entry);
                    if left.len() as u64 + stamp.entries + 1 > entries_max {
                        return None;
                    }
                }
            }
            let changed = (found.ctime(), found.ctime_nsec());
            let modified = (found.mtime(), found.mtime_nsec());
            let is = (found.ino(), found.mode(), found.size());
            let of_it = key.hash_one((path.strip_prefix(place).ok()?, is, modified, changed));
            stamp.hash = stamp.hash.wrapping_add(of_it);
            stamp.entries += 1;
        }
        Some(stamp)
    }
}

/// What became of a bundle that was held to be damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// It is what its digest says, or was a moment ago.
    Sound,
    /// It was not, and is now.
    Anew,
    /// It is not, and no other is to be had. It is missing now.
    Lost(String),
}

/// Invariant: `missing` and `unreferenced` are what [`State::look_at`] makes of `here` and
/// `references`, so that a change costs what it changes and not a look at every bundle.
#[derive(Default)]
struct State {
    /// In their places: a folder comes to its place, or leaves it, under the lock of this.
    here: BTreeSet<Digest>,
    /// How functions that may be called here refer to bundles, up to `position` of the replica.
    references: BTreeMap<Digest, Reference>,
    position: u64,
    /// Placed here and not on disk.
    missing: BTreeSet<Digest>,
    /// Those of them that no download was begun for yet.
    unasked: BTreeSet<Digest>,
    unreferenced: Unreferenced,
    /// Downloads under way or waiting for their turn; as many as functions are placed here, at most.
    fetching: BTreeMap<Digest, Fetching>,
    /// How the last try of each that is wanted and missing failed.
    problems: BTreeMap<Digest, String>,
}

/// What is on disk and no function refers to that may be called here, and since when.
#[derive(Default)]
struct Unreferenced {
    since: BTreeMap<Digest, Instant>,
    /// The same, oldest first.
    by_age: BTreeSet<(Instant, Digest)>,
}

impl Unreferenced {
    fn note(&mut self, digest: Digest, now: Instant) {
        if let Entry::Vacant(place) = self.since.entry(digest) {
            place.insert(now);
            self.by_age.insert((now, digest));
        }
    }

    fn forget(&mut self, digest: &Digest) {
        if let Some(since) = self.since.remove(digest) {
            self.by_age.remove(&(since, *digest));
        }
    }

    /// The oldest, if it is older than [`UNREFERENCED_MAX`].
    fn over(&self, now: Instant) -> Option<Digest> {
        let (since, digest) = self.by_age.first()?;
        (now.duration_since(*since) > UNREFERENCED_MAX).then_some(*digest)
    }
}

impl State {
    /// Takes what the replica says has changed.
    fn catch_up(&mut self, replica: &Replica, now: Instant) {
        let changed: Vec<(Digest, Option<Reference>)> = replica.read(|held| {
            let (news, position) = held.bundles_since(self.position);
            self.position = position;
            let looked_at = match news {
                News::These(changed) => changed,
                News::All => {
                    let now = held.references().map(|(digest, _)| *digest);
                    now.chain(self.references.keys().copied())
                        .chain(self.here.iter().copied())
                        .collect()
                }
            };
            let looked_at = looked_at.into_iter();
            looked_at
                .map(|digest| (digest, held.reference(&digest)))
                .collect()
        });
        for (digest, reference) in changed {
            self.refer(digest, reference, now);
        }
    }

    /// What to fetch: all that is missing, or what is since the last time.
    fn take_unasked(&mut self, all: bool) -> Vec<Digest> {
        let unasked = std::mem::take(&mut self.unasked);
        let missing = if all { &self.missing } else { &unasked };
        missing.iter().copied().collect()
    }

    fn refer(&mut self, digest: Digest, reference: Option<Reference>, now: Instant) {
        match reference {
            Some(reference) => self.references.insert(digest, reference),
            None => self.references.remove(&digest),
        };
        self.look_at(digest, now);
    }

    fn arrived(&mut self, digest: Digest, now: Instant) {
        self.here.insert(digest);
        self.look_at(digest, now);
    }

    fn gone(&mut self, digest: Digest, now: Instant) {
        self.here.remove(&digest);
        self.look_at(digest, now);
    }

    fn look_at(&mut self, digest: Digest, now: Instant) {
        let is_here = self.here.contains(&digest);
        let reference = self.references.get(&digest);
        if !is_here && reference == Some(&Reference::Placed) {
            if self.missing.insert(digest) {
                self.unasked.insert(digest);
            }
        } else {
            self.missing.remove(&digest);
            self.unasked.remove(&digest);
            self.problems.remove(&digest);
        }
        if is_here && reference.is_none() {
            self.unreferenced.note(digest, now);
        } else {
            self.unreferenced.forget(&digest);
        }
    }
}

struct Fetching {
    outcome: watch::Receiver<FetchResult>,
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
        // Where it cannot be read every start counts as a boot.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self::open_in(&boot, data_dir, form, client)
    }

    fn open_in(
        boot: &str,
        data_dir: &Path,
        form: Form,
        client: Client,
    ) -> Result<Self, StoreError> {
        let folder = data_dir.join(form.folder());
        let work = folder.join(WORK);
        let disk = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Disk { what, path, source }
        };
        let trash = folder.join(TRASH);
        let trash = Trash::open(trash.clone()).map_err(disk("open", &trash))?;
        // What cannot be moved away is in nobody's way: names below it are chosen at random.
        if let Err(error) = trash.throw(&work) {
            warn!(folder = %work.display(), %error, "unfinished bundles not removed");
        }
        // A full disk stops no start: what is here is served. Each download makes it again.
        if let Err(error) = fs::create_dir_all(&work) {
            warn!(folder = %work.display(), %error, "no bundle can be fetched for now");
        }
        let entries = fs::read_dir(&folder).map_err(disk("read", &folder))?;
        let mut here = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(disk("read", &folder))?.file_name();
            here.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        let noted = folder.join(BOOT);
        let is_same_boot = fs::read_to_string(&noted).is_ok_and(|noted| noted == boot);
        if form == Form::Packed && (boot.is_empty() || !is_same_boot) {
            set_apart(&folder, &mut here, &trash);
            // Without the note the next start sets them apart again.
            if let Err(error) = fs::write(&noted, boot) {
                warn!(path = %noted.display(), %error, "the machine's boot is not noted");
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                form,
                trash,
                client,
                prefetches: Semaphore::new(PREFETCHES_MAX),
                demanded: Semaphore::new(DEMANDED_MAX),
                state: Mutex::new(State {
                    here,
                    ..State::default()
                }),
                fetches: TaskTracker::new(),
                stopping: CancellationToken::new(),
                checked: tokio::sync::Mutex::default(),
                stamps: Mutex::default(),
                key: RandomState::new(),
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

    /// Makes sure that code that is about to be started is what its digest says, or was when nobody had
    /// changed its files yet. What differs is replaced, as [`Self::repair`] does.
    pub async fn vouch(&self, digest: &Digest) -> Repair {
        if self.shared.is_as_stamped(digest).await {
            return Repair::Sound;
        }
        let mut checked = self.shared.checked.lock().await;
        // Another start may have seen to it.
        if self.shared.is_as_stamped(digest).await {
            return Repair::Sound;
        }
        self.shared.check(digest, &mut checked).await
    }

    /// Compares a bundle of which no instance came up since `began` with its digest, and replaces it if it
    /// differs: by the packed one beside it, else by a download.
    pub async fn repair(&self, digest: &Digest, began: Instant) -> Repair {
        let mut checked = self.shared.checked.lock().await;
        checked.retain(|_, (at, _)| at.elapsed() < CHECK_EVERY);
        match checked.get(digest) {
            Some((at, true)) if *at > began => return Repair::Anew,
            Some(_) => return Repair::Sound,
            None => {}
        }
        self.shared.check(digest, &mut checked).await
    }

    /// Digests placed here that are not on disk, as of the replica's newest revision; at most `count`.
    #[must_use]
    pub fn missing(&self, replica: &Replica, count: usize) -> Vec<Digest> {
        let mut state = self.shared.state();
        // Who reports a revision must report what is missing for that one and not for an earlier one.
        state.catch_up(replica, Instant::now());
        state.missing.iter().take(count).copied().collect()
    }

    /// Keeps what is on disk in step with what is placed here, until `shutdown`.
    pub async fn reconcile(self, replica: Replica, shutdown: CancellationToken) {
        let mut changed = replica.subscribe();
        let mut again = Instant::now();
        loop {
            let functions = changed.borrow_and_update().functions;
            let now = Instant::now();
            let (to_fetch, is_whole) = {
                let mut state = self.shared.state();
                state.catch_up(&replica, now);
                (state.take_unasked(again <= now), state.missing.is_empty())
            };
            if is_whole {
                self.shared.throw(self.shared.folder.join(UNSURE)).await;
            }
            for digest in to_fetch {
                drop(self.fetch(digest, Why::Prefetch));
            }
            self.collect(&replica).await;
            if again <= now {
                again = now + rand::rng().random_range(RETRY / 2..RETRY);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                ended = changed.wait_for(|now| now.functions != functions) => {
                    if ended.is_err() { break }
                }
                () = tokio::time::sleep_until(again) => {}
            }
        }
        self.shared.stopping.cancel();
        self.shared.fetches.close();
        self.shared.fetches.wait().await;
    }

    /// Starts a download unless one is under way; returns how it will end.
    fn fetch(&self, digest: Digest, why: Why) -> watch::Receiver<FetchResult> {
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
            let fetched = tokio::select! {
                () = shared.stopping.cancelled() => return,
                fetched = shared.fetch(&digest, &hurry) => fetched,
            };
            let mut state = shared.state();
            state.fetching.remove(&digest);
            let result = match fetched {
                Ok(()) => {
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

    /// Removes what nothing that may be called here has referred to for a while.
    async fn collect(&self, replica: &Replica) {
        loop {
            let Some(digest) = self.shared.state().unreferenced.over(Instant::now()) else {
                return;
            };
            let (shared, replica) = (Arc::clone(&self.shared), replica.clone());
            let removed = tokio::task::spawn_blocking(move || {
                shared.take_away_unreferenced(&digest, &replica)
            })
            .await
            .expect("moving does not panic");
            match removed {
                Ok(true) => info!(%digest, "removed a bundle that nothing refers to"),
                Ok(false) => {}
                Err(error) => {
                    // Tried again as late as what is unreferenced from now on.
                    let mut state = self.shared.state();
                    state.unreferenced.forget(&digest);
                    state.look_at(digest, Instant::now());
                    drop(state);
                    warn!(%digest, %error, "bundle not removed");
                }
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

    async fn fetch(self: &Arc<Self>, digest: &Digest, hurry: &Notify) -> Result<(), FetchFailure> {
        // What only runs ahead stands in line; what a call waits for must not stand with it.
        let place = tokio::select! {
            biased;
            () = hurry.notified() => self.demanded.acquire().await,
            place = self.prefetches.acquire() => place,
        };
        let _place = place.expect("it is never closed");
        let packed = self.work(digest).with_extension("packed");
        let unsure = self.folder.join(UNSURE).join(digest.to_string());
        let found = tokio::fs::rename(unsure.join(PACKED), &packed).await;
        let is_here = found.is_ok() && self.keep(digest, &packed).await.is_ok();
        let result = if is_here {
            Ok(())
        } else {
            match self.download(digest, &packed).await {
                Ok(()) => self.keep(digest, &packed).await,
                Err(error) => Err(error),
            }
        };
        // It may not have been made, and is in its place if all went well.
        let _absent = tokio::fs::remove_file(&packed).await;
        if result.is_ok() {
            info!(%digest, "bundle downloaded");
        }
        result
    }

    async fn download(&self, digest: &Digest, packed: &Path) -> Result<(), FetchFailure> {
        let mut download = self.client.get_bundle(digest).await?;
        fs::create_dir_all(self.folder.join(WORK))?;
        let mut file = fs::File::create(packed)?;
        while let Some(chunk) = download.chunk().await? {
            file = tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file))
                .await
                .expect("writing does not panic")?;
        }
        Ok(())
    }

    /// Checks a bundle and puts it in its place.
    async fn keep(self: &Arc<Self>, digest: &Digest, packed: &Path) -> Result<(), FetchFailure> {
        self.keep_as(digest, packed, Self::put_in_place).await
    }

    async fn keep_as(
        self: &Arc<Self>,
        digest: &Digest,
        packed: &Path,
        put: impl FnOnce(&Self, &Digest, &Path) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), FetchFailure> {
        let (shared, digest, packed) = (Arc::clone(self), *digest, packed.to_owned());
        tokio::task::spawn_blocking(move || {
            let unpacked = shared.work(&digest);
            let kept = prepare(shared.form, &packed, &digest, &unpacked)
                .and_then(|()| Ok(put(&shared, &digest, &unpacked)?));
            if kept.is_err() {
                shared.throw_now(&unpacked);
            }
            kept
        })
        .await
        .expect("unpacking does not panic")
    }

    async fn is_as_stamped(self: &Arc<Self>, digest: &Digest) -> bool {
        if self.form == Form::Packed {
            return true;
        }
        let Some(stamp) = self.stamps().get(digest).copied() else {
            return false;
        };
        let (shared, place) = (Arc::clone(self), self.place(digest));
        tokio::task::spawn_blocking(move || {
            Stamp::of(&place, stamp.entries, &shared.key) == Some(stamp)
        })
        .await
        .expect("reading what files are does not panic")
    }

    fn stamps(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Stamp>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a bundle is now that was just unpacked, or found to be as it was.
    fn stamp(&self, digest: &Digest, stamp: Option<Stamp>) {
        let mut stamps = self.stamps();
        match stamp {
            Some(stamp) => stamps.insert(*digest, stamp),
            None => stamps.remove(digest),
        };
    }

    async fn check(
        self: &Arc<Self>,
        digest: &Digest,
        checked: &mut BTreeMap<Digest, (Instant, bool)>,
    ) -> Repair {
        let repaired = self.repair(digest).await;
        checked.insert(*digest, (Instant::now(), repaired == Repair::Anew));
        match &repaired {
            Repair::Sound => {}
            Repair::Anew => {
                metrics::counter!("tradewind_region_bundles_repaired_total").increment(1);
                warn!(%digest, "bundle was changed or damaged on disk, unpacked again");
            }
            Repair::Lost(error) => {
                checked.remove(digest);
                warn!(%digest, error, "bundle is damaged on disk and cannot be replaced");
            }
        }
        repaired
    }

    async fn repair(self: &Arc<Self>, digest: &Digest) -> Repair {
        let packed = self.work(digest).with_extension("packed");
        let found = {
            let (shared, digest, packed) = (Arc::clone(self), *digest, packed.clone());
            tokio::task::spawn_blocking(move || shared.compare(&digest, &packed))
                .await
                .expect("comparing does not panic")
        };
        let replaced = match found {
            Ok(Compared::Same) => return Repair::Sound,
            // Nothing is known of the bundle, so it stays.
            Err(error) => {
                warn!(%digest, %error, "bundle cannot be checked against its digest");
                return Repair::Sound;
            }
            Ok(Compared::Damaged) => self.keep_as(digest, &packed, Self::replace).await,
            Ok(Compared::Lost) => match self.download(digest, &packed).await {
                Ok(()) => self.keep_as(digest, &packed, Self::replace).await,
                Err(error) => Err(error),
            },
        };
        let _absent = tokio::fs::remove_file(&packed).await;
        let Err(error) = replaced else {
            return Repair::Anew;
        };
        // Missing, it is fetched again and again, and calls are handed on until it is here.
        if let Err(error) = self.take_away(&mut self.state(), digest)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(%digest, %error, "damaged bundle not removed");
        }
        Repair::Lost(error.to_string())
    }

    /// Compares a bundle in its place with its digest. If it is to be unpacked anew, `packed` is a link to
    /// it as it came. What is sound and not sealed is sealed.
    fn compare(&self, digest: &Digest, packed: &Path) -> std::io::Result<Compared> {
        let place = self.place(digest);
        let came = place.join(PACKED);
        let mut file = match fs::File::open(&came) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Compared::Lost);
            }
            opened => opened?,
        };
        let is_same = match self.form {
            Form::Packed => api_bundle::verify(&mut file, digest).map(|_| true),
            Form::Unpacked => {
                for folder in TOP_FOLDERS.iter().map(|folder| place.join(folder)) {
                    // One may be missing from the bundle.
                    let _absent = seal(&folder);
                }
                let stamp = || Stamp::of(&place, u64::MAX, &self.key);
                let before = stamp();
                let is_same = api_bundle::is_unpacked(file, digest, &place, &[PACKED]);
                // Compared is what was there all the while.
                is_same.map(|is_same| {
                    let stamp = before.filter(|before| is_same && stamp() == Some(*before));
                    self.stamp(digest, stamp);
                    stamp.is_some()
                })
            }
        };
        match is_same {
            Ok(true) => Ok(Compared::Same),
            Ok(false) => {
                if fs::hard_link(&came, packed).is_err() {
                    fs::copy(&came, packed)?;
                }
                Ok(Compared::Damaged)
            }
            Err(_) => Ok(Compared::Lost),
        }
    }

    /// In one step with the list of what is here: a folder that is being taken away must not pass
    /// for one that another download was faster to bring. The lock is held for two renames.
    fn put_in_place(&self, digest: &Digest, unpacked: &Path) -> std::io::Result<()> {
        let state = self.state();
        if state.here.contains(digest) {
            drop(state);
            self.throw_now(unpacked);
            return Ok(());
        }
        self.put(state, digest, unpacked)
    }

    /// As [`Self::put_in_place`], instead of one that is there.
    fn replace(&self, digest: &Digest, unpacked: &Path) -> std::io::Result<()> {
        self.put(self.state(), digest, unpacked)
    }

    fn put(
        &self,
        mut state: std::sync::MutexGuard<'_, State>,
        digest: &Digest,
        unpacked: &Path,
    ) -> std::io::Result<()> {
        let place = self.place(digest);
        match self.trash.take(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Err(error) = fs::rename(unpacked, &place) {
            state.gone(*digest, Instant::now());
            return Err(error);
        }
        state.arrived(*digest, Instant::now());
        drop(state);
        // Unsealed it runs as well.
        let _unsealed = seal(&place);
        if self.form == Form::Unpacked {
            self.stamp(digest, Stamp::of(&place, u64::MAX, &self.key));
        }
        Ok(())
    }

    /// The reverse, unless a function refers to it by now: whether it is gone.
    fn take_away_unreferenced(&self, digest: &Digest, replica: &Replica) -> std::io::Result<bool> {
        let mut state = self.state();
        // To take away the one before took a while.
        state.catch_up(replica, Instant::now());
        if state.references.contains_key(digest) {
            return Ok(false);
        }
        self.take_away(&mut state, digest).map(|()| true)
    }

    fn take_away(&self, state: &mut State, digest: &Digest) -> std::io::Result<()> {
        match self.trash.take(&self.place(digest)) {
            // Somebody else has removed it.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            taken => {
                state.gone(*digest, Instant::now());
                self.stamp(digest, None);
                taken
            }
        }
    }

    /// Removes what nobody needs. That it cannot be is counted, and harms nobody.
    fn throw_now(&self, path: &Path) {
        if let Err(error) = self.trash.throw(path) {
            warn!(path = %path.display(), %error, "not removed");
        }
    }

    async fn throw(self: &Arc<Self>, path: PathBuf) {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.throw_now(&path))
            .await
            .expect("removing does not panic");
    }
}

/// Moves bundles of which it is not known whether all of them reached the disk out of their places. Those
/// that cannot be moved, as on a full disk, stay and are believed.
fn set_apart(folder: &Path, here: &mut BTreeSet<Digest>, trash: &Trash) {
    let unsure = folder.join(UNSURE);
    if let Err(error) = fs::create_dir_all(&unsure) {
        return warn!(folder = %unsure.display(), %error, "bundles of before the boot stay in their places");
    }
    here.retain(|digest| {
        let name = digest.to_string();
        let (place, beside) = (folder.join(&name), unsure.join(&name));
        // One may be there of a boot before, if that ended early.
        let moved = trash
            .throw(&beside)
            .and_then(|()| trash::rename(&place, &beside))
            // What it is kept for is moved out of it.
            .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)));
        if let Err(error) = &moved {
            warn!(%digest, %error, "unchecked bundle not removed");
        }
        moved.is_err() && place.exists()
    });
}

/// What a comparison of a bundle with its digest has found.
enum Compared {
    Same,
    /// As it came it is sound, unpacked it is not.
    Damaged,
    Lost,
}

/// A bundle's folder and those in it, of which nobody may write to any.
const TOP_FOLDERS: [&str; 3] = ["", "function", "python"];

/// Lets nobody change a folder by mistake: not even a function that runs as the region's own user,
/// which would have to change the permissions first. What is below was unpacked so.
fn seal(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555))
}

/// Unpacks a bundle into what its place shall hold. Even one that is sent on is unpacked once here:
/// what a pod would refuse must not be called held.
fn prepare(
    form: Form,
    packed: &Path,
    digest: &Digest,
    unpacked: &Path,
) -> Result<(), FetchFailure> {
    unpack(packed, digest, unpacked)?;
    if form == Form::Packed {
        reduce(unpacked)?;
    }
    fs::set_permissions(packed, fs::Permissions::from_mode(0o444))?;
    Ok(fs::rename(packed, unpacked.join(PACKED))?)
}

fn unpack(packed: &Path, digest: &Digest, unpacked: &Path) -> Result<(), FetchFailure> {
    api_bundle::unpack(fs::File::open(packed)?, digest, unpacked)?;
    Ok(())
}

/// Leaves of an unpacked bundle its manifest.
fn reduce(unpacked: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(unpacked)? {
        let entry = entry?;
        if entry.file_name() == MANIFEST_NAME {
            continue;
        }
        trash::remove(&entry.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_bundle::{Manifest, Tree};
    use api_types::Platform;
    use api_wire::view::{Envelope, MetadataBody, ViewId};
    use axum::routing::get;
    use axum::{Json, Router};
    use proptest::prelude::*;
    use region_plane_replica::follow;
    use tokio::task::JoinSet;

    use super::*;

    /// A bundle whose function is one file, and its digest.
    fn packed() -> (Digest, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        fs::write(&code, "what runs").unwrap();
        let mut tree = Tree::default();
        tree.add_file("function/code", &code, true).unwrap();
        let manifest = Manifest {
            schema: 1,
            name: "a".to_owned(),
            version: "1".to_owned(),
            runtime: "executable".to_owned(),
            platform: Platform::here().0,
            entrypoint: vec!["/function/code".to_owned()],
            cmd: Vec::new(),
        };
        let mut bytes = Vec::new();
        let digest = tree.pack(&manifest, &mut bytes).unwrap().digest;
        (digest, bytes)
    }

    /// With a global plane that is away.
    fn open(boot: &str, folder: &Path, form: Form) -> Bundles {
        let client = Client::new(&["http://127.0.0.1:1".to_owned()]).unwrap();
        Bundles::open_in(boot, folder, form, client).unwrap()
    }

    async fn keep(bundles: &Bundles, digest: &Digest, bytes: &[u8]) {
        let file = bundles.shared.work(digest).with_extension("packed");
        fs::write(&file, bytes).unwrap();
        bundles.shared.keep(digest, &file).await.unwrap();
    }

    #[tokio::test]
    async fn code_is_compared_before_it_is_started_and_whenever_a_file_of_it_was_changed() {
        let (digest, bytes) = packed();
        let folder = tempfile::tempdir().unwrap();
        let bundles = open("one", folder.path(), Form::Unpacked);
        keep(&bundles, &digest, &bytes).await;
        let place = bundles.get(&digest).unwrap();
        let code = place.join("function/code");
        let (sound, times) = (fs::read(&code).unwrap(), fs::metadata(&code).unwrap());
        assert!(bundles.shared.is_as_stamped(&digest).await, "as unpacked");
        assert_eq!(bundles.vouch(&digest).await, Repair::Sound);

        // By somebody who leaves no trace but the ctime.
        let mode = times.permissions();
        fs::set_permissions(&code, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&code, "what RUNS").unwrap();
        let file = fs::File::options().write(true).open(&code).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
        fs::set_permissions(&code, mode).unwrap();
        assert_eq!(bundles.vouch(&digest).await, Repair::Anew);
        assert_eq!(fs::read(&code).unwrap(), sound);
        assert_eq!(bundles.vouch(&digest).await, Repair::Sound);

        // A file more, beside those that are there.
        let function = place.join("function");
        fs::set_permissions(&function, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(function.join("more"), "").unwrap();
        assert_eq!(bundles.vouch(&digest).await, Repair::Anew);
        assert!(!function.join("more").exists());

        // A process that has just started knows of none, and the disk may have lost anything.
        drop(bundles);
        let bundles = open("two", folder.path(), Form::Unpacked);
        assert_eq!(bundles.get(&digest).as_ref(), Some(&place));
        assert!(!bundles.shared.is_as_stamped(&digest).await);
        assert_eq!(bundles.vouch(&digest).await, Repair::Sound);
        assert!(bundles.shared.is_as_stamped(&digest).await);
        fs::set_permissions(&code, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&code, "").unwrap();
        let bundles = open("three", folder.path(), Form::Unpacked);
        assert_eq!(bundles.vouch(&digest).await, Repair::Anew);
        assert_eq!(fs::read(&code).unwrap(), sound);
        fs::set_permissions(place.join(PACKED), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(place.join(PACKED), "").unwrap();
        let bundles = open("four", folder.path(), Form::Unpacked);
        assert!(matches!(bundles.vouch(&digest).await, Repair::Lost(_)));
        assert_eq!(bundles.get(&digest), None);
    }

    /// Measures what a start pays: `cargo test -- --nocapture` prints it.
    #[tokio::test]
    async fn a_look_at_a_bundle_of_many_files_is_short() {
        const FILES: usize = 2_000;
        let folder = tempfile::tempdir().unwrap();
        for number in 0..FILES {
            let below = folder.path().join(format!("package{}", number % 50));
            fs::create_dir_all(&below).unwrap();
            fs::write(below.join(format!("{number}.py")), "pass").unwrap();
        }
        let (key, begun) = (RandomState::new(), Instant::now());
        let stamp = Stamp::of(folder.path(), u64::MAX, &key).unwrap();
        println!(
            "measured: a look at {FILES} files takes {:.2?}",
            begun.elapsed()
        );
        assert_eq!(stamp.entries, FILES as u64 + 51);
        assert_eq!(Stamp::of(folder.path(), stamp.entries, &key), Some(stamp));
        assert_eq!(Stamp::of(folder.path(), stamp.entries - 1, &key), None);
    }

    #[tokio::test]
    async fn what_a_power_cut_left_of_packed_bundles_is_made_anew_or_fetched_again() {
        let (digest, bytes) = packed();
        {
            let (form, file) = (Form::Packed, MANIFEST_NAME);
            let folder = tempfile::tempdir().unwrap();
            let bundles = open("one", folder.path(), form);
            keep(&bundles, &digest, &bytes).await;
            let place = bundles.get(&digest).unwrap();
            let sound = fs::read(place.join(file)).unwrap();
            drop(bundles);
            let bundles = open("one", folder.path(), form);
            assert_eq!(bundles.get(&digest).as_ref(), Some(&place), "only killed");

            fs::write(place.join(file), "").unwrap();
            let bundles = open("two", folder.path(), form);
            assert_eq!(bundles.get(&digest), None, "{form:?}");
            let patience = Instant::now() + Duration::from_secs(60);
            assert_eq!(bundles.demand(&digest, patience).await.unwrap(), place);
            assert_eq!(fs::read(place.join(file)).unwrap(), sound, "{form:?}");

            fs::write(place.join(PACKED), "").unwrap();
            let bundles = open("three", folder.path(), form);
            // It goes on to ask the global plane, again and again.
            let patience = Instant::now() + Duration::from_millis(500);
            bundles.demand(&digest, patience).await.unwrap_err();
            assert_eq!(bundles.get(&digest), None, "{form:?}");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Change {
        Refer(Option<Reference>),
        Arrive,
        Leave,
    }

    proptest! {
        #[test]
        fn what_is_missing_or_unreferenced_is_known_as_if_all_bundles_were_looked_at(
            changes in prop::collection::vec((0..5u8, prop_oneof![
                Just(Change::Refer(None)),
                Just(Change::Refer(Some(Reference::Failover))),
                Just(Change::Refer(Some(Reference::Placed))),
                Just(Change::Arrive),
                Just(Change::Leave),
            ]), 0..60),
            takes in prop::collection::vec(any::<bool>(), 60),
        ) {
            let begin = Instant::now();
            let mut state = State::default();
            let mut asked = BTreeSet::new();
            let mut since = BTreeMap::new();
            for (n, ((digest, change), takes)) in changes.into_iter().zip(takes).enumerate() {
                let now = begin + Duration::from_secs(n as u64);
                let digest = Digest([digest; 32]);
                match change {
                    Change::Refer(reference) => state.refer(digest, reference, now),
                    Change::Arrive => state.arrived(digest, now),
                    Change::Leave => state.gone(digest, now),
                }
                let placed = state.references.iter().filter(|(_, of)| **of == Reference::Placed);
                let placed: BTreeSet<Digest> = placed.map(|(digest, _)| *digest).collect();
                let missing: BTreeSet<Digest> = placed.difference(&state.here).copied().collect();
                prop_assert_eq!(&state.missing, &missing);
                asked.retain(|digest| missing.contains(digest));
                if takes {
                    let taken: BTreeSet<Digest> = state.take_unasked(false).into_iter().collect();
                    prop_assert_eq!(&taken, &missing.difference(&asked).copied().collect());
                    asked = missing;
                }
                let here = state.here.iter().copied();
                let unreferenced: BTreeSet<Digest> =
                    here.filter(|digest| !state.references.contains_key(digest)).collect();
                since.retain(|digest, _| unreferenced.contains(digest));
                for digest in unreferenced {
                    since.entry(digest).or_insert(now);
                }
                prop_assert_eq!(&state.unreferenced.since, &since);
                let oldest = since.iter().map(|(digest, since)| (*since, *digest)).min();
                prop_assert_eq!(state.unreferenced.by_age.first().copied(), oldest);
            }
        }
    }

    /// A replica in fra that holds one function, of that code.
    async fn replica(folder: &Path, digest: &Digest, placement: &str) -> Replica {
        let time = "2026-01-02T15:04:05.678Z";
        let body = format!(
            r#"{{
                "zone": "fn.test", "gateway_port": 8080,
                "objects": [
                    {{"type": "app", "object": {{
                        "id": "A", "name": "shop", "annotations": {{"tradewind.dev/placement": {placement}}},
                        "created_at": "{time}", "updated_at": "{time}", "tradewind_revision": 1
                    }}}},
                    {{"type": "fn", "object": {{
                        "id": "F", "name": "f", "app_id": "A", "image": "bundle/a:1@sha256:{digest}",
                        "memory": 128, "timeout": 30, "idle_timeout": 30,
                        "created_at": "{time}", "updated_at": "{time}", "tradewind_revision": 1
                    }}}}
                ]
            }}"#
        );
        let body: MetadataBody = serde_json::from_str(&body).unwrap();
        let id = ViewId {
            cluster_id: "test".to_owned(),
            epoch: 1,
            revision: 1,
            count: 2,
            sha256: String::new(),
        };
        let snapshot = Json(Envelope::seal(id, &body));
        let router = Router::new().route("/v1/snapshot", get(async move || snapshot));
        let listener = daemon::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let plane = format!("http://{}", listener.local_addr().unwrap());
        let limits = daemon::HttpLimits::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(daemon::serve(
            listener,
            router,
            CancellationToken::new(),
            limits,
        ));
        let me = crate::config::tests::sound();
        let replica = Replica::open(folder, me.region(), me.zone()).unwrap();
        let client = Client::new(&[plane]).unwrap();
        let mut position = replica.subscribe();
        tokio::select! {
            _ = follow(replica.clone(), client, CancellationToken::new()) => unreachable!(),
            taken = position.wait_for(|now| now.revision.is_some()) => drop(taken.unwrap()),
        }
        replica
    }

    #[tokio::test]
    async fn code_stays_for_as_long_as_its_function_may_be_called_here() {
        let (digest, bytes) = packed();
        for (placement, stays) in [
            (r#"{"regions":["fra"],"strict":true}"#, true),
            (r#"{"regions":["nrt"]}"#, true),
            (r#"{"regions":["nrt"],"strict":true}"#, false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let bundles = open("one", folder.path(), Form::Unpacked);
            keep(&bundles, &digest, &bytes).await;
            let replica = replica(folder.path(), &digest, placement).await;
            let long_ago = Instant::now() - UNREFERENCED_MAX * 2;
            {
                let mut state = bundles.shared.state();
                state.unreferenced.forget(&digest);
                state.catch_up(&replica, long_ago);
            }
            bundles.collect(&replica).await;
            assert_eq!(bundles.get(&digest).is_some(), stays, "{placement}");
        }
    }

    #[tokio::test]
    async fn a_bundle_is_here_exactly_while_its_folder_is_in_its_place() {
        let (digest, bytes) = packed();
        let folder = tempfile::tempdir().unwrap();
        let bundles = open("one", folder.path(), Form::Unpacked);
        keep(&bundles, &digest, &bytes).await;
        let place = bundles.get(&digest).unwrap();
        // Another download of it was slower.
        keep(&bundles, &digest, &bytes).await;
        assert!(place.join("function/code").is_file());

        let take_away = || {
            bundles
                .shared
                .take_away(&mut bundles.shared.state(), &digest)
        };
        take_away().unwrap();
        assert_eq!(bundles.get(&digest), None);
        keep(&bundles, &digest, &bytes).await;
        assert!(
            bundles
                .get(&digest)
                .unwrap()
                .join("function/code")
                .is_file()
        );

        fs::remove_dir_all(&place).unwrap();
        take_away().unwrap_err();
        assert_eq!(bundles.get(&digest), None, "nor once it is gone anyhow");
    }
}
