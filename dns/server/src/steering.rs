//! A view's tables, and the way from a client's address to the addresses it is given.
//!
//! The decision itself is `dns-steering`'s; this module asks it and turns regions into addresses.
//!
//! One region is chosen for both families, and one with IPv4 before any without: a family that it lacks
//! is NODATA. That is AAAA while regions with IPv4 serve, and resolvers of IPv6-only clients make AAAA
//! of A (RFC 6147), but nobody makes A of AAAA.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api_types::{Region, RegionName};
use api_wire::fns::StoredError;
use api_wire::planes::Explanation;
use api_wire::view::{SteeringBody, ViewId};
use hickory_proto::rr::RecordType;
use metrics::{Counter, counter};

use crate::config::Config;
use dns_steering::map::Modelled;
use dns_steering::mask::REGIONS_MAX;
use dns_steering::name::{self, Target};
use dns_steering::rank::rank_from;
use dns_steering::view::ViewParts;
use dns_steering::{
    Key, LocationClass, PlacedApp, PlacedFn, Policy, Reason, SetId, View, ViewError, decide,
};
use dns_worldmap::explain::{SITE_V4, SITE_V6, explain};
use dns_worldmap::{OpenError, WorldMap};

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
        // Not while a view waits to be served.
        map.world();
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
pub struct RegionIndex(u16);

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
    /// By the view's order.
    rows: Vec<Row>,
}

/// Why a view makes no tables.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("a region's entry is malformed")]
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
    /// Builds the tables of a view. Where it has the regions of `held`, it has its client map.
    ///
    /// # Errors
    /// If a region of it is malformed, or has no address at all.
    pub fn build(
        body: SteeringBody,
        setting: &Setting,
        held: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let regions = body
            .regions
            .into_iter()
            .map(Region::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(BuildError::Region)?;
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
        .and_then(|view| view.located(setting.map.world(), held.map(|held| &held.view)))
        .map_err(BuildError::View)?;
        let rows = view.regions().iter().map(|region| Row {
            name: region.name.clone(),
            ipv4: region.ipv4.map(IpAddr::V4),
            ipv6: region.ipv6.map(IpAddr::V6),
            // Bounded by the regions of the federation.
            answered: counter!(
                "tradewind_dns_answers_total",
                "region" => region.name.to_string()
            ),
        });
        Ok(Self {
            map_sha256: body.map_sha256,
            rows: rows.collect(),
            view,
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
        self.view.structure().index(name).map(RegionIndex)
    }

    /// A region's own address, whatever is thought of the region.
    pub fn address(&self, region: RegionIndex, family: Family) -> Option<IpAddr> {
        self.rows[usize::from(region.0)].address(family)
    }

    pub fn count_answer(&self, region: RegionIndex) {
        self.rows[usize::from(region.0)].answered.increment(1);
    }

    /// The address of the region that a client is sent to, if that has one of the family; all when
    /// failing open.
    pub fn choose(
        &self,
        target: &Target,
        block: &Block,
        family: Family,
        setting: &Setting,
    ) -> Chosen {
        let client = self.view.client(block.ip, block.prefix);
        let Some(decision) = decide(&client, target, &self.view, &setting.policy) else {
            return Chosen {
                addresses: Vec::new(),
                ttl_secs: setting.policy.ttl_secs,
                scope: 0,
                region: None,
            };
        };
        let address = |index: u16| self.address(RegionIndex(index), family);
        let (addresses, region) = if decision.reason == Reason::AllDown {
            let mut all = [0; REGIONS_MAX];
            let count = decision.order(&client, &self.view, &mut all);
            let addresses = all[..count].iter().filter_map(|index| address(*index));
            (addresses.collect(), None)
        } else {
            let winner = decision.ranked.winner;
            let address = winner.and_then(|index| Some((index, address(index)?)));
            let region = address.map(|(index, _)| RegionIndex(index));
            (address.map(|(_, ip)| ip).into_iter().collect(), region)
        };
        Chosen {
            region,
            addresses,
            ttl_secs: decision.ttl_secs,
            scope: decision.scope,
        }
    }

    /// The tables' own questions, asked before they are served: the first name that would resolve
    /// to nothing for some client. An app that no region may run has no address by its own wish.
    ///
    /// Names of one placement set have one answer, so each set is asked for once.
    pub fn first_name_without_address(&self, setting: &Setting) -> Option<String> {
        let zone = &setting.zone;
        let (structure, prepared) = (self.view.structure(), self.view.prepared());
        // One client at each region and one that no map knows: whatever wins, it must have an
        // address.
        let places = structure.locations().iter().copied().map(Some);
        let clients: Vec<Modelled> = places
            .chain([None])
            .map(|location| {
                let place = LocationClass {
                    location,
                    continent: None,
                };
                Modelled::new(place, structure.locations())
            })
            .collect();
        let answers = |set: SetId| {
            clients.iter().all(|client| {
                let distances = client.distances();
                let ranked = rank_from(structure, prepared, &distances, set, Key(0));
                let has_address = |index| {
                    let region = RegionIndex(index);
                    let families = [Family::V4, Family::V6];
                    families
                        .iter()
                        .any(|family| self.address(region, *family).is_some())
                };
                match ranked.winner {
                    Some(winner) => has_address(winner),
                    None => Reason::from(ranked.why) == Reason::NothingPlaced,
                }
            })
        };
        let mut asked = BTreeSet::new();
        let mut steered = [
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
        steered.find(|name| {
            let set = self.view.set(&name::parse(zone, name));
            set.is_some_and(|set| asked.insert(set) && !answers(set))
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
