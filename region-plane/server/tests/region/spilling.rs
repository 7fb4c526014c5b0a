//! Two regions: calls that one does not run are run by the other.

use crate::plane::{Plane, function};
use crate::process::{Region, Until, at, client, eventually, start};

async fn two(subnet: u8) -> (Plane, tempfile::TempDir, Region, Region) {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(subnet, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    plane.put_fn(function("F", &image));
    plane.put_trigger("T", "A", "F", "/a");
    let small = "memory_budget_mb = 128\ncalls_max = 1\ndrain_pause_ms = 60000";
    let fra = start("fra", &at(subnet, 1), dir.path(), &plane.url, small);
    let nrt = start("nrt", &at(subnet, 2), dir.path(), &plane.url, small);
    for (name, region) in [("fra", &fra), ("nrt", &nrt)] {
        eventually("the region reports that it lacks nothing", async || {
            let report = plane.report(name)?;
            let known = plane.knows("fra") && plane.knows("nrt");
            (known && report.revision >= plane.revision() && report.bundles_missing.is_empty())
                .then_some(())
        })
        .await;
        assert_eq!(
            region.post("/invoke/F", "x").await.region.as_deref(),
            Some(name)
        );
    }
    (plane, dir, fra, nrt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_region_hands_calls_to_its_peer_and_a_full_federation_refuses() {
    let (_plane, dir, fra, nrt) = two(7).await;
    let (until, until_here) = (Until::new(dir.path()), Until::new(dir.path()));
    let full = async |region: &Region| {
        eventually("the region is full", async || {
            let status = region.status().await?;
            (status["load"]["current"] == 1).then_some(())
        })
        .await;
    };
    let spilled = async {
        full(&fra).await;
        let spilled = fra.post("/t/shop/a", "over there").await;
        assert_eq!(
            (
                spilled.status,
                spilled.region.as_deref(),
                spilled.text.as_str()
            ),
            (200, Some("nrt"), "over there")
        );
        let refused = async {
            full(&nrt).await;
            let refused = fra.post("/invoke/F", "nowhere").await;
            assert_eq!(refused.status, 503, "{refused:?}");
            assert_eq!(refused.retry_after.as_deref(), Some("15"));
            assert_eq!(refused.region.as_deref(), Some("fra"));
            assert!(!refused.headers.contains_key("tradewind-not-started"));
            // A call that was handed on is not handed on again.
            let handed = client()
                .post(format!("{}/invoke/F", nrt.gateway))
                .header("tradewind-forwarded-by", "gateway");
            let handed = nrt.send(handed).await;
            assert_eq!(
                (handed.status, handed.region.as_deref()),
                (503, Some("nrt"))
            );
            until.now();
        };
        let (filler, ()) = tokio::join!(nrt.post("/invoke/F", &until.body), refused);
        assert_eq!(filler.region.as_deref(), Some("nrt"));
        until_here.now();
    };
    let (filler, ()) = tokio::join!(fra.post("/invoke/F", &until_here.body), spilled);
    assert_eq!(filler.region.as_deref(), Some("fra"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_region_hands_calls_on_and_serves_them_when_nobody_else_does() {
    let (plane, _dir, fra, nrt) = two(8).await;
    fra.applied(plane.set_drained("fra", true)).await;
    let answer = fra.post("/invoke/F", "x").await;
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (200, Some("nrt"))
    );
    nrt.kill();
    let answer = fra.post("/invoke/F", "x").await;
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (200, Some("fra"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_region_serves_with_the_instances_it_has() {
    let (plane, _dir, fra, _nrt) = two(13).await;
    fra.terminate();
    eventually("it asks for no more clients", async || {
        plane.report("fra").filter(|report| report.draining)
    })
    .await;
    let answer = fra.post("/invoke/F", "x").await;
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (200, Some("fra"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_another_region_is_redirected_by_name_or_handed_on() {
    let (plane, _dir, fra, nrt) = two(9).await;
    let revision = plane.put_app("A", "shop", Some(r#"{"regions":["nrt"]}"#));
    fra.applied(revision).await;
    nrt.applied(revision).await;

    for (region, count) in [(&fra, 0), (&nrt, 1)] {
        let apps: serde_json::Value = client()
            .get(format!("{}/v2/apps", region.admin))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(apps["items"].as_array().unwrap().len(), count, "{apps}");
    }

    let moved = fra.post("/invoke/F?x=1", "x").await;
    assert_eq!(moved.status, 307, "{moved:?}");
    assert_eq!(
        moved.location.as_deref(),
        Some("http://shop.fn.test:8080/invoke/F?x=1")
    );
    let moved = fra.post("/t/shop/a", "x").await;
    assert_eq!(
        moved.location.as_deref(),
        Some("http://shop.fn.test:8080/t/shop/a")
    );
    // Its resolver still has this region's address: a redirect would come back here.
    let by_name = client()
        .post(format!("{}/a", fra.gateway))
        .header("host", "shop.fn.test:8080")
        .body("by name");
    let answer = fra.send(by_name).await;
    assert_eq!(
        (
            answer.status,
            answer.region.as_deref(),
            answer.text.as_str()
        ),
        (200, Some("nrt"), "by name")
    );
    let spilled = client()
        .post(format!("{}/invoke/F", fra.gateway))
        .header("tradewind-forwarded-by", "gateway");
    let one_hop = fra.send(spilled).await;
    assert_eq!(
        (one_hop.status, one_hop.retry_after.as_deref()),
        (503, Some("15")),
        "it exists"
    );
    assert!(
        one_hop.headers.contains_key("tradewind-not-started"),
        "another peer may have it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preference_is_broken_when_none_of_its_regions_serves_and_residency_never_is() {
    let (plane, _dir, fra, nrt) = two(12).await;
    plane.put_app("A", "shop", Some(r#"{"regions":["nrt"]}"#));
    fra.applied(plane.set_drained("nrt", true)).await;
    let answer = fra.post("/invoke/F", "anywhere").await;
    assert_eq!(
        (
            answer.status,
            answer.region.as_deref(),
            answer.text.as_str()
        ),
        (200, Some("fra"), "anywhere")
    );

    let strict = Some(r#"{"regions":["nrt"],"strict":true}"#);
    fra.applied(plane.put_app("A", "shop", strict)).await;
    let call = async || fra.post("/invoke/F", "only there").await;
    // No region inside serves, but a region that drains is better asked than nobody.
    let answer = call().await;
    assert_eq!(
        (answer.status, answer.region.as_deref()),
        (200, Some("nrt"))
    );
    nrt.kill();
    let refused = call().await;
    assert_eq!(
        (refused.status, refused.retry_after.as_deref()),
        (503, Some("15")),
        "it exists: {refused:?}"
    );
}
