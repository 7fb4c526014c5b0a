#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use api_wire::planes::{RegionBody, VerdictBody};
use api_wire::view::PlacedApp;
use proptest::prelude::*;

use super::*;

const ZONE: &str = "fn.test";

fn setting() -> Setting {
    let config = r#"
        name = "dns-1"
        data_dir = "/nonexistent"
        listen = ["127.0.0.1:0"]
        http_listen = "127.0.0.1:0"
        globals = ["http://127.0.20.1:7400"]
        zone = "fn.test"
        nameservers = [{name = "ns1.fn.test", ipv4 = "127.0.0.1"}]
    "#;
    Setting::new(&daemon::config::parse(config, [], false).unwrap()).unwrap()
}

fn region(name: &str) -> RegionBody {
    RegionBody {
        name: name.to_owned(),
        ipv4: Some("192.0.2.1".parse().unwrap()),
        ipv6: None,
        gateway: "192.0.2.1:8080".to_owned(),
        admin: "192.0.2.1:8081".to_owned(),
        latitude: 50.0,
        longitude: 8.0,
        labels: std::collections::BTreeMap::new(),
        drained: false,
        verdict: VerdictBody::Healthy,
        price_ms: 0,
        registered_at: "2026-01-02T15:04:05.678Z".to_owned(),
        tradewind_revision: 1,
    }
}

fn body(names: &[&str]) -> SteeringBody {
    SteeringBody {
        zone: ZONE.to_owned(),
        gateway_port: 8080,
        map_sha256: String::new(),
        regions: names.iter().map(|name| region(name)).collect(),
        placed_apps: Vec::new(),
        placed_fns: Vec::new(),
    }
}

fn seal_as(cluster: &str, epoch: u64, revision: u64, body: &SteeringBody) -> Envelope {
    let id = ViewId {
        cluster_id: cluster.to_owned(),
        epoch,
        revision,
        count: body.regions.len() as u64,
        sha256: String::new(),
    };
    Envelope::seal(id, body)
}

fn seal(revision: u64, body: &SteeringBody) -> Envelope {
    seal_as("c", 1, revision, body)
}

fn held(setting: &Setting) -> Loaded {
    let envelope = seal(10, &body(&["fra", "iad", "nrt"]));
    match admit(None, &envelope, setting).unwrap() {
        super::Admission::Admitted(loaded) => *loaded,
        super::Admission::Unchanged => panic!("nothing is held"),
    }
}

#[test]
fn newer_sound_views_are_admitted() {
    let setting = setting();
    let held = held(&setting);
    let mut down = body(&["fra", "iad", "nrt"]);
    for region in &mut down.regions {
        region.verdict = VerdictBody::Down;
    }
    let mut nowhere = body(&["fra", "iad", "nrt"]);
    nowhere.placed_apps.push(PlacedApp {
        name: "vault".to_owned(),
        regions: Vec::new(),
        strict: true,
    });
    for (case, envelope) in [
        ("next revision", seal(11, &body(&["fra", "iad", "nrt"]))),
        (
            "next epoch",
            seal_as("c", 2, 1, &body(&["fra", "iad", "nrt"])),
        ),
        ("one region fewer", seal(11, &body(&["fra", "iad"]))),
        ("every region down", seal(11, &down)),
        ("an app that may run nowhere", seal(11, &nowhere)),
    ] {
        let verdict = admit(Some(&held), &envelope, &setting);
        assert!(
            matches!(verdict, Ok(super::Admission::Admitted(_))),
            "{case}: {verdict:?}"
        );
    }
    let same = seal(10, &body(&["fra", "iad", "nrt"]));
    assert!(matches!(
        admit(Some(&held), &same, &setting),
        Ok(super::Admission::Unchanged)
    ));
}

#[test]
fn every_unsound_view_is_refused_and_says_why() {
    let setting = setting();
    let held = held(&setting);
    let good = body(&["fra", "iad", "nrt"]);
    let mut garbled = seal(11, &good);
    garbled.body = garbled.body.replace("fra", "xxx");
    let mut not_json = seal(11, &good);
    not_json = Envelope::seal(not_json.id, &"text");
    let mut miscounted = seal(11, &good);
    miscounted.id.count = 7;
    let mut other_zone = good.clone();
    other_zone.zone = "other.test".to_owned();
    let mut nameless = good.clone();
    nameless.regions[0].name = "Not A Name".to_owned();
    let mut addressless = good.clone();
    for region in &mut addressless.regions {
        region.ipv4 = None;
    }
    let mut one_addressless = good.clone();
    one_addressless.regions[1].ipv4 = None;
    for (want, envelope) in [
        ("malformed", garbled),
        ("malformed", not_json),
        ("malformed", miscounted),
        ("malformed", seal(11, &nameless)),
        ("other_zone", seal(11, &other_zone)),
        ("other_cluster", seal_as("d", 9, 99, &good)),
        ("older", seal(9, &good)),
        ("older", seal_as("c", 0, 99, &good)),
        ("forked", seal(10, &body(&["fra", "iad", "lhr"]))),
        ("emptied", seal(11, &body(&[]))),
        ("mass_change", seal(11, &body(&["fra"]))),
        ("mass_change", seal(11, &body(&["a", "b", "c", "d"]))),
        ("no_address", seal(11, &addressless)),
        ("no_address", seal(11, &one_addressless)),
    ] {
        match admit(Some(&held), &envelope, &setting) {
            Err(refusal) => assert_eq!(refusal.label(), want, "{refusal}"),
            Ok(verdict) => panic!("{want}: {verdict:?}"),
        }
    }
}

proptest! {
    /// Whatever order views arrive in, from however many nodes, what is served never goes back,
    /// and every sound view that is newer than all before it is served.
    #[test]
    fn an_older_view_never_replaces_a_newer_one(
        offers in prop::collection::vec((0..3_u64, 0..20_u64, any::<bool>(), 0..3_usize), 1..60),
    ) {
        let setting = setting();
        let names: [&[&str]; 3] = [&["fra", "iad", "nrt"], &["fra", "iad"], &[]];
        let views = Views::default();
        let mut newest = None;
        for (epoch, revision, sound, which) in offers {
            let mut envelope = seal_as("c", epoch, revision, &body(names[which]));
            if !sound {
                envelope.body.push(' ');
            }
            let position = Position::from(&envelope.id);
            let before = views.current().map(|loaded| Position::from(&loaded.id));
            let verdict = admit(views.current().as_deref(), &envelope, &setting);
            let admitted = matches!(verdict, Ok(super::Admission::Admitted(_)));
            if let Ok(super::Admission::Admitted(loaded)) = verdict {
                views.serve(*loaded);
            }
            let may = sound && which != 2 && newest.is_none_or(|newest| position > newest);
            prop_assert_eq!(admitted, may, "{} after {:?}", position, newest);
            if admitted {
                newest = Some(position);
            } else {
                prop_assert_eq!(views.current().map(|loaded| Position::from(&loaded.id)), before);
            }
            prop_assert_eq!(views.current().map(|loaded| Position::from(&loaded.id)), newest);
        }
    }
}

#[test]
fn what_is_on_disk_is_the_last_view_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = disk::ViewFile::in_dir(&dir.path().join("made")).unwrap();
    assert!(file.read().unwrap().is_none());
    let (first, second) = (seal(1, &body(&["fra"])), seal(2, &body(&["iad"])));
    file.write(&first).unwrap();
    file.write(&second).unwrap();
    assert_eq!(file.read().unwrap().unwrap(), second);
    assert_eq!(
        std::fs::read_dir(dir.path().join("made")).unwrap().count(),
        1,
        "no litter"
    );
    std::fs::write(file.path(), "{").unwrap();
    assert!(matches!(
        file.read(),
        Err(disk::ViewFileError::Malformed { .. })
    ));
}
