//! What processes take of the machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// What [`used`] counts in, as proc(5) has it. 1/100 s on every Linux that we build for.
const TICK: Duration = Duration::from_millis(10);

/// Time on a processor: in the program's own code, and in the kernel's on its behalf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

/// The time that processes have used so far, all threads of each, without their children.
pub fn used(pids: &[i32]) -> anyhow::Result<Cpu> {
    let mut used = Cpu::default();
    for pid in pids {
        let stat = Path::new("/proc").join(pid.to_string()).join("stat");
        let stat =
            std::fs::read_to_string(&stat).with_context(|| format!("read {}", stat.display()))?;
        let one = parse(&stat).with_context(|| format!("times of process {pid}"))?;
        used.user += one.user;
        used.system += one.system;
    }
    Ok(used)
}

/// proc(5): utime and stime are fields 14 and 15. The second, the command, may have spaces in it.
fn parse(stat: &str) -> Option<Cpu> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_whitespace().skip(11);
    let mut time = || Some(TICK * fields.next()?.parse().ok()?);
    Some(Cpu {
        user: time()?,
        system: time()?,
    })
}

impl Cpu {
    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }

    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// As cells of a table: microseconds of each for one of `count` operations, and operations for a second of
    /// both.
    ///
    /// # Errors
    /// If too little was measured: a figure must not be made up.
    pub fn cells(self, count: usize) -> anyhow::Result<String> {
        anyhow::ensure!(
            count > 0 && self.total() >= 10 * TICK,
            "{count} operations in {self:?} are too few to say what one takes"
        );
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        Ok(format!(
            "{:.1} | {:.1} | {:.0}",
            each(self.user),
            each(self.system),
            self.per_second(count)
        ))
    }

    /// Operations for a second of processor time.
    pub fn per_second(self, count: usize) -> f64 {
        count as f64 / self.total().as_secs_f64()
    }
}

/// What [`Cpu::cells`] are.
pub const HEADINGS: &str = "user µs | system µs | per CPU-second";

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn times_are_read_whatever_the_command_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 130 9 9 20 0 1 0 5 1 1";
        let cpu = parse(stat).unwrap();
        assert_eq!(cpu.user, Duration::from_millis(2500));
        assert_eq!(cpu.system, Duration::from_millis(1300));
        assert_eq!(cpu.cells(1_000_000).unwrap(), "2.5 | 1.3 | 263158");
        assert!(cpu.cells(0).is_err() && Cpu::default().cells(7).is_err());
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_that_computes_is_seen_to() {
        let this = i32::try_from(std::process::id()).unwrap();
        let before = used(&[this]).unwrap();
        // Ends by what is asserted, however busy the machine is.
        while used(&[this]).unwrap().since(before).total() < 5 * TICK {}
        used(&[i32::MAX]).unwrap_err();
    }
}
