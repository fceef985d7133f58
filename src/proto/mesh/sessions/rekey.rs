//! Renewal of tunnel keys without packet loss.
//!
//! Source: wire/tinc-1.1.md section 2.6.

use std::time::{Duration, Instant};

use crate::{
    mesh::{
        LinkId, Mesh, Timer,
        paths::probe::Number,
        sessions::keys::{Keys, LINGER, RETRY, RETRY_BROKEN},
    },
    route::NodeIdx,
    tunnel::sptps::Tunnel,
};

/// Longest time that one half of a [`TxPause`] waits for an answer.
const PATIENCE: Duration = Duration::from_millis(50);
/// Duration of one half of a [`TxPause`] if no answer is possible.
const BLIND: Duration = Duration::from_millis(10);
/// Handshake messages that a [`TxPause`] keeps: a renewal has two in a row.
const MAX_HELD: usize = 4;

/// A pause in sending around a key change.
///
/// A tincd has one receiving key, and changes it when our ACK arrives by TCP. The tincd loses
/// packets under the old key after the ACK, and packets under the new key before the ACK
/// (wire/tinc-1.1.md section 2.6).
///
/// So a renewal has two halves: packets on the way arrive, then the ACK is sent and arrives.
/// Sending continues with the new key. Each half takes one round trip if the other side can be
/// asked.
pub(in crate::mesh) struct TxPause {
    half: Half,
    /// Time at which the half ends without an answer.
    until: Instant,
}

enum Half {
    /// The last packets under the old key are on the way, and these handshake messages wait for
    /// them. The answer to this probe, sent last, ends the half.
    Draining(Vec<Vec<u8>>, Option<Number>),
    /// Our ACK is on the way. The PONG of this link, requested after the ACK, ends the half.
    Changing(Option<LinkId>),
}

impl Keys {
    /// Returns true if sending pauses now.
    pub(in crate::mesh) fn is_resting(&self) -> bool {
        self.hold.is_some()
    }
}

impl Mesh {
    /// Handles renewals, retries and old keys, once a second.
    pub(in crate::mesh) fn key_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            self.native_tick(idx, now);
            let keys = &mut self.nodes[idx].keys;
            if keys.retire_at.take_if(|at| now >= *at).is_some() {
                keys.current = None;
                keys.last.clear();
                (keys.renewing, keys.renew_at, keys.expire_at) = (None, None, None);
                self.update_state(idx);
            }
            let keys = &mut self.nodes[idx].keys;
            if keys.expire_at.is_some_and(|at| now >= at) {
                keys.expire_at = Some(now + LINGER);
                let gone = keys.current.as_mut().is_some_and(Tunnel::expire_old);
                let newest = keys
                    .current
                    .as_ref()
                    .and_then(|tunnel| tunnel.rx().into_iter().next());
                let confirmed = newest.is_some_and(|key| key.is_used());
                if confirmed && !keys.last.is_empty() {
                    keys.last.clear();
                    self.update_state(idx);
                } else if gone {
                    self.update_state(idx);
                }
            }
            let keys = &mut self.nodes[idx].keys;
            let patience = if keys.broken { RETRY_BROKEN } else { RETRY };
            if keys
                .asked
                .is_some_and(|at| now.saturating_duration_since(at) >= patience)
            {
                keys.asked = None;
                keys.pending = None;
                if !self.nodes[idx].waiting.is_empty() {
                    self.ensure_session(idx, now);
                }
            }
            let keys = &mut self.nodes[idx].keys;
            if keys
                .renewing
                .is_some_and(|at| now.saturating_duration_since(at) >= RETRY)
            {
                keys.renewing = None;
                self.start_handshake(idx, now);
            } else if keys.renew_at.is_some_and(|at| now >= at) {
                self.renew(idx, now);
            }
            let sptps = self.nodes[idx].keys.current.as_ref().and_then(Tunnel::tx);
            if sptps.is_some_and(|tx| tx.wants_rekey()) {
                self.start_handshake(idx, now);
            }
        }
    }

    /// Renews the keys of a session inside the session.
    pub(in crate::mesh) fn renew(&mut self, idx: NodeIdx, now: Instant) {
        let expire = self.settings.key_expire;
        let node = &mut self.nodes[idx];
        if !node.reachability.reachable {
            return;
        }
        node.keys.renew_at = Some(now + expire);
        let Some(kex) = node
            .keys
            .current
            .as_mut()
            .and_then(|tunnel| tunnel.rekey(&mut self.rng))
        else {
            return;
        };
        node.keys.renewing = Some(now);
        tracing::debug!(node = %node.shared.name, "renewing keys");
        self.update_state(idx);
        self.send_ans_key(idx, &kex);
    }

    /// Returns true if a handshake datagram must wait because it will change the sending key.
    pub(in crate::mesh) fn held_back(
        &mut self,
        from: NodeIdx,
        datagram: &[u8],
        now: Instant,
    ) -> bool {
        let keys = &mut self.nodes[from].keys;
        // An unauthenticated datagram neither starts a pause nor takes room in it.
        let authentic = |keys: &Keys| {
            let current = keys.current.as_ref();
            current.is_some_and(|tunnel| tunnel.is_authentic(datagram))
        };
        if keys.hold.is_some() && !authentic(keys) {
            return false;
        }
        if let Some(TxPause {
            half: Half::Draining(inbox, _),
            ..
        }) = &mut keys.hold
        {
            if inbox.len() < MAX_HELD {
                inbox.push(datagram.to_vec());
            }
            return true;
        }
        let changes = keys.pending.is_none()
            && keys
                .current
                .as_ref()
                .is_some_and(Tunnel::is_about_to_switch);
        if !changes || keys.meshd || keys.held || !authentic(keys) {
            return false;
        }
        keys.held = true;
        let last = self.probe_now(from, now);
        let half = Half::Draining(vec![datagram.to_vec()], last);
        self.hold(from, half, last.is_some(), now);
        self.update_state(from);
        true
    }

    /// Starts one half of a pause; `asked` is true if an answer will end it.
    fn hold(&mut self, idx: NodeIdx, half: Half, asked: bool, now: Instant) {
        let until = now + if asked { PATIENCE } else { BLIND };
        self.nodes[idx].keys.hold = Some(TxPause { half, until });
        self.timers.insert((until, Timer::Keys, idx));
    }

    /// Handles the answer to a probe of the node.
    pub(in crate::mesh) fn hold_probed(&mut self, idx: NodeIdx, number: Number, now: Instant) {
        let over =
            |hold: &TxPause| matches!(hold.half, Half::Draining(_, Some(last)) if last == number);
        self.end_half_if(idx, over, now);
    }

    /// Handles a PONG.
    pub(in crate::mesh) fn hold_ponged(&mut self, idx: NodeIdx, link: LinkId, now: Instant) {
        let over =
            |hold: &TxPause| matches!(hold.half, Half::Changing(Some(asked)) if asked == link);
        self.end_half_if(idx, over, now);
    }

    /// Handles the timer of a half. An answer may have ended that half already.
    pub(in crate::mesh) fn hold_timer(&mut self, idx: NodeIdx, now: Instant) {
        self.end_half_if(idx, |hold| hold.until <= now, now);
    }

    fn end_half_if(&mut self, idx: NodeIdx, over: impl Fn(&TxPause) -> bool, now: Instant) {
        let Some(node) = self.nodes.get_mut(idx) else {
            return;
        };
        let link = node.link;
        match node.keys.hold.take_if(|hold| over(hold)) {
            Some(TxPause {
                half: Half::Draining(inbox, _),
                ..
            }) => {
                self.hold(idx, Half::Changing(link), link.is_some(), now);
                for datagram in inbox {
                    self.handshake(idx, &datagram, now);
                }
                if let Some(link) = link {
                    self.ping_link(link, now);
                }
            }
            Some(_) => {
                self.update_state(idx);
                self.flush_waiting(idx, now);
            }
            None => {}
        }
    }
}
