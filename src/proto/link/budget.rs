//! Budget of RSA operations for accepted links. Each takes milliseconds, and a stranger can ask for
//! it. Source: T37 of proto/threat-model.md.

use std::time::Instant;

use crate::bucket::Bucket;

/// RSA operations a second, separately for addresses of nodes and other addresses: about 2 ms of
/// work for a key of 2048 bits.
const RATE: u32 = 20;
/// Burst of RSA operations.
const BURST: usize = 40;

/// Budget of RSA operations for all accepted links of a node.
#[derive(Debug)]
pub struct RsaBudget {
    known: Bucket,
    unknown: Bucket,
}

impl RsaBudget {
    /// Returns a full budget.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            known: Bucket::new(BURST, now),
            unknown: Bucket::new(BURST, now),
        }
    }

    /// Returns a budget for `count` operations at once.
    #[cfg(test)]
    pub(super) fn of(count: usize, now: Instant) -> Self {
        Self {
            known: Bucket::new(0, now),
            unknown: Bucket::new(count, now),
        }
    }

    /// Takes one operation, for a link from an address of a node (`known`) or from another address.
    /// Returns false if none is left.
    pub(super) fn take(&mut self, known: bool, now: Instant) -> bool {
        let bucket = match known {
            true => &mut self.known,
            false => &mut self.unknown,
        };
        bucket.take(RATE, BURST, now)
    }
}
