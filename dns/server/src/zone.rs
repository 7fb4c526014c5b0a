//! The zone model: which names exist, and what each holds (RFC 4592, RFC 2308).
//!
//! Every name is one of: the apex; a name server; `at.Z`, which exists only because region names
//! are below it; `REGION.at.Z`; a steered name (`invoke.Z`, and `APP.Z` and `FN--APP.Z` by
//! wildcard, which covers every depth below the zone's name where no other name stands between);
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dns_steering::name::{self, Target};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, SOA};
use hickory_proto::rr::{LowerName, Name, RData, RecordType};

use crate::config::{Config, absolute_name};
use crate::steering::{Block, Family, RegionIndex, Setting};
use crate::view::Loaded;

/// Longest that "no such name" may be remembered: an app that is about to be created with a
/// placement of its own must not stay invisible.
const NEGATIVE_TTL_SECS_MAX: u32 = 30;

/// What changes only with the configuration.
const STATIC_TTL_SECS: u32 = 3_600;

/// RFC 6895 §3.1: 128 to 255 are query and meta types. RFC 9824 §3.4 gives 128 a meaning.
const META_TYPES: std::ops::RangeInclusive<u16> = 128..=254;
const NXNAME: u16 = 128;

/// RFC 8914 §5.
pub const EDE_NOT_READY: u16 = 14;
pub const EDE_NOT_AUTHORITATIVE: u16 = 20;
/// RFC 9824 §5.
pub const EDE_INVALID_QUERY_TYPE: u16 = 30;

/// The records that do not depend on a view.
#[derive(Debug)]
pub struct Zone {
    name: Name,
    lower_name: LowerName,
    nameservers: Vec<Nameserver>,
    setting: Arc<Setting>,
}

#[derive(Debug)]
struct Nameserver {
    name: Name,
    lower_name: LowerName,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

/// What is said to a question about the zone.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneAnswer {
    pub code: ResponseCode,
    pub authoritative: bool,
    /// All of one type, for the name asked.
    pub records: Vec<RData>,
    pub ttl_secs: u32,
    /// The SOA record for the authority section, with its owner: NODATA and NXDOMAIN.
    pub soa: Option<(Name, u32, RData)>,
    /// How much of the client's address the answer depends on, in bits.
    pub scope: u8,
    pub extended_error: Option<u16>,
    /// The region answered with, for counting.
    pub region: Option<RegionIndex>,
}

/// What a name in the zone is.
enum Kind<'a> {
    Apex,
    Nameserver(&'a Nameserver),
    EmptyNonTerminal,
    /// `REGION.at.Z`, if there is such a region.
    Region(String),
    Steered(Target),
    Nothing,
}

impl Zone {
    /// `None` if a configured name is no domain name; [`Config`]'s own checks refuse those.
    pub fn new(config: &Config, setting: Arc<Setting>) -> Option<Self> {
        let name = absolute_name(&config.zone)?;
        let nameservers = config
            .nameservers
            .iter()
            .map(|server| {
                let name = absolute_name(&server.name)?;
                Some(Nameserver {
                    lower_name: LowerName::from(&name),
                    name,
                    ipv4: server.ipv4,
                    ipv6: server.ipv6,
                })
            })
            .collect::<Option<_>>()?;
        Some(Self {
            lower_name: LowerName::from(&name),
            name,
            nameservers,
            setting,
        })
    }

    /// Answers a question of class IN.
    pub fn answer(
        &self,
        loaded: Option<&Loaded>,
        name: &LowerName,
        kind: RecordType,
        client: &Block,
    ) -> ZoneAnswer {
        if u16::from(kind) == NXNAME {
            return ZoneAnswer::failed(ResponseCode::FormErr, Some(EDE_INVALID_QUERY_TYPE));
        }
        let meta = kind == RecordType::OPT || META_TYPES.contains(&u16::from(kind));
        if meta || u16::from(kind) == 0 {
            return ZoneAnswer::failed(ResponseCode::Refused, None);
        }
        if !self.lower_name.zone_of(name) {
            return ZoneAnswer::failed(ResponseCode::Refused, Some(EDE_NOT_AUTHORITATIVE));
        }
        let holds = self.kind_of(name);
        let (holds, loaded) = match (holds, loaded) {
            (Kind::Nothing, _) => return self.negative(ResponseCode::NXDomain, loaded),
            // Without a view nothing can be said about what only a view tells.
            (Kind::Region(_) | Kind::Steered(_), None) => return ZoneAnswer::not_ready(),
            (Kind::Region(region), Some(view)) if view.steering.region(&region).is_none() => {
                return self.negative(ResponseCode::NXDomain, loaded);
            }
            // Below a name of its own the wildcard does not reach.
            (Kind::Steered(target), Some(view)) if !view.steering.holds(&target) => {
                return self.negative(ResponseCode::NXDomain, loaded);
            }
            known => known,
        };
        match (holds, kind) {
            // RFC 8482 §4.2.
            (_, RecordType::ANY) => {
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                ZoneAnswer::holding(vec![RData::HINFO(hinfo)], STATIC_TTL_SECS)
            }
            (Kind::Apex, RecordType::SOA) => {
                ZoneAnswer::holding(vec![self.soa(loaded)], self.negative_ttl_secs())
            }
            (Kind::Apex, RecordType::NS) => {
                let servers = self.nameservers.iter();
                let servers = servers.map(|server| RData::NS(NS(server.name.clone())));
                ZoneAnswer::holding(servers.collect(), STATIC_TTL_SECS)
            }
            (Kind::Nameserver(server), RecordType::A) => {
                let records = server.ipv4.map(|ip| RData::A(A(ip)));
                self.fixed(records, STATIC_TTL_SECS, loaded)
            }
            (Kind::Nameserver(server), RecordType::AAAA) => {
                let records = server.ipv6.map(|ip| RData::AAAA(AAAA(ip)));
                self.fixed(records, STATIC_TTL_SECS, loaded)
            }
            (Kind::Region(region), RecordType::A | RecordType::AAAA) => {
                let address = loaded.and_then(|view| {
                    let region = view.steering.region(&region)?;
                    view.steering.address(region, Family::of(kind)).map(record)
                });
                self.fixed(address, self.setting.policy_ttl_secs(), loaded)
            }
            (Kind::Apex, RecordType::A | RecordType::AAAA) => {
                self.steered(loaded, &Target::Apex, kind, client)
            }
            (Kind::Steered(target), RecordType::A | RecordType::AAAA) => {
                self.steered(loaded, &target, kind, client)
            }
            _ => self.negative(ResponseCode::NoError, loaded),
        }
    }

    fn kind_of(&self, name: &LowerName) -> Kind<'_> {
        let server = self
            .nameservers
            .iter()
            .find(|server| server.lower_name == *name);
        if let Some(server) = server {
            return Kind::Nameserver(server);
        }
        match name::parse(&self.setting.zone, &text(name)) {
            Target::Apex => Kind::Apex,
            Target::At => Kind::EmptyNonTerminal,
            Target::RegionAt(region) => Kind::Region(region),
            Target::Nameserver(_) | Target::Nothing => Kind::Nothing,
            target @ (Target::Invoke
            | Target::App(_)
            | Target::Fn { .. }
            | Target::Other
            | Target::Deeper { .. }) => Kind::Steered(target),
        }
    }

    fn steered(
        &self,
        loaded: Option<&Loaded>,
        target: &Target,
        kind: RecordType,
        client: &Block,
    ) -> ZoneAnswer {
        let Some(view) = loaded else {
            return ZoneAnswer::not_ready();
        };
        let chosen = view
            .steering
            .choose(target, client, Family::of(kind), &self.setting);
        if chosen.addresses.is_empty() {
            return self.negative(ResponseCode::NoError, loaded);
        }
        ZoneAnswer {
            scope: chosen.scope,
            region: chosen.region,
            ..ZoneAnswer::holding(
                chosen.addresses.into_iter().map(record).collect(),
                chosen.ttl_secs,
            )
        }
    }

    /// One record if there is one, else NODATA.
    fn fixed(&self, data: Option<RData>, ttl_secs: u32, loaded: Option<&Loaded>) -> ZoneAnswer {
        match data {
            Some(data) => ZoneAnswer::holding(vec![data], ttl_secs),
            None => self.negative(ResponseCode::NoError, loaded),
        }
    }

    /// NODATA or NXDOMAIN: both carry the SOA, by which resolvers know how long they hold.
    fn negative(&self, code: ResponseCode, loaded: Option<&Loaded>) -> ZoneAnswer {
        ZoneAnswer {
            code,
            soa: Some((
                self.name.clone(),
                self.negative_ttl_secs(),
                self.soa(loaded),
            )),
            ..ZoneAnswer::holding(Vec::new(), 0)
        }
    }

    /// RFC 2308 §5: of the SOA's TTL and its MINIMUM the smaller counts, so they are the same.
    fn negative_ttl_secs(&self) -> u32 {
        self.setting.policy_ttl_secs().min(NEGATIVE_TTL_SECS_MAX)
    }

    fn soa(&self, loaded: Option<&Loaded>) -> RData {
        /// Nobody transfers the zone; the usual values tell a tool that it is alive.
        const REFRESH_SECS: i32 = 3_600;
        const RETRY_SECS: i32 = 600;
        const EXPIRE_SECS: i32 = 604_800;
        let hostmaster = self.name.prepend_label("hostmaster");
        // RFC 1982: serials are compared modulo 2^32, so only the low bits matter.
        let revision = loaded.map_or(0, |loaded| loaded.id.revision);
        let serial = u32::try_from(revision & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        RData::SOA(SOA::new(
            self.nameservers[0].name.clone(),
            hostmaster.unwrap_or_else(|_| self.name.clone()),
            serial,
            REFRESH_SECS,
            RETRY_SECS,
            EXPIRE_SECS,
            self.negative_ttl_secs(),
        ))
    }
}

impl ZoneAnswer {
    /// An authoritative answer that holds for everybody.
    fn holding(records: Vec<RData>, ttl_secs: u32) -> Self {
        Self {
            code: ResponseCode::NoError,
            authoritative: true,
            records,
            ttl_secs,
            soa: None,
            scope: 0,
            extended_error: None,
            region: None,
        }
    }

    /// An answer that says nothing about the name.
    pub fn failed(code: ResponseCode, extended_error: Option<u16>) -> Self {
        Self {
            code,
            authoritative: false,
            extended_error,
            ..Self::holding(Vec::new(), 0)
        }
    }

    fn not_ready() -> Self {
        Self::failed(ResponseCode::ServFail, Some(EDE_NOT_READY))
    }
}

fn record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Lower case, no trailing dot; bytes that no name of ours has are escaped.
fn text(name: &LowerName) -> String {
    let mut text = name.to_string();
    if text.ends_with('.') {
        text.pop();
    }
    text
}
