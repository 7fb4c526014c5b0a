//! A typed client of the global plane, for the other planes and the command line.
//!
//! It holds the list of global nodes, stays with the one that last answered and moves on when one
//! fails, so that its callers never name a node. Every write carries an `Idempotency-Key` that is
//! the same on every try; a retried write therefore happens once. It refuses to know a leader:
//! nodes forward to it themselves.

mod attempt;
pub mod bundle;
pub mod error;
mod fns;
mod planes;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api_types::Revision;
use reqwest::Url;

pub use bundle::{BundleSource, Download};
pub use error::{Error, NewClientError, Tried};
pub use planes::Heard;
pub use watch::Watch;

/// Header that makes a retried write happen once.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// Cheap to clone; clones share connections and the node that last answered.
#[derive(Debug, Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    http: reqwest::Client,
}

/// What a write returns: the object, and the revision of the global plane that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    pub object: T,
    pub revision: Revision,
}

#[derive(Debug)]
struct Nodes {
    urls: Vec<Url>,
    /// Index of the node that last answered, or that follows one that failed.
    preferred: AtomicUsize,
}

impl Client {
    /// A client of the global nodes at `urls`, as `http://127.0.20.1:7400`. A path is kept, so
    /// `http://…/regions/fra` is that region's view.
    ///
    /// # Errors
    /// If the list is empty or an entry is not an `http` URL.
    pub fn new(urls: &[String]) -> Result<Self, NewClientError> {
        if urls.is_empty() {
            return Err(NewClientError::NoNodes);
        }
        let urls = urls
            .iter()
            .map(|text| node_url(text))
            .collect::<Result<_, _>>()?;
        let http = reqwest::Client::builder()
            // Planes talk to each other directly, whatever HTTP_PROXY says.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Loopback or a continent away: a handshake that takes longer has lost a packet, and
            // another node is likelier to answer than a resend.
            .connect_timeout(Duration::from_secs(2))
            // Shorter than the time for which our daemons keep an idle connection.
            .pool_idle_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .user_agent(concat!("tradewind/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| NewClientError::Http { source })?;
        let nodes = Nodes {
            urls,
            preferred: AtomicUsize::new(0),
        };
        Ok(Self {
            nodes: Arc::new(nodes),
            http,
        })
    }
}

fn node_url(text: &str) -> Result<Url, NewClientError> {
    let invalid = |problem: &str| NewClientError::Url {
        url: text.to_owned(),
        problem: problem.to_owned(),
    };
    let wanted = "expected http://HOST:PORT";
    let url = Url::parse(text).map_err(|error| invalid(&format!("{error}; {wanted}")))?;
    match url.scheme() {
        "http" if url.has_host() => Ok(url),
        "https" => Err(invalid(
            "there is no TLS to the global plane yet; use http:// on a network you trust",
        )),
        _ => Err(invalid(wanted)),
    }
}

impl Nodes {
    /// Indexes of all nodes, the one to ask first first.
    fn in_order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.urls.len());
        (0..count).map(move |step| (first + step) % count)
    }

    fn answered(&self, node: usize) {
        self.preferred.store(node, Ordering::Relaxed);
    }

    /// Moves on from a node that failed, unless another caller already has.
    fn failed(&self, node: usize) {
        let next = (node + 1) % self.urls.len();
        let _moved_already =
            self.preferred
                .compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The URL of a path on a node, with its segments escaped.
    fn url(&self, node: usize, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.urls[node].clone();
        url.path_segments_mut()
            .expect("http URLs have paths")
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_are_nodes() {
        for (url, want) in [
            ("https://a:1", "no TLS"),
            ("127.0.0.1:7400", "expected http://HOST:PORT"),
            ("ftp://a", "expected http://HOST:PORT"),
            ("", "expected http://HOST:PORT"),
        ] {
            let error = Client::new(&[url.to_owned()]).expect_err(url);
            assert!(error.to_string().contains(want), "{url}: {error}");
        }
        assert!(matches!(Client::new(&[]), Err(NewClientError::NoNodes)));
    }

    #[test]
    fn paths_are_escaped_and_follow_the_nodes_own() {
        let nodes = Nodes {
            urls: vec![
                node_url("http://a:1").expect("a URL"),
                node_url("http://a:1/regions/fra/").expect("a URL"),
            ],
            preferred: AtomicUsize::new(0),
        };
        let path = ["v2", "apps", "a/b c"];
        assert_eq!(
            nodes.url(0, &path, &[]).as_str(),
            "http://a:1/v2/apps/a%2Fb%20c"
        );
        assert_eq!(
            nodes
                .url(1, &["v2"], &[("name", "x&y".to_owned())])
                .as_str(),
            "http://a:1/regions/fra/v2?name=x%26y"
        );
    }

    #[test]
    fn a_failed_node_is_left_once() {
        let nodes = Nodes {
            urls: vec![node_url("http://a:1").expect("a URL"); 3],
            preferred: AtomicUsize::new(2),
        };
        nodes.failed(2);
        nodes.failed(2);
        assert_eq!(nodes.in_order().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
