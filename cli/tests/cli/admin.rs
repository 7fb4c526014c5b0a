//! `deploy` and the commands that ask and tell the global plane.

use std::path::Path;

use serde_json::json;

use crate::federation::{Up, stderr, until};

/// A program that is no function: enough to be packed, uploaded and fetched.
fn function(folder: &Path, more: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("run"), "#!/bin/sh\nexit 1\n").unwrap();
    let yaml = format!(
        "schema_version: 20180708\nname: odd\nversion: 0.0.1\nruntime: executable\n\
         entrypoint: /function/run\n{more}"
    );
    std::fs::write(folder.join("func.yaml"), yaml).unwrap();
}

#[test]
fn what_is_said_to_the_global_plane_is_what_it_holds() {
    let mut up = Up::new();
    up.start();
    let folder = up.folder.path().join("odd");
    let at = folder.to_str().unwrap();

    function(
        &folder,
        "memory: 64\nconfig: {A: 1}\ntriggers:\n- {name: t, type: http, source: /t}\n",
    );
    let first = up.json(&["deploy", "--app", "shop", at]);
    assert_eq!(first["regions"], json!(["iad"]));
    assert_eq!(first["urls"], json!(["http://shop.fn.test:8080/t"]));
    let held = up.json(&["replication"]);
    assert!(
        held["items"][0]["revision"].as_u64() >= first["revision"].as_u64(),
        "{held}"
    );

    // The same again is the same bundle; a change of func.yaml alone is another.
    let again = up.json(&["deploy", "--app", "shop", at]);
    assert_eq!(again["function"]["image"], first["function"]["image"]);
    function(
        &folder,
        "memory: 96\ntriggers:\n- {name: t, type: http, source: /u}\n",
    );
    let other = up.json(&["deploy", "--app", "shop", at]);
    assert_ne!(other["function"]["image"], first["function"]["image"]);
    assert_eq!(other["function"]["id"], first["function"]["id"]);
    assert_eq!(other["function"]["memory"], 96);
    assert_eq!(other["triggers"][0]["source"], "/u");

    up.tradewind_ok(&["fns", "config", "set", "shop", "odd", "B=2", "C=x=y"]);
    up.tradewind_ok(&["fns", "config", "unset", "shop", "odd", "A"]);
    let config = up.json(&["fns", "config", "list", "shop", "odd"]);
    assert_eq!(config, json!({"B": "2", "C": "x=y"}));
    up.tradewind_ok(&["fns", "update", "shop", "odd", "--timeout", "60"]);
    assert_eq!(up.json(&["fns", "inspect", "shop", "odd"])["timeout"], 60);

    up.tradewind_ok(&["triggers", "create", "shop", "odd", "v", "--source", "v"]);
    up.tradewind_ok(&["triggers", "update", "shop", "odd", "v", "--source", "/w"]);
    assert_eq!(
        up.json(&["triggers", "inspect", "shop", "odd", "v"])["source"],
        "/w"
    );
    up.tradewind_ok(&["triggers", "delete", "shop", "odd", "v"]);
    let triggers = up.json(&["triggers", "list", "shop", "odd"]);
    assert_eq!(triggers["items"].as_array().unwrap().len(), 1);

    up.tradewind_ok(&[
        "apps",
        "update",
        "shop",
        "--placement",
        "geo=na",
        "--strict",
    ]);
    let placed = up.json(&["apps", "inspect", "shop"]);
    assert_eq!(
        placed["annotations"]["tradewind.dev/placement"],
        json!({"regions": ["geo=na"], "strict": true})
    );
    up.tradewind_ok(&["apps", "update", "shop", "--placement", "anywhere"]);
    let lifted = up.json(&["apps", "inspect", "shop"]);
    assert!(
        lifted["annotations"]["tradewind.dev/placement"].is_null(),
        "{lifted}"
    );

    up.tradewind_ok(&["regions", "drain", "iad"]);
    let verdict = |up: &Up| up.json(&["regions"])["items"][0]["verdict"].clone();
    until("iad drains", || verdict(&up) == "draining");
    up.tradewind_ok(&["regions", "undrain", "iad"]);
    until("iad is healthy", || verdict(&up) == "healthy");
    assert_eq!(up.json(&["members"])["items"][0]["role"], "leader");
    let server = format!("{}:5380", up.network.address(0, 1));
    for dns in [&[][..], &["--dns", &server]] {
        let ask = ["explain", "shop.fn.test", "--from", "46.4.0.1"];
        let explained = up.json(&[&ask[..], dns].concat());
        assert_eq!(explained["candidates"][0]["region"], "iad", "{explained}");
    }

    // What cannot be done fails with what to do, and says so in the exit code.
    for (args, stdin, code, want) in [
        (
            &["invoke", "shop", "odd"][..],
            "{}",
            1,
            "Container failed to initialize",
        ),
        (&["apps", "create", "shop"], "", 1, "App already exists"),
        (&["apps", "delete", "shop"], "", 1, "--recursive"),
        (&["apps", "inspect", "nope"], "", 1, "tradewind apps list"),
        (
            &["fns", "inspect", "shop", "nope"],
            "",
            1,
            "tradewind fns list shop",
        ),
        (
            &[
                "fns",
                "update",
                "shop",
                "odd",
                "--image",
                "x:1@sha256:zz",
                "--memory",
                "9000",
            ],
            "",
            1,
            "memory value is out of range",
        ),
        (&["regions", "drain", "mars"], "", 1, "mars"),
        (
            &["explain", "other.example", "--from", "46.4.0.1"],
            "",
            1,
            "other.example",
        ),
        (
            &["explain", "shop.fn.test", "--from", "nowhere"],
            "",
            2,
            "--from",
        ),
        (
            &["deploy", "--app", "none", "--create-app", "false", at],
            "",
            1,
            "tradewind apps create none",
        ),
        (&["deploy", "--app", "shop", "/nowhere"], "", 1, "/nowhere"),
    ] {
        let output = up.tradewind(args, stdin);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {said}");
    }

    up.tradewind_ok(&["apps", "delete", "shop", "--recursive"]);
    assert_eq!(up.json(&["apps", "list"])["items"], json!([]));
}
