//! Plain HTTP, for what is not the global plane's API: calls, health, DNS servers.

use std::time::Duration;

use anyhow::Context as _;

/// Follows redirects of kinds that keep method and body, as a gateway answers for a function that
/// is placed elsewhere.
pub fn client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(2))
        .user_agent(concat!("tradewind/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("set up the HTTP client")
}
