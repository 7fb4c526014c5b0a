//! A DNS server's life: what starts, in which order, and how it stops.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use daemon::{HttpLimits, Shutdown};
use tokio::task::JoinSet;
use tracing::info;

use crate::config::Config;
use crate::follow;
use crate::handler::Handler;
use crate::sockets::{self, Sockets};
use crate::status::{self, Status};
use crate::steering::Setting;
use crate::view::Views;
use crate::view::disk::ViewFile;
use crate::zone::Zone;

/// Answers until it is asked to stop.
///
/// # Errors
/// If it cannot start, or a task ends unasked.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let setting = Arc::new(Setting::new(&config).context("open the world map")?);
    let zone =
        Zone::new(&config, Arc::clone(&setting)).context("the configured names were checked")?;
    let file = ViewFile::in_dir(&config.data_dir)?;
    let views = Arc::new(Views::default());
    follow::load(&file, &views, &setting);

    let handler = Handler::new(&config.name, zone, Arc::clone(&views));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sockets = config
        .listen
        .iter()
        .map(|addr| Sockets::bind(*addr, cores))
        .collect::<Result<Vec<_>, _>>()?;
    let connections_max = sockets::connections_max(sockets.len());
    let listen: Vec<_> = sockets.iter().map(Sockets::addr).collect();
    let http = daemon::bind(config.http_listen).context("listen for operators")?;
    info!(?listen, http = %http.local_addr()?, zone = setting.zone, "answering");

    let status = Status {
        name: config.name.clone(),
        listen,
        views: Arc::clone(&views),
        setting: Arc::clone(&setting),
    };
    let mut tasks = JoinSet::new();
    let stop = shutdown.child_token();
    for sockets in sockets {
        let (handler, stop) = (handler.clone(), stop.clone());
        tasks.spawn(async move {
            sockets.serve(connections_max, handler, stop).await;
            anyhow::Ok(())
        });
    }
    tasks.spawn({
        let stop = stop.clone();
        async move {
            let router = status::routes(status);
            daemon::serve(http, router, stop, HttpLimits::default()).await?;
            Ok(())
        }
    });
    tasks.spawn({
        let stop = stop.clone();
        async move {
            follow::follow(&config.name, &config.globals, file, views, setting, stop).await?;
            Ok(())
        }
    });

    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let asked = shutdown.is_cancelled();
        // None of these should stop first.
        stop.cancel();
        let ended = ended.context("a task panicked").and_then(|ended| ended);
        if result.is_ok() {
            result = ended;
        }
        ensure!(asked || result.is_err(), "a task ended unexpectedly");
    }
    result
}
