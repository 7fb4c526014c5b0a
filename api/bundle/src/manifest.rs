//! What a bundle says of itself.

use api_types::Platform;
use serde::{Deserialize, Serialize};

/// Name of the first entry of every bundle.
pub const MANIFEST_NAME: &str = "manifest.json";

/// A manifest is a few lines; entrypoint and cmd are command lines.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// The only form there is so far.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    /// Of the function, for people.
    pub name: String,
    /// Of the function, for people.
    pub version: String,
    /// As in func.yaml: `python3.11`, `node`, `rust`, ….
    pub runtime: String,
    /// What its files were built for, as `linux/amd64`.
    pub platform: String,
    /// Program and arguments, then `cmd`. In each word a leading `/function` or `/python` is that
    /// folder of the bundle.
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is malformed")]
    Malformed {
        #[source]
        source: serde_json::Error,
    },
    #[error("the manifest has schema {found}, this program reads {SCHEMA}; upgrade it")]
    Schema { found: u32 },
    #[error("the manifest names no program: entrypoint and cmd are empty")]
    NoProgram,
}

/// Its files were built for another kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bundle {name}:{version} was built for {built_for}, this machine is {here}")]
pub struct PlatformMismatch {
    pub name: String,
    pub version: String,
    pub built_for: String,
    pub here: String,
}

impl Manifest {
    /// # Errors
    /// If it is not a manifest of a schema known here, or could not be run anywhere.
    pub fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        /// Read first: the rest of another schema may look like anything.
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let malformed = |source| ManifestError::Malformed { source };
        let head: Head = serde_json::from_slice(json).map_err(malformed)?;
        if head.schema != SCHEMA {
            return Err(ManifestError::Schema { found: head.schema });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(malformed)?;
        if manifest.entrypoint.is_empty() && manifest.cmd.is_empty() {
            return Err(ManifestError::NoProgram);
        }
        Ok(manifest)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        json.push(b'\n');
        json
    }

    /// Program and arguments: the entrypoint's words, then the command's.
    pub fn command(&self) -> impl Iterator<Item = &str> {
        self.entrypoint.iter().chain(&self.cmd).map(String::as_str)
    }

    /// # Errors
    /// If the bundle was built for another platform than `here`.
    pub fn check_platform(&self, here: &Platform) -> Result<(), PlatformMismatch> {
        if self.platform == here.0 {
            return Ok(());
        }
        Err(PlatformMismatch {
            name: self.name.clone(),
            version: self.version.clone(),
            built_for: self.platform.clone(),
            here: here.0.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn another_schema_is_named_even_if_its_form_is_unknown() {
        for (json, want) in [
            (r#"{"schema":2,"shape":[]}"#, "schema 2"),
            (r#"{"schema":1}"#, "malformed"),
            ("", "malformed"),
            (
                r#"{"schema":1,"name":"a","version":"1","runtime":"x","platform":"p","entrypoint":[],"cmd":[]}"#,
                "no program",
            ),
        ] {
            let error = Manifest::from_json(json.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(want), "{json}: {error}");
        }
    }

    #[test]
    fn a_bundle_of_another_platform_is_refused_by_name() {
        let manifest = Manifest {
            schema: SCHEMA,
            name: "hello".to_owned(),
            version: "0.0.1".to_owned(),
            runtime: "rust".to_owned(),
            platform: "linux/arm64".to_owned(),
            entrypoint: vec!["/function/hello".to_owned()],
            cmd: vec!["now".to_owned()],
        };
        assert!(
            manifest
                .check_platform(&Platform("linux/arm64".to_owned()))
                .is_ok()
        );
        let mismatch = manifest
            .check_platform(&Platform("linux/amd64".to_owned()))
            .unwrap_err();
        assert_eq!(
            mismatch.to_string(),
            "bundle hello:0.0.1 was built for linux/arm64, this machine is linux/amd64"
        );
        assert_eq!(
            manifest.command().collect::<Vec<_>>(),
            ["/function/hello", "now"]
        );
    }
}
