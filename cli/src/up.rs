//! `tradewind up`: a whole federation on one machine, as real processes.

mod control;
mod parts;
mod plan;
mod ports;
mod ready;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use api_client::Client;
use api_types::chain;
use rustix::process::{Signal, kill_process};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::control::{Reply, Request};
use self::parts::{Ended, Running, STOP_GRACE, is_ours, log_tail, process, programs};
use self::plan::{DNS_MAX, GLOBALS_MAX, Layout, Net, Part, REGION_NAMES, Role, Shape};
use self::ready::Ready;
use self::state::{Lock, State, write_by_rename};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind up                                    three regions, three global nodes, two DNS servers
  tradewind up --dir /tmp/f --net 127.1           a second federation beside the first
  tradewind up --dir /tmp/f --start fra           start a dead part again
  tradewind up --dir /tmp/f --stop                stop all parts; the data stays in /tmp/f

Everything listens on loopback. With --net X.Y: global nodes on X.Y.20.N:7400, gateways on
X.Y.(10+N).1:8080, DNS servers on X.Y.0.1:5300 and up. A part that dies is reported and
not restarted, so that failures can be tried. Logs are in DIR/logs.")]
pub struct Args {
    /// Folder for configuration, data and logs [default: ~/.local/share/tradewind/up]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// First two octets of all addresses
    #[arg(long, value_name = "X.Y", default_value = "127.0")]
    net: Net,
    /// Number of regions
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=REGION_NAMES.len() as i64))]
    regions: u8,
    /// Number of global nodes: odd, and fixed at the first start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(GLOBALS_MAX)))]
    globals: u8,
    /// Number of DNS servers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(DNS_MAX)))]
    dns: u8,
    /// Write names, addresses and pids to FILE once all parts are ready, and after each --start
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Tell the `up` that runs in DIR to start a dead part again
    #[arg(long, value_name = "NAME", group = "instead")]
    start: Option<String>,
    /// Stop all parts that run in DIR, also those that a killed `up` left running
    #[arg(long, group = "instead")]
    stop: bool,
    /// Show the parts that run in DIR; exits 0 only if an `up` runs there
    #[arg(long, group = "instead")]
    status: bool,
}

/// A federation that is not ready by then will not be: it takes seconds on a quiet machine.
const READY_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A daemon that starts answers `/healthz` in a second or two, RocksDB's recovery included.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Writing a line to a socket on this machine.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Nobody but an operator's few commands talks to `up.sock`.
const CONVERSATIONS_MAX: usize = 16;

pub async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => default_dir()?,
    };
    if args.status || args.stop || args.start.is_some() {
        let dir = fs::canonicalize(&dir)
            .with_context(|| format!("no federation was started in {}", dir.display()))?;
        let layout = Layout { dir };
        return match args.start {
            Some(name) => start_part(&layout, &name, output).await,
            None if args.stop => stop(&layout, output).await,
            None => status(&layout, output).await,
        };
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let dir = fs::canonicalize(&dir).with_context(|| format!("find {}", dir.display()))?;
    ensure!(
        plan::nameable(&dir),
        "{} is not UTF-8, so no configuration file can name it",
        dir.display()
    );
    let shape = Shape {
        net: args.net,
        regions: args.regions,
        globals: args.globals,
        dns: args.dns,
    };
    let ready_file = args.ready_file.map(std::path::absolute).transpose();
    let ready_file = ready_file.context("find the ready file's folder")?;
    federation(shape, Layout { dir }, ready_file, output).await
}

fn default_dir() -> anyhow::Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = data
        .filter(|data| data.is_absolute())
        .or_else(home)
        .context("HOME is not set; say where to keep things with --dir")?;
    Ok(base.join("tradewind/up"))
}

/// Starts everything, then keeps watch until told to stop.
async fn federation(
    shape: Shape,
    layout: Layout,
    ready_file: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let lock = Lock::take(&layout)?;
    let parts = plan::parts(shape, &layout);
    let programs = programs(&parts)?;
    check_earlier(&layout, shape)?;
    ports::check(&parts)?;
    for folder in ["config", "logs", "data"] {
        let folder = layout.dir.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    if let Some(file) = &ready_file {
        remove_if_there(file)?;
    }
    let control = control::listen(&layout.dir)?;
    let mut up = Up {
        running: Running::new(layout.clone(), programs),
        shape,
        layout,
        parts,
        pids: BTreeMap::new(),
        ready_file,
        ready: false,
        pending: Vec::new(),
        started: Instant::now(),
        output,
    };
    let outcome = match up.start_all() {
        Ok(()) => up.watch(&control, signals).await,
        Err(error) => Err(error),
    };
    up.end().await;
    drop(lock);
    outcome.map(|()| ExitCode::SUCCESS)
}

/// What an earlier `up` left: processes that must go first, a membership that cannot change.
fn check_earlier(layout: &Layout, shape: Shape) -> anyhow::Result<()> {
    let Some(state) = State::read(layout)? else {
        return Ok(());
    };
    let dir = layout.dir.display();
    let survivors = state.survivors(layout);
    if !survivors.is_empty() {
        let list: Vec<String> = survivors
            .iter()
            .map(|(name, pid)| format!("{name} (process {pid})"))
            .collect();
        bail!(
            "an earlier `tradewind up` in {dir} was killed and its parts run on: {}; \
             stop them with `tradewind up --dir {dir} --stop`, then start again",
            list.join(", ")
        );
    }
    ensure!(
        state.globals == shape.globals && state.net == shape.net,
        "{dir} holds a federation with --globals {} --net {}, which cannot change afterwards; \
         say so, or use another --dir",
        state.globals,
        state.net
    );
    Ok(())
}

fn remove_if_there(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

struct Signals {
    terminate: SignalStream,
    interrupt: SignalStream,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A request of another `tradewind up`, and where its answer goes.
struct Asked {
    request: Request,
    answer: oneshot::Sender<PendingReply>,
}

struct PendingReply {
    reply: Reply,
    /// Answer only once this process serves.
    once_healthy: Option<Part>,
}

impl From<Reply> for PendingReply {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            once_healthy: None,
        }
    }
}

struct Up {
    shape: Shape,
    layout: Layout,
    parts: Vec<Part>,
    running: Running,
    /// The last process of each part, living or not.
    pids: BTreeMap<String, u32>,
    ready_file: Option<PathBuf>,
    ready: bool,
    /// Parts to start once their ended process has been seen to end.
    pending: Vec<(String, oneshot::Sender<PendingReply>)>,
    started: Instant,
    output: Output,
}

impl Up {
    fn say(&self, text: &str) {
        self.output.note(&format!(
            "[{:5.1} s] {text}",
            self.started.elapsed().as_secs_f64()
        ));
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        self.say(&format!(
            "starting {} global nodes, {} DNS servers and {} regions in {}",
            self.shape.globals,
            self.shape.dns,
            self.shape.regions,
            self.layout.dir.display()
        ));
        for part in &self.parts {
            let pid = self.running.start(part)?;
            self.pids.insert(part.name.clone(), pid);
        }
        self.remember()
    }

    /// Until told to stop. An error is a start that failed.
    async fn watch(&mut self, control: &UnixListener, mut signals: Signals) -> anyhow::Result<()> {
        let mut becoming = Box::pin(become_ready(self.parts.clone(), self.output));
        let (asking, mut asked) = mpsc::channel::<Asked>(CONVERSATIONS_MAX);
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                name = signals.next() => {
                    self.say(&format!("{name}: stopping"));
                    return Ok(());
                }
                ended = self.running.ended() => self.ended(&ended)?,
                outcome = &mut becoming, if !self.ready => {
                    outcome?;
                    self.is_ready()?;
                }
                Some(asked) = asked.recv() => {
                    if asked.request == Request::Stop {
                        self.say("asked to stop");
                        let reply = Reply::Stopping { pid: std::process::id() };
                        let _asker_gone = asked.answer.send(reply.into());
                        // The asker gets its answer first; whoever waits for a part to start
                        // waits in vain.
                        let _not_all = tokio::time::timeout(ANSWER_PATIENCE, async {
                            while conversations.join_next().await.is_some() {}
                        })
                        .await;
                        return Ok(());
                    }
                    self.answer(asked);
                }
                Some(_) = conversations.join_next() => {}
                Ok((stream, _)) = control.accept(), if conversations.len() < CONVERSATIONS_MAX => {
                    conversations.spawn(converse(stream, asking.clone(), self.layout.clone()));
                }
            }
        }
    }

    fn ended(&mut self, ended: &Ended) -> anyhow::Result<()> {
        let name = &ended.name;
        let how = match &ended.status {
            Ok(status) => status.to_string(),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        let log = self.layout.log(name);
        if !self.ready {
            bail!(
                "{name} ended while starting ({how}); the end of {}:\n{}",
                log.display(),
                log_tail(&log)
            );
        }
        let dir = self.layout.dir.display();
        self.say(&format!(
            "{name} died ({how}); the rest carries on. Its log is {}; start it again with \
             `tradewind up --dir {dir} --start {name}`",
            log.display()
        ));
        let (now, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(pending, _)| pending == name);
        self.pending = later;
        for (name, answer) in now {
            self.start_again(&name, answer);
        }
        Ok(())
    }

    fn answer(&mut self, asked: Asked) {
        let reply = match asked.request {
            Request::Start(name) => return self.start_again(&name, asked.answer),
            Request::Status => Reply::Status {
                ready: self.ready,
                parts: Ready::new(&self.parts, self.running.pids()),
            },
            Request::Stop => Reply::Stopping {
                pid: std::process::id(),
            },
        };
        // The asker may have gone; nothing depends on it.
        let _asker_gone = asked.answer.send(reply.into());
    }

    fn start_again(&mut self, name: &str, answer: oneshot::Sender<PendingReply>) {
        let Some(part) = self.parts.iter().find(|part| part.name == name).cloned() else {
            let names: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
            let error = format!("there is no {name} here; there are {}", names.join(", "));
            let _asker_gone = answer.send(Reply::Error(error).into());
            return;
        };
        if !self.ready {
            let error = "the federation is still starting".to_owned();
            let _asker_gone = answer.send(Reply::Error(error).into());
            return;
        }
        if let Some(pid) = self.running.pid(name) {
            if is_ours(pid, &self.layout.config(name)) {
                let error = format!("{name} runs already (process {pid})");
                let _asker_gone = answer.send(Reply::Error(error).into());
            } else {
                // It has ended and its end is on the way here.
                self.pending.push((name.to_owned(), answer));
            }
            return;
        }
        let outcome = self.running.start(&part).and_then(|pid| {
            self.pids.insert(name.to_owned(), pid);
            self.say(&format!("started {name} again (process {pid})"));
            self.remember()?;
            self.write_ready_file()?;
            Ok(pid)
        });
        let answered = match outcome {
            Ok(pid) => PendingReply {
                reply: Reply::Started { pid },
                once_healthy: Some(part),
            },
            Err(error) => Reply::Error(format!("start {name}: {}", chain(error.as_ref()))).into(),
        };
        let _asker_gone = answer.send(answered);
    }

    fn is_ready(&mut self) -> anyhow::Result<()> {
        self.ready = true;
        self.write_ready_file()?;
        let ready = Ready::new(&self.parts, &self.pids);
        self.say("ready");
        if self.output.json {
            self.output.json(&ready);
            return Ok(());
        }
        self.output.text(&table(
            &["part", "process", "reach it at"],
            self.parts.iter().map(|part| {
                vec![
                    part.name.clone(),
                    self.pids.get(&part.name).copied().unwrap_or(0).to_string(),
                    reach(&part.role),
                ]
            }),
        ));
        self.output
            .text(&next_steps(&self.parts, &self.layout, self.shape));
        Ok(())
    }

    fn write_ready_file(&self) -> anyhow::Result<()> {
        let Some(file) = &self.ready_file else {
            return Ok(());
        };
        let ready = Ready::new(&self.parts, &self.pids);
        let text = serde_json::to_string_pretty(&ready).expect("plain data");
        write_by_rename(file, &text)
    }

    fn remember(&self) -> anyhow::Result<()> {
        let state = State {
            up_pid: std::process::id(),
            net: self.shape.net,
            globals: self.shape.globals,
            pids: self.pids.clone(),
            ready_file: self.ready_file.clone(),
        };
        state.write(&self.layout)
    }

    /// Stops every child and takes away what says that they run.
    async fn end(mut self) {
        let started = Instant::now();
        let running = std::mem::replace(
            &mut self.running,
            Running::new(self.layout.clone(), PathBuf::new()),
        );
        running.stop_all().await;
        self.pids.clear();
        let outcomes = [
            self.ready_file.as_deref().map_or(Ok(()), remove_if_there),
            self.remember(),
        ];
        for error in outcomes.into_iter().filter_map(Result::err) {
            self.say(&chain(error.as_ref()));
        }
        control::remove(&self.layout.dir);
        self.say(&format!(
            "stopped in {:.1} s; the data stays in {}",
            started.elapsed().as_secs_f64(),
            self.layout.dir.display()
        ));
    }
}

async fn become_ready(parts: Vec<Part>, output: Output) -> anyhow::Result<()> {
    let client = Client::new(&plan::apis(&parts))?;
    let http = crate::http::client()?;
    let started = Instant::now();
    let mut told = String::new();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let missing = match ready::look(&client, &http, &parts).await {
            Ok(()) => return Ok(()),
            Err(missing) => format!("{missing:#}"),
        };
        let elapsed = started.elapsed();
        if missing != told {
            output.note(&format!(
                "[{:5.1} s] waiting: {missing}",
                elapsed.as_secs_f64()
            ));
            told = missing;
        }
        ensure!(
            elapsed < READY_PATIENCE,
            "not ready after {} s: {told}; see the logs",
            READY_PATIENCE.as_secs()
        );
    }
}

/// Serves one connection of another `tradewind up`.
async fn converse(mut stream: UnixStream, asking: mpsc::Sender<Asked>, layout: Layout) {
    let request = match control::receive(&mut stream).await {
        Ok(request) => request,
        Err(error) => {
            let reply = Reply::Error(chain(error.as_ref()));
            // Whoever sent nonsense may be gone already.
            let _asker_gone = control::send(&mut stream, &reply).await;
            return;
        }
    };
    let (answer, answered) = oneshot::channel();
    if asking.send(Asked { request, answer }).await.is_err() {
        return;
    }
    let Ok(answer) = answered.await else { return };
    let mut reply = answer.reply;
    if let (Reply::Started { pid }, Some(part)) = (&reply, answer.once_healthy)
        && let Err(error) = until_healthy(&part, *pid, &layout).await
    {
        reply = Reply::Error(chain(error.as_ref()));
    }
    let _asker_gone = control::send(&mut stream, &reply).await;
}

async fn until_healthy(part: &Part, pid: u32, layout: &Layout) -> anyhow::Result<()> {
    let http = crate::http::client()?;
    let url = format!("{}/healthz", part.role.operations());
    let deadline = Instant::now() + START_PATIENCE;
    let name = &part.name;
    // Asked twice: a process that is just becoming its program has no command line for a moment.
    let mut was_gone = false;
    loop {
        let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await;
        if answer.is_ok_and(|response| response.status().is_success()) {
            return Ok(());
        }
        let log = layout.log(name);
        let gone = !is_ours(pid, &layout.config(name));
        ensure!(
            !(gone && was_gone),
            "{name} ended at once; the end of {}:\n{}",
            log.display(),
            log_tail(&log)
        );
        was_gone = gone;
        ensure!(
            Instant::now() < deadline,
            "{name} runs (process {pid}) but does not answer {url}; see {}",
            log.display()
        );
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn reach(role: &Role) -> String {
    match role {
        Role::Global { api } => api.clone(),
        Role::Dns { udp, http } => format!("{udp} (udp, tcp), http://{http}"),
        Role::Region { gateway, admin } => format!("http://{gateway}, admin http://{admin}"),
    }
}

fn next_steps(parts: &[Part], layout: &Layout, shape: Shape) -> String {
    let dir = layout.dir.display();
    let apis = plan::apis(parts).join(",");
    let dns = parts.iter().find_map(|part| match part.role {
        Role::Dns { udp, .. } => Some(udp),
        Role::Global { .. } | Role::Region { .. } => None,
    });
    let dig = dns.map_or_else(String::new, |udp| {
        format!(
            "  dig @{} -p {} shop.{} A +subnet=46.4.0.0/24   # as a client in Frankfurt\n",
            udp.ip(),
            udp.port(),
            plan::ZONE
        )
    });
    // The defaults of the command line are the nodes of the default net.
    let export = if shape.net == Net(127, 0) && shape.globals == 3 {
        String::new()
    } else {
        format!("  export TRADEWIND_API={apis}\n")
    };
    format!(
        "\nTry, in another terminal:\n{export}  tradewind deploy --app shop examples/python\n\
         \x20 tradewind invoke shop hello-python\n  tradewind regions\n{dig}\
         \x20 tradewind up --dir {dir} --start fra   # after kill -9 of its process\n\
         \x20 tradewind up --dir {dir} --stop        # or Ctrl-C here\n"
    )
}

async fn start_part(layout: &Layout, name: &str, output: Output) -> anyhow::Result<ExitCode> {
    let request = Request::Start(name.to_owned());
    match control::ask(&layout.dir, &request, START_PATIENCE * 2).await? {
        Reply::Started { pid } => {
            if output.json {
                output.json(&serde_json::json!({ "name": name, "pid": pid }));
            } else {
                output.text(&format!("{name} runs again (process {pid})\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Reply::Error(error) => bail!("{error}"),
        other => bail!("`tradewind up` answered {other:?}"),
    }
}

async fn status(layout: &Layout, output: Output) -> anyhow::Result<ExitCode> {
    let dir = layout.dir.display();
    if !Lock::is_held(layout)? {
        let survivors = State::read(layout)?.map(|state| state.survivors(layout));
        match survivors {
            Some(survivors) if !survivors.is_empty() => output.note(&format!(
                "no `tradewind up` runs in {dir}, but parts of a killed one do: {}; \
                 stop them with `tradewind up --dir {dir} --stop`",
                survivors
                    .iter()
                    .map(|(name, pid)| format!("{name} (process {pid})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            _ => output.note(&format!("no `tradewind up` runs in {dir}")),
        }
        return Ok(ExitCode::FAILURE);
    }
    match control::ask(&layout.dir, &Request::Status, Duration::from_secs(10)).await? {
        Reply::Status { ready, parts } if output.json => {
            output.json(&serde_json::json!({ "ready": ready, "parts": parts }));
        }
        Reply::Status { ready, parts } => {
            output.text(if ready { "ready\n" } else { "starting\n" });
            let globals = parts.globals.into_iter().map(|g| (g.name, g.pid, g.api));
            let dns = parts.dns.into_iter().map(|d| (d.name, d.pid, d.udp));
            let regions = parts
                .regions
                .into_iter()
                .map(|r| (r.name, r.pid, r.gateway));
            let rows = globals.chain(dns).chain(regions).map(|(name, pid, at)| {
                let state = if pid == 0 {
                    "dead".to_owned()
                } else {
                    pid.to_string()
                };
                vec![name, state, at]
            });
            output.text(&table(&["part", "process", "reach it at"], rows));
        }
        Reply::Error(error) => bail!("{error}"),
        other => bail!("`tradewind up` answered {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn stop(layout: &Layout, output: Output) -> anyhow::Result<ExitCode> {
    let dir = layout.dir.display();
    let deadline = Instant::now() + STOP_GRACE + Duration::from_secs(15);
    if Lock::is_held(layout)? {
        let reply = control::ask(&layout.dir, &Request::Stop, Duration::from_secs(10)).await?;
        let Reply::Stopping { pid } = reply else {
            bail!("`tradewind up` answered {reply:?}");
        };
        while Lock::is_held(layout)? {
            ensure!(
                Instant::now() < deadline,
                "`tradewind up` (process {pid}) does not end; kill it, then run this again"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        output.note(&format!("stopped the federation in {dir}"));
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = Lock::take(layout)?;
    let state = State::read(layout)?;
    let survivors = state
        .as_ref()
        .map_or_else(Vec::new, |state| state.survivors(layout));
    if let Some(file) = state.and_then(|state| state.ready_file) {
        remove_if_there(&file)?;
    }
    if survivors.is_empty() {
        output.note(&format!("nothing runs in {dir}"));
        return Ok(ExitCode::SUCCESS);
    }
    stop_survivors(layout, &survivors, output).await?;
    control::remove(&layout.dir);
    Ok(ExitCode::SUCCESS)
}

/// Ends processes that nobody waits for any more. Each is looked at again before each signal.
async fn stop_survivors(
    layout: &Layout,
    survivors: &[(String, u32)],
    output: Output,
) -> anyhow::Result<()> {
    for (signal, grace) in [
        (Signal::INT, STOP_GRACE),
        (Signal::KILL, Duration::from_secs(5)),
    ] {
        let living = || {
            survivors
                .iter()
                .filter(|(name, pid)| is_ours(*pid, &layout.config(name)))
        };
        for (name, pid) in living() {
            let process = process(*pid).context("a process id is positive")?;
            // It may end between the look and the signal.
            let _already_gone = kill_process(process, signal);
            output.note(&format!("{signal:?} to {name} (process {pid})"));
        }
        let deadline = Instant::now() + grace;
        while living().next().is_some() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        if living().next().is_none() {
            return Ok(());
        }
    }
    bail!("some processes do not end even on SIGKILL; see `ps`")
}
