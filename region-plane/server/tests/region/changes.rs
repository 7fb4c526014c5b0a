//! Functions that change while they are called.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_wire::fns::FnBody;
use futures_util::future::join_all;
use serde_json::value::RawValue;

use crate::calls::serving;
use crate::plane::{Plane, function};
use crate::process::{at, eventually};

/// Between two changes; an instance that is `slow` takes longer to start.
const CHANGE_EVERY: Duration = Duration::from_millis(500);

const CHANGES: u32 = 12;

const CALLERS: u32 = 6;

fn changed(id: &str, image: &str, start: &str, number: u32) -> FnBody {
    let mut changed = function(id, image);
    let config = [("START", start.to_owned()), ("NUMBER", number.to_string())];
    let config = config.map(|(key, value)| (key.to_owned(), value));
    changed.config = Some(config.into());
    changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_because_its_function_changes() {
    let settings = "memory_budget_mb = 8192";
    let (plane, _dir, region) = serving(&at(61, 1), &at(61, 20), settings).await;
    let image = plane.store_bundle();
    for (case, start, is_placed) in [
        ("a quick start", "quick", false),
        ("a placement with each change", "quick", true),
        ("a start that takes longer than a change", "slow", false),
    ] {
        let over = AtomicBool::new(false);
        let changing = async {
            let mut pace = tokio::time::interval(CHANGE_EVERY);
            for number in 0..CHANGES {
                pace.tick().await;
                plane.put_fn(changed("F", &image, start, number));
                if is_placed {
                    let placement = [r#"{"regions":["fra"]}"#, r#"{"regions":["fra","nrt"]}"#];
                    plane.put_app("A", "shop", Some(placement[number as usize % 2]));
                }
            }
            over.store(true, Ordering::Relaxed);
        };
        let calling = join_all((0..CALLERS).map(async |_| {
            let mut statuses = Vec::new();
            while !over.load(Ordering::Relaxed) {
                statuses.push(region.post("/invoke/F", "x").await.status);
            }
            statuses
        }));
        let (statuses, ()) = tokio::join!(calling, changing);
        let statuses = statuses.concat();
        let failed = statuses.iter().filter(|status| **status != 200).count();
        println!("{case}: {failed} of {} calls failed", statuses.len());
        assert_eq!(failed, 0, "{case}: of {} calls", statuses.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_instance_can_see_restarts_nothing() {
    let (plane, _dir, region) = serving(&at(62, 1), &at(62, 20), "").await;
    let image = plane.store_bundle();
    let annotated = |name: &str, json: &str| {
        let mut annotated = function("F", &image);
        let value = RawValue::from_string(json.to_owned()).unwrap();
        annotated.annotations = Some([(name.to_owned(), value)].into());
        annotated
    };
    let quicker = || {
        let mut quicker = function("F", &image);
        quicker.timeout = Some(5);
        quicker
    };
    let first = region.post("/invoke/F", "x").await;
    assert_eq!(first.status, 200, "{first:?}");
    type Change<'a> = (&'static str, Box<dyn Fn(&Plane) -> u64 + 'a>);
    let changes: [Change; 4] = [
        (
            "an annotation of its owner's",
            Box::new(|plane| plane.put_fn(annotated("example.com/team", "\"a\""))),
        ),
        (
            "a placement that keeps it here",
            Box::new(|plane| {
                plane.put_fn(annotated(
                    "tradewind.dev/placement",
                    r#"{"regions":["fra"]}"#,
                ))
            }),
        ),
        (
            "its app's",
            Box::new(|plane| plane.put_app("A", "shop", Some(r#"{"regions":["fra"]}"#))),
        ),
        ("its time-out", Box::new(|plane| plane.put_fn(quicker()))),
    ];
    for (number, (case, change)) in (0..).zip(changes) {
        // Another, whose instance goes once the region has acted on what came before it.
        region
            .applied(plane.put_fn(changed("S", &image, "quick", number)))
            .await;
        assert_eq!(region.post("/invoke/S", "x").await.status, 200);
        change(&plane);
        plane.put_fn(changed("S", &image, "quick", number + 100));
        eventually("the other's instance is stopped", async || {
            let instances = region.instances().await;
            let stopped = instances.iter().all(|instance| instance["fn_id"] != "S");
            stopped.then_some(())
        })
        .await;
        let answer = region.post("/invoke/F", "x").await;
        assert_eq!(answer.status, 200, "{case}: {answer:?}");
        assert_eq!(answer.pid, first.pid, "{case}: the same instance");
    }
    region
        .applied(plane.put_fn(changed("F", &image, "quick", 1)))
        .await;
    let answer = region.post("/invoke/F", "x").await;
    assert_ne!(answer.pid, first.pid, "its configuration is another");
}
