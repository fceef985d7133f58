//! Tunnel keys of one node: REQ_KEY and ANS_KEY, and which session replaces which.
//!
//! No unauthenticated message ends a session. A handshake from the other side runs beside the
//! session in use, and replaces that session when it is complete (proto/threat-model.md section 0,
//! rule 4). Source: wire/tinc-1.1.md sections 2.6, 2.8, 3.6, 3.7.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_wire::{EdgeAddress, KeyAnswer, KeyRequest, NodeName, Options, Request};

use crate::{
    dialect::Dialect,
    mesh::{
        LinkId, Mesh,
        gossip::law::{self, Adds, Speaker, Statement},
        limits::Bucket,
        sessions::{legacy::Legacy, native::Native, rekey::TxPause, sptps::Sptps},
        topology::node::Nodes,
    },
    route::NodeIdx,
    tunnel::{
        RxKey, TxKey,
        sptps::{Tunnel, TunnelError, TunnelSetup},
    },
};

/// Time after which an incomplete handshake is started again. Source: wire/tinc-1.1.md section 2.8.
pub(in crate::mesh) const RETRY: Duration = Duration::from_secs(10);
/// Time after which a handshake is started again when a message of the other side did not match
/// ours.
pub(in crate::mesh) const RETRY_BROKEN: Duration = Duration::from_secs(1);
/// Handshakes, and renewals, that a node may start with us at once; then one in two seconds (T25,
/// T38).
const BURST: usize = 4;
/// Tunnels with one node.
#[derive(Default)]
pub(in crate::mesh) struct Keys {
    /// Native sessions. A native session is preferred over SPTPS.
    pub(in crate::mesh) native: Native,
    /// SPTPS sessions.
    pub(in crate::mesh) sptps: Sptps,
    /// Legacy keys, if the node speaks only legacy.
    pub(in crate::mesh) legacy: Legacy,
    /// Time at which the last handshake with the node started, no matter which side started it.
    pub(in crate::mesh) began: Option<Instant>,
    /// A pause in sending while the other side changes its keys.
    pub(in crate::mesh) pause: Option<TxPause>,
    /// True if the current renewal has had its pause: there is one for each renewal.
    pub(in crate::mesh) has_paused: bool,
    /// Budget of handshakes that the node may start.
    answers: Option<Bucket>,
    /// Budget of renewals in the session that the node may start.
    renewals: Option<Bucket>,
}

impl Keys {
    /// Returns true if data can be sent.
    pub(in crate::mesh) fn is_established(&self) -> bool {
        self.sptps.current.is_some() || self.native.is_established() || self.legacy.tx.is_some()
    }

    /// Returns true if our handshake waits for its answer.
    pub(in crate::mesh) fn is_waiting(&self) -> bool {
        self.sptps.asked.is_some() || self.native.is_waiting()
    }

    /// Returns the dialect of [`Self::tx`].
    pub(in crate::mesh) fn dialect(&self) -> Option<Dialect> {
        self.tx().map(|tx| tx.dialect())
    }

    /// Returns the sending key.
    pub(in crate::mesh) fn tx(&self) -> Option<Arc<TxKey>> {
        let legacy = || self.legacy.tx.clone();
        let sptps = || self.sptps.tx();
        self.native.tx().or_else(sptps).or_else(legacy)
    }

    /// Returns the receiving keys, most likely first.
    pub(in crate::mesh) fn rx(&self) -> Vec<Arc<RxKey>> {
        let legacy = self.legacy.rx.iter().cloned();
        self.native
            .rx()
            .chain(self.sptps.rx())
            .chain(legacy)
            .collect()
    }

    /// Handles a native session that took over: the SPTPS session expires at `at`, and its
    /// handshake is dropped.
    pub(in crate::mesh) fn retire_sptps(&mut self, at: Instant) {
        self.sptps.retire(at);
        self.pause = None;
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        let answers = self.answers.get_or_insert_with(|| Bucket::new(BURST, now));
        answers.take_slowly(2, BURST, now)
    }
}

impl Mesh {
    /// Starts a handshake with the node, if there is no key and no handshake.
    pub(in crate::mesh) fn ensure_session(&mut self, idx: NodeIdx, now: Instant) {
        if self.sessions[idx].is_established() {
            return;
        }
        match self.nodes[idx].reachability.legacy {
            true => self.want_legacy_key(idx, now),
            false => self.start_handshake(idx, now),
        }
    }

    pub(in crate::mesh) fn start_handshake(&mut self, idx: NodeIdx, now: Instant) {
        if idx != Nodes::ME && self.may_ask_native(idx) {
            // The option bit for native may be forged, so a node that does not answer at once gets
            // both handshakes.
            let unanswered = self.sessions[idx].native.is_unanswered(now);
            self.ask_native(idx, now);
            if !unanswered {
                return;
            }
        }
        let node = &self.nodes[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        if idx == Nodes::ME
            || !node.reachability.reachable
            || !node.has_sptps()
            || self.sessions[idx].sptps.asked.is_some_and(recent)
        {
            return;
        }
        let answering =
            self.sessions[idx].sptps.asked.is_none() && self.sessions[idx].sptps.pending.is_some();
        let unwanted = self.no_tunnel(idx) || !self.allows_sptps(idx);
        if answering && self.sessions[idx].began.is_some_and(recent) || unwanted {
            return;
        }
        let Some(setup) = self.tunnel_setup(idx) else {
            return;
        };
        let (tunnel, kex) = Tunnel::initiate(setup, &mut self.cx.rng);
        let line = Request::ReqKey {
            from: self.cx.settings.name.clone(),
            to: node.name().clone(),
            payload: KeyRequest::Start { kex, meshd: true },
        };
        let keys = &mut self.sessions[idx];
        keys.sptps.pending = Some(tunnel);
        keys.sptps.pending_meshd = None;
        keys.sptps.asked = Some(now);
        keys.sptps.broken = false;
        keys.began = Some(now);
        self.send_towards(idx, line.line(0).into());
    }

    /// Returns true if no tunnel is needed: a neighbour with TCPOnly at either end gets frames over
    /// the link.
    fn no_tunnel(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        let tcp_only = node.reachability.options.has(Options::TCP_ONLY)
            || self.cx.settings.options.has(Options::TCP_ONLY);
        node.link.is_some() && tcp_only
    }

    fn tunnel_setup(&self, idx: NodeIdx) -> Option<TunnelSetup> {
        let name = self.nodes[idx].name();
        let host = self.cx.settings.hosts.get(name)?;
        Some(TunnelSetup {
            key: self.cx.settings.key.clone(),
            name: self.cx.settings.name.clone(),
            peer: name.clone(),
            peer_key: host.key?,
            next_key: host.next,
            replay_window: self.cx.settings.replay_window,
            compression: self.cx.settings.suite.compression,
        })
    }

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
                let legacy = self.nodes[from].reachability.legacy;
                if !legacy && self.sessions[from].may_answer(now) {
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

    /// Answers a handshake of the node. `meshd` is true if its REQ_KEY has the word of a meshd.
    fn answer_handshake(&mut self, from: NodeIdx, kex: &[u8], meshd: bool, now: Instant) {
        let node = &self.nodes[from];
        if !node.reachability.reachable || !self.sessions[from].may_answer(now) {
            return;
        }
        // Both ends started at once: a real daemon gives way to our request; among meshds the name
        // decides.
        let ours = self.sessions[from]
            .sptps
            .asked
            .is_some_and(|at| now.saturating_duration_since(at) < RETRY);
        if ours && !(meshd && *node.name() < self.cx.settings.name) {
            return;
        }
        if self.no_tunnel(from) || !self.allows_sptps(from) {
            return;
        }
        let Some(setup) = self.tunnel_setup(from) else {
            tracing::warn!(node = %self.nodes[from].name(), "asks for a tunnel, but its host file has no Ed25519PublicKey");
            self.send_req_key(from, KeyRequest::ReqPubkey);
            return;
        };
        match Tunnel::respond(setup, kex, &mut self.cx.rng) {
            Ok((tunnel, answer)) => {
                let keys = &mut self.sessions[from];
                keys.sptps.pending = Some(tunnel);
                keys.sptps.pending_meshd = Some(meshd);
                keys.sptps.asked = None;
                keys.began = Some(now);
                self.send_ans_key(from, answer);
            }
            Err(why) => tracing::warn!(node = %self.nodes[from].name(), "tunnel refused: {why}"),
        }
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
            KeyAnswer::Legacy { key, suite } if self.nodes[from].reachability.legacy => {
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

    /// Handles a handshake datagram of the node.
    pub(in crate::mesh) fn handshake(&mut self, from: NodeIdx, datagram: &[u8], now: Instant) {
        let keys = &mut self.sessions[from];
        let mut result = None;
        let mut fresh = false;
        if let Some(pending) = &mut keys.sptps.pending {
            result = Some(pending.receive(datagram, &mut self.cx.rng));
            fresh = matches!(result, Some(Ok(_)));
        }
        if !fresh && let Some(current) = &mut keys.sptps.current {
            let mut renewals = keys
                .renewals
                .clone()
                .unwrap_or_else(|| Bucket::new(BURST, now));
            let before = current.is_about_to_switch();
            let other = match renewals.take_slowly(2, BURST, now) {
                true => current.receive(datagram, &mut self.cx.rng),
                false => current.receive_no_rekey(datagram),
            };
            if !before && current.is_about_to_switch() {
                keys.renewals = Some(renewals);
            }
            if other.is_ok() || result.is_none() {
                result = Some(other);
            }
        }
        match result {
            None => {
                tracing::debug!(node = %self.nodes[from].name(), "handshake message without a handshake")
            }
            Some(Err(TunnelError::TooSoon)) => {
                tracing::debug!(node = %self.nodes[from].name(), "{}", TunnelError::TooSoon);
            }
            Some(Err(why)) => {
                keys.sptps.broken = true;
                tracing::warn!(node = %self.nodes[from].name(), "tunnel handshake failed: {why}");
            }
            Some(Ok(answers)) => {
                // The key changes before the answer goes out: the other side may use its new key
                // after our answer.
                self.adopt(from, fresh, now);
                for answer in answers {
                    self.send_ans_key(from, answer);
                }
                self.after_handshake(from, now);
            }
        }
    }

    /// Runs after a handshake, when there may be a key: sends waiting packets and questions, and
    /// starts UDP discovery.
    pub(in crate::mesh) fn after_handshake(&mut self, idx: NodeIdx, now: Instant) {
        self.flush_waiting(idx, now);
        self.send_questions(idx);
        self.discover(idx, now);
    }

    /// Runs after an accepted handshake message: puts a completed session into use, or records a
    /// renewal.
    fn adopt(&mut self, idx: NodeIdx, fresh: bool, now: Instant) {
        let lifetime = self.cx.lifetime(Dialect::Sptps);
        let renew_at = lifetime.renew_at(&mut self.cx.rng, now);
        let keys = &mut self.sessions[idx];
        if fresh {
            if !keys
                .sptps
                .pending
                .as_ref()
                .is_some_and(Tunnel::is_established)
            {
                return;
            }
            keys.sptps.last = keys
                .sptps
                .current
                .as_ref()
                .map(Tunnel::rx)
                .unwrap_or_default();
            keys.sptps.last.truncate(2);
            keys.sptps.current = keys.sptps.pending.take();
            keys.sptps.meshd = keys.sptps.pending_meshd.take().unwrap_or(keys.sptps.meshd);
            keys.sptps.asked = None;
            keys.sptps.renewing = None;
            tracing::info!(node = %self.nodes[idx].name(), "tunnel established");
            self.note_spoken(idx, false);
        }
        let keys = &mut self.sessions[idx];
        let renewing = keys.sptps.current.as_ref().is_some_and(Tunnel::is_rekeying);
        if fresh || !renewing {
            keys.sptps.renew_at = Some(renew_at);
            keys.sptps.renewing = None;
            keys.has_paused = false;
        } else if keys.sptps.renewing.is_none() {
            keys.sptps.renewing = Some(now);
        }
        keys.sptps.expire_at = Some(now + lifetime.linger);
        self.update_state(idx);
    }

    /// Handles datagrams from the node's own address that did not open. The node may have lost its
    /// keys only if nothing else from it has opened lately (T26 of proto/threat-model.md).
    pub(in crate::mesh) fn handle_bad_tag(&mut self, idx: NodeIdx, now: Instant) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        if node.reachability.legacy {
            return self.legacy_unopened(idx, now);
        }
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        if self.paths[idx].is_active(now) && self.paths[idx].probes.unanswered <= 2
            || self.sessions[idx].began.is_some_and(recent)
        {
            return;
        }
        self.start_handshake(idx, now);
    }

    /// Drops the sessions of a node that became reachable or unreachable.
    ///
    /// The longest record of these sessions is forgotten too. A tincd may be told a length of
    /// legacy before its MTU search in SPTPS, where the kernel's limit is shorter. That tincd takes
    /// the length as its `minmtu`, asks for a probe of negative length, and exits (1.1~pre18).
    pub(in crate::mesh) fn drop_keys(&mut self, idx: NodeIdx) {
        _ = self.nodes[idx].shared.counters.take_longest();
        self.sessions.drop_keys(idx);
    }
}
