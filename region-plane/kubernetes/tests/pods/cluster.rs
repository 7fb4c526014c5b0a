//! A cluster whose pods are a runner and a function each, on an address of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use api_bundle::{Manifest, Tree};
use api_types::{AppId, Config, FnId, Platform};
use chaos_tests_kube_api::cluster::{Cluster as Kubelets, ClusterConfig};
use chaos_tests_kube_api::{Calls, KubeApi, Verb};
use chaos_tests_machine::Network;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use region_plane_kubernetes::{Identity, KubernetesRuntime, KubernetesSettings};
use region_plane_runner::protocol::{LISTEN_PORT, State};
use region_plane_runtime::{Code, InstanceSpec, PACKED};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{LONG, soon};

/// Who the driver is at the API server.
pub const GATEWAY: &str = "gateway";

const ADDRESS: &str = "tests/address";

pub struct Cluster {
    pub api: KubeApi,
    pub kubelets: Kubelets,
    pods: Api<core::Pod>,
}

/// The processes of a pod. Dropped, they are killed.
pub struct Pod {
    address: Ipv4Addr,
    runner: Process,
    function: Process,
    _files: TempDir,
}

struct Process(Child);

impl Process {
    fn kill(&mut self) {
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Pod {
    pub fn kill(&mut self) {
        self.function.kill();
        self.runner.kill();
    }

    pub fn kill_function(&mut self) {
        self.function.kill();
    }

    pub fn kill_runner(&mut self) {
        self.runner.kill();
    }

    /// As the kubelet does when the pod is deleted.
    pub fn terminate_runner(&self) {
        self.signal_runner(Signal::TERM);
    }

    /// As if its node were gone: nothing is closed, and nothing is answered any more.
    pub fn freeze_runner(&self) {
        self.signal_runner(Signal::STOP);
        chaos_tests_machine::wait_until_stopped(self.runner.0.id()).unwrap();
    }

    fn signal_runner(&self, signal: Signal) {
        let pid = Pid::from_raw(self.runner.0.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Returns once a call is inside the function.
    pub async fn has_call(&self) {
        let has_call = async { while !self.calls().await.0 {} };
        soon("a call", has_call).await;
    }

    /// Whether a call is inside the function, and how many have been.
    pub async fn calls(&self) -> (bool, u64) {
        let url = format!("http://{}:{LISTEN_PORT}/v1/state", self.address);
        let state = reqwest::get(url).await.unwrap().bytes().await.unwrap();
        let state: State = serde_json::from_slice(&state).unwrap();
        (state.running, state.calls)
    }
}

/// Every pod of this process has its own address there.
static NETWORK: LazyLock<Network> = LazyLock::new(Network::claim);
static NUMBER: AtomicU16 = AtomicU16::new(1);

impl Cluster {
    pub async fn start() -> Self {
        let mut api = KubeApi::start().await.unwrap();
        let kubelets = api.run_cluster(ClusterConfig::default()).unwrap();
        kubelets.set_address(|pod: &Value| {
            let address = pod["metadata"]["annotations"][ADDRESS].as_str()?;
            address.parse::<IpAddr>().ok()
        });
        let pods = Api::namespaced(api.client("operator"), "tradewind");
        Self {
            api,
            kubelets,
            pods,
        }
    }

    pub fn settings(&self, gateway: &str) -> KubernetesSettings {
        KubernetesSettings {
            gateway: Identity {
                name: gateway.to_owned(),
                boot: 1,
            },
            // The machine may be busy with other tests.
            hot_start_timeout: LONG,
            pod_start_timeout: LONG,
            ..KubernetesSettings::default()
        }
    }

    pub fn driver(&self) -> KubernetesRuntime {
        self.driver_with(|_| {})
    }

    pub fn driver_with(&self, change: impl FnOnce(&mut KubernetesSettings)) -> KubernetesRuntime {
        let mut settings = self.settings("one");
        change(&mut settings);
        KubernetesRuntime::new(settings, self.api.client(GATEWAY))
    }

    /// A pod that loads bundles of the runtime `executable`.
    pub async fn pool_pod(&self, name: &str, memory_mb: u64) -> Pod {
        let labels = json!({
            "tradewind.dev/kind": "pool",
            "tradewind.dev/pool": "executable",
            "tradewind.dev/runtime": "executable",
            "tradewind.dev/memory-mb": memory_mb.to_string(),
        });
        self.pod(name, labels, |files, runner| {
            runner.env("TRADEWIND_RUNNER_KIND", "pool");
            let mut launcher = Command::new(binary("tradewind-runner"));
            launcher
                .arg("launch")
                .env("TRADEWIND_RUNNER_CODE_DIR", files.join("code"));
            launcher
        })
        .await
    }

    /// A pod that runs the image of a function with these settings.
    pub async fn image_pod(&self, name: &str, function: &str, settings: u64) -> Pod {
        self.image_pod_that(name, function, settings, "").await
    }

    /// One whose function behaves so.
    pub async fn image_pod_that(
        &self,
        name: &str,
        function: &str,
        settings: u64,
        behaviour: &str,
    ) -> Pod {
        self.pod(name, image_labels(function, settings), |_, runner| {
            runner.env("TRADEWIND_RUNNER_KIND", "image");
            let mut container = Command::new(fake_function());
            container.env("BEHAVIOUR", behaviour);
            for (name, value) in [
                ("FN_FORMAT", "http-stream"),
                ("FN_FN_ID", "f"),
                ("FN_APP_ID", "a"),
                ("FN_MEMORY", "64"),
            ] {
                container.env(name, value);
            }
            container
        })
        .await
    }

    /// The cluster still shows a pod that was where this one is now: it is gone, and its address is
    /// used again.
    pub async fn image_pod_before(&self, now: &Pod, name: &str, function: &str, settings: u64) {
        self.create(name, image_labels(function, settings), now.address)
            .await;
    }

    async fn pod(
        &self,
        name: &str,
        labels: Value,
        container: impl FnOnce(&Path, &mut Command) -> Command,
    ) -> Pod {
        let files = tempfile::tempdir().unwrap();
        for folder in ["sockets", "code"] {
            std::fs::create_dir(files.path().join(folder)).unwrap();
        }
        let [third, fourth] = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = NETWORK.address(third, fourth);
        let sockets = files.path().join("sockets");
        // One that said it is another pod than the cluster has would be claimed by nobody.
        let uid = self.create(name, labels, address).await;
        let mut runner = Command::new(binary("tradewind-runner"));
        runner
            .env("TRADEWIND_POD_UID", uid)
            .env(
                "TRADEWIND_RUNNER_LISTEN",
                format!("{address}:{LISTEN_PORT}"),
            )
            .env("TRADEWIND_RUNNER_SOCKET_DIR", &sockets)
            .env("TRADEWIND_RUNNER_CODE_DIR", files.path().join("code"))
            .env("TRADEWIND_RUNNER_LEASE_MS", "1500")
            // As of an operator that gives pods a long grace.
            .env("TRADEWIND_RUNNER_GRACE_MS", LONG.as_millis().to_string())
            .stdin(Stdio::null());
        let function = container(files.path(), &mut runner)
            .env(
                "FN_LISTENER",
                format!("unix:{}", sockets.join("lsnr.sock").display()),
            )
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let function = Process(function);
        let runner = Process(runner.spawn().unwrap());
        Pod {
            address,
            runner,
            function,
            _files: files,
        }
    }

    /// The uid it gets.
    async fn create(&self, name: &str, mut labels: Value, address: Ipv4Addr) -> String {
        labels["app.kubernetes.io/managed-by"] = json!("tradewind");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": { ADDRESS: address },
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [
                    { "name": "function", "image": "function" },
                    { "name": "runner", "image": "runner" },
                ],
            },
        });
        let object = serde_json::from_value(object).unwrap();
        let created = self.pods.create(&PostParams::default(), &object).await;
        created.unwrap().metadata.uid.unwrap()
    }

    pub async fn delete(&self, name: &str) {
        self.pods
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// The driver must not write, whatever happens.
    pub fn assert_no_writes(&self) {
        let writes: Vec<_> = self
            .api
            .writes()
            .into_iter()
            .filter(|write| write.call.user == GATEWAY)
            .collect();
        assert_eq!(writes, []);
        let watches = Calls::all().user(GATEWAY).verbs(&[Verb::Watch]);
        let read = self.api.counts().of(&watches);
        assert!(read.requests > 0, "the driver is counted");
    }
}

/// A bundle as a region keeps it to send it on, of the function that does as it is asked.
pub struct Bundle {
    folder: TempDir,
    code: Code,
}

impl Bundle {
    pub fn new() -> Self {
        Self::with_entrypoint(&[fake_function().to_str().unwrap()])
    }

    pub fn with_entrypoint(entrypoint: &[&str]) -> Self {
        Self::built_for(&Platform::here().0, entrypoint)
    }

    pub fn built_for(platform: &str, entrypoint: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = Manifest {
            schema: 1,
            name: "cart".to_owned(),
            version: "1".to_owned(),
            runtime: "executable".to_owned(),
            platform: platform.to_owned(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            cmd: Vec::new(),
        };
        let mut tree = Tree::default();
        tree.add_bytes("function/data", b"here".to_vec(), false)
            .unwrap();
        let packed = std::fs::File::create(folder.path().join(PACKED)).unwrap();
        let digest = tree.pack(&manifest, packed).unwrap().digest;
        let manifest = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
        let code = Code::Bundle {
            digest,
            folder: folder.path().to_owned(),
        };
        Self { folder, code }
    }

    /// A shell's command that becomes the function after so many seconds.
    pub fn after_a_sleep(secs: u32) -> String {
        format!("sleep {secs} && exec {}", fake_function().display())
    }

    /// The region's copy is not what its digest says.
    pub fn spoil(&self) {
        std::fs::write(self.folder.path().join(PACKED), b"spoilt").unwrap();
    }

    /// The region cannot read its copy.
    pub fn lose(&self) {
        std::fs::remove_file(self.folder.path().join(PACKED)).unwrap();
    }

    pub fn spec(&self, id: &str, settings: u64) -> InstanceSpec {
        spec(id, settings, self.code.clone())
    }
}

pub fn image_spec(id: &str, settings: u64) -> InstanceSpec {
    spec(id, settings, Code::Image)
}

fn spec(id: &str, settings: u64, code: Code) -> InstanceSpec {
    InstanceSpec {
        app_id: AppId::new("APP"),
        app_name: "shop".to_owned(),
        fn_id: FnId::new(id),
        fn_name: "cart".to_owned(),
        memory_mb: 64,
        app_config: Config::new(),
        fn_config: Config::from([("LEVEL".to_owned(), "fn".to_owned())]),
        settings,
        image: "registry/cart:1".to_owned(),
        code,
    }
}

fn image_labels(function: &str, settings: u64) -> Value {
    json!({
        "tradewind.dev/kind": "image",
        "tradewind.dev/function": function,
        "tradewind.dev/settings": format!("{settings:016x}"),
    })
}

/// Built by `cargo build -p region-plane-runner`.
fn binary(name: &str) -> PathBuf {
    built(name, "cargo build -p region-plane-runner")
}

fn fake_function() -> PathBuf {
    built(
        "examples/fake_function",
        "cargo build -p region-plane-runtime --examples",
    )
}

fn built(name: &str, by: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join(name);
    assert!(
        built.exists(),
        "{} is missing: build it by `{by}`",
        built.display()
    );
    built
}

/// A URL at which nobody listens.
pub fn nowhere() -> String {
    format!("http://{}:9", NETWORK.address(255, 1))
}

/// A time limit that a test waits for the end of.
pub const A_WHILE: Duration = Duration::from_millis(300);
