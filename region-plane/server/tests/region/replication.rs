//! The region's copy of the metadata, with the global plane coming and going.

use api_wire::call_headers::{BY_GATEWAY, FORWARDED_BY, NOT_STARTED};

use crate::plane::{Plane, Spoiled, function};
use crate::process::{at, client, eventually, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_restarted_with_the_global_plane_gone_serves_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(5, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    let revision = plane.put_fn(function("F", &image));
    let region = start("fra", &at(5, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    region.applied(revision).await;
    eventually("the bundle is here before it is called", async || {
        let report = plane.report("fra")?;
        (report.revision >= revision && report.bundles_missing.is_empty()).then_some(())
    })
    .await;
    let hash = plane.report("fra").unwrap().hash;
    plane.stop();
    region.kill();

    let region = start("fra", &at(5, 1), dir.path(), &plane.url, "");
    let status = eventually("the region listens", async || region.status().await).await;
    assert_eq!(status["hash"], hash.as_str());
    let ready = reqwest::get(format!("{}/readyz", region.admin))
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
    let answer = region.post("/invoke/F", "still here").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_registers_again_when_it_is_not_known_and_snapshots_when_it_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(6, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    let region = start("fra", &at(6, 1), dir.path(), &plane.url, "");
    eventually("the region reports", async || plane.report("fra")).await;
    plane.forget("fra");
    eventually("it is known again", async || {
        plane.knows("fra").then_some(())
    })
    .await;
    region.kill();

    plane.put_fn(function("F", &image));
    plane.compact();
    let region = start("fra", &at(6, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    region.applied(plane.revision()).await;
    assert_eq!(region.post("/invoke/F", "x").await.status, 200);

    // Another cluster under the same address must not empty the region, nor add to it, though its
    // revisions go on from those held here.
    region.kill();
    plane.become_another();
    plane.put_app("B", "other", None);
    let region = start("fra", &at(6, 1), dir.path(), &plane.url, "");
    let refused = eventually("the snapshot is refused", async || {
        let status = region.status().await?;
        Some(status["snapshot_refused"].as_str()?.to_owned())
    })
    .await;
    assert!(refused.contains("cluster \"other\""), "{refused}");
    assert_eq!(region.post("/invoke/F", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_gets_past_a_change_that_never_comes_through_and_says_so() {
    for (how, net) in [
        (Spoiled::TooLong, 41),
        (Spoiled::Garbled, 42),
        (Spoiled::CutOff, 43),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let plane = Plane::start(&format!("{}:7400", at(net, 20)));
        let image = plane.store_bundle();
        plane.put_app("A", "shop", None);
        let settled = plane.put_fn(function("F", &image));
        let region = start("fra", &at(net, 1), dir.path(), &plane.url, "");
        eventually("the region listens", async || region.status().await).await;
        region.applied(settled).await;
        let reported = eventually("it says that it follows", async || {
            let report = plane
                .report("fra")
                .filter(|report| report.revision >= settled)?;
            report
                .following
                .filter(|following| following.problem.is_none())
        });
        assert_eq!(reported.await.forced_snapshots, 0, "{how:?}");

        plane.spoil_next(how);
        plane.put_fn(function("G", &image));
        let after = plane.put_fn(function("H", &image));
        region.applied(after).await;
        for path in ["/invoke/G", "/invoke/H"] {
            assert_eq!(region.post(path, "x").await.status, 200, "{how:?}");
        }
        let reported = eventually("it says what it took", async || {
            let report = plane
                .report("fra")
                .filter(|report| report.revision >= after)?;
            report
                .following
                .filter(|following| following.problem.is_none())
        });
        assert_eq!(reported.await.forced_snapshots, 1, "{how:?}");

        // And it follows as before.
        let later = plane.put_fn(function("I", &image));
        region.applied(later).await;
        let reported = plane.report("fra").and_then(|report| report.following);
        assert_eq!(reported.unwrap().forced_snapshots, 1, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_gets_no_further_says_so_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(44, 20)));
    plane.put_app("A", "shop", None);
    let region = start("fra", &at(44, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    region.applied(plane.revision()).await;
    // Its watch breaks off, the next is of another cluster, and so is the snapshot.
    plane.become_another();
    plane.spoil_next(Spoiled::CutOff);
    plane.put_app("B", "other", None);
    let following = eventually("it says that it does not follow", async || {
        let following = plane.report("fra")?.following?;
        (following.problem.is_some() && following.silent_ms >= 1_000).then_some(following)
    })
    .await;
    let problem = following.problem.unwrap();
    assert!(problem.contains("cluster"), "{problem}");
    let status = region.status().await.unwrap();
    assert_eq!(status["not_following"].as_str(), Some(problem.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_behind_says_so_and_hands_on_calls_of_what_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(&format!("{}:7400", at(45, 20)));
    let image = plane.store_bundle();
    plane.put_app("A", "shop", None);
    plane.put_fn(function("F", &image));
    let region = start("fra", &at(45, 1), dir.path(), &plane.url, "");
    eventually("the region listens", async || region.status().await).await;
    eventually("the region is known", async || {
        plane.knows("fra").then_some(())
    })
    .await;
    let settled = plane.put_answering_region("nrt", &format!("{}:8080", at(45, 2)));
    region.applied(settled).await;

    plane.stall();
    plane.put_fn(function("G", &image));
    let early = region.post("/invoke/G", "x").await;
    assert_eq!(
        early.status, 404,
        "it may be as new as it can be: {early:?}"
    );
    eventually("it says that it is behind", async || {
        let following = plane.report("fra")?.following?;
        (following.behind_ms >= 10_000).then_some(())
    })
    .await;
    let status = region.status().await.unwrap();
    assert!(status["behind_ms"].as_u64().unwrap() >= 10_000, "{status}");

    for (path, served_by) in [
        ("/invoke/G", "nrt"),
        ("/t/shop/new", "nrt"),
        ("/invoke/F", "fra"),
    ] {
        let answer = region.post(path, "x").await;
        assert_eq!(
            (answer.status, answer.region.as_deref()),
            (200, Some(served_by)),
            "{path}: {answer:?}"
        );
    }
    // One hop: who handed it on hears that this is not known.
    let handed = client()
        .post(format!("{}/invoke/G", region.gateway))
        .header(FORWARDED_BY, BY_GATEWAY);
    let handed = region.send(handed).await;
    assert_eq!(handed.status, 503, "{handed:?}");
    assert!(handed.headers.contains_key(NOT_STARTED), "{handed:?}");

    // Nobody is behind a global plane that is away.
    plane.stop();
    eventually("it does not call itself behind", async || {
        (region.status().await?["behind_ms"] == 0).then_some(())
    })
    .await;
    assert_eq!(region.post("/invoke/G", "x").await.status, 404);
}
