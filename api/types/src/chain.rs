//! Errors with their causes, as they are shown to people.

use std::error::Error;

/// An error and what caused it in one line, as `keep the view: open /x: permission denied`.
///
/// The one place that does this: `Display` of our errors never prints the source. A library's may,
/// so a cause that was said already is not said again.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("open /x")]
        Open(#[source] io::Error),
        #[error("keep the view")]
        Keep(#[source] Box<Failed>),
        #[error("read /y: {0}")]
        Said(#[source] io::Error),
    }

    #[test]
    fn causes_follow_in_order_and_none_is_said_twice() {
        let refused = || io::Error::other("refused");
        for (error, want) in [
            (Failed::Open(refused()), "open /x: refused"),
            (
                Failed::Keep(Box::new(Failed::Open(refused()))),
                "keep the view: open /x: refused",
            ),
            (Failed::Said(refused()), "read /y: refused"),
        ] {
            assert_eq!(chain(&error), want);
        }
    }
}
