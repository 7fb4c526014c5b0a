//! Names of code: digests, bundle references, platforms.

use std::fmt;
use std::str::FromStr;

use crate::Revision;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.as_bytes();
        if hex.len() != 64 || !hex.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| DigestError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// A bundle whose bytes a majority of global nodes has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// The revision it was added at; a bundle never changes.
    pub revision: Revision,
}

/// A function's image that is a bundle: `bundle/NAME:VERSION@sha256:HEX`. Identity is the digest;
/// name and version are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRef {
    pub name: String,
    pub version: String,
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a bundle: expected bundle/NAME:VERSION@sha256:HEX")]
pub struct BundleRefError;

impl fmt::Display for BundleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bundle/{}:{}@sha256:{}",
            self.name, self.version, self.digest
        )
    }
}

impl FromStr for BundleRef {
    type Err = BundleRefError;

    fn from_str(image: &str) -> Result<Self, BundleRefError> {
        let (named, digest) = image
            .strip_prefix("bundle/")
            .and_then(|rest| rest.split_once("@sha256:"))
            .ok_or(BundleRefError)?;
        let (name, version) = named.rsplit_once(':').ok_or(BundleRefError)?;
        if name.is_empty() || version.is_empty() {
            return Err(BundleRefError);
        }
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            digest: digest.parse().map_err(|_| BundleRefError)?,
        })
    }
}

/// What a bundle's files were built for, as in `linux/amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform(pub String);

impl Platform {
    /// The platform this program runs on, in the words of container images.
    #[must_use]
    pub fn here() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self(format!("{}/{arch}", std::env::consts::OS))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn bundle_references_print_as_they_are_read() {
        let image = format!("bundle/hello:0.0.1@sha256:{}", "ab".repeat(32));
        assert_eq!(image.parse::<BundleRef>().unwrap().to_string(), image);
    }

    #[test]
    fn anything_else_is_an_image_of_a_registry() {
        for image in [
            "hello:1",
            "bundle/hello:1",
            "bundle/hello@sha256:00",
            "bundle/:1@sha256:00",
            "ünïcode",
        ] {
            assert!(image.parse::<BundleRef>().is_err(), "{image}");
        }
        let upper = format!("bundle/hello:1@sha256:{}", "AB".repeat(32));
        assert!(
            upper.parse::<BundleRef>().is_err(),
            "a digest has one spelling"
        );
    }
}
