//! helm, where it was installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};

/// A helm that works.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
}

impl Helm {
    /// The one that `HELM` names, else the one that `scripts/install-helm` installed. `None` where
    /// there is neither: the caller should say so, since nothing is checked then.
    ///
    /// # Errors
    /// If it does not run.
    pub fn find() -> anyhow::Result<Option<Self>> {
        let Some(program) = installed("helm", "HELM") else {
            return Ok(None);
        };
        let helm = Self { program };
        helm.run(&["version"]).context("run helm")?;
        Ok(Some(helm))
    }

    /// # Errors
    /// What helm says of the chart.
    pub fn lint(&self, chart: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let chart = chart_path(chart);
        self.run(&[&["lint", "--strict", &chart], arguments].concat())
            .map(drop)
    }

    /// The objects of a release named `tradewind` in the namespace `tradewind`, as YAML.
    ///
    /// # Errors
    /// What helm says of the values.
    pub fn template(&self, chart: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let chart = chart_path(chart);
        let fixed = ["template", "tradewind", &chart, "--namespace", "tradewind"];
        self.run(&[&fixed, arguments].concat())
    }

    /// Runs helm in the folder with the charts, and returns what it printed.
    ///
    /// # Errors
    /// What helm says.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(&self.program)
            .args(arguments)
            .current_dir(deploy())
            .output()
            .with_context(|| format!("run {}", self.program.display()))?;
        let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
        ensure!(status.success(), "{stdout}{stderr}");
        Ok(stdout)
    }
}

/// The program that `variable` names, else the one of that name that `scripts/install-helm`
/// installed, if it did.
#[must_use]
pub fn installed(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(program) = std::env::var_os(variable) {
        return Some(program.into());
    }
    let home = std::env::var_os("HOME").unwrap_or_default();
    let program = Path::new(&home)
        .join(".cache/tradewind/tools/bin")
        .join(name);
    program.exists().then_some(program)
}

/// The folder with the charts.
#[must_use]
pub fn deploy() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is below deploy")
}

fn chart_path(chart: &str) -> String {
    format!("charts/tradewind-{chart}")
}
