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
    let node = Machine::new(disk.load());
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

    let snapshot = Machine::new(Arc::clone(&started)).snapshot();
    let other = Disk::new();
    let mut behind = Machine::new(other.load());
    other.write(|batch| behind.restore(&snapshot, batch).unwrap());
    assert_eq!(objects(&behind.replica), all, "taken from a snapshot");
    assert_eq!(behind.replica.objects_bytes(), bytes, "of a snapshot");
    assert_eq!(objects(&other.load()), all, "and kept");

    let views = Views::new(Site {
        cluster_id: "demo".to_owned(),
        zone: "fn.test".to_owned(),
        gateway_port: 8080,
        map_sha256: String::new(),
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
