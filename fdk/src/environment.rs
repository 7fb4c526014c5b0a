//! What the platform says through environment variables (Fn contract 9.1).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderName;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error("FN_FORMAT is {found:?}, this program speaks http-stream only")]
    Format { found: String },
    #[error("FN_LISTENER is {found:?}, expected unix: and an absolute path")]
    Listener { found: String },
}

#[derive(Debug)]
pub(crate) struct Environment {
    /// Where the platform waits for a link to a socket.
    pub(crate) socket: PathBuf,
    /// All variables that are text; a function's configuration is among them.
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) frame: Option<Frame>,
}

/// How lines of the log are attributed to calls (Fn contract 9.6).
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) name: String,
    pub(crate) header: HeaderName,
}

impl Environment {
    pub(crate) fn from_variables(
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, EnvironmentError> {
        let config: BTreeMap<_, _> = variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let text = |name: &str| config.get(name).map_or("", String::as_str);

        let format = text("FN_FORMAT");
        if format != "http-stream" {
            return Err(EnvironmentError::Format {
                found: format.to_owned(),
            });
        }
        let listener = text("FN_LISTENER");
        let socket = listener
            .strip_prefix("unix:")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() && path.file_name().is_some())
            .ok_or_else(|| EnvironmentError::Listener {
                found: listener.to_owned(),
            })?;
        let frame = match (text("FN_LOGFRAME_NAME"), text("FN_LOGFRAME_HDR").parse()) {
            ("", _) | (_, Err(_)) => None,
            (name, Ok(header)) => Some(Frame {
                name: name.to_owned(),
                header,
            }),
        };
        Ok(Self {
            socket,
            frame,
            config: Arc::new(config),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let owned = |&(name, value): &(&str, &str)| (name.into(), value.into());
        Environment::from_variables(variables.iter().map(owned))
    }

    #[test]
    fn only_the_contract_of_this_crate_is_served() {
        for (format, listener, accepted) in [
            ("http-stream", "unix:/tmp/iofs/lsnr.sock", true),
            ("", "unix:/tmp/iofs/lsnr.sock", false),
            ("json", "unix:/tmp/iofs/lsnr.sock", false),
            ("http-stream", "", false),
            ("http-stream", "unix:lsnr.sock", false),
            ("http-stream", "unix:/", false),
            ("http-stream", "tcp:/tmp/lsnr.sock", false),
        ] {
            let read = read(&[("FN_FORMAT", format), ("FN_LISTENER", listener)]);
            assert_eq!(read.is_ok(), accepted, "{format} {listener}");
        }
    }

    #[test]
    fn the_log_is_framed_if_both_variables_are_set() {
        for (name, header, framed) in [
            ("call", "Fn-Call-Id", true),
            ("", "Fn-Call-Id", false),
            ("call", "", false),
            ("call", "not a header", false),
        ] {
            let variables = [
                ("FN_FORMAT", "http-stream"),
                ("FN_LISTENER", "unix:/s/lsnr.sock"),
                ("FN_LOGFRAME_NAME", name),
                ("FN_LOGFRAME_HDR", header),
            ];
            let frame = read(&variables).map(|environment| environment.frame.is_some());
            assert_eq!(frame, Ok(framed), "{name} {header}");
        }
    }
}
