//! Upper bounds of what others can make us hold or do, with their memory budget.
//! Source: proto/threat-model.md section 5.6.

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
/// MetaRate where the configuration has none: flooded lines a second that a neighbour may say of itself for
/// long. The other budgets are multiples of it: see [`super::budget`].
pub const LINE_RATE: u32 = 200;
/// Flooded lines that a neighbour may say of itself at once.
pub const LINE_BURST: usize = 20_000;
/// Flooded lines at once about known nodes that do not lie behind the neighbour that brings them: the whole
/// graph of 10,000 nodes, told by a second neighbour.
pub const ELSEWHERE_BURST: usize = 65_536;
/// Flooded lines of a first exchange at most: a graph at its caps.
pub const GRAPH_LINES: usize = MAX_EDGES + MAX_SUBNETS;
/// Lines about a known node that are believed to be its own wherever they come from, unless more come lately.
pub const QUIET_LINES: usize = 64;
/// Bytes that a routed line counts for beside its own, so that short ones are not free.
pub const ROUTED_LINE: usize = 256;
/// Routed bytes a second of one sender that go on though the way to their target is busy.
pub const ROUTED_RATE: u32 = 64 << 10;
/// The same at once: first handshakes with 1,000 nodes.
pub const ROUTED_BURST: usize = 1 << 20;
/// Routed bytes a second of one sender at all.
pub const ROUTED_MOST: u32 = 1 << 20;
/// See [`ROUTED_MOST`].
pub const ROUTED_MOST_BURST: usize = 4 << 20;
/// Routed bytes a second in names of nodes that do not lie behind the link that they come over.
pub const STRAY_RATE: u32 = 256 << 10;
/// See [`STRAY_RATE`].
pub const STRAY_BURST: usize = 1 << 20;
/// A neighbour that was over its budget for this long is cut.
pub const OVER_BUDGET: Duration = Duration::from_secs(10);
/// Budgets that were not touched for this long are full, and are forgotten.
pub const BUDGET_AGE: Duration = Duration::from_secs(600);
/// Bytes of lines that wait for a link above which changes wait outside of its queue, as facts that are told as
/// they are then. A quarter of [`crate::link::MAX_QUEUE`], which ends the link.
pub const BACKLOG: usize = 1 << 20;
/// Bytes of lines to a link after which the shell is asked whether the socket has taken them.
pub const ASK_ROOM: usize = 64 << 10;
/// Bytes of lines that wait for a link above which routed lines go on only within the sender's fair share.
pub const CONGESTED: usize = 256 << 10;
/// Facts that wait for one link at most; the link is cut when there are more. Memory: about 100 bytes each.
pub const MAX_FACTS: usize = 131_072;
/// Bytes of lines that are kept for the facts that wait for one link; beyond it a line is made anew.
pub const FACT_BYTES: usize = 1 << 20;
/// Bytes of words in the addresses of all edges that are no numeric address, nor as short as `unspec`.
pub const MAX_EDGE_WORDS: usize = 8 << 20;
/// Longest word of an address that we take, in bytes. Real daemons print numeric ones: an IPv6 address with its
/// scope has at most 55.
pub const MAX_ADDRESS_WORD: usize = 64;
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
const _: () = assert!(3 * LINE_BURST + ELSEWHERE_BURST < GRAPH_LINES);
const _: () =
    assert!(8 * CONGESTED < crate::link::MAX_QUEUE && BACKLOG + ASK_ROOM < crate::link::MAX_QUEUE);
const _: () = assert!(MAX_SEEN * 2 * 16 <= 4 << 20);
const _: () = assert!(
    MAX_NODES * 1024 + MAX_EDGES * 200 + (MAX_SUBNETS + MAX_ASIDE) * 100 + MAX_EDGE_WORDS
        <= 88 << 20
);

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
        self.take_at(1.0, f64::from(rate), burst, now)
    }

    /// Takes `count` tokens; `false` if there are fewer.
    pub fn take_many(&mut self, count: usize, rate: u32, burst: usize, now: Instant) -> bool {
        self.take_at(count as f64, f64::from(rate), burst, now)
    }

    /// As [`Self::take`], where a token comes every `seconds`.
    pub fn take_slowly(&mut self, seconds: u32, burst: usize, now: Instant) -> bool {
        self.take_at(1.0, f64::from(seconds).recip(), burst, now)
    }

    /// Whether [`Self::take`] would find a token.
    #[must_use]
    pub fn has(&self, rate: u32, burst: usize, now: Instant) -> bool {
        self.clone().take(rate, burst, now)
    }

    /// The tokens that there are.
    pub fn left(&mut self, rate: u32, burst: usize, now: Instant) -> f64 {
        self.fill(f64::from(rate), burst, now);
        self.tokens
    }

    fn fill(&mut self, rate: f64, burst: usize, now: Instant) {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(burst as f64);
        self.filled = now;
    }

    fn take_at(&mut self, count: f64, rate: f64, burst: usize, now: Instant) -> bool {
        self.fill(rate, burst, now);
        if self.tokens < count {
            return false;
        }
        self.tokens -= count;
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
