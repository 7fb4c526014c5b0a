//! What a pod's maker sets, by environment variables of the runner's container.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::protocol::{Kind, LISTEN_PORT};

/// Every variable of ours.
const PREFIX: &str = "TRADEWIND_RUNNER_";

/// The uid of the pod. Not one of [`PREFIX`]: a runner of a version that does not know it would stop
/// at it, and an operator may be told to use such a one.
const POD_UID_VARIABLE: &str = "TRADEWIND_POD_UID";

/// Where a pool's pod has its bundle, for the function's container as well.
pub const CODE_DIR_VARIABLE: &str = "TRADEWIND_RUNNER_CODE_DIR";

/// [`Settings::code_dir`] unless set.
pub const CODE_DIR: &str = "/tradewind/code";

/// The body of `--help`.
pub const VARIABLES: &str = "\
TRADEWIND_RUNNER_KIND                       image or pool: the kind of the pod (required)
TRADEWIND_POD_UID                           metadata.uid of the pod (default: unset); claims for another uid are refused
TRADEWIND_RUNNER_LISTEN                     [::]:8090 (0.0.0.0:8090 on a machine without IPv6)
TRADEWIND_RUNNER_SOCKET_DIR                 /tmp/iofs: folder of the function's socket
TRADEWIND_RUNNER_CODE_DIR                   /tradewind/code: folder of the bundle in a pool's pod
TRADEWIND_RUNNER_LEASE_MS                   5000: a claim ends so long after the gateway's last request
TRADEWIND_RUNNER_GRACE_MS                   4000: longest wait for a running call after SIGTERM
TRADEWIND_RUNNER_LOG                        info: or off, error, warn, debug";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub kind: Kind,
    /// What claims of this pod name. Unknown in a pod of an earlier version's operator.
    pub pod_uid: Option<String>,
    pub listen: Listen,
    pub socket_dir: PathBuf,
    pub code_dir: PathBuf,
    /// How long a claim is held with no open request that names it.
    pub lease: Duration,
    /// How long a call may go on after SIGTERM. The default is a second less than the pod's grace.
    pub grace: Duration,
    pub log: LevelFilter,
}

/// Where to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// [`LISTEN_PORT`] of every address the machine has.
    Everywhere,
    At(SocketAddr),
}

impl Listen {
    /// Addresses to try, best first.
    #[must_use]
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self {
            Self::Everywhere => vec![
                (Ipv6Addr::UNSPECIFIED, LISTEN_PORT).into(),
                (IpAddr::from([0, 0, 0, 0]), LISTEN_PORT).into(),
            ],
            Self::At(address) => vec![address],
        }
    }
}

/// Longer times are a mistake in the unit.
const MILLISECONDS_MAX: u64 = 3_600_000;

impl Settings {
    /// # Errors
    /// Every problem there is, a line each.
    pub fn from_environment(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<String>> {
        let mut given = Given::new(environment);
        let kind = given.read("KIND", |text| match text {
            "image" => Ok(Kind::Image),
            "pool" => Ok(Kind::Pool),
            _ => Err("must be image or pool".to_owned()),
        });
        let pod_uid = given.read_variable(POD_UID_VARIABLE, |text| Ok(text.to_owned()));
        let listen = given.read("LISTEN", |text| {
            text.parse()
                .map_err(|_| "must be an address and a port, as in 127.0.0.1:8090".to_owned())
        });
        let socket_dir = given.read("SOCKET_DIR", directory);
        let code_dir = given.read("CODE_DIR", directory);
        let lease = given.read("LEASE_MS", milliseconds);
        let grace = given.read("GRACE_MS", milliseconds);
        let log = given.read("LOG", |text| {
            text.parse()
                .map_err(|_| "must be off, error, warn, info or debug".to_owned())
        });
        let problems = given.problems(kind.is_some());
        let Some(kind) = kind.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Self {
            kind,
            pod_uid,
            listen: listen.map_or(Listen::Everywhere, Listen::At),
            socket_dir: socket_dir.unwrap_or_else(|| "/tmp/iofs".into()),
            code_dir: code_dir.unwrap_or_else(|| CODE_DIR.into()),
            // A gateway that restarts finds its pods again within the time a call may wait.
            lease: lease.unwrap_or(Duration::from_secs(5)),
            grace: grace.unwrap_or(Duration::from_secs(4)),
            log: log.unwrap_or(LevelFilter::INFO),
        })
    }
}

/// The variables that have not been read yet, and what is wrong with those that have.
struct Given {
    left: BTreeMap<String, OsString>,
    problems: Vec<String>,
}

impl Given {
    fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok()?;
            (name.starts_with(PREFIX) || name == POD_UID_VARIABLE).then_some((name, value))
        };
        Self {
            left: environment.into_iter().filter_map(ours).collect(),
            problems: Vec::new(),
        }
    }

    /// One of [`PREFIX`].
    fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.read_variable(&format!("{PREFIX}{name}"), parse)
    }

    fn read_variable<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.left.remove(name)?;
        match value.to_str().map(parse) {
            Some(Ok(parsed)) => return Some(parsed),
            Some(Err(wrong)) => self
                .problems
                .push(format!("{name}={}: {wrong}", value.display())),
            None => self.problems.push(format!("{name}: is not UTF-8")),
        }
        None
    }

    fn problems(self, has_kind: bool) -> Vec<String> {
        let mut problems = self.problems;
        let kind = format!("{PREFIX}KIND");
        if !has_kind && !problems.iter().any(|problem| problem.starts_with(&kind)) {
            problems.push(format!("{kind}: is missing, must be image or pool"));
        }
        let unknown = self.left.into_keys();
        problems.extend(unknown.map(|name| format!("{name}: there is no such setting")));
        problems
    }
}

/// Absolute, since the function's container has the same path and another working directory.
fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("must be an absolute path".to_owned())
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|ms| (1..=MILLISECONDS_MAX).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("must be 1 to {MILLISECONDS_MAX}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Settings::from_environment(variables.iter().map(owned))
    }

    #[test]
    fn only_the_kind_must_be_set() {
        let settings = read(&[("TRADEWIND_RUNNER_KIND", "image"), ("PATH", "/bin")]).unwrap();
        assert_eq!(settings.kind, Kind::Image);
        assert_eq!(settings.lease, Duration::from_secs(5));
        assert_eq!(
            settings.listen.addresses(),
            [
                "[::]:8090".parse().unwrap(),
                "0.0.0.0:8090".parse().unwrap()
            ]
        );
        assert_eq!(
            read(&[]).unwrap_err(),
            ["TRADEWIND_RUNNER_KIND: is missing, must be image or pool"]
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems = read(&[
            ("TRADEWIND_RUNNER_KIND", "cronjob"),
            ("TRADEWIND_RUNNER_LISTEN", "8090"),
            ("TRADEWIND_RUNNER_CODE_DIR", "code"),
            ("TRADEWIND_RUNNER_LEASE_MS", "0"),
            ("TRADEWIND_RUNNER_LOG", "loud"),
            ("TRADEWIND_RUNNER_LEASE", "15"),
        ])
        .unwrap_err();
        let mentioned = ["KIND", "LISTEN", "CODE_DIR", "LEASE_MS", "LOG", "LEASE:"];
        assert_eq!(problems.len(), mentioned.len(), "{problems:?}");
        for (problem, name) in problems.iter().zip(mentioned) {
            assert!(problem.contains(name), "{name} in {problem}");
        }
    }

    #[test]
    fn the_help_names_every_variable() {
        let settings = VARIABLES.lines().map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let default = rest.trim_start().split([':', ' ']).next().unwrap();
            let value = match name {
                "TRADEWIND_RUNNER_LISTEN" => "[::]:8090",
                "TRADEWIND_POD_UID" => "7f0c",
                _ => default,
            };
            (name, value)
        });
        let settings: Vec<_> = settings.collect();
        let all = read(&settings).unwrap();
        let kind = read(&[("TRADEWIND_RUNNER_KIND", "image")]).unwrap();
        let listen = Listen::At("[::]:8090".parse().unwrap());
        let pod_uid = Some("7f0c".to_owned());
        let told = Settings {
            pod_uid,
            listen,
            ..kind
        };
        assert_eq!(all, told);
    }
}
