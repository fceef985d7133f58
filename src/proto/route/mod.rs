//! Data-plane decisions, pure: where does a packet go, and what is the answer where it cannot?
//!
//! The mesh publishes a [`RouteSnapshot`]; workers and the driver's slow path ask [`verdict::decide`]
//! and [`path::send_path`]. A packet is what the [`Mode`] carries: an IP packet, or a frame.
//! Source: config/tinc.md section 6, wire/tinc-1.1.md section 4.

pub mod copies;
pub mod local;
pub mod lpm;
pub mod mode;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
pub mod path;
pub mod recent;
pub mod router;
pub mod source;
pub mod switch;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, missing_docs, reason = "for tests only")]
pub mod testing;
pub mod verdict;

pub use mode::Mode;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use meshd_sync::{ArcSwap, AtomicU64, Guard, Mutex};
use meshd_wire::{NodeId, NodeName, Options, ether};

use crate::tunnel::{RxKey, TxKey};

/// Index of a node in [`RouteSnapshot::nodes`]; stable for the life of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIdx(pub u32);

impl NodeIdx {
    /// Bits of a native session's index that name the node to which it belongs; the others tell its
    /// sessions apart.
    pub const SESSION_BITS: u32 = 20;

    /// The node to whose sessions `index` may belong.
    #[must_use]
    pub const fn of_session(index: u32) -> Self {
        Self(index & ((1 << Self::SESSION_BITS) - 1))
    }
}

/// Largest inner frame with its 14-byte Ethernet header, in bytes.
pub const MTU: u16 = 1518;
/// Smallest MTU that discovery works with, in bytes.
pub const MIN_MTU: u16 = 512;
/// Length of the Ethernet header that MTU comparisons count though it is not sent.
pub const ETHER: usize = ether::HEADER;

/// The Forwarding variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// Nothing is forwarded between third parties.
    Off,
    /// We forward.
    #[default]
    Internal,
    /// Everything received goes to the local kernel, which forwards.
    Kernel,
}

/// The Broadcast variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Broadcast {
    /// Broadcasts go nowhere.
    No,
    /// Along the minimum spanning tree.
    #[default]
    Mst,
    /// From the origin straight to every node.
    Direct,
}

/// The SourceCheck variable: which nodes may only send from their own subnets; see [`source`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// None, as in tinc.
    No,
    /// Those that speak native with us, and those whose host file lists a subnet, whatever they speak. All others
    /// may not send from subnets of other nodes.
    #[default]
    Native,
    /// All.
    Strict,
}

/// What the router must know besides the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// Mode.
    pub mode: Mode,
    /// Forwarding.
    pub forwarding: Forwarding,
    /// Broadcast.
    pub broadcast: Broadcast,
    /// DecrementTTL.
    pub decrement_ttl: bool,
    /// DirectOnly.
    pub direct_only: bool,
    /// PriorityInheritance.
    pub priority_inheritance: bool,
    /// TunnelServer: broadcasts of others are not spread.
    pub tunnel_server: bool,
    /// SourceCheck; router mode only.
    pub source_check: SourceCheck,
}

/// Everything that a worker needs to route; immutable once published.
#[derive(Debug)]
pub struct RouteSnapshot {
    /// Counts publications, for logs.
    pub generation: u64,
    /// Switches.
    pub settings: RouteSettings,
    /// Ourselves.
    pub me: NodeIdx,
    /// All nodes by index; `None` where a node was forgotten.
    pub nodes: Vec<Option<Arc<NodeShared>>>,
    /// IPv4 subnets.
    pub v4: lpm::Table<u32>,
    /// IPv6 subnets.
    pub v6: lpm::Table<u128>,
    /// Ethernet addresses (switch mode).
    pub macs: switch::MacTable,
    /// Where the packets of each node may come from, by index.
    pub sources: Vec<source::Claims>,
    /// The subnets that host files list.
    pub listed: Arc<source::Listed>,
    /// Node by id, for relay headers.
    pub by_id: HashMap<NodeId, NodeIdx>,
    /// Node by its confirmed UDP address.
    pub by_addr: HashMap<SocketAddr, NodeIdx>,
    /// Neighbours to which a broadcast goes (tree links, or all nodes in direct mode).
    pub broadcast: Vec<NodeIdx>,
    /// What was passed on lately; the same in all snapshots of a mesh.
    pub recent: Arc<recent::Recent>,
}

/// What belongs to one node for as long as we know it.
#[derive(Debug)]
pub struct NodeShared {
    /// Its index.
    pub idx: NodeIdx,
    /// Its name.
    pub name: NodeName,
    /// Its id.
    pub id: NodeId,
    /// Keys and path, replaced as a whole by the mesh; workers load it once a packet or batch.
    pub state: ArcSwap<NodeState>,
    /// Traffic counters.
    pub counters: NodeCounters,
    /// Held by the thread that sends to the node in SPTPS, from the claim of the first number until the
    /// datagrams are with the kernel: a real daemon's replay window has room for 128 packets, and a thread
    /// may be put to sleep for longer than that lasts.
    pub sending: Mutex<()>,
}

impl NodeShared {
    /// A node that becomes known.
    #[must_use]
    pub fn new(idx: NodeIdx, name: NodeName, state: NodeState) -> Self {
        Self {
            idx,
            id: name.id(),
            name,
            state: ArcSwap::from_pointee(state),
            counters: NodeCounters::default(),
            sending: Mutex::default(),
        }
    }
}

/// How to reach a node right now. Immutable: the mesh replaces it.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Whether there is a path at all.
    pub reachable: bool,
    /// Whether we have a link to it.
    pub neighbour: bool,
    /// Whether we speak legacy with it: its packets are opened and sealed again at every hop.
    pub legacy: bool,
    /// Options of the last edge to it; the top byte is its minor version.
    pub options: Options,
    /// Next hop on the path; itself for a neighbour, us for ourselves.
    pub nexthop: NodeIdx,
    /// Last node on the path without IndirectData; us if there is none.
    pub via: NodeIdx,
    /// Its confirmed UDP address.
    pub udp: Option<SocketAddr>,
    /// Largest record data proven to arrive by UDP, in bytes; 0 while UDP is not proven.
    pub min_mtu: u16,
    /// What routing takes as its MTU, in bytes with the Ethernet header.
    pub mtu: u16,
    /// Sending key of the tunnel.
    pub tx: Option<Arc<TxKey>>,
    /// Nothing is sent for some milliseconds while the other side changes its keys.
    pub resting: bool,
    /// Receiving keys, most likely first.
    pub rx: Vec<Arc<RxKey>>,
}

/// Traffic of one node's tunnel, ends only (not what we relay). Frames with their 14-byte header,
/// as tinc counts.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Packets from it.
    pub rx_packets: AtomicU64,
    /// Bytes from it.
    pub rx_bytes: AtomicU64,
    /// Packets to it.
    pub tx_packets: AtomicU64,
    /// Bytes to it.
    pub tx_bytes: AtomicU64,
    /// Packets relayed for others through it or from it.
    pub relayed: AtomicU64,
    /// Datagrams that no key opened.
    pub bad_tag: AtomicU64,
    /// Datagrams that were replays or too old.
    pub replayed: AtomicU64,
    /// Packets from it whose source is in none of its subnets, and that passed (SourceCheck).
    pub foreign: AtomicU64,
    /// Packets from it that SourceCheck has dropped.
    pub spoofed: AtomicU64,
    /// Longest record received over UDP since the mesh last took it, for gratuitous probe replies.
    pub longest: AtomicU64,
}

impl NodeState {
    /// Whether we send to it in a native session.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| tx.is_native())
    }
}

impl NodeCounters {
    /// Counts packets from the node, of `bytes` together (frame lengths).
    pub fn received(&self, packets: usize, bytes: usize) {
        self.rx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts packets to the node, of `bytes` together (frame lengths).
    pub fn sent(&self, packets: usize, bytes: usize) {
        self.tx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that a record of `length` bytes came straight from the node.
    pub fn came(&self, length: usize) {
        // Most of the time it is no news: a look costs less than a write.
        if length as u64 > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(length as u64, Ordering::Relaxed);
        }
    }

    /// Takes the length of the longest record noted since this was last called, in bytes; 0: none.
    #[must_use]
    pub fn take_longest(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed)
    }
}

impl RouteSnapshot {
    /// A snapshot in which nothing but ourselves exists.
    #[must_use]
    pub fn empty(me: Arc<NodeShared>) -> Self {
        Self {
            generation: 0,
            settings: RouteSettings::default(),
            me: me.idx,
            by_id: HashMap::from([(me.id, me.idx)]),
            nodes: vec![Some(me)],
            v4: lpm::Table::default(),
            v6: lpm::Table::default(),
            macs: switch::MacTable::default(),
            by_addr: HashMap::new(),
            broadcast: Vec::new(),
            sources: Vec::new(),
            recent: Arc::default(),
            listed: Arc::default(),
        }
    }

    /// Whom a broadcast of `source` goes on to. In direct mode its origin alone sends it, to all; along the
    /// tree every node passes it on to all but the one that it came by (config/tinc.md section 6.6).
    pub fn spread_to(&self, source: NodeIdx) -> impl Iterator<Item = NodeIdx> + '_ {
        let ours = source == self.me;
        let passed_on = self.settings.broadcast == Broadcast::Mst && !self.settings.tunnel_server;
        let came_by = self.state(source).map(|state| state.nexthop);
        let all = self.broadcast.iter().copied();
        all.filter(move |to| ours || passed_on && *to != source && Some(*to) != came_by)
    }

    /// The node at `idx`, if it is still known.
    #[must_use]
    pub fn node(&self, idx: NodeIdx) -> Option<&Arc<NodeShared>> {
        self.nodes.get(idx.0 as usize)?.as_ref()
    }

    /// What the node at `idx` is like right now, if it is still known.
    #[must_use]
    pub fn state(&self, idx: NodeIdx) -> Option<Guard<Arc<NodeState>>> {
        Some(self.node(idx)?.state.load())
    }
}

/// Why a packet was dropped; also the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Not IPv4 and not IPv6, cut short, or a frame that is too long.
    Malformed,
    /// The owner of the destination is the node that the packet came from.
    LoopingBack,
    /// The next hop is the node that the packet came from.
    RoutingLoop,
    /// An error reply was due, but the limit of errors per second was reached, or the packet is one
    /// that must not be answered with an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    ErrorLimit,
    /// No key yet, and the queue of waiting packets is full.
    NoKey,
    /// A datagram from nobody we know.
    UnknownSource,
    /// No key opened the datagram.
    BadTag,
    /// Seen before or too old.
    Replayed,
    /// A record type that does not belong here.
    BadType,
    /// The relay's destination or source is unknown or unreachable.
    NoRelay,
    /// The kernel would not take it (queue full).
    SendFailed,
    /// The queue to the control plane was full.
    PuntFull,
    /// A link was congested.
    LinkFull,
    /// Broadcast is off.
    NoBroadcast,
    /// The sending key has no numbers left.
    Exhausted,
    /// Its source is in no subnet of the node that sent it (SourceCheck).
    ForeignSource,
    /// Forwarding or DirectOnly forbids it, and frames get no answer.
    Prohibited,
    /// A copy of a broadcast, a packet or a datagram of others that was passed on before.
    Repeated,
    /// A router solicitation or a report of group membership of our own system, which only its own wire needs.
    OwnWire,
}

impl DropReason {
    /// Every reason, in order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Malformed,
        Self::LoopingBack,
        Self::RoutingLoop,
        Self::ErrorLimit,
        Self::NoKey,
        Self::UnknownSource,
        Self::BadTag,
        Self::Replayed,
        Self::BadType,
        Self::NoRelay,
        Self::SendFailed,
        Self::PuntFull,
        Self::LinkFull,
        Self::NoBroadcast,
        Self::Exhausted,
        Self::ForeignSource,
        Self::Prohibited,
        Self::Repeated,
        Self::OwnWire,
    ];
}

/// Counters of drops by reason, one set a thread.
pub type DropCounts = BTreeMap<DropReason, u64>;
