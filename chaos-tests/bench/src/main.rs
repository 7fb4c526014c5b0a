//! Measures a local federation of real processes and prints a page for `docs/measurements`.
//!
//! What can be compared is compared within the run: a call through the gateway against the same
//! program called on its socket and through nginx, a cold start against the same program started by
//! hand. Figures never fail anything; they are written down.
//!
//! Arguments name what to measure: `calls`, `cold`, `writes`, `dns`. Without any it is all of these.
//! `replication`, which takes longer than they do together, is another page.

mod calls;
mod cpu;
mod function;
mod nginx;
mod queries;
mod replication;
mod spread;
mod writes;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;

const PARTS: [&str; 5] = ["calls", "cold", "writes", "dns", REPLICATION];

/// Measured only if it is asked for.
const REPLICATION: &str = "replication";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let unknown = asked.iter().find(|part| !PARTS.contains(&part.as_str()));
    ensure!(unknown.is_none(), "{unknown:?} is none of {PARTS:?}");
    let wanted = |part: &str| match asked.is_empty() {
        true => part != REPLICATION,
        false => asked.iter().any(|asked| asked == part),
    };

    let federation = Federation::start().await.context("start a federation")?;
    let (title, target) = match wanted(REPLICATION) {
        true => ("Replication", "bench-replication"),
        false => ("Baseline", "bench"),
    };
    println!("# {title}\n");
    println!("Three regions, three global nodes, two DNS servers and the load on one machine:");
    println!("{}. `make {target}` prints this page.\n", machine()?);
    if wanted("calls") {
        heading("Warm calls")?;
        calls::warm(&federation).await.context("warm calls")?;
    }
    if wanted("cold") {
        heading("Cold starts")?;
        calls::cold(&federation).await.context("cold starts")?;
    }
    if wanted("writes") {
        heading("Committed writes")?;
        writes::committed(&federation)
            .await
            .context("committed writes")?;
    }
    if wanted("dns") {
        heading("DNS")?;
        queries::answered(&federation).context("DNS queries")?;
    }
    if wanted(REPLICATION) {
        replication::measured(&federation)
            .await
            .context("replication")?;
    }
    Ok(())
}

/// Each part says what was measured, since parts are printed and quoted alone.
fn heading(part: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    // Cargo names the folder of a profile after it, except `dev`'s. The daemons are in the same one.
    let folder = program.parent().and_then(std::path::Path::file_name);
    let profile = match folder
        .context("a program is in a folder")?
        .to_string_lossy()
    {
        folder if folder == "debug" => "dev".into(),
        folder => folder,
    };
    let assertions = if cfg!(debug_assertions) { "on" } else { "off" };
    println!("## {part}\n");
    println!(
        "Cargo profile `{profile}`: our crates at optimisation level {}, debug assertions {assertions}.",
        env!("OPT_LEVEL")
    );
    Ok(())
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
