//! What holds for the ranking over a client map, whatever was measured and whatever prices are.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::world::{POLICY, ZONE, at, parts, placed_app, region, view};
use api_types::placement::Why;
use api_types::{Location, Region, RegionName, Verdict};
use dns_steering::map::{Continent, Continents, MapBlock, RttCell};
use dns_steering::rank::{order, rank_from, shares};
use dns_steering::rows::PRICE_MAX_TENTHS;
use dns_steering::split::{BAND_TENTHS, WHOLE, draw, split};
use dns_steering::{
    ClassId, ClientMap, Key, LocationClass, NameHash, Reason, RegionRow, Rows, SetId, View, World,
    distance, name, rank, steer,
};
use proptest::prelude::*;

/// More than a class lists, so that the others matter.
const REGIONS: usize = 24;

fn region_name(index: usize) -> String {
    format!("r{index:02}")
}

fn locations() -> Vec<Location> {
    let each = 0..REGIONS;
    // Pairs that are near each other, around the world.
    each.map(|index| {
        let (pair, odd) = (index / 2, index % 2);
        let east = f64::from(u32::try_from(pair * 30).unwrap()) - 170.0;
        let north = f64::from(u32::try_from(pair % 5 * 20).unwrap()) - 40.0;
        at(north, east + f64::from(u32::try_from(odd).unwrap()) * 2.0)
    })
    .collect()
}

fn places() -> Vec<LocationClass> {
    let near = |location: Location, continent| LocationClass {
        location: Some(location),
        continent,
    };
    let locations = locations();
    vec![
        near(locations[0], Some(Continent::Europe)),
        near(locations[7], Some(Continent::Asia)),
        near(at(0.0, 0.0), None),
        near(at(70.0, 100.0), Some(Continent::NorthAmerica)),
        // As far from everything as the first: the same clients.
        near(locations[0], Some(Continent::Europe)),
    ]
}

/// A block in 10.0.0.0/18 and what was measured of it.
type Measured = (u8, u8, u16, Vec<(u16, u16)>);

fn measured() -> impl Strategy<Value = Vec<Measured>> {
    let cell = (0..u16::try_from(REGIONS).unwrap(), 20..3_000_u16);
    let cells = prop::collection::vec(cell, 0..20);
    let block = (0..64_u8, 18..=25_u8, 0..5_u16, cells);
    prop::collection::vec(block, 0..12)
}

fn map(blocks: &[Measured]) -> ClientMap {
    let cells: Vec<Vec<RttCell>> = blocks
        .iter()
        .map(|(.., cells)| {
            let cells = cells.iter();
            cells
                .map(|(region, rtt_tenths)| RttCell {
                    region: *region,
                    rtt_tenths: *rtt_tenths,
                })
                .collect()
        })
        .collect();
    let blocks = blocks.iter().zip(&cells);
    let blocks = blocks.map(|((at, len, place, _), measured)| MapBlock {
        network: Ipv4Addr::new(10, 0, *at, 0).into(),
        len: *len,
        place: *place,
        measured,
    });
    ClientMap::new(&places(), &locations(), blocks).unwrap()
}

fn row() -> impl Strategy<Value = RegionRow> {
    let verdict = prop_oneof![
        6 => Just(Verdict::Healthy),
        1 => Just(Verdict::Suspect),
        3 => Just(Verdict::Down),
        1 => Just(Verdict::Draining),
    ];
    let price = prop_oneof![4 => Just(0), 4 => 0..100_u32, 2 => 0..3_000_u32, 1 => Just(u32::MAX)];
    let cut_off = prop_oneof![8 => Just(0_u8), 1 => any::<u8>()];
    (verdict, price, cut_off).prop_map(|(verdict, price_tenths, cut_off)| RegionRow {
        verdict,
        price_tenths,
        utilisation_permille: None,
        unreachable_from: Continents(cut_off),
    })
}

fn rows(term: u64, rows: &[RegionRow]) -> Rows {
    let regions = rows.iter().enumerate();
    Rows {
        term,
        sequence: 1,
        map: [0; 32],
        slew_tenths_per_sec: 0,
        regions: regions
            .map(|(index, row)| (region_name(index).parse().unwrap(), *row))
            .collect(),
        heavy: Vec::new(),
    }
}

/// Regions without IPv4 and the app's placement.
#[derive(Debug, Clone)]
struct Federation {
    rows: Vec<RegionRow>,
    without_ipv4: Vec<bool>,
    placed: Vec<usize>,
    strict: bool,
}

fn federation() -> impl Strategy<Value = Federation> {
    let placed = prop::sample::subsequence((0..REGIONS).collect::<Vec<_>>(), 0..=REGIONS);
    (
        prop::collection::vec(row(), REGIONS),
        prop::collection::vec(prop::bool::weighted(0.2), REGIONS),
        placed,
        any::<bool>(),
    )
        .prop_map(|(rows, without_ipv4, placed, strict)| Federation {
            rows,
            without_ipv4,
            placed,
            strict,
        })
}

impl Federation {
    fn view(&self) -> View {
        let regions = locations()
            .into_iter()
            .enumerate()
            .map(|(index, location)| {
                let mut region = region(&region_name(index), location);
                if self.without_ipv4[index] {
                    region.ipv4 = None;
                    region.ipv6 = Some("2001:db8::1".parse().unwrap());
                }
                region
            });
        let placed: Vec<String> = self
            .placed
            .iter()
            .map(|index| region_name(*index))
            .collect();
        let placed: Vec<&str> = placed.iter().map(String::as_str).collect();
        let mut parts = parts(regions.collect());
        parts.placed_apps = vec![placed_app("app", &placed, self.strict)];
        view(parts).with_rows(&rows(1, &self.rows))
    }

    /// Who wins, by looking at everything: the rule of placement, then IPv4, then costs.
    fn slow(&self, rtt: &[u16], continent: Option<Continent>, key: Key) -> (Why, Option<u16>) {
        let placed = |index: usize| self.placed.contains(&index);
        let serves = |index: usize| {
            let row = &self.rows[index];
            let cut_off = continent.is_some_and(|at| row.unreachable_from.has(at));
            row.verdict.serves() && !cut_off
        };
        let all = || 0..REGIONS;
        let (inside, outside): (Vec<usize>, Vec<usize>) = all().partition(|index| placed(*index));
        let outside = if self.strict { Vec::new() } else { outside };
        let serving = |of: &[usize]| -> Vec<usize> {
            of.iter().copied().filter(|index| serves(*index)).collect()
        };
        let best_tier = if inside.is_empty() { &outside } else { &inside };
        let (why, admitted) = if !serving(&inside).is_empty() {
            (Why::Placed, serving(&inside))
        } else if !serving(&outside).is_empty() {
            (Why::AppYields, serving(&outside))
        } else if best_tier.is_empty() {
            (Why::Nowhere, Vec::new())
        } else {
            (Why::AllDown, best_tier.clone())
        };
        let layer = |index: &usize| {
            let down = self.rows[*index].verdict == Verdict::Down;
            (self.without_ipv4[*index], down)
        };
        let Some(first) = admitted.iter().map(layer).min() else {
            return (why, None);
        };
        let costs: Vec<Option<u32>> = all()
            .map(|index| {
                let may = admitted.contains(&index) && layer(&index) == first;
                let price = self.rows[index].price_tenths.min(PRICE_MAX_TENTHS);
                may.then(|| u32::from(rtt[index]) + price)
            })
            .collect();
        let mut shares = vec![0; REGIONS];
        split(&costs, BAND_TENTHS, &mut shares);
        let view = self.view();
        let drawn = draw(key.0, &shares, view.structure().salts());
        (why, drawn.and_then(|index| u16::try_from(index).ok()))
    }
}

fn app_set(view: &View) -> SetId {
    view.set(&name::parse(ZONE, "app.fn.test")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_list_of_a_class_decides_as_all_regions_would(
        federation in federation(), blocks in measured(), keys in prop::collection::vec(any::<u64>(), 8),
    ) {
        let (view, map) = (federation.view(), map(&blocks));
        let set = app_set(&view);
        for class in (0..).map(ClassId).take(map.classes()) {
            let distances = map.distances(class);
            let rtt: Vec<u16> = (0..).take(REGIONS).map(|region| distances.rtt_tenths(region).0).collect();
            prop_assert_eq!(&rtt[..], &distances.row()[..REGIONS]);
            for key in keys.iter().copied().map(Key) {
                let ranked = rank_from(view.structure(), view.prepared(), &distances, set, key);
                let want = federation.slow(&rtt, distances.continent(), key);
                prop_assert_eq!((ranked.why, ranked.winner), want);
                let mut first = [0];
                let count = order(view.structure(), view.prepared(), &distances, set, key, &mut first);
                prop_assert_eq!(first[..count].first().copied(), ranked.winner);
                let of_winner = ranked.winner.map_or(0, |winner| {
                    shares(view.prepared(), &distances, set)[usize::from(winner)]
                });
                prop_assert_eq!(ranked.share, of_winner);
            }
        }
    }

    #[test]
    fn no_answer_is_outside_a_strict_placement_and_none_is_empty_while_that_names_a_region(
        federation in federation(), blocks in measured(), key in any::<u64>(),
    ) {
        let (view, map) = (federation.view(), map(&blocks));
        let set = app_set(&view);
        for class in (0..).map(ClassId).take(map.classes()) {
            let mut all = [0; REGIONS + 1];
            let distances = map.distances(class);
            let count = order(view.structure(), view.prepared(), &distances, set, Key(key), &mut all);
            let all = &all[..count];
            if federation.strict {
                prop_assert!(all.iter().all(|region| federation.placed.contains(&usize::from(*region))));
            }
            prop_assert_eq!(all.is_empty(), federation.strict && federation.placed.is_empty());
            let mut once = all.to_vec();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), all.len());
            let with_ipv4 = all.iter().map(|region| !federation.without_ipv4[usize::from(*region)]);
            prop_assert!(with_ipv4.is_sorted_by(|one, next| one >= next), "those with IPv4 first");
        }
    }

    #[test]
    fn the_next_in_order_wins_once_the_winner_is_lost(
        federation in federation(), blocks in measured(), key in any::<u64>(),
    ) {
        let (view, map) = (federation.view(), map(&blocks));
        let set = app_set(&view);
        for class in (0..).map(ClassId).take(map.classes()) {
            let mut two = [0; 2];
            let distances = map.distances(class);
            let (structure, prepared) = (view.structure(), view.prepared());
            let count = order(structure, prepared, &distances, set, Key(key), &mut two);
            let ranked = rank_from(structure, prepared, &distances, set, Key(key));
            if count < 2 || ranked.why == Why::AllDown {
                continue;
            }
            let mut fewer = federation.clone();
            fewer.rows[usize::from(two[0])].verdict = Verdict::Down;
            let after = fewer.view();
            let after = rank_from(after.structure(), after.prepared(), &distances, set, Key(key));
            prop_assert_eq!(after.winner, Some(two[1]));
        }
    }

    #[test]
    fn the_order_of_blocks_does_not_matter(
        (blocks, shuffled) in measured().prop_flat_map(|blocks| {
            (Just(blocks.clone()), Just(blocks).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(map(&blocks), map(&shuffled));
    }

    #[test]
    fn a_leaf_has_the_distances_of_its_longest_block_and_halves_differ(blocks in measured(), at in 0..64_u8) {
        let map = map(&blocks);
        let ip = Ipv4Addr::new(10, 0, at, 99);
        let leaf = map.leaf(ip.into());
        let first = Ipv4Addr::new(10, 0, at, 0).to_bits();
        let inside = blocks.iter().filter(|(network, len, ..)| {
            let host = u32::MAX.checked_shr((*len).into()).unwrap_or(0);
            first & !host == Ipv4Addr::new(10, 0, *network, 0).to_bits() & !host
        });
        let longest = inside.clone().map(|(_, len, ..)| *len).max();
        let mut of_longest = inside.filter(|(_, len, ..)| Some(*len) == longest).peekable();
        let found = map.distances(ClassId(leaf.value));
        if of_longest.peek().is_none() {
            prop_assert!(!found.is_located());
        } else {
            // Two blocks may be the same network; then one of them counts.
            let any_has = of_longest.any(|(_, _, place, cells)| {
                let class = single(*place, cells);
                let distances = class.distances(ClassId(class.leaf(ip.into()).value));
                distances == found
            });
            prop_assert!(any_has);
        }
        let leaves: Vec<_> = map.leaves().collect();
        for pair in leaves.windows(2) {
            let [(one, a), (other, b)] = pair else { unreachable!("windows of two") };
            let (IpAddr::V4(ip), IpAddr::V4(next)) = (one.network, other.network) else { continue };
            let size = 1 << (32 - one.len);
            if one.len == other.len && ip.to_bits() & size == 0 && ip.to_bits() | size == next.to_bits() {
                let (a, b) = (map.distances(*a), map.distances(*b));
                let flags = |of| (0..24).map(|region| dns_steering::map::Distances::rtt_tenths(&of, region)).collect::<Vec<_>>();
                prop_assert!(a != b || flags(a) != flags(b), "{:?}", pair);
            }
        }
    }
}

/// A map of one block.
fn single(place: u16, cells: &[(u16, u16)]) -> ClientMap {
    map(&[(0, 8, place, cells.to_vec())])
}

#[test]
fn measured_distances_replace_modelled_ones() {
    let cells = [(7_u16, 3_000_u16), (20, 11), (20, 9)];
    let map = single(1, &cells);
    let distances = map.distances(ClassId(map.leaf(Ipv4Addr::new(10, 1, 2, 3).into()).value));
    // The nearest by distance is far by measurement, and stays so beyond the list.
    assert_eq!(distances.rtt_tenths(7), (3_000, true));
    assert_eq!(distances.rtt_tenths(20), (9, true));
    let here = locations()[7];
    assert_eq!(
        distances.rtt_tenths(6),
        (distance::rtt_tenths(here, locations()[6]), false)
    );
    assert_eq!(map.leaf(Ipv4Addr::new(10, 1, 2, 3).into()).len, 8);
}

#[test]
fn what_cannot_be_a_map_is_refused() {
    let ip = Ipv4Addr::new(10, 0, 0, 0).into();
    let block = |place, measured| MapBlock {
        network: ip,
        len: 8,
        place,
        measured,
    };
    let cells = [RttCell {
        region: 24,
        rtt_tenths: 1,
    }];
    let told = |blocks: Vec<MapBlock<'_>>| {
        let map = ClientMap::new(&places(), &locations(), blocks);
        map.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(
        told(vec![block(6, &[])]),
        Err("the network 10.0.0.0/8 is at place 6, which there is not".to_owned())
    );
    assert_eq!(
        told(vec![block(0, &cells)]),
        Err("the network 10.0.0.0/8 was measured from region 24, which there is not".to_owned())
    );
    assert!(told(vec![block(5, &[])]).is_ok(), "nowhere");
    let many: Vec<Location> = (0..257).map(|_| at(0.0, 0.0)).collect();
    assert!(ClientMap::new(&places(), &many, []).is_err());
    assert!(World::new(vec![LocationClass::NOWHERE; 65_536], []).is_err());
    assert!(World::new(places(), [(ip, 8, 6)]).is_err());
}

/// Three regions within the band of each other, at these costs.
fn neighbours(prices: [u32; 3]) -> View {
    let here = at(50.0, 8.0);
    let regions: Vec<Region> = (0..3)
        .map(|index| region(&region_name(index), here))
        .collect();
    let priced = prices.map(|price_tenths| RegionRow {
        verdict: Verdict::Healthy,
        price_tenths,
        ..RegionRow::UNHEARD
    });
    view(parts(regions)).with_rows(&rows(1, &priced))
}

fn winners(view: &View) -> Vec<u16> {
    let keys = (0..100_000_u32).map(|n| {
        let ip = Ipv4Addr::from_bits(n << 8);
        Key::new(ip.into(), 24, NameHash::new("app", ""), None)
    });
    let class = ClassId(0);
    keys.map(|key| {
        let ranked = rank(
            view.structure(),
            view.prepared(),
            class,
            SetId::EVERYWHERE,
            key,
        );
        ranked.winner.unwrap()
    })
    .collect()
}

/// How many keys had another winner before, and how many of those neither from nor to `region`.
fn moved(before: &[u16], after: &[u16], region: u16) -> (usize, usize) {
    let moves = before.iter().zip(after).filter(|(a, b)| a != b);
    let others = moves
        .clone()
        .filter(|(a, b)| **a != region && **b != region);
    (moves.count(), others.count())
}

#[test]
fn a_price_moves_the_keys_of_its_own_region_and_few_of_others() {
    // Two regions within the band: exactly those, and as many as the share says.
    let before = winners(&neighbours([0, 0, 500]));
    let after = winners(&neighbours([4, 0, 500]));
    let (all, others) = moved(&before, &after, 0);
    // A tenth of half the band is a twentieth of the whole.
    assert!(others == 0 && all.abs_diff(5_000) < 300, "{all} {others}");
    assert!(before.iter().zip(&after).all(|(a, b)| a == b || *b == 1));
    // Three: as the shares of two others grow by the same, the smaller of them grows by more for its
    // size, and takes a few keys of the larger.
    let before = winners(&neighbours([0, 10, 20]));
    let after = winners(&neighbours([4, 10, 20]));
    let (all, others) = moved(&before, &after, 0);
    assert!(all > 5_000 && others * 10 < all, "{others} of {all}");
}

#[test]
fn a_region_that_is_lost_moves_its_own_keys_and_few_of_others() {
    let lose = |prices: [u32; 3], lost: usize| {
        let before = winners(&neighbours(prices));
        let mut without = prices;
        without[lost] = PRICE_MAX_TENTHS;
        let after = winners(&neighbours(without));
        let lost = u16::try_from(lost).unwrap();
        assert!(after.iter().all(|winner| *winner != lost));
        moved(&before, &after, lost)
    };
    // Equal ones share alike, before and after.
    assert_eq!(lose([0, 0, 0], 1).1, 0);
    // One out of two.
    assert_eq!(lose([0, 20, 500], 1).1, 0);
    let (all, others) = lose([0, 10, 20], 0);
    assert!(others * 10 < all, "{others} of {all}");
}

#[test]
fn keys_are_drawn_as_the_shares_say_and_by_names_too() {
    let view = neighbours([0, 10, 20]);
    let drawn = winners(&view);
    let class = view.structure().map().distances(ClassId(0));
    let of = shares(view.prepared(), &class, SetId::EVERYWHERE);
    assert_eq!(of.iter().sum::<u32>(), WHOLE);
    for region in 0..3_u16 {
        let count = drawn.iter().filter(|winner| **winner == region).count();
        let want = usize::try_from(of[usize::from(region)]).unwrap() * 100_000 / 65_536;
        assert!(count.abs_diff(want) < 800, "{region}: {count} {want}");
    }
    // One network, many names; one name, many time slots.
    let ip: IpAddr = [192, 0, 2, 0].into();
    for (case, key) in [
        (
            "names",
            &(|n: u64| Key::new(ip, 24, NameHash::new(&format!("app{n}"), ""), None))
                as &dyn Fn(u64) -> Key,
        ),
        ("slots", &|n| {
            Key::new(ip, 24, NameHash::new("app", ""), Some(n))
        }),
        ("functions", &|n| {
            Key::new(ip, 24, NameHash::new("app", &n.to_string()), None)
        }),
    ] {
        let drawn = (0..10_000).map(|n| {
            let ranked = rank(
                view.structure(),
                view.prepared(),
                ClassId(0),
                SetId::EVERYWHERE,
                key(n),
            );
            ranked.winner.unwrap()
        });
        let first = drawn.filter(|winner| *winner == 0).count();
        let want = usize::try_from(of[0]).unwrap() * 10_000 / 65_536;
        assert!(first.abs_diff(want) < 300, "{case}: {first} {want}");
    }
}

#[test]
fn time_slots_count_only_for_what_is_marked_heavy() {
    let world = World::new(places(), [([10, 0, 0, 0].into(), 8, 2)]).unwrap();
    let light = neighbours([0, 0, 0])
        .located(&Arc::new(world), None)
        .unwrap();
    let client = light.client([10, 1, 2, 3].into(), 24);
    let mut heavy = rows(
        2,
        &[RegionRow {
            verdict: Verdict::Healthy,
            ..RegionRow::UNHEARD
        }; 3],
    );
    heavy.heavy = vec![(client.class().unwrap(), SetId::EVERYWHERE)];
    let heavy = light.with_rows(&heavy);
    let target = name::parse(ZONE, "hello.fn.test");
    let winners = |view: &View| -> std::collections::BTreeSet<RegionName> {
        let slots = (0..64).map(|slot| steer(&client.in_slot(slot), &target, view, &POLICY));
        slots.map(|answer| answer.regions[0].clone()).collect()
    };
    assert_eq!((winners(&light).len(), winners(&heavy).len()), (1, 3));
    let told = steer(&client.in_slot(7), &target, &heavy, &POLICY);
    assert_eq!(told.used.unwrap().slot, Some(7));
    let told = steer(&client.in_slot(7), &target, &light, &POLICY);
    assert_eq!(told.used.unwrap().slot, None);
}

#[test]
fn a_region_that_a_continent_cannot_reach_loses_that_continent_alone() {
    let (fra, iad) = (at(50.11, 8.68), at(39.04, -77.49));
    let near = |location, continent| LocationClass {
        location: Some(location),
        continent: Some(continent),
    };
    let places = vec![
        near(fra, Continent::Europe),
        near(at(48.0, 2.0), Continent::NorthAmerica),
    ];
    let networks = [([10, 0, 0, 0].into(), 8, 0), ([11, 0, 0, 0].into(), 8, 1)];
    let world = Arc::new(World::new(places, networks).unwrap());
    let mut parts = parts(vec![region("r00", fra), region("r01", iad)]);
    parts.placed_apps = vec![placed_app("app", &["r00"], true)];
    let cut_off = RegionRow {
        verdict: Verdict::Healthy,
        unreachable_from: [Continent::Europe].into_iter().collect(),
        ..RegionRow::UNHEARD
    };
    let healthy = RegionRow {
        verdict: Verdict::Healthy,
        ..RegionRow::UNHEARD
    };
    let view = view(parts).located(&world, None).unwrap();
    let view = view.with_rows(&rows(1, &[cut_off, healthy]));
    for (client, asked, want, reason) in [
        ([10, 0, 0, 1], "hello.fn.test", "r01", Reason::Ranked),
        ([11, 0, 0, 1], "hello.fn.test", "r00", Reason::Ranked),
        ([99, 0, 0, 1], "hello.fn.test", "r01", Reason::Ranked),
        // Residency: better one that may not be reached than one elsewhere.
        ([10, 0, 0, 1], "app.fn.test", "r00", Reason::AllDown),
        ([11, 0, 0, 1], "app.fn.test", "r00", Reason::Ranked),
    ] {
        let found = view.client(client.into(), 24);
        let answer = steer(&found, &name::parse(ZONE, asked), &view, &POLICY);
        // Nobody knows where the third is, and there a draw decides.
        if client[0] != 99 {
            assert_eq!(answer.regions[0].as_str(), want, "{client:?} {asked}");
        }
        assert_eq!(answer.reason, reason, "{client:?} {asked}");
        assert!(answer.scope > 0, "{client:?} {asked}: others get another");
    }
    let told = steer(
        &view.client([10, 0, 0, 1].into(), 24),
        &name::parse(ZONE, "hello.fn.test"),
        &view,
        &POLICY,
    );
    assert!(
        told.decision().contains("r00 4 ms + 0 (unreachable)"),
        "{}",
        told.decision()
    );
}

#[test]
fn rows_of_an_older_leader_do_not_replace_later_ones() {
    let made = |term, sequence| Rows {
        sequence,
        ..rows(term, &[])
    };
    for (offered, held, want) in [
        ((2, 1), (1, 9), true),
        ((1, 9), (2, 1), false),
        ((2, 2), (2, 1), true),
        ((2, 1), (2, 1), false),
    ] {
        let supersede = made(offered.0, offered.1).supersede(&made(held.0, held.1));
        assert_eq!(supersede, want, "{offered:?} {held:?}");
    }
}

#[test]
fn a_view_has_the_map_of_the_one_before_while_its_regions_stay() {
    let world = Arc::new(World::new(places(), [([10, 0, 0, 0].into(), 8, 1)]).unwrap());
    let one = neighbours([0, 0, 0]).located(&world, None).unwrap();
    let dearer = neighbours([9, 0, 0]).located(&world, Some(&one)).unwrap();
    assert!(Arc::ptr_eq(one.structure().map(), dearer.structure().map()));
    let stepped = one.with_rows(&rows(1, &[RegionRow::UNHEARD; 3]));
    assert!(Arc::ptr_eq(
        one.structure().map(),
        stepped.structure().map()
    ));
    let others = view(parts(vec![region("elsewhere", at(0.0, 0.0))]));
    let others = others.located(&world, Some(&one)).unwrap();
    assert!(!Arc::ptr_eq(
        one.structure().map(),
        others.structure().map()
    ));
    // A client of the map and one that is told where it is are the same.
    let place = dns_steering::Place {
        location: locations()[7],
        network_len: 8,
    };
    let told = dns_steering::Client::new([10, 1, 2, 3].into(), 24, Some(place));
    let target = name::parse(ZONE, "hello.fn.test");
    let found = steer(
        &one.client([10, 1, 2, 3].into(), 24),
        &target,
        &one,
        &POLICY,
    );
    let other = steer(&told, &target, &one, &POLICY);
    assert_eq!(
        (&found.regions, found.scope, found.decision()),
        (&other.regions, other.scope, other.decision())
    );
}

#[test]
fn while_prices_move_the_ttl_is_as_long_as_none_could_change_the_answer() {
    let (fra, iad) = (at(50.11, 8.68), at(39.04, -77.49));
    let view = view(parts(vec![region("r00", fra), region("r01", iad)]));
    let healthy = RegionRow {
        verdict: Verdict::Healthy,
        ..RegionRow::UNHEARD
    };
    for (case, price_tenths, slew_tenths_per_sec, want) in [
        ("prices stand", 0, 0, 30),
        ("85.1 ms between them, less the band", 0, 20, 20),
        ("nearly equal", 840, 20, 5),
        ("far apart", 0, 1, 60),
    ] {
        let mut rows = rows(
            1,
            &[
                RegionRow {
                    price_tenths,
                    ..healthy
                },
                healthy,
            ],
        );
        rows.slew_tenths_per_sec = slew_tenths_per_sec;
        let view = view.with_rows(&rows);
        let here = dns_steering::Place {
            location: fra,
            network_len: 24,
        };
        let client = dns_steering::Client::new([10, 0, 0, 0].into(), 24, Some(here));
        let answer = steer(&client, &name::parse(ZONE, "hello.fn.test"), &view, &POLICY);
        assert_eq!(answer.ttl_secs, want, "{case}");
    }
}
