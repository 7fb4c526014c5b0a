//! `func.yaml` of schema 20180708. What `fn deploy` reads is read, and what it ignores is ignored,
//! with a note where that may surprise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::{SnippetMode, render_options};

/// The only schema since 2018; older files are converted by `fn migrate`.
const SCHEMA: u64 = 20_180_708;

/// The names that `fn deploy` looks for, in its order.
const FILE_NAMES: [&str; 3] = ["func.yaml", "func.yml", "func.json"];

/// As `fn` numbers a function that has no version yet.
const VERSION_DEFAULT: &str = "0.0.1";

/// A func.yaml is a screenful; more is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FuncYamlError {
    #[error("read {path}; a function's folder has a func.yaml, `fn init` writes one")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has more than {FILE_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("func.yaml: {0}")]
    Invalid(String),
}

/// What deploying needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FuncYaml {
    pub name: String,
    pub version: String,
    pub runtime: String,
    /// Words, parted at white space as the `fn` CLI does.
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub memory: Option<u64>,
    pub timeout: Option<i32>,
    pub idle_timeout: Option<i32>,
    pub config: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, serde_json::Value>,
    pub triggers: Vec<Trigger>,
    /// Keys that were accepted and do nothing here, each with why.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub name: String,
    /// Starts with `/`.
    pub source: String,
}

#[derive(Debug, Deserialize)]
struct File {
    schema_version: Option<u64>,
    name: Option<String>,
    version: Option<String>,
    runtime: Option<String>,
    entrypoint: Option<String>,
    cmd: Option<String>,
    build_image: Option<String>,
    run_image: Option<String>,
    build: Option<Vec<String>>,
    memory: Option<u64>,
    timeout: Option<i32>,
    idle_timeout: Option<i32>,
    content_type: Option<String>,
    config: Option<BTreeMap<String, Option<String>>>,
    annotations: Option<BTreeMap<String, serde_json::Value>>,
    triggers: Option<Vec<FileTrigger>>,
    expects: Option<Expects>,
    deploy: Option<serde_json::Value>,
    signing_details: Option<serde_json::Value>,
    /// Of older schemas, which `fn migrate` leaves in place, and of nobody.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct FileTrigger {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
}

#[derive(Debug, Deserialize)]
struct Expects {
    #[serde(default)]
    config: Vec<Expected>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    name: String,
    #[serde(default)]
    required: bool,
}

impl FuncYaml {
    /// Reads the func.yaml (or func.yml, or func.json) of a function's folder.
    ///
    /// # Errors
    /// If there is none or [`FuncYaml::parse`] refuses it.
    pub fn read(folder: &Path) -> Result<Self, FuncYamlError> {
        let mut paths = FILE_NAMES.iter().map(|name| folder.join(name));
        let path = paths
            .find(|path| path.exists())
            .unwrap_or_else(|| folder.join(FILE_NAMES[0]));
        let read = |source| FuncYamlError::Read {
            path: path.clone(),
            source,
        };
        if std::fs::metadata(&path).map_err(read)?.len() > FILE_BYTES_MAX {
            return Err(FuncYamlError::TooLarge { path });
        }
        let folder_name = folder.file_name().unwrap_or_default().to_string_lossy();
        Self::parse(&std::fs::read_to_string(&path).map_err(read)?, &folder_name)
    }

    /// A function without a name has its folder's.
    ///
    /// # Errors
    /// Names the key and line of what is of a wrong type, missing or without sense.
    pub fn parse(text: &str, folder_name: &str) -> Result<Self, FuncYamlError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let options = render_options! { snippets: SnippetMode::Off };
            FuncYamlError::Invalid(error.render_with_options(options))
        })?;
        Self::check(file, folder_name).map_err(FuncYamlError::Invalid)
    }

    fn check(file: File, folder_name: &str) -> Result<Self, String> {
        match file.schema_version {
            Some(SCHEMA) => {}
            Some(other) => {
                return Err(format!("schema_version is {other}, known is {SCHEMA}"));
            }
            None => {
                return Err(format!(
                    "schema_version is missing; add `schema_version: {SCHEMA}` \
                     (`fn migrate` converts older files)"
                ));
            }
        }
        let notes = notes(&file);
        let name = given(file.name).unwrap_or_else(|| folder_name.to_owned());
        let version = given(file.version).unwrap_or_else(|| VERSION_DEFAULT.to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        if !version.chars().all(plain) {
            return Err(format!(
                "version {version:?} may have letters, digits, `.`, `_`, `-` and `+` only"
            ));
        }
        let runtime = given(file.runtime).ok_or_else(|| {
            "runtime is missing; it is python, node, rust or executable".to_owned()
        })?;
        if let Some(why) = cannot_run(&runtime) {
            return Err(format!("runtime {runtime} {why}"));
        }
        for (key, value, max) in [
            ("memory", file.memory, 8192),
            ("timeout", seconds(file.timeout), 300),
            ("idle_timeout", seconds(file.idle_timeout), 3600),
        ] {
            if value.is_some_and(|value| value > max) {
                return Err(format!("{key} must be 1 to {max}, or 0 for the default"));
            }
        }
        let mut triggers = Vec::new();
        for trigger in file.triggers.unwrap_or_default() {
            triggers.push(Trigger::check(trigger)?);
        }
        let config = file.config.unwrap_or_default();
        Ok(Self {
            name,
            version,
            runtime,
            entrypoint: words(file.entrypoint.as_deref()),
            cmd: words(file.cmd.as_deref()),
            memory: file.memory,
            timeout: file.timeout,
            idle_timeout: file.idle_timeout,
            config: config
                .into_iter()
                .map(|(key, value)| (key, value.unwrap_or_default()))
                .collect(),
            annotations: file.annotations.unwrap_or_default(),
            triggers,
            notes,
        })
    }
}

/// A negative number of seconds is as wrong as one that is too large.
fn seconds(value: Option<i32>) -> Option<u64> {
    value.map(|value| u64::try_from(value).unwrap_or(u64::MAX))
}

fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.trim().is_empty())
}

/// What to do instead, for runtimes of Fn that regions cannot run.
fn cannot_run(runtime: &str) -> Option<&'static str> {
    // `java17`, `go1.24`, `node:22`
    let language = runtime.split(':').next().unwrap_or_default();
    let language = language.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    match language {
        "docker" => Some(
            "builds an image, which nothing here can run; use the runtime of its language, or \
             `runtime: executable` with the entrypoint of a built program",
        ),
        "go" => Some(
            "is not built here; build it with `CGO_ENABLED=0 go build -o func`, and write \
             `runtime: executable` and `entrypoint: /function/func`",
        ),
        "java" | "kotlin" => Some(
            "needs a Java runtime, which regions do not have; build a program of it with GraalVM's \
             native-image, and write `runtime: executable` and `entrypoint: /function/PROGRAM`",
        ),
        "dotnet" => Some(
            "needs .NET, which regions do not have; build a program with `dotnet publish \
             --self-contained -p:PublishSingleFile=true`, and write `runtime: executable` and \
             `entrypoint: /function/PROGRAM`",
        ),
        "ruby" => Some(
            "needs Ruby, which regions do not have; use the runtime python, node or rust, or \
             `runtime: executable` with the entrypoint of a program that brings its own Ruby",
        ),
        _ => None,
    }
}

fn words(line: Option<&str>) -> Vec<String> {
    let words = line.unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

fn notes(file: &File) -> Vec<String> {
    let images = "there are no images here; a function is packed with what it needs";
    let all = [
        ("build_image", file.build_image.is_some(), images),
        ("run_image", file.run_image.is_some(), images),
        (
            "build",
            file.build.as_ref().is_some_and(|steps| !steps.is_empty()),
            "its steps are not run; dependencies are installed by the runtime's own tool",
        ),
        (
            "content_type",
            file.content_type.is_some(),
            "only `fn invoke` reads it, from this file",
        ),
        (
            "deploy",
            file.deploy.is_some(),
            "it is for Oracle's service",
        ),
        (
            "signing_details",
            file.signing_details.is_some(),
            "it is for images in Oracle's registry; a bundle is named by its SHA-256",
        ),
    ];
    let known = all
        .into_iter()
        .filter(|(_, present, _)| *present)
        .map(|(key, _, why)| format!("{key} does nothing here: {why}"));
    let others = file.others.keys().map(|key| match key.as_str() {
        "format" => "format does nothing here: functions speak http-stream only".to_owned(),
        "type" | "path" | "headers" | "cpus" | "tests" | "image" => {
            format!("{key} does nothing here, nor with `fn deploy`: it is of an older schema")
        }
        _ => format!("{key} does nothing: it is no key of func.yaml; is it misspelt?"),
    });
    known.chain(others).chain(unmet(file)).collect()
}

/// What the function says it requires and its config does not set. The app's may.
fn unmet(file: &File) -> impl Iterator<Item = String> {
    let expected = file.expects.iter().flat_map(|expects| &expects.config);
    let is_set = |name: &str| {
        file.config
            .as_ref()
            .is_some_and(|config| config.contains_key(name))
    };
    expected
        .filter(move |expected| expected.required && !is_set(&expected.name))
        .map(|Expected { name, .. }| {
            format!(
                "expects.config requires {name}, which config does not set; without it in the app's \
                 config either, add `config: {{ {name}: … }}`"
            )
        })
}

impl Trigger {
    fn check(trigger: FileTrigger) -> Result<Self, String> {
        if trigger.kind != "http" {
            return Err(format!(
                "trigger {:?} has type {:?}; only http is known",
                trigger.name, trigger.kind
            ));
        }
        if trigger.source.is_empty() {
            return Err(format!("trigger {:?} has no source", trigger.name));
        }
        Ok(Self {
            source: crate::names::source(&trigger.source),
            name: trigger.name,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const WHOLE: &str = r#"
schema_version: 20180708
name: hello
version: 0.0.1
runtime: python3.11
build_image: fnproject/python:3.11-dev
run_image: fnproject/python:3.11
entrypoint: /python/bin/fdk  /function/func.py handler
cmd: now
build: [pip install x]
memory: 256
timeout: 60
idle_timeout: 90
content_type: application/json
config:
  GREETING: hello
  PORT: 80
  VERSION: "1.10"
  DEBUG: true
  EMPTY: null
  TILDE:
annotations:
  tradewind.dev/placement: {regions: [fra], strict: true}
triggers:
- name: hello
  type: http
  source: /hello
- name: bare
  type: http
  source: bare
expects:
  config:
  - name: GREETING
    required: true
deploy:
  oci: {x: 1}
signing_details:
  kms_key_id: x
format: http-stream
type: sync
memmory: 256
"#;

    fn parse(text: &str) -> Result<FuncYaml, FuncYamlError> {
        FuncYaml::parse(text, "folder")
    }

    #[test]
    fn every_field_of_the_schema_is_read() {
        let read = parse(WHOLE).unwrap();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let config = [
            ("GREETING", "hello"),
            ("PORT", "80"),
            ("VERSION", "1.10"),
            ("DEBUG", "true"),
            ("EMPTY", ""),
            ("TILDE", ""),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let triggers = [("hello", "/hello"), ("bare", "/bare")].map(|(name, source)| Trigger {
            name: name.to_owned(),
            source: source.to_owned(),
        });
        let notes = read.notes.clone();
        assert_eq!(
            read,
            FuncYaml {
                name: "hello".to_owned(),
                version: "0.0.1".to_owned(),
                runtime: "python3.11".to_owned(),
                entrypoint: owned(&["/python/bin/fdk", "/function/func.py", "handler"]),
                cmd: owned(&["now"]),
                memory: Some(256),
                timeout: Some(60),
                idle_timeout: Some(90),
                config: config.into(),
                annotations: BTreeMap::from([(
                    "tradewind.dev/placement".to_owned(),
                    serde_json::json!({"regions": ["fra"], "strict": true}),
                )]),
                triggers: triggers.into(),
                notes: notes.clone(),
            }
        );
        for (key, note) in [
            "build_image",
            "run_image",
            "build",
            "content_type",
            "deploy",
            "signing_details",
            "format",
            "memmory",
            "type",
        ]
        .iter()
        .zip(&notes)
        {
            assert!(note.starts_with(&format!("{key} does nothing")), "{note}");
        }
        assert_eq!(notes.len(), 9);
        assert!(notes[7].contains("misspelt"), "{}", notes[7]);
    }

    #[test]
    fn what_fn_fills_in_is_filled_in() {
        for (case, from, to, check) in [
            (
                "no name",
                "name: hello\nversion",
                "version",
                (|read| read.name == "folder") as fn(&FuncYaml) -> bool,
            ),
            (
                "empty name",
                "name: hello\nversion",
                "name: \"\"\nversion",
                |read| read.name == "folder",
            ),
            ("no version", "version: 0.0.1\n", "", |read| {
                read.version == "0.0.1"
            }),
            (
                "a trigger's key that is nobody's",
                "  source: /hello",
                "  source: /hello\n  sauce: /hello",
                |read| read.triggers.len() == 2,
            ),
            (
                "required config",
                "GREETING: hello",
                "OTHER: hello",
                |read| {
                    read.notes
                        .iter()
                        .any(|note| note.contains("requires GREETING"))
                },
            ),
            (
                "no config",
                "config:\n  GREETING: hello",
                "config: {}\nx:\n  GREETING: hello",
                |read| read.config.is_empty(),
            ),
            (
                "null config",
                "config:\n  GREETING: hello",
                "config: null\nx:\n  GREETING: hello",
                |read| read.config.is_empty(),
            ),
        ] {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE, "{case}");
            let read = parse(&text).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(check(&read), "{case}: {read:?}");
        }
        let json = r#"{"schema_version":20180708,"name":"a","version":"1","runtime":"node","config":{"A":1}}"#;
        assert_eq!(parse(json).unwrap().config["A"], "1");
    }

    #[test]
    fn runtimes_that_regions_cannot_run_are_refused_with_what_to_do() {
        for (runtime, advice) in [
            ("docker", "runtime: executable"),
            ("go", "go build"),
            ("go1.24", "go build"),
            ("java", "native-image"),
            ("java17", "native-image"),
            ("kotlin", "native-image"),
            ("ruby3.3", "Ruby"),
            ("dotnet8.0", "dotnet publish"),
        ] {
            let text = WHOLE.replace("runtime: python3.11", &format!("runtime: {runtime}"));
            let error = parse(&text).unwrap_err().to_string();
            let want = format!("runtime {runtime} ");
            assert!(error.contains(&want) && error.contains(advice), "{error}");
        }
        for runtime in [
            "python",
            "python3.12",
            "node22",
            "rust",
            "executable",
            "google",
        ] {
            let text = WHOLE.replace("runtime: python3.11", &format!("runtime: {runtime}"));
            assert_eq!(parse(&text).unwrap().runtime, runtime);
        }
    }

    #[test]
    fn a_version_that_looks_like_a_number_keeps_its_text() {
        for version in ["1.0", "2", "1.10"] {
            let text = WHOLE.replace("version: 0.0.1", &format!("version: {version}"));
            assert_eq!(parse(&text).unwrap().version, version);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (case, from, to, wants) in [
            (
                "trigger without a source",
                "  source: /hello",
                "  sauce: /hello",
                &["source"][..],
            ),
            (
                "text for a number",
                "memory: 256",
                "memory: much",
                &["line 11"],
            ),
            ("negative memory", "memory: 256", "memory: -1", &["line 11"]),
            (
                "map for text",
                "name: hello\nversion",
                "name: {a: b}\nversion",
                &["line 3"],
            ),
            (
                "key twice",
                "memory: 256",
                "memory: 256\nmemory: 1",
                &["memory"],
            ),
            (
                "no schema",
                "schema_version: 20180708",
                "",
                &["schema_version is missing"],
            ),
            (
                "old schema",
                "20180708",
                "20170101",
                &["schema_version is 20170101"],
            ),
            ("odd version", "0.0.1", "a:b", &["version \"a:b\""]),
            (
                "no runtime",
                "runtime: python3.11\n",
                "",
                &["runtime is missing"],
            ),
            (
                "large memory",
                "memory: 256",
                "memory: 9000",
                &["memory must be 1 to 8192"],
            ),
            (
                "long timeout",
                "\ntimeout: 60",
                "\ntimeout: 301",
                &["timeout must be 1 to 300"],
            ),
            (
                "negative timeout",
                "\ntimeout: 60",
                "\ntimeout: -1",
                &["timeout must be"],
            ),
            (
                "trigger type",
                "type: http\n  source: /hello",
                "type: cron\n  source: /hello",
                &["\"cron\""],
            ),
            (
                "empty source",
                "source: bare",
                "source: \"\"",
                &["\"bare\" has no source"],
            ),
            ("not YAML", "name: hello", "name: [", &["func.yaml"]),
        ] {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE, "{case}");
            let error = parse(&text).unwrap_err().to_string();
            for want in wants {
                assert!(error.contains(want), "{case}: {want:?} is not in:\n{error}");
            }
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn a_folder_without_one_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = FuncYaml::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("fn init"), "{error}");
    }
}
