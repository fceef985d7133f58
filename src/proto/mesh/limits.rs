//! Upper bounds of memory and work that other nodes can cause, with their memory budget. Source:
//! proto/threat-model.md section 5.6.

use std::time::Duration;

pub use crate::bucket::Bucket;

/// Most known nodes. Memory: about 1 KiB each, 16 MiB in all.
pub const MAX_NODES: usize = 16_384;
/// Most known edges. Memory: about 200 bytes each, 50 MiB in all.
pub const MAX_EDGES: usize = 262_144;
/// Most known subnets, without those in host files: the local operator pays for those. Memory:
/// about 100 bytes each in both tables, 7 MiB in all.
pub const MAX_SUBNETS: usize = 65_536;
/// Most subnets of one node, without those in its host file.
pub const MAX_SUBNETS_PER_NODE: usize = 1_024;
/// Most announced subnets kept aside (not accepted), over all nodes. Memory: about 100 bytes each,
/// 4 MiB in all.
pub const MAX_ASIDE: usize = 32_768;
/// Most subnets of one node kept aside. See [`MAX_ASIDE`].
pub const MAX_ASIDE_PER_NODE: usize = 8_192;
/// Most Ethernet addresses of one node, in place of [`MAX_SUBNETS_PER_NODE`].
pub const MAX_MACS_PER_NODE: usize = MAX_LEARNED + MAX_SUBNETS_PER_NODE;
/// Most learned Ethernet addresses. One more replaces the address that was silent for longest.
/// Memory: about 200 bytes each, 1 MiB.
pub const MAX_LEARNED: usize = 4_096;
/// Ethernet addresses learned a second. Each one may cause two lines to all other nodes. A flood on
/// our device must not use up the [`LINE_RATE`] of the other nodes.
pub const LEARN_RATE: u32 = 50;
/// Ethernet addresses learned at once. See [`LEARN_RATE`].
pub const LEARN_BURST: usize = 1_024;
/// Names without a host file that one neighbour may introduce, over all its links.
pub const MAX_UNKNOWN_PER_NEIGHBOUR: usize = 256;
/// Time after which an unreachable node without a host file and without edges is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Request lines remembered to stop floods. Memory: two generations of 16 bytes each, 4 MiB.
pub const MAX_SEEN: usize = 131_072;
/// Inner packets that wait for the key of one node. Memory: see [`MAX_WAITING_BYTES`].
pub const MAX_WAITING: usize = 64;
/// Bytes of inner packets that wait for keys, over all nodes.
pub const MAX_WAITING_BYTES: usize = 8 << 20;
/// Default of MetaRate: flooded lines a second that a neighbour may send about itself in the long
/// run. The other budgets are multiples of this one. See `mesh::gossip::budget`.
pub const LINE_RATE: u32 = 200;
/// Flooded lines that a neighbour may send about itself at once.
pub const LINE_BURST: usize = 20_000;
/// Flooded lines at once about known nodes that do not lie behind the neighbour that sends the
/// lines. Covers the whole graph of 10,000 nodes, sent by a second neighbour.
pub const ELSEWHERE_BURST: usize = 65_536;
/// Most flooded lines of a first exchange: a graph at its caps.
pub const GRAPH_LINES: usize = MAX_EDGES + MAX_SUBNETS;
/// Recent lines about a known node up to which a line counts as the node's own, no matter which
/// link it comes from.
pub const QUIET_LINES: usize = 64;
/// Bytes that a routed line counts in addition to its own, so that short lines also cost.
pub const ROUTED_LINE: usize = 256;
/// Routed bytes a second of one sender that are forwarded even if the link to the target is
/// congested.
pub const ROUTED_RATE: u32 = 64 << 10;
/// Burst of [`ROUTED_RATE`]: first handshakes with 1,000 nodes.
pub const ROUTED_BURST: usize = 1 << 20;
/// Most routed bytes a second of one sender.
pub const ROUTED_MOST: u32 = 1 << 20;
/// Burst of [`ROUTED_MOST`].
pub const ROUTED_MOST_BURST: usize = 4 << 20;
/// Routed bytes a second in the names of nodes that do not lie behind the receiving link.
pub const STRAY_RATE: u32 = 256 << 10;
/// Burst of [`STRAY_RATE`].
pub const STRAY_BURST: usize = 1 << 20;
/// Time over budget after which the link to a neighbour is closed.
pub const OVER_BUDGET: Duration = Duration::from_secs(10);
/// Time without use after which a budget is full and is forgotten.
pub const BUDGET_AGE: Duration = Duration::from_secs(600);
/// Bytes of lines waiting for a link above which further changes stay out of the link's queue. Such
/// a change waits as a fact and is written as a line later, in its newest form. A quarter of
/// [`crate::link::MAX_QUEUE`], which ends the link.
pub const BACKLOG: usize = 1 << 20;
/// Bytes of lines sent to a link after which the mesh asks the shell if the socket has taken them.
pub const ASK_ROOM: usize = 64 << 10;
/// Bytes of lines waiting for a link above which routed lines are forwarded only within the
/// sender's fair share.
pub const CONGESTED: usize = 256 << 10;
/// Most facts waiting for one link; the link is closed at more. Memory: about 100 bytes each.
pub const MAX_FACTS: usize = 131_072;
/// Bytes of ready lines kept for the facts waiting for one link. Beyond this bound a line is
/// encoded again.
pub const FACT_BYTES: usize = 1 << 20;
/// Bytes of address words in all edges. Numeric addresses and words as short as `unspec` do not
/// count.
pub const MAX_EDGE_WORDS: usize = 8 << 20;
/// Longest accepted address word, in bytes. Real daemons write numeric addresses: an IPv6 address
/// with its scope has at most 55.
pub const MAX_ADDRESS_WORD: usize = 64;
/// Most routed lines held until the graph pass of their batch. Memory: at most 2 KiB each, 2 MiB.
pub const MAX_DEFERRED: usize = 1_024;
/// Most lines of third nodes about our neighbours that wait for comparison. Memory: about 300 bytes
/// each.
pub const MAX_DOUBTS: usize = 1_024;
/// Edges deleted by hearsay that are remembered for a while. Memory: about 250 bytes each, 2 MiB.
/// [`LINE_BURST`] makes fewer: each such edge takes two lines.
pub const MAX_DENIED: usize = 8_192;
const _: () = assert!(LINE_BURST / 3 < MAX_DENIED);
/// Corrections (answers to lines about this node) sent to one link a second.
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
