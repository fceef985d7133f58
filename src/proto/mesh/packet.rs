//! The slow path of packets: punts of the workers and packets received over TCP.
//!
//! The slow path uses the same [`verdict::decide`] and [`path::send_path`] as the workers.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};

use meshd_wire::{
    NodeId, Request, base64,
    datagram::{HEADER, RelayHeader},
    ether, ip,
};

use crate::{
    mesh::{
        LinkId, Mesh, Output, Punt,
        limits::{Bucket, CONGESTED},
        sessions::keys::EXT_PACKET,
        topology::node::Nodes,
    },
    route::{
        ETHER, MTU, Mode, NodeIdx, NodeSlot, RouteSnapshot,
        path::{SendPath, carrier, send_path},
        verdict::{self, ErrorLimiter, Verdict},
    },
    tunnel::{self, RxKey, SPTPS_OVERHEAD, TYPE_MAC, TYPE_PROBE, TYPE_VOUCHED, native},
};

/// Longest tunnel datagram that fits a REQ_KEY line of 2,048 characters as base64. The limit covers
/// every packet of an MTU of 1,500. Source: wire/tinc-1.1.md section 3.7.
const MAX_BASE64: usize = 1_536;

/// Datagrams a second, and at once, that are forwarded from addresses that are no longer confirmed.
const UNPROVEN: u32 = 1_000;

/// Limits of the slow path.
pub(super) struct SlowPath {
    errors: ErrorLimiter,
    /// Budget of relayed datagrams from addresses that are no longer confirmed.
    unproven: Bucket,
}

impl SlowPath {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            errors: ErrorLimiter::default(),
            unproven: Bucket::new(UNPROVEN as usize, now),
        }
    }
}

impl Mesh {
    pub(super) fn handle_punt(&mut self, punt: Punt, now: Instant) {
        match punt {
            Punt::Packet { to, packet } => self.send_packet(to, packet, now),
            Punt::Datagram { from, datagram } => self.unknown_datagram(from, datagram, now),
            Punt::Probe { node, from, data } => {
                self.handle_probe(node, from, &data, now);
            }
            Punt::Relay {
                to,
                from,
                by,
                datagram,
            } => self.relay_on((from, to), by, datagram, now),
            Punt::NewMac { mac } => self.learn(mac, now),
            Punt::BadTag { node } => self.handle_bad_tag(node, now),
            Punt::Exhausted { node } => {
                // Sequence numbers continue over renewals: only a new session starts from zero
                // (T10).
                match self.nodes.get(node).map(|node| node.reachability.legacy) {
                    Some(true) => self.ask_legacy_key(node, now),
                    Some(false) => self.start_handshake(node, now),
                    None => {}
                }
            }
        }
    }

    /// Sends one inner packet to a node.
    pub(super) fn send_packet(&mut self, to: NodeIdx, packet: Bytes, now: Instant) {
        let snapshot = self.fresh_snapshot();
        let mode = snapshot.settings.mode;
        let carrier = snapshot
            .slot_of(to)
            .and_then(|to| snapshot.idx_of(carrier(&snapshot, to, packet.len())));
        let (owner, Some(to)) = (to, carrier) else {
            return;
        };
        let node = self.nodes.get(to);
        if !node.is_some_and(|node| node.reachability.reachable) {
            return;
        }
        let kind = mode.record_type();
        match send_path(&snapshot, snapshot.me, to.slot(), packet.len(), false) {
            SendPath::Udp { .. } | SendPath::Relayed(_) if self.sessions[to].is_resting() => {
                self.sessions.enqueue(to, packet);
            }
            SendPath::Udp { to: addr, .. } => {
                self.sent(owner, &packet);
                self.send_sealed(&snapshot, to, addr, kind, &packet);
            }
            SendPath::Frame(hop) => {
                let hop = snapshot.idx_of(hop);
                let Some(link) = hop.and_then(|hop| self.nodes[hop].link) else {
                    return;
                };
                self.sent(owner, &packet);
                let frame = match mode {
                    Mode::Router => [&ether::made_up(&packet), &*packet].concat().into(),
                    Mode::Switch | Mode::Hub => packet,
                };
                self.cx.emit(Output::SendFrame { to: link, frame });
                self.ensure_session(to, now);
            }
            SendPath::Relayed(_) => {
                self.sent(owner, &packet);
                if let Some(datagram) = self.seal(to, kind, &packet) {
                    self.send_relayed(Nodes::ME, to, datagram);
                }
            }
            SendPath::NoKey => {
                self.sessions.enqueue(to, packet);
                self.ensure_session(to, now);
            }
            SendPath::Unreachable => {}
        }
        // A key for the static relay may let packets of a legacy node skip a part of the path.
        if owner != to {
            let via = self.nodes[owner].reachability.via;
            if via != Nodes::ME {
                self.ensure_session(via, now);
            }
        }
    }

    /// Counts an inner packet sent to a node, and reports it to a capture.
    fn sent(&mut self, to: NodeIdx, packet: &Bytes) {
        let length = self.cx.settings.route.mode.frame_len(packet.len());
        if let Some(node) = self.nodes.get(to) {
            node.shared.counters.sent(1, length);
        }
        self.show(to, false, packet);
    }

    fn show(&mut self, node: NodeIdx, received: bool, packet: &Bytes) {
        if let Some(node) = self.nodes.get(node).filter(|_| self.reports.is_capturing()) {
            self.cx.emit(Output::Seen {
                node: node.name().clone(),
                received,
                packet: packet.clone(),
            });
        }
    }

    /// Sends the packets that waited for a key.
    pub(super) fn flush_waiting(&mut self, idx: NodeIdx, now: Instant) {
        if !self.sessions[idx].is_established() {
            return;
        }
        for packet in self.sessions.take_waiting(idx) {
            self.send_packet(idx, packet, now);
        }
    }

    /// Seals one record in the node's tunnel.
    pub(super) fn seal(&self, to: NodeIdx, kind: u8, data: &[u8]) -> Option<Vec<u8>> {
        let keys = &self.sessions[to];
        let tx = keys.tx().filter(|_| !keys.is_resting())?;
        let seq = tx.claim(1)?;
        Some(tx.sealed(seq, kind, data))
    }

    /// Seals a record and sends it by UDP, with the header that the path needs.
    fn send_sealed(
        &mut self,
        snapshot: &RouteSnapshot,
        to: NodeIdx,
        addr: SocketAddr,
        kind: u8,
        data: &[u8],
    ) {
        let path = send_path(
            snapshot,
            snapshot.me,
            to.slot(),
            data.len(),
            kind == TYPE_PROBE,
        );
        let Some(sealed) = self.seal(to, kind, data) else {
            return;
        };
        let (direct, header) = match path {
            SendPath::Udp { direct, header, .. } if kind != TYPE_PROBE => (direct, header),
            _ => (true, self.wants_ids(to)),
        };
        let datagram = self.with_header(Nodes::ME, to, (direct, header), &sealed);
        self.cx.emit(Output::Datagram { to: addr, datagram });
    }

    fn with_header(
        &self,
        from: NodeIdx,
        to: NodeIdx,
        (direct, header): (bool, bool),
        sealed: &[u8],
    ) -> Bytes {
        let mut out = BytesMut::with_capacity(sealed.len() + 12);
        if header {
            let to = if direct {
                NodeId::DIRECT
            } else {
                self.nodes[to].shared.id
            };
            out.put_slice(&to.0);
            out.put_slice(&self.nodes[from].shared.id.0);
        }
        out.put_slice(sealed);
        out.freeze()
    }

    /// Seals a record and sends it directly to an address of the node, confirmed or not: for
    /// probes.
    pub(super) fn send_record(&mut self, idx: NodeIdx, to: SocketAddr, kind: u8, data: &[u8]) {
        let Some(sealed) = self.seal(idx, kind, data) else {
            return;
        };
        let header = self.wants_ids(idx);
        let datagram = self.with_header(Nodes::ME, idx, (true, header), &sealed);
        self.cx.emit(Output::Datagram { to, datagram });
    }

    /// Returns true if datagrams sent directly to the node have ids in front.
    fn wants_ids(&self, idx: NodeIdx) -> bool {
        let native = self.sessions[idx].native.is_established();
        self.nodes[idx].reachability.options.has_ids() && !native
    }

    /// Sends a tunnel datagram over the link to the nexthop.
    fn send_relayed(&mut self, from: NodeIdx, to: NodeIdx, sealed: Vec<u8>) {
        let hop = self.nodes[to].reachability.nexthop;
        let Some(link) = self.nodes.get(hop).and_then(|hop| hop.link) else {
            return;
        };
        if self.nodes[hop].minor() >= 7 {
            let datagram = self.with_header(from, to, (false, true), &sealed);
            self.cx.emit(Output::SendRelayed { to: link, datagram });
        } else if sealed.len() <= MAX_BASE64 && self.unsent_towards(to) < CONGESTED {
            let line = Request::ReqKey {
                from: self.nodes[from].name().clone(),
                to: self.nodes[to].name().clone(),
                ext: Some(EXT_PACKET),
                text: base64::encode(&sealed),
            };
            self.send_line(link, line.line(0).into());
        }
    }

    /// Handles a tunnel datagram that `by` sent to us. Opens or forwards it, unless the same
    /// datagram was forwarded before.
    pub(super) fn relay(
        &mut self,
        (from, to): (NodeIdx, NodeIdx),
        by: NodeIdx,
        datagram: Bytes,
        now: Instant,
    ) {
        let (Some(origin), Some(target)) = (self.nodes.get(from), self.nodes.get(to)) else {
            return;
        };
        let (origin, target) = (origin.shared.id, target.shared.id);
        let recent = &self.publisher.snapshot().recent;
        if to == Nodes::ME || recent.admits_datagram(origin, target, &datagram) {
            self.relay_on((from, to), by, datagram, now);
        }
    }

    /// Opens a tunnel datagram for this node, or forwards it, but never back to its sender.
    fn relay_on(
        &mut self,
        (from, to): (NodeIdx, NodeIdx),
        by: NodeIdx,
        datagram: Bytes,
        now: Instant,
    ) {
        if to == Nodes::ME {
            self.open_tunnelled(from, datagram, now);
            return;
        }
        let (Some(_), Some(node)) = (self.nodes.get(from), self.nodes.get(to)) else {
            return;
        };
        // Drop datagrams in our own name (T29).
        if from == Nodes::ME || !node.reachability.reachable || datagram.len() < SPTPS_OVERHEAD {
            return;
        }
        let snapshot = self.fresh_snapshot();
        let length = datagram.len() - SPTPS_OVERHEAD;
        let path = send_path(&snapshot, from.slot(), to.slot(), length, false);
        let hop = path.hop().and_then(|hop| snapshot.idx_of(hop));
        if hop.is_some_and(|hop| hop == by || hop == from) {
            return;
        }
        match path {
            SendPath::Udp {
                to: addr,
                direct,
                header,
                ..
            } => {
                let datagram = self.with_header(from, to, (direct, header), &datagram);
                self.cx.emit(Output::Datagram { to: addr, datagram });
            }
            SendPath::Relayed(_) | SendPath::Frame(_) => {
                self.send_relayed(from, to, datagram.to_vec())
            }
            SendPath::NoKey | SendPath::Unreachable => {}
        }
    }

    /// Handles a frame received over a link as PACKET (17).
    pub(super) fn handle_frame(&mut self, link: LinkId, frame: &Bytes, now: Instant) {
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
    pub(super) fn handle_relayed(&mut self, link: LinkId, datagram: &Bytes, now: Instant) {
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
    pub(super) fn open_tunnelled(&mut self, from: NodeIdx, datagram: Bytes, now: Instant) {
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
    fn unknown_datagram(&mut self, from: SocketAddr, datagram: Bytes, now: Instant) {
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
                && self
                    .slow_path
                    .unproven
                    .take(UNPROVEN, UNPROVEN as usize, now)
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
        let slot = NodeSlot::of_session(native::index_of(datagram)?);
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
        node.shared.counters.came(data.len());
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
                if source != Nodes::ME {
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
    if opened.is_native() && opened.kind & TYPE_VOUCHED != 0 {
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
