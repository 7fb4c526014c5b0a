//! Which paths and links a bundle may hold. Packing and unpacking ask the same questions.

/// Top folders of a bundle; nothing but the manifest lies beside them.
const ROOTS: [&str; 2] = ["function", "python"];

/// Linux refuses longer paths in system calls, and a bundle is unpacked below some folder.
const PATH_BYTES_MAX: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path {path:?} is not function, python or below them")]
    Outside { path: String },
    #[error("path {path:?} has an empty, `.` or `..` step")]
    Step { path: String },
    #[error("path {path:?} has a control character")]
    Control { path: String },
    #[error("path {path:?}… has {bytes} bytes, {PATH_BYTES_MAX} are allowed")]
    Long { path: String, bytes: usize },
    #[error("link {path:?} points to {target:?}, outside the bundle")]
    LinkOutside { path: String, target: String },
}

/// Checks an entry's path: relative, plain steps, inside a top folder.
pub fn check(path: &str) -> Result<(), PathError> {
    let path_owned = || path.to_owned();
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::Long {
            path: path.chars().take(60).collect(),
            bytes: path.len(),
        });
    }
    if path.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(PathError::Control { path: path_owned() });
    }
    let mut steps = path.split('/');
    if !steps.next().is_some_and(|root| ROOTS.contains(&root)) {
        return Err(PathError::Outside { path: path_owned() });
    }
    if steps.any(|step| matches!(step, "" | "." | "..")) {
        return Err(PathError::Step { path: path_owned() });
    }
    Ok(())
}

/// Checks where a link at `path` points.
///
/// Only leading `..` steps are allowed. They climb from the link's own folder, which is a real one
/// (a link is never an entry's parent), so counting them is exact; a `..` behind a name could follow
/// another link first and climb from there.
pub fn check_link(path: &str, target: &str) -> Result<(), PathError> {
    let outside = || PathError::LinkOutside {
        path: path.to_owned(),
        target: target.to_owned(),
    };
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains('\0') {
        return Err(outside());
    }
    let depth = path.split('/').count() - 1;
    let climbs = target.split('/').take_while(|step| *step == "..").count();
    let rest: Vec<&str> = target.split('/').skip(climbs).collect();
    let plain = rest.iter().all(|step| !matches!(*step, "" | ".."));
    let into_root = climbs < depth || rest.first().is_some_and(|root| ROOTS.contains(root));
    if climbs > depth || !plain || !into_root {
        return Err(outside());
    }
    Ok(())
}

/// The folder an entry lies in; `None` for the top folders.
pub fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_into_the_bundle_only() {
        for path in [
            "function",
            "function/a",
            "python/bin/fdk",
            "function/..a/b.",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "/function/a",
            "functions/a",
            "manifest.json",
            "function/",
            "function//a",
            "function/../../etc/passwd",
            "function/./a",
            "..",
            "function/a\nb",
        ] {
            assert!(check(path).is_err(), "{path:?}");
        }
        assert!(check(&format!("function/{}", "a".repeat(3000))).is_err());
    }

    #[test]
    fn links_lead_into_the_bundle_only() {
        for (path, target) in [
            ("function/a", "b"),
            ("function/a", "./b"),
            ("function/node_modules/.bin/x", "../x/cli.js"),
            ("function/a", "../python/lib"),
        ] {
            assert_eq!(check_link(path, target), Ok(()), "{path} -> {target}");
        }
        for (path, target) in [
            ("function/a", "/etc/passwd"),
            ("function/a", ""),
            ("function/a", "../../x"),
            ("function/a", ".."),
            ("function/a", "../other"),
            ("function/a", "../manifest.json"),
            // With `p` a link to `.` this would climb twice from `function`.
            ("function/a", "p/../../x"),
            ("function/b/a", "../../../x"),
            ("function", "../x"),
        ] {
            assert!(check_link(path, target).is_err(), "{path} -> {target}");
        }
    }
}
