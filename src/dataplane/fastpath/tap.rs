//! Copies of packets for `meshctl capture`: a bounded ring that never blocks a worker.
//!
//! Without a capture a worker reads one flag per batch, and no packet is copied.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use tokio::sync::mpsc;

use meshd_proto::{
    mesh::reports::view::PacketKind,
    route::{NodeShared, NodeSlot, RouteSnapshot},
    tunnel,
};
use meshd_sync::{ArcSwap, AtomicBool, AtomicU64};
use meshd_wire::{NodeId, NodeName, datagram::RelayHeader};

use crate::{fastpath::complete, io::vnet::Checksums};

/// Packets that wait for the reader of a capture. Memory: at most 8 MiB, because no packet is
/// longer than 2 KiB.
pub const RING: usize = 4096;

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Wall time of the packet.
    pub at: SystemTime,
    /// Kind of the packet.
    pub kind: PacketKind,
    /// Node of the tunnel, address or link, if known.
    pub peer: Option<NodeName>,
    /// True if the packet was received, false if it was sent.
    pub received: bool,
    /// Our address, unspecified if the kernel chooses it, and the other end's; `None` for inner
    /// packets.
    pub ends: Option<[SocketAddr; 2]>,
    /// Length in bytes.
    pub length: usize,
    /// First bytes of the packet.
    pub data: Vec<u8>,
}

/// Filter of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Wanted kinds, by [`PacketKind`].
    pub kinds: [bool; PacketKind::ALL.len()],
    /// Restricts the capture to this node.
    pub peer: Option<NodeName>,
    /// Number of bytes kept of each packet.
    pub snap: usize,
}

/// An open capture, for threads that have packets to show.
#[derive(Debug)]
pub struct Tap {
    filter: Filter,
    ring: mpsc::Sender<Seen>,
    dropped: [AtomicU64; PacketKind::ALL.len()],
}

impl Tap {
    /// Opens a capture and returns the receiver of its packets. Dropping the receiver closes the
    /// capture.
    #[must_use]
    pub fn open(filter: Filter) -> (Self, mpsc::Receiver<Seen>) {
        Self::with_room(filter, RING)
    }

    pub(super) fn with_room(filter: Filter, room: usize) -> (Self, mpsc::Receiver<Seen>) {
        let (ring, packets) = mpsc::channel(room);
        let dropped = PacketKind::ALL.map(|_| AtomicU64::new(0));
        let tap = Self {
            filter,
            ring,
            dropped,
        };
        (tap, packets)
    }

    /// Returns the filter.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns true if the receiver was dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Returns true if packets of this kind are wanted.
    #[must_use]
    pub const fn records(&self, kind: PacketKind) -> bool {
        self.filter.kinds[kind as usize]
    }

    /// Returns the number of packets since start that found no room in the ring, by [`PacketKind`].
    #[must_use]
    pub fn dropped(&self) -> [u64; PacketKind::ALL.len()] {
        PacketKind::ALL.map(|kind| self.dropped[kind as usize].load(Ordering::Relaxed))
    }

    /// Copies a packet, if it is wanted and there is room.
    pub fn show(
        &self,
        kind: PacketKind,
        (peer, received): (Option<&NodeName>, bool),
        ends: Option<[SocketAddr; 2]>,
        packet: &[u8],
    ) {
        let wanted = self.filter.peer.as_ref();
        if !self.records(kind) || wanted.is_some_and(|wanted| peer != Some(wanted)) {
            return;
        }
        // Reserved before the copy is made, so a full ring costs little.
        let room = match self.ring.try_reserve() {
            Ok(room) => room,
            Err(mpsc::error::TrySendError::Closed(())) => return,
            Err(mpsc::error::TrySendError::Full(())) => {
                self.dropped[kind as usize].fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        room.send(Seen {
            at: wall(),
            kind,
            peer: peer.cloned(),
            received,
            ends,
            length: packet.len(),
            data: packet[..packet.len().min(self.filter.snap)].to_vec(),
        });
    }
}

/// The capture as workers see it.
pub(super) struct Taps {
    open: AtomicBool,
    tap: ArcSwap<Option<Arc<Tap>>>,
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            open: AtomicBool::new(false),
            tap: ArcSwap::new(Arc::new(None)),
        }
    }
}

impl Taps {
    /// Returns the capture, if there is one. Called once per batch.
    pub(super) fn get(&self) -> Option<Arc<Tap>> {
        match self.open.load(Ordering::Relaxed) {
            true => Option::clone(&self.tap.load()),
            false => None,
        }
    }

    /// Sets the capture from the next batch on.
    pub(super) fn set(&self, tap: Option<Arc<Tap>>) {
        let open = tap.is_some();
        self.tap.store(Arc::new(tap));
        self.open.store(open, Ordering::Relaxed);
    }
}

/// A capture together with the snapshot of a batch.
pub(super) struct Recorder<'a> {
    pub(super) tap: &'a Tap,
    pub(super) snapshot: &'a RouteSnapshot,
}

impl Recorder<'_> {
    /// Shows a packet that goes into the tunnel of `node` or came out of it.
    #[cold]
    pub(super) fn inner(
        &self,
        node: &NodeShared,
        received: bool,
        packet: &[u8],
        checksums: Checksums,
    ) {
        let show = |packet: &[u8]| {
            let of = (Some(&node.name), received);
            self.tap.show(PacketKind::Inner, of, None, packet);
        };
        if checksums == Checksums::Complete {
            return show(packet);
        }
        let mut whole = packet.to_vec();
        complete(self.snapshot.settings.mode, &mut whole, checksums);
        show(&whole);
    }

    /// Shows datagrams of `stride` bytes each between two addresses, ours first. The last may be
    /// shorter.
    #[cold]
    pub(super) fn outer(
        &self,
        received: bool,
        ends: [SocketAddr; 2],
        datagrams: &[u8],
        stride: usize,
    ) {
        if !self.tap.records(PacketKind::Outer) {
            return;
        }
        for datagram in datagrams.chunks(stride.max(1)) {
            let node = self.owner(ends[1], received, datagram);
            let of = (node.map(|node| &node.name), received);
            self.tap.show(PacketKind::Outer, of, Some(ends), datagram);
        }
    }

    /// Returns the node with this confirmed address, else the node that an incoming datagram names.
    fn owner(
        &self,
        remote: SocketAddr,
        received: bool,
        datagram: &[u8],
    ) -> Option<&Arc<NodeShared>> {
        let known = self.snapshot.by_addr.get(&remote).copied();
        let idx = known.or_else(|| {
            let datagram = received.then_some(datagram)?;
            let session = tunnel::index_of(datagram).map(NodeSlot::of_session);
            let native = session
                .and_then(|idx| self.snapshot.node(idx))
                .filter(|node| {
                    let state = node.state.load();
                    state.rx.iter().any(|key| key.is_named_by(datagram))
                });
            let by_ids = || {
                let RelayHeader { to, from } = RelayHeader::parse(datagram)?;
                let direct = (to == NodeId::DIRECT).then_some(from)?;
                self.snapshot.by_id.get(&direct).copied()
            };
            native.map(|node| node.idx.slot()).or_else(by_ids)
        });
        self.snapshot.node(idx?)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "when a packet was captured, for people; nothing is decided by it"
)]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use super::*;
    use meshd_proto::route::testing::{addr, neighbour, snapshot};

    fn filter(kinds: [bool; 3], peer: Option<&str>, snap: usize) -> Filter {
        let peer = peer.map(|name| NodeName::new(name).unwrap());
        Filter { kinds, peer, snap }
    }

    #[test]
    fn what_is_wanted_is_copied_and_cut() {
        let (tap, mut packets) = Tap::open(filter([true, false, true], Some("b"), 4));
        let [b, c] = ["b", "c"].map(|name| NodeName::new(name).unwrap());
        tap.show(PacketKind::Inner, (Some(&b), true), None, b"123456");
        tap.show(PacketKind::Inner, (Some(&c), true), None, b"of another");
        tap.show(PacketKind::Inner, (None, true), None, b"of nobody");
        tap.show(PacketKind::Outer, (Some(&b), true), None, b"not wanted");
        tap.show(PacketKind::Meta, (Some(&b), false), None, b"8");
        let first = packets.try_recv().unwrap();
        assert_eq!(
            (first.kind, first.peer, first.received),
            (PacketKind::Inner, Some(b), true)
        );
        assert_eq!((first.length, first.data.as_slice()), (6, &b"1234"[..]));
        let second = packets.try_recv().unwrap();
        assert_eq!(
            (second.kind, second.received, second.data.as_slice()),
            (PacketKind::Meta, false, &b"8"[..])
        );
        assert!(packets.try_recv().is_err());
        assert_eq!(tap.dropped(), [0; 3]);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_what_is_counted() {
        let (tap, packets) = Tap::open(filter([true; 3], None, 4));
        for _ in 0..RING + 3 {
            tap.show(PacketKind::Outer, (None, true), None, b"x");
        }
        tap.show(PacketKind::Meta, (None, true), None, b"x");
        assert_eq!((packets.len(), tap.dropped()), (RING, [0, 3, 1]));
        drop(packets);
        assert!(tap.is_closed());
        tap.show(PacketKind::Outer, (None, true), None, b"x");
        assert_eq!(tap.dropped(), [0, 3, 1], "nobody misses it");
    }

    #[test]
    fn a_capture_is_seen_by_the_next_batch_and_gone_with_the_one_after() {
        let taps = Taps::default();
        assert!(taps.get().is_none());
        let (tap, _packets) = Tap::open(filter([true; 3], None, 4));
        taps.set(Some(Arc::new(tap)));
        assert!(taps.get().is_some());
        taps.set(None);
        assert!(taps.get().is_none());
    }

    #[test]
    fn datagrams_are_of_whom_their_address_or_their_ids_say() {
        let one = NodeSlot(1);
        let mut snapshot = snapshot([neighbour(one)], []);
        snapshot.by_addr.insert(addr(one), one);
        let node = snapshot.node(one).unwrap();
        let (id, name) = (node.id, node.name.clone());
        snapshot.by_id.insert(id, one);
        let (tap, mut packets) = Tap::open(filter([false, true, false], None, 2000));
        let recorder = Recorder {
            tap: &tap,
            snapshot: &snapshot,
        };
        let ours: SocketAddr = "0.0.0.0:655".parse().unwrap();
        let stranger: SocketAddr = "192.0.2.77:655".parse().unwrap();
        recorder.outer(false, [ours, addr(one)], &[7; 250], 100);
        let lengths: Vec<_> = (0..3).map(|_| packets.try_recv().unwrap()).collect();
        assert_eq!(
            lengths.iter().map(|seen| seen.length).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        assert!(
            lengths
                .iter()
                .all(|seen| seen.peer.as_ref() == Some(&name) && !seen.received)
        );
        let from_one = [&[0; 6][..], &id.0, &[9; 40]].concat();
        recorder.outer(true, [ours, stranger], &from_one, 100);
        assert_eq!(packets.try_recv().unwrap().peer, Some(name));
        recorder.outer(true, [ours, stranger], &[9; 60], 100);
        assert_eq!(packets.try_recv().unwrap().peer, None);
    }
}
