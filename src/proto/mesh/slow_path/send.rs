//! Sending: inner packets into tunnels, and sealed datagrams by UDP or over links.

use std::{net::SocketAddr, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};

use meshd_wire::{KeyRequest, NodeId, Request, ether};

use crate::{
    dialect::Dialect,
    mesh::{Mesh, Output, limits::CONGESTED, topology::node::Nodes},
    route::{
        Mode, NodeIdx, RouteSnapshot,
        path::{SendPath, carrier, send_path},
    },
    tunnel::TYPE_PROBE,
};

/// Longest tunnel datagram that fits a REQ_KEY line of 2,048 characters as base64. The limit covers
/// every packet of an MTU of 1,500. Source: wire/tinc-1.1.md section 3.7.
const MAX_BASE64: usize = 1_536;

impl Mesh {
    /// Sends one inner packet to a node.
    pub(in crate::mesh) fn send_packet(&mut self, to: NodeIdx, packet: Bytes, now: Instant) {
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
            SendPath::Udp { .. } | SendPath::Relayed(_) if self.sessions[to].is_paused() => {
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

    pub(super) fn show(&mut self, node: NodeIdx, received: bool, packet: &Bytes) {
        if let Some(node) = self.nodes.get(node).filter(|_| self.reports.is_capturing()) {
            self.cx.emit(Output::Seen {
                node: node.name().clone(),
                received,
                packet: packet.clone(),
            });
        }
    }

    /// Sends the packets that waited for a key.
    pub(in crate::mesh) fn flush_waiting(&mut self, idx: NodeIdx, now: Instant) {
        if !self.sessions[idx].is_established() {
            return;
        }
        for packet in self.sessions.take_waiting(idx) {
            self.send_packet(idx, packet, now);
        }
    }

    /// Seals one record in the node's tunnel.
    pub(in crate::mesh) fn seal(&self, to: NodeIdx, kind: u8, data: &[u8]) -> Option<Vec<u8>> {
        let keys = &self.sessions[to];
        let tx = keys.tx().filter(|_| !keys.is_paused())?;
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

    pub(super) fn with_header(
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
    pub(in crate::mesh) fn send_record(
        &mut self,
        idx: NodeIdx,
        to: SocketAddr,
        kind: u8,
        data: &[u8],
    ) {
        let Some(sealed) = self.seal(idx, kind, data) else {
            return;
        };
        let header = self.wants_ids(idx);
        let datagram = self.with_header(Nodes::ME, idx, (true, header), &sealed);
        self.cx.emit(Output::Datagram { to, datagram });
    }

    /// Returns true if datagrams sent directly to the node have ids in front.
    fn wants_ids(&self, idx: NodeIdx) -> bool {
        let dialect = self.sessions[idx].dialect().unwrap_or(Dialect::Sptps);
        self.nodes[idx].reachability.options.has_ids() && dialect.caps().direct_ids
    }

    /// Sends a tunnel datagram over the link to the nexthop.
    pub(super) fn send_relayed(&mut self, from: NodeIdx, to: NodeIdx, sealed: Vec<u8>) {
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
                payload: KeyRequest::Packet(sealed),
            };
            self.send_line(link, line.line(0).into());
        }
    }
}
