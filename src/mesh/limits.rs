//! Upper bounds of what others can make us hold or do, with their memory budget.
//! Source: spec/security.md section 5.6.

use std::time::{Duration, Instant};

/// Nodes that we know at most. Memory: about 1 KiB each, 16 MiB in all.
pub const MAX_NODES: usize = 16_384;
/// Edges that we know at most. Memory: about 200 bytes each, 50 MiB in all.
pub const MAX_EDGES: usize = 262_144;
/// Subnets that we know at most, but for those that host files list: these cost the memory of our own operator.
/// Memory: about 100 bytes each in both tables, 7 MiB in all.
pub const MAX_SUBNETS: usize = 65_536;
/// Subnets of one node at most, but for those that its host file lists.
pub const MAX_SUBNETS_PER_NODE: usize = 1_024;
/// Announced subnets that are not believed and kept aside, over all nodes. Memory: about 100 bytes each, 4 MiB in all.
pub const MAX_ASIDE: usize = 32_768;
/// Of one node at most, see [`MAX_ASIDE`].
pub const MAX_ASIDE_PER_NODE: usize = 8_192;
/// Ethernet addresses of one node at most, in place of [`MAX_SUBNETS_PER_NODE`].
pub const MAX_MACS_PER_NODE: usize = MAX_LEARNED + MAX_SUBNETS_PER_NODE;
/// Ethernet addresses that we learn at most; one more takes the place of that which was silent for longest.
/// Memory: about 200 bytes each, 1 MiB.
pub const MAX_LEARNED: usize = 4_096;
/// Ethernet addresses that we learn a second, and at once. Each may be two lines for all others, whose
/// [`LINE_RATE`] must not be used up by who floods our device.
pub const LEARN_RATE: u32 = 50;
/// See [`LEARN_RATE`].
pub const LEARN_BURST: usize = 1_024;
/// Names without a host file that one neighbour may introduce, however often it comes back.
pub const MAX_UNKNOWN_PER_NEIGHBOUR: usize = 256;
/// How long an unreachable node without a host file and without edges is remembered.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Request lines remembered to stop floods. Memory: two generations of 16 bytes each, 4 MiB.
pub const MAX_SEEN: usize = 131_072;
/// Inner packets that wait for one node's key. Memory: see [`MAX_WAITING_BYTES`].
pub const MAX_WAITING: usize = 64;
/// Bytes of inner packets that wait for keys, over all nodes.
pub const MAX_WAITING_BYTES: usize = 8 << 20;
/// Flooded lines a second that one link may bring on and on.
pub const LINE_RATE: u32 = 200;
/// Flooded lines that one link may bring at once: this, or eight times the size of the graph.
pub const LINE_BURST: usize = 20_000;
/// A link that was over its budget for this long without a break is cut.
pub const OVER_BUDGET: Duration = Duration::from_secs(10);
/// Routed lines that wait for the graph pass of their batch. Memory: at most 2 KiB each, 2 MiB.
pub const MAX_DEFERRED: usize = 1_024;
/// Lines about our neighbours by others that wait to be compared. Memory: about 300 bytes each.
pub const MAX_DOUBTS: usize = 1_024;
/// Edges that hearsay has deleted and that are remembered for a while. Memory: about 250 bytes each, 2 MiB.
/// [`LINE_BURST`] makes fewer: an edge that counts takes two lines.
pub const MAX_DENIED: usize = 8_192;
const _: () = assert!(LINE_BURST / 3 < MAX_DENIED);
/// Corrections (answers to lines about ourselves) that we send to one link a second.
pub const CORRECTION_RATE: u32 = 20;

const _: () = assert!(LEARN_RATE * 2 < LINE_RATE && LEARN_BURST * 2 < LINE_BURST);
const _: () = assert!(MAX_SEEN * 2 * 16 <= 4 << 20);
const _: () =
    assert!(MAX_NODES * 1024 + MAX_EDGES * 200 + (MAX_SUBNETS + MAX_ASIDE) * 100 <= 80 << 20);

/// A token bucket: `rate` a second, at most `burst` at once.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(burst: usize, now: Instant) -> Self {
        Self {
            tokens: burst as f64,
            filled: now,
        }
    }

    /// Takes one token; `false` if there is none.
    pub fn take(&mut self, rate: u32, burst: usize, now: Instant) -> bool {
        self.take_at(f64::from(rate), burst, now)
    }

    /// As [`Self::take`], where a token comes every `seconds`.
    pub fn take_slowly(&mut self, seconds: u32, burst: usize, now: Instant) -> bool {
        self.take_at(f64::from(seconds).recip(), burst, now)
    }

    /// Whether [`Self::take`] would find a token.
    #[must_use]
    pub fn has(&self, rate: u32, burst: usize, now: Instant) -> bool {
        self.clone().take(rate, burst, now)
    }

    fn take_at(&mut self, rate: f64, burst: usize, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(burst as f64);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_a_second_is_bounded_by_rate_and_burst() {
        let start = crate::mesh::testing::start();
        let mut bucket = Bucket::new(10, start);
        let taken = (0..10_000)
            .filter(|ms| bucket.take(5, 10, start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(taken, 10 + 9 * 5 + 4);
    }
}
