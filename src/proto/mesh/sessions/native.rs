//! Native sessions with one node: REQ_KEY 32 (first message), 33 (answer), 34 (confirmation).
//!
//! Native is tried only with nodes that offer it (an option bit). Every node still answers SPTPS,
//! so a node that is silent in native gets SPTPS. A session replaces the one in use only after the
//! other side has proven that it has the keys. So no message, forged or replayed, ends a working
//! session.
//!
//! Source: proto/native-link.md sections 3.2 and 5. Handling of these lines by real daemons, as
//! relays and as ends: wire/tinc-1.1.md section 8.3.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_crypto::seal::Aeads;
use meshd_wire::{KeyRequest, Options};

use crate::{
    dialect::Dialect,
    mesh::{Mesh, Timer, limits::Bucket, settings::MinProtocol, topology::node::Nodes},
    route::{NodeIdx, NodeSlot},
    tunnel::{
        RxKey, TYPE_CONFIRM, TxKey,
        native::{self, Asking, Session, Setup},
    },
};

/// Longest time that our answer waits for its confirmation.
const UNCONFIRMED: Duration = Duration::from_secs(10);
/// Waits for an answer in seconds, first to last.
const BACKOFF: [u64; 4] = [1, 2, 4, 5];
/// Unanswered attempts after which a node without a session counts as a node without native.
const PATIENCE: u32 = 3;
/// Time until such a node is asked again.
const RETRY_SILENT: Duration = Duration::from_secs(300);
/// First messages remembered, so that a replayed one costs no key exchange.
const REMEMBERED: usize = 8;
/// Handshakes that a node may start with us: two at once, then one in two seconds (T25, T38).
const BURST: usize = 4;
/// First messages of unknown origin accepted a second, over all nodes. Such messages have a budget
/// of their own, so they do not use up the budget of the node that they name. Source:
/// proto/threat-model.md section 5.6.
const FORGED: u32 = 200;
pub(in crate::mesh) const FORGED_BURST: usize = 400;

/// Native sessions with one node.
#[derive(Default)]
pub(in crate::mesh) struct Native {
    /// Our handshake in progress, and its start.
    asking: Option<(Asking, Instant)>,
    /// Attempts since the last answer.
    tries: u32,
    /// Time of the next attempt: the last one was not answered, or the session must be renewed.
    due: Option<Instant>,
    /// A session that we answered and that is not confirmed yet.
    next: Option<(Session, Instant)>,
    /// The session in use, and its start.
    current: Option<(Session, Instant)>,
    /// Keys of the session before, and their expiry.
    previous: Option<(Arc<RxKey>, Instant)>,
    /// Ephemeral keys of the latest first messages.
    seen: VecDeque<[u8; 32]>,
    budget: Option<Bucket>,
}

impl Native {
    /// Returns the sending key.
    pub(in crate::mesh) fn tx(&self) -> Option<Arc<TxKey>> {
        self.current.as_ref().map(|(session, _)| session.tx.clone())
    }

    /// Returns the receiving keys.
    pub(in crate::mesh) fn rx(&self) -> impl Iterator<Item = Arc<RxKey>> + '_ {
        let sessions = self.current.iter().chain(&self.next);
        let previous = self.previous.iter().map(|(rx, _)| rx.clone());
        sessions
            .map(|(session, _)| session.rx.clone())
            .chain(previous)
    }

    /// Returns true if there is a session.
    pub(in crate::mesh) fn is_established(&self) -> bool {
        self.current.is_some()
    }

    /// Returns true if an attempt of ours was not answered and there is no session.
    pub(in crate::mesh) fn is_unanswered(&self, now: Instant) -> bool {
        let late = self.tries > 0 && self.due.is_some_and(|due| now >= due);
        late && !self.is_established()
    }

    /// Forgets every handshake: for the test of an attacker that keeps to no interval.
    #[cfg(test)]
    pub(in crate::mesh) fn storm(&mut self) {
        (self.asking, self.next, self.due) = (None, None, None);
    }

    /// Returns true if our handshake waits for its answer.
    pub(in crate::mesh) fn is_waiting(&self) -> bool {
        self.asking.is_some()
    }

    fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let sessions = self.current.iter().chain(&self.next);
        let asking = self.asking.iter().map(|(asking, _)| asking.index());
        sessions.map(|(session, _)| session.index).chain(asking)
    }
}

impl Mesh {
    /// Returns true if native may be tried with the node: both ends offer it, and the node has not
    /// been silent in it.
    pub(in crate::mesh) fn may_ask_native(&self, idx: NodeIdx) -> bool {
        let speaks = self.sessions[idx].native.is_established()
            || self.sessions[idx].native.tries < PATIENCE;
        self.offers_native(idx) && (speaks || !self.allows_sptps(idx))
    }

    /// Returns true if an SPTPS tunnel is allowed. MinProtocol decides, no matter what other nodes
    /// announce (T24).
    pub(in crate::mesh) fn allows_sptps(&self, idx: NodeIdx) -> bool {
        self.cx.settings.min_protocol_of(self.nodes[idx].name()) < MinProtocol::Native
    }

    pub(in crate::mesh) fn offers_native(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        idx != Nodes::ME
            && idx.slot() == NodeSlot::of_session(idx.slot().0)
            && node.reachability.reachable
            && node.minor() >= Options::OUR_MINOR
            && node.reachability.options.has(Options::NATIVE)
            && self.cx.settings.native
    }

    fn native_setup(&self, idx: NodeIdx) -> Option<Setup> {
        let peer = self.nodes[idx].name();
        Some(Setup {
            secret: self.cx.settings.secret.clone(),
            name: self.cx.settings.name.clone(),
            peer: peer.clone(),
            peer_keys: Some(self.cx.settings.native_keys(peer)).filter(|keys| !keys.is_empty())?,
            psk: *self.cx.settings.psk_of(peer),
            aeads: Aeads::of_this_machine(),
        })
    }

    /// Chooses a session index. The index holds the node's index and differs from the node's other
    /// sessions.
    fn session_index(&mut self, idx: NodeIdx) -> u32 {
        loop {
            let number = self.cx.rng.below(1 << (32 - NodeSlot::SESSION_BITS));
            let index = number << NodeSlot::SESSION_BITS | idx.slot().0;
            if self.sessions[idx]
                .native
                .indices()
                .all(|used| used != index)
            {
                return index;
            }
        }
    }

    /// Starts a native handshake, unless one was started or answered a moment ago.
    pub(in crate::mesh) fn ask_native(&mut self, idx: NodeIdx, now: Instant) {
        let native = &self.sessions[idx].native;
        let answered = native
            .next
            .as_ref()
            .is_some_and(|(_, at)| is_recent(*at, now));
        if answered || native.asking.is_some() && native.due.is_some_and(|due| now < due) {
            return;
        }
        let Some(setup) = self.native_setup(idx) else {
            return;
        };
        let index = self.session_index(idx);
        let turn = self.sessions[idx].native.tries;
        let Some((asking, message)) = native::ask(&setup, index, turn as usize, &mut self.cx.rng)
        else {
            return;
        };
        let wait = BACKOFF[(turn as usize).min(BACKOFF.len() - 1)];
        let jitter = Duration::from_millis(self.cx.rng.below(333).into());
        let due = now + Duration::from_secs(wait) + jitter;
        let keys = &mut self.sessions[idx];
        keys.native.asking = Some((asking, now));
        keys.native.tries = turn.saturating_add(1);
        keys.native.due = Some(due);
        keys.began = Some(now);
        self.cx.arm(due, Timer::Keys, idx);
        self.send_req_key(idx, KeyRequest::NativeAsk(message));
    }

    /// Answers the first message of a node.
    pub(in crate::mesh) fn answer_native(&mut self, from: NodeIdx, message: &[u8], now: Instant) {
        if !self.offers_native(from) {
            return;
        }
        let ephemeral = native::ephemeral(message).copied();
        let (Some(ephemeral), Some(setup)) = (ephemeral, self.native_setup(from)) else {
            return;
        };
        let first = self.cx.settings.name < setup.peer;
        let native = &mut self.sessions[from].native;
        // Both ends started at once: the handshake of the lower name continues.
        if first
            && native
                .asking
                .as_ref()
                .is_some_and(|(_, at)| is_recent(*at, now))
        {
            return;
        }
        let mut budget = native
            .budget
            .clone()
            .unwrap_or_else(|| Bucket::new(BURST, now));
        if native.seen.contains(&ephemeral)
            || !budget.take_slowly(2, BURST, now)
            || !self.sessions.forged.has(FORGED, FORGED_BURST, now)
        {
            return;
        }
        let index = self.session_index(from);
        match native::answer(&setup, index, message, &mut self.cx.rng) {
            Ok((session, answer)) => {
                let native = &mut self.sessions[from].native;
                native.seen.truncate(REMEMBERED - 1);
                native.seen.push_front(ephemeral);
                native.budget = Some(budget);
                native.next = Some((session, now));
                // The node asks us, so our own handshake is dropped until its next attempt is due.
                native.asking = None;
                self.update_state(from);
                self.send_req_key(from, KeyRequest::NativeAnswer(answer));
            }
            Err(why) => {
                self.sessions.forged.take(FORGED, FORGED_BURST, now);
                tracing::warn!(node = %self.nodes[from].name(), "native tunnel refused: {why}");
            }
        }
    }

    /// Handles the answer of a node.
    pub(in crate::mesh) fn native_answered(&mut self, from: NodeIdx, message: &[u8], now: Instant) {
        let native = &mut self.sessions[from].native;
        let Some((asking, at)) = native.asking.take() else {
            return;
        };
        match asking.answered(message) {
            Ok(session) => {
                let Some(proof) = confirmation(&session) else {
                    return;
                };
                // The other side sends with the new keys as soon as it has received this message.
                self.adopt_native(from, session, now);
                self.send_req_key(from, KeyRequest::NativeConfirm(proof.to_vec()));
                self.after_handshake(from, now);
            }
            Err(asking) => {
                native.asking = asking.map(|asking| (asking, at));
                tracing::debug!(node = %self.nodes[from].name(), "a native answer that does not fit");
            }
        }
    }

    /// Handles the confirmation of a node: it has the keys of the session that we answered.
    pub(in crate::mesh) fn native_confirmed(
        &mut self,
        from: NodeIdx,
        mut proof: Vec<u8>,
        now: Instant,
    ) {
        let next = self.sessions[from].native.next.as_ref();
        let sound = next.is_some_and(|(session, _)| {
            let opened = session.rx.open(&mut proof);
            opened.is_ok_and(|opened| opened.kind == TYPE_CONFIRM)
        });
        if sound {
            self.promote_native(from, now);
        }
    }

    fn promote_native(&mut self, idx: NodeIdx, now: Instant) {
        if let Some((session, _)) = self.sessions[idx].native.next.take() {
            self.adopt_native(idx, session, now);
            self.after_handshake(idx, now);
        }
    }

    /// Starts to send with a session.
    fn adopt_native(&mut self, idx: NodeIdx, session: Session, now: Instant) {
        let lifetime = self.cx.lifetime(Dialect::Native);
        let renew_at = lifetime.renew_at(&mut self.cx.rng, now);
        let keys = &mut self.sessions[idx];
        let native = &mut keys.native;
        if let Some((old, _)) = native.current.take() {
            native.previous = Some((old.rx, now + lifetime.linger));
            tracing::debug!(node = %self.nodes[idx].shared.name, "native keys renewed");
        } else {
            let cipher = session.tx.cipher();
            tracing::info!(node = %self.nodes[idx].name(), cipher, "native tunnel established");
        }
        let keys = &mut self.sessions[idx];
        keys.native.current = Some((session, now));
        keys.native.asking = None;
        keys.native.tries = 0;
        keys.native.due = Some(renew_at);
        keys.sptps.meshd = true;
        keys.retire_sptps(now + lifetime.linger);
        self.note_spoken(idx, true);
        self.update_state(idx);
    }

    /// Handles a timer of the node: an attempt may be unanswered.
    pub(in crate::mesh) fn native_timer(&mut self, idx: NodeIdx, now: Instant) {
        if self.nodes.get(idx).is_none() {
            return;
        }
        let native = &self.sessions[idx].native;
        let wanted = native.asking.is_some() || native.is_unanswered(now);
        if !wanted || native.due.is_none_or(|due| now < due) {
            return;
        }
        match (
            self.may_ask_native(idx),
            self.sessions[idx].is_established(),
        ) {
            (true, true) => self.ask_native(idx, now),
            (true, false) => self.start_handshake(idx, now),
            (false, _) => {
                let native = &mut self.sessions[idx].native;
                native.asking = None;
                native.due = Some(now + RETRY_SILENT);
                if native.tries >= PATIENCE {
                    self.speaks_native_no_more(idx);
                }
                tracing::debug!(node = %self.nodes[idx].name(), "no answer to native handshakes");
                self.ensure_session(idx, now);
            }
        }
    }

    /// Once a second: renews sessions, expires old ones, and asks nodes again that may have native
    /// by now.
    pub(in crate::mesh) fn native_tick(&mut self, idx: NodeIdx, now: Instant) {
        let lifetime = self.cx.lifetime(Dialect::Native);
        let native = &mut self.sessions[idx].native;
        let older = |at: Instant, than| now.saturating_duration_since(at) >= than;
        let mut changed = native
            .previous
            .take_if(|(_, until)| now >= *until)
            .is_some();
        let over = native
            .current
            .take_if(|(_, at)| lifetime.is_over(*at, now))
            .is_some();
        changed |= over;
        if native
            .next
            .as_ref()
            .is_some_and(|(session, _)| session.rx.is_used())
        {
            self.promote_native(idx, now);
        } else if native
            .next
            .take_if(|(_, at)| older(*at, UNCONFIRMED))
            .is_some()
            || changed
        {
            self.update_state(idx);
        }
        if over {
            self.note_silence(idx);
        }
        let keys = &self.sessions[idx];
        let native = &keys.native;
        let spent = native.tx().is_some_and(|tx| tx.wants_rekey());
        let upgrade =
            keys.sptps.current.is_some() && !native.is_established() && native.due.is_none();
        let due = native.asking.is_none() && native.due.is_some_and(|due| now >= due);
        if (due || spent || upgrade) && self.offers_native(idx) {
            self.ask_native(idx, now);
        }
    }
}

/// Returns true if the answer to a message sent at `at` may still arrive.
fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < Duration::from_secs(1)
}

/// Makes an empty packet under the new keys.
fn confirmation(session: &Session) -> Option<[u8; native::OVERHEAD]> {
    let mut proof = [0; native::OVERHEAD];
    session
        .tx
        .seal(session.tx.claim(1)?, TYPE_CONFIRM, &mut proof);
    Some(proof)
}

#[cfg(test)]
mod tests;
