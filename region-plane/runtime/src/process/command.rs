//! The command by which a bundle becomes a child process of the region.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use api_bundle::Manifest;
use api_bundle::manifest::MANIFEST_NAME;
use api_types::Platform;

use super::exec;
use super::scratch::Scratch;
use crate::command::{
    CommandLine, bundle_environment, check_installed, command_line, contract_environment,
};
use crate::readiness::READY_LINK;
use crate::{Code, InstanceSpec, NotRunnable};

/// Everything that is known before there is a directory for the instance.
#[derive(Debug)]
pub(super) struct Prepared {
    line: CommandLine,
    environment: BTreeMap<OsString, OsString>,
}

pub(super) async fn prepare(spec: &InstanceSpec) -> Result<Prepared, NotRunnable> {
    let Code::Bundle { folder, .. } = &spec.code else {
        return Err(NotRunnable::NotABundle);
    };
    let json = tokio::fs::read(folder.join(MANIFEST_NAME))
        .await
        .map_err(|source| NotRunnable::ReadManifest {
            bundle: folder.clone(),
            source,
        })?;
    let manifest = Manifest::from_json(&json)?;
    manifest.check_platform(&Platform::here())?;
    let path = env::var_os("PATH").unwrap_or_default();
    let line = command_line(&manifest, folder);
    check_installed(&line, &manifest.runtime, &path)?;
    Ok(Prepared {
        line,
        environment: environment(spec, folder, path),
    })
}

impl Prepared {
    pub(super) fn command(&self, launcher: &Path, scratch: &Scratch) -> tokio::process::Command {
        let mut listener = OsString::from("unix:");
        listener.push(scratch.sockets().join(READY_LINK));
        let mut command = exec::by_way_of(launcher, &self.line.program);
        command
            .args(&self.line.args)
            .current_dir(&self.line.working_directory)
            .env_clear()
            .env("HOME", scratch.temporary())
            .env("TMPDIR", scratch.temporary())
            .envs(&self.environment)
            .env("FN_LISTENER", listener)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Of the region's own environment only the search path is passed on; the rest may hold secrets.
fn environment(spec: &InstanceSpec, folder: &Path, path: OsString) -> BTreeMap<OsString, OsString> {
    let mut environment = bundle_environment(folder);
    environment.insert("PATH".into(), path);
    let contract = contract_environment(spec).into_iter();
    environment.extend(contract.map(|(name, value)| (name.into(), value.into())));
    environment
}
