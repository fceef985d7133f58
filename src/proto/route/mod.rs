//! Data-plane decisions, pure: the destination of a packet, and the answer to a packet that cannot
//! be delivered.
//!
//! The mesh publishes a [`RouteSnapshot`]. Workers and the driver's slow path call
//! [`verdict::decide`] and [`path::send_path`]. A packet is an IP packet or a frame, as the
//! [`Mode`] carries it. Source: config/tinc.md section 6, wire/tinc-1.1.md section 4.

pub mod broadcast;
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

use slotmap::{Key, KeyData};

use meshd_sync::{ArcSwap, AtomicU64, Guard, Mutex};
use meshd_wire::{NodeId, NodeName, Options, ether};

use crate::{
    dialect::Dialect,
    tunnel::{RxKey, TxKey},
};

slotmap::new_key_type! {
    /// Index of a node for as long as the mesh knows the node. The slot of a forgotten node is used
    /// again under another generation, so the index of a forgotten node names no other node.
    pub struct NodeIdx;
}

impl NodeIdx {
    /// Index of the first node of a mesh, which is this node.
    pub const FIRST: Self = Self::of_slot(NodeSlot(1));

    /// Returns the index of the first node that uses `slot`.
    #[must_use]
    pub const fn of_slot(slot: NodeSlot) -> Self {
        Self(KeyData::from_ffi(1 << 32 | slot.0 as u64))
    }

    /// Returns the place of the node in the vectors of a snapshot.
    #[must_use]
    pub fn slot(self) -> NodeSlot {
        NodeSlot(self.data().as_ffi() as u32)
    }
}

/// Place of a node in the vectors of one [`RouteSnapshot`]. A slot names a node only together with
/// its snapshot: in a later one another node may have the slot. Whoever outlives the snapshot keeps
/// the [`NodeIdx`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(pub u32);

impl NodeSlot {
    /// Bits of a native session's index that hold the slot; the other bits distinguish the sessions
    /// of its node.
    pub const SESSION_BITS: u32 = 20;

    /// Returns the slot of the node whose session `index` may name.
    #[must_use]
    pub const fn of_session(index: u32) -> Self {
        Self(index & ((1 << Self::SESSION_BITS) - 1))
    }
}

/// Largest inner frame with its 14-byte Ethernet header, in bytes.
pub const MTU: u16 = 1518;
/// Smallest MTU that discovery works with, in bytes.
pub const MIN_MTU: u16 = 512;
/// Length of the Ethernet header. MTU comparisons include it even if the header is not sent.
pub const ETHER: usize = ether::HEADER;

/// The Forwarding variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// No packet is forwarded between third parties.
    Off,
    /// Packets are forwarded by meshd.
    #[default]
    Internal,
    /// Every received packet goes to the local kernel, which forwards it.
    Kernel,
}

/// The Broadcast variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Broadcast {
    /// Broadcasts are dropped.
    No,
    /// Broadcasts travel along the minimum spanning tree.
    #[default]
    Mst,
    /// The origin sends broadcasts directly to every node.
    Direct,
}

/// The SourceCheck variable: which nodes may send only from their own subnets. See [`source`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// No check, as in tinc.
    No,
    /// Checks nodes that speak native with us, and nodes whose host file lists a subnet, in any
    /// dialect. Other nodes may not send from subnets of other nodes.
    #[default]
    Native,
    /// Checks all nodes.
    Strict,
}

/// Settings of the router besides the tables.
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
    /// TunnelServer: broadcasts of others are not forwarded.
    pub tunnel_server: bool,
    /// SourceCheck; router mode only.
    pub source_check: SourceCheck,
}

/// Everything that a worker needs for routing; immutable once published.
#[derive(Debug)]
pub struct RouteSnapshot {
    /// Number of the publication, for logs.
    pub generation: u64,
    /// Settings of the router.
    pub settings: RouteSettings,
    /// This node.
    pub me: NodeSlot,
    /// All nodes by slot; `None` for a slot without a node.
    pub nodes: Vec<Option<Arc<NodeShared>>>,
    /// IPv4 subnets.
    pub v4: lpm::Table<u32>,
    /// IPv6 subnets.
    pub v6: lpm::Table<u128>,
    /// Ethernet addresses (switch mode).
    pub macs: switch::MacTable,
    /// Allowed source addresses of each node, by slot.
    pub sources: Vec<source::Claims>,
    /// Subnets in host files.
    pub listed: Arc<source::Listed>,
    /// Node by id, for relay headers.
    pub by_id: HashMap<NodeId, NodeSlot>,
    /// Node by its confirmed UDP address.
    pub by_addr: HashMap<SocketAddr, NodeSlot>,
    /// Nodes that broadcasts of our device are sent to, as [`broadcast::recipients`] says.
    pub broadcast: Vec<NodeSlot>,
    /// Packets forwarded lately; the same object in all snapshots of a mesh.
    pub recent: Arc<recent::Recent>,
}

/// State of one node for as long as the node is known.
#[derive(Debug)]
pub struct NodeShared {
    /// Index of the node.
    pub idx: NodeIdx,
    /// Name of the node.
    pub name: NodeName,
    /// Id of the node.
    pub id: NodeId,
    /// Keys and path. The mesh replaces them as a whole; workers load them once per packet or
    /// batch.
    pub state: ArcSwap<NodeState>,
    /// Traffic counters.
    pub counters: NodeCounters,
    /// Lock of the thread that sends to the node in SPTPS. The thread holds it from the claim of
    /// the first number until the kernel has the datagrams. A real daemon's replay window has room
    /// for 128 packets, and a sleeping thread may fall farther behind.
    pub sending: Mutex<()>,
}

impl NodeShared {
    /// Makes a new node.
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

/// Current path to a node. Immutable: the mesh replaces it.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// True if there is a path.
    pub reachable: bool,
    /// True if we have a link to the node.
    pub neighbour: bool,
    /// Dialect of packets to the node: that of [`Self::tx`] if there is a key, else the least that the
    /// node may be sent.
    pub dialect: Dialect,
    /// Options of the last edge to the node; the top byte is its protocol minor.
    pub options: Options,
    /// Nexthop on the path: the node itself for a neighbour, this node for itself.
    pub nexthop: NodeSlot,
    /// Last node on the path without IndirectData; this node if there is none.
    pub via: NodeSlot,
    /// Confirmed UDP address of the node.
    pub udp: Option<SocketAddr>,
    /// Largest record data proven to arrive by UDP, in bytes; 0 while UDP is not confirmed.
    pub min_mtu: u16,
    /// MTU for routing, in bytes with the Ethernet header.
    pub mtu: u16,
    /// Sending key of the tunnel.
    pub tx: Option<Arc<TxKey>>,
    /// True while sending pauses for some milliseconds, because the other end changes its keys.
    pub paused: bool,
    /// Receiving keys, most likely first.
    pub rx: Vec<Arc<RxKey>>,
}

/// Traffic counters of one node's tunnel. Frames count with their 14-byte header, as in tinc. Only
/// `relayed` counts datagrams between other nodes.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Packets received from the node.
    pub rx_packets: AtomicU64,
    /// Bytes received from the node.
    pub rx_bytes: AtomicU64,
    /// Packets sent to the node.
    pub tx_packets: AtomicU64,
    /// Bytes sent to the node.
    pub tx_bytes: AtomicU64,
    /// Datagrams of other nodes that a worker forwarded to this node as their destination. The slow
    /// path does not count.
    pub relayed: AtomicU64,
    /// Datagrams that no key opened.
    pub bad_tag: AtomicU64,
    /// Datagrams that were replays or too old.
    pub replayed: AtomicU64,
    /// Packets from the node that passed SourceCheck with a source outside its subnets.
    pub foreign: AtomicU64,
    /// Packets from the node that SourceCheck has dropped.
    pub spoofed: AtomicU64,
    /// Longest record received over UDP since the mesh last read it, for gratuitous probe replies.
    pub longest: AtomicU64,
}

impl NodeCounters {
    /// Counts packets received from the node, with the sum of their frame lengths.
    pub fn received(&self, packets: usize, bytes: usize) {
        self.rx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts packets sent to the node, with the sum of their frame lengths.
    pub fn sent(&self, packets: usize, bytes: usize) {
        self.tx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records that a record of `length` bytes came directly from the node.
    pub fn note_length(&self, length: usize) {
        // The length is rarely a new maximum, and a load costs less than a store.
        if length as u64 > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(length as u64, Ordering::Relaxed);
        }
    }

    /// Returns the length of the longest record since the last call, in bytes; 0 if there was none.
    #[must_use]
    pub fn take_longest(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed)
    }
}

impl RouteSnapshot {
    /// Makes a snapshot that contains only this node.
    #[must_use]
    pub fn empty(me: Arc<NodeShared>) -> Self {
        let slot = me.idx.slot();
        let by_id = HashMap::from([(me.id, slot)]);
        let mut nodes = vec![None; slot.0 as usize];
        nodes.push(Some(me));
        Self {
            generation: 0,
            settings: RouteSettings::default(),
            me: slot,
            by_id,
            nodes,
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

    /// Returns the node at `slot`, if there is one.
    #[must_use]
    pub fn node(&self, slot: NodeSlot) -> Option<&Arc<NodeShared>> {
        self.nodes.get(slot.0 as usize)?.as_ref()
    }

    /// Returns the index of the node at `slot`, if there is one.
    #[must_use]
    pub fn idx_of(&self, slot: NodeSlot) -> Option<NodeIdx> {
        Some(self.node(slot)?.idx)
    }

    /// Returns the slot of the node `idx`, if this snapshot has the node.
    #[must_use]
    pub fn slot_of(&self, idx: NodeIdx) -> Option<NodeSlot> {
        let slot = idx.slot();
        (self.idx_of(slot)? == idx).then_some(slot)
    }

    /// Returns the current state of the node at `slot`, if there is one.
    #[must_use]
    pub fn state(&self, slot: NodeSlot) -> Option<Guard<Arc<NodeState>>> {
        Some(self.node(slot)?.state.load())
    }
}

/// Reason for dropping a packet; also the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Neither IPv4 nor IPv6, truncated, or a frame that is too long.
    Malformed,
    /// The owner of the destination is the node that sent the packet.
    LoopingBack,
    /// The nexthop is the node that sent the packet.
    RoutingLoop,
    /// An error reply was due, but the limit of errors per second was reached. Or the packet must
    /// not be answered with an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    ErrorLimit,
    /// There is no key yet, and the queue of waiting packets is full.
    NoKey,
    /// A datagram from an unknown address.
    UnknownSource,
    /// No key opened the datagram.
    BadTag,
    /// Seen before or too old.
    Replayed,
    /// A record type that is not allowed here.
    BadType,
    /// The relay's destination or source is unknown or unreachable.
    NoRelay,
    /// The kernel did not accept the datagram (queue full).
    SendFailed,
    /// The queue to the control plane was full.
    PuntFull,
    /// A link was congested.
    LinkFull,
    /// Broadcast is off.
    NoBroadcast,
    /// The sending key has no numbers left.
    Exhausted,
    /// The source is in no subnet of the sending node (SourceCheck).
    ForeignSource,
    /// Forwarding or DirectOnly forbids the packet, and frames get no answer.
    Prohibited,
    /// A copy of a broadcast, packet or datagram that was forwarded before.
    Repeated,
    /// A router solicitation or group membership report of our own system, which only its own wire
    /// needs.
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

/// Counters of drops by reason, one set per thread.
pub type DropCounts = BTreeMap<DropReason, u64>;
