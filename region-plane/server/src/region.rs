//! A region's life: what starts, in which order, and how it stops.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api_client::Client;
use api_types::{FnId, chain};
use api_wire::call_headers::BY_GATEWAY;
use calls_forward::Forwarder;
use daemon::{HttpLimits, Shutdown, Unfit};
use region_plane_dispatch::Limits;
use region_plane_kubernetes::{Identity, KubernetesHandle, KubernetesRuntime, KubernetesSettings};
use region_plane_replica::{News, Replica, follow};
use region_plane_runtime::{ProcessRuntime, ProcessSettings};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::bundles::{Bundles, Form};
use crate::config::{Config, DNS_TTL_DEFAULT};
use crate::definitions::Definitions;
use crate::engine::{self, Engine};
use crate::gateway::{self, Counter, Gateway};
use crate::reporter::Reporter;
use crate::starting::{StartHealth, Starting};

/// Between looks at which functions changed: bounds the work of a bulk deploy.
const SETTINGS_PAUSE: Duration = Duration::from_millis(100);

/// Before a gateway stops accepting, it tells the operator that its pods are the next one's: when
/// clients turn to that one, no pods are made instead of them. Not earlier, since while both are
/// called both want pods. The operator hears of it within tens of milliseconds.
const HAND_OVER_BEFORE: Duration = Duration::from_millis(200);

/// Where instances run.
enum Driver {
    Processes(ProcessRuntime),
    Pods(KubernetesRuntime),
}

impl Driver {
    async fn new(config: &Config) -> anyhow::Result<Self> {
        let Some(kubernetes) = &config.kubernetes else {
            let socket_dir = &config.socket_dir;
            let processes = ProcessRuntime::new(ProcessSettings {
                socket_dir: (!socket_dir.as_os_str().is_empty()).then(|| socket_dir.clone()),
                hot_start_timeout: config.hot_start_timeout(),
                response_body_bytes_max: config.response_body_bytes_max,
                ..ProcessSettings::default()
            });
            return Ok(Self::Processes(processes.context("the process driver")?));
        };
        let client = kube::Client::try_default().await.context(
            "find the Kubernetes cluster: set KUBECONFIG, or run in a pod with a service account",
        )?;
        let settings = KubernetesSettings {
            namespace: kubernetes.namespace.clone(),
            operators: kubernetes.operators.clone(),
            gateway: identity(config).await?,
            hot_start_timeout: config.hot_start_timeout(),
            pod_start_timeout: kubernetes.pod_start_timeout(),
            response_body_bytes_max: config.response_body_bytes_max,
            ..KubernetesSettings::default()
        };
        Ok(Self::Pods(KubernetesRuntime::new(settings, client)))
    }
}

/// Who this gateway is. The replica has the folder for this process by now.
async fn identity(config: &Config) -> anyhow::Result<Identity> {
    let (folder, region) = (config.data_dir.clone(), config.name().to_string());
    let counted = tokio::task::spawn_blocking(move || {
        Identity::of_next_start(&folder, &region, rand::random())
    });
    Ok(counted.await.context("count the start")??)
}

/// Runs the region until it is asked to stop and has.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let at_once = shutdown.at_once();
    let client = Client::new(&config.globals).context("the list of global nodes")?;
    let opened = {
        let (config, client) = (config.clone(), client.clone());
        tokio::task::spawn_blocking(move || open(&config, client))
    };
    let (replica, bundles) = opened.await.context("open the data folder")??;
    let gateway_listener = daemon::bind(config.gateway_listen).context("the gateway")?;
    let admin_listener = daemon::bind(config.admin_listen).context("the admin listener")?;
    let driver = Driver::new(&config).await?;

    // Cancelled in this order.
    let stopping = CancellationToken::new();
    let gateway_end = CancellationToken::new();
    let end = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let limits = Limits {
        memory_budget_mb: config.memory_budget_mb,
        calls_max: config.calls_max,
        calls_target: config.calls_target(),
        queue_max: config.queue_max,
        settle_within: config.wait_max() / 2,
    };
    let (wait_max, engine_end) = (config.wait_max(), end.child_token());
    let starts = StartHealth::default();
    let (engine, pods) = match driver {
        Driver::Processes(runtime) => {
            let runtime = Starting::new(runtime, bundles.clone(), starts.clone());
            (
                engine::start(runtime, limits, wait_max, &mut tasks, engine_end),
                None,
            )
        }
        Driver::Pods(runtime) => {
            let pods = runtime.handle();
            let runtime = Starting::new(runtime, bundles.clone(), starts.clone());
            (
                engine::start(runtime, limits, wait_max, &mut tasks, engine_end),
                Some(pods),
            )
        }
    };
    let definitions = Arc::<Definitions>::default();
    let revision = replica.read(|held| held.meta().map(|meta| meta.revision.0));
    info!(region = %config.name(), revision, "serving");

    let admin = admin::router(Admin {
        replica: replica.clone(),
        engine: engine.clone(),
        pods: pods.clone(),
        starts,
        stopping: stopping.clone(),
    });
    let admin_limits = HttpLimits {
        grace: Duration::from_secs(1),
        descriptors_percent: 10,
        ..HttpLimits::default()
    };
    tasks.spawn({
        let end = end.child_token();
        async move { Ok(daemon::serve(admin_listener, admin, end, admin_limits).await?) }
    });
    tasks.spawn({
        let (replica, client, end) = (replica.clone(), client.clone(), end.child_token());
        async move {
            follow(replica, client, end).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (bundles, replica, end) = (bundles.clone(), replica.clone(), end.child_token());
        async move {
            bundles.reconcile(replica, end).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (engine, replica, end) = (engine.clone(), replica.clone(), end.child_token());
        let definitions = Arc::clone(&definitions);
        async move {
            tell_settings(engine, replica, &definitions, end).await;
            Ok(())
        }
    });
    let (dns_ttl, dns_ttl_heard) = watch::channel(DNS_TTL_DEFAULT);
    let reporter = Reporter {
        client,
        dns_ttl,
        replica: replica.clone(),
        bundles: bundles.clone(),
        engine: engine.clone(),
        registration: config.registration(),
        sizing: pods.as_ref().map(KubernetesHandle::sizing),
        stopping: stopping.clone(),
    };
    tasks.spawn({
        let end = end.child_token();
        async move {
            reporter.run(end).await;
            Ok(())
        }
    });

    let forwarder = Arc::new(Forwarder::new(BY_GATEWAY));
    let gateway = Arc::new(Gateway::new(gateway::Parts {
        forwarder: Arc::clone(&forwarder),
        replica,
        bundles,
        engine,
        definitions,
        request_body_bytes_max: config.request_body_bytes_max,
        port: config.gateway_listen.port(),
        stopping: stopping.clone(),
    }));
    let gateway_limits = HttpLimits {
        grace: config.calls_grace(),
        connections_max: config.connections_max(),
        proxies: config.proxy_protocol_from.clone(),
        // An instance has four, and a call that is handed on one.
        descriptors_percent: 50,
        ..HttpLimits::default()
    };
    tasks.spawn({
        let (forwarder, end) = (Arc::clone(&forwarder), end.child_token());
        async move {
            forwarder.tend(end).await;
            Ok(())
        }
    });
    let mut serving = JoinSet::new();
    serving.spawn(calls_door::serve(
        gateway_listener,
        move |caller| Counter::new(Arc::clone(&gateway), caller),
        gateway_end.child_token(),
        gateway_limits,
    ));

    let unasked = tokio::select! {
        () = shutdown.cancelled() => None,
        Some(ended) = tasks.join_next() => Some(format!("{ended:?}")),
        Some(ended) = serving.join_next() => Some(format!("{ended:?}")),
    };
    if unasked.is_none() {
        // Still accepting: those who have our address hold it for a while yet.
        stopping.cancel();
        let pause = config.drain_pause(*dns_ttl_heard.borrow());
        info!(
            ?pause,
            "taking calls until DNS answers with this region have expired"
        );
        let told = at_once.cancelled();
        let _sooner = tokio::time::timeout(pause.saturating_sub(HAND_OVER_BEFORE), told).await;
        if let Some(pods) = &pods {
            pods.hand_over();
            tokio::time::sleep(HAND_OVER_BEFORE.min(pause)).await;
        } else {
            let told = at_once.cancelled();
            let _sooner = tokio::time::timeout(HAND_OVER_BEFORE.min(pause), told).await;
        }
        gateway_end.cancel();
        while serving.join_next().await.is_some() {}
    }
    gateway_end.cancel();
    end.cancel();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(
                error = chain(error.as_ref()),
                "a task failed during shutdown"
            ),
            Err(error) => warn!(%error, "a task failed during shutdown"),
        }
    }
    serving.shutdown().await;
    anyhow::ensure!(
        unasked.is_none(),
        "a task ended unexpectedly: {}",
        unasked.unwrap_or_default()
    );
    Ok(())
}

fn open(config: &Config, client: Client) -> anyhow::Result<(Replica, Bundles)> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("make the data folder {}", config.data_dir.display()))?;
    let replica = Replica::open(&config.data_dir, config.region(), config.zone());
    let replica = replica.map_err(|error| Unfit::if_known(error.to_do(), error))?;
    let form = match config.kubernetes {
        None => Form::Unpacked,
        Some(_) => Form::Packed,
    };
    let bundles = Bundles::open(&config.data_dir, form, client)?;
    Ok((replica, bundles))
}

/// Tells the engine which functions changed, so that instances of what they were go: of all that may
/// be called here, since what came in a failover changes too.
async fn tell_settings(
    engine: Engine,
    replica: Replica,
    definitions: &Definitions,
    shutdown: CancellationToken,
) {
    let mut changed = replica.subscribe();
    // The engine has heard of none, so nothing that is not here need be told of.
    let mut told = BTreeSet::<FnId>::new();
    let mut position = 0;
    loop {
        let functions = changed.borrow_and_update().functions;
        let current: Vec<(FnId, Option<u64>)> = replica.read(|held| {
            let (news, now) = held.functions_since(position);
            position = now;
            let looked_at = match news {
                News::These(changed) => changed,
                News::All => {
                    let callable = held.callable().map(|function| function.id.clone());
                    callable.chain(std::mem::take(&mut told)).collect()
                }
            };
            let number = |id: &FnId| {
                // Only of what may be called here.
                held.order(id)?;
                let function = held.all().function(id)?;
                let app = held.all().app(&function.app_id)?;
                Some(definitions.number(app, function))
            };
            let numbers = looked_at.into_iter().map(|function| {
                let number = number(&function);
                (function, number)
            });
            numbers.collect()
        });
        for (function, settings) in current {
            match settings {
                Some(_) => told.insert(function.clone()),
                None => {
                    definitions.forget(&function);
                    told.remove(&function)
                }
            };
            engine.changed(function, settings).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            ended = changed.wait_for(|now| now.functions != functions) => {
                if ended.is_err() { return }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SETTINGS_PAUSE) => {}
        }
    }
}
