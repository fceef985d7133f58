//! Legacy keys that only one of two nodes still holds: the other one has started anew, and nobody saw it go, as its new
//! link took the place of the old one. Nothing tells its peers, and datagrams under an old key are dropped in silence.
//!
//! | seen | done | pace |
//! |---|---|---|
//! | a datagram of the node does not open, and it has never used our newest key | tell it a new one (ANS_KEY unasked) | [`TELL_EVERY`] a node, [`TELL_RATE`] in all |
//! | our probes to it stay unanswered | ask for its key (REQ_KEY) | [`DOUBT_EVERY`] a node |
//!
//! Only the node itself gets a new key, where KEY_CHANGED would make all of them ask. A forged datagram does no harm:
//! packets under the key before still open, and a node that has used our newest key is told nothing.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{mesh::Mesh, route::NodeIdx};

/// One node is told a new key at most once in this time: it needs a round trip to use it.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// New keys a second that are told for datagrams which do not open, over all nodes, and that many at once.
pub(super) const TELL_RATE: u32 = 20;
/// Nodes at the address of a datagram that may have sent it.
const MAX_SUSPECTS: usize = 4;
/// Unanswered probes after which the key of packets to a node is in doubt.
const DOUBT_AFTER: u8 = 3;
/// A node is asked for its key once in this time while its probes stay unanswered: UDP may be blocked.
const DOUBT_EVERY: Duration = Duration::from_secs(60);
/// A key that is younger than this is not in doubt: probes under it may still be on their way.
const YOUNG: Duration = Duration::from_secs(3);
/// How long the answer to a doubt is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Mesh {
    /// A datagram that came straight from a legacy node does not open.
    pub(in crate::mesh) fn legacy_unopened(&mut self, idx: NodeIdx, now: Instant) {
        let Some(node) = self.nodes.get_mut(idx) else {
            return;
        };
        let place = node.place;
        let legacy = &mut node.keys.legacy;
        let recent = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        let has_newest = legacy.rx.front().is_some_and(|key| key.is_used());
        if !place.legacy
            || !place.reachable
            || has_newest
            || legacy.mended.is_some_and(recent)
            || !self.legacy.mend.take(TELL_RATE, TELL_RATE as usize, now)
        {
            return;
        }
        legacy.mended = Some(now);
        tracing::debug!(node = %node.shared.name, "its packets do not open: it is told a new key");
        self.send_legacy_key(idx, now);
    }

    /// A datagram from an address opens with no key: a legacy node there may still hold one of our former life.
    pub(in crate::mesh) fn nobody_opened(&mut self, from: SocketAddr, now: Instant) {
        if !self.legacy.mend.has(TELL_RATE, TELL_RATE as usize, now) {
            return;
        }
        let legacy = self.nodes.iter().filter(|(_, node)| node.place.legacy);
        let here = legacy
            .map(|(idx, _)| idx)
            .filter(|idx| self.is_at(*idx, from));
        let suspects: Vec<NodeIdx> = here.take(MAX_SUSPECTS).collect();
        for idx in suspects {
            self.legacy_unopened(idx, now);
        }
    }

    /// Asks a legacy node for its key where our probes stay unanswered.
    pub(in crate::mesh) fn doubt_legacy_key(&mut self, idx: NodeIdx, now: Instant) {
        let node = &self.nodes[idx];
        let legacy = &node.keys.legacy;
        let within = |at: Option<Instant>, time: Duration| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        if !node.place.legacy
            || legacy.tx.is_none()
            || node.udp.unanswered < DOUBT_AFTER
            || within(legacy.got, YOUNG)
            || within(legacy.doubted, DOUBT_EVERY)
        {
            return;
        }
        let legacy = &mut self.nodes[idx].keys.legacy;
        legacy.doubted = Some(now);
        legacy.asked = None;
        self.ask_legacy_key(idx, now);
    }

    /// Whether the key of packets to a node is in doubt, and its answer may still come.
    pub(in crate::mesh) fn doubts_legacy_key(&self, idx: NodeIdx, now: Instant) -> bool {
        let node = &self.nodes[idx];
        let legacy = &node.keys.legacy;
        let asked = legacy
            .doubted
            .filter(|at| legacy.got.is_none_or(|got| got < *at));
        node.place.legacy
            && asked.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_WITHIN)
    }
}
