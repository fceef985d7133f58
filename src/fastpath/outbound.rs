//! From an IP packet to sealed datagrams: what our device gave us, and what we forward.

use std::{net::SocketAddr, sync::atomic::Ordering};

use bytes::Bytes;

use crate::{
    fastpath::{Sink, Step},
    mesh::event::Punt,
    route::{
        Broadcast, DropReason, ETHER, NodeIdx, NodeShared,
        path::{SendPath, send_path},
        router::{self, Verdict},
    },
    tunnel::TxKey,
    wire::{
        NodeId,
        datagram::{HEADER, RelayHeader},
    },
};

/// Room for number and type in front of the record data, and for the tag behind it, in bytes.
const HEAD: [u8; 5] = [0; 5];
const TAG: [u8; 16] = [0; 16];

impl<S: Sink> Step<'_, S> {
    /// Sends on one IP packet that our device gave us. The packet may be changed (MSS).
    pub fn from_device(&mut self, packet: &mut [u8]) {
        self.route(self.snapshot.me, packet);
    }

    /// Asks the router about one IP packet of `source` and does what it says.
    pub(super) fn route(&mut self, source: NodeIdx, packet: &mut [u8]) {
        match router::decide(self.snapshot, packet, source, self.limiter, self.now) {
            Verdict::Send(to) => self.seal(to, packet),
            Verdict::Local => self.sink.deliver(packet),
            Verdict::Broadcast => self.spread(source, packet),
            Verdict::Reply(reply) if source == self.snapshot.me => self.sink.deliver(&reply),
            Verdict::Reply(reply) => self.seal(source, &reply),
            Verdict::Fragments(to, pieces) => {
                pieces.iter().for_each(|piece| self.seal(to, piece));
            }
            Verdict::Drop(reason) => self.sink.dropped(reason),
        }
    }

    /// Spreads a broadcast. In direct mode only its origin does; along the tree every node passes it
    /// on to all others (tinc-config-cli.md section 6.6).
    fn spread(&mut self, source: NodeIdx, packet: &[u8]) {
        let settings = &self.snapshot.settings;
        let ours = source == self.snapshot.me;
        if !ours {
            self.sink.deliver(packet);
        }
        if ours || (settings.broadcast == Broadcast::Mst && !settings.tunnel_server) {
            let others = self.snapshot.broadcast.iter();
            others
                .filter(|to| **to != source)
                .for_each(|to| self.seal(*to, packet));
        }
    }

    /// Seals a packet for the tunnel of `to` and queues the datagram, or leaves it to the mesh where
    /// UDP does not do.
    fn seal(&mut self, to: NodeIdx, packet: &[u8]) {
        let Some(node) = self.snapshot.node(to) else {
            return self.sink.dropped(DropReason::NoRelay);
        };
        let path = send_path(self.snapshot, self.snapshot.me, to, packet.len(), false);
        let state = node.state.load();
        let (
            SendPath::Udp {
                to: addr,
                direct,
                header,
                ..
            },
            Some(key),
        ) = (path, &state.tx)
        else {
            let packet = Bytes::copy_from_slice(packet);
            return self.sink.punt(Punt::Packet { to, packet });
        };
        let Some(number) = key.claim(1) else {
            self.sink.dropped(DropReason::Exhausted);
            return self.sink.punt(Punt::Exhausted { node: to });
        };
        let header = header.then(|| self.header(node, direct));
        seal_into(self.sink, addr, header, (key, number), packet);
        node.counters.sent(packet.len() + ETHER);
    }

    fn header(&self, node: &NodeShared, direct: bool) -> RelayHeader {
        let me = self.snapshot.node(self.snapshot.me);
        RelayHeader {
            to: if direct { NodeId::DIRECT } else { node.id },
            from: me.map_or(NodeId::DIRECT, |me| me.id),
        }
    }

    /// Passes on a datagram between two other nodes, unopened, or leaves it to the mesh.
    pub(super) fn relay(&mut self, from: NodeIdx, to: NodeIdx, datagram: &[u8], record: usize) {
        let (Some(origin), Some(target)) = (self.snapshot.node(from), self.snapshot.node(to))
        else {
            return self.sink.dropped(DropReason::NoRelay);
        };
        match send_path(self.snapshot, from, to, record, false) {
            SendPath::Udp {
                to: addr,
                header: true,
                ..
            } => {
                let (to, from) = (target.id, origin.id);
                let header = RelayHeader { to, from }.to_bytes();
                self.sink.datagram(addr, &[&header, datagram]);
                target.counters.relayed.fetch_add(1, Ordering::Relaxed);
            }
            SendPath::Unreachable => self.sink.dropped(DropReason::NoRelay),
            _ => {
                let datagram = Bytes::copy_from_slice(datagram);
                self.sink.punt(Punt::Relay { to, from, datagram });
            }
        }
    }
}

/// Lays out one datagram, with or without ids, and seals it where it lies.
fn seal_into(
    sink: &mut impl Sink,
    to: SocketAddr,
    header: Option<RelayHeader>,
    (key, number): (&TxKey, u32),
    packet: &[u8],
) {
    if let Some(header) = header {
        let datagram = sink.datagram(to, &[&header.to_bytes(), &HEAD, packet, &TAG]);
        key.seal(number, 0, &mut datagram[HEADER..]);
    } else {
        let datagram = sink.datagram(to, &[&HEAD, packet, &TAG]);
        key.seal(number, 0, datagram);
    }
}
