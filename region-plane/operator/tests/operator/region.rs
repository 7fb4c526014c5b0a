//! An API server, a cluster and an operator of a test's own.

use std::fmt::Debug;
use std::time::Duration;

use chaos_tests_kube_api::cluster::ClusterConfig;
use chaos_tests_kube_api::{Calls, Cluster, KubeApi};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use region_plane_operator::plan::Rules;
use region_plane_operator::{Handle, Operator, Settings, Source, Status, connect};
use region_plane_resources::demand::{ClaimedPod, Code, Demand, DemandReply, FunctionDemand};
use region_plane_resources::{Function, FunctionSpec, Scaling, WarmPool, WarmPoolSpec};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Who the operator is to the server.
pub const OPERATOR: &str = "operator";

/// Threefold what the slowest of what is waited for takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Region {
    pub api: KubeApi,
    pub cluster: Cluster,
    pub client: Client,
    pub settings: Settings,
    tasks: JoinSet<()>,
}

/// One process, as it were.
pub struct Running {
    pub handle: Handle,
    pub stop: CancellationToken,
    sequence: std::sync::atomic::AtomicU64,
}

impl Region {
    pub async fn start() -> Self {
        let region = Self::bare().await;
        region.define();
        region
    }

    /// Without definitions of our resources.
    pub async fn bare() -> Self {
        let mut api = KubeApi::start().await.unwrap();
        let cluster = api.run_cluster(ClusterConfig::default()).unwrap();
        let client = api.client_in_process("tests");
        Self {
            api,
            cluster,
            client,
            settings: Settings {
                lease_ttl: Duration::from_secs(3),
                settle_for: Duration::from_millis(300),
                secret_kept_for: Duration::from_secs(1),
                creates_per_sec: 200,
                deletes_per_sec: 200,
                writes_per_sec: 500,
                rules: Rules {
                    surplus_after: Duration::from_millis(300),
                    never_ready_after: Duration::from_millis(500),
                    unschedulable_after: Duration::from_millis(100),
                    pool_empty_after: Duration::from_millis(300),
                },
                ..Settings::default()
            },
            tasks: JoinSet::new(),
        }
    }

    pub fn define(&self) {
        for crd in [Function::crd(), WarmPool::crd()] {
            self.api
                .install(serde_json::to_value(crd).unwrap())
                .unwrap();
        }
    }

    pub async fn operate(&mut self) -> Running {
        self.operate_as("one", Source::Objects).await
    }

    /// Until it leads.
    pub async fn operate_as(&mut self, identity: &str, source: Source) -> Running {
        let running = self.begin(identity, source);
        let mut status = running.handle.watch();
        let leads = status.wait_for(|status| status.leading && status.waiting_for.is_none());
        tokio::time::timeout(PATIENCE, leads)
            .await
            .unwrap_or_else(|_| panic!("it does not lead: {:?}", running.handle.status()))
            .unwrap();
        running
    }

    pub fn begin(&mut self, identity: &str, source: Source) -> Running {
        let client = connect(self.api.config(OPERATOR)).unwrap();
        let settings = Settings {
            identity: identity.to_owned(),
            ..self.settings.clone()
        };
        let operator = Operator::new(settings, client, source);
        let handle = operator.handle();
        let stop = CancellationToken::new();
        self.tasks.spawn(operator.run(stop.clone()));
        Running {
            handle,
            stop,
            sequence: 0.into(),
        }
    }

    /// A gateway that is heard and wants nothing, for as long as `operator` is there.
    pub fn idle_gateway(&mut self, operator: &Running) {
        let handle = operator.handle.clone();
        self.tasks.spawn(async move {
            for sequence in 0.. {
                let demand = Demand {
                    gateway: "idle".to_owned(),
                    boot: 1,
                    sequence,
                    functions: Vec::new(),
                    claims: Vec::new(),
                    finished: Vec::new(),
                    failures: Vec::new(),
                };
                // It may lead again, unless it is gone.
                let refused = handle.demand(demand).await.is_err();
                if refused && handle.watch().has_changed().is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// Has `operator` decide for this long, and once more, with a gateway that wants nothing.
    pub async fn decides_for(&self, operator: &Running, long: Duration) {
        let begun = tokio::time::Instant::now();
        let mut decided = operator.handle.watch();
        let mut odd = false;
        loop {
            let last = begun.elapsed() >= long;
            decided.mark_unchanged();
            // What is told again as it was is no reason to decide.
            let finished = ["not-there"];
            operator
                .demand(vec![], &[], &finished[..usize::from(odd)])
                .await;
            odd = !odd;
            decided.changed().await.unwrap();
            if last {
                return;
            }
        }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    pub fn functions(&self) -> Api<Function> {
        Api::default_namespaced(self.client.clone())
    }

    pub fn pools(&self) -> Api<WarmPool> {
        Api::default_namespaced(self.client.clone())
    }

    pub async fn function(&self, name: &str, change: impl FnOnce(&mut FunctionSpec)) {
        let mut spec = FunctionSpec {
            revision: 1,
            app_id: "APP".to_owned(),
            app_name: "app".to_owned(),
            fn_id: name[3..].to_ascii_uppercase(),
            fn_name: name.to_owned(),
            image: Some("localhost/tradewind/test-function:v1".to_owned()),
            bundle: None,
            memory_mb: 128,
            timeout_secs: 30,
            idle_timeout_secs: 30,
            config_secret: None,
            scaling: Scaling::default(),
            shape: String::new(),
            settings: settings(1),
        };
        change(&mut spec);
        let object = Function::new(name, spec);
        self.functions()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    pub async fn pool(&self, name: &str, size: i32) {
        let spec = WarmPoolSpec {
            runtime: "python3.11".to_owned(),
            image: "localhost/tradewind/runtime-python:dev".to_owned(),
            size,
            memory_mb: 128,
            cpu_millis: 100,
        };
        self.pools()
            .create(&PostParams::default(), &WarmPool::new(name, spec))
            .await
            .unwrap();
    }

    /// Names of the pods that are not going.
    pub async fn pod_names(&self) -> Vec<String> {
        self.living()
            .await
            .iter()
            .map(|pod| pod.name_any())
            .collect()
    }

    pub async fn living(&self) -> Vec<Pod> {
        let pods = self.pods().list(&ListParams::default()).await.unwrap();
        let living = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        pods.items.into_iter().filter(living).collect()
    }

    pub async fn running(&self) -> Vec<String> {
        let runs = |pod: &&Pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Running")
        };
        let pods = self.living().await;
        pods.iter().filter(runs).map(|pod| pod.name_any()).collect()
    }

    /// `count` running pods and no other.
    pub async fn until_running(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} pods run"), async || {
            let running = self.running().await;
            let all = self.pod_names().await;
            (running.len() == count && all.len() == count).then_some(running)
        })
        .await
    }

    pub async fn ready(&self, function: &str) -> (bool, String, String) {
        let object = self.functions().get(function).await.unwrap();
        let status = object.status.unwrap_or_default();
        let ready = status.conditions.first();
        ready.map_or((false, String::new(), String::new()), |ready| {
            (
                ready.status == "True",
                ready.reason.clone(),
                ready.message.clone(),
            )
        })
    }

    pub async fn until_reason(&self, function: &str, reason: &str) -> String {
        eventually(&format!("{function} is {reason}"), async || {
            let (_, stated, message) = self.ready(function).await;
            (stated == reason).then_some(message)
        })
        .await
    }

    pub async fn until_event(&self, reason: &str) -> Event {
        let events = Api::<Event>::default_namespaced(self.client.clone());
        eventually(&format!("an event {reason}"), async || {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.items
                .into_iter()
                .find(|event| event.reason.as_deref() == Some(reason))
        })
        .await
    }

    /// Writes of the operator, without those of its lease.
    pub fn writes(&self) -> u64 {
        let writes = Calls::writes().user(OPERATOR);
        let counts = self.api.counts();
        counts.of(&writes).requests
            - counts
                .of(&writes.resource("leases.coordination.k8s.io"))
                .requests
    }
}

impl Running {
    /// Stops, and waits until nothing of it is left.
    pub async fn end(self) {
        let mut status = self.handle.watch();
        self.stop.cancel();
        let ended = async { while status.changed().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    }

    pub async fn demand(
        &self,
        functions: Vec<FunctionDemand>,
        claims: &[(&str, &str)],
        finished: &[&str],
    ) -> DemandReply {
        let sequence = self
            .sequence
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let claims = claims.iter().map(|(pod, function)| ClaimedPod {
            pod: (*pod).to_owned(),
            function: (*function).to_owned(),
            settings: settings(1),
        });
        let demand = Demand {
            gateway: "gateway".to_owned(),
            boot: 1,
            sequence,
            functions,
            claims: claims.collect(),
            finished: finished.iter().map(|pod| (*pod).to_owned()).collect(),
            failures: Vec::new(),
        };
        self.handle.demand(demand).await.unwrap()
    }
}

pub fn settings(number: u64) -> String {
    region_plane_resources::settings_text(number)
}

pub fn wants(function: &str, wanted: u32) -> FunctionDemand {
    FunctionDemand {
        function: function.to_owned(),
        settings: settings(1),
        wanted,
        code: Code::Image,
    }
}

pub fn wants_bundle(function: &str, wanted: u32) -> FunctionDemand {
    FunctionDemand {
        code: Code::Bundle {
            runtime: "python3.11".to_owned(),
            memory_mb: 128,
        },
        ..wants(function, wanted)
    }
}

/// Looks for a second how often it comes to a decision, which is seldom with nothing to do. A rate is what
/// is promised, so this is a real second.
pub async fn decides_rarely(decided: &mut watch::Receiver<Status>) {
    let mut times = 0;
    let counting = async {
        loop {
            decided.changed().await.unwrap();
            times += 1;
        }
    };
    let _over = tokio::time::timeout(Duration::from_secs(1), counting).await;
    assert!(times < 20, "{times} times in a second");
}

/// Asks until there is an answer.
pub async fn eventually<T: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}
