//! Faults that a test asks for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::request::{Call, Calls};

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// 429 with `Retry-After`, as priority and fairness answers.
    TooManyRequests { retry_after_secs: u32 },
    /// 429 for what exceeds a rate, like [`Effect::TooManyRequests`] of one second.
    Limit { per_second: u32 },
    /// 503.
    Unavailable,
    /// 500.
    InternalError,
    /// 409, as if another had written first: the object, or for a creation the quota that counts it.
    Conflict,
    /// 403 in the words of RBAC.
    Forbidden,
    /// The connection closes; nothing was done.
    Drop,
    /// The connection closes without an answer; the request was done.
    DropAnswer,
    /// The request is done this much later.
    Delay(Duration),
    /// A list, or the initial events of a watch, shows nothing and says that it is complete.
    EmptyList,
    /// A list ends after `after` objects with a continue token that has expired; the initial events
    /// of a watch end there with the connection.
    BreakList { after: usize },
}

/// Names a fault, to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Fault {
    id: FaultId,
    calls: Calls,
    effect: Effect,
    /// How often it still strikes; `None` until it is ended.
    left: Option<u32>,
    /// For [`Effect::Limit`]: what may pass now, and since when that is counted.
    allowance: f64,
    counted: Instant,
}

impl Fault {
    fn strikes(&mut self, call: &Call, now: Instant) -> bool {
        if self.left == Some(0) || !self.calls.include(call) {
            return false;
        }
        if let Effect::Limit { per_second } = self.effect {
            let most = f64::from(per_second);
            let earned = now.duration_since(self.counted).as_secs_f64() * most;
            self.allowance = (self.allowance + earned).min(most);
            self.counted = now;
            if self.allowance >= 1.0 {
                self.allowance -= 1.0;
                return false;
            }
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        true
    }
}

/// The faults under way.
#[derive(Debug, Default)]
pub struct Faults {
    active: Mutex<(u64, Vec<Fault>)>,
    outage: AtomicBool,
}

/// What happens to one call.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) delay: Duration,
    pub(crate) effect: Option<Effect>,
}

impl Faults {
    /// From now on until [`Faults::end`].
    pub fn begin(&self, calls: Calls, effect: Effect) -> FaultId {
        self.add(calls, effect, None)
    }

    /// For the next `times` calls.
    pub fn next(&self, times: u32, calls: Calls, effect: Effect) -> FaultId {
        self.add(calls, effect, Some(times))
    }

    fn add(&self, calls: Calls, effect: Effect, left: Option<u32>) -> FaultId {
        let mut active = self.active.lock().expect("no holder panics");
        active.0 += 1;
        let id = FaultId(active.0);
        active.1.push(Fault {
            id,
            calls,
            effect,
            left,
            allowance: 1.0,
            counted: Instant::now(),
        });
        id
    }

    pub fn end(&self, id: FaultId) {
        let mut active = self.active.lock().expect("no holder panics");
        active.1.retain(|fault| fault.id != id);
    }

    pub fn end_all(&self) {
        self.active.lock().expect("no holder panics").1.clear();
    }

    /// How often a fault begun by [`Faults::next`] still strikes.
    pub fn left(&self, id: FaultId) -> u32 {
        let active = self.active.lock().expect("no holder panics");
        active
            .1
            .iter()
            .find(|fault| fault.id == id)
            .and_then(|fault| fault.left)
            .unwrap_or(0)
    }

    pub(crate) fn set_outage(&self, outage: bool) {
        self.outage.store(outage, Ordering::SeqCst);
    }

    pub(crate) fn is_outage(&self) -> bool {
        self.outage.load(Ordering::SeqCst)
    }

    pub(crate) fn fate(&self, call: &Call) -> Fate {
        let now = Instant::now();
        let mut fate = Fate::default();
        let mut active = self.active.lock().expect("no holder panics");
        for fault in &mut active.1 {
            if let Effect::Delay(delay) = fault.effect {
                if fault.strikes(call, now) {
                    fate.delay += delay;
                }
            } else if fate.effect.is_none() && fault.strikes(call, now) {
                fate.effect = Some(fault.effect.clone());
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Verb;

    fn call(verb: Verb, resource: &str) -> Call {
        Call {
            user: "a".to_owned(),
            verb,
            resource: resource.to_owned(),
            name: String::new(),
        }
    }

    #[test]
    fn a_counted_fault_strikes_matching_calls_only_and_then_no_more() {
        let faults = Faults::default();
        let id = faults.next(
            2,
            Calls::all().verbs(&[Verb::Create]).resource("pods"),
            Effect::Conflict,
        );
        let struck: Vec<bool> = [
            call(Verb::Create, "pods"),
            call(Verb::Create, "secrets"),
            call(Verb::Patch, "pods"),
            call(Verb::Create, "pods"),
            call(Verb::Create, "pods"),
        ]
        .iter()
        .map(|call| faults.fate(call).effect.is_some())
        .collect();
        assert_eq!(struck, [true, false, false, true, false]);
        assert_eq!(faults.left(id), 0);
    }

    #[test]
    fn delays_add_to_the_first_other_effect() {
        let faults = Faults::default();
        faults.begin(Calls::all(), Effect::Delay(Duration::from_millis(3)));
        faults.begin(Calls::all(), Effect::Unavailable);
        faults.begin(Calls::all(), Effect::Drop);
        faults.begin(Calls::all(), Effect::Delay(Duration::from_millis(4)));
        let fate = faults.fate(&call(Verb::Get, "pods"));
        assert_eq!(fate.delay, Duration::from_millis(7));
        assert_eq!(fate.effect, Some(Effect::Unavailable));
    }
}
