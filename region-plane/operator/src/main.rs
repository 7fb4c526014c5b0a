//! `tradewind-operator`: keeps one region's cluster in step, see the library.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use api_client::Client;
use api_types::chain;
use daemon::{HttpLimits, Shutdown, Unfit};
use region_plane_operator::config::Config;
use region_plane_operator::{Operator, Source, connect, http};
use region_plane_replica::{Replica, follow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

fn main() -> ExitCode {
    daemon::main("tradewind-operator", |config, shutdown| {
        Box::pin(run(config, shutdown))
    })
}

async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let global = Client::new(&config.globals).context("the list of global nodes")?;
    let opened = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || open(&config))
    };
    let replica = opened.await.context("open the data folder")??;
    let listener = daemon::bind(config.listen).context("the listener")?;
    let cluster = kube::Config::infer()
        .await
        .context("find the cluster; set KUBECONFIG, or run in one")?;
    let server = cluster.cluster_url.clone();
    let cluster = connect(cluster).context("the cluster's configuration")?;

    let process = format!("{:08x}", rand::random::<u32>());
    let settings = config.settings(&process);
    let revision = replica.read(|held| held.meta().map(|meta| meta.revision.0));
    info!(identity = settings.identity, namespace = settings.namespace, %server, revision, "operating");
    let operator = Operator::new(settings, cluster, Source::Replica(replica.clone()));
    let handle = operator.handle();

    let end = CancellationToken::new();
    let mut tasks = JoinSet::<anyhow::Result<()>>::new();
    tasks.spawn({
        let end = end.child_token();
        async move {
            follow(replica, global, end).await;
            Ok(())
        }
    });
    tasks.spawn({
        let end = end.child_token();
        let ready = handle.watch();
        let operations = daemon::operations(move || ready.borrow().readiness());
        let router = http::router(handle).merge(operations);
        let limits = HttpLimits {
            grace: Duration::from_secs(1),
            ..HttpLimits::default()
        };
        async move { Ok(daemon::serve(listener, router, end, limits).await?) }
    });
    let mut operating = JoinSet::new();
    operating.spawn(operator.run(shutdown.child_token()));

    let unasked = tokio::select! {
        // First: what ends because of it was asked to.
        biased;
        () = shutdown.cancelled() => None,
        Some(ended) = tasks.join_next() => Some(format!("{ended:?}")),
        Some(ended) = operating.join_next() => Some(format!("{ended:?}")),
    };
    shutdown.begin();
    // It gives up the lease, so that another need not wait for it to run out.
    while operating.join_next().await.is_some() {}
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
    anyhow::ensure!(
        unasked.is_none(),
        "a task ended unexpectedly: {}",
        unasked.unwrap_or_default()
    );
    Ok(())
}

fn open(config: &Config) -> anyhow::Result<Replica> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("make the data folder {}", config.data_dir.display()))?;
    let replica = Replica::open(&config.data_dir, config.region(), config.zone());
    replica.map_err(|error| Unfit::if_known(error.to_do(), error))
}
