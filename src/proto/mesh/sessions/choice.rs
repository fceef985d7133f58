//! Choice of the sessions with a node: how its keys come about depends on the dialect of its
//! packets.

use std::time::Instant;

use crate::{
    dialect::Dialect,
    mesh::{
        Mesh,
        sessions::keys::RETRY,
        topology::node::{Node, Reachability},
    },
    route::NodeIdx,
};

impl Mesh {
    /// Returns the least dialect that a node at this place may be sent packets in.
    pub(in crate::mesh) fn least_dialect(&self, idx: NodeIdx, place: &Reachability) -> Dialect {
        match self.speaks_only_legacy(idx, place) {
            true => Dialect::Legacy,
            false => Dialect::Sptps,
        }
    }

    /// Returns the dialect of packets to a node; `None` if its handshake is still to come.
    pub(in crate::mesh) fn packet_dialect(&self, node: &Node) -> Option<Dialect> {
        let least = node.reachability.dialect;
        match least.caps().handshakes {
            true => self.sessions[node.shared.idx].dialect(),
            false => Some(least),
        }
    }

    /// Starts a handshake with the node, if there is no key and no handshake.
    pub(in crate::mesh) fn ensure_session(&mut self, idx: NodeIdx, now: Instant) {
        if self.sessions[idx].is_established() {
            return;
        }
        match self.nodes[idx].reachability.dialect.caps().handshakes {
            true => self.start_handshake(idx, now),
            false => self.want_legacy_key(idx, now),
        }
    }

    /// Gets another key for packets to a node, because the numbers of the present one run out.
    /// Numbers continue over renewals: only a new session starts from zero (T10).
    pub(in crate::mesh) fn replace_session(&mut self, idx: NodeIdx, now: Instant) {
        match self.nodes[idx].reachability.dialect.caps().handshakes {
            true => self.start_handshake(idx, now),
            false => self.ask_legacy_key(idx, now),
        }
    }

    /// Makes the keys of a neighbour before the first packet needs them. Other nodes get keys when
    /// packets need them.
    pub(in crate::mesh) fn make_keys(&mut self, idx: NodeIdx, now: Instant) {
        if self.nodes[idx].link.is_none() {
            return;
        }
        match self.nodes[idx].reachability.dialect.caps().handshakes {
            true => self.ensure_session(idx, now),
            false => self.send_legacy_key(idx, now),
        }
    }

    /// Handles datagrams from the node's own address that did not open. The node may have lost its
    /// keys only if nothing else from it has opened lately (T26 of proto/threat-model.md).
    pub(in crate::mesh) fn handle_bad_tag(&mut self, idx: NodeIdx, now: Instant) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        if !node.reachability.dialect.caps().handshakes {
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

    /// Runs after a handshake, when there may be a key: sends waiting packets and questions, and
    /// starts UDP discovery.
    pub(in crate::mesh) fn after_handshake(&mut self, idx: NodeIdx, now: Instant) {
        self.flush_waiting(idx, now);
        self.send_questions(idx);
        self.discover(idx, now);
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
