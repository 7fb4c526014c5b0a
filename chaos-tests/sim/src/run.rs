//! One run: calls come, are looked up, sent, taken, handed on or refused, second by second.
//!
//! Calls and their ends are events in continuous time; reports, verdicts and rows happen at whole
//! seconds, in the order in which they do in production.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use api_types::{Load, Verdict};
use dns_steering::map::Continent;
use dns_steering::mask::REGIONS_MAX;

use crate::dice::{Alias, Dice};
use crate::leader::Pricer;
use crate::places::CITIES;
use crate::record::{Record, Second};
use crate::rivals::Rival;
use crate::steered::{Answers, Held, Judge, TTL_SECS};
use crate::world::{Cache, TARGET_SHARE, World};

/// Mean of calls. Long enough that a region of thousands of calls needs few of them a second.
pub const CALL_SECS: f64 = 2.0;

/// Of the logarithm of durations.
const CALL_SIGMA: f64 = 0.7;

/// Connections that a network keeps.
const POOL: usize = 8;

/// A kept connection ends at this age, give or take [`AGE_JITTER`].
const AGE_SECS: f64 = 300.0;
const AGE_JITTER: f64 = 0.2;

/// Share of a shedding region's answers that ask the client to end its connection.
const SHED_SHARE: f64 = 0.05;

/// What chooses regions.
#[derive(Debug, Clone, PartialEq)]
pub enum Steering {
    /// Ours: prices from what gateways report.
    Controlled,
    /// Ours with prices that are given and stay, by region, in ms.
    Priced(Vec<f64>),
    Rival(Rival),
}

/// What happens to the world while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A region and all calls in it are gone.
    Lose(usize),
    Return(usize),
    /// Only this share of a region's capacity is left.
    Brown(usize, f64),
    /// Demand of a continent is multiplied.
    Step(Continent, f64),
    /// A region's reports get through, or not.
    Reports(usize, bool),
}

/// A trace: equal ones give equal demand, whatever steers.
#[derive(Debug, Clone)]
pub struct Trace {
    pub seed: u64,
    /// Demand over the sum of targets.
    pub utilisation: f64,
    pub secs: u32,
    /// (second, event), ascending.
    pub events: Vec<(u32, Event)>,
    /// Seconds that a day takes; `None` if it is always the average hour.
    pub day_secs: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    up: bool,
    reports: bool,
    capacity: u32,
    current: u32,
    /// Calls of an earlier epoch were lost with the region.
    epoch: u32,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    region: u16,
    name: u16,
    ends: f64,
}

/// End of a call, in microseconds; the region and its epoch.
type End = (u64, u16, u32);

struct Run<'a> {
    world: &'a World,
    steering: &'a Steering,
    trace: &'a Trace,
    dice: Dice,
    names: Alias,
    regions: Vec<Region>,
    ends: BinaryHeap<Reverse<End>>,
    /// By what is asked, then name: until when the answer is kept, and the region.
    cached: Vec<(f64, u16)>,
    pools: Vec<Option<Connection>>,
    held: Held,
    answers: Answers,
    judge: Judge,
    pricer: Pricer,
    /// By region, over the target, as last reported.
    reported: Vec<f64>,
    factors: [f64; 7],
    second: Second,
    record: Record,
}

/// Runs a trace through a world.
#[must_use]
pub fn run(world: &World, steering: &Steering, trace: &Trace) -> Record {
    let mut held = Held::new(world);
    if let Steering::Priced(prices_ms) = steering {
        let tenths = prices_ms.iter().map(|price| (price * 10.0).round() as u32);
        held.prices_tenths = tenths.collect();
    }
    let regions = world.regions.iter().map(|region| Region {
        up: true,
        reports: true,
        capacity: region.capacity,
        current: 0,
        epoch: 0,
    });
    let mut run = Run {
        dice: Dice::new(trace.seed),
        names: Alias::new(&world.names),
        regions: regions.collect(),
        ends: BinaryHeap::new(),
        cached: vec![(0.0, 0); world.asked.len() * world.spec.names],
        pools: vec![None; world.blocks.len() * POOL],
        answers: Answers::new(world, &held),
        judge: Judge::new(world),
        pricer: Pricer::new(world),
        reported: vec![0.0; world.regions.len()],
        factors: [1.0; 7],
        second: Second::new(world),
        record: Record::new(world),
        held,
        world,
        steering,
        trace,
    };
    run.all();
    run.record
}

/// Of one block at one second, before a step's factor: busiest at 20 h local time, half as busy again as
/// on average; at 8 h half.
#[must_use]
pub fn hour_factor(city: usize, sec: f64, day_secs: Option<f64>) -> f64 {
    let Some(day_secs) = day_secs else { return 1.0 };
    let hour = sec / day_secs * 24.0 + CITIES[city].longitude / 15.0;
    1.0 + 0.5 * ((hour - 20.0) / 24.0 * std::f64::consts::TAU).cos()
}

impl Run<'_> {
    fn all(&mut self) {
        let mut now = 0.0;
        let mut events = self.trace.events.iter().peekable();
        for sec in 0..self.trace.secs {
            while let Some((_, event)) = events.next_if(|(at, _)| *at <= sec) {
                self.happen(*event);
            }
            self.control(sec);
            let weights = self.weights(sec);
            let rate =
                weights.iter().sum::<f64>() * self.trace.utilisation * self.world.targets_sum()
                    / CALL_SECS;
            let blocks = Alias::new(&weights);
            let until = f64::from(sec) + 1.0;
            loop {
                // Without memory: the gap that a second's end cuts short may be drawn anew.
                now += self.dice.exponential() / rate;
                if now >= until {
                    break;
                }
                self.end_before(now);
                let block = blocks.draw(&mut self.dice);
                self.call(now, block);
            }
            now = until;
            self.end_before(now);
            self.close(sec);
        }
    }

    fn weights(&self, sec: u32) -> Vec<f64> {
        let blocks = self.world.blocks.iter();
        blocks
            .map(|block| {
                let continent = CITIES[block.city].continent;
                block.share
                    * self.factors[continent_index(continent)]
                    * hour_factor(block.city, f64::from(sec), self.trace.day_secs)
            })
            .collect()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Lose(region) => {
                let region = &mut self.regions[region];
                region.up = false;
                region.current = 0;
                region.epoch += 1;
            }
            Event::Return(region) => self.regions[region].up = true,
            Event::Brown(region, share) => {
                let whole = f64::from(self.world.regions[region].capacity);
                self.regions[region].capacity = (whole * share) as u32;
            }
            Event::Step(continent, factor) => self.factors[continent_index(continent)] = factor,
            Event::Reports(region, through) => self.regions[region].reports = through,
        }
    }

    /// Reports, verdicts, prices, rows: once a second.
    fn control(&mut self, sec: u32) {
        let now_ms = u64::from(sec) * 1000;
        for (index, region) in self.regions.iter().enumerate() {
            if !region.up || !region.reports {
                continue;
            }
            let target = self.world.regions[index].target;
            let load = Load {
                current: region.current,
                target: (f64::from(region.capacity) * TARGET_SHARE).round() as u32,
                capacity: region.capacity,
            };
            self.judge.hear(index, now_ms, load);
            self.pricer.hear(index, now_ms, load);
            self.reported[index] = f64::from(region.current) / target;
        }
        for (region, verdict) in self.judge.evaluate(now_ms) {
            self.held.verdicts[region] = verdict;
            self.record.verdicts.push((sec, region, verdict));
        }
        if matches!(self.steering, Steering::Controlled) && Pricer::is_due(now_ms) {
            let up: Vec<bool> = self.regions.iter().map(|region| region.up).collect();
            let (answers, held) = (&self.answers, &mut self.held);
            self.pricer.step(now_ms, answers, &up, held);
        }
        self.answers.take(&self.held);
    }

    fn end_before(&mut self, now: f64) {
        let now = micros(now);
        while let Some(Reverse((at, region, epoch))) = self.ends.peek().copied() {
            if at > now {
                break;
            }
            self.ends.pop();
            let region = &mut self.regions[usize::from(region)];
            if region.epoch == epoch {
                region.current -= 1;
            }
        }
    }

    fn call(&mut self, now: f64, block: usize) {
        let kept = self.dice.unit() < self.world.spec.mix.keep_alive;
        if kept {
            let slot = block * POOL + self.dice.below(POOL);
            let connection = match self.pools[slot] {
                Some(held) if held.ends > now && self.regions[usize::from(held.region)].up => held,
                before => {
                    let name = match before {
                        Some(before) => usize::from(before.name),
                        None => self.names.draw(&mut self.dice),
                    };
                    let Some(region) = self.look_up(now, self.world.blocks[block].asked, name)
                    else {
                        return;
                    };
                    let jitter = 1.0 + AGE_JITTER * (2.0 * self.dice.unit() - 1.0);
                    // A pool that began before the run is at any age.
                    let age = match before {
                        Some(_) => 1.0,
                        None => self.dice.unit(),
                    };
                    Connection {
                        region: region as u16,
                        name: name as u16,
                        ends: now + AGE_SECS * jitter * age,
                    }
                }
            };
            let region = usize::from(connection.region);
            let target = self.world.regions[region].target;
            let sheds = !matches!(self.steering, Steering::Rival(_))
                && f64::from(self.regions[region].current) > target;
            let asked_to_end = sheds && self.dice.unit() < SHED_SHARE;
            self.pools[slot] = Some(Connection {
                ends: if asked_to_end { now } else { connection.ends },
                ..connection
            });
            self.send(now, block, usize::from(connection.name), region, false);
        } else {
            let name = self.names.draw(&mut self.dice);
            let asked = self.world.blocks[block].asked;
            let honours = self.world.asked[asked].cache == Cache::Honours;
            if let Some(region) = self.look_up(now, asked, name) {
                self.send(now, block, name, region, honours);
            }
        }
    }

    fn look_up(&mut self, now: f64, asked: usize, name: usize) -> Option<usize> {
        let entry = asked * self.world.spec.names + name;
        let (until, region) = self.cached[entry];
        if until > now {
            return Some(usize::from(region));
        }
        self.second.lookups += 1;
        let (region, ttl_secs) = match self.steering {
            Steering::Controlled | Steering::Priced(_) => self.answers.answer(asked, name)?,
            Steering::Rival(rival) => {
                let serving: Vec<bool> = self
                    .held
                    .verdicts
                    .iter()
                    .map(|each| each.serves())
                    .collect();
                let (world, load) = (self.world, &self.reported);
                let region = rival.answer(world, asked, &serving, load, &mut self.dice)?;
                (region, TTL_SECS)
            }
        };
        let keeps = f64::from(self.world.asked[asked].cache.keeps_secs(ttl_secs));
        // A cache that was warm before the run has entries of any age.
        let age = if until == 0.0 { self.dice.unit() } else { 1.0 };
        self.cached[entry] = (now + keeps * age, region as u16);
        Some(region)
    }

    fn send(&mut self, now: f64, block: usize, name: usize, region: usize, honours: bool) {
        let rtt_ms = self.world.blocks[block].rtt_ms[region];
        let second = &mut self.second;
        second.calls += 1;
        second.sent[region] += 1;
        if honours {
            second.honoured[region] += 1;
        }
        if !self.regions[region].up {
            second.lost[region] += 1;
            return;
        }
        // By the gateway that it came to first, whether or not there is room.
        self.pricer.arrived(block);
        if self.regions[region].current < self.regions[region].capacity {
            self.admit(now, region);
            self.record.answered(now, rtt_ms);
            return;
        }
        self.second.full[region] += 1;
        let mut peers = [0; REGIONS_MAX];
        let count = self.answers.peers(region, name, &mut peers);
        for peer in &peers[..count] {
            let peer = usize::from(*peer);
            let of = self.regions[peer];
            if peer != region && of.up && of.current < of.capacity {
                self.admit(now, peer);
                let detour_ms = self.world.between_ms[region][peer];
                self.record.answered(now, rtt_ms + detour_ms);
                return;
            }
        }
        self.second.refused += 1;
        let room = |of: &Region| of.up && of.current < of.capacity;
        if self.regions.iter().any(room) {
            self.second.refused_with_room += 1;
        }
    }

    fn admit(&mut self, now: f64, region: usize) {
        let secs = CALL_SECS * self.dice.noise(CALL_SIGMA);
        let of = &mut self.regions[region];
        of.current += 1;
        self.second.most[region] = self.second.most[region].max(of.current);
        let end = (micros(now + secs), region as u16, of.epoch);
        self.ends.push(Reverse(end));
    }

    fn close(&mut self, sec: u32) {
        let mut second = std::mem::replace(&mut self.second, Second::new(self.world));
        second.sec = sec;
        for (index, region) in self.regions.iter().enumerate() {
            second.current[index] = region.current;
            second.serves[index] = self.held.verdicts[index] != Verdict::Down;
        }
        second.prices_tenths.clone_from(&self.held.prices_tenths);
        second
            .factors_permille
            .clone_from(&self.held.factors_permille);
        self.record.seconds.push(second);
    }
}

fn continent_index(continent: Continent) -> usize {
    let found = Continent::ALL.iter().position(|each| *each == continent);
    found.expect("it lists all")
}

fn micros(secs: f64) -> u64 {
    (secs * 1e6) as u64
}
