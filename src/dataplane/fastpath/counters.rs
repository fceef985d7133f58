//! Drop counters of one worker.

use std::sync::atomic::Ordering;

use meshd_proto::route::DropReason;
use meshd_sync::AtomicU64;

/// Counters of drops by reason, on cache lines of their own: one thread writes, the driver reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts `count` packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Returns all counts that are not zero.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .zip(&self.drops)
            .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            counters.dropped(reason, i as u64 + 1);
        }
        let expected: Vec<_> = DropReason::ALL.into_iter().zip(1..).collect();
        assert_eq!(counters.drops().collect::<Vec<_>>(), expected);
    }
}
