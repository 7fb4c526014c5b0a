//! A function that does what the tests ask for, good or bad; also the launcher of its instances.

use std::convert::Infallible;
use std::io::{BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use api_types::{AppId, Config, Digest, FnId};
use fdk::{Bytes, Context, Response};
use region_plane_runtime::{
    CallRequest, Code, Instance as _, InstanceSpec, ProcessRuntime, ProcessSettings, Runtime as _,
    exec_instance_if_asked,
};

fn main() -> ExitCode {
    exec_instance_if_asked();
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("region") {
        region(args.next().expect("a bundle").into());
    }
    match std::env::var("BEHAVIOUR").unwrap_or_default().as_str() {
        "" => fdk::handle(behave),
        "exit" => ExitCode::FAILURE,
        "never-ready" => loop {
            std::thread::park();
        },
        "absolute-link" => {
            let link = listener();
            let socket = link.with_file_name("phonylsnr.sock");
            let _listening = UnixListener::bind(&socket).expect("a fresh directory");
            symlink(&socket, link).expect("a fresh directory");
            loop {
                std::thread::park();
            }
        }
        "raw" => raw(),
        other => panic!("there is no behaviour {other:?}"),
    }
}

/// By the header `behave`.
async fn behave(context: Context, body: Bytes) -> fdk::Result {
    let asked = context.header("behave").unwrap_or_default();
    let (what, argument) = asked.split_once(' ').unwrap_or((asked, ""));
    Ok(match what {
        "" => Response::from(body),
        "hang" => std::future::pending::<Infallible>()
            .await
            .to_string()
            .into(),
        "sleep-ms" => {
            std::thread::sleep(Duration::from_millis(argument.parse()?));
            "slept".into()
        }
        "crash" => std::process::abort(),
        "panic" => panic!("as asked"),
        "error" => return Err("as asked".into()),
        "answer-bytes" => vec![b'x'; argument.parse()?].into(),
        "pid" => std::process::id().to_string().into(),
        "read" => std::fs::read_to_string(argument)?.into(),
        "directory" => std::env::current_dir()?.display().to_string().into(),
        "environment" => {
            let lines: Vec<_> = context
                .config()
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            lines.join("\n").into()
        }
        "headers" => {
            let lines: Vec<_> = context
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {value:?}"))
                .collect();
            lines.join("\n").into()
        }
        "print" => {
            println!("{argument}");
            eprintln!("{argument} too");
            "printed".into()
        }
        "print-bytes" => {
            let line = "y".repeat(1000);
            for _ in 0..argument.parse::<usize>()? / 1000 {
                println!("{line}");
            }
            "printed".into()
        }
        // A process of its own, which holds the output open and does not know of its parent's end.
        "child" => {
            let child = Command::new("sleep").arg("1000").spawn()?;
            child.id().to_string().into()
        }
        // One that leaves its group, its session and its parent, and writes its number to a file.
        "daemon" => {
            let wait =
                format!("echo $$ > {argument}.new; mv {argument}.new {argument}; exec sleep 1000");
            let status = Command::new("setsid")
                .args(["--fork", "env", "-i", "/bin/sh", "-c", &wait])
                .status()?;
            status.to_string().into()
        }
        "parent" => std::os::unix::process::parent_id().to_string().into(),
        // Folders in one another, by paths that are always short.
        "nest" => {
            let (levels, folder) = argument.split_once(' ').ok_or("how many, and where")?;
            std::env::set_current_dir(folder)?;
            for _ in 0..levels.parse::<usize>()? {
                std::fs::create_dir("d")?;
                std::env::set_current_dir("d")?;
            }
            "nested".into()
        }
        "write" => {
            std::fs::write(argument, "x")?;
            "written".into()
        }
        "descriptors" => {
            let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")?
                .flatten()
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .map(|target| target.display().to_string())
                .collect();
            open.sort();
            open.join("\n").into()
        }
        other => return Err(format!("there is no behaviour {other:?}").into()),
    })
}

fn listener() -> PathBuf {
    let listener = std::env::var("FN_LISTENER").expect("it is a function");
    PathBuf::from(listener.strip_prefix("unix:").expect("it is a Unix socket"))
}

/// Serves one connection after the other, and answers each request with `RESPONSE`, where `CONNECTION`
/// is the number of the connection, and then does as `AFTERWARDS` says: `close`, or `wait` for the other
/// side to close. Of requests it reads what `READS` says: all, or `head`.
fn raw() -> ! {
    let link = listener();
    let listener = UnixListener::bind(link.with_file_name("lsnr.sock.tmp")).expect("it is fresh");
    symlink("lsnr.sock.tmp", link).expect("it is fresh");
    let mut response = std::env::var("RESPONSE").expect("a response");
    if response == "LARGE HEADERS" {
        // An environment variable has room for 128 KiB only.
        response = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    }
    if let Some(fields) = response.strip_prefix("FIELDS ") {
        let fields: usize = fields.parse().expect("a number");
        let fields: String = (1..fields)
            .map(|field| format!("X-{field}: y\r\n"))
            .collect();
        response = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok");
    }
    let afterwards = std::env::var("AFTERWARDS").unwrap_or_default();
    let whole = std::env::var("READS").as_deref() != Ok("head");
    for connection in 1.. {
        let (mut stream, _) = listener.accept().expect("it listens");
        let mut requests = BufReader::new(stream.try_clone().expect("a second handle"));
        let response = response.replace("CONNECTION", &format!("{connection:03}"));
        while read_request(&mut requests, whole) {
            if stream.write_all(response.as_bytes()).is_err() || afterwards == "close" {
                break;
            }
            if afterwards == "wait" {
                // Without reading: only its end is waited for.
                let mut ended = [rustix::event::PollFd::new(
                    &stream,
                    rustix::event::PollFlags::HUP,
                )];
                let _ended = rustix::event::poll(&mut ended, None);
                break;
            }
        }
    }
    unreachable!("there are enough numbers")
}

/// Whether there was one.
fn read_request(stream: &mut impl std::io::BufRead, whole: bool) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.is_empty() {
            if !whole {
                return true;
            }
            let mut body = vec![0; length];
            return stream.read_exact(&mut body).is_ok();
        }
    }
}

/// Starts one instance of the bundle, prints its process's number and waits to be killed.
fn region(bundle: PathBuf) -> ! {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let driver = ProcessRuntime::new(ProcessSettings::default()).expect("a short directory");
        let spec = InstanceSpec {
            app_id: AppId::new("A"),
            app_name: "shop".to_owned(),
            fn_id: FnId::new("F"),
            fn_name: "cart".to_owned(),
            memory_mb: 64,
            app_config: Config::new(),
            fn_config: Config::new(),
            settings: 1,
            image: String::new(),
            code: Code::Bundle {
                digest: Digest([0; 32]),
                folder: bundle,
            },
        };
        let instance = driver.start(spec).await.expect("it starts");
        let children = format!("/proc/{}/task", std::process::id());
        let children: String = std::fs::read_dir(children)
            .expect("it has threads")
            .map(|thread| thread.expect("it has threads").path().join("children"))
            .map(|children| std::fs::read_to_string(children).unwrap_or_default())
            .collect();
        let daemon = std::env::temp_dir().join("daemon");
        let request = CallRequest {
            call: api_types::CallId::new("CALL"),
            headers: [("behave", format!("daemon {}", daemon.display()))]
                .map(|(name, value)| {
                    (
                        name.parse().expect("a name"),
                        value.parse().expect("a value"),
                    )
                })
                .into_iter()
                .collect::<http::HeaderMap>()
                .into(),
            deadline: None,
            body: Bytes::new(),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        instance
            .call(request, deadline)
            .await
            .expect("it starts one");
        while !daemon.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let daemon = std::fs::read_to_string(daemon).expect("it is there");
        println!("{} {}", children.trim(), daemon.trim());
        std::future::pending().await
    })
}
