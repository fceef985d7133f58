//! Pace of work that serves all changes since the last time: at once after a quiet time, at a mean
//! interval under constant change.

use std::time::{Duration, Instant};

/// Time that the work may take, and the time that it has used.
#[derive(Debug)]
pub(in crate::mesh) struct Pace {
    /// Time up to which the budget is used up.
    used_until: Instant,
    /// Time by which the work may run ahead of its mean interval.
    ahead: Duration,
}

impl Pace {
    pub(in crate::mesh) fn new(ahead: Duration, now: Instant) -> Self {
        Self {
            used_until: now,
            ahead,
        }
    }

    /// Returns the time from which the work may be done again. The time may be past.
    pub(in crate::mesh) fn due(&self) -> Instant {
        let due = self.used_until.checked_sub(self.ahead);
        due.unwrap_or(self.used_until)
    }

    /// Counts the work as done, where `interval` is its mean interval.
    pub(in crate::mesh) fn spend(&mut self, interval: Duration, now: Instant) {
        self.used_until = self.used_until.max(now) + interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;

    /// Constant change in a mesh of 200 nodes: a few times at once, then one in 50 ms. After a
    /// quiet time it is at once again.
    #[test]
    fn constant_change_keeps_to_the_mean() {
        let (start, interval) = (testing::start(), Duration::from_millis(50));
        let mut pace = Pace::new(Duration::from_millis(200), start);
        let mut run = |from: u64, to: u64| {
            let mut times = Vec::new();
            for ms in from..to {
                let now = start + Duration::from_millis(ms);
                if pace.due() <= now {
                    pace.spend(interval, now);
                    times.push(ms);
                }
            }
            times
        };
        let times = run(0, 1_000);
        assert_eq!(times[..5], [0, 1, 2, 3, 4]);
        assert!((22..=26).contains(&times.len()), "{times:?}");
        assert_eq!(run(5_000, 5_003), [5_000, 5_001, 5_002]);
    }
}
