//! A function that does what it is told, for the tests: HTTP over a Unix socket (Fn contract 9)
//! with nothing between.
//!
//! The body of a call is a command: `headers`, `sleep MILLIS`, `until FILE` (exists), `wire STATUS`,
//! `http STATUS`, `large BYTES`, `fields COUNT`, `nest LEVELS home|code|opened-code`, `signals`,
//! `descriptors`, `exit`; anything else is echoed. Configuration `START` may be `exit`, `hang` or `slow`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match std::env::var("START").as_deref() {
        Ok("exit") => std::process::exit(3),
        Ok("hang") => std::future::pending::<()>().await,
        Ok("slow") => tokio::time::sleep(Duration::from_millis(700)).await,
        _ => {}
    }
    let listener = std::env::var("FN_LISTENER")?;
    let link = PathBuf::from(listener.trim_start_matches("unix:"));
    let folder = link.parent().unwrap_or(Path::new("/"));
    let socket = UnixListener::bind(folder.join("phonylsnr.sock"))?;
    std::os::unix::fs::symlink("phonylsnr.sock", &link)?;
    loop {
        let (stream, _) = socket.accept().await?;
        let served = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await;
        if let Err(error) = served {
            eprintln!("connection: {error}");
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let command = String::from_utf8_lossy(&body).into_owned();
    let (word, argument) = command.split_once(' ').unwrap_or((&command, ""));
    let number = argument.parse::<u16>().unwrap_or(0);
    let mut response = Response::builder()
        .header("Content-Type", "text/plain")
        .header("X-Pid", std::process::id().to_string());
    let mut text = body.clone();
    match word {
        "headers" => {
            let mut lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            lines.sort();
            text = lines.join("\n").into();
        }
        "sleep" => tokio::time::sleep(Duration::from_millis(number.into())).await,
        "until" => {
            // Polls, so that a test has nothing to tell but a file.
            while !Path::new(argument).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        "wire" => {
            response = response.status(StatusCode::from_u16(number).unwrap_or(StatusCode::OK));
        }
        "http" => {
            response = response
                .header("Fn-Http-Status", argument)
                .header("Fn-Http-H-X-Answer", "1");
        }
        "large" => text = vec![b'x'; argument.parse().unwrap_or(0)].into(),
        "fields" => {
            for field in 0..number {
                response = response.header(format!("X-Field-{field}"), "x");
            }
        }
        "nest" => {
            text = match nest(argument) {
                Ok(()) => Bytes::from_static(b"nested"),
                Err(error) => error.to_string().into(),
            }
        }
        "signals" => {
            text = std::fs::read("/proc/self/status")
                .unwrap_or_default()
                .into()
        }
        "descriptors" => {
            let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
            let targets: Vec<String> = open
                .flatten()
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .map(|target| target.display().to_string())
                .collect();
            text = targets.join("\n").into();
        }
        "exit" => std::process::exit(4),
        _ => {}
    }
    Ok(response
        .body(Full::new(text))
        .unwrap_or_else(|_| Response::new(Full::new(Bytes::from_static(b"bad command")))))
}

/// Makes folders in one another by paths that are always short.
fn nest(argument: &str) -> anyhow::Result<()> {
    let (levels, place) = argument.split_once(' ').unwrap_or((argument, "home"));
    let code = std::env::current_exe()?.with_file_name("");
    match place {
        "home" => std::env::set_current_dir(std::env::var("HOME")?)?,
        _ => std::env::set_current_dir(&code)?,
    }
    if place == "opened-code" {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&code, all)?;
    }
    for _ in 0..levels.parse::<usize>()? {
        std::fs::create_dir("d")?;
        std::env::set_current_dir("d")?;
    }
    Ok(())
}
