//! SPTPS sessions with one node: the one in use, the one in its handshake, and the one before.
//!
//! No unauthenticated message ends a session. A handshake from the other side runs beside the
//! session in use, and replaces that session when it is complete (proto/threat-model.md section 0,
//! rule 4). Source: wire/tinc-1.1.md sections 2.6, 2.8, 3.7.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_wire::{KeyRequest, Options, Request};

use crate::{
    dialect::Dialect,
    mesh::{
        Mesh,
        limits::Bucket,
        sessions::keys::{BURST, RETRY},
        topology::node::Nodes,
    },
    route::NodeIdx,
    tunnel::{
        RxKey, TxKey,
        sptps::{Tunnel, TunnelError, TunnelSetup},
    },
};

/// Most receiving keys of SPTPS that are tried for one datagram.
const MAX_RX: usize = 4;

/// SPTPS sessions with one node.
#[derive(Default)]
pub(in crate::mesh) struct Sptps {
    /// The session in use.
    pub(in crate::mesh) current: Option<Tunnel>,
    /// A session in its handshake, started by either side.
    pub(in crate::mesh) pending: Option<Tunnel>,
    /// Keys of the session before `current`, for packets on the way.
    pub(in crate::mesh) last: Vec<Arc<RxKey>>,
    /// Time of our last REQ_KEY, while `pending` is ours.
    pub(in crate::mesh) asked: Option<Instant>,
    /// True if a message of the current handshake did not match: the retry comes sooner.
    pub(in crate::mesh) broken: bool,
    /// Start of an incomplete renewal that we started.
    pub(in crate::mesh) renewing: Option<Instant>,
    /// Time at which `current` is renewed.
    pub(in crate::mesh) renew_at: Option<Instant>,
    /// Time at which old receiving keys expire.
    pub(in crate::mesh) expire_at: Option<Instant>,
    /// Time at which the session expires after a native session has replaced it.
    pub(in crate::mesh) retire_at: Option<Instant>,
    /// True if the node has proven to be a meshd, which needs no pause in sending.
    pub(in crate::mesh) meshd: bool,
    /// The meshd word of the REQ_KEY that started `pending`, if the other side started it. The word
    /// counts only after the handshake: anybody can write a REQ_KEY.
    pub(in crate::mesh) pending_meshd: Option<bool>,
}

impl Sptps {
    /// Returns the sending key.
    pub(in crate::mesh) fn tx(&self) -> Option<Arc<TxKey>> {
        self.current.as_ref()?.tx()
    }

    /// Returns the receiving keys, most likely first.
    pub(in crate::mesh) fn rx(&self) -> impl Iterator<Item = Arc<RxKey>> + '_ {
        let current = self.current.iter().flat_map(Tunnel::rx);
        current.chain(self.last.iter().cloned()).take(MAX_RX)
    }

    /// Drops the handshake. The session in use expires at `at`.
    pub(in crate::mesh) fn retire(&mut self, at: Instant) {
        self.asked = None;
        self.pending = None;
        self.retire_at = self.current.is_some().then_some(at);
    }

    /// Drops a session that a native one has replaced, when its time has come. Returns true if
    /// there was one.
    pub(in crate::mesh) fn end_retired(&mut self, now: Instant) -> bool {
        let over = self.retire_at.take_if(|at| now >= *at).is_some();
        if over {
            self.current = None;
            self.last.clear();
            (self.renewing, self.renew_at, self.expire_at) = (None, None, None);
        }
        over
    }

    /// Drops old receiving keys that no packet can need any more, when their time has come. Returns
    /// true if there were any.
    pub(in crate::mesh) fn expire_old(&mut self, now: Instant, linger: Duration) -> bool {
        if self.expire_at.is_none_or(|at| now < at) {
            return false;
        }
        self.expire_at = Some(now + linger);
        let gone = self.current.as_mut().is_some_and(Tunnel::expire_old);
        let newest = self.current.as_ref();
        let newest = newest.and_then(|tunnel| tunnel.rx().into_iter().next());
        let confirmed = newest.is_some_and(|key| key.is_used());
        let last = confirmed && !self.last.is_empty();
        if last {
            self.last.clear();
        }
        last || gone
    }
}

impl Mesh {
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
            || !node.reachability.options.has_handshake()
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

    /// Answers a handshake of the node. `meshd` is true if its REQ_KEY has the word of a meshd.
    pub(super) fn answer_handshake(
        &mut self,
        from: NodeIdx,
        kex: &[u8],
        meshd: bool,
        now: Instant,
    ) {
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
}
