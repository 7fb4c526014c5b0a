//! Clients get the region they should.

use api_wire::planes::{Explanation, VerdictBody};
use api_wire::view::PlacedApp;
use hickory_proto::rr::RecordType;
use tempfile::tempdir;

use crate::harness::{Global, Server, ZONE, body, fra, iad, ips, nrt, query, seal, with_subnet};

/// Networks of universities, in one country for decades.
const ATLANTA: &str = "128.61.0.0/16";
const FRANKFURT: &str = "141.2.0.0/16";
const TOKYO: &str = "133.11.0.0/16";

const IAD: &str = "192.0.2.1";
const FRA: &str = "192.0.2.2";
const NRT: &str = "192.0.2.3";

#[test]
fn each_client_gets_one_region_the_nearest() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.1.1", &dir, &global);
    for asked in [ZONE, "invoke.fn.test", "app.fn.test", "hello--app.fn.test"] {
        for (client, want) in [(ATLANTA, IAD), (FRANKFURT, FRA), (TOKYO, NRT)] {
            let got = server.addresses(asked, client);
            assert_eq!(
                got,
                [want.parse::<std::net::IpAddr>().unwrap()],
                "{asked} {client}"
            );
        }
    }
    let answer = server.ask(&with_subnet("app.fn.test", RecordType::A, TOKYO));
    assert_eq!(answer.answers[0].ttl, 5);
    assert_eq!(
        server.addresses("iad.at.fn.test", TOKYO)[0].to_string(),
        IAD
    );
    let metrics = server.get("/metrics").1;
    for want in [
        "tradewind_dns_queries_total{rcode=\"NOERROR\"}",
        "tradewind_dns_answers_total{region=\"nrt\"}",
        "tradewind_dns_view_revision 1",
    ] {
        assert!(metrics.contains(want), "{want} not in:\n{metrics}");
    }
}

#[test]
fn regions_that_do_not_serve_are_left_out_until_all_are() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.1.2", &dir, &global);
    let mut view = body(vec![iad(), fra(), nrt()]);
    view.regions[1].verdict = VerdictBody::Down;
    view.regions[2].verdict = VerdictBody::Draining;
    global.offer(seal(2, &view));
    server.until_revision(2);
    for client in [ATLANTA, FRANKFURT, TOKYO] {
        assert_eq!(
            server.addresses("app.fn.test", client)[0].to_string(),
            IAD,
            "{client}"
        );
    }
    assert_eq!(
        server.addresses("fra.at.fn.test", TOKYO)[0].to_string(),
        FRA,
        "static"
    );
    for region in &mut view.regions {
        region.verdict = VerdictBody::Down;
    }
    global.offer(seal(3, &view));
    server.until_revision(3);
    let answer = server.ask(&with_subnet("app.fn.test", RecordType::A, TOKYO));
    assert_eq!(ips(&answer).len(), 3, "fail open");
    assert_eq!(answer.answers[0].ttl, 2);
}

#[test]
fn a_placement_is_a_mask() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let mut view = body(vec![iad(), fra(), nrt()]);
    for (name, regions) in [("eu", vec!["fra"]), ("vault", vec!["lhr"])] {
        view.placed_apps.push(PlacedApp {
            name: name.to_owned(),
            regions: regions.into_iter().map(str::to_owned).collect(),
            strict: true,
        });
    }
    global.offer(seal(1, &view));
    let server = Server::start("127.42.1.3", dir.path(), &[&global.url]);
    server.until_revision(1);
    for asked in ["eu.fn.test", "hello--eu.fn.test"] {
        for client in [ATLANTA, FRANKFURT, TOKYO] {
            assert_eq!(
                server.addresses(asked, client)[0].to_string(),
                FRA,
                "{asked} {client}"
            );
        }
    }
    // Residency beats availability: no address rather than one elsewhere, and the name exists.
    let answer = server.ask(&query("vault.fn.test", RecordType::A));
    assert_eq!(
        answer.metadata.response_code,
        hickory_proto::op::ResponseCode::NoError
    );
    assert!(answer.answers.is_empty() && answer.authorities.len() == 1);
}

#[test]
fn one_region_is_answered_for_both_families_and_one_with_ipv4_first() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let mut view = body(vec![iad(), fra(), nrt()]);
    view.regions[0].ipv6 = Some("2001:db8::1".parse().unwrap());
    view.regions[2].ipv4 = None;
    view.regions[2].ipv6 = Some("2001:db8::3".parse().unwrap());
    global.offer(seal(1, &view));
    let server = Server::start("127.42.1.4", dir.path(), &[&global.url]);
    server.until_revision(1);
    let told = |server: &Server, client: &str, kind| -> Vec<String> {
        let answer = server.ask(&with_subnet("app.fn.test", kind, client));
        ips(&answer).iter().map(ToString::to_string).collect()
    };
    // Frankfurt has no IPv6, and Tokyo no IPv4: its clients go elsewhere.
    for (client, v4, v6) in [
        (ATLANTA, IAD, vec!["2001:db8::1"]),
        (FRANKFURT, FRA, vec![]),
    ] {
        assert_eq!(told(&server, client, RecordType::A), [v4], "{client}");
        assert_eq!(told(&server, client, RecordType::AAAA), v6, "{client}");
    }
    let of_tokyo = told(&server, TOKYO, RecordType::A);
    assert!([IAD, FRA].contains(&of_tokyo[0].as_str()), "{of_tokyo:?}");
    // With no other left it serves those that can reach it.
    for row in &mut view.regions[..2] {
        row.verdict = VerdictBody::Down;
    }
    global.offer(seal(2, &view));
    server.until_revision(2);
    assert_eq!(told(&server, TOKYO, RecordType::AAAA), ["2001:db8::3"]);
    assert!(told(&server, TOKYO, RecordType::A).is_empty());
}

#[test]
fn explain_shows_every_candidate() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.1.5", &dir, &global);
    let (status, text) = server.get("/v1/explain?name=app.fn.test&client=133.11.0.1");
    assert_eq!(status, 200, "{text}");
    let explained: Explanation = serde_json::from_str(&text).unwrap();
    assert_eq!(explained.candidates.len(), 3);
    let chosen: Vec<_> = explained
        .candidates
        .iter()
        .filter(|region| region.chosen)
        .collect();
    assert_eq!((chosen.len(), chosen[0].region.as_str()), (1, "nrt"));
    assert_eq!(explained.view.revision, 1);
    assert!(explained.decision.contains("nrt"), "{}", explained.decision);
    assert!(explained.located.contains("JP"), "{}", explained.located);
    for (path, want) in [
        ("/v1/explain?name=app.fn.test&client=nonsense", 400),
        ("/v1/explain?name=app.example.com&client=133.11.0.1", 404),
        ("/v1/nothing", 404),
    ] {
        let (status, text) = server.get(path);
        assert_eq!(status, want, "{path}");
        assert!(text.contains("\"message\""), "{path}: {text}");
    }
}
