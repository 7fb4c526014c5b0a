//! Every kind of object on its way through a node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use api_types::object::example::example;
use api_types::{Kind, Object};
use api_wire::view::MetadataBody;
use global_plane_consensus::store::Identity;
use global_plane_consensus::{NodeId, Store};

use super::*;
use crate::views::{Site, Views};

struct Disk {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster: "demo".to_owned(),
            node: NodeId(1),
        };
        let (store, _) = Store::open(dir.path(), &identity, &[NodeId(1)], &FAMILIES).unwrap();
        Self { _dir: dir, store }
    }

    /// What a node has that starts on this disk.
    fn load(&self) -> Arc<Replica> {
        let loaded = Replica::load(&self.store.reader(), "demo", LogIndex(1), 100);
        Arc::new(loaded.unwrap())
    }

    fn write(&self, fill: impl FnOnce(&mut StateBatch<'_>)) {
        let mut batch = self.store.batch();
        fill(&mut batch);
        let batch = batch.into_batch();
        self.store.applied(batch, LogIndex(1), LogIndex(1)).unwrap();
    }
}

fn objects(replica: &Replica) -> Vec<Object> {
    replica.read(|state| {
        let objects = state.catalog().objects();
        objects.map(|object| object.to_owned()).collect()
    })
}

fn lines_after(replica: &Replica, revision: u64) -> Vec<WatchLine> {
    let pulled = replica.changes_after(Revision(revision)).unwrap();
    let text = String::from_utf8(pulled.lines.concat()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A new kind needs no code in the store, the history, the snapshot or the view; this shows it.
#[test]
fn every_kind_passes_store_history_snapshot_and_view() {
    let disk = Disk::new();
    let node = Machine::new(disk.load(), Knowledge::own());
    let mut revision = 0;
    let keep = |change: Change, revision: u64| {
        let standing = Standing {
            revision,
            ..Standing::default()
        };
        disk.write(|batch| node.keep(&[change], (Revision(revision - 1), standing), batch));
    };

    let mut all = Vec::new();
    for kind in Kind::ALL {
        revision += 1;
        let object = example(*kind, Revision(revision));
        keep(Change::Put(object.clone()), revision);
        match &lines_after(&node.replica, revision - 1)[..] {
            [
                WatchLine::Put {
                    revision: at,
                    object: body,
                },
            ] if kind.received_by_regions() => {
                let sent = Object::try_from(body.clone()).unwrap();
                assert_eq!((*at, &sent), (revision, &object), "{kind}");
            }
            [] if !kind.received_by_regions() => {}
            lines => panic!("{kind}: {lines:?}"),
        }
        all.push(object);
    }
    let started = disk.load();
    assert_eq!(objects(&started), all, "read back from the disk");
    let records = all
        .iter()
        .map(|object| ObjectBody::to_record(object.by_ref()));
    let bytes = records.map(|record| record.len()).sum::<usize>();
    assert_eq!(node.replica.objects_bytes(), bytes, "as they came");
    assert_eq!(started.objects_bytes(), bytes, "as they were read");
    assert_eq!(
        lines_after(&started, 0).len(),
        lines_after(&node.replica, 0).len()
    );
    // The same again is not counted twice.
    keep(Change::Put(all[0].clone()), revision + 1);
    revision += 1;
    assert_eq!(node.replica.objects_bytes(), bytes, "put again");

    let snapshot = Machine::new(Arc::clone(&started), Knowledge::own()).snapshot();
    let other = Disk::new();
    let mut behind = Machine::new(other.load(), Knowledge::own());
    other.write(|batch| behind.restore(&snapshot, batch).unwrap());
    assert_eq!(objects(&behind.replica), all, "taken from a snapshot");
    assert_eq!(behind.replica.objects_bytes(), bytes, "of a snapshot");
    assert_eq!(objects(&other.load()), all, "and kept");

    let views = Views::new(Site {
        cluster_id: "demo".to_owned(),
        zone: "fn.test".to_owned(),
        gateway_port: 8080,
        map_sha256: String::new(),
        world: Arc::new(dns_steering::World::unknown()),
    });
    let view: MetadataBody = views.metadata(&started).open().unwrap();
    let offered = view.objects.into_iter().map(Object::try_from);
    let offered = offered.collect::<Result<Vec<_>, _>>().unwrap();
    let received = all
        .iter()
        .filter(|object| object.kind().received_by_regions());
    assert!(offered.iter().eq(received), "{offered:?}");

    for object in &all {
        revision += 1;
        let (id, at) = (object.id(), Revision(revision));
        let gone = Change::Deleted {
            revision: at,
            object: id.clone(),
        };
        keep(gone, revision);
        match &lines_after(&node.replica, revision - 1)[..] {
            [
                WatchLine::Deleted {
                    revision: at,
                    kind,
                    id: gone,
                },
            ] => {
                let named = api_types::ObjectId::parse(Kind::named(kind).unwrap(), gone);
                assert_eq!((*at, named), (revision, Some(id)));
            }
            lines => assert!(lines.is_empty() && !id.kind().received_by_regions(), "{id}"),
        }
    }
    assert_eq!(objects(&disk.load()), [], "nothing is left on the disk");
    assert_eq!(node.replica.objects_bytes(), 0, "nothing is left");
}

/// A node of some version: its disk, and the state machine of a program that knows so much.
struct Node {
    disk: Disk,
    machine: Machine,
}

impl Node {
    fn new(knows: &[&str]) -> Self {
        let disk = Disk::new();
        let machine = Machine::new(disk.load(), Knowledge::said(knows));
        Self { disk, machine }
    }

    /// Another version is started on the same disk.
    fn restarted(self, knows: &[&str]) -> Self {
        let machine = Machine::new(self.disk.load(), Knowledge::said(knows));
        Self { machine, ..self }
    }

    fn apply(&mut self, index: u64, payload: &[u8]) -> Result<(), ApplyError> {
        let mut batch = self.disk.store.batch();
        let outcome = self.machine.apply(LogIndex(index), payload, &mut batch)?;
        outcome.unwrap();
        let batch = batch.into_batch();
        let applied = LogIndex(index);
        self.disk.store.applied(batch, applied, applied).unwrap();
        Ok(())
    }

    fn state(&self) -> StateParts {
        self.machine.replica.read(State::parts)
    }
}

fn entry(request: &str, command: &str) -> Vec<u8> {
    format!(r#"{{"format":1,"request":"{request}","log_time":1,"command":{command}}}"#).into_bytes()
}

#[test]
fn nodes_of_mixed_versions_agree_until_a_new_format_is_in_use_and_then_the_old_one_stops() {
    const NEW: &[&str] = &["command/launch_comet", "object/comet"];
    let mut nodes = [Node::new(NEW), Node::new(NEW), Node::new(&[])];
    let mut index = 0;
    let mut all = |nodes: &mut [Node], command: &str| {
        index += 1;
        let payload = entry(&format!("r{index}"), command);
        let outcomes = nodes.iter_mut().map(|node| node.apply(index, &payload));
        outcomes.collect::<Vec<_>>()
    };
    let says = |member: u64, knows: &str| {
        format!(r#"{{"name":"say_known","member":{member},"knows":[{knows}]}}"#)
    };
    let create =
        |n: u64| format!(r#"{{"name":"create_app","id":"A{n}","draft":{{"name":"app{n}"}}}}"#);
    let lacks = |node: &Node, member: u64| {
        node.machine.replica.read(|state| {
            let said = state.catalog().member(api_types::MemberId(member));
            let knows = said.map_or_else(Knowledge::default, |said| said.knows.clone());
            knows.lacks(NEW.iter().copied()).len()
        })
    };
    let new = r#""command/launch_comet","object/comet""#;

    // Two are upgraded; the third is not, then is, and is rolled back.
    for command in [says(1, new), says(2, new), create(1)] {
        assert!(all(&mut nodes, &command).iter().all(Result::is_ok));
    }
    assert_eq!([1, 2, 3].map(|member| lacks(&nodes[2], member)), [0, 0, 2]);
    let [one, two, three] = nodes;
    let mut nodes = [one, two, three.restarted(NEW)];
    assert!(all(&mut nodes, &says(3, new)).iter().all(Result::is_ok));
    assert_eq!(lacks(&nodes[0], 3), 0);
    let [one, two, three] = nodes;
    let mut nodes = [one, two, three.restarted(&[])];
    assert!(all(&mut nodes, &create(2)).iter().all(Result::is_ok));
    assert_eq!(nodes[2].state(), nodes[0].state());

    // Before it has said so the format comes into use: it stops, with its state as it was.
    let before = nodes[2].state();
    let uses = r#"{"name":"use_formats","formats":["command/launch_comet","object/comet"]}"#;
    let outcomes = all(&mut nodes, uses);
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    match &outcomes[2] {
        Err(
            error @ ApplyError::Newer {
                index: LogIndex(6), ..
            },
        ) => {
            assert!(error.to_string().contains("object/comet"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(nodes[2].state(), before);

    // What it would meet next, and the disk of one that went on.
    let unknown = nodes[2].apply(7, &entry("r7", r#"{"name":"launch_comet","to":"fra"}"#));
    assert!(
        matches!(unknown, Err(ApplyError::Newer { .. })),
        "{unknown:?}"
    );
    let corrupt = nodes[2].apply(7, &entry("r7", r#"{"name":"delete_app"}"#));
    assert!(
        matches!(corrupt, Err(ApplyError::Corrupt { .. })),
        "{corrupt:?}"
    );
    let snapshot = nodes[0].machine.snapshot();
    let mut batch = nodes[2].disk.store.batch();
    let taken = nodes[2].machine.restore(&snapshot, &mut batch);
    assert!(matches!(taken, Err(ApplyError::Newer { .. })), "{taken:?}");
    drop(batch);
    let reader = nodes[0].disk.store.reader();
    let loaded = Replica::load(&reader, "demo", LogIndex(6), 100);
    assert!(loaded.is_err_and(|error| error.is_newer()));

    // Upgraded again, it goes on from the disk that it stopped with.
    let [one, two, three] = nodes;
    let mut three = three.restarted(NEW);
    three.apply(6, &entry("r6", uses)).unwrap();
    assert_eq!(three.state(), one.state());
    assert_eq!(two.state(), one.state());
}
