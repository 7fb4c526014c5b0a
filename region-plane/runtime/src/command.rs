//! What is run for a bundle, and what every instance finds in its environment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use api_bundle::Manifest;

use crate::output::{FRAME_HEADER, FRAME_NAME};
use crate::{InstanceSpec, NotRunnable};

/// The function's own files, in the bundle and in its command line.
const FUNCTION: &str = "function";

/// Installed Python packages, likewise.
const PYTHON: &str = "python";

/// What a bundle runs as, where it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub working_directory: PathBuf,
}

/// The command line of a bundle that is unpacked in `folder`.
#[must_use]
pub fn command_line(manifest: &Manifest, folder: &Path) -> CommandLine {
    let mut words = manifest.command().map(|word| inside(folder, word));
    let mut program = words.next().expect("a manifest names a program");
    let mut args: Vec<_> = words.collect();
    // The first line of an installed script names the Python of the machine it was installed on.
    let installed = folder.join(PYTHON).join("bin");
    if let Some(python) = python(&manifest.runtime)
        && Path::new(&program).starts_with(installed)
    {
        args.insert(0, program);
        program = python.into();
    }
    CommandLine {
        program,
        args,
        working_directory: folder.join(FUNCTION),
    }
}

/// Whether `path` has the interpreter that `runtime` means and the program of `line`.
pub(crate) fn check_installed(
    line: &CommandLine,
    runtime: &str,
    path: &OsStr,
) -> Result<(), NotRunnable> {
    if let Some(python) = python(runtime) {
        check_program(OsStr::new(python), runtime, path)?;
    }
    check_program(&line.program, runtime, path)
}

/// What a bundle's program needs of the machine and must not rely on. Everything else goes before it.
#[must_use]
pub fn bundle_environment(folder: &Path) -> BTreeMap<OsString, OsString> {
    [
        ("LANG", "C.UTF-8".into()),
        ("PYTHONPATH", folder.join(PYTHON).into()),
        // A pipe would be buffered, and a crash would take the last lines with it.
        ("PYTHONUNBUFFERED", "1".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ]
    .map(|(name, value)| (OsString::from(name), value))
    .into()
}

/// Fn contract 9.1 without `FN_LISTENER`, which differs by instance. Later wins: the app's
/// configuration, the function's, the platform's.
#[must_use]
pub fn contract_environment(spec: &InstanceSpec) -> BTreeMap<String, String> {
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
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    // What cannot be a variable would fail the start of every instance; no program could read it.
    [&spec.app_config, &spec.fn_config]
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(contract)
        .collect()
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
fn check_program(program: &OsStr, runtime: &str, path: &OsStr) -> Result<(), NotRunnable> {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_types::{AppId, FnId};

    use super::*;
    use crate::Code;

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
            let checked = check_program(OsStr::new(program), "any", bin.path().as_os_str());
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
            settings: 1,
            image: String::new(),
            code: Code::Image,
        };
        let environment = contract_environment(&spec);
        let of = |name: &str| environment.get(name).map(String::as_str);
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
            ("", None),
            ("A=B", None),
            ("N", None),
        ] {
            assert_eq!(of(name), want, "{name}");
        }
    }
}
