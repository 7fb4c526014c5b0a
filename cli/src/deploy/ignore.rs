//! Which files of a function's folder stay behind.

use std::fs;
use std::io;
use std::path::Path;

/// Left behind whatever the ignore file says: version control, what builds and runs leave, and
/// dependencies, which are installed anew.
const ALWAYS: [&str; 8] = [
    ".git",
    ".fnignore",
    "__pycache__",
    "node_modules",
    "target",
    ".venv",
    "venv",
    ".DS_Store",
];

/// Patterns as in `.gitignore`: `*` within a step, a leading `/` for the top folder, a trailing `/`
/// for folders only, `!` to take back. The last that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: String,
    /// Matched against the whole path rather than any step of it.
    anchored: bool,
    folders_only: bool,
    takes_back: bool,
}

impl Ignore {
    /// Reads `.fnignore` of a folder; without one nothing but [`ALWAYS`] is left behind.
    pub fn read(folder: &Path) -> io::Result<Self> {
        match fs::read_to_string(folder.join(".fnignore")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let rules = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let (takes_back, line) = match line.strip_prefix('!') {
                    Some(rest) => (true, rest),
                    None => (false, line),
                };
                let (folders_only, line) = match line.strip_suffix('/') {
                    Some(rest) => (true, rest),
                    None => (false, line),
                };
                Rule {
                    anchored: line.contains('/'),
                    pattern: line.trim_start_matches('/').to_owned(),
                    folders_only,
                    takes_back,
                }
            })
            .collect();
        Self { rules }
    }

    /// Whether a path, relative to the function's folder, is packed.
    pub fn keeps(&self, path: &Path, is_folder: bool) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ALWAYS.contains(&name.as_ref()) || name.ends_with(".pyc") {
            return false;
        }
        let whole = path.to_string_lossy();
        let last = self.rules.iter().rev().find(|rule| {
            let text: &str = if rule.anchored { &whole } else { &name };
            (is_folder || !rule.folders_only) && matches(rule.pattern.as_bytes(), text.as_bytes())
        });
        last.is_none_or(|rule| rule.takes_back)
    }
}

/// Whether `text` has the form of `pattern`, where `*` stands for any bytes but `/`, `**` for any,
/// and `?` for one byte but `/`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            (0..=text.len()).any(|skip| matches(rest, &text[skip..]))
        }
        [b'*', rest @ ..] => {
            let step = text.iter().position(|byte| *byte == b'/');
            (0..=step.unwrap_or(text.len())).any(|skip| matches(rest, &text[skip..]))
        }
        [b'?', rest @ ..] => {
            matches!(text, [first, tail @ ..] if *first != b'/' && matches(rest, tail))
        }
        [byte, rest @ ..] => {
            matches!(text, [first, tail @ ..] if first == byte && matches(rest, tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_follows_the_ignore_file() {
        let ignore = Ignore::parse(
            "# notes\n*.log\n!keep.log\n/docs\ntests/\nfixtures/*.json\n**/deep/?.txt\n",
        );
        for (path, is_folder, kept) in [
            ("func.py", false, true),
            ("debug.log", false, false),
            ("sub/debug.log", false, false),
            ("keep.log", false, true),
            ("docs", true, false),
            ("sub/docs", true, true),
            ("tests", true, false),
            ("sub/tests", true, false),
            ("tests", false, true),
            ("fixtures/a.json", false, false),
            ("fixtures/sub/a.json", false, true),
            ("a/b/deep/x.txt", false, false),
            ("a/b/deep/xy.txt", false, true),
            ("__pycache__", true, false),
            ("sub/mod.pyc", false, false),
            (".git", true, false),
            ("target", true, false),
            ("node_modules", true, false),
        ] {
            assert_eq!(ignore.keeps(Path::new(path), is_folder), kept, "{path}");
        }
    }
}
