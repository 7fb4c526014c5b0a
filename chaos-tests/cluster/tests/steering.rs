//! Three clients are given three regions, and can be told why.

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::caller::Caller;
use chaos_tests_cluster::{Federation, dns};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_given_their_nearest_region_and_told_why() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;

    for (subnet, region) in [
        (dns::ASHBURN, "iad"),
        (dns::FRANKFURT, "fra"),
        (dns::TOKYO, "nrt"),
    ] {
        for server in &ready.dns {
            let client = Caller::new(vec![server.udp.clone()], subnet)?;
            for (host, path) in [("shop.fn.test", "/hello"), ("hello--shop.fn.test", "/")] {
                let served = client.call(host, path, r#"{"name":"Ada"}"#).await;
                let served = served.map_err(|lost| anyhow::anyhow!("{host}{path}: {lost:?}"))?;
                ensure!(
                    served.status == 200 && served.region == region,
                    "{host}{path} from {subnet}: {served:?}"
                );
                ensure!(served.body.contains("Ada"), "{served:?}");
            }
        }
        let from = subnet.to_string();
        let text =
            federation.tradewind_ok(["explain", "shop.fn.test", "--from", &from, "--json"])?;
        let explanation: serde_json::Value = serde_json::from_str(&text)?;
        let candidates = explanation["candidates"].as_array().context("candidates")?;
        ensure!(candidates.len() == 3, "{text}");
        for candidate in candidates {
            ensure!(
                candidate["chosen"] == (candidate["region"] == region),
                "{text}"
            );
            ensure!(
                candidate["rtt_ms"].is_number() && candidate["verdict"] == "healthy",
                "{text}"
            );
            ensure!(
                candidate["because"]
                    .as_str()
                    .is_some_and(|because| !because.is_empty()),
                "{text}"
            );
        }
    }

    // A global node steers as DNS does, for callers whose resolver is not ours.
    let api = &ready.globals.first().context("three nodes run")?.api;
    let http = reqwest::Client::new();
    for (subnet, region) in [
        (dns::ASHBURN, "iad"),
        (dns::FRANKFURT, "fra"),
        (dns::TOKYO, "nrt"),
    ] {
        let call = http
            .post(format!("{api}/t/shop/hello"))
            .header("Tradewind-Client", subnet.to_string());
        let response = call.send().await?;
        let served = response
            .headers()
            .get("Tradewind-Region")
            .context("no region is named")?
            .to_str()?
            .to_owned();
        ensure!(
            response.status() == 200 && served == region,
            "{} by {served}, wanted {region}",
            response.status()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_exist_have_nodata_and_names_that_do_not_nxdomain() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    let ready = federation.ready()?;
    let server = &ready.dns.first().context("two servers run")?.udp;
    for (name, record_type, code, has_answer) in [
        ("fn.test", RecordType::SOA, ResponseCode::NoError, true),
        ("fn.test", RecordType::NS, ResponseCode::NoError, true),
        ("fn.test", RecordType::A, ResponseCode::NoError, true),
        ("invoke.fn.test", RecordType::A, ResponseCode::NoError, true),
        (
            "any-app.fn.test",
            RecordType::A,
            ResponseCode::NoError,
            true,
        ),
        (
            "any-app.fn.test",
            RecordType::TXT,
            ResponseCode::NoError,
            false,
        ),
        ("fra.at.fn.test", RecordType::A, ResponseCode::NoError, true),
        ("at.fn.test", RecordType::A, ResponseCode::NoError, false),
        (
            "mars.at.fn.test",
            RecordType::A,
            ResponseCode::NXDomain,
            false,
        ),
        (
            "elsewhere.test",
            RecordType::A,
            ResponseCode::Refused,
            false,
        ),
    ] {
        let reply = dns::ask(server, name, record_type, None).await?;
        ensure!(
            reply.metadata.response_code == code,
            "{name} {record_type}: {}",
            reply.metadata.response_code
        );
        ensure!(
            reply.answers.is_empty() != has_answer,
            "{name} {record_type}: {:?}",
            reply.answers
        );
        let negative = code != ResponseCode::Refused && !has_answer;
        let soa = reply
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::SOA);
        ensure!(soa == negative, "{name} {record_type}: SOA {soa}");
    }
    Ok(())
}
