//! The handle of a running server, and its listener.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::config::{AuthInfo, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::{Body, Dropped, Shared, answer};
use crate::cluster::{Cluster, ClusterConfig};
use crate::count::{Counts, WriteSeen};
use crate::fault::Faults;
use crate::refusal::FailureStatus;
use crate::request::Calls;
use crate::resource::Target;
use crate::store::Write;
use crate::watching::WatchEnd;

/// The namespace that exists from the start, beside `default`.
pub const NAMESPACE: &str = "tradewind";

/// A running server. Dropping it ends its tasks and connections.
#[derive(Debug)]
pub struct KubeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Counts outages; connections end when it changes.
    outages: watch::Sender<u64>,
    tasks: JoinSet<()>,
}

impl KubeApi {
    /// Listens on a free port of 127.0.0.1, with the namespaces `default` and `tradewind`.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new());
        let outages = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), outages.subscribe()));
        let api = Self {
            shared,
            address,
            outages,
            tasks,
        };
        for name in ["default", NAMESPACE] {
            api.install(json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": name },
            }))
            .expect("namespaces are valid and the server is empty");
        }
        Ok(api)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for processes: `user` is who they will be counted as.
    pub fn kubeconfig(&self, user: &str) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{
                "name": "test",
                "context": { "cluster": "test", "user": user, "namespace": NAMESPACE },
            }],
            "clusters": [{ "name": "test", "cluster": { "server": self.url() } }],
            "users": [{ "name": user, "user": { "token": user } }],
        })
        .to_string()
    }

    /// What a client of `user` is made from; change it for other timeouts or no retries.
    pub fn config(&self, user: &str) -> Config {
        let url = self.url().parse().expect("an address makes a URL");
        let mut config = Config::new(url);
        NAMESPACE.clone_into(&mut config.default_namespace);
        config.auth_info = AuthInfo {
            token: Some(user.to_owned().into()),
            ..AuthInfo::default()
        };
        config
    }

    /// A client over HTTP that retries as every client of kube does.
    ///
    /// # Panics
    /// If kube can make no client from a plain HTTP address.
    pub fn client(&self, user: &str) -> Client {
        Client::try_from(self.config(user)).expect("a plain HTTP client needs nothing else")
    }

    /// A client without a socket and without retries.
    pub fn client_in_process(&self, user: &str) -> Client {
        let shared = Arc::clone(&self.shared);
        let bearer = http::HeaderValue::from_str(&format!("Bearer {user}"))
            .expect("a user's name is plain text");
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let shared = Arc::clone(&shared);
            let bearer = bearer.clone();
            async move {
                let (mut parts, body) = request.into_parts();
                parts.headers.insert(http::header::AUTHORIZATION, bearer);
                let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
                answer(&shared, Request::from_parts(parts, body)).await
            }
        });
        Client::new(service, NAMESPACE)
    }

    /// Creates an object past faults, counts and clients, such as a CRD before the test begins.
    ///
    /// # Errors
    /// As the server would refuse it.
    pub fn install(&self, object: Value) -> Result<(), FailureStatus> {
        let mut store = self.shared.store();
        let (group, version) = match object["apiVersion"].as_str().unwrap_or_default() {
            core if !core.contains('/') => (String::new(), core.to_owned()),
            grouped => {
                let (group, version) = grouped.split_once('/').expect("it has a slash");
                (group.to_owned(), version.to_owned())
            }
        };
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource = store
            .resource_of_kind(&group, kind)
            .ok_or_else(crate::refusal::unknown_path)?;
        let target = Target {
            resource,
            version,
            namespace: None,
            name: None,
            subresource: None,
        };
        let definition = store.definition(&target)?;
        let namespace = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or(NAMESPACE)
            .to_owned();
        let namespace = definition.namespaced.then_some(namespace.as_str());
        let write = Write {
            manager: "tests".to_owned(),
            subresource: None,
            dry_run: false,
        };
        store.create(&definition, namespace, object, &write)?;
        Ok(())
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Refuses every connection and breaks those there are, until [`KubeApi::end_outage`].
    pub fn begin_outage(&self) {
        self.shared.faults.set_outage(true);
        self.outages.send_modify(|outages| *outages += 1);
        self.shared.end_watches(&Calls::all(), WatchEnd::Dropped);
    }

    pub fn end_outage(&self) {
        self.shared.faults.set_outage(false);
    }

    pub fn counts(&self) -> Counts {
        self.shared.counters.snapshot()
    }

    /// The newest writes, at most a thousand, oldest first.
    pub fn writes(&self) -> Vec<WriteSeen> {
        self.shared.counters.writes()
    }

    /// How many watches of `calls` are open.
    pub fn watches(&self, calls: &Calls) -> usize {
        self.shared.watches(calls)
    }

    pub fn end_watches(&self, calls: &Calls, end: WatchEnd) {
        self.shared.end_watches(calls, end);
    }

    /// Refuses the initial events of watches, as servers before 1.34 do unless told otherwise.
    pub fn refuse_streaming_lists(&self) {
        self.shared.refuse_streaming_lists();
    }

    /// Forgets all history, so that a watch resumed from a version seen before gets 410. Watches
    /// under way go on.
    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Refuses to create more than `most` objects of a resource of the core group in a namespace.
    pub fn set_quota(&self, plural: &str, namespace: &str, most: usize) {
        let resource = crate::resource::ResourceKey {
            group: String::new(),
            plural: plural.to_owned(),
        };
        let key = (resource, namespace.to_owned());
        self.shared.store().quotas.insert(key, most);
    }

    /// How often watches get bookmarks; every 10 s unless set. Holds for watches begun later.
    pub fn set_bookmarks_every(&self, every: Duration) {
        self.shared.set_bookmark_every(every);
    }

    /// The resource version of the newest change of anything.
    pub fn revision(&self) -> u64 {
        self.shared.store().revision()
    }

    /// Starts the scheduler and the kubelets.
    ///
    /// # Errors
    /// If the nodes exist already.
    pub fn run_cluster(&mut self, config: ClusterConfig) -> Result<Cluster, FailureStatus> {
        let (cluster, run) = Cluster::new(Arc::clone(&self.shared), config);
        for node in cluster.nodes() {
            self.install(node)?;
        }
        self.tasks.spawn(run);
        Ok(cluster)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, outages: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else {
                    continue;
                };
                // Dropped at once: to the client it looks like a server that is going away.
                if shared.faults.is_outage() {
                    continue;
                }
                // Small answers must not wait for the acknowledgement of the one before.
                if socket.set_nodelay(true).is_err() {
                    continue;
                }
                let shared = Arc::clone(&shared);
                let mut outages = outages.clone();
                connections.spawn(async move {
                    outages.borrow_and_update();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let shared = Arc::clone(&shared);
                        async move { over_http(&shared, request).await }
                    });
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    tokio::select! {
                        // A client that closes, or a fault that closes on it, is nothing to report.
                        _ = connection => {}
                        _ = outages.changed() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn over_http(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    let body: Bytes = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    answer(shared, Request::from_parts(parts, body)).await
}
