//! DNS queries answered per second of a server's CPU, by dnsperf over UDP.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use chaos_tests_cluster::federation::DnsProcess;

const SECONDS: &str = "5";

pub fn answered(federation: &Federation) -> anyhow::Result<()> {
    if Command::new("dnsperf").arg("-h").output().is_err() {
        println!("## DNS\n\nSkipped: dnsperf is not installed (`make setup` installs it).");
        return Ok(());
    }
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
    println!("## DNS\n");
    println!("dnsperf over UDP for {SECONDS} s on the other core, 1,000 names, 9 % NXDOMAIN.\n");
    println!("| queries/s | queries per server CPU-second |");
    println!("|---|---|");
    let before = cpu_seconds(&server)?;
    let (host, port) = server.udp.rsplit_once(':').context("an address")?;
    let output = Command::new("dnsperf")
        .args([
            "-s", host, "-p", port, "-l", SECONDS, "-q", "256", "-c", "16", "-d",
        ])
        .arg(questions.path())
        .output()
        .context("run dnsperf")?;
    let used = cpu_seconds(&server)? - before;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "dnsperf: {report}");
    let figure = |label: &str| -> anyhow::Result<f64> {
        let line = report
            .lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .context("dnsperf's report")?;
        line.split_whitespace()
            .next()
            .context("a figure")?
            .parse()
            .context("a number")
    };
    let completed = figure("Queries completed:")?;
    println!(
        "| {:.0} | {:.0} |\n",
        figure("Queries per second:")?,
        completed / used
    );
    Ok(())
}

/// User and system time that a process has used.
fn cpu_seconds(server: &DnsProcess) -> anyhow::Result<f64> {
    // proc(5): utime and stime are fields 14 and 15, in ticks of 1/100 s; the command may have spaces.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid))
        .context("read the server's times")?;
    let (_, rest) = stat.rsplit_once(')').context("the command's end")?;
    let ticks = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u32>);
    Ok(f64::from(ticks.sum::<Result<u32, _>>().context("ticks")?) / 100.0)
}
