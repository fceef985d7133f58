//! Tunnel keys of one node: REQ_KEY and ANS_KEY, and what replaces what.
//!
//! No session is torn down by an unauthenticated message: a handshake that the other side starts is kept
//! beside the session in use, and replaces it when it is complete (proto/threat-model.md section 0, rule 4).
//! Source: wire/tinc-1.1.md sections 2.6, 2.8, 3.6, 3.7.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_wire::{EdgeAddress, NodeName, Options, Request, base64};

use crate::{
    mesh::{
        LinkId, Mesh,
        legacy::Legacy,
        limits::Bucket,
        native::{EXT_ANSWER, EXT_ASK, EXT_CONFIRM, Native},
        node::Nodes,
        query::EXT_QUERY,
        renew::Hold,
    },
    route::NodeIdx,
    tunnel::{
        RxKey, TxKey,
        sptps::{Tunnel, TunnelError, TunnelSetup},
    },
};

/// A handshake that is not complete after this long is started again. Source: wire/tinc-1.1.md section 2.8.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// The same where a message of the other side did not fit ours.
pub(super) const RETRY_BROKEN: Duration = Duration::from_secs(1);
/// How long a receiving key outlives its successor's first packet.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// Handshakes that a node may begin with us at once, and renewals: then one in two seconds (T25, T38).
const BURST: usize = 4;
/// Trailing word of our REQ_KEY lines. Real daemons ignore it and pass it on; it tells another meshd that the
/// tie of a simultaneous start may be broken by name (wire/tinc-1.1.md sections 3.6 and 8.5).
const TIE_BREAK: &[u8] = b" meshd";

/// REQ_KEY extension: start a tunnel.
pub(super) const EXT_START: i32 = 15;
/// REQ_KEY extension: send me your public key.
pub(super) const EXT_REQ_PUBKEY: i32 = 19;
/// REQ_KEY extension: here is my public key.
const EXT_ANS_PUBKEY: i32 = 20;
/// REQ_KEY extension: a packet in base64.
pub(super) const EXT_PACKET: i32 = 21;

/// The tunnels with one node.
#[derive(Default)]
pub(super) struct Keys {
    /// Native sessions. They come before SPTPS wherever there is one.
    pub(super) native: Native,
    /// Keys of the legacy protocol, where the node speaks nothing else.
    pub(super) legacy: Legacy,
    /// The session in use.
    pub(super) current: Option<Tunnel>,
    /// One that is being made: by us or by them.
    pub(super) pending: Option<Tunnel>,
    /// Keys of the session before `current`, for packets on the way.
    pub(super) last: Vec<Arc<RxKey>>,
    /// When we last sent a REQ_KEY, while `pending` is ours.
    pub(super) asked: Option<Instant>,
    /// A message of the handshake under way did not fit: no use to wait long.
    pub(super) broken: bool,
    /// When the last handshake with the node began, whoever began it.
    pub(super) began: Option<Instant>,
    /// A renewal that we started and that is not complete.
    pub(super) renewing: Option<Instant>,
    /// When `current` is to be renewed.
    pub(super) renew_at: Option<Instant>,
    /// When old receiving keys may go.
    pub(super) expire_at: Option<Instant>,
    /// When the SPTPS session may go that a native one has replaced.
    pub(super) retire_at: Option<Instant>,
    /// Sending rests while the other side changes its keys.
    pub(super) hold: Option<Hold>,
    /// Whether the renewal under way has had its hold: it gets one.
    pub(super) held: bool,
    /// Whether the node has shown itself as a meshd, which needs no hold.
    pub(super) meshd: bool,
    /// What the REQ_KEY said of it that `pending` comes from, if it is theirs. Not believed before the
    /// session is made: anybody can write a REQ_KEY.
    pending_meshd: Option<bool>,
    /// Handshakes that the node may begin.
    answers: Option<Bucket>,
    /// Renewals in the session that the node may begin.
    renewals: Option<Bucket>,
}

impl Keys {
    /// Whether data can be sent.
    pub(super) fn is_established(&self) -> bool {
        self.current.is_some() || self.native.is_established() || self.legacy.tx.is_some()
    }

    /// Whether a handshake of ours waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked.is_some() || self.native.is_waiting()
    }

    /// The sending key.
    pub(super) fn tx(&self) -> Option<Arc<TxKey>> {
        let sptps = || self.current.as_ref()?.tx();
        let legacy = || self.legacy.tx.clone();
        self.native.tx().or_else(sptps).or_else(legacy)
    }

    /// Receiving keys, most likely first.
    pub(super) fn rx(&self) -> Vec<Arc<RxKey>> {
        let sptps = self.current.iter().flat_map(Tunnel::rx);
        let sptps = sptps.chain(self.last.iter().cloned()).take(4);
        let legacy = self.legacy.rx.iter().cloned();
        self.native.rx().chain(sptps).chain(legacy).collect()
    }

    /// A native session has taken over: the SPTPS session goes at `at`, and no handshake is wanted.
    pub(super) fn retire_sptps(&mut self, at: Instant) {
        self.asked = None;
        self.pending = None;
        self.hold = None;
        self.retire_at = self.current.is_some().then_some(at);
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        let answers = self.answers.get_or_insert_with(|| Bucket::new(BURST, now));
        answers.take_slowly(2, BURST, now)
    }
}

impl Mesh {
    /// Starts a handshake with the node if it needs one and none is under way.
    pub(super) fn want_key(&mut self, idx: NodeIdx, now: Instant) {
        if self.nodes[idx].keys.is_established() {
            return;
        }
        match self.nodes[idx].place.legacy {
            true => self.want_legacy_key(idx, now),
            false => self.start_handshake(idx, now),
        }
    }

    pub(super) fn start_handshake(&mut self, idx: NodeIdx, now: Instant) {
        if idx != Nodes::ME && self.may_ask_native(idx) {
            // The hint that the node speaks native may be a lie: who does not answer at once gets both.
            let unanswered = self.nodes[idx].keys.native.is_unanswered(now);
            self.ask_native(idx, now);
            if !unanswered {
                return;
            }
        }
        let node = &self.nodes[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        if idx == Nodes::ME
            || !node.place.reachable
            || !node.has_sptps()
            || node.keys.asked.is_some_and(recent)
        {
            return;
        }
        let answering = node.keys.asked.is_none() && node.keys.pending.is_some();
        let unwanted = self.no_tunnel(idx) || !self.allows_sptps(idx);
        if answering && node.keys.began.is_some_and(recent) || unwanted {
            return;
        }
        let Some(setup) = self.tunnel_setup(idx) else {
            return;
        };
        let (tunnel, kex) = Tunnel::initiate(setup, &mut self.rng);
        let line = Request::ReqKey {
            from: self.settings.name.clone(),
            to: node.name().clone(),
            ext: Some(EXT_START),
            text: base64::encode(&kex),
        };
        let mut line = line.line(0).into_bytes();
        line.extend_from_slice(TIE_BREAK);
        let keys = &mut self.nodes[idx].keys;
        keys.pending = Some(tunnel);
        keys.pending_meshd = None;
        keys.asked = Some(now);
        keys.broken = false;
        keys.began = Some(now);
        self.send_towards(idx, Bytes::from(line));
    }

    /// Neighbours of which one insists on TCP need no tunnel: frames go over the link.
    fn no_tunnel(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        let tcp_only = node.place.options.has(Options::TCP_ONLY)
            || self.settings.options.has(Options::TCP_ONLY);
        node.link.is_some() && tcp_only
    }

    fn tunnel_setup(&self, idx: NodeIdx) -> Option<TunnelSetup> {
        let name = self.nodes[idx].name();
        let host = self.settings.hosts.get(name)?;
        Some(TunnelSetup {
            key: self.settings.key.clone(),
            name: self.settings.name.clone(),
            peer: name.clone(),
            peer_key: host.key?,
            next_key: host.next,
            replay_window: self.settings.replay_window,
            compression: self.settings.suite.compression,
        })
    }

    /// `15 FROM TO …`: for us, or to be passed on.
    pub(super) fn handle_req_key(
        &mut self,
        link: LinkId,
        (from, to): (&NodeName, &NodeName),
        (ext, text): (Option<i32>, &str),
        line: &Bytes,
        now: Instant,
    ) {
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if from == Nodes::ME || !self.may_route(link, from) {
            return;
        }
        if to != Nodes::ME {
            if ext == Some(EXT_PACKET) && !self.settings.route.tunnel_server {
                let by = self.active(link).map(|peer| peer.node);
                if let (Some(datagram), Some(by)) = (base64::decode(text), by) {
                    self.relay((from, to), by, datagram.into(), now);
                }
            } else if self.passes_req_key(from, to, ext) {
                self.pass_on(to, line.clone());
            }
            return;
        }
        match ext {
            Some(EXT_START) => {
                let Some(kex) = base64::decode(text) else {
                    return;
                };
                self.answer_handshake(from, &kex, line.ends_with(TIE_BREAK), now);
            }
            Some(EXT_ASK) => {
                if let Some(message) = base64::decode(text) {
                    self.answer_native(from, &message, now);
                }
            }
            Some(EXT_ANSWER) => {
                if let Some(message) = base64::decode(text) {
                    self.native_answered(from, &message, now);
                }
            }
            Some(EXT_CONFIRM) => {
                if let Some(proof) = base64::decode(text) {
                    self.native_confirmed(from, proof, now);
                }
            }
            Some(EXT_QUERY) => {
                if let Some(sealed) = base64::decode(text) {
                    self.handle_query(from, sealed, now);
                }
            }
            Some(EXT_REQ_PUBKEY) => {
                // A tinc 1.1 that stores it speaks no legacy with us from then on: see `link::choice`.
                let legacy = self.nodes[from].place.legacy;
                if !legacy && self.nodes[from].keys.may_answer(now) {
                    let key = self.settings.key.public().to_string();
                    self.send_req_key(from, EXT_ANS_PUBKEY, key);
                }
            }
            Some(EXT_ANS_PUBKEY) => self.answered_key(link, from, text),
            Some(EXT_PACKET) => {
                if let Some(datagram) = base64::decode(text) {
                    self.open_tunnelled(from, datagram.into(), now);
                }
            }
            None | Some(0) => self.legacy_asked(from, now),
            _ => {
                tracing::debug!(node = %self.nodes[from].name(), "ignored REQ_KEY with extension {ext:?}")
            }
        }
    }

    pub(super) fn send_req_key(&mut self, to: NodeIdx, ext: i32, text: String) {
        let line = Request::ReqKey {
            from: self.settings.name.clone(),
            to: self.nodes[to].name().clone(),
            ext: Some(ext),
            text,
        };
        self.send_towards(to, line.line(0).into());
    }

    /// The node begins a handshake, and says whether it is a meshd.
    fn answer_handshake(&mut self, from: NodeIdx, kex: &[u8], meshd: bool, now: Instant) {
        let node = &mut self.nodes[from];
        if !node.place.reachable || !node.keys.may_answer(now) {
            return;
        }
        // Both started at once: a real daemon gives way to our request, another meshd by name.
        let ours = node
            .keys
            .asked
            .is_some_and(|at| now.saturating_duration_since(at) < RETRY);
        if ours && !(meshd && *node.name() < self.settings.name) {
            return;
        }
        if self.no_tunnel(from) || !self.allows_sptps(from) {
            return;
        }
        let Some(setup) = self.tunnel_setup(from) else {
            tracing::warn!(node = %self.nodes[from].name(), "asks for a tunnel, but its host file has no Ed25519PublicKey");
            self.send_req_key(from, EXT_REQ_PUBKEY, String::new());
            return;
        };
        match Tunnel::respond(setup, kex, &mut self.rng) {
            Ok((tunnel, answer)) => {
                let keys = &mut self.nodes[from].keys;
                keys.pending = Some(tunnel);
                keys.pending_meshd = Some(meshd);
                keys.asked = None;
                keys.began = Some(now);
                self.send_ans_key(from, &answer);
            }
            Err(why) => tracing::warn!(node = %self.nodes[from].name(), "tunnel refused: {why}"),
        }
    }

    pub(super) fn send_ans_key(&mut self, to: NodeIdx, datagram: &[u8]) {
        let keys = &self.nodes[to].keys;
        let tunnel = keys.pending.as_ref().or(keys.current.as_ref());
        let line = Request::AnsKey {
            from: self.settings.name.clone(),
            to: self.nodes[to].name().clone(),
            key: base64::encode(datagram),
            cipher: -1,
            digest: -1,
            mac_length: -1,
            compression: tunnel.map_or(0, |tunnel| tunnel.compression().into()),
            address: None,
        };
        self.send_towards(to, line.line(0).into());
    }

    /// `16 FROM TO …`: for us, or to be passed on with FROM's address if we know it.
    pub(super) fn handle_ans_key(
        &mut self,
        link: LinkId,
        (from, to): (&NodeName, &NodeName),
        (key, numbers, address): (&str, [i32; 4], Option<&EdgeAddress>),
        line: &Bytes,
        now: Instant,
    ) {
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if from == Nodes::ME || !self.may_route(link, from) {
            return;
        }
        if to != Nodes::ME {
            if self.passes_ans_key(from, to, numbers) {
                let line = self.with_reflexive_address(from, to, address.is_some(), line);
                self.pass_on(to, line);
            }
            return;
        }
        if numbers[0] != -1 && self.nodes[from].place.legacy {
            return self.legacy_answered(from, (key, numbers), address, now);
        }
        if numbers[0] != -1 {
            // A legacy key for a node whose host file has an Ed25519 key is never taken (T23, T24).
            tracing::debug!(node = %self.nodes[from].name(), "ignored a legacy ANS_KEY");
            return;
        }
        let Some(datagram) = base64::decode(key) else {
            return;
        };
        let keys = &mut self.nodes[from].keys;
        let level = u8::try_from(numbers[3]).unwrap_or_default();
        keys.pending
            .iter_mut()
            .chain(&mut keys.current)
            .for_each(|tunnel| tunnel.compress_with(level));
        if !self.held_back(from, &datagram, now) {
            self.handshake(from, &datagram, now);
        }
        if let Some(addr) = address.and_then(EdgeAddress::known)
            && self.nodes[from].keys.is_established()
            && self.may_probe(addr)
        {
            self.suggest_address(from, addr, now);
        }
    }

    /// Tells TO where FROM's packets come from: only a relay knows that of a node behind NAT.
    fn with_reflexive_address(&self, from: NodeIdx, to: NodeIdx, has: bool, line: &Bytes) -> Bytes {
        let from = &self.nodes[from];
        let addr = from.udp.addr.filter(|_| from.udp.confirmed);
        let (false, true, Some(addr)) = (has, self.nodes[to].udp.pmtu.min > 0, addr) else {
            return line.clone();
        };
        let mut longer = line.to_vec();
        longer.extend_from_slice(format!(" {}", EdgeAddress::from(addr)).as_bytes());
        if longer.len() > crate::link::MAX_LINE {
            return line.clone();
        }
        longer.into()
    }

    /// A handshake datagram of the node.
    pub(super) fn handshake(&mut self, from: NodeIdx, datagram: &[u8], now: Instant) {
        let keys = &mut self.nodes[from].keys;
        let mut result = None;
        let mut fresh = false;
        if let Some(pending) = &mut keys.pending {
            result = Some(pending.receive(datagram, &mut self.rng));
            fresh = matches!(result, Some(Ok(_)));
        }
        if !fresh && let Some(current) = &mut keys.current {
            let mut renewals = keys
                .renewals
                .clone()
                .unwrap_or_else(|| Bucket::new(BURST, now));
            let before = current.is_about_to_switch();
            let other = match renewals.take_slowly(2, BURST, now) {
                true => current.receive(datagram, &mut self.rng),
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
                keys.broken = true;
                tracing::warn!(node = %self.nodes[from].name(), "tunnel handshake failed: {why}");
            }
            Some(Ok(answers)) => {
                // Keys first: the other side may use its new key as soon as it has our answer.
                self.adopt(from, fresh, now);
                for answer in answers {
                    self.send_ans_key(from, &answer);
                }
                self.after_handshake(from, now);
            }
        }
    }

    /// There may be a key now: sends what waited for it, looks for a way by UDP.
    pub(super) fn after_handshake(&mut self, idx: NodeIdx, now: Instant) {
        self.flush_waiting(idx, now);
        self.send_questions(idx);
        self.discover(idx, now);
    }

    /// When keys that may live for `expire` are renewed: up to a tenth of it earlier, so that both ends
    /// seldom begin at once.
    pub(super) fn renewal_after(&mut self, expire: Duration, now: Instant) -> Instant {
        let jitter = expire.mul_f64(f64::from(self.rng.below(1000)) / 10_000.0);
        now + expire - jitter
    }

    /// After a handshake message was taken: moves a completed session into use, notes a renewal.
    fn adopt(&mut self, idx: NodeIdx, fresh: bool, now: Instant) {
        let renew_at = self.renewal_after(self.settings.key_expire, now);
        let keys = &mut self.nodes[idx].keys;
        if fresh {
            if !keys.pending.as_ref().is_some_and(Tunnel::is_established) {
                return;
            }
            keys.last = keys.current.as_ref().map(Tunnel::rx).unwrap_or_default();
            keys.last.truncate(2);
            keys.current = keys.pending.take();
            keys.meshd = keys.pending_meshd.take().unwrap_or(keys.meshd);
            keys.asked = None;
            keys.renewing = None;
            tracing::info!(node = %self.nodes[idx].name(), "tunnel established");
            self.note_spoken(idx, false);
        }
        let keys = &mut self.nodes[idx].keys;
        let renewing = keys.current.as_ref().is_some_and(Tunnel::is_rekeying);
        if fresh || !renewing {
            keys.renew_at = Some(renew_at);
            keys.renewing = None;
            keys.held = false;
        } else if keys.renewing.is_none() {
            keys.renewing = Some(now);
        }
        keys.expire_at = Some(now + LINGER);
        self.update_state(idx);
    }

    /// Datagrams from the node's own address did not open. Only when nothing else of it has opened
    /// lately may that mean that it lost its keys (T26 of proto/threat-model.md).
    pub(super) fn handle_bad_tag(&mut self, idx: NodeIdx, now: Instant) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        if node.place.legacy {
            return self.legacy_unopened(idx, now);
        }
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        if node.udp.is_active(now) && node.udp.unanswered <= 2
            || node.keys.began.is_some_and(recent)
        {
            return;
        }
        self.start_handshake(idx, now);
    }

    /// The node became reachable or unreachable: its sessions are void.
    ///
    /// So is the longest record that they carried: a tincd that is told a length of legacy before it searches in SPTPS, where
    /// the kernel's limit is shorter, takes it for its `minmtu`, asks for a probe of a negative length and ends by itself
    /// (1.1~pre18).
    pub(super) fn drop_keys(&mut self, idx: NodeIdx) {
        let node = &mut self.nodes[idx];
        _ = node.shared.counters.take_longest();
        node.keys = Keys::default();
        self.waiting_bytes -= node
            .waiting
            .drain(..)
            .map(|packet| packet.len())
            .sum::<usize>();
    }
}
