//! `tradewind regions`, `replication`, `explain`, `members`.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api_client::Client;
use api_types::{RegionName, Verdict};
use api_wire::Page;
use api_wire::fns::ErrorBody;
use api_wire::planes::{Explanation, FollowingBody, VerdictBody};
use clap::Subcommand;

use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind regions              show verdicts and load
  tradewind regions drain fra    send its clients to other regions until `undrain fra`")]
pub struct RegionsArgs {
    #[command(subcommand)]
    command: Option<RegionsCommand>,
}

#[derive(Debug, Subcommand)]
enum RegionsCommand {
    /// List regions (the default)
    List,
    /// Send no new clients to a region; it finishes the calls that it has
    Drain { name: RegionName },
    /// Send clients to a drained region again
    Undrain { name: RegionName },
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tradewind explain shop.fn.test --from 46.4.0.1
  tradewind explain shop.fn.test --from 46.4.0.1 --dns 127.0.0.1:5380    ask that DNS server")]
pub struct ExplainArgs {
    /// A name in the zone, such as shop.fn.test or invoke.fn.test
    name: String,
    /// Address of the client, or of its resolver if the resolver sends no client subnet
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// Ask this DNS server (its HTTP address) instead of a global node
    #[arg(long, value_name = "HOST:PORT")]
    dns: Option<String>,
}

fn verdict(verdict: VerdictBody) -> String {
    Verdict::from(verdict).to_string()
}

pub async fn regions(
    args: RegionsArgs,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let (region, done) = match args.command {
        None | Some(RegionsCommand::List) => {
            list_regions(client, output).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(RegionsCommand::Drain { name }) => (
            client.drain(&name).await,
            format!(
                "{name} drains: new clients go elsewhere within seconds; undo with `tradewind regions undrain {name}`"
            ),
        ),
        Some(RegionsCommand::Undrain { name }) => (
            client.undrain(&name).await,
            format!("{name} is given clients again"),
        ),
    };
    let region = region?.object;
    if output.json {
        output.json(&region);
    } else {
        output.text(&format!("{done}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_regions(client: &Client, output: Output) -> anyhow::Result<()> {
    let regions = client.regions().await?;
    if output.json {
        output.json(&Page::whole(regions));
        return Ok(());
    }
    let rows = regions.into_iter().map(|region| {
        let labels: Vec<String> = region
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let load = region.load;
        vec![
            region.name,
            verdict(region.verdict),
            format!("{} ms", region.price_ms),
            format!(
                "{} of {} (target {})",
                load.current, load.capacity, load.target
            ),
            region.revision.to_string(),
            format!("{} ms", region.lag_ms),
            followed(region.following.as_ref()),
            region.gateway,
            labels.join(" "),
        ]
    });
    let headings = [
        "region",
        "verdict",
        "price",
        "load",
        "revision",
        "lag",
        "following",
        "gateway",
        "labels",
    ];
    output.text(&table(&headings, rows));
    Ok(())
}

pub async fn replication(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let replication = client.replication().await?;
    if output.json {
        output.json(&replication);
        return Ok(ExitCode::SUCCESS);
    }
    output.text(&format!(
        "the global plane is at revision {}\n\n",
        replication.revision
    ));
    let rows = replication.items.into_iter().map(|item| {
        let reported = item.reported_ms_ago;
        vec![
            item.region,
            verdict(item.verdict),
            item.revision.to_string(),
            format!("{} ms", item.lag_ms),
            followed(item.following.as_ref()),
            item.bundles_missing.len().to_string(),
            reported.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago")),
        ]
    });
    let headings = [
        "region",
        "verdict",
        "revision",
        "lag",
        "following",
        "bundles missing",
        "reported",
    ];
    output.text(&table(&headings, rows));
    Ok(ExitCode::SUCCESS)
}

/// Whether a region follows the global plane, and what it took to.
fn followed(following: Option<&FollowingBody>) -> String {
    let Some(following) = following else {
        return "unknown".to_owned();
    };
    let mut text = match &following.problem {
        None if following.behind_ms > 0 => format!("{} s behind", following.behind_ms / 1000),
        None => "yes".to_owned(),
        Some(problem) => format!("not for {} s: {problem}", following.silent_ms / 1000),
    };
    if following.forced_snapshots > 0 {
        text += &format!(" ({} forced snapshots)", following.forced_snapshots);
    }
    text
}

pub async fn members(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let members = client.members().await?;
    if output.json {
        output.json(&Page::whole(members));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = members.into_iter().map(|member| {
        vec![
            member.name,
            member.role,
            member.revision.to_string(),
            member.api,
        ]
    });
    output.text(&table(&["member", "role", "revision", "api"], rows));
    Ok(ExitCode::SUCCESS)
}

pub async fn explain(
    args: ExplainArgs,
    client: impl FnOnce() -> anyhow::Result<Client>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let explanation = match &args.dns {
        None => client()?.explain(&args.name, args.from).await?,
        Some(address) => explain_by_dns(address, &args.name, args.from).await?,
    };
    if output.json {
        output.json(&explanation);
    } else {
        output.text(&explained(explanation));
    }
    Ok(ExitCode::SUCCESS)
}

async fn explain_by_dns(address: &str, name: &str, from: IpAddr) -> anyhow::Result<Explanation> {
    let url = format!("http://{address}/v1/explain");
    let response = crate::http::client()?
        .get(&url)
        .query(&[("name", name), ("client", &from.to_string())])
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .with_context(|| {
            format!("ask {url}; --dns takes the HTTP address of a DNS server, as 127.0.0.1:5380")
        })?;
    if !response.status().is_success() {
        let status = response.status();
        let message = response.json::<ErrorBody>().await;
        bail!(
            "{}",
            message.map_or_else(|_| status.to_string(), |body| body.message)
        );
    }
    response
        .json()
        .await
        .with_context(|| format!("{url} does not answer as a DNS server of ours"))
}

/// The decision first, then every region that could have been chosen.
fn explained(explanation: Explanation) -> String {
    let rows = explanation.candidates.into_iter().map(|candidate| {
        vec![
            (if candidate.chosen { "->" } else { "" }).to_owned(),
            candidate.region,
            format!("{:.1} ms", candidate.rtt_ms),
            format!("{:.1} ms", candidate.price_ms),
            verdict(candidate.verdict),
            (if candidate.placed { "yes" } else { "no" }).to_owned(),
            candidate.because,
        ]
    });
    let headings = ["", "region", "rtt", "price", "verdict", "placed", "because"];
    format!(
        "{}\n\n{}\n{} for {} ({}), {}, TTL {} s, view {}.{}\n",
        explanation.decision,
        table(&headings, rows),
        explanation.name,
        explanation.client,
        explanation.located,
        explanation.reason,
        explanation.ttl_secs,
        explanation.view.epoch,
        explanation.view.revision,
    )
}

#[cfg(test)]
mod tests {
    use api_wire::planes::Candidate;
    use api_wire::view::ViewId;

    use super::*;

    #[test]
    fn an_explanation_shows_every_candidate_and_why() {
        let candidate = |region: &str, rtt_ms, verdict, chosen, because: &str| Candidate {
            region: region.to_owned(),
            rtt_ms,
            measured: false,
            price_ms: 0.0,
            verdict,
            share_percent: if chosen { 100.0 } else { 0.0 },
            placed: true,
            chosen,
            because: because.to_owned(),
        };
        let explanation = Explanation {
            name: "shop.fn.test".to_owned(),
            client: "46.4.0.0/24".to_owned(),
            located: "DE (worldmap)".to_owned(),
            decision: "fra 12 ms + 0; iad 92 ms + 0 -> fra".to_owned(),
            reason: "ranked".to_owned(),
            ttl_secs: 5,
            view: ViewId {
                cluster_id: "local".to_owned(),
                epoch: 1,
                revision: 7,
                count: 3,
                sha256: String::new(),
            },
            class: Some(42),
            key: Some("00000000deadbeef".to_owned()),
            slot: None,
            margin_ms: Some(76.0),
            candidates: vec![
                candidate("fra", 12.0, VerdictBody::Healthy, true, "least rtt + price"),
                candidate("iad", 92.25, VerdictBody::Down, false, "down"),
            ],
        };
        assert_eq!(
            explained(explanation),
            "\
fra 12 ms + 0; iad 92 ms + 0 -> fra

    REGION  RTT      PRICE   VERDICT  PLACED  BECAUSE
->  fra     12.0 ms  0.0 ms  healthy  yes     least rtt + price
    iad     92.2 ms  0.0 ms  down     yes     down

shop.fn.test for 46.4.0.0/24 (DE (worldmap)), ranked, TTL 5 s, view 1.7
"
        );
    }
}
