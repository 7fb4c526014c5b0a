//! A client as the promise describes it: when a connection fails it asks DNS again, until its
//! deadline.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::dns;

/// The promise is made to clients that keep trying this long.
pub const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
    /// Asked in turn; a server that does not answer is skipped, as resolvers do.
    servers: Vec<String>,
    subnet: Ipv4Addr,
}

/// How a call that got an answer went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub region: String,
    pub status: u16,
    pub body: String,
    /// Connections that failed before one stood.
    pub failed_connections: u32,
}

/// Why a call got no answer.
#[derive(Debug)]
pub enum Lost {
    /// The request had been sent: it may have reached a function, so nobody may repeat it.
    InFlight(anyhow::Error),
    /// Nothing was ever sent. This is what must not happen.
    Unsent(anyhow::Error),
}

impl Caller {
    pub fn new(servers: Vec<String>, subnet: Ipv4Addr) -> anyhow::Result<Self> {
        // A connection that is kept could break after the request went out on it; a new one per
        // call makes "not yet sent" a fact that the client knows.
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(1))
            .build()
            .context("build a client")?;
        Ok(Self {
            http,
            servers,
            subnet,
        })
    }

    /// Resolves `host` and posts `body` to `path` at the address given.
    pub async fn call(&self, host: &str, path: &str, body: &str) -> Result<Served, Lost> {
        let deadline = Instant::now() + DEADLINE;
        let mut failed_connections = 0;
        loop {
            let attempt = match self.resolve(host).await {
                Ok(address) => self.post(address, host, path, body).await,
                Err(error) => Err(Lost::Unsent(error)),
            };
            match attempt {
                Ok(served) => {
                    return Ok(Served {
                        failed_connections,
                        ..served
                    });
                }
                Err(Lost::Unsent(error)) if Instant::now() >= deadline => {
                    return Err(Lost::Unsent(error));
                }
                Err(Lost::Unsent(_)) => {
                    failed_connections += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(lost @ Lost::InFlight(_)) => return Err(lost),
            }
        }
    }

    /// The first address that any server gives.
    pub async fn resolve(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        let mut seen = None;
        for server in &self.servers {
            match dns::addresses(server, host, self.subnet).await {
                Ok(addresses) => match addresses.first() {
                    Some(address) => return Ok(*address),
                    None => bail!("{server} gives {host} no address"),
                },
                Err(error) => seen = Some(error),
            }
        }
        Err(seen.context("no DNS server is known")?)
    }

    async fn post(
        &self,
        address: Ipv4Addr,
        host: &str,
        path: &str,
        body: &str,
    ) -> Result<Served, Lost> {
        let sent = self
            .http
            .post(format!("http://{address}:8080{path}"))
            .header("Host", format!("{host}:8080"))
            .body(body.to_owned())
            .timeout(DEADLINE)
            .send()
            .await;
        let response = sent.map_err(|error| {
            if error.is_connect() {
                Lost::Unsent(error.into())
            } else {
                Lost::InFlight(error.into())
            }
        })?;
        let region = response
            .headers()
            .get("Tradewind-Region")
            .and_then(|region| region.to_str().ok());
        let region = region.unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        let body = response
            .text()
            .await
            .map_err(|error| Lost::InFlight(error.into()))?;
        Ok(Served {
            region,
            status,
            body,
            failed_connections: 0,
        })
    }
}
