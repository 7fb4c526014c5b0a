#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    listen: SocketAddr,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    globals: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq, Default)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    queue_max: u32,
    share: f64,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Member {
    name: String,
    node_id: u64,
}

impl Config for Settings {
    const ABOUT: &'static str = "";
    const KEYS: &'static str = "";

    fn problems(&self) -> Vec<String> {
        self.name
            .is_empty()
            .then(|| "`name` is empty".to_owned())
            .into_iter()
            .collect()
    }

    fn listens(&self) -> Vec<SocketAddr> {
        vec![self.listen]
    }
}

const GOOD: &str = "name = \"a\"\nlisten = \"127.0.0.1:1\"\n";

fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    parse(text, environment, false)
}

#[test]
fn the_environment_overrides_the_file_with_values_of_the_right_type() {
    let settings = parse_with(
        &format!("{GOOD}[limits]\nqueue_max = 1\nshare = 0.5\n"),
        &[
            ("TRADEWIND_NAME", "7"),
            ("TRADEWIND_LISTEN", "127.0.0.2:9"),
            ("TRADEWIND_LIMITS__QUEUE_MAX", "64"),
            ("TRADEWIND_GLOBALS", r#"["http://a", "http://b"]"#),
            ("TRADEWIND_MEMBERS", r#"[{name = "m", node_id = 3}]"#),
            ("TRADEWIND_LOG", "debug"),
            ("TRADEWIND_API", "http://127.0.0.1:1"),
            ("TRADEWIND_SKIPS", "/tmp/skips"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    let want = Settings {
        name: "7".to_owned(),
        listen: "127.0.0.2:9".parse().unwrap(),
        limits: Limits {
            queue_max: 64,
            share: 0.5,
        },
        members: vec![Member {
            name: "m".to_owned(),
            node_id: 3,
        }],
        globals: vec!["http://a".to_owned(), "http://b".to_owned()],
    };
    assert_eq!(settings, want);
}

#[test]
fn every_problem_is_reported_with_its_key() {
    let text = r#"
        name = 5
        colour = "red"
        [limits]
        queue_max = "many"
        quue_max = 1
        [[members]]
        name = "m"
        [[members]]
        name = 1
        node_id = 2
    "#;
    let problems = parse_with(
        text,
        &[
            ("TRADEWIND_LIMITS__SHARE", "half"),
            ("TRADEWIND_NAME__X", "1"),
            ("TRADEWIND_TYPO", "1"),
        ],
    )
    .unwrap_err();
    let all = problems.join("\n");
    for want in [
        "environment TRADEWIND_NAME__X: name is no table",
        "`name`: invalid type: integer `5`, expected a string",
        "`colour`: unknown field `colour`",
        "`limits.queue_max`: invalid type: string \"many\", expected u32",
        "`limits.quue_max`: unknown field",
        "`limits.share` (environment TRADEWIND_LIMITS__SHARE): invalid type: string \"half\"",
        "`typo` (environment TRADEWIND_TYPO): unknown field",
        "`members[0].node_id` is missing",
        "`members[1].name`: invalid type",
        "`listen` is missing",
    ] {
        assert!(all.contains(want), "{want:?} not in:\n{all}");
    }
    assert_eq!(problems.len(), 10, "{all}");
}

#[test]
fn what_is_missing_is_placed_in_its_own_table() {
    for text in [
        "",
        "[limits]\n",
        "[limits]\nqueue_max = 1\n[[members]]\nname = \"m\"\nnode_id = 1",
    ] {
        let problems = parse_with(text, &[]).unwrap_err();
        assert_eq!(
            problems,
            ["`name` is missing", "`listen` is missing"],
            "{text}"
        );
    }
}

#[test]
fn what_types_cannot_say_is_checked_too() {
    for (case, text, want) in [
        ("syntax", "name = \n", "TOML parse error at line 1"),
        (
            "own rule",
            "name = \"\"\nlisten = \"127.0.0.1:1\"",
            "`name` is empty",
        ),
        (
            "beyond loopback",
            "name = \"a\"\nlisten = \"0.0.0.0:1\"",
            "0.0.0.0:1 is not a loopback address",
        ),
    ] {
        let problems = parse_with(text, &[]).unwrap_err();
        assert_eq!(problems.len(), 1, "{case}: {problems:?}");
        assert!(problems[0].contains(want), "{case}: {problems:?}");
    }
    let beyond = "name = \"a\"\nlisten = \"0.0.0.0:1\"";
    parse::<Settings>(beyond, [], true).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let problems = load::<Settings>(Path::new("/nonexistent/x.toml"), [], false).unwrap_err();
    assert!(
        problems[0].starts_with("read /nonexistent/x.toml: "),
        "{problems:?}"
    );
}
