//! The example functions, with the FDKs that Fn's users have.

use std::process::Command;

use super::*;

#[tokio::test]
async fn the_python_fdk_runs_unchanged() {
    let Some(packages) = installed("fdk-python", |into| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--target"])
            .arg(into)
            .arg("fdk==0.1.128");
        pip
    }) else {
        let why = "the package fdk cannot be installed";
        chaos_tests_machine::skip("the_python_fdk_runs_unchanged", why);
        return;
    };
    greets("python", "fdk-python/", |bundle| {
        std::os::unix::fs::symlink(packages, bundle.join("python")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_node_fdk_runs_unchanged() {
    let Some(packages) = installed("fdk-node", |into| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(into)
            .arg("@fnproject/fdk@0.0.76");
        npm
    }) else {
        let why = "the package @fnproject/fdk cannot be installed";
        chaos_tests_machine::skip("the_node_fdk_runs_unchanged", why);
        return;
    };
    greets("node", "fdk-node/", |bundle| {
        let modules = bundle.join("function/node_modules");
        std::os::unix::fs::symlink(packages.join("node_modules"), modules).unwrap();
    })
    .await;
}

/// Where the packages are, installed once for all runs; `None` if they cannot be.
fn installed(name: &str, install: impl FnOnce(&Path) -> Command) -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if kept.exists() {
        return Some(kept);
    }
    let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let into = fresh.path().join("packages");
    fs::create_dir(&into).unwrap();
    let output = install(&into).output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    fs::rename(into, &kept).unwrap();
    Some(kept)
}

/// Runs an example of this repository as its func.yaml says.
async fn greets(example: &str, fdk: &str, add_packages: impl FnOnce(&Path)) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(example);
    let yaml = fs::read_to_string(source.join("func.yaml")).unwrap();
    let of = |key: &str| {
        yaml.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
            .to_owned()
    };
    let bundle = bundle(
        of("runtime: ").trim(),
        &Platform::here().0,
        &of("entrypoint: "),
    );
    for file in fs::read_dir(&source).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(
                file.path(),
                bundle.path().join("function").join(file.file_name()),
            )
            .unwrap();
        }
    }
    add_packages(bundle.path());

    let driver = driver();
    let instance = driver.start(spec(bundle.path(), &[])).await.unwrap();
    for (body, want) in [
        ("", "Hello World"),
        (r#"{"name":"Ada"}"#, "Hello Ada"),
        ("not JSON", "Hello World"),
        ("[1]", "Hello World"),
    ] {
        let mut asked = request("");
        asked.body = Bytes::from(body);
        insert(&mut asked, "fn-deadline", "2099-01-01T00:00:00Z");
        let response = instance.call(asked, Instant::now() + LONG).await.unwrap();
        let answer = String::from_utf8(response.body.to_vec()).unwrap();
        assert_eq!(
            answer.replace(' ', ""),
            format!(r#"{{"message":"{want}"}}"#).replace(' ', ""),
            "{body}"
        );
        assert_eq!(response.headers["content-type"], "application/json");
        let version = response.headers["fn-fdk-version"].to_str().unwrap();
        assert!(version.starts_with(fdk), "{version}");
    }

    // By way of a trigger.
    let mut asked = request("");
    for (name, value) in [
        ("fn-intent", "httprequest"),
        ("fn-http-method", "GET"),
        ("fn-http-request-url", "http://h/t/app/hello?q=1"),
        ("fn-http-h-accept", "*/*"),
        ("fn-deadline", "2099-01-01T00:00:00Z"),
    ] {
        insert(&mut asked, name, value);
    }
    asked.body = Bytes::new();
    let response = instance.call(asked, Instant::now() + LONG).await.unwrap();
    let status = response.headers.get("fn-http-status");
    assert!(status.is_none_or(|status| status == "200"), "{status:?}");
    driver.shutdown().await;
}
