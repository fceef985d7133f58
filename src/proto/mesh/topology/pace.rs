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
