//! Starting a federation, killing its parts and ending it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chaos_tests_machine::{Network, has_ended, wait_until_stopped};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::eventually;

/// What `tradewind up` writes when everything is up (docs/reference/interfaces.md).
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    pub zone: String,
    pub globals: Vec<GlobalProcess>,
    pub dns: Vec<DnsProcess>,
    pub regions: Vec<RegionProcess>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GlobalProcess {
    pub name: String,
    pub api: String,
    pub pid: i32,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DnsProcess {
    pub name: String,
    pub udp: String,
    pub http: String,
    pub pid: i32,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RegionProcess {
    pub name: String,
    pub gateway: String,
    pub admin: String,
    pub pid: i32,
}

/// Starting three planes on two busy cores; a quiet machine needs a few seconds.
const START_PATIENCE: Duration = Duration::from_secs(90);

pub struct Federation {
    dir: TempDir,
    up: Child,
    /// Given up last, when nothing listens there any more.
    network: Network,
    /// The folder of the programs that it runs.
    programs: PathBuf,
}

impl Federation {
    /// Starts three regions, three global nodes and two DNS servers on a network of their own and
    /// waits until they are ready.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_of(3, 2).await
    }

    /// The same with as many regions and DNS servers as are asked for.
    pub async fn start_of(regions: u8, dns: u8) -> anyhow::Result<Self> {
        let tradewind = binary("tradewind")?;
        let programs = tradewind.parent().context("a program is in a folder")?;
        Self::start_from(programs, regions, dns).await
    }

    /// The same by the programs in a folder. What it holds when a part is started is what runs.
    pub async fn start_from(programs: &Path, regions: u8, dns: u8) -> anyhow::Result<Self> {
        Self::start_with(programs, regions, dns, &[]).await
    }

    /// The same with more in the environment of every part.
    pub async fn start_with(
        programs: &Path,
        regions: u8,
        dns: u8,
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Self> {
        let network = Network::claim();
        let dir = tempfile::tempdir().context("make a folder for the federation")?;
        let log = std::fs::File::create(dir.path().join("up.log")).context("create the log")?;
        let up = Command::new(programs.join("tradewind"))
            .args([
                "up",
                "--net",
                &network.to_string(),
                "--regions",
                &regions.to_string(),
                "--globals",
                "3",
                "--dns",
                &dns.to_string(),
            ])
            .arg("--dir")
            .arg(dir.path().join("up"))
            .arg("--ready-file")
            .arg(dir.path().join("ready.json"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start tradewind up")?;
        let mut federation = Self {
            dir,
            up,
            network,
            programs: programs.to_owned(),
        };
        eventually("the ready file", START_PATIENCE, async || {
            if let Some(status) = federation.up.try_wait()? {
                bail!("tradewind up ended with {status}: {}", federation.log());
            }
            federation.ready()
        })
        .await?;
        Ok(federation)
    }

    /// The ready file as it stands.
    pub fn ready(&self) -> anyhow::Result<Ready> {
        let text = std::fs::read_to_string(self.dir.path().join("ready.json"))
            .context("read the ready file")?;
        serde_json::from_str(&text).context("parse the ready file")
    }

    /// What `up` and, at the end, its children printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// Where it is, and where nothing else on the machine is.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A scratch folder that lives as long as the federation.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The folder `up` runs in.
    #[must_use]
    pub fn up_dir(&self) -> PathBuf {
        self.dir.path().join("up")
    }

    /// The process id of a part by its name, as in `fra`, `global-1`, `dns-1`.
    pub fn pid(&self, name: &str) -> anyhow::Result<i32> {
        let ready = self.ready()?;
        let globals = ready.globals.iter().map(|part| (&part.name, part.pid));
        let dns = ready.dns.iter().map(|part| (&part.name, part.pid));
        let regions = ready.regions.iter().map(|part| (&part.name, part.pid));
        let mut parts = globals.chain(dns).chain(regions);
        let found = parts.find(|(part, _)| *part == name);
        found
            .map(|(_, pid)| pid)
            .with_context(|| format!("no part is named {name}"))
    }

    /// Kills a part with SIGKILL and waits until it is gone.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.end(name, Signal::KILL, Duration::from_secs(10)).await
    }

    /// Asks a part to stop, as by SIGTERM in a rolling restart, and waits until it has.
    pub async fn stop(&self, name: &str) -> anyhow::Result<()> {
        // A region finishes what is in flight within 22 s.
        self.end(name, Signal::TERM, Duration::from_secs(40)).await
    }

    async fn end(&self, name: &str, signal: Signal, patience: Duration) -> anyhow::Result<()> {
        let pid = self.pid(name)?;
        kill_process(process(pid)?, signal).with_context(|| format!("signal {name}"))?;
        eventually(&format!("{name} is gone"), patience, async || {
            ensure!(!alive(pid), "process {pid} lives");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Sends a part a signal. SIGSTOP has stopped all of it when this returns.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid(name)?;
        kill_process(process(pid)?, signal).with_context(|| format!("{signal:?} to {name}"))?;
        if signal == Signal::STOP {
            wait_until_stopped(pid.try_into()?).with_context(|| format!("stop {name}"))?;
        }
        Ok(())
    }

    /// Waits until a part's process, as it is in the ready file, has ended.
    pub async fn ended(&self, name: &str, patience: Duration) -> anyhow::Result<()> {
        let pid = self.pid(name)?;
        eventually(&format!("{name} ends"), patience, async || {
            ensure!(!alive(pid), "process {pid} lives");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Has the running `up` start a part again and waits until it has a new process.
    pub async fn start_again(&self, name: &str) -> anyhow::Result<()> {
        let before = self.pid(name)?;
        let output = self.tradewind([
            "up",
            "--dir",
            &self.up_dir().to_string_lossy(),
            "--start",
            name,
        ])?;
        ensure!(
            output.status.success(),
            "up --start {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        eventually(
            &format!("{name} has a new process"),
            Duration::from_secs(30),
            async || {
                let pid = self.pid(name)?;
                ensure!(
                    pid != before && alive(pid),
                    "the ready file still names process {pid}"
                );
                Ok(())
            },
        )
        .await?;
        Ok(())
    }

    /// Runs the CLI against this federation's global nodes.
    pub fn tradewind<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Output> {
        Command::new(self.programs.join("tradewind"))
            .args(args)
            .env("TRADEWIND_API", self.apis()?.join(","))
            .stdin(Stdio::null())
            .output()
            .context("run tradewind")
    }

    /// Runs the CLI and returns what it printed; fails with its complaint.
    pub fn tradewind_ok<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<String> {
        let output = self.tradewind(args)?;
        ensure!(
            output.status.success(),
            "tradewind failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn apis(&self) -> anyhow::Result<Vec<String>> {
        Ok(self
            .ready()?
            .globals
            .into_iter()
            .map(|global| global.api)
            .collect())
    }

    /// Deploys the Rust example under `app` as function `hello` with trigger `/hello`, and waits
    /// until every region holds it.
    pub fn deploy_hello(&self, app: &str) -> anyhow::Result<()> {
        self.deploy(app, "hello", &self.programs.join("hello-rust"))
    }

    /// Deploys a program under `app` as function `name` with trigger `/name`, and waits until every
    /// region holds it.
    pub fn deploy(&self, app: &str, name: &str, program: &Path) -> anyhow::Result<()> {
        let function = self.dir.path().join(name);
        std::fs::create_dir_all(&function).context("make the function's folder")?;
        std::fs::copy(program, function.join(name)).context("copy the program")?;
        let yaml = format!(
            "schema_version: 20180708\nname: {name}\nversion: 0.0.1\nruntime: executable\n\
             entrypoint: /function/{name}\n\
             triggers:\n- name: {name}\n  type: http\n  source: /{name}\n"
        );
        std::fs::write(function.join("func.yaml"), yaml).context("write func.yaml")?;
        self.tradewind_ok([
            OsStr::new("deploy"),
            OsStr::new("--app"),
            OsStr::new(app),
            function.as_os_str(),
        ])?;
        Ok(())
    }
}

impl Drop for Federation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- tradewind up printed:\n{}", self.log());
        }
        let parts: Vec<i32> = self.ready().map_or_else(
            |_| Vec::new(),
            |ready| {
                let globals = ready.globals.into_iter().map(|part| part.pid);
                let dns = ready.dns.into_iter().map(|part| part.pid);
                let regions = ready.regions.into_iter().map(|part| part.pid);
                globals.chain(dns).chain(regions).collect()
            },
        );
        // `up` stops its children when asked; what is left of them after a crash is killed here.
        if let Ok(pid) = i32::try_from(self.up.id())
            .map_err(anyhow::Error::from)
            .and_then(process)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.up.wait();
        for pid in parts.into_iter().filter(|pid| ours(*pid)) {
            if let Ok(pid) = process(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Whether a process exists and some thread of it has not ended.
#[must_use]
pub fn alive(pid: i32) -> bool {
    u32::try_from(pid).is_ok_and(|pid| !has_ended(pid))
}

/// Whether a process is one of our daemons: ids are reused, and no other process may be killed.
fn ours(pid: i32) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command
        .split('\0')
        .next()
        .is_some_and(|program| program.contains("tradewind-"))
}

fn process(pid: i32) -> anyhow::Result<Pid> {
    Pid::from_raw(pid).context("a process id is positive")
}

/// A program built beside this one.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    let folder = this.parent().context("a program is in a folder")?;
    // Tests are one folder below the programs that cargo builds.
    let folder = if folder.ends_with("deps") {
        folder.parent().context("deps is in a folder")?
    } else {
        folder
    };
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} is not built: run `make build` first",
        path.display()
    );
    Ok(path)
}
