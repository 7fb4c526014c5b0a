//! `tradewind invoke`.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api_client::Client;
use api_wire::FnBody;
use api_wire::call_headers::{CALL_ID, CLIENT, REGION};
use api_wire::fns::ErrorBody;
use http::HeaderName;
use serde::Serialize;

use crate::endpoints::invoke_endpoint;
use crate::names;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind invoke shop hello-python --body '{\"name\":\"Ada\"}'
  echo '{\"name\":\"Ada\"}' | tradewind invoke shop hello-python
  tradewind invoke shop hello-python --from 46.4.0.1 --verbose    as a client in Frankfurt

The call goes to the function's invoke endpoint. A global node chooses the region by the caller's
address, as DNS does.")]
pub struct Args {
    app: String,
    name: String,
    /// The request body [default: stdin, unless stdin is a terminal]
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// [default: application/json if the body is JSON, else text/plain]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Choose the region for this client address; only a global node on this machine accepts it
    #[arg(long, value_name = "IP")]
    from: Option<std::net::IpAddr>,
    /// Show the status, the region and the call id on stderr
    #[arg(long, short)]
    verbose: bool,
}

/// A call may wait for a cold start and a place before its own time begins.
const QUEUE_ALLOWANCE: Duration = Duration::from_secs(30);

/// Fn's own limit on a function's time (Fn contract 3.1).
const TIMEOUT_SECS_MAX: u64 = 300;

/// The result, with `--json`.
#[derive(Debug, Serialize)]
struct Called {
    status: u16,
    region: Option<String>,
    call_id: Option<String>,
    headers: BTreeMap<String, String>,
    body: String,
}

pub async fn run(args: Args, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let (_, _, function) = names::function(client, &args.app, &args.name).await?;
    let endpoint = invoke_endpoint(&function)
        .context("the function has no invoke endpoint; is this a global node?")?;
    let body = match args.body {
        Some(text) => text.into_bytes(),
        None if std::io::stdin().is_terminal() => Vec::new(),
        None => stdin()?,
    };
    let content_type = args.content_type.unwrap_or_else(|| {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
        let kind = if is_json {
            "application/json"
        } else {
            "text/plain"
        };
        kind.to_owned()
    });
    let mut request = crate::http::client()?
        .post(&endpoint)
        .timeout(patience(&function))
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body);
    if let Some(from) = args.from {
        request = request.header(CLIENT, from.to_string());
    }
    let response = request
        .send()
        .await
        .with_context(|| format!("call {endpoint}"))?;
    let status = response.status();
    let headers: BTreeMap<String, String> = response
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();
    let header = |name: HeaderName| headers.get(name.as_str()).cloned();
    let (region, call_id) = (header(REGION), header(CALL_ID));
    let bytes = response.bytes().await.context("read the answer")?;
    if args.verbose {
        output.note(&format!(
            "{status} from {}, call {}",
            region.as_deref().unwrap_or("no region"),
            call_id.as_deref().unwrap_or("without an id")
        ));
    }
    let failed = status.is_client_error() || status.is_server_error();
    if output.json {
        output.json(&Called {
            status: status.as_u16(),
            region,
            call_id,
            headers,
            body: String::from_utf8_lossy(&bytes).into_owned(),
        });
    } else if failed {
        let said = serde_json::from_slice::<ErrorBody>(&bytes).map_or_else(
            |_| String::from_utf8_lossy(&bytes).into_owned(),
            |body| body.message,
        );
        bail!("the call failed with {status}: {said}");
    } else {
        output.bytes(&bytes);
        if !bytes.ends_with(b"\n") && std::io::stdout().is_terminal() {
            output.text("\n");
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    /// The `fn` CLI cuts there; gateways refuse less (Fn contract 6.4).
    const BODY_BYTES_MAX: u64 = 10 << 20;
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(BODY_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .context("read stdin")?;
    if bytes.len() as u64 > BODY_BYTES_MAX {
        bail!("the body on stdin has more than {BODY_BYTES_MAX} bytes");
    }
    Ok(bytes)
}

fn patience(function: &FnBody) -> Duration {
    let secs = function.timeout.and_then(|secs| u64::try_from(secs).ok());
    Duration::from_secs(secs.unwrap_or(TIMEOUT_SECS_MAX)) + QUEUE_ALLOWANCE
}
