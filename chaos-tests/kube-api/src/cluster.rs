//! A stand-in for the scheduler and the kubelets: binds pods, starts and ends them.
//!
//! Where the real ones write several times within milliseconds it writes once, with the result.

mod status;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::answer::Shared;
use crate::refusal::FailureStatus;
use crate::resource::{Definition, ResourceKey, Target};
use crate::store::{Change, ChangeKind, Deletion, ObjectName};
use status::Container;

/// The size and speed of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub nodes: usize,
    /// The kubelet's default is 110.
    pub pods_per_node: usize,
    pub memory_mb_per_node: u64,
    /// From a pod's creation to its node.
    pub bind_after: Duration,
    /// From its node to its address and running containers.
    pub start_after: Duration,
    /// From its deletion to its end, if its grace period is not shorter.
    pub end_after: Duration,
    /// From a failed pull to the next. The kubelet backs off up to five minutes.
    pub pull_again_after: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: 3,
            pods_per_node: 110,
            memory_mb_per_node: 65_536,
            bind_after: Duration::from_millis(2),
            start_after: Duration::from_millis(20),
            end_after: Duration::from_millis(20),
            pull_again_after: Duration::from_millis(100),
        }
    }
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Runs,
    /// It runs, and is never ready.
    NeverReady,
    /// It stays in `ContainerCreating`.
    NeverStarts,
    /// No node takes it.
    Unschedulable,
    /// It runs, and other resources have to wait for room on its node.
    ResizeDeferred,
    /// It runs, and its node never has room for other resources.
    ResizeInfeasible,
}

/// How a container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    OutOfMemory,
    Exited(u8),
}

type FateOf = dyn Fn(&Value) -> Fate + Send;
type AddressOf = dyn Fn(&Value) -> Option<IpAddr> + Send;

/// What the test decided.
struct Rules {
    fate: Box<FateOf>,
    address: Box<AddressOf>,
    missing_images: BTreeSet<String>,
}

/// The handle of a running stand-in, which lives as long as its server.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    config: ClusterConfig,
    rules: Arc<Mutex<Rules>>,
    /// Pods that wait are looked at again.
    changed: Arc<Notify>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Cluster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn pods() -> ResourceKey {
    ResourceKey {
        group: String::new(),
        plural: "pods".to_owned(),
    }
}

fn pod_definition(shared: &Shared) -> Arc<Definition> {
    let target = Target {
        resource: pods(),
        version: "v1".to_owned(),
        namespace: None,
        name: None,
        subresource: None,
    };
    shared
        .store()
        .definition(&target)
        .expect("pods are built in")
}

impl Cluster {
    /// The handle, and the loop to run.
    pub(crate) fn new(
        shared: Arc<Shared>,
        config: ClusterConfig,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let rules = Rules {
            fate: Box::new(|_| Fate::Runs),
            address: Box::new(|_| None),
            missing_images: BTreeSet::new(),
        };
        let cluster = Self {
            shared,
            config,
            rules: Arc::new(Mutex::new(rules)),
            changed: Arc::new(Notify::new()),
        };
        let run = Running::new(cluster.clone()).run();
        (cluster, run)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("no holder panics")
    }

    /// Decides what becomes of pods from now on, also of those that wait for a node.
    pub fn set_fate(&self, fate: impl Fn(&Value) -> Fate + Send + 'static) {
        self.rules().fate = Box::new(fate);
        self.changed.notify_one();
    }

    /// Gives pods addresses of the test's own; `None` leaves a pod one of 10.0.0.0/8.
    pub fn set_address(&self, address: impl Fn(&Value) -> Option<IpAddr> + Send + 'static) {
        self.rules().address = Box::new(address);
    }

    /// Pulls of the image fail until [`Cluster::provide_image`].
    pub fn lose_image(&self, image: &str) {
        self.rules().missing_images.insert(image.to_owned());
    }

    pub fn provide_image(&self, image: &str) {
        self.rules().missing_images.remove(image);
    }

    /// Ends a container of a running pod; the pod fails when none of its containers runs any more.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn end_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        ending: Ending,
    ) -> Result<(), FailureStatus> {
        let name = ObjectName {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
        };
        let definition = pod_definition(&self.shared);
        self.shared.store().rewrite(&definition, &name, |pod| {
            status::end_container(pod, container, ending);
        })?;
        Ok(())
    }

    /// The node objects to install.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        (0..self.config.nodes)
            .map(|at| status::node(&node_name(at), node_address(at), &self.config))
            .collect()
    }
}

fn node_name(at: usize) -> String {
    format!("node-{at}")
}

/// Nodes are in 192.168.0.0/16, away from the pods.
fn node_address(at: usize) -> Ipv4Addr {
    let at = u16::try_from(at + 1).unwrap_or(u16::MAX);
    let [high, low] = at.to_be_bytes();
    Ipv4Addr::new(192, 168, high, low)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Bind,
    Start,
    Resize,
    End,
}

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    pods: usize,
    memory_mb: u64,
}

/// The loop's own state.
struct Running {
    cluster: Cluster,
    definition: Arc<Definition>,
    /// Revision read from the log up to here.
    position: u64,
    due: BinaryHeap<Reverse<(Instant, ObjectName, Step)>>,
    loads: Vec<Load>,
    /// Where each bound pod is, by uid, and what it takes there.
    bound: HashMap<String, (usize, u64)>,
    ending: HashSet<String>,
    /// Pods without a node, and pods that may not start or be resized.
    waiting: VecDeque<(ObjectName, Step)>,
    /// Our own writes, which tell us nothing when the log shows them.
    written: HashSet<u64>,
    addresses_given: u32,
}

/// Pods handled under one lock, so that requests come between.
const BATCH_MAX: usize = 64;

impl Running {
    fn new(cluster: Cluster) -> Self {
        Self {
            definition: pod_definition(&cluster.shared),
            position: 0,
            due: BinaryHeap::new(),
            loads: vec![Load::default(); cluster.config.nodes],
            bound: HashMap::new(),
            ending: HashSet::new(),
            waiting: VecDeque::new(),
            written: HashSet::new(),
            addresses_given: 0,
            cluster,
        }
    }

    async fn run(mut self) {
        let mut changed = self
            .cluster
            .shared
            .store()
            .watch_revision(&pods())
            .expect("pods are built in");
        self.relist();
        let nudged = Arc::clone(&self.cluster.changed);
        while self.turn(&mut changed, &nudged).await {}
    }

    /// Handles what there is, then waits for more; false when the server is gone.
    async fn turn(&mut self, changed: &mut watch::Receiver<u64>, nudged: &Notify) -> bool {
        changed.borrow_and_update();
        let more = self.read_log();
        let now = Instant::now();
        for _ in 0..BATCH_MAX {
            match self.due.peek() {
                Some(Reverse((at, _, _))) if *at <= now => {}
                _ => break,
            }
            if let Some(Reverse((_, name, step))) = self.due.pop() {
                self.take(&name, step);
            }
        }
        let next = self.due.peek().map(|Reverse((at, _, _))| *at);
        if more || next.is_some_and(|at| at <= now) {
            tokio::task::yield_now().await;
            return true;
        }
        let next = next.unwrap_or_else(|| now + Duration::from_secs(3600));
        tokio::select! {
            changed = changed.changed() => changed.is_ok(),
            () = nudged.notified() => {
                self.retry_waiting();
                true
            }
            () = sleep_until(next) => true,
        }
    }

    fn relist(&mut self) {
        let shared = Arc::clone(&self.cluster.shared);
        let store = shared.store();
        self.position = store.revision();
        let names: Vec<(ObjectName, bool)> = store
            .all(&pods(), None)
            .map(|pod| (pod.name.clone(), pod.node.is_empty()))
            .collect();
        drop(store);
        for (name, unbound) in names {
            let step = if unbound { Step::Bind } else { Step::Start };
            self.after(Duration::ZERO, name, step);
        }
    }

    fn after(&mut self, wait: Duration, name: ObjectName, step: Step) {
        self.due.push(Reverse((Instant::now() + wait, name, step)));
    }

    /// Whether the log holds more than was read.
    fn read_log(&mut self) -> bool {
        let read = {
            let store = self.cluster.shared.store();
            store
                .changes_after(&pods(), self.position, BATCH_MAX)
                .map(|changes| (changes, store.revision()))
        };
        let Ok((changes, revision)) = read else {
            // Further behind than the log goes.
            self.relist();
            return true;
        };
        let more = changes.len() == BATCH_MAX;
        self.position = match changes.last() {
            Some(last) if more => last.object.revision,
            _ => revision,
        };
        for change in changes {
            self.read(&change);
        }
        more
    }

    fn read(&mut self, change: &Change) {
        let object = &change.object;
        if change.kind == ChangeKind::Deleted {
            self.ending.remove(&object.uid);
            if let Some((node, memory_mb)) = self.bound.remove(&object.uid) {
                self.loads[node].pods -= 1;
                self.loads[node].memory_mb -= memory_mb;
                self.retry_waiting();
            }
            return;
        }
        if self.written.remove(&object.revision) {
            return;
        }
        let config = &self.cluster.config;
        let (bind_after, end_after) = (config.bind_after, config.end_after);
        if object.terminating {
            if self.ending.insert(object.uid.clone()) {
                self.after(end_after, object.name.clone(), Step::End);
            }
        } else if change.kind == ChangeKind::Added {
            self.after(bind_after, object.name.clone(), Step::Bind);
        } else if object.phase == "Running" {
            self.reflect_resize(&object.name);
        }
    }

    fn retry_waiting(&mut self) {
        for (name, step) in std::mem::take(&mut self.waiting) {
            self.after(Duration::ZERO, name, step);
        }
    }

    fn take(&mut self, name: &ObjectName, step: Step) {
        let shared = Arc::clone(&self.cluster.shared);
        let Ok(pod) = shared.store().get(&self.definition, name) else {
            return;
        };
        match step {
            Step::End => {
                self.write(name, status::stopped);
                let options = Deletion::at_once();
                // A finalizer of someone's may keep it, as it would keep it from the real kubelet.
                drop(shared.store().delete(&self.definition, name, &options));
            }
            Step::Bind if pod.node.is_empty() => self.bind(name, &pod.uid, &pod.value()),
            Step::Start if pod.phase == "Pending" && !pod.terminating => {
                self.start(name, &pod.uid, &pod.value());
            }
            Step::Resize if pod.phase == "Running" && !pod.terminating => {
                self.reflect_resize(name);
            }
            Step::Bind | Step::Start | Step::Resize => {}
        }
    }

    fn bind(&mut self, name: &ObjectName, uid: &str, pod: &Value) {
        let wants_mb = status::memory_mb(pod);
        let fate = (self.cluster.rules().fate)(pod);
        let config = &self.cluster.config;
        let fits = |load: &Load| {
            load.pods < config.pods_per_node
                && load.memory_mb + wants_mb <= config.memory_mb_per_node
        };
        let node = (0..self.loads.len())
            .filter(|at| fits(&self.loads[*at]))
            .min_by_key(|at| self.loads[*at].pods)
            .filter(|_| fate != Fate::Unschedulable);
        let Some(node) = node else {
            let nodes = self.loads.len();
            let full = self
                .loads
                .iter()
                .filter(|load| load.pods >= config.pods_per_node)
                .count();
            let why = if full == nodes && fate != Fate::Unschedulable {
                format!("0/{nodes} nodes are available: {nodes} Too many pods.")
            } else {
                format!("0/{nodes} nodes are available: {nodes} Insufficient memory.")
            };
            self.write(name, |pod| status::unschedulable(pod, &why));
            self.waiting.push_back((name.clone(), Step::Bind));
            return;
        };
        self.loads[node].pods += 1;
        self.loads[node].memory_mb += wants_mb;
        self.bound.insert(uid.to_owned(), (node, wants_mb));
        self.write(name, |pod| status::bound(pod, &node_name(node)));
        self.after(self.cluster.config.start_after, name.clone(), Step::Start);
    }

    fn start(&mut self, name: &ObjectName, uid: &str, pod: &Value) {
        let (fate, address, missing) = {
            let rules = self.cluster.rules();
            let missing: BTreeSet<String> = images(pod)
                .filter(|image| rules.missing_images.contains(*image))
                .map(str::to_owned)
                .collect();
            ((rules.fate)(pod), (rules.address)(pod), missing)
        };
        let node = node_address(self.bound.get(uid).map_or(0, |(node, _)| *node));
        if fate == Fate::NeverStarts {
            self.write(name, |pod| status::creating(pod, node));
            self.waiting.push_back((name.clone(), Step::Start));
            return;
        }
        let address = address.unwrap_or_else(|| {
            self.addresses_given += 1;
            let [_, high, middle, low] = self.addresses_given.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, high, middle, low))
        });
        let state_of = |container: &Value| match container["image"].as_str() {
            Some(image) if missing.contains(image) => Container::ImageMissing,
            _ if fate == Fate::NeverReady => Container::NotReady,
            _ => Container::Ready,
        };
        self.write(name, |pod| status::started(pod, node, address, state_of));
        if !missing.is_empty() {
            let again = self.cluster.config.pull_again_after;
            self.after(again, name.clone(), Step::Start);
        }
    }

    /// Reports resources as resized where the spec has others than the status, or why they are not.
    fn reflect_resize(&mut self, name: &ObjectName) {
        let Ok(pod) = self.cluster.shared.store().get(&self.definition, name) else {
            return;
        };
        let pod = pod.value();
        if !status::is_to_be_resized(&pod) {
            return;
        }
        let fate = (self.cluster.rules().fate)(&pod);
        match fate {
            Fate::ResizeDeferred => {
                self.write(name, |pod| status::not_resized(pod, "Deferred"));
                self.waiting.push_back((name.clone(), Step::Resize));
            }
            Fate::ResizeInfeasible => {
                self.write(name, |pod| status::not_resized(pod, "Infeasible"));
            }
            Fate::Runs | Fate::NeverReady | Fate::NeverStarts | Fate::Unschedulable => {
                self.write(name, status::resized);
            }
        }
    }

    fn write(&mut self, name: &ObjectName, change: impl FnOnce(&mut Value)) {
        let mut store = self.cluster.shared.store();
        let before = store.revision();
        // It may have gone a moment ago.
        if let Ok(written) = store.rewrite(&self.definition, name, change)
            && written.revision > before
        {
            self.written.insert(written.revision);
        }
    }
}

fn images(pod: &Value) -> impl Iterator<Item = &str> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["image"].as_str())
}
