//! Bad input gets a clear error, and the federation carries on.

use std::process::Command;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use chaos_tests_cluster::federation::binary;
use chaos_tests_machine::Network;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_clearly_and_nothing_is_lost() -> anyhow::Result<()> {
    let federation = Federation::start().await?;
    federation.deploy_hello("shop")?;
    let ready = federation.ready()?;
    let api = &ready.globals.first().context("three nodes run")?.api;
    let gateway = &ready.regions.first().context("three regions run")?.gateway;
    let http = reqwest::Client::new();
    let wrong_digest = "00".repeat(32);
    let long = vec![b'x'; 7 << 20];

    for (case, request, status, says) in [
        (
            "malformed JSON",
            http.post(format!("{api}/v2/apps")).body("{"),
            400,
            "Invalid JSON",
        ),
        (
            "wrong type",
            http.post(format!("{api}/v2/apps")).body(r#"{"name":7}"#),
            400,
            "Invalid JSON",
        ),
        (
            "no name",
            http.post(format!("{api}/v2/apps")).body("{}"),
            400,
            "Missing Name",
        ),
        (
            "oversized admin body",
            http.post(format!("{api}/v2/apps")).body(long.clone()),
            413,
            "",
        ),
        (
            "unknown app",
            http.get(format!("{api}/v2/apps/nope")),
            404,
            "App not found",
        ),
        (
            "unknown fn",
            http.get(format!("{api}/v2/fns/nope")),
            404,
            "Fn not found",
        ),
        (
            "unknown trigger",
            http.get(format!("{api}/v2/triggers/nope")),
            404,
            "Trigger not found",
        ),
        (
            "unknown path",
            http.get(format!("{api}/v3")),
            404,
            "Path not found: GET /v3",
        ),
        (
            "unknown region",
            http.post(format!("{api}/v1/regions/mars/drain")),
            404,
            "mars",
        ),
        (
            "bundle of another digest",
            http.put(format!("{api}/v1/bundles/{wrong_digest}"))
                .body("x"),
            400,
            "sha256",
        ),
        (
            "call of an unknown fn",
            http.post(format!("http://{gateway}/invoke/nope")),
            404,
            "Fn not found",
        ),
        (
            "call of an unknown trigger",
            http.get(format!("http://{gateway}/t/shop/nope")),
            404,
            "Trigger not found",
        ),
        (
            "oversized call",
            http.post(format!("http://{gateway}/t/shop/hello"))
                .body(long),
            413,
            "too large",
        ),
    ] {
        let response = request.send().await.with_context(|| case.to_owned())?;
        let code = response.status().as_u16();
        let body = response.text().await?;
        let message = serde_json::from_str::<serde_json::Value>(&body)
            .ok()
            .and_then(|body| body["message"].as_str().map(str::to_lowercase));
        let message =
            message.with_context(|| format!("{case}: {code} without a message: {body}"))?;
        ensure!(
            code == status && message.contains(&says.to_lowercase()),
            "{case}: {code} {message}"
        );
    }

    let function = federation.scratch().join("odd");
    std::fs::create_dir_all(&function)?;
    std::fs::write(
        function.join("func.yaml"),
        "schema_version: 20180708\nname: odd\nversion: 0.0.1\nruntime: node\nmemmory: 3\n",
    )?;
    let odd = federation.tradewind(["deploy", "--app", "shop", &function.to_string_lossy()])?;
    let complaint = String::from_utf8_lossy(&odd.stderr).into_owned();
    ensure!(
        !odd.status.success() && complaint.contains("memmory"),
        "{complaint}"
    );

    let elsewhere = Network::claim();
    let second = federation.tradewind([
        "up",
        "--net",
        &elsewhere.to_string(),
        "--dir",
        &federation.up_dir().to_string_lossy(),
    ])?;
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        !second.status.success() && complaint.contains("already"),
        "second up: {complaint}"
    );

    let other = federation.scratch().join("other");
    let here = federation.network().to_string();
    let taken = federation.tradewind(["up", "--net", &here, "--dir", &other.to_string_lossy()])?;
    let complaint = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure!(
        !taken.status.success() && complaint.contains("in use"),
        "port in use: {complaint}"
    );

    let config = federation.scratch().join("corrupt.toml");
    std::fs::write(&config, "name = [\n")?;
    for daemon in ["tradewind-global", "tradewind-region", "tradewind-dns"] {
        let output = Command::new(binary(daemon)?)
            .arg("--config")
            .arg(&config)
            .output()?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(78),
            "{daemon}: {:?}",
            output.status
        );
        ensure!(
            complaint.contains("corrupt.toml") && !complaint.contains("panicked"),
            "{daemon}: {complaint}"
        );
    }

    let call = http
        .post(format!("http://{gateway}/t/shop/hello"))
        .send()
        .await?;
    ensure!(
        call.status() == 200,
        "the function still answers: {}",
        call.status()
    );
    for part in federation.apis()? {
        ensure!(
            reqwest::get(format!("{part}/readyz")).await?.status() == 200,
            "{part} is ready"
        );
    }
    ensure!(
        !federation.log().contains("panicked"),
        "{}",
        federation.log()
    );
    Ok(())
}

/// Each fits by itself, and all together do not: whoever comes when there is no room left is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_once_make_no_object_larger_than_it_may_be() -> anyhow::Result<()> {
    /// Of an object as JSON.
    const OBJECT_BYTES_MAX: usize = 512 << 10;
    const WRITES: usize = 24;
    let federation = Federation::start().await?;
    let apis = federation.apis()?;
    let http = reqwest::Client::new();
    let made = http.post(format!("{}/v2/apps", apis[0]));
    let made = made.body(r#"{"name":"grown"}"#).send().await?;
    let made: serde_json::Value = serde_json::from_str(&made.text().await?)?;
    let id = made["id"].as_str().context("the app's id")?.to_owned();

    let mut writes = tokio::task::JoinSet::new();
    for number in 0..WRITES {
        let url = format!("{}/v2/apps/{id}", apis[number % apis.len()]);
        let value = "x".repeat(100 << 10);
        let body = serde_json::json!({"config": {format!("K{number}"): value}}).to_string();
        let write = http.put(url).body(body);
        writes.spawn(async move { anyhow::Ok(write.send().await?.status().as_u16()) });
    }
    let mut statuses = Vec::new();
    while let Some(status) = writes.join_next().await {
        statuses.push(status??);
    }
    let taken = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 400).count();
    ensure!(taken + refused == WRITES, "{statuses:?}");
    // Five have 500 KiB, and six more than there may be.
    ensure!(taken == 5, "{taken} were taken: {statuses:?}");
    let got = http.get(format!("{}/v2/apps/{id}", apis[0])).send().await?;
    let bytes = got.text().await?.len();
    ensure!(bytes <= OBJECT_BYTES_MAX, "{bytes} bytes");
    Ok(())
}
