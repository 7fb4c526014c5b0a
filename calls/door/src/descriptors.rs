//! How many files a process may have open, and who may have how many of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one; returns what it is then. Linux's default of 1,024 is for
/// programs that use select(2) on them, which nothing here does.
///
/// # Errors
/// That of setrlimit(2), with the limit as it stays.
pub fn raise() -> Result<u64, (u64, std::io::Error)> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Ok(self::limit()),
        Err(error) => Err((self::limit(), error.into())),
    }
}

/// How many files this process may have open.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections a listener may have: as many as it wants, and no more than its share of what may
/// be open. What is left is for the process's own files, for other listeners, and for what a connection
/// leads to.
#[must_use]
pub fn connections(wanted: usize, share_percent: u8) -> usize {
    share(limit(), wanted, share_percent)
}

fn share(limit: u64, wanted: usize, share_percent: u8) -> usize {
    let most = limit / 100 * u64::from(share_percent);
    // None at all would be a listener that answers nobody.
    wanted
        .min(usize::try_from(most).unwrap_or(usize::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_what_it_wants_within_its_share() {
        for (limit, wanted, percent, want) in [
            (1_000_000, 4096, 50, 4096),
            (1024, 4096, 50, 500),
            (1024, 100, 50, 100),
            (u64::MAX, 4096, 10, 4096),
            (3, 4096, 10, 1),
        ] {
            assert_eq!(
                share(limit, wanted, percent),
                want,
                "{limit} {wanted} {percent}"
            );
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        assert_eq!(raise().ok(), Some(limit()));
        assert_eq!(
            getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            limit()
        );
    }
}
