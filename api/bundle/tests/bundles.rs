//! Bundles made, read back, and made by others with bad intent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use api_bundle::manifest::SCHEMA;
use api_bundle::{Manifest, Packed, Tree, UnpackError, digest, is_unpacked, unpack};
use api_types::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

fn manifest() -> Manifest {
    Manifest {
        schema: SCHEMA,
        name: "hello".to_owned(),
        version: "0.0.1".to_owned(),
        runtime: "executable".to_owned(),
        platform: "linux/amd64".to_owned(),
        entrypoint: vec!["/function/hello".to_owned()],
        cmd: Vec::new(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Folder,
    File { bytes: Vec<u8>, executable: bool },
    Link(String),
}

fn lay_out(root: &Path, nodes: &BTreeMap<String, Node>) {
    fs::create_dir_all(root).unwrap();
    for (path, node) in nodes {
        let at = root.join(path);
        match node {
            Node::Folder => fs::create_dir(&at).unwrap(),
            Node::File { bytes, executable } => {
                fs::write(&at, bytes).unwrap();
                // Bits that do not travel: group, set-user-id.
                let mode = if *executable { 0o4770 } else { 0o600 };
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
            }
            Node::Link(target) => symlink(target, &at).unwrap(),
        }
    }
}

fn read_back(root: &Path, below: &Path, nodes: &mut BTreeMap<String, Node>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        let node = if kind.is_symlink() {
            Node::Link(
                fs::read_link(entry.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            )
        } else if kind.is_dir() {
            read_back(root, &path, nodes);
            Node::Folder
        } else {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            assert!(matches!(mode, 0o444 | 0o555), "{path:?} has mode {mode:o}");
            Node::File {
                bytes: fs::read(entry.path()).unwrap(),
                executable: mode == 0o555,
            }
        };
        nodes.insert(path.to_str().unwrap().to_owned(), node);
    }
}

/// Folders one and two deep, with files and links in them. Names are long enough for a path to
/// need more than a header holds.
fn nodes() -> impl Strategy<Value = BTreeMap<String, Node>> {
    let name =
        "[a-c._ é-]{1,3}|[a-c]{90,120}".prop_filter("no step", |name| name != "." && name != "..");
    let leaf = prop_oneof![
        (
            proptest::collection::vec(any::<u8>(), 0..2000),
            any::<bool>()
        )
            .prop_map(|(bytes, executable)| Node::File { bytes, executable }),
        "[a-c]{1,120}".prop_map(Node::Link),
        Just(Node::Folder),
    ];
    proptest::collection::vec((name.clone(), name, leaf), 0..12).prop_map(|entries| {
        let mut nodes = BTreeMap::new();
        for (folder, name, node) in entries {
            nodes.entry(folder.clone()).or_insert(Node::Folder);
            if nodes[&folder] == Node::Folder {
                nodes.insert(format!("{folder}/{name}"), node);
            }
        }
        nodes
    })
}

fn packed(tree: &Tree) -> (Vec<u8>, Packed) {
    let mut bytes = Vec::new();
    let packed = tree.pack(&manifest(), &mut bytes).unwrap();
    (bytes, packed)
}

fn tree_of(folder: &Path) -> Tree {
    let mut tree = Tree::default();
    tree.add_folder("function", folder, &|_, _| true).unwrap();
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_unpacked_is_what_was_packed(nodes in nodes()) {
        let dir = tempfile::tempdir().unwrap();
        lay_out(&dir.path().join("in"), &nodes);
        let (bytes, packed) = packed(&tree_of(&dir.path().join("in")));
        prop_assert_eq!(digest(&mut bytes.as_slice()).unwrap(), (packed.digest, packed.size));
        let out = dir.path().join("out");
        let read = unpack(Cursor::new(bytes), &packed.digest, &out).unwrap();
        prop_assert_eq!(read, manifest());
        let mut found = BTreeMap::new();
        read_back(&out.join("function"), Path::new(""), &mut found);
        for (path, node) in &found {
            if *node == Node::Folder {
                let mode = fs::metadata(out.join("function").join(path)).unwrap().permissions().mode();
                prop_assert_eq!(mode & 0o7777, 0o555, "nobody writes to {}", path);
            }
        }
        prop_assert_eq!(found, nodes);
    }

    #[test]
    fn the_same_files_have_the_same_digest_wherever_and_whenever_they_lie(nodes in nodes()) {
        let dir = tempfile::tempdir().unwrap();
        lay_out(&dir.path().join("a"), &nodes);
        lay_out(&dir.path().join("b/c"), &nodes);
        let old = fs::File::open(dir.path().join("b/c")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        prop_assert_eq!(
            packed(&tree_of(&dir.path().join("a"))).1,
            packed(&tree_of(&dir.path().join("b/c"))).1
        );
    }

    #[test]
    fn bytes_that_are_no_bundle_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let dir = tempfile::tempdir().unwrap();
        let (digest, _) = digest(&mut bytes.as_slice()).unwrap();
        prop_assert!(unpack(Cursor::new(bytes), &digest, &dir.path().join("out")).is_err());
    }
}

/// Whatever is changed in an unpacked bundle is seen, and what is not there is a change too.
#[test]
fn an_unpacked_bundle_is_told_from_a_damaged_one() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("a program cut short", |folder| {
            fs::write(folder.join("function/hello"), "#!/bin").unwrap();
        }),
        ("a longer program", |folder| {
            fs::write(folder.join("function/hello"), "#!/bin/sh\nexit 1\n").unwrap();
        }),
        ("a program that may not run", |folder| {
            let none = fs::Permissions::from_mode(0o444);
            fs::set_permissions(folder.join("function/hello"), none).unwrap();
        }),
        ("no program", |folder| {
            fs::remove_file(folder.join("function/hello")).unwrap();
        }),
        ("another link", |folder| {
            fs::remove_file(folder.join("function/link")).unwrap();
            symlink("elsewhere", folder.join("function/link")).unwrap();
        }),
        ("a link for a folder", |folder| {
            fs::remove_dir(folder.join("function/folder")).unwrap();
            symlink("/tmp", folder.join("function/folder")).unwrap();
        }),
        ("one file more", |folder| {
            fs::write(folder.join("function/folder/more"), "").unwrap();
        }),
        ("another manifest", |folder| {
            fs::write(folder.join("manifest.json"), "{}").unwrap();
        }),
        ("nothing", |folder| fs::remove_dir_all(folder).unwrap()),
    ];
    let source = tempfile::tempdir().unwrap();
    let program = Node::File {
        bytes: b"#!/bin/sh\n".to_vec(),
        executable: true,
    };
    let nodes = BTreeMap::from([
        ("folder".to_owned(), Node::Folder),
        ("hello".to_owned(), program),
        ("link".to_owned(), Node::Link("hello".to_owned())),
    ]);
    lay_out(source.path(), &nodes);
    let (bytes, packed) = packed(&tree_of(source.path()));
    let is_whole = |folder: &Path| {
        is_unpacked(Cursor::new(&bytes), &packed.digest, folder, &["packed"]).unwrap()
    };
    for (case, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("bundle");
        unpack(Cursor::new(&bytes), &packed.digest, &folder).unwrap();
        fs::write(folder.join("packed"), "").unwrap();
        assert!(is_whole(&folder), "before {case}");
        for sealed in ["function", "function/folder"] {
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(folder.join(sealed), open).unwrap();
        }
        assert!(is_whole(&folder), "a folder's mode is no damage");
        for (file, mode) in [("function/hello", 0o755), ("manifest.json", 0o644)] {
            fs::set_permissions(folder.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        damage(&folder);
        assert!(!is_whole(&folder), "{case}");
    }
    let folder = tempfile::tempdir().unwrap();
    let other = is_unpacked(Cursor::new(&bytes[1..]), &packed.digest, folder.path(), &[]);
    assert!(
        matches!(other, Err(UnpackError::Digest { .. })),
        "{other:?}"
    );
}

#[test]
fn a_changed_bit_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/hello"), "hello").unwrap();
    let (mut bytes, packed) = packed(&tree_of(&dir.path().join("in")));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let out = dir.path().join("out");
    let error = unpack(Cursor::new(bytes), &packed.digest, &out).unwrap_err();
    assert!(
        matches!(error, UnpackError::Digest { .. }) && error.to_string().contains("sha256"),
        "{error}"
    );
    assert!(!out.exists());
}

struct Evil {
    kind: EntryType,
    path: &'static str,
    link: &'static str,
    size: u64,
}

impl Evil {
    const fn file(path: &'static str) -> Self {
        Self::entry(EntryType::Regular, path, "")
    }

    const fn folder(path: &'static str) -> Self {
        Self::entry(EntryType::Directory, path, "")
    }

    const fn entry(kind: EntryType, path: &'static str, link: &'static str) -> Self {
        Self {
            kind,
            path,
            link,
            size: 0,
        }
    }
}

/// An archive of exactly these entries, written below the checks of any library.
fn archive(entries: &[Evil]) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(0o644);
        let manifest = serde_json::to_vec(&manifest()).unwrap();
        let content = if entry.path == "manifest.json" {
            manifest
        } else {
            Vec::new()
        };
        header.set_size(entry.size.max(content.len() as u64));
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        gnu.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_cksum();
        tar.append(&header, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

const MANIFEST: Evil = Evil::file("manifest.json");

#[test]
fn archives_with_bad_intent_are_refused_and_write_nothing_outside() {
    let function = || Evil::folder("function");
    for (case, entries, want) in [
        ("nothing", vec![], "does not begin with manifest.json"),
        (
            "no manifest",
            vec![function()],
            "does not begin with manifest.json",
        ),
        (
            "a late manifest",
            vec![function(), MANIFEST],
            "does not begin with manifest.json",
        ),
        ("two manifests", vec![MANIFEST, MANIFEST], "not function"),
        (
            "an absolute path",
            vec![MANIFEST, Evil::file("/tmp/escaped")],
            "not function",
        ),
        (
            "a climbing path",
            vec![MANIFEST, function(), Evil::file("function/../../escaped")],
            "step",
        ),
        (
            "another top folder",
            vec![MANIFEST, Evil::folder("etc")],
            "not function",
        ),
        (
            "an absolute link",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Symlink, "function/a", "/etc/passwd"),
            ],
            "outside the bundle",
        ),
        (
            "a climbing link",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Symlink, "function/a", "../../escaped"),
            ],
            "outside the bundle",
        ),
        (
            "a link that climbs through another",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Symlink, "function/a", "p/../../escaped"),
            ],
            "outside the bundle",
        ),
        (
            "a file behind a link",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Symlink, "function/a", "b"),
                Evil::file("function/a/escaped"),
            ],
            "not in a folder",
        ),
        (
            "a link to a file outside, as a hard link",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Link, "function/a", "/etc/passwd"),
            ],
            "is a link",
        ),
        (
            "a device",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Char, "function/a", ""),
            ],
            "is a char",
        ),
        (
            "a block device",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Block, "function/a", ""),
            ],
            "is a block",
        ),
        (
            "a pipe",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::Fifo, "function/a", ""),
            ],
            "is a fifo",
        ),
        (
            "an extended header",
            vec![
                MANIFEST,
                function(),
                Evil::entry(EntryType::XHeader, "function/a", ""),
            ],
            "is a xheader",
        ),
        (
            "a path twice",
            vec![
                MANIFEST,
                function(),
                Evil::file("function/a"),
                Evil::file("function/a"),
            ],
            "appears twice",
        ),
        (
            "another order",
            vec![
                MANIFEST,
                function(),
                Evil::file("function/b"),
                Evil::file("function/a"),
            ],
            "out of order",
        ),
        (
            "a bomb",
            vec![
                MANIFEST,
                function(),
                Evil {
                    size: 513 << 20,
                    ..Evil::file("function/a")
                },
            ],
            "more than 512 MiB",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(&entries);
        let (digest, _) = digest(&mut bytes.as_slice()).unwrap();
        let out = dir.path().join("x/y/out");
        let error = unpack(Cursor::new(bytes), &digest, &out).unwrap_err();
        assert!(error.to_string().contains(want), "{case}: {error}");
        let mut beside = BTreeMap::new();
        read_back(&dir.path().join("x"), Path::new(""), &mut beside);
        assert!(
            beside.keys().all(|path| !path.contains("escaped")),
            "{case}: {beside:?}"
        );
    }
    assert!(!Path::new("/tmp/escaped").exists());
}

#[test]
fn many_entries_are_refused() {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let json = serde_json::to_vec(&manifest()).unwrap();
    let header = |kind, size: usize| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        header
    };
    tar.append_data(
        &mut header(EntryType::Regular, json.len()),
        "manifest.json",
        json.as_slice(),
    )
    .unwrap();
    tar.append_data(
        &mut header(EntryType::Directory, 0),
        "function",
        std::io::empty(),
    )
    .unwrap();
    for n in 0..api_bundle::ENTRIES_MAX {
        let path = format!("function/{n:06}");
        tar.append_link(&mut header(EntryType::Symlink, 0), path, "x")
            .unwrap();
    }
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    let (digest, _) = digest(&mut bytes.as_slice()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = unpack(Cursor::new(bytes), &digest, &dir.path().join("out")).unwrap_err();
    assert!(matches!(error, UnpackError::Entries), "{error}");
}

#[test]
fn a_large_download_is_cut_off() {
    let bytes = vec![0; usize::try_from(api_bundle::PACKED_BYTES_MAX).unwrap() + 1];
    let dir = tempfile::tempdir().unwrap();
    let error = unpack(
        Cursor::new(bytes),
        &Digest([0; 32]),
        &dir.path().join("out"),
    )
    .unwrap_err();
    assert!(matches!(error, UnpackError::Packed), "{error}");
}

#[test]
fn a_zip_bomb_ends_at_the_bound() {
    // Zeros are end-of-archive blocks: read past, they would go on for ever.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let manifest = archive(&[MANIFEST]);
    let mut plain = Vec::new();
    std::io::copy(
        &mut flate2::read::GzDecoder::new(manifest.as_slice()),
        &mut plain,
    )
    .unwrap();
    gzip.write_all(&plain).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        gzip.write_all(&zeros).unwrap();
    }
    let bytes = gzip.finish().unwrap();
    let (digest, _) = digest(&mut bytes.as_slice()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let read = unpack(Cursor::new(bytes), &digest, &dir.path().join("out"));
    assert!(
        read.is_ok(),
        "what lies behind the archive's end is not read: {read:?}"
    );
}

#[test]
fn what_cannot_travel_is_refused_when_packing() {
    let dir = tempfile::tempdir().unwrap();
    let add = |folder: &Path| Tree::default().add_folder("function", folder, &|_, _| true);

    let linked = dir.path().join("linked");
    fs::create_dir(&linked).unwrap();
    symlink("/etc/passwd", linked.join("a")).unwrap();
    assert!(
        add(&linked)
            .unwrap_err()
            .to_string()
            .contains("cannot be in a bundle")
    );

    let socket = dir.path().join("socket");
    fs::create_dir(&socket).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(socket.join("s")).unwrap();
    assert!(
        add(&socket)
            .unwrap_err()
            .to_string()
            .contains("neither a file")
    );

    let error = add(&dir.path().join("absent")).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");

    let large = dir.path().join("large");
    fs::create_dir(&large).unwrap();
    fs::File::create(large.join("hole"))
        .unwrap()
        .set_len(api_bundle::UNPACKED_BYTES_MAX + 1)
        .unwrap();
    let error = tree_of(&large)
        .pack(&manifest(), std::io::sink())
        .unwrap_err();
    assert!(error.to_string().contains("512 MiB"), "{error}");
}

#[test]
fn what_keep_refuses_stays_behind_with_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("target/debug")).unwrap();
    fs::write(dir.path().join("target/debug/x"), "").unwrap();
    fs::write(dir.path().join("func.py"), "").unwrap();
    let mut tree = Tree::default();
    let keep = |path: &Path, is_folder: bool| !(is_folder && path == Path::new("target"));
    tree.add_folder("function", dir.path(), &keep).unwrap();
    tree.add_bytes("python/bin/fdk", b"#!/usr/bin/env python3\n".to_vec(), true)
        .unwrap();
    assert_eq!(
        tree.files().collect::<Vec<_>>(),
        ["function/func.py", "python/bin/fdk"]
    );
    assert!(tree.has_file("function/func.py") && !tree.has_file("function"));
}
