//! Processes inside pods, found from outside: the one node is this machine.

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Kills, with SIGKILL, the one process in the pod of that uid whose program has that name.
///
/// # Errors
/// If there is none, which is so where pods run on other machines.
pub fn kill(pod_uid: &str, program: &str) -> anyhow::Result<i32> {
    let pid = find(pod_uid, program)?;
    let process = Pid::from_raw(pid).context("a process id is positive")?;
    kill_process(process, Signal::KILL).with_context(|| format!("kill {program}, {pid}"))?;
    Ok(pid)
}

/// Whether processes of pods can be seen from here: that of this pod can.
#[must_use]
pub fn visible(pod_uid: &str, program: &str) -> bool {
    find(pod_uid, program).is_ok()
}

/// Kilobytes of memory, resident, that a process in a pod has.
pub fn resident_kb(pod_uid: &str, program: &str) -> anyhow::Result<u64> {
    let pid = find(pod_uid, program)?;
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("read its status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next());
    kb.context("it has memory")?.parse().context("a number")
}

fn find(pod_uid: &str, program: &str) -> anyhow::Result<i32> {
    // With the cgroup driver of systemd hyphens are underscores.
    let marks = [
        format!("pod{pod_uid}"),
        format!("pod{}", pod_uid.replace('-', "_")),
    ];
    for entry in std::fs::read_dir("/proc").context("list processes")? {
        let name = entry.context("list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(groups) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            continue;
        };
        if !marks.iter().any(|mark| groups.contains(mark)) {
            continue;
        }
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = command.split('\0').next().unwrap_or_default();
        if first.rsplit('/').next() == Some(program) {
            return Ok(pid);
        }
    }
    bail!("no process {program} of pod {pod_uid} runs on this machine")
}
