//! `/v1`: regions, views, replication, members.

use std::net::IpAddr;
use std::time::Duration;

use api_types::{RegionName, Revision};
use api_wire::bounds::SNAPSHOT_BYTES_MAX;
use api_wire::call_headers::REVISION;
use api_wire::page::Page;
use api_wire::planes::{
    DNS_TTL_SECS, Explanation, Member, RegionItem, RegisterRegion, Replication, Report,
};
use api_wire::view::Envelope;
use http::{Method, StatusCode};

use crate::attempt::{Ask, Patience};
use crate::{Client, Error, Written};

/// A report that has not been taken by then goes to the next node at once (docs/reference/interfaces.md).
const REPORT_TRY: Duration = Duration::from_millis(500);

/// What a long poll may take beyond the wait it asked for.
const LONG_POLL_SLACK: Duration = Duration::from_secs(3);

/// The longest a node holds a long poll.
pub(crate) const LONG_POLL_MAX: Duration = Duration::from_secs(10);

/// What a region is told when its report was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// What the node that answered had applied; `None` if it does not say.
    pub revision: Option<Revision>,
    /// How long answers of the DNS servers may be kept; `None` if the node does not say.
    pub dns_ttl: Option<Duration>,
}

impl Client {
    pub async fn regions(&self) -> Result<Vec<RegionItem>, Error> {
        let page: Page<RegionItem> = self.read(Ask::get(&["v1", "regions"])).await?;
        Ok(page.items)
    }

    /// Registers a region; registering again changes what differs.
    pub async fn register(&self, region: &RegisterRegion) -> Result<RegionItem, Error> {
        self.read(Ask::write(Method::POST, &["v1", "regions"]).json(region))
            .await
    }

    /// Takes a region out of steering until [`Client::undrain`].
    pub async fn drain(&self, region: &RegionName) -> Result<Written<RegionItem>, Error> {
        let path = ["v1", "regions", region.as_str(), "drain"];
        self.write(Ask::write(Method::POST, &path)).await
    }

    pub async fn undrain(&self, region: &RegionName) -> Result<Written<RegionItem>, Error> {
        let path = ["v1", "regions", region.as_str(), "undrain"];
        self.write(Ask::write(Method::POST, &path)).await
    }

    /// Reports once: every node is tried for 500 ms, none twice, because the next report is only
    /// a second away.
    ///
    /// # Errors
    /// 404 ([`Error::is_not_found`]) means the region must register again.
    pub async fn report(&self, region: &RegionName, report: &Report) -> Result<Heard, Error> {
        let path = ["v1", "regions", region.as_str(), "report"];
        let mut ask = Ask::write(Method::POST, &path).json(report);
        ask.patience = Patience {
            per_try: REPORT_TRY,
            total: REPORT_TRY * u32::try_from(self.nodes.urls.len()).unwrap_or(u32::MAX),
        };
        ask.again = false;
        let answer = self.ask(ask).await?;
        let number = |name: &str| {
            let value = answer.response.headers().get(name)?;
            value.to_str().ok()?.parse::<u64>().ok()
        };
        Ok(Heard {
            revision: number(REVISION.as_str()).map(Revision),
            dns_ttl: number(DNS_TTL_SECS).map(Duration::from_secs),
        })
    }

    pub async fn replication(&self) -> Result<Replication, Error> {
        self.read(Ask::get(&["v1", "replication"])).await
    }

    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let page: Page<Member> = self.read(Ask::get(&["v1", "members"])).await?;
        Ok(page.items)
    }

    /// Why `name` resolves for `client` as it does.
    pub async fn explain(&self, name: &str, client: IpAddr) -> Result<Explanation, Error> {
        let ask = Ask::get(&["v1", "explain"])
            .query("name", name)
            .query("client", &client);
        self.read(ask).await
    }

    /// All that a region holds; check it with [`Envelope::open`].
    pub async fn snapshot(&self) -> Result<Envelope, Error> {
        let answer = self.ask(Ask::get(&["v1", "snapshot"]).knowing()).await?;
        self.body_within(answer, SNAPSHOT_BYTES_MAX).await
    }

    /// The steering view if there is one newer than (`epoch`, `after`), waiting up to `wait` (10 s
    /// at most) for it; `None` if there is not. Check it with [`Envelope::open`].
    ///
    /// `who` is the name of the DNS server that asks, empty for anybody else: the global plane uses
    /// nothing that one of them does not know.
    pub async fn steering(
        &self,
        who: &str,
        epoch: u64,
        after: Revision,
        wait: Duration,
    ) -> Result<Option<Envelope>, Error> {
        let wait = wait.min(LONG_POLL_MAX);
        let mut ask = Ask::get(&["v1", "views", "steering"])
            .query("after", &after)
            .query("epoch", &epoch)
            .query("wait_ms", &wait.as_millis())
            .query("who", who)
            .knowing();
        let per_try = wait + LONG_POLL_SLACK;
        ask.patience = Patience {
            per_try,
            total: per_try + Patience::ORDINARY.total,
        };
        let answer = self.ask(ask).await?;
        if answer.response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        self.body(answer).await.map(Some)
    }
}
