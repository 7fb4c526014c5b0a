//! From a function's folder to the files of its bundle, by runtime.
//!
//! The folder itself is left as it is: dependencies are installed in a scratch folder. The same
//! source and the same packages give the same files, so what installers leave that differs from run
//! to run is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use api_bundle::{Manifest, Tree, manifest::SCHEMA};
use api_types::Platform;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::func_yaml::FuncYaml;
use super::ignore::Ignore;
use super::step::Step;

/// How a function is made ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Python,
    Node,
    Rust,
    /// Its folder has all it needs.
    AsIs,
}

impl Kind {
    fn of(runtime: &str) -> Self {
        match runtime {
            "rust" => Self::Rust,
            name if name.starts_with("python") => Self::Python,
            name if name.starts_with("node") => Self::Node,
            _ => Self::AsIs,
        }
    }
}

/// What goes into a bundle.
pub struct Gathered {
    pub tree: Tree,
    pub manifest: Manifest,
    /// Holds installed packages, which the tree only names.
    _scratch: TempDir,
}

/// Installs or builds what the runtime calls for and gathers the files.
///
/// # Errors
/// If a tool is missing or fails (its output is in the error), or the entrypoint is not among the
/// files.
pub async fn gather(yaml: &FuncYaml, folder: &Path, step: Step) -> anyhow::Result<Gathered> {
    let scratch = tempfile::tempdir().context("make a scratch folder")?;
    let mut entrypoint = yaml.entrypoint.clone();
    let tree = match Kind::of(&yaml.runtime) {
        Kind::Python => python(folder, scratch.path(), step).await?,
        Kind::Node => node(folder, scratch.path(), step).await?,
        Kind::Rust => rust(yaml, folder, &mut entrypoint, step).await?,
        Kind::AsIs => source(folder)?,
    };
    let manifest = Manifest {
        schema: SCHEMA,
        name: yaml.name.clone(),
        version: yaml.version.clone(),
        runtime: yaml.runtime.clone(),
        platform: Platform::here().0,
        entrypoint,
        cmd: yaml.cmd.clone(),
    };
    check_program(&manifest, &tree)?;
    Ok(Gathered {
        tree,
        manifest,
        _scratch: scratch,
    })
}

/// The function's own files.
fn source(folder: &Path) -> anyhow::Result<Tree> {
    let ignore = Ignore::read(folder)
        .with_context(|| format!("read {}", folder.join(".fnignore").display()))?;
    let mut tree = Tree::default();
    tree.add_folder("function", folder, &|path, is_folder| {
        ignore.keeps(path, is_folder)
    })?;
    Ok(tree)
}

async fn python(folder: &Path, scratch: &Path, step: Step) -> anyhow::Result<Tree> {
    let mut tree = source(folder)?;
    if !folder.join("requirements.txt").exists() {
        return Ok(tree);
    }
    let packages = scratch.join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-compile", "--no-input"])
        .args(["--disable-pip-version-check", "--no-warn-script-location"])
        .args(["--root-user-action", "ignore", "--target"])
        .arg(&packages)
        .args(["-r", "requirements.txt"])
        .current_dir(folder);
    step.run(
        "pip install",
        &mut pip,
        "install Python 3 with pip (`apt-get install python3-pip`)",
    )
    .await?;
    // An empty requirements.txt installs nothing.
    if packages.exists() {
        tree.add_folder("python", &packages, &|path, is_folder| {
            keeps_package_file(path, is_folder)
        })?;
        rewrite_scripts(&mut tree, &packages.join("bin"))?;
    }
    Ok(tree)
}

/// Compiled files differ from run to run; the rest of these says how and from where pip installed.
fn keeps_package_file(path: &Path, is_folder: bool) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_folder {
        return name != "__pycache__";
    }
    let in_dist_info = path
        .parent()
        .is_some_and(|parent| parent.to_string_lossy().ends_with(".dist-info"));
    let noise = ["RECORD", "INSTALLER", "REQUESTED", "direct_url.json"];
    let is_noise = in_dist_info && noise.contains(&name.as_ref());
    !is_noise && !name.ends_with(".pyc")
}

/// Scripts that pip writes name the interpreter that installed them; here it is found on `PATH`.
fn rewrite_scripts(tree: &mut Tree, bin: &Path) -> anyhow::Result<()> {
    if !bin.is_dir() {
        return Ok(());
    }
    for script in fs::read_dir(bin).context("list python/bin")? {
        let script = script.context("list python/bin")?;
        let path = script.path();
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let name = script.file_name();
        let name = name.to_str().context("a script's name is UTF-8")?;
        if let Some(portable) = portable_script(&bytes) {
            tree.add_bytes(&format!("python/bin/{name}"), portable, true)?;
        }
    }
    Ok(())
}

/// The script with a first line that works anywhere; `None` if it is no Python script.
fn portable_script(script: &[u8]) -> Option<Vec<u8>> {
    // What pip writes where the interpreter's path is too long for a `#!` line.
    const SHELL: &[u8] = b"#!/bin/sh\n'''exec' ";
    let (head_lines, is_python) = if script.starts_with(SHELL) {
        (3, true)
    } else {
        let first = script.split(|byte| *byte == b'\n').next()?;
        let names_python = first.windows(6).any(|word| word == b"python");
        (1, first.starts_with(b"#!") && names_python)
    };
    if !is_python {
        return None;
    }
    let body = script
        .splitn(head_lines + 1, |byte| *byte == b'\n')
        .last()?;
    Some([b"#!/usr/bin/env python3\n", body].concat())
}

async fn node(folder: &Path, scratch: &Path, step: Step) -> anyhow::Result<Tree> {
    let mut tree = source(folder)?;
    let package = folder.join("package.json");
    if !package.exists() {
        return Ok(tree);
    }
    let mut locked = false;
    for name in [
        "package.json",
        "package-lock.json",
        "npm-shrinkwrap.json",
        ".npmrc",
    ] {
        let from = folder.join(name);
        if from.exists() {
            fs::copy(&from, scratch.join(name))
                .with_context(|| format!("copy {}", from.display()))?;
            locked |= name.contains("lock") || name.contains("shrinkwrap");
        }
    }
    let mut npm = Command::new("npm");
    npm.arg(if locked { "ci" } else { "install" })
        .args([
            "--omit=dev",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
        ])
        .current_dir(scratch);
    let name = if locked { "npm ci" } else { "npm install" };
    step.run(
        name,
        &mut npm,
        "install Node.js with npm (`apt-get install nodejs npm`)",
    )
    .await?;
    let modules = scratch.join("node_modules");
    if modules.is_dir() {
        tree.add_folder("function/node_modules", &modules, &|path, _| {
            path != Path::new(".package-lock.json") && path != Path::new(".cache")
        })?;
    }
    Ok(tree)
}

/// A line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<CargoTarget>,
}

#[derive(Deserialize)]
struct CargoTarget {
    kind: Vec<String>,
}

async fn rust(
    yaml: &FuncYaml,
    folder: &Path,
    entrypoint: &mut Vec<String>,
    step: Step,
) -> anyhow::Result<Tree> {
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(folder);
    let messages = step
        .run(
            "cargo build --release",
            &mut cargo,
            "install the Rust toolchain (https://rustup.rs)",
        )
        .await?;
    let executables: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| {
            let kind = message.target.as_ref().map(|target| &target.kind);
            kind.is_some_and(|kind| kind.iter().any(|kind| kind == "bin"))
        })
        .filter_map(|message| message.executable)
        .collect();
    let program = choose(&executables, yaml)?;
    let name = file_name(program);
    let mut tree = Tree::default();
    tree.add_file(&format!("function/{name}"), program, true)?;
    if entrypoint.is_empty() && yaml.cmd.is_empty() {
        entrypoint.push(format!("/function/{name}"));
    }
    Ok(tree)
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(std::ffi::OsStr::to_str)
        .unwrap_or_default()
}

/// The executable that the entrypoint names, else the one named like the function, else the only one.
fn choose<'a>(executables: &'a [PathBuf], yaml: &FuncYaml) -> anyhow::Result<&'a PathBuf> {
    let named = |name: &str| executables.iter().find(|path| file_name(path) == name);
    let first_word = yaml.entrypoint.iter().chain(&yaml.cmd).next();
    let entrypoint = first_word.map(|word| file_name(Path::new(word)));
    if let Some(path) = entrypoint.and_then(named).or_else(|| named(&yaml.name)) {
        return Ok(path);
    }
    match executables {
        [] => bail!("cargo built no program here; a function is a crate with a binary"),
        [only] => Ok(only),
        several => {
            let names: Vec<&str> = several.iter().map(|path| file_name(path)).collect();
            bail!(
                "cargo built several programs ({}); say which with `entrypoint: /function/NAME` \
                 in func.yaml",
                names.join(", ")
            )
        }
    }
}

/// Whether the program to start is in the bundle, where it must be; a bare name is found on the
/// region's `PATH`.
fn check_program(manifest: &Manifest, tree: &Tree) -> anyhow::Result<()> {
    let program = manifest.command().next().with_context(|| {
        "func.yaml names no program; add `entrypoint`, as \
         `/python/bin/fdk /function/func.py handler`, `node func.js` or `/function/PROGRAM`"
    })?;
    let inside = match program.strip_prefix("./") {
        Some(relative) => format!("function/{relative}"),
        None => program.trim_start_matches('/').to_owned(),
    };
    let is_path = program.starts_with("/function/")
        || program.starts_with("/python/")
        || program.starts_with("./");
    if is_path && !tree.has_file(&inside) {
        let hint = if program == "/python/bin/fdk" {
            "; add a line `fdk` to requirements.txt".to_owned()
        } else {
            let first: Vec<&str> = tree.files().take(8).collect();
            format!("; the files begin with {}", first.join(", "))
        };
        bail!("the entrypoint {program} is not among the function's files{hint}");
    }
    ensure!(
        is_path || !program.contains('/'),
        "the entrypoint {program} is outside the bundle; programs start with /function/, /python/ \
         or ./, or are found on PATH by a bare name"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::output::Output;

    fn step() -> Step {
        Step::new(Output { json: true })
    }

    fn yaml(runtime: &str, entrypoint: &str) -> FuncYaml {
        FuncYaml::parse(
            &format!(
                "schema_version: 20180708\nname: hello\nversion: 0.0.1\nruntime: {runtime}\n\
             entrypoint: {entrypoint}\n"
            ),
            "hello",
        )
        .unwrap()
    }

    #[test]
    fn scripts_find_their_interpreter_on_the_path() {
        for (script, want) in [
            (
                "#!/opt/py/bin/python3.11\nimport x\ny\n",
                Some("import x\ny\n"),
            ),
            ("#!/usr/bin/python\n", Some("")),
            (
                "#!/bin/sh\n'''exec' \"/very long/python3\" \"$0\" \"$@\"\n' '''\nimport x\n",
                Some("import x\n"),
            ),
            ("#!/bin/sh\necho python\n", None),
            ("\x7fELF", None),
            ("", None),
        ] {
            let portable = portable_script(script.as_bytes());
            let want = want.map(|body| format!("#!/usr/bin/env python3\n{body}").into_bytes());
            assert_eq!(portable, want, "{script}");
        }
    }

    #[test]
    fn what_installers_leave_that_differs_is_left_behind() {
        for (path, is_folder, kept) in [
            ("fdk/__pycache__", true, false),
            ("fdk/a.pyc", false, false),
            ("fdk-0.1.dist-info/RECORD", false, false),
            ("fdk-0.1.dist-info/METADATA", false, true),
            ("music/RECORD", false, true),
        ] {
            assert_eq!(
                keeps_package_file(Path::new(path), is_folder),
                kept,
                "{path}"
            );
        }
    }

    #[test]
    fn the_program_is_the_one_meant() {
        let built = ["/t/release/one", "/t/release/hello", "/t/release/two"].map(PathBuf::from);
        for (entrypoint, built, want) in [
            ("/function/two", &built[..], Ok("two")),
            ("./one", &built[..], Ok("one")),
            ("/function/other", &built[..], Ok("hello")),
            ("/function/other", &built[..1], Ok("one")),
            ("/function/x", &[][..], Err("no program")),
        ] {
            let chosen = choose(built, &yaml("rust", entrypoint));
            match want {
                Ok(name) => assert_eq!(file_name(chosen.unwrap()), name, "{entrypoint}"),
                Err(want) => assert!(chosen.unwrap_err().to_string().contains(want)),
            }
        }
        let unnamed = ["/t/a", "/t/b"].map(PathBuf::from);
        let error = choose(&unnamed, &yaml("rust", "x"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("several programs (a, b)"), "{error}");
    }

    #[tokio::test]
    async fn a_built_program_is_packed_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hello"), "#!/bin/sh\n").unwrap();
        fs::write(dir.path().join("func.yaml"), "x").unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        let yaml = yaml("executable", "/function/hello now");
        let gathered = gather(&yaml, dir.path(), step()).await.unwrap();
        assert_eq!(
            gathered.tree.files().collect::<Vec<_>>(),
            ["function/func.yaml", "function/hello"]
        );
        assert_eq!(gathered.manifest.entrypoint, ["/function/hello", "now"]);
        assert_eq!(gathered.manifest.platform, Platform::here().0);
    }

    #[tokio::test]
    async fn an_entrypoint_that_is_not_there_is_an_error_now_rather_than_at_the_first_call() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("func.py"), "").unwrap();
        for (runtime, entrypoint, want) in [
            (
                "executable",
                "/function/hello",
                "begin with function/func.py",
            ),
            (
                "python3.11",
                "/python/bin/fdk /function/func.py handler",
                "requirements.txt",
            ),
            ("executable", "./sub/hello", "not among"),
            ("executable", "/usr/bin/env", "outside the bundle"),
            ("executable", "\"\"", "names no program"),
        ] {
            let error = gather(&yaml(runtime, entrypoint), dir.path(), step()).await;
            let error = error.err().unwrap().to_string();
            assert!(error.contains(want), "{entrypoint}: {error}");
        }
    }
}
