//! Configuration: a TOML file, overridden by the environment, checked whole before anything starts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// Every key is also this prefix and its upper-case name, `__` between levels:
/// `TRADEWIND_LIMITS__QUEUE_MAX` is `queue_max` in `[limits]`.
pub const ENVIRONMENT_PREFIX: &str = "TRADEWIND_";

/// What to log, see `tracing_subscriber::EnvFilter`.
pub const LOG_VARIABLE: &str = "TRADEWIND_LOG";

/// Variables with our prefix that are not keys, and that a daemon may inherit: the log filter, the global
/// nodes that the `tradewind` command talks to, and the file in which a test run lists its skips.
const NOT_KEYS: [&str; 3] = [LOG_VARIABLE, "TRADEWIND_API", "TRADEWIND_SKIPS"];

/// A daemon's configuration. Derive `Deserialize` with `deny_unknown_fields`.
pub trait Config: DeserializeOwned {
    /// What the daemon is for, in a sentence; the head of `--help`.
    const ABOUT: &'static str;
    /// Every key with an example value and a comment, as a TOML file; the body of `--help`.
    const KEYS: &'static str;

    /// What the types cannot say: empty names, ranges, keys that exclude each other.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Every address that will be listened on. Nothing authenticates callers yet, so one beyond
    /// loopback is a problem unless `--insecure` is given.
    fn listens(&self) -> Vec<SocketAddr>;

    /// How long the daemon may take to stop before it is cut off.
    fn drain_grace(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// Reads and checks the configuration.
///
/// # Errors
/// Every problem found, one a line. A syntax error hides the others; a key that is missing or of a
/// wrong type hides what [`Config::problems`] would say, which needs a whole configuration.
pub fn load<C: Config>(
    path: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    insecure: bool,
) -> Result<C, Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("read {}: {error}", path.display())])?;
    parse(&text, environment, insecure)
}

/// [`load`] of a file's text.
///
/// # Errors
/// As [`load`].
pub fn parse<C: Config>(
    text: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    insecure: bool,
) -> Result<C, Vec<String>> {
    let mut table: Table =
        toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    let mut problems = Vec::new();
    let mut overrides = Vec::new();
    for (name, value) in environment {
        match Override::read(&name, value) {
            None => {}
            Some(Err(problem)) => problems.push(problem),
            Some(Ok(found)) => match found.apply(&mut table) {
                Ok(()) => overrides.push(found),
                Err(problem) => problems.push(problem),
            },
        }
    }
    let config: Option<C> = deserialize(table, &overrides, &mut problems);
    if let Some(config) = &config {
        problems.extend(config.problems());
        if !insecure {
            problems.extend(config.listens().iter().filter_map(beyond_loopback));
        }
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn beyond_loopback(listen: &SocketAddr) -> Option<String> {
    (!listen.ip().to_canonical().is_loopback()).then(|| {
        format!(
            "{listen} is not a loopback address and callers are not authenticated; \
             `--insecure` listens there all the same"
        )
    })
}

/// A key set by the environment.
struct Override {
    variable: String,
    path: Vec<String>,
    text: String,
}

impl Override {
    /// `None` if the variable is none of ours.
    fn read(name: &OsString, value: OsString) -> Option<Result<Self, String>> {
        let variable = name.to_str()?;
        let key = variable.strip_prefix(ENVIRONMENT_PREFIX)?;
        if NOT_KEYS.contains(&variable) {
            return None;
        }
        let path: Vec<String> = key.to_lowercase().split("__").map(str::to_owned).collect();
        Some(match value.into_string() {
            Err(_) => Err(format!("environment {variable}: not UTF-8")),
            Ok(_) if path.iter().any(String::is_empty) => Err(format!(
                "environment {variable}: not a key, a level is empty"
            )),
            Ok(text) => Ok(Self {
                variable: variable.to_owned(),
                path,
                text,
            }),
        })
    }

    /// The value as TOML if it is some, else as text.
    fn value(&self) -> Value {
        match toml::from_str::<Table>(&format!("value = {}", self.text)) {
            Ok(mut table) if table.len() == 1 => table
                .remove("value")
                .unwrap_or_else(|| Value::String(self.text.clone())),
            _ => Value::String(self.text.clone()),
        }
    }

    fn apply(&self, table: &mut Table) -> Result<(), String> {
        self.set(table, self.value())
    }

    fn set(&self, mut table: &mut Table, value: Value) -> Result<(), String> {
        let (last, levels) = self.path.split_last().expect("split yields at least one");
        for level in levels {
            table = table
                .entry(level.clone())
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .ok_or_else(|| format!("environment {}: {level} is no table", self.variable))?;
        }
        table.insert(last.clone(), value);
        Ok(())
    }
}

/// One step down into a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

/// More than anyone reads at once, and an end should a repair ever fail to take.
const PROBLEMS_MAX: usize = 50;

/// Reads the configuration, noting every key that is unknown, missing or of a wrong type.
///
/// serde stops at the first problem, so each is noted, the key removed (or, if missing, filled with
/// whatever the type accepts) and the document read again. What comes out of a document that was
/// repaired is not returned.
fn deserialize<C: DeserializeOwned>(
    mut table: Table,
    overrides: &[Override],
    problems: &mut Vec<String>,
) -> Option<C> {
    let mut sound = true;
    let mut as_text = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for _ in 0..PROBLEMS_MAX {
        let (error, path) = match read::<C>(&table) {
            Ok(config) => return sound.then_some(config),
            Err(failed) => failed,
        };
        if let Some(found) = overrides.iter().find(|found| is_at(&found.path, &path))
            && as_text.insert(found.path.clone())
            && !matches!(found.value(), Value::String(_))
        {
            // `TRADEWIND_NAME=1` is the name "1" where a name is wanted.
            let _shape_known = found.set(&mut table, Value::String(found.text.clone()));
            continue;
        }
        sound = false;
        if let Some(field) = missing_field(&error) {
            let missing = [path.clone(), vec![Step::Key(field.to_owned())]].concat();
            if !removed.contains(&missing) {
                problems.push(format!("`{}` is missing", shown(&missing)));
            }
            if !fill::<C>(&mut table, &missing) {
                return None;
            }
            continue;
        }
        let origin = overrides
            .iter()
            .find(|found| is_at(&found.path, &path))
            .map(|found| format!(" (environment {})", found.variable))
            .unwrap_or_default();
        problems.push(format!("`{}`{origin}: {error}", shown(&path)));
        if !remove(&mut table, &path) {
            return None;
        }
        removed.insert(path);
    }
    None
}

/// Reads the document; a failure comes with the place it is about.
fn read<C: DeserializeOwned>(table: &Table) -> Result<C, (String, Vec<Step>)> {
    serde_path_to_error::deserialize(table.clone()).map_err(
        |error: serde_path_to_error::Error<toml::de::Error>| {
            let steps = error.path().iter().filter_map(|segment| match segment {
                Segment::Map { key } => Some(Step::Key(key.clone())),
                Segment::Seq { index } => Some(Step::Index(*index)),
                Segment::Enum { .. } | Segment::Unknown => None,
            });
            (error.inner().message().to_owned(), steps.collect())
        },
    )
}

/// serde's own wording (`serde::de::Error::missing_field`).
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

fn is_at(path: &[String], place: &[Step]) -> bool {
    path.len() <= place.len()
        && path
            .iter()
            .zip(place)
            .all(|(key, step)| matches!(step, Step::Key(found) if found == key))
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn descend<'a>(table: &'a mut Table, levels: &[Step]) -> Option<Within<'a>> {
    levels
        .iter()
        .try_fold(Within::Table(table), |within, step| {
            let value = match (within, step) {
                (Within::Table(table), Step::Key(key)) => table.get_mut(key)?,
                (Within::Array(array), Step::Index(index)) => array.get_mut(*index)?,
                _ => return None,
            };
            match value {
                Value::Table(table) => Some(Within::Table(table)),
                Value::Array(array) => Some(Within::Array(array)),
                _ => None,
            }
        })
}

enum Within<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

fn remove(table: &mut Table, path: &[Step]) -> bool {
    let Some((last, levels)) = path.split_last() else {
        return false;
    };
    match (descend(table, levels), last) {
        (Some(Within::Table(table)), Step::Key(key)) => table.remove(key).is_some(),
        (Some(Within::Array(array)), Step::Index(index)) if *index < array.len() => {
            array.remove(*index);
            true
        }
        _ => false,
    }
}

/// Puts a value there that its type accepts, so that reading can go on to the next problem.
fn fill<C: DeserializeOwned>(table: &mut Table, missing: &[Step]) -> bool {
    let Some((Step::Key(key), levels)) = missing.split_last() else {
        return false;
    };
    let candidates = [
        Value::String("x".to_owned()),
        Value::Integer(1),
        Value::Array(Vec::new()),
        Value::Table(Table::new()),
        Value::Boolean(true),
        Value::String("127.0.0.1:1".to_owned()),
        Value::String("127.0.0.1".to_owned()),
        Value::Float(1.0),
    ];
    candidates.into_iter().any(|candidate| {
        let Some(Within::Table(table_at)) = descend(table, levels) else {
            return false;
        };
        table_at.insert(key.clone(), candidate);
        match read::<C>(table) {
            Ok(_) => true,
            Err((message, place)) => place != missing || missing_field(&message).is_some(),
        }
    })
}

#[cfg(test)]
mod tests;
