//! Legacy keys that only one of two nodes still holds. The other node has restarted unnoticed,
//! because its new link replaced the old one. No line tells its peers, and datagrams under an old
//! key are dropped silently.
//!
//! | seen | done | pace |
//! |---|---|---|
//! | a datagram of the node does not open, and it has never used our newest key | tell it a new one (ANS_KEY unasked) | [`TELL_EVERY`] a node, [`TELL_RATE`] in all |
//! | our probes to it stay unanswered | ask for its key (REQ_KEY) | [`DOUBT_EVERY`] a node |
//!
//! Only the node itself gets a new key; a KEY_CHANGED would make all nodes ask. A forged datagram
//! does no harm: packets under the previous key still open, and a node that has used our newest key
//! gets none.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{mesh::Mesh, route::NodeIdx};

/// Shortest time between two new keys to one node, which needs a round trip to use a key.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// New keys a second, and at once, over all nodes, for datagrams that do not open.
pub(super) const TELL_RATE: u32 = 20;
/// Most nodes at the address of a datagram that count as its possible senders.
const MAX_SUSPECTS: usize = 4;
/// Unanswered probes after which the key for packets to a node is in doubt.
const DOUBT_AFTER: u8 = 3;
/// Shortest time between two key requests to a node whose probes stay unanswered: UDP may be
/// blocked.
const DOUBT_EVERY: Duration = Duration::from_secs(60);
/// Age below which a key is not in doubt: probes under it may still be on their way.
const YOUNG: Duration = Duration::from_secs(3);
/// Longest wait for the answer to such a key request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Mesh {
    /// Handles a datagram received directly from a legacy node that does not open.
    pub(in crate::mesh) fn legacy_unopened(&mut self, idx: NodeIdx, now: Instant) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        let reachability = node.reachability;
        let legacy = &self.sessions[idx].legacy;
        let recent = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        let has_newest = legacy.rx.front().is_some_and(|key| key.is_used());
        if !reachability.uses_legacy()
            || !reachability.reachable
            || has_newest
            || legacy.failures.mended.is_some_and(recent)
            || !self
                .sessions
                .legacy
                .mend
                .take(TELL_RATE, TELL_RATE as usize, now)
        {
            return;
        }
        self.sessions[idx].legacy.failures.mended = Some(now);
        tracing::debug!(node = %node.shared.name, "its packets do not open: it is told a new key");
        self.send_legacy_key(idx, now);
    }

    /// Handles a datagram that opens with no key: a legacy node at its address may hold a key of
    /// our former process.
    pub(in crate::mesh) fn nobody_opened(&mut self, from: SocketAddr, now: Instant) {
        if !self
            .sessions
            .legacy
            .mend
            .has(TELL_RATE, TELL_RATE as usize, now)
        {
            return;
        }
        let legacy = self
            .nodes
            .iter()
            .filter(|(_, node)| node.reachability.uses_legacy());
        let here = legacy
            .map(|(idx, _)| idx)
            .filter(|idx| self.is_at(*idx, from));
        let suspects: Vec<NodeIdx> = here.take(MAX_SUSPECTS).collect();
        for idx in suspects {
            self.legacy_unopened(idx, now);
        }
    }

    /// Requests the key of a legacy node that does not answer probes.
    pub(in crate::mesh) fn doubt_legacy_key(&mut self, idx: NodeIdx, now: Instant) {
        let node = &self.nodes[idx];
        let legacy = &self.sessions[idx].legacy;
        let within = |at: Option<Instant>, time: Duration| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        if !node.reachability.uses_legacy()
            || legacy.tx.is_none()
            || self.paths[idx].probes.unanswered < DOUBT_AFTER
            || within(legacy.got, YOUNG)
            || within(legacy.failures.doubted, DOUBT_EVERY)
        {
            return;
        }
        let legacy = &mut self.sessions[idx].legacy;
        legacy.failures.doubted = Some(now);
        legacy.asked = None;
        self.ask_legacy_key(idx, now);
    }

    /// Returns true if the key for packets to a node is in doubt and the answer may still arrive.
    pub(in crate::mesh) fn doubts_legacy_key(&self, idx: NodeIdx, now: Instant) -> bool {
        let node = &self.nodes[idx];
        let legacy = &self.sessions[idx].legacy;
        let asked = legacy
            .failures
            .doubted
            .filter(|at| legacy.got.is_none_or(|got| got < *at));
        node.reachability.uses_legacy()
            && asked.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_WITHIN)
    }
}
