//! Receiving: frames and datagrams of links, datagrams that no worker can open, and inner packets.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use meshd_wire::{
    NodeId,
    datagram::{HEADER, RelayHeader},
    ether, ip,
};

use crate::{
    mesh::{LinkId, Mesh, Output, topology::node::Nodes},
    route::{
        ETHER, MTU, Mode, NodeIdx, NodeSlot,
        verdict::{self, Verdict},
    },
    tunnel::{self, RxKey, TYPE_MAC, TYPE_PROBE, TYPE_VOUCHED},
};

impl Mesh {
    /// Handles a frame received over a link as PACKET (17).
    pub(in crate::mesh) fn handle_frame(&mut self, link: LinkId, frame: &Bytes, now: Instant) {
        let Some(source) = self.active(link).map(|peer| peer.node) else {
            return;
        };
        // EtherType 0 is a stray probe of a real daemon (wire/tinc-1.1.md section 3.8).
        if frame.len() <= ETHER || frame[12..14] == [0, 0] {
            return;
        }
        let packet = match self.cx.settings.route.mode {
            Mode::Router => frame.slice(ETHER..),
            Mode::Switch | Mode::Hub => frame.clone(),
        };
        self.deliver_inner(source, packet, now);
    }

    /// Handles a relay datagram received over a link as SPTPS_PACKET (21).
    pub(in crate::mesh) fn handle_relayed(&mut self, link: LinkId, datagram: &Bytes, now: Instant) {
        let Some(by) = self.active(link).map(|peer| peer.node) else {
            return;
        };
        let Some(header) = RelayHeader::parse(datagram) else {
            return;
        };
        let snapshot = self.fresh_snapshot();
        let find = |id: NodeId| snapshot.idx_of(*snapshot.by_id.get(&id)?);
        let (Some(to), Some(from)) = (find(header.to), find(header.from)) else {
            return;
        };
        if from != Nodes::ME {
            self.relay((from, to), by, datagram.slice(12..), now);
        }
    }

    /// Opens a tunnel datagram for this node that was not received directly by UDP.
    pub(in crate::mesh) fn open_tunnelled(&mut self, from: NodeIdx, datagram: Bytes, now: Instant) {
        if self.nodes.get(from).is_none() {
            return;
        }
        match open(
            self.cx.settings.route.mode,
            &self.sessions[from].rx(),
            &datagram,
        ) {
            Some((kind, data)) => {
                if let Some(packet) = self.packet_in(kind, data) {
                    self.deliver_inner(from, packet, now);
                    self.tell_better_path(from, now);
                }
            }
            None => {
                if self.sessions[from].rx().is_empty() {
                    self.ensure_session(from, now);
                } else {
                    self.handle_bad_tag(from, now);
                }
            }
        }
    }

    /// Handles a datagram from an address that is not the confirmed one of any node.
    pub(super) fn unknown_datagram(&mut self, from: SocketAddr, datagram: Bytes, now: Instant) {
        if let Some(idx) = self.session_of(&datagram) {
            return self.on_direct_datagram(idx, from, &datagram, now);
        }
        let Some(header) = RelayHeader::parse(&datagram) else {
            return;
        };
        let snapshot = self.fresh_snapshot();
        let find = |id: NodeId| snapshot.idx_of(*snapshot.by_id.get(&id)?);
        let Some(idx) = find(header.from) else {
            match self.legacy_sender(from, &datagram, now) {
                Some(idx) => self.on_direct_datagram(idx, from, &datagram, now),
                None => self.nobody_opened(from, now),
            }
            return;
        };
        if idx == Nodes::ME {
            return;
        }
        if header.to != NodeId::DIRECT {
            // A datagram from an unknown address is dropped, as by every real daemon (T29). A relay
            // may regard our address as confirmed for longer than we regard its own. So the last
            // address of a reachable relay is accepted, and the relay is probed again.
            let relay = self
                .nodes
                .iter()
                .find(|(_, node)| {
                    self.paths[node.shared.idx].addr == Some(from) && node.reachability.reachable
                })
                .map(|(idx, _)| idx);
            let to = find(header.to);
            // The address is not confirmed, so the number of such datagrams is bounded.
            if let (Some(relay), Some(to)) = (relay, to)
                && self.slow_path.takes_unproven(now)
            {
                self.moved(relay, from, now);
                self.relay((idx, to), relay, datagram.slice(12..), now);
            }
            return;
        }
        self.on_direct_datagram(idx, from, &datagram[HEADER..], now);
    }

    /// Returns the node whose native session a datagram without ids belongs to.
    fn session_of(&mut self, datagram: &[u8]) -> Option<NodeIdx> {
        let slot = NodeSlot::of_session(tunnel::index_of(datagram)?);
        let idx = self.fresh_snapshot().idx_of(slot)?;
        let named = self.sessions[idx]
            .native
            .rx()
            .any(|key| key.is_named_by(datagram));
        named.then_some(idx)
    }

    /// Handles a tunnel datagram received directly from an address that is not the node's confirmed
    /// one.
    fn on_direct_datagram(
        &mut self,
        idx: NodeIdx,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        let node = &self.nodes[idx];
        let Some((kind, data)) = open(
            self.cx.settings.route.mode,
            &self.sessions[idx].rx(),
            datagram,
        ) else {
            if self.sessions[idx].rx().is_empty() {
                // The node has a tunnel with our former process. A new handshake is as rare as any
                // other, no matter who sent the datagram.
                self.ensure_session(idx, now);
            }
            return;
        };
        node.shared.counters.note_length(data.len());
        self.moved(idx, from, now);
        match kind {
            TYPE_PROBE => self.handle_probe(idx, from, &data, now),
            kind => {
                if let Some(packet) = self.packet_in(kind, data) {
                    self.deliver_inner(idx, packet, now);
                }
            }
        }
    }

    /// Returns the packet in a record of this type.
    fn packet_in(&self, kind: u8, data: Bytes) -> Option<Bytes> {
        let at = self.cx.settings.route.mode.packet_at(kind)?;
        (at < data.len()).then(|| data.slice(at..))
    }

    /// Counts and routes a packet from `source` that arrived by the slow path.
    fn deliver_inner(&mut self, source: NodeIdx, packet: Bytes, now: Instant) {
        let length = self.cx.settings.route.mode.frame_len(packet.len());
        if length > usize::from(MTU) {
            return;
        }
        self.nodes[source].shared.counters.received(1, length);
        self.show(source, true, &packet);
        let snapshot = self.fresh_snapshot();
        let mut packet = packet.to_vec();
        let Some(slot) = snapshot.slot_of(source) else {
            return;
        };
        match verdict::decide(
            &snapshot,
            &mut packet,
            slot,
            &mut self.slow_path.errors,
            now,
        ) {
            Verdict::Send(to) => {
                if let Some(to) = snapshot.idx_of(to) {
                    self.send_packet(to, packet.into(), now);
                }
            }
            Verdict::Local => self.cx.emit(Output::TunWrite(packet.into())),
            Verdict::Broadcast => {
                let packet = Bytes::from(packet);
                let all = snapshot.spread_to(slot);
                for to in all.filter_map(|to| snapshot.idx_of(to)) {
                    self.send_packet(to, packet.clone(), now);
                }
                if snapshot.spreads_here(slot) {
                    self.cx.emit(Output::TunWrite(packet));
                }
            }
            Verdict::Reply(reply) => {
                if source == Nodes::ME {
                    self.cx.emit(Output::TunWrite(reply.into()));
                } else {
                    self.send_packet(source, reply.into(), now);
                }
            }
            Verdict::Fragments(to, pieces) => {
                let Some(to) = snapshot.idx_of(to) else {
                    return;
                };
                for piece in pieces {
                    self.send_packet(to, piece.into(), now);
                }
            }
            Verdict::Drop(_) => {}
        }
    }
}

/// Opens a datagram with the matching key. Returns the record type and the data, with the packet's
/// checksum completed.
fn open(mode: Mode, keys: &[Arc<RxKey>], datagram: &[u8]) -> Option<(u8, Bytes)> {
    let mut bytes = datagram.to_vec();
    let opened = mode.seen(tunnel::open(keys, &mut bytes).ok()?);
    let data = opened.data(bytes.len());
    if opened.caps().vouches && opened.kind & TYPE_VOUCHED != 0 {
        let (kind, packet) = (opened.kind & !TYPE_VOUCHED, &mut bytes[data.clone()]);
        let ip = if kind == TYPE_MAC {
            ether::ip_at(packet)
        } else {
            0
        };
        ip::finish_checksum(&mut packet[ip..]);
        return Some((kind, Bytes::from(bytes).slice(data)));
    }
    let data = Bytes::from(bytes).slice(data);
    if opened.is_packed() {
        let (kind, data) = opened.unpack(&data)?;
        return Some((kind, data.into()));
    }
    match opened.kind {
        TYPE_PROBE => Some((TYPE_PROBE, opened.probe(data))),
        kind => Some((kind, data)),
    }
}
