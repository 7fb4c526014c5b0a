//! Measures a local federation of real processes and prints a page for `docs/measurements`.
//!
//! What can be compared is compared within the run: a call through the gateway against the same
//! program called on its socket, a cold start against the same program started by hand. Figures
//! never fail anything; they are written down.

mod calls;
mod function;
mod queries;
mod replication;
mod spread;
mod writes;

use anyhow::Context as _;
use chaos_tests_cluster::Federation;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let federation = Federation::start()
        .await
        .context("start a federation")?;
    if std::env::args().nth(1).as_deref() == Some("replication") {
        println!("# Replication\n");
        println!("Three regions, three global nodes and two DNS servers on one machine:");
        println!("{}. Build: {}.", machine()?, profile());
        println!("`make bench-replication` prints this page.\n");
        return replication::measured(&federation).await;
    }
    println!("# Baseline\n");
    println!("Three regions, three global nodes, two DNS servers and the load on one machine:");
    println!("{}.", machine()?);
    println!(
        "Build: the dev profile, our crates at optimisation level 1, dependencies at 2. `make bench` prints this page.\n"
    );
    calls::warm(&federation).await.context("warm calls")?;
    calls::cold(&federation).await.context("cold starts")?;
    writes::committed(&federation)
        .await
        .context("committed writes")?;
    queries::answered(&federation).context("DNS queries")?;
    Ok(())
}

/// Of this program, which is built with those it measures.
fn profile() -> &'static str {
    match cfg!(debug_assertions) {
        true => "the development profile",
        false => "the release profile",
    }
}

fn machine() -> anyhow::Result<String> {
    let cpus = std::thread::available_parallelism().context("count cores")?;
    let info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("read the kernel's release")?;
    Ok(format!(
        "{cpus} cores ({}), Linux {}",
        model.trim_start_matches(['\t', ':', ' ']),
        kernel.trim()
    ))
}
