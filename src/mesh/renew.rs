//! Renewal of tunnel keys: when, and how nothing is lost over it.
//!
//! Source: tinc-1.1-wire.md section 2.6.

use std::time::{Duration, Instant};

use crate::{
    mesh::{
        Mesh, Timer,
        keys::{LINGER, RETRY},
    },
    route::NodeIdx,
    tunnel::sptps::Tunnel,
};

/// Each half of a [`Hold`].
const SETTLE: Duration = Duration::from_millis(10);
/// Handshake messages that a [`Hold`] keeps: a renewal has two in a row.
const MAX_HELD: usize = 4;

/// A pause in sending around a change of keys.
///
/// A tincd has one receiving key and changes it when our ACK comes by TCP; what comes by UDP under the
/// old key after that, or under the new one before, it loses (tinc-1.1-wire.md section 2.6). So what is on
/// the way is let arrive, then the ACK goes out and arrives, and then sending goes on with the new key.
pub(super) struct Hold {
    /// Handshake messages that wait for the first half to pass; `None` in the second half.
    inbox: Option<Vec<Vec<u8>>>,
}

impl Mesh {
    /// Once a second: renewals, retries, old keys.
    pub(super) fn key_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            let keys = &mut self.nodes[idx].keys;
            if keys.expire_at.is_some_and(|at| now >= at) {
                keys.expire_at = Some(now + LINGER);
                let gone = keys.current.as_mut().is_some_and(Tunnel::expire_old);
                let confirmed = keys.rx().first().is_some_and(|key| key.is_used());
                if confirmed && !keys.last.is_empty() {
                    keys.last.clear();
                    self.update_state(idx);
                } else if gone {
                    self.update_state(idx);
                }
            }
            let keys = &mut self.nodes[idx].keys;
            if keys
                .asked
                .is_some_and(|at| now.saturating_duration_since(at) >= RETRY)
            {
                keys.asked = None;
                keys.pending = None;
                if !self.nodes[idx].waiting.is_empty() {
                    self.want_key(idx, now);
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
            if self.nodes[idx].keys.tx().is_some_and(|tx| tx.wants_rekey()) {
                self.start_handshake(idx, now);
            }
        }
    }

    /// Renews the keys of a session, in the session.
    fn renew(&mut self, idx: NodeIdx, now: Instant) {
        let expire = self.settings.key_expire;
        let node = &mut self.nodes[idx];
        if !node.place.reachable {
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

    /// Whether a handshake datagram has to wait because it will change the sending key.
    pub(super) fn held_back(&mut self, from: NodeIdx, datagram: &[u8], now: Instant) -> bool {
        let keys = &mut self.nodes[from].keys;
        if let Some(Hold { inbox: Some(inbox) }) = &mut keys.hold {
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
        if !changes || keys.meshd || keys.held {
            return false;
        }
        keys.held = true;
        let inbox = Some(vec![datagram.to_vec()]);
        keys.hold = Some(Hold { inbox });
        self.timers.insert((now + SETTLE, Timer::Keys, from));
        self.update_state(from);
        true
    }

    /// One half of a hold is over.
    pub(super) fn hold_timer(&mut self, idx: NodeIdx, now: Instant) {
        let Some(hold) = self
            .nodes
            .get_mut(idx)
            .and_then(|node| node.keys.hold.as_mut())
        else {
            return;
        };
        if let Some(inbox) = hold.inbox.take() {
            self.timers.insert((now + SETTLE, Timer::Keys, idx));
            for datagram in inbox {
                self.handshake(idx, &datagram, now);
            }
        } else {
            self.nodes[idx].keys.hold = None;
            self.update_state(idx);
            self.flush_waiting(idx, now);
        }
    }
}
