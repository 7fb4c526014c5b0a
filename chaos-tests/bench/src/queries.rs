//! DNS queries, and what a server takes of a processor for each, by dnsperf over UDP.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;

use crate::cpu::{self, HEADINGS};

const SECONDS: &str = "5";

pub fn answered(federation: &Federation) -> anyhow::Result<()> {
    let server = federation
        .ready()?
        .dns
        .into_iter()
        .next()
        .context("a DNS server runs")?;
    let mut questions = tempfile::NamedTempFile::new().context("make the query file")?;
    for app in 0..1_000 {
        // About one in eleven asks for what does not exist, as in the field's measurements.
        let name = if app % 11 == 0 {
            format!("app{app}.at.fn.test")
        } else {
            format!("app{app}.fn.test")
        };
        writeln!(questions, "{name} A").context("write the query file")?;
    }
    println!("dnsperf over UDP for {SECONDS} s on the other core, 1,000 names, 9 % NXDOMAIN.");
    println!("The server's time on a processor is for each query.\n");
    println!("| queries/s | {HEADINGS} |");
    println!("|---|---|---|---|");
    let before = cpu::used(&[server.pid])?;
    let (host, port) = server.udp.rsplit_once(':').context("an address")?;
    let output = Command::new("dnsperf")
        .args([
            "-s", host, "-p", port, "-l", SECONDS, "-q", "256", "-c", "16", "-d",
        ])
        .arg(questions.path())
        .output()
        .context("run dnsperf, which `make setup` installs")?;
    let used = cpu::used(&[server.pid])?.since(before);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "dnsperf: {report}");
    let figure = |label: &str| -> anyhow::Result<&str> {
        let line = report
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        let figure = line.and_then(|rest| rest.split_whitespace().next());
        figure.with_context(|| format!("no {label:?} in {report}"))
    };
    let completed = figure("Queries completed:")?.parse().context("a count")?;
    let rate: f64 = figure("Queries per second:")?.parse().context("a rate")?;
    println!("| {rate:.0} | {} |\n", used.cells(completed)?);
    Ok(())
}
