//! Copies of packets for `meshctl capture`, while there is one: a bounded ring that nobody waits for.
//!
//! Without a capture a worker reads one flag a batch, and knows at each packet that nobody looks.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use tokio::sync::mpsc;

use meshd_proto::{
    mesh::reports::view::PacketKind,
    route::{NodeIdx, NodeShared, RouteSnapshot},
    tunnel::native,
};
use meshd_sync::{ArcSwap, AtomicBool, AtomicU64};
use meshd_wire::{NodeId, NodeName, datagram::RelayHeader};

use crate::{fastpath::complete, io::vnet::Checksums};

/// Packets that wait for the reader of a capture. Memory: at most 8 MiB, as none is longer than 2 KiB.
pub const RING: usize = 4096;

/// A packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When, by wall time.
    pub at: SystemTime,
    /// What of.
    pub kind: PacketKind,
    /// Whose tunnel, address or link, if it is known.
    pub peer: Option<NodeName>,
    /// Whether it came from there.
    pub received: bool,
    /// Our address, unspecified where the kernel chooses it, and the other end's; `None` for inner packets.
    pub ends: Option<[SocketAddr; 2]>,
    /// How long it is, in bytes.
    pub length: usize,
    /// Its first bytes.
    pub data: Vec<u8>,
}

/// What a capture is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// By [`PacketKind`].
    pub kinds: [bool; PacketKind::ALL.len()],
    /// Only of this node.
    pub peer: Option<NodeName>,
    /// Bytes of each packet that are kept.
    pub snap: usize,
}

/// An open capture, for those that have packets to show.
#[derive(Debug)]
pub struct Tap {
    filter: Filter,
    ring: mpsc::Sender<Seen>,
    dropped: [AtomicU64; PacketKind::ALL.len()],
}

impl Tap {
    /// A capture, and where its packets come out; it is closed when that is dropped.
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

    /// What it is about.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether nobody reads it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Whether packets of this kind are wanted.
    #[must_use]
    pub const fn wants(&self, kind: PacketKind) -> bool {
        self.filter.kinds[kind as usize]
    }

    /// Packets since it was opened that found no room in the ring, by [`PacketKind`].
    #[must_use]
    pub fn dropped(&self) -> [u64; PacketKind::ALL.len()] {
        PacketKind::ALL.map(|kind| self.dropped[kind as usize].load(Ordering::Relaxed))
    }

    /// Takes a copy of a packet, if it is wanted and there is room.
    pub fn show(
        &self,
        kind: PacketKind,
        (peer, received): (Option<&NodeName>, bool),
        ends: Option<[SocketAddr; 2]>,
        packet: &[u8],
    ) {
        let wanted = self.filter.peer.as_ref();
        if !self.wants(kind) || wanted.is_some_and(|wanted| peer != Some(wanted)) {
            return;
        }
        // Before the copy is made: a reader that does not read should cost little.
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

/// Where workers see whether there is a capture.
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
    /// The capture, if there is one: asked once a batch.
    pub(super) fn get(&self) -> Option<Arc<Tap>> {
        match self.open.load(Ordering::Relaxed) {
            true => Option::clone(&self.tap.load()),
            false => None,
        }
    }

    /// Makes this the capture from the next batch on.
    pub(super) fn set(&self, tap: Option<Arc<Tap>>) {
        let open = tap.is_some();
        self.tap.store(Arc::new(tap));
        self.open.store(open, Ordering::Relaxed);
    }
}

/// A capture, as a worker shows a batch to it.
pub(super) struct Look<'a> {
    pub(super) tap: &'a Tap,
    pub(super) snapshot: &'a RouteSnapshot,
}

impl Look<'_> {
    /// A packet on its way into the tunnel of `node`, or out of it.
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

    /// Datagrams of `stride` bytes each, the last may be shorter, between two addresses: ours first.
    #[cold]
    pub(super) fn outer(
        &self,
        received: bool,
        ends: [SocketAddr; 2],
        datagrams: &[u8],
        stride: usize,
    ) {
        if !self.tap.wants(PacketKind::Outer) {
            return;
        }
        for datagram in datagrams.chunks(stride.max(1)) {
            let node = self.owner(ends[1], received, datagram);
            let of = (node.map(|node| &node.name), received);
            self.tap.show(PacketKind::Outer, of, Some(ends), datagram);
        }
    }

    /// The node whose confirmed address that is; else whom an incoming datagram says that it is of.
    fn owner(
        &self,
        remote: SocketAddr,
        received: bool,
        datagram: &[u8],
    ) -> Option<&Arc<NodeShared>> {
        let known = self.snapshot.by_addr.get(&remote).copied();
        let idx = known.or_else(|| {
            let datagram = received.then_some(datagram)?;
            let session = native::index_of(datagram).map(NodeIdx::of_session);
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
            native.map(|node| node.idx).or_else(by_ids)
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
        let one = NodeIdx(1);
        let mut snapshot = snapshot([neighbour(one)], []);
        snapshot.by_addr.insert(addr(one), one);
        let node = snapshot.node(one).unwrap();
        let (id, name) = (node.id, node.name.clone());
        snapshot.by_id.insert(id, one);
        let (tap, mut packets) = Tap::open(filter([false, true, false], None, 2000));
        let look = Look {
            tap: &tap,
            snapshot: &snapshot,
        };
        let ours: SocketAddr = "0.0.0.0:655".parse().unwrap();
        let stranger: SocketAddr = "192.0.2.77:655".parse().unwrap();
        look.outer(false, [ours, addr(one)], &[7; 250], 100);
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
        look.outer(true, [ours, stranger], &from_one, 100);
        assert_eq!(packets.try_recv().unwrap().peer, Some(name));
        look.outer(true, [ours, stranger], &[9; 60], 100);
        assert_eq!(packets.try_recv().unwrap().peer, None);
    }
}
