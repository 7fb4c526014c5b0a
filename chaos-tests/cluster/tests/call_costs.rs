//! What a hot call costs a gateway and a global node: system calls, threads woken, allocations and tasks
//! of the real processes. Fails when it grows.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::federation::binary;
use chaos_tests_cluster::{Federation, eventually};
use chaos_tests_machine::skip;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const NAME: &str = "a_hot_call_costs_no_more_than_it_did";

/// Calls that are counted, one after another on one connection.
const CALLS: u32 = 500;

/// What a process does by itself is counted for so long, and taken off.
const IDLE: Duration = Duration::from_secs(3);

const PATIENCE: Duration = Duration::from_secs(20);

/// What a hot call may cost at a door.
struct Bound {
    door: &'static str,
    /// All of them, futexes too.
    system_calls: f64,
    /// Locks that were contended, and threads that were woken.
    futexes: f64,
    /// Threads that went to sleep and were woken again.
    switches: f64,
    allocations: f64,
    bytes: f64,
    /// Begun.
    tasks: f64,
}

/// What was measured (docs/measurements/calls.md) and a little more. A busy machine adds switches and
/// futexes; what is allocated depends on the code, and a little on which wake-ups fall together.
const BOUNDS: [Bound; 3] = [
    Bound {
        door: "gateway",
        system_calls: 13.0,
        futexes: 5.0,
        switches: 8.0,
        allocations: 64.0,
        bytes: 680_000.0,
        tasks: 1.1,
    },
    Bound {
        door: "global node that leads",
        system_calls: 43.0,
        futexes: 18.0,
        switches: 18.0,
        allocations: 92.0,
        bytes: 690_000.0,
        tasks: 0.1,
    },
    Bound {
        door: "global node that follows",
        system_calls: 43.0,
        futexes: 18.0,
        switches: 18.0,
        allocations: 84.0,
        bytes: 690_000.0,
        tasks: 0.1,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_call_costs_no_more_than_it_did() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder for counts")?;
    let counter = Counter::build(folder.path())?;
    let environment: &[(&str, &OsStr)] = match &counter {
        Some(counter) => &[
            ("LD_PRELOAD", counter.library.as_os_str()),
            ("ALLOCATIONS_FOLDER", folder.path().as_os_str()),
        ],
        None => &[],
    };
    let programs = binary("tradewind")?;
    let programs = programs.parent().context("a program is in a folder")?;
    let federation = Federation::start_with(programs, 1, 1, environment).await?;
    federation.deploy("shop", "answering", &binary("examples/answering-function")?)?;
    let ready = federation.ready()?;
    let region = ready.regions.first().context("a region runs")?;
    let leader = leader(&federation).await?;
    let node = |leads: bool| {
        let mut nodes = ready.globals.iter();
        let node = nodes.find(|node| (node.name == leader) == leads);
        node.map(|node| (node.api.trim_start_matches("http://"), node.pid))
    };
    let doors = [
        (region.gateway.as_str(), region.pid),
        node(true).context("a node leads")?,
        node(false).context("a node follows")?,
    ];
    let mut too_many = Vec::new();
    for (bound, (address, pid)) in BOUNDS.iter().zip(doors) {
        let mut caller = Caller::connect(address).await?;
        for _ in 0..50 {
            caller.call().await?;
        }
        let mut counted = Vec::new();
        // Without a tracer, which makes many of its own.
        let before = switches(pid)?;
        let [switched] = measure(&mut caller, || Ok([switched(pid, &before)?])).await?;
        counted.push(("switches", switched, bound.switches));
        if let Some(counter) = &counter {
            let read = || counter.read(pid);
            let [allocations, bytes, tasks] = measure(&mut caller, read).await?;
            counted.push(("allocations", allocations, bound.allocations));
            counted.push(("bytes allocated", bytes, bound.bytes));
            counted.push(("tasks", tasks, bound.tasks));
        }
        if let Some(calls) = trace(&mut caller, pid, folder.path()).await? {
            let futexes = calls.get("futex").copied().unwrap_or_default();
            counted.push(("system calls", calls.values().sum(), bound.system_calls));
            counted.push(("futexes", futexes, bound.futexes));
            let often: Vec<_> = calls.iter().filter(|(_, calls)| **calls >= 0.1).collect();
            println!(
                "measured: {}: a hot call's system calls are {often:.1?}",
                bound.door
            );
        }
        for (what, count, most) in counted {
            let line = format!(
                "{}: {count:.2} {what} a hot call, at most {most}",
                bound.door
            );
            println!("measured: {line}");
            if count > most {
                too_many.push(line);
            }
        }
    }
    ensure!(too_many.is_empty(), "{too_many:#?}");
    Ok(())
}

/// How much the counts grow in a call, less what they grow in as much time without one.
async fn measure<const N: usize>(
    caller: &mut Caller,
    read: impl Fn() -> anyhow::Result<[u32; N]>,
) -> anyhow::Result<[f64; N]> {
    let (start, begun) = (read()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let (middle, idle) = (read()?, begun.elapsed());
    let begun = Instant::now();
    for _ in 0..CALLS {
        caller.call().await?;
    }
    let (end, took) = (read()?, begun.elapsed());
    Ok(std::array::from_fn(|index| {
        let grown = |from: &[u32; N], to: &[u32; N]| f64::from(to[index].wrapping_sub(from[index]));
        a_call(grown(&middle, &end), took, grown(&start, &middle), idle)
    }))
}

fn a_call(counted: f64, took: Duration, by_itself: f64, idle: Duration) -> f64 {
    let by_itself = by_itself / idle.as_secs_f64() * took.as_secs_f64();
    (counted - by_itself) / f64::from(CALLS)
}

/// System calls a call by name, less what the process does by itself. `None` where it may not be traced.
async fn trace(
    caller: &mut Caller,
    pid: i32,
    scratch: &Path,
) -> anyhow::Result<Option<BTreeMap<String, f64>>> {
    let Some(tracer) = Tracer::attach(pid, scratch).await? else {
        return Ok(None);
    };
    let begun = Instant::now();
    tokio::time::sleep(IDLE).await;
    let idle = begun.elapsed();
    let by_itself = tracer.detach().await?;
    let tracer = Tracer::attach(pid, scratch).await?;
    let tracer = tracer.context("it was allowed a moment ago")?;
    let begun = Instant::now();
    for _ in 0..CALLS {
        caller.call().await?;
    }
    let took = begun.elapsed();
    let counted = tracer.detach().await?.into_iter().map(|(name, count)| {
        let by_itself = by_itself.get(&name).copied().unwrap_or_default();
        let count = a_call(count, took, by_itself, idle);
        (name, count)
    });
    Ok(Some(counted.collect()))
}

async fn leader(federation: &Federation) -> anyhow::Result<String> {
    let api = federation.apis()?.into_iter().next().context("a node")?;
    let (leader, _) = eventually("a leader is known", PATIENCE, async || {
        let members = reqwest::get(format!("{api}/v1/members")).await?;
        let members: serde_json::Value = members.json().await?;
        let members = members["items"].as_array().context("items")?;
        let leader = members.iter().find(|member| member["role"] == "leader");
        let name = leader.and_then(|leader| leader["name"].as_str());
        name.map(str::to_owned).context("no node names a leader")
    })
    .await?;
    Ok(leader)
}

/// One connection that is kept.
struct Caller {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Caller {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        let request = format!(
            "POST /t/shop/answering HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5\r\n\r\nhello"
        );
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            request: request.into_bytes(),
        })
    }

    async fn call(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhello") {
            let read = self.stream.read_buf(&mut answer).await?;
            ensure!(read > 0, "closed: {}", String::from_utf8_lossy(&answer));
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }
}

/// Counts what programs allocate that it is preloaded into.
struct Counter {
    library: PathBuf,
    folder: PathBuf,
}

impl Counter {
    /// `None` where it cannot be built, which is said.
    fn build(folder: &Path) -> anyhow::Result<Option<Self>> {
        if cfg!(not(target_env = "gnu")) {
            skip(NAME, "allocations are counted with glibc alone");
            return Ok(None);
        }
        let (source, library) = (folder.join("allocations.c"), folder.join("allocations.so"));
        std::fs::write(&source, include_str!("call_costs/allocations.c"))?;
        let compiled = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        let Ok(compiled) = compiled else {
            skip(NAME, "there is no C compiler to count allocations with");
            return Ok(None);
        };
        ensure!(compiled.success(), "cc: {compiled}");
        let folder = folder.to_owned();
        Ok(Some(Self { library, folder }))
    }

    /// How many allocations the process has made, of how many bytes, and how many of them for tasks; each
    /// modulo 2^32, which is enough for differences.
    fn read(&self, pid: i32) -> anyhow::Result<[u32; 3]> {
        let file = self.folder.join(pid.to_string());
        let counts = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let mut words = counts.chunks_exact(8).map(|word| {
            let word: [u8; 8] = word.try_into().expect("a chunk has its size");
            u32::try_from(u64::from_ne_bytes(word) & u64::from(u32::MAX)).expect("32 bits")
        });
        let mut next = || words.next().context("there are three counts");
        Ok([next()?, next()?, next()?])
    }
}

/// `strace -c` of a process that runs.
struct Tracer {
    strace: Child,
    counts: PathBuf,
}

impl Tracer {
    /// `None` where it may not, which is said.
    async fn attach(pid: i32, scratch: &Path) -> anyhow::Result<Option<Self>> {
        let (counts, said) = (scratch.join("strace.txt"), scratch.join("strace.log"));
        let log = std::fs::File::create(&said).context("create strace's log")?;
        let strace = Command::new("strace")
            .args(["-f", "-c", "-q", "-p", &pid.to_string(), "-o"])
            .arg(&counts)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(strace) = strace else {
            skip(NAME, "strace is not installed");
            return Ok(None);
        };
        let mut tracer = Self { strace, counts };
        let (is_attached, _) = eventually("strace has attached", PATIENCE, async || {
            if tracer.strace.try_wait()?.is_some() {
                return Ok(false);
            }
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                ensure!(!status.contains("TracerPid:\t0"), "a thread is not traced");
            }
            Ok(true)
        })
        .await?;
        if !is_attached {
            let said = std::fs::read_to_string(said)?;
            ensure!(said.contains("Operation not permitted"), "strace: {said}");
            skip(NAME, "ptrace is not permitted");
            return Ok(None);
        }
        Ok(Some(tracer))
    }

    /// How many system calls there were, by name.
    async fn detach(mut self) -> anyhow::Result<BTreeMap<String, f64>> {
        self.interrupt()?;
        eventually("strace has ended", PATIENCE, async || {
            ensure!(self.strace.try_wait()?.is_some(), "it runs");
            Ok(())
        })
        .await?;
        let text = std::fs::read_to_string(&self.counts).context("read what strace counted")?;
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            // % time, seconds, usecs/call, calls, errors or nothing, name
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [_, _, _, calls, .., name] = fields[..]
                && name != "total"
                && let Ok(calls) = calls.parse()
            {
                counts.insert(name.to_owned(), calls);
            }
        }
        ensure!(!counts.is_empty(), "strace counted nothing: {text}");
        Ok(counts)
    }

    fn interrupt(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id")?, Signal::INT).context("end strace")
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Interrupted it lets its process go on.
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ended = self.interrupt();
            let _reaped = self.strace.wait();
        }
    }
}

/// Voluntary context switches of each thread: at each it slept and was woken.
fn switches(pid: i32) -> anyhow::Result<BTreeMap<OsString, u32>> {
    let mut switches = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        switches.insert(task.file_name(), count.context("no switches")?.parse()?);
    }
    Ok(switches)
}

/// Since `before`, without those of threads that have ended.
fn switched(pid: i32, before: &BTreeMap<OsString, u32>) -> anyhow::Result<u32> {
    let now = switches(pid)?;
    let since = now
        .iter()
        .map(|(task, count)| count.saturating_sub(before.get(task).copied().unwrap_or(0)));
    Ok(since.sum())
}
