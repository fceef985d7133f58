//! Renewal of tunnel keys without packet loss.
//!
//! Source: wire/tinc-1.1.md section 2.6.

use std::time::{Duration, Instant};

use crate::{
    dialect::Dialect,
    mesh::{
        LinkId, Mesh, Timer,
        paths::probe::Number,
        sessions::keys::{Keys, RETRY, RETRY_BROKEN},
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
    pub(in crate::mesh) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }
}

impl Mesh {
    /// Handles renewals, retries and old keys, once a second.
    pub(in crate::mesh) fn key_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        let linger = self.cx.lifetime(Dialect::Sptps).linger;
        for idx in all {
            if !self.sessions.has_keys(idx) {
                continue;
            }
            self.native_tick(idx, now);
            let sptps = &mut self.sessions[idx].sptps;
            let retired = sptps.end_retired(now);
            if sptps.expire_old(now, linger) || retired {
                self.update_state(idx);
            }
            let keys = &mut self.sessions[idx];
            let patience = if keys.sptps.broken {
                RETRY_BROKEN
            } else {
                RETRY
            };
            if keys
                .sptps
                .asked
                .is_some_and(|at| now.saturating_duration_since(at) >= patience)
            {
                keys.sptps.asked = None;
                keys.sptps.pending = None;
                if self.sessions.has_waiting(idx) {
                    self.ensure_session(idx, now);
                }
            }
            let keys = &mut self.sessions[idx];
            if keys
                .sptps
                .renewing
                .is_some_and(|at| now.saturating_duration_since(at) >= RETRY)
            {
                keys.sptps.renewing = None;
                self.start_handshake(idx, now);
            } else if keys.sptps.renew_at.is_some_and(|at| now >= at) {
                self.renew(idx, now);
            }
            let sptps = self.sessions[idx]
                .sptps
                .current
                .as_ref()
                .and_then(Tunnel::tx);
            if sptps.is_some_and(|tx| tx.wants_rekey()) {
                self.start_handshake(idx, now);
            }
        }
    }

    /// Renews the keys of a session inside the session.
    pub(in crate::mesh) fn renew(&mut self, idx: NodeIdx, now: Instant) {
        let lifetime = self.cx.lifetime(Dialect::Sptps);
        let node = &self.nodes[idx];
        if !node.reachability.reachable {
            return;
        }
        self.sessions[idx].sptps.renew_at = Some(now + lifetime.renew);
        let Some(kex) = self.sessions[idx]
            .sptps
            .current
            .as_mut()
            .and_then(|tunnel| tunnel.rekey(&mut self.cx.rng))
        else {
            return;
        };
        self.sessions[idx].sptps.renewing = Some(now);
        tracing::debug!(node = %node.shared.name, "renewing keys");
        self.update_state(idx);
        self.send_ans_key(idx, kex);
    }

    /// Returns true if a handshake datagram must wait because it will change the sending key.
    pub(in crate::mesh) fn is_held_back(
        &mut self,
        from: NodeIdx,
        datagram: &[u8],
        now: Instant,
    ) -> bool {
        let keys = &mut self.sessions[from];
        // An unauthenticated datagram neither starts a pause nor takes room in it.
        let authentic = |keys: &Keys| {
            let current = keys.sptps.current.as_ref();
            current.is_some_and(|tunnel| tunnel.is_authentic(datagram))
        };
        if keys.pause.is_some() && !authentic(keys) {
            return false;
        }
        if let Some(TxPause {
            half: Half::Draining(inbox, _),
            ..
        }) = &mut keys.pause
        {
            if inbox.len() < MAX_HELD {
                inbox.push(datagram.to_vec());
            }
            return true;
        }
        let changes = keys.sptps.pending.is_none()
            && keys
                .sptps
                .current
                .as_ref()
                .is_some_and(Tunnel::is_about_to_switch);
        if !changes || keys.sptps.meshd || keys.has_paused || !authentic(keys) {
            return false;
        }
        keys.has_paused = true;
        let last = self.probe_now(from, now);
        let half = Half::Draining(vec![datagram.to_vec()], last);
        self.pause(from, half, last.is_some(), now);
        self.update_state(from);
        true
    }

    /// Starts one half of a pause; `asked` is true if an answer will end it.
    fn pause(&mut self, idx: NodeIdx, half: Half, asked: bool, now: Instant) {
        let until = now + if asked { PATIENCE } else { BLIND };
        self.sessions[idx].pause = Some(TxPause { half, until });
        self.cx.arm(until, Timer::Keys, idx);
    }

    /// Handles the answer to a probe of the node.
    pub(in crate::mesh) fn pause_probed(&mut self, idx: NodeIdx, number: Number, now: Instant) {
        let over =
            |pause: &TxPause| matches!(pause.half, Half::Draining(_, Some(last)) if last == number);
        self.end_half_if(idx, over, now);
    }

    /// Handles a PONG.
    pub(in crate::mesh) fn pause_ponged(&mut self, idx: NodeIdx, link: LinkId, now: Instant) {
        let over =
            |pause: &TxPause| matches!(pause.half, Half::Changing(Some(asked)) if asked == link);
        self.end_half_if(idx, over, now);
    }

    /// Handles the timer of a half. An answer may have ended that half already.
    pub(in crate::mesh) fn pause_timer(&mut self, idx: NodeIdx, now: Instant) {
        self.end_half_if(idx, |pause| pause.until <= now, now);
    }

    fn end_half_if(&mut self, idx: NodeIdx, over: impl Fn(&TxPause) -> bool, now: Instant) {
        let Some(node) = self.nodes.get_mut(idx) else {
            return;
        };
        let link = node.link;
        match self.sessions[idx].pause.take_if(|pause| over(pause)) {
            Some(TxPause {
                half: Half::Draining(inbox, _),
                ..
            }) => {
                self.pause(idx, Half::Changing(link), link.is_some(), now);
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
