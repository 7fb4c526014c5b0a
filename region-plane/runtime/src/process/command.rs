//! What is run for a bundle, and with which environment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use api_bundle::Manifest;
use api_bundle::manifest::MANIFEST_NAME;
use api_types::Platform;

use super::exec;
use super::output::{FRAME_HEADER, FRAME_NAME};
use super::readiness::READY_LINK;
use super::scratch::Scratch;
use crate::{InstanceSpec, NotRunnable};

/// The function's own files, in the bundle and in its command line.
const FUNCTION: &str = "function";

/// Installed Python packages, likewise.
const PYTHON: &str = "python";

/// Everything that is known before there is a directory for the instance.
#[derive(Debug)]
pub(super) struct Prepared {
    program: OsString,
    args: Vec<OsString>,
    working_directory: PathBuf,
    environment: BTreeMap<OsString, OsString>,
}

pub(super) async fn prepare(spec: &InstanceSpec) -> Result<Prepared, NotRunnable> {
    let json = tokio::fs::read(spec.bundle.join(MANIFEST_NAME))
        .await
        .map_err(|source| NotRunnable::ReadManifest {
            bundle: spec.bundle.clone(),
            source,
        })?;
    let manifest = Manifest::from_json(&json)?;
    manifest.check_platform(&Platform::here())?;
    let path = env::var_os("PATH").unwrap_or_default();
    let python = python(&manifest.runtime);
    if let Some(python) = python {
        check_installed(OsStr::new(python), &manifest.runtime, &path)?;
    }

    let mut words = manifest.command().map(|word| inside(&spec.bundle, word));
    let mut program = words.next().expect("a manifest names a program");
    let mut args: Vec<_> = words.collect();
    // The first line of an installed script names the Python of the machine it was installed on.
    let installed = spec.bundle.join(PYTHON).join("bin");
    if let Some(python) = python.filter(|_| Path::new(&program).starts_with(installed)) {
        args.insert(0, program);
        program = python.into();
    }
    check_installed(&program, &manifest.runtime, &path)?;
    Ok(Prepared {
        program,
        args,
        working_directory: spec.bundle.join(FUNCTION),
        environment: environment(spec, path),
    })
}

impl Prepared {
    pub(super) fn command(&self, launcher: &Path, scratch: &Scratch) -> tokio::process::Command {
        let mut listener = OsString::from("unix:");
        listener.push(scratch.sockets().join(READY_LINK));
        let mut command = exec::by_way_of(launcher, &self.program);
        command
            .args(&self.args)
            .current_dir(&self.working_directory)
            .env_clear()
            .env("HOME", scratch.temporary())
            .env("TMPDIR", scratch.temporary())
            .envs(&self.environment)
            .env("FN_LISTENER", listener)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A word of the command line, where a leading `/function` or `/python` is that folder of the bundle.
fn inside(bundle: &Path, word: &str) -> OsString {
    for folder in [FUNCTION, PYTHON] {
        let rest = word
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(folder));
        if let Some(rest) = rest
            && (rest.is_empty() || rest.starts_with('/'))
        {
            let mut path = bundle.join(folder).into_os_string();
            path.push(rest);
            return path;
        }
    }
    word.into()
}

/// The interpreter of a Python runtime. Packages are installed for one minor version of Python, so
/// a runtime that names one is not run by another.
fn python(runtime: &str) -> Option<&str> {
    match runtime.strip_prefix("python")? {
        "" => Some("python3"),
        version => version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
            .then_some(runtime),
    }
}

/// A bare name is looked for on the search path, like a shell does; others are files of the bundle.
fn check_installed(program: &OsStr, runtime: &str, path: &OsStr) -> Result<(), NotRunnable> {
    if Path::new(program).components().count() != 1 {
        return Ok(());
    }
    let is_executable = |directory: PathBuf| {
        std::fs::metadata(directory.join(program))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if env::split_paths(path).any(is_executable) {
        return Ok(());
    }
    Err(NotRunnable::NotInstalled {
        runtime: runtime.to_owned(),
        program: program.to_string_lossy().into_owned(),
    })
}

/// Fn contract 9.1: later wins. Of the region's own environment only the search path is passed on;
/// the rest may hold secrets.
fn environment(spec: &InstanceSpec, path: OsString) -> BTreeMap<OsString, OsString> {
    let ours = [
        ("PATH", path),
        ("LANG", "C.UTF-8".into()),
        ("PYTHONPATH", spec.bundle.join(PYTHON).into()),
        // A pipe would be buffered, and a crash would take the last lines with it.
        ("PYTHONUNBUFFERED", "1".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ];
    let contract = [
        ("FN_FORMAT", "http-stream"),
        ("FN_FN_ID", spec.fn_id.as_str()),
        ("FN_APP_ID", spec.app_id.as_str()),
        ("FN_FN_NAME", &spec.fn_name),
        ("FN_APP_NAME", &spec.app_name),
        ("FN_MEMORY", &spec.memory_mb.to_string()),
        ("FN_TYPE", "sync"),
        ("FN_LOGFRAME_NAME", FRAME_NAME),
        ("FN_LOGFRAME_HDR", FRAME_HEADER),
    ]
    .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    // What cannot be a variable would fail the start of every instance; no program could read it.
    let config = [&spec.app_config, &spec.fn_config]
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
        })
        .map(|(name, value)| (name.into(), value.into()));
    ours.map(|(name, value)| (OsString::from(name), value))
        .into_iter()
        .chain(config)
        .chain(contract)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_types::{AppId, FnId};

    use super::*;

    #[test]
    fn only_whole_leading_folders_are_of_the_bundle() {
        for (word, want) in [
            ("/function/func.py", "/b/function/func.py"),
            ("/function", "/b/function"),
            ("/python/bin/fdk", "/b/python/bin/fdk"),
            ("/functions/x", "/functions/x"),
            ("--file=/function/x", "--file=/function/x"),
            ("handler", "handler"),
            ("/usr/bin/env", "/usr/bin/env"),
        ] {
            assert_eq!(inside(Path::new("/b"), word), want, "{word}");
        }
    }

    #[test]
    fn a_runtime_that_names_a_version_of_python_is_run_by_no_other() {
        for (runtime, want) in [
            ("python", Some("python3")),
            ("python3", Some("python3")),
            ("python3.11", Some("python3.11")),
            ("pythonesque", None),
            ("node20", None),
            ("executable", None),
        ] {
            assert_eq!(python(runtime), want, "{runtime}");
        }
    }

    #[test]
    fn programs_that_are_not_of_the_bundle_must_be_installed() {
        let bin = tempfile::tempdir().unwrap();
        for (name, mode) in [("node", 0o755), ("python3.9", 0o644)] {
            let path = bin.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        for (program, installed) in [
            ("node", true),
            ("python3.9", false),
            ("python3.12", false),
            ("/b/function/hello", true),
            ("./hello", true),
        ] {
            let checked = check_installed(OsStr::new(program), "any", bin.path().as_os_str());
            assert_eq!(checked.is_ok(), installed, "{program}");
        }
    }

    #[test]
    fn the_platform_overrides_the_function_which_overrides_its_app() {
        let config = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        let spec = InstanceSpec {
            app_id: AppId::new("A"),
            app_name: "shop".to_owned(),
            fn_id: FnId::new("F"),
            fn_name: "cart".to_owned(),
            memory_mb: 256,
            app_config: config(&[("LEVEL", "app"), ("ONLY_APP", "1"), ("FN_MEMORY", "9")]),
            fn_config: config(&[
                ("LEVEL", "fn"),
                ("FN_FORMAT", "x"),
                ("", "x"),
                ("A=B", "x"),
                ("N", "\0"),
            ]),
            bundle: PathBuf::from("/b"),
        };
        let environment = environment(&spec, "/bin".into());
        let of = |name: &str| {
            environment
                .get(OsStr::new(name))
                .and_then(|value| value.to_str())
        };
        for (name, want) in [
            ("LEVEL", Some("fn")),
            ("ONLY_APP", Some("1")),
            ("FN_MEMORY", Some("256")),
            ("FN_FORMAT", Some("http-stream")),
            ("FN_FN_ID", Some("F")),
            ("FN_APP_ID", Some("A")),
            ("FN_FN_NAME", Some("cart")),
            ("FN_APP_NAME", Some("shop")),
            ("FN_TYPE", Some("sync")),
            ("FN_LOGFRAME_HDR", Some("Fn-Call-Id")),
            ("PYTHONPATH", Some("/b/python")),
            ("", None),
            ("A=B", None),
            ("N", None),
        ] {
            assert_eq!(of(name), want, "{name}");
        }
    }
}
