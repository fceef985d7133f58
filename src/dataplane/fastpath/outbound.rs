//! From a packet to sealed datagrams: packets of our device, and forwarded packets.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use meshd_proto::{
    mesh::event::Punt,
    route::{
        DropReason, Mode, NodeIdx, NodeShared, NodeSlot, NodeState, copies,
        local::ForUs,
        path::{SendPath, carrier, own_path, send_path},
        router, source, switch,
        verdict::{self, Verdict},
    },
    tunnel::{TYPE_VOUCHED, TxKey},
};
use meshd_sync::Guard;
use meshd_wire::{
    NodeId,
    datagram::{HEADER, RelayHeader},
};

use crate::{
    fastpath::{
        Sink, Step, complete,
        runs::{MAX_RUN, MAX_RUN_NATIVE},
    },
    io::vnet::{Checksums, Header, Segments},
};

impl<'a, S: Sink> Step<'a, S> {
    /// Routes and sends one packet from our device. May change the packet (MSS).
    pub fn from_device(&mut self, packet: &mut [u8]) {
        self.learn(packet);
        self.route(self.snapshot.me, packet, Checksums::Complete);
    }

    /// Learns the source of a frame from our device.
    fn learn(&mut self, frame: &[u8]) {
        if self.snapshot.settings.mode == Mode::Switch
            && let Some(mac) = switch::sight(self.snapshot, frame)
        {
            self.sink.punt(Punt::NewMac { mac });
        }
    }

    /// Routes and sends one read of our device: a packet, or by its `header` a super-packet of up
    /// to 64 KiB. `scratch` must hold the longest packet in it. If the first segment goes by UDP,
    /// the others follow without another routing decision. All segments are equal in the fields
    /// that the router reads, and none is longer.
    pub fn from_device_super(&mut self, header: &Header, packet: &mut [u8], scratch: &mut [u8]) {
        if *header == Header::default() {
            return self.from_device(packet);
        }
        // The router may change the first packet, so its checksum must be computed.
        let ip = self.snapshot.settings.mode.ip_at(packet);
        let Ok(mut segments) = Segments::new(header, packet, ip) else {
            return self.sink.dropped(DropReason::Malformed);
        };
        let Some(length) = segments.next_into(scratch) else {
            return self.sink.dropped(DropReason::Malformed);
        };
        let (me, first) = (self.snapshot.me, &mut scratch[..length]);
        self.learn(first);
        let verdict = verdict::decide(self.snapshot, first, me, self.limiter, self.now);
        match verdict {
            Verdict::Send(to) if self.seal_all(to, first, &mut segments) => return,
            Verdict::Broadcast => {
                while let Some(length) = segments.next_into(scratch) {
                    copies::note_own_packet(self.snapshot, &scratch[..length], self.now);
                }
                return self.spread_super(header, packet, scratch);
            }
            verdict => self.obey(verdict, me, first),
        }
        while let Some(length) = segments.next_into(scratch) {
            self.from_device(&mut scratch[..length]);
        }
    }

    /// Floods one read of our device, as [`Self::spread`] does. Only the MSS of TCP depends on the
    /// path MTU, and the first packet of a flow is no super-packet.
    #[inline(never)] // kept out of the path of most packets, which becomes shorter
    fn spread_super(&mut self, header: &Header, packet: &[u8], scratch: &mut [u8]) {
        let ip = self.snapshot.settings.mode.ip_at(packet);
        for to in self.snapshot.spread_to(self.snapshot.me) {
            let Ok(mut segments) = Segments::new(header, packet, ip) else {
                return;
            };
            if let Some(length) = segments.next_into(scratch)
                && !self.seal_all(to, &scratch[..length], &mut segments)
            {
                self.send(to, &scratch[..length]);
                while let Some(length) = segments.next_into(scratch) {
                    self.send(to, &scratch[..length]);
                }
            }
        }
    }

    /// Asks the router about one packet of `source` and carries out the verdict.
    pub(super) fn route(&mut self, source: NodeSlot, packet: &mut [u8], checksums: Checksums) {
        if let Some(rule) = &self.for_us
            && rule.takes(packet, source)
        {
            if rule.is_counted {
                source::count(self.snapshot, source);
            }
            return self.sink.deliver(packet, checksums);
        }
        let mode = self.snapshot.settings.mode;
        let verdict = verdict::decide(self.snapshot, packet, source, self.limiter, self.now);
        if matches!(verdict, Verdict::Local) {
            if mode == Mode::Router {
                self.for_us = ForUs::like(self.snapshot, packet, source);
            }
            return self.sink.deliver(packet, checksums);
        }
        if matches!(verdict, Verdict::Broadcast)
            && mode != Mode::Router
            && self.snapshot.ends_here(source)
        {
            // The packet ends here, so its checksum may be left to the kernel.
            return self.sink.deliver(packet, checksums);
        }
        complete(mode, packet, checksums);
        self.obey(verdict, source, packet);
    }

    /// Carries out the router's verdict on a packet with complete checksums.
    fn obey(&mut self, verdict: Verdict, source: NodeSlot, packet: &mut [u8]) {
        match verdict {
            Verdict::Send(to) => self.send(to, packet),
            Verdict::Local => self.sink.deliver(packet, Checksums::Complete),
            Verdict::Broadcast => self.spread(source, packet),
            Verdict::Reply(mut reply) if source == self.snapshot.me => {
                self.sink.deliver(&mut reply, Checksums::Complete);
            }
            Verdict::Reply(reply) => self.send(source, &reply),
            Verdict::Fragments(to, pieces) => {
                pieces.iter().for_each(|piece| self.send(to, piece));
            }
            Verdict::Drop(reason) => self.sink.dropped(reason),
        }
    }

    /// Floods a broadcast to the nodes and the device that [`meshd_proto::route::broadcast`] names.
    fn spread(&mut self, source: NodeSlot, packet: &mut [u8]) {
        let snapshot = self.snapshot;
        let others = snapshot.spread_to(source);
        others.for_each(|to| self.send(to, packet));
        if snapshot.spreads_here(source) {
            self.sink.deliver(packet, Checksums::Complete);
        }
    }

    /// Seals a packet for the tunnel of `to` and queues the datagram. Parks the packet while the
    /// node changes keys, and punts it if it cannot go by UDP.
    pub fn send(&mut self, to: NodeSlot, packet: &[u8]) {
        let Some(Carrier { owner, node, state }) = self.carrier(to, packet.len()) else {
            return self.sink.dropped(DropReason::NoRelay);
        };
        if state.paused {
            return self.sink.park(owner.idx, packet);
        }
        let Some(way) = self.way(node, &state, packet.len()) else {
            let (to, packet) = (owner.idx, Bytes::copy_from_slice(packet));
            return self.sink.punt(Punt::Packet { to, packet });
        };
        self.take_turn(node, way.key);
        let Some(number) = way.key.claim(1) else {
            self.sink.dropped(DropReason::Exhausted);
            return self.sink.punt(Punt::Exhausted { node: node.idx });
        };
        self.inherit(packet);
        self.sink.show(owner, false, packet, Checksums::Complete);
        let mode = self.snapshot.settings.mode;
        let kind = mode.record_type();
        way.seal(self.sink, number, kind, packet.len(), |room| {
            room.copy_from_slice(packet);
        });
        owner.counters.sent(1, mode.frame_len(packet.len()));
    }

    /// Sends a packet that was parked, unless its node is forgotten.
    pub fn send_parked(&mut self, to: NodeIdx, packet: &[u8]) {
        match self.snapshot.slot_of(to) {
            Some(to) => self.send(to, packet),
            None => self.sink.dropped(DropReason::NoRelay),
        }
    }

    /// Returns the node that carries a packet for `to`.
    fn carrier(&self, to: NodeSlot, length: usize) -> Option<Carrier<'a>> {
        let owner = self.snapshot.node(to)?;
        let state = owner.state.load();
        if state.dialect.caps().end_to_end {
            let node = owner;
            return Some(Carrier { owner, node, state });
        }
        let node = self.snapshot.node(carrier(self.snapshot, to, length))?;
        let state = node.state.load();
        Some(Carrier { owner, node, state })
    }

    /// Seals a super-packet for the tunnel of `to`: its first packet and all following ones, each
    /// cut where it is sealed. Returns `false` without an effect if not all of them can be sent
    /// this way.
    fn seal_all(&mut self, to: NodeSlot, first: &[u8], others: &mut Segments<'_>) -> bool {
        let Some(Carrier { owner, node, state }) = self.carrier(to, first.len()) else {
            return false;
        };
        if state.paused || self.sink.is_capturing() {
            return false;
        }
        let Some(way) = self.way(node, &state, first.len()) else {
            return false;
        };
        self.take_turn(node, way.key);
        // A super-packet has at most 65,535 bytes, and each segment at least one.
        let Some(mut number) = way.key.claim(1 + others.left() as u32) else {
            return false;
        };
        self.inherit(first);
        let mode = self.snapshot.settings.mode;
        let mut kind = mode.record_type();
        way.seal(self.sink, number, kind, first.len(), |room| {
            room.copy_from_slice(first);
        });
        let not_carried = mode.frame_len(0);
        let (mut packets, mut bytes) = (1, first.len() + not_carried);
        // Peers with tinc write packets unchanged, so every checksum must be computed.
        if way.key.caps().vouches {
            others.vouch();
            if others.checksums() == Checksums::Vouched {
                kind |= TYPE_VOUCHED;
            }
        }
        while let Some(length) = others.next_len() {
            number += 1;
            way.seal(self.sink, number, kind, length, |room| {
                others.next_into(room);
            });
            packets += 1;
            bytes += length + not_carried;
        }
        owner.counters.sent(packets, bytes);
        true
    }

    /// If several threads send in a dialect with a short replay window, numbers must leave in the order of their claims.
    fn take_turn(&mut self, node: &'a NodeShared, key: &TxKey) {
        if let Some(turns) = self.turns.as_mut().filter(|_| key.caps().ordered) {
            let sink = &mut *self.sink;
            turns.take(node, || sink.send_off());
        }
    }

    /// PriorityInheritance: datagrams get the type of service of their packet.
    fn inherit(&mut self, packet: &[u8]) {
        let settings = &self.snapshot.settings;
        if settings.priority_inheritance {
            let packet = packet.get(settings.mode.ip_at(packet)..);
            self.sink.priority(packet.map_or(0, router::priority));
        }
    }

    /// Returns the UDP path of packets of up to `longest` bytes to `node`, if there is one.
    fn way<'s>(&self, node: &NodeShared, state: &'s NodeState, longest: usize) -> Option<Way<'s>> {
        let me = self.snapshot.me;
        let SendPath::Udp {
            to, direct, header, ..
        } = own_path(self.snapshot, (node.idx.slot(), state), longest)
        else {
            return None;
        };
        let me = self.snapshot.node(me);
        let header = header.then(|| RelayHeader {
            to: if direct { NodeId::DIRECT } else { node.id },
            from: me.map_or(NodeId::DIRECT, |me| me.id),
        });
        let key = state.tx.as_deref()?;
        Some(Way { to, header, key })
    }

    /// Relays a datagram between two other nodes from `by` unopened, or punts it to the mesh.
    pub(super) fn relay(
        &mut self,
        (from, to): (NodeSlot, NodeSlot),
        by: NodeSlot,
        datagram: &[u8],
        record: usize,
    ) {
        let (Some(origin), Some(target)) = (self.snapshot.node(from), self.snapshot.node(to))
        else {
            return self.sink.dropped(DropReason::NoRelay);
        };
        let path = send_path(self.snapshot, from, to, record, false);
        if path.hop().is_some_and(|hop| hop == by || hop == from) {
            return self.sink.dropped(DropReason::RoutingLoop);
        }
        let recent = &self.snapshot.recent;
        if !recent.admits_datagram(origin.id, target.id, datagram) {
            return self.sink.dropped(DropReason::Repeated);
        }
        match path {
            SendPath::Udp {
                to: addr,
                header: true,
                ..
            } => {
                let (to, from) = (target.id, origin.id);
                let header = RelayHeader { to, from }.to_bytes();
                self.sink.priority(0);
                let room = self.sink.datagram(addr, MAX_RUN, HEADER + datagram.len());
                room[..HEADER].copy_from_slice(&header);
                room[HEADER..].copy_from_slice(datagram);
                target.counters.relayed.fetch_add(1, Ordering::Relaxed);
            }
            SendPath::Unreachable => self.sink.dropped(DropReason::NoRelay),
            _ => {
                let Some(by) = self.snapshot.idx_of(by) else {
                    return self.sink.dropped(DropReason::NoRelay);
                };
                self.sink.punt(Punt::Relay {
                    to: target.idx,
                    from: origin.idx,
                    by,
                    datagram: Bytes::copy_from_slice(datagram),
                });
            }
        }
    }
}

/// The node that carries a packet.
struct Carrier<'a> {
    /// Destination of the packet.
    owner: &'a Arc<NodeShared>,
    /// The node whose tunnel carries the packet: the destination, or for a legacy node perhaps one
    /// on the path.
    node: &'a Arc<NodeShared>,
    /// Current state of `node`.
    state: Guard<Arc<NodeState>>,
}

/// UDP path of our packets to a node.
struct Way<'a> {
    to: SocketAddr,
    /// Header in front of the record, if any.
    header: Option<RelayHeader>,
    key: &'a TxKey,
}

impl Way<'_> {
    /// Queues one datagram: `write` puts the `length` bytes of its packet where they are sealed.
    fn seal(
        &self,
        sink: &mut impl Sink,
        number: u64,
        kind: u8,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) {
        let most = match self.key.caps().long_runs {
            true => MAX_RUN_NATIVE,
            false => MAX_RUN,
        };
        let skip = self.header.map_or(0, |_| HEADER);
        self.key.seal_into(number, kind, length, write, |sealed| {
            let (ids, record) = sink
                .datagram(self.to, most, skip + sealed)
                .split_at_mut(skip);
            if let Some(header) = self.header {
                ids.copy_from_slice(&header.to_bytes());
            }
            record
        });
    }
}
