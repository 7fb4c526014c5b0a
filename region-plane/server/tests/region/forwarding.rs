//! Calls that a forwarder sends, that go to a silent peer, or that come before the metadata.

use std::time::{Duration, Instant};

use crate::plane::{DNS_TTL_SECS, Plane, function};
use crate::process::{HttpAnswer, Region, at, client, eventually, start};

/// Of two busy cores.
const SLACK: Duration = Duration::from_secs(3);

/// Regions that know of each other and hold function `F` of app `shop`, trigger `/a`.
async fn regions<const N: usize>(
    subnet: u8,
    names: [&str; N],
    settings: &str,
) -> (Plane, tempfile::TempDir, [Region; N]) {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(subnet, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    plane.put_fn(function("F", &image));
    plane.put_trigger("T", "A", "F", "/a");
    let mut number = 0;
    let regions = names.map(|name| {
        number += 1;
        start(name, &at(subnet, number), dir.path(), &plane.url, settings)
    });
    for (name, region) in names.iter().zip(&regions) {
        eventually("the region reports that it lacks nothing", async || {
            let report = plane.report(name)?;
            let known = names.iter().all(|name| plane.knows(name));
            (known && report.revision >= plane.revision() && report.bundles_missing.is_empty())
                .then_some(())
        })
        .await;
        region.post("/invoke/F", "x").await;
    }
    (plane, dir, regions)
}

/// By the app's name: whoever comes by it is not redirected to it.
async fn by_name(region: &Region, body: &str) -> HttpAnswer {
    let call = client()
        .post(format!("{}/a", region.gateway))
        .header("host", "shop.fn.test:8080")
        .body(body.to_owned());
    region.send(call).await
}

async fn forwarded(region: &Region, path: &str, min_revision: u64) -> HttpAnswer {
    let call = client()
        .post(format!("{}{path}", region.gateway))
        .header("tradewind-forwarded-by", "global")
        .header("tradewind-min-revision", min_revision);
    region.send(call).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_frozen_costs_two_seconds_and_the_next_one_answers() {
    let (plane, _dir, [fra, lhr, nrt]) = regions(30, ["fra", "lhr", "nrt"], "").await;
    let elsewhere = Some(r#"{"regions":["lhr","nrt"]}"#);
    let revision = plane.put_app("A", "shop", elsewhere);
    for region in [&fra, &lhr, &nrt] {
        region.applied(revision).await;
    }
    let answer = by_name(&fra, "near").await;
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (200, Some("lhr"))
    );
    lhr.pause();
    let began = Instant::now();
    let answer = by_name(&fra, "far").await;
    let took = began.elapsed();
    lhr.resume();
    assert_eq!(
        (
            answer.status,
            answer.region.as_deref(),
            answer.text.as_str()
        ),
        (200, Some("nrt"), "far")
    );
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_freezes_with_a_call_is_given_up_after_five_seconds_and_nobody_else_runs_it() {
    let (plane, _dir, [fra, lhr, nrt]) = regions(31, ["fra", "lhr", "nrt"], "").await;
    let elsewhere = Some(r#"{"regions":["lhr","nrt"]}"#);
    let revision = plane.put_app("A", "shop", elsewhere);
    for region in [&fra, &lhr, &nrt] {
        region.applied(revision).await;
    }
    let frozen = async {
        eventually("the peer runs the call", async || {
            let status = lhr.status().await?;
            (status["load"]["current"] == 1).then_some(())
        })
        .await;
        lhr.pause();
        Instant::now()
    };
    let (answer, frozen) = tokio::join!(by_name(&fra, "sleep 60000"), frozen);
    let took = frozen.elapsed();
    lhr.resume();
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (504, Some("fra")),
        "{answer:?}"
    );
    assert!(took < Duration::from_secs(5) + SLACK, "{took:?}");
    let status = nrt.status().await.unwrap();
    assert_eq!(
        status["load"]["current"], 0,
        "nobody else runs it: {status}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarder_is_told_to_go_elsewhere_and_never_redirected() {
    let (plane, _dir, [fra, _nrt]) = regions(32, ["fra", "nrt"], "").await;
    let revision = plane.put_app("A", "shop", Some(r#"{"regions":["nrt"]}"#));
    fra.applied(revision).await;
    assert_eq!(fra.post("/invoke/F", "x").await.status, 307);
    for path in ["/invoke/F", "/t/shop/a"] {
        let answer = forwarded(&fra, path, revision).await;
        // Not 404: it exists.
        assert_eq!((answer.status, answer.location.as_deref()), (503, None));
        assert!(answer.headers.contains_key("tradewind-not-started"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_call_runs_what_its_forwarder_found_or_does_not_start() {
    let (plane, _dir, [fra]) = regions(33, ["fra"], "").await;
    let image = plane.store_bundle();
    let next = plane.revision() + 1;
    let written = async {
        // Until the call waits.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(plane.put_fn(function("NEW", &image)), next);
    };
    let (answer, ()) = tokio::join!(forwarded(&fra, "/invoke/NEW", next), written);
    assert_eq!(answer.status, 200, "{answer:?}");

    let began = Instant::now();
    let answer = forwarded(&fra, "/invoke/F", next + 1).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.headers.contains_key("tradewind-not-started"));
    assert!(began.elapsed() < Duration::from_secs(1) + SLACK);
    // A caller's own wish is no forwarder's.
    let wish = client()
        .post(format!("{}/invoke/F", fra.gateway))
        .header("tradewind-min-revision", next + 1);
    assert_eq!(fra.send(wish).await.status, 200);
}

/// The global plane is away, and with it every watch: no region will have what was written last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_watch_a_forwarded_call_runs_what_is_here_after_its_wait() {
    let (plane, _dir, [fra]) = regions(38, ["fra"], "").await;
    let next = plane.revision() + 1;
    plane.stop();
    eventually("the region has lost its watch", async || {
        let status = fra.status().await?;
        status["not_following"].as_str().map(drop)
    })
    .await;
    let began = Instant::now();
    let answer = forwarded(&fra, "/invoke/F", next).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(1) + SLACK);
    // What it has never heard of may be elsewhere.
    let answer = forwarded(&fra, "/invoke/NOBODY", next).await;
    assert_ne!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_is_looked_for_until_the_watch_says_that_nothing_is_missing() {
    let (plane, _dir, [fra]) = regions(34, ["fra"], "").await;
    let image = plane.store_bundle();
    for round in 0..3 {
        let id = format!("N{round}");
        let path = format!("/invoke/{id}");
        let written = async {
            // Until the call waits.
            tokio::time::sleep(Duration::from_millis(50)).await;
            plane.put_fn(function(&id, &image));
        };
        let (answer, ()) = tokio::join!(fra.post(&path, "x"), written);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let began = Instant::now();
    assert_eq!(fra.post("/invoke/NOBODY", "x").await.status, 404);
    assert!(began.elapsed() < Duration::from_millis(1_500) + SLACK);

    plane.stop();
    eventually("without a watch nobody waits", async || {
        let began = Instant::now();
        assert_eq!(fra.post("/invoke/NOBODY", "x").await.status, 404);
        (began.elapsed() < Duration::from_millis(200)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ours_reaches_no_function() {
    let (_plane, _dir, [fra]) = regions(35, ["fra"], "").await;
    let call = client()
        .post(format!("{}/invoke/F", fra.gateway))
        .header("tradewind-forwarded-by", "global")
        .header("tradewind-min-revision", "1")
        .header("tradewind-client", "192.0.2.1")
        .header("x-kept", "1")
        .body("headers");
    let answer = fra.send(call).await;
    assert!(answer.text.contains("x-kept"), "{answer:?}");
    assert!(!answer.text.contains("tradewind-"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_region_takes_calls_for_as_long_as_dns_answers_live() {
    let by_dns = "# no drain_pause_ms";
    let (_plane, _dir, [mut fra]) = regions(36, ["fra"], by_dns).await;
    fra.terminate();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(DNS_TTL_SECS) {
        let answer = fra.post("/invoke/F", "x").await;
        assert_eq!(
            (answer.status, answer.region.as_deref()),
            (200, Some("fra"))
        );
    }
    assert_eq!(fra.ended().await, Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(DNS_TTL_SECS + 2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_region_that_is_told_again_finishes_its_calls_and_goes() {
    let ten_minutes = "drain_pause_ms = 600000";
    let (plane, _dir, [mut fra]) = regions(37, ["fra"], ten_minutes).await;
    let stopped = async {
        eventually("it runs the call", async || {
            let status = fra.status().await?;
            (status["load"]["current"] == 1).then_some(())
        })
        .await;
        fra.terminate();
        eventually("it asks for no more clients", async || {
            plane.report("fra").filter(|report| report.draining)
        })
        .await;
        fra.terminate();
    };
    let (answer, ()) = tokio::join!(fra.post("/invoke/F", "sleep 3000"), stopped);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(fra.ended().await, Some(0));
}
