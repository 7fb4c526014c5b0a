//! A region: a server with a cluster, metadata, and operators.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use api_types::{
    Annotations, App, AppId, Fn, FnId, Location, Region as Place, Revision, Timestamp, Verdict,
};
use api_wire::view::{Envelope, MetadataBody, ViewId};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use chaos_tests_kube_api::cluster::ClusterConfig;
use chaos_tests_kube_api::{Calls, Cluster, Counts, KubeApi, Verb};
use kube::CustomResourceExt as _;
use region_plane_operator::{Handle, Operator, Settings, Source, Status};
use region_plane_replica::Replica;
use region_plane_resources::demand::Demand;
use region_plane_resources::{Function, WarmPool};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Kept hot of every function, so that pods are wanted without any gateway.
pub const PODS_EACH: usize = 4;

/// A minute converges the whole region on two cores that do nothing else.
pub fn patience() -> Duration {
    Duration::from_secs(180)
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answered = tokio::time::timeout(patience(), asking).await;
    answered.unwrap_or_else(|_| panic!("not in time: {what}"))
}

fn app(pods_each: usize) -> App {
    App {
        id: AppId::new("01APP"),
        name: "app".to_owned(),
        config: [("KEY".to_owned(), "value".to_owned())].into(),
        annotations: Annotations::from([(
            "tradewind.dev/scaling".to_owned(),
            format!("{{\"min\":{pods_each},\"max\":100}}"),
        )]),
        syslog_url: None,
        shape: String::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(5),
    }
}

fn function(at: usize) -> Fn {
    Fn {
        id: FnId::new(format!("01FN{at:05}")),
        name: format!("fn{at:05}"),
        app_id: AppId::new("01APP"),
        image: "localhost/tradewind/hello:1".to_owned(),
        memory: 128,
        timeout_secs: 30,
        idle_timeout_secs: 30,
        config: BTreeMap::new(),
        annotations: Annotations::new(),
        shape: String::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        revision: Revision(6),
    }
}

/// What the global plane offers a region.
fn snapshot(functions: usize, pods_each: usize) -> String {
    let app = app(pods_each);
    let functions: Vec<Fn> = (0..functions).map(function).collect();
    let objects = std::iter::once((&app).into()).chain(functions.iter().map(Into::into));
    let body = MetadataBody::of("fn.test", 8080, objects);
    let id = ViewId {
        cluster_id: "tests".to_owned(),
        epoch: 1,
        revision: 10,
        count: body.objects.len() as u64,
        sha256: String::new(),
    };
    let envelope = Envelope::seal(id, &body);
    format!(
        "{{\"id\":{},\"body\":{}}}",
        to_json(&envelope.id),
        to_json(&envelope.body)
    )
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

fn place() -> Place {
    Place {
        name: "fra".parse().unwrap(),
        ipv4: None,
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location: Location {
            latitude: 50.0,
            longitude: 8.0,
        },
        labels: BTreeMap::new(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(0),
    }
}

/// Answers what a replica asks: one snapshot, and a watch on which nothing happens.
async fn serve_metadata(tasks: &mut JoinSet<()>, functions: usize, pods_each: usize) -> SocketAddr {
    let snapshot = snapshot(functions, pods_each);
    let json = [(header::CONTENT_TYPE, "application/json")];
    let router = Router::new()
        .route("/v1/snapshot", get(move || async move { (json, snapshot) }))
        .route(
            "/v1/watch",
            get(|| async {
                std::future::pending::<()>().await;
            }),
        );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        axum::serve(listener, router).await.unwrap();
    });
    address
}

pub struct Region {
    pub api: KubeApi,
    pub cluster: Cluster,
    pub functions: usize,
    pub pods_each: usize,
    replica: Replica,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

/// An operator and how to end it.
pub struct Running {
    pub user: String,
    pub handle: Handle,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    /// Ends as on SIGTERM.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended.unwrap();
        }
    }

    /// A gateway that is heard and wants nothing, for as long as this operator is there.
    pub fn idle_gateway(&mut self) {
        let handle = self.handle.clone();
        self.task.spawn(async move {
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

    pub async fn until(&self, what: &str, holds: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.handle.watch();
        let reached = tokio::time::timeout(patience(), status.wait_for(holds)).await;
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("{what}: not in time: {:#?}", self.handle.status()),
        }
    }
}

impl Region {
    pub async fn start(functions: usize, pods_each: usize) -> Self {
        let region = Self::undefined(functions, pods_each, ClusterConfig::default()).await;
        region.define();
        region
    }

    /// Without definitions of our resources. There are nodes enough.
    pub async fn undefined(functions: usize, pods_each: usize, cluster: ClusterConfig) -> Self {
        let mut api = KubeApi::start().await.unwrap();
        let pods = functions * pods_each;
        let cluster = api
            .run_cluster(ClusterConfig {
                nodes: pods.div_ceil(100).max(3),
                ..cluster
            })
            .unwrap();
        let mut tasks = JoinSet::new();
        let metadata = serve_metadata(&mut tasks, functions, pods_each).await;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_owned();
        let replica = tokio::task::spawn_blocking(move || {
            Replica::open(&folder, place(), "fn.test".to_owned()).unwrap()
        })
        .await
        .unwrap();
        let client = api_client::Client::new(&[format!("http://{metadata}")]).unwrap();
        tasks.spawn(region_plane_replica::follow(
            replica.clone(),
            client,
            CancellationToken::new(),
        ));
        let mut position = replica.subscribe();
        tokio::time::timeout(
            patience(),
            position.wait_for(|position| position.revision.is_some()),
        )
        .await
        .unwrap()
        .unwrap();
        Self {
            api,
            cluster,
            functions,
            pods_each,
            replica,
            _dir: dir,
            _tasks: tasks,
        }
    }

    pub fn define(&self) {
        for crd in [Function::crd(), WarmPool::crd()] {
            self.api
                .install(serde_json::to_value(crd).unwrap())
                .unwrap();
        }
    }

    pub fn pods(&self) -> usize {
        self.functions * self.pods_each
    }

    /// Rates that do not hold a test up, and times that it need not wait for.
    pub fn settings(identity: &str) -> Settings {
        Settings {
            identity: identity.to_owned(),
            lease_ttl: Duration::from_secs(3),
            settle_for: Duration::from_secs(1),
            creates_per_sec: 5_000,
            deletes_per_sec: 5_000,
            writes_per_sec: 5_000,
            ..Settings::default()
        }
    }

    pub fn operator(&self, settings: Settings) -> Running {
        let user = settings.identity.clone();
        let client = region_plane_operator::connect(self.api.config(&user)).unwrap();
        let operator = Operator::new(settings, client, Source::Replica(self.replica.clone()));
        let handle = operator.handle();
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(operator.run(shutdown.clone()));
        Running {
            user,
            handle,
            shutdown,
            task,
        }
    }

    /// Waits until every function has its pods, and nothing is under way.
    pub async fn converged(&self, operator: &Running) -> Status {
        let (functions, pods) = (self.functions, self.pods());
        let status = operator
            .until("every pod runs", |status| {
                status.functions == functions
                    && status.pods.running == pods
                    && status.pods.deleting == 0
                    && status.writes_in_flight == 0
            })
            .await;
        // A condition is written a plan later than the last pod runs.
        self.quiet(&operator.user, Duration::from_millis(500)).await;
        status
    }

    /// Waits until `user` has written nothing but its lease for this long: that it stops is what is promised,
    /// and it writes from timers too, of which no event tells that they did nothing.
    pub async fn quiet(&self, user: &str, long: Duration) {
        let start = Instant::now();
        let mut counted = self.writes_of(user);
        let mut since = Instant::now();
        while since.elapsed() < long {
            assert!(start.elapsed() < patience(), "{user} never stops writing");
            // What nothing announces has to be looked at now and then.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.writes_of(user);
            if now != counted {
                counted = now;
                since = Instant::now();
            }
        }
    }

    fn writes_of(&self, user: &str) -> u64 {
        object_writes(&self.api.counts(), user)
    }
}

/// Writes of `user` that are not of its lease. Events count: each is an object that is stored.
pub fn object_writes(counts: &Counts, user: &str) -> u64 {
    let writes = Calls::writes().user(user);
    let leases = writes.clone().resource("leases.coordination.k8s.io");
    counts.of(&writes).requests - counts.of(&leases).requests
}

pub fn events_told(counts: &Counts, user: &str) -> u64 {
    let events = Calls::writes().user(user).resource("events.events.k8s.io");
    counts.of(&events).requests
}

/// Requests of one verb and resource, all of which must have changed something.
#[track_caller]
pub fn assert_each_counted(counts: &Counts, user: &str, verb: Verb, resource: &str, want: usize) {
    let tally = counts.of(&Calls::all().user(user).verbs(&[verb]).resource(resource));
    let got = (tally.requests, tally.changed, tally.refused);
    let want = want as u64;
    assert_eq!(
        got,
        (want, want, 0),
        "{} {resource}\n{counts}",
        verb.as_str()
    );
}

#[track_caller]
pub fn assert_no_object_writes(counts: &Counts, user: &str, when: &str) {
    assert_eq!(object_writes(counts, user), 0, "{when}\n{counts}");
}
