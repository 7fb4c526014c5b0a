//! A view's tables, and the way from a client's address to the addresses it is given.
//!
//! The decision itself is `dns-steering`'s; this module looks the client up on the world map,
//! asks, and turns regions into addresses.
//!
//! A region without an address of the family asked is passed over for the best one that has one,
//! so that an IPv6-only client is steered too; NODATA is left for when no region that serves the
//! name has that family, which depends on no client and is true for all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api_types::{Region, RegionName};
use api_wire::fns::StoredError;
use api_wire::planes::Explanation;
use api_wire::view::{SteeringBody, ViewId};
use hickory_proto::rr::RecordType;
use metrics::{Counter, counter};

use crate::config::Config;
use dns_steering::name::{self, Target};
use dns_steering::view::ViewParts;
use dns_steering::{Client, Place, PlacedApp, PlacedFn, Policy, Reason, View, ViewError, steer};
use dns_worldmap::explain::{SITE_V4, SITE_V6, explain};
use dns_worldmap::{Located, OpenError, WorldMap};

/// What steering needs beside a view: set at start, the same for every query.
#[derive(Debug)]
pub struct Setting {
    /// Lower case, no trailing dot.
    pub zone: String,
    pub map: Arc<WorldMap>,
    pub policy: Policy,
}

impl Setting {
    pub fn new(config: &Config) -> Result<Self, OpenError> {
        let map = match config.worldmap.path.as_os_str().is_empty() {
            true => WorldMap::built_in(),
            false => Arc::new(WorldMap::open(&config.worldmap.path)?),
        };
        Ok(Self {
            zone: config.zone(),
            map,
            policy: Policy {
                ttl_secs: config.ttl_secs,
                ttl_all_down_secs: config.ttl_all_down_secs,
            },
        })
    }

    pub fn policy_ttl_secs(&self) -> u32 {
        self.policy.ttl_secs
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an A or AAAA question.
    pub fn of(kind: RecordType) -> Self {
        if kind == RecordType::AAAA {
            Self::V6
        } else {
            Self::V4
        }
    }
}

/// Whom an answer is for: a network, of which the first address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Block {
    /// A network as given by a resolver.
    pub fn network(ip: IpAddr, prefix: u8) -> Self {
        Self { ip, prefix }
    }

    /// The block around one address.
    pub fn host(ip: IpAddr) -> Self {
        let prefix = if ip.is_ipv4() { SITE_V4 } else { SITE_V6 };
        Self { ip, prefix }
    }
}

/// Where a region is in its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionIndex(usize);

/// What an A or AAAA question gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// One address; all when failing open; none for NODATA.
    pub addresses: Vec<IpAddr>,
    pub ttl_secs: u32,
    pub scope: u8,
    /// The winner, unless failing open.
    pub region: Option<RegionIndex>,
}

/// One view, ready to answer.
#[derive(Debug)]
pub struct Steering {
    view: View,
    map_sha256: String,
    rows: Vec<Row>,
    by_name: BTreeMap<RegionName, RegionIndex>,
}

/// Why a view makes no tables.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("a region is garbled")]
    Region(#[source] StoredError),
    #[error("the view contradicts itself")]
    View(#[source] ViewError),
}

struct Row {
    name: RegionName,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    answered: Counter,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Row").field(&self.name).finish()
    }
}

impl Row {
    fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

impl Steering {
    /// Builds the tables of a view.
    ///
    /// # Errors
    /// If a region of it is malformed, or has no address at all.
    pub fn build(body: SteeringBody) -> Result<Self, BuildError> {
        let regions = body
            .regions
            .into_iter()
            .map(Region::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(BuildError::Region)?;
        let rows: Vec<Row> = regions
            .iter()
            .map(|region| Row {
                name: region.name.clone(),
                ipv4: region.ipv4.map(IpAddr::V4),
                ipv6: region.ipv6.map(IpAddr::V6),
                // Bounded by the regions of the federation.
                answered: counter!(
                    "tradewind_dns_answers_total",
                    "region" => region.name.to_string()
                ),
            })
            .collect();
        let by_name = rows
            .iter()
            .enumerate()
            .map(|(index, row)| (row.name.clone(), RegionIndex(index)))
            .collect();
        let placed_apps = body.placed_apps.into_iter().map(|app| PlacedApp {
            name: app.name,
            regions: app.regions,
            strict: app.strict,
        });
        let placed_fns = body.placed_fns.into_iter().map(|function| PlacedFn {
            app: function.app,
            name: function.name,
            regions: function.regions,
            strict: function.strict,
        });
        let view = View::new(ViewParts {
            zone: body.zone,
            gateway_port: body.gateway_port,
            regions,
            placed_apps: placed_apps.collect(),
            placed_fns: placed_fns.collect(),
        })
        .map_err(BuildError::View)?;
        Ok(Self {
            view,
            map_sha256: body.map_sha256,
            rows,
            by_name,
        })
    }

    /// Whether a name exists in the zone or is covered by its wildcard.
    pub fn holds(&self, target: &Target) -> bool {
        self.view.holds(target)
    }

    pub fn map_sha256(&self) -> &str {
        &self.map_sha256
    }

    pub fn region_names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.name.as_str())
    }

    pub fn region(&self, name: &str) -> Option<RegionIndex> {
        self.by_name.get(&name.parse().ok()?).copied()
    }

    /// A region's own address, whatever is thought of the region.
    pub fn address(&self, region: RegionIndex, family: Family) -> Option<IpAddr> {
        self.rows[region.0].address(family)
    }

    pub fn count_answer(&self, region: RegionIndex) {
        self.rows[region.0].answered.increment(1);
    }

    /// The addresses for a client: the best region's that has one of that family.
    pub fn choose(
        &self,
        target: &Target,
        block: &Block,
        family: Family,
        setting: &Setting,
    ) -> Chosen {
        let answer = steer(
            &self.client(block, setting),
            target,
            &self.view,
            &setting.policy,
        );
        let ranked = answer
            .regions
            .iter()
            .filter_map(|name| self.by_name.get(name))
            .filter_map(|index| Some((*index, self.address(*index, family)?)));
        let open = answer.reason == Reason::AllDown;
        let picked: Vec<_> = ranked.take(if open { usize::MAX } else { 1 }).collect();
        Chosen {
            region: picked.first().map(|(index, _)| *index).filter(|_| !open),
            addresses: picked.into_iter().map(|(_, address)| address).collect(),
            ttl_secs: answer.ttl_secs,
            scope: answer.scope,
        }
    }

    fn client(&self, block: &Block, setting: &Setting) -> Client {
        let place = setting.map.locate(block.ip).as_ref().map(Located::place);
        Client::new(block.ip, block.prefix, place)
    }

    /// The tables' own questions, asked before they are served: the first name that would resolve
    /// to nothing for some client. An app that no region may run has no address by its own wish.
    pub fn first_name_without_address(&self, setting: &Setting) -> Option<String> {
        let zone = &setting.zone;
        let steered = [
            zone.clone(),
            format!("invoke.{zone}"),
            format!("any-app.{zone}"),
        ]
        .into_iter()
        .chain(self.view.placed_apps().map(|app| format!("{app}.{zone}")))
        .chain(
            self.view
                .placed_fns()
                .map(|(app, name)| format!("{name}--{app}.{zone}")),
        );
        // One client at each region and one that no map knows: whatever wins, it must have an
        // address.
        let clients: Vec<Client> = self
            .view
            .regions()
            .iter()
            .map(|region| {
                Some(Place {
                    location: region.location,
                    network_len: 0,
                })
            })
            .chain([None])
            .map(|place| Client::new(Ipv4Addr::UNSPECIFIED.into(), 0, place))
            .collect();
        let mut steered = steered;
        steered.find(|name| {
            let target = name::parse(zone, name);
            clients.iter().any(|client| {
                let answer = steer(client, &target, &self.view, &setting.policy);
                answer.reason != Reason::NothingPlaced
                    && !answer
                        .regions
                        .iter()
                        .any(|region| self.by_name.contains_key(region))
            })
        })
    }

    /// Why a client that asks for `name` is sent where it is.
    ///
    /// # Errors
    /// If the name does not exist in the zone; the message says so.
    pub fn explain(
        &self,
        id: &ViewId,
        name: &str,
        client: IpAddr,
        setting: &Setting,
    ) -> Result<Explanation, String> {
        explain(&self.view, id, &setting.map, &setting.policy, name, client)
            .ok_or_else(|| format!("{name:?} is no name in {}", setting.zone))
    }
}
