//! REQ_KEY and ANS_KEY lines: for this node, or to be forwarded.
//!
//! Source: wire/tinc-1.1.md sections 3.6 and 3.7.

use std::time::Instant;

use bytes::Bytes;

use meshd_wire::{EdgeAddress, KeyAnswer, KeyRequest, NodeName, Request};

use crate::{
    mesh::{
        LinkId, Mesh,
        gossip::law::{self, Adds, Speaker, Statement},
        topology::node::Nodes,
    },
    route::NodeIdx,
};

impl Mesh {
    /// Handles `15 FROM TO …`: for this node, or to be forwarded.
    pub(in crate::mesh) fn handle_req_key(
        &mut self,
        link: LinkId,
        (from, to): (&NodeName, &NodeName),
        request: KeyRequest,
        line: &Bytes,
        now: Instant,
    ) {
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if to != Nodes::ME {
            if request.ext() == Some(KeyRequest::PACKET) && !self.cx.settings.route.tunnel_server {
                let by = self.active(link).map(|peer| peer.node);
                if let (KeyRequest::Packet(datagram), Some(by)) = (request, by) {
                    self.relay((from, to), by, datagram.into(), now);
                }
            } else if self.passes_req_key(from, to, &request) {
                self.pass_on(to, line.clone());
            }
            return;
        }
        self.answer_req_key(link, from, request, now);
    }

    /// Handles a REQ_KEY for this node.
    fn answer_req_key(&mut self, link: LinkId, from: NodeIdx, request: KeyRequest, now: Instant) {
        match request {
            KeyRequest::Start { kex, meshd } => self.answer_handshake(from, &kex, meshd, now),
            KeyRequest::NativeAsk(message) => self.answer_native(from, &message, now),
            KeyRequest::NativeAnswer(message) => self.native_answered(from, &message, now),
            KeyRequest::NativeConfirm(proof) => self.native_confirmed(from, proof, now),
            KeyRequest::NativeQuery(sealed) => self.handle_query(from, sealed),
            KeyRequest::ReqPubkey => {
                // A tinc 1.1 that stores this key no longer speaks legacy with us. See
                // `link::choice`.
                let caps = self.nodes[from].reachability.dialect.caps();
                if caps.handshakes && self.sessions[from].may_answer(now) {
                    let key = *self.cx.settings.key.public().as_bytes();
                    self.send_req_key(from, KeyRequest::AnsPubkey(key));
                }
            }
            KeyRequest::AnsPubkey(key) => self.answered_key(link, from, key),
            KeyRequest::Packet(datagram) => self.open_tunnelled(from, datagram.into(), now),
            KeyRequest::Legacy | KeyRequest::Other { ext: 0, .. } => self.legacy_asked(from, now),
            KeyRequest::Other { ext, .. } => {
                tracing::debug!(node = %self.nodes[from].name(), "ignored REQ_KEY with extension {ext}");
            }
        }
    }

    pub(in crate::mesh) fn send_req_key(&mut self, to: NodeIdx, payload: KeyRequest) {
        let line = Request::ReqKey {
            from: self.cx.settings.name.clone(),
            to: self.nodes[to].name().clone(),
            payload,
        };
        self.send_towards(to, line.line(0).into());
    }

    /// Handles `16 FROM TO …`: for this node, or to be forwarded with FROM's address if we know it.
    pub(in crate::mesh) fn handle_ans_key(
        &mut self,
        speaker: Speaker,
        (from, to): (&NodeName, &NodeName),
        (answer, address): (&KeyAnswer, Option<&EdgeAddress>),
        line: &Bytes,
        now: Instant,
    ) {
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if to != Nodes::ME {
            if self.passes_ans_key(from, to, answer) {
                let line = self.with_reflexive_address(from, to, address.is_some(), line);
                self.pass_on(to, line);
            }
            return;
        }
        let (datagram, compression) = match answer {
            KeyAnswer::Sptps {
                datagram,
                compression,
            } => (datagram, *compression),
            KeyAnswer::Legacy { key, suite } if self.uses_legacy(from) => {
                return self.legacy_answered(from, (key, *suite), address, now);
            }
            KeyAnswer::Legacy { .. } => {
                // A legacy key is never accepted for a node whose host file has an Ed25519 key
                // (T23, T24).
                tracing::debug!(node = %self.nodes[from].name(), "ignored a legacy ANS_KEY");
                return;
            }
            KeyAnswer::Other { .. } => return,
        };
        let keys = &mut self.sessions[from];
        let level = u8::try_from(compression).unwrap_or_default();
        keys.sptps
            .pending
            .iter_mut()
            .chain(&mut keys.sptps.current)
            .for_each(|tunnel| tunnel.compress_with(level));
        if !self.is_held_back(from, datagram, now) {
            self.handshake(from, datagram, now);
        }
        if let Some(addr) = address.and_then(EdgeAddress::known)
            && law::ruling(Statement::KeyAddress, speaker).adds == Adds::Candidate
            && self.sessions[from].is_established()
            && self.may_probe(addr)
        {
            self.suggest_address(from, addr, now);
        }
    }

    /// Appends the address of FROM's packets for TO: only a relay knows the address of a node
    /// behind NAT.
    fn with_reflexive_address(&self, from: NodeIdx, to: NodeIdx, has: bool, line: &Bytes) -> Bytes {
        let udp = &self.paths[from];
        let addr = udp.addr.filter(|_| udp.confirmed);
        let (false, true, Some(addr)) = (has, self.paths[to].pmtu.min > 0, addr) else {
            return line.clone();
        };
        let mut longer = line.to_vec();
        longer.extend_from_slice(format!(" {}", EdgeAddress::from(addr)).as_bytes());
        if longer.len() > crate::link::MAX_LINE {
            return line.clone();
        }
        longer.into()
    }

    pub(in crate::mesh) fn send_ans_key(&mut self, to: NodeIdx, datagram: Vec<u8>) {
        let keys = &self.sessions[to];
        let tunnel = keys.sptps.pending.as_ref().or(keys.sptps.current.as_ref());
        let line = Request::AnsKey {
            from: self.cx.settings.name.clone(),
            to: self.nodes[to].name().clone(),
            payload: KeyAnswer::Sptps {
                datagram,
                compression: tunnel.map_or(0, |tunnel| tunnel.compression().into()),
            },
            address: None,
        };
        self.send_towards(to, line.line(0).into());
    }
}
