//! Which view is served, through refusals, restarts and the loss of the global plane.

use std::time::Duration;

use tempfile::tempdir;

use crate::harness::{Global, Server, body, fra, iad, nrt, seal};

fn whole(revision: u64) -> api_wire::view::Envelope {
    seal(revision, &body(vec![iad(), fra(), nrt()]))
}

#[test]
fn a_node_that_offers_bad_views_is_refused_and_told_apart() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    global.offer(whole(7));
    let server = Server::start("127.42.2.1", dir.path(), &[&global.url]);
    server.until_revision(7);
    let mut garbled = whole(9);
    garbled.body = garbled.body.replace("192.0.2", "198.51.100");
    for (label, envelope) in [
        ("older", whole(6)),
        ("emptied", seal(8, &body(Vec::new()))),
        ("malformed", garbled),
        ("mass_change", seal(8, &body(vec![iad()]))),
    ] {
        let before = server.status()["refused"].as_u64().unwrap();
        global.insist(envelope);
        server.until(label, |status| status["refused"].as_u64().unwrap() > before);
        assert_eq!(server.status()["view"]["revision"], 7, "{label}");
        assert_eq!(
            server.addresses("fra.at.fn.test", "141.2.0.0/16").len(),
            1,
            "{label}"
        );
        let metrics = server.get("/metrics").1;
        let counted = format!("tradewind_dns_views_refused_total{{reason=\"{label}\"}}");
        assert!(metrics.contains(&counted), "{counted} not in:\n{metrics}");
    }
    global.offer(whole(10));
    server.until_revision(10);
}

#[test]
fn the_newest_of_several_nodes_is_served_whoever_has_it() {
    let (dir, old, new) = (tempdir().unwrap(), Global::start(), Global::start());
    old.offer(whole(3));
    new.offer(whole(5));
    // Nobody listens there.
    let dead = "http://127.42.2.99:1";
    let server = Server::start("127.42.2.2", dir.path(), &[dead, &old.url, &new.url]);
    server.until_revision(5);
    old.offer(whole(6));
    server.until_revision(6);
    assert_eq!(server.status()["refused"], 0);
}

#[test]
fn a_killed_server_comes_back_from_disk_without_the_global_plane() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    global.offer(whole(4));
    let server = Server::start("127.42.2.3", dir.path(), &[&global.url]);
    server.until_revision(4);
    let file = dir.path().join("steering-view.json");
    server.until("kept on disk", |_| file.exists());
    let want = server.addresses("app.fn.test", "141.2.0.0/16");
    let url = global.url.clone();
    drop(global);
    server.kill();

    let server = Server::start("127.42.2.3", dir.path(), &[&url]);
    assert_eq!(server.status()["view"]["revision"], 4);
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.addresses("app.fn.test", "141.2.0.0/16"), want);
    assert!(server.status()["staleness_secs"].as_f64().unwrap() >= 0.0);
    server.kill();

    // A damaged file is reported and no reason to stay down.
    std::fs::write(&file, "{\"id\":").unwrap();
    let server = Server::start("127.42.2.3", dir.path(), &[&url]);
    assert!(server.status()["view"].is_null());
    assert!(
        server
            .log()
            .iter()
            .any(|line| line.contains("steering view on disk cannot be read"))
    );
}

#[test]
fn a_new_view_is_served_at_once() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.2.4", &dir, &global);
    let mut view = body(vec![iad(), fra(), nrt()]);
    view.regions[1].verdict = api_wire::planes::VerdictBody::Down;
    let started = std::time::Instant::now();
    global.offer(seal(2, &view));
    server.until_revision(2);
    // docs/reference/interfaces.md: a lost region is in no answer 5 s later, detection included.
    assert!(started.elapsed() < Duration::from_secs(3));
}
