//! Protection of a node's dialect against downgrades by other nodes (T24 of proto/threat-model.md).
//!
//! The protocol minor and [`Options::NATIVE`] of a node travel in edges that any member may forge.
//! So statements of others may raise a node's dialect, but not lower it. A neighbour's statement on
//! its own link is accepted.
//!
//! A dialect that a node has spoken with us in a tunnel stays in force until the node is silent in
//! native. So a node may go back to tinc (proto/native-link.md section 8).

use std::time::{Duration, Instant};

use meshd_wire::Options;

use crate::{
    link::{Dialect, Hello},
    mesh::Mesh,
    route::NodeIdx,
};

/// Lowest protocol minor that has SPTPS.
const SPTPS: u8 = Options::HANDSHAKE_MINOR;
/// Shortest time between two log lines about one node.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Dialects that a node has spoken with us.
#[derive(Debug, Default)]
pub(in crate::mesh) struct SeenDialects {
    /// Protocol minor of the node when its tunnel was made; 0 before the first tunnel.
    minor: u8,
    /// Protocol minor of the node on its last link to us.
    linked: u8,
    /// True if the node had a native tunnel with us and has not been silent in it since.
    native: bool,
    /// Options of the node in the graph, accepted or not.
    reported: Options,
    /// Time of the last log line about the node.
    logged: Option<Instant>,
}

impl SeenDialects {
    /// Returns true if the node has shown SPTPS or native, in a tunnel or on its own link.
    pub(in crate::mesh) fn more_than_legacy(&self) -> bool {
        self.minor >= SPTPS || self.linked >= SPTPS || self.native
    }

    /// Returns the highest dialect of the node in the graph, now or when it was last there.
    pub(in crate::mesh) fn offers(&self) -> Dialect {
        match self.reported {
            reported if reported.has(Options::NATIVE) => Dialect::Native,
            reported if reported.has_handshake() => Dialect::Sptps,
            _ => Dialect::Legacy,
        }
    }
}

impl Mesh {
    /// Returns the accepted options of a node, where `reported` are the options of its path. `legacy`:
    /// we speak only legacy with the node. `anew`: the node just became reachable.
    pub(in crate::mesh) fn believed(
        &mut self,
        idx: NodeIdx,
        reported: Options,
        (dialect, anew): (Dialect, bool),
        now: Instant,
    ) -> Options {
        if !dialect.caps().handshakes {
            self.peers.of[idx].dialects.reported = reported;
            return Options(reported.with_minor(0).0 & !Options::NATIVE);
        }
        let node = &self.nodes[idx];
        let believed = match node.link.and_then(|link| self.active(link)) {
            Some(peer) => reported.speaking_as(peer.options),
            None => {
                let (keys, dialects) = (&self.sessions[idx], &self.peers.of[idx].dialects);
                let live = keys.is_established() && !anew;
                let mut believed = reported;
                if live || !reported.has_handshake() {
                    believed = reported.with_minor(reported.minor().max(dialects.minor));
                }
                if dialects.native || live && keys.native.is_established() {
                    believed = believed.with_minor(believed.minor().max(dialects.minor));
                    believed.0 |= Options::NATIVE;
                }
                believed
            }
        };
        let news = std::mem::replace(&mut self.peers.of[idx].dialects.reported, reported)
            != reported
            || anew;
        if news && believed.is_above(reported) {
            self.refuse_downgrade(idx, reported, now);
        }
        believed
    }

    /// Checks the options that a new neighbour sends in its ACK. Only the dialect of the link
    /// itself overrides them. Returns `None` if the link must end: both ends speak native, so
    /// somebody on the path has removed an offer from the ID lines.
    pub(in crate::mesh) fn checked_options(
        &mut self,
        hello: &Hello,
        idx: NodeIdx,
        theirs: Options,
        now: Instant,
    ) -> Option<Options> {
        self.peers.of[idx].dialects.linked = hello.minor;
        if hello.dialect == Dialect::Legacy {
            // The node can speak only legacy now: a tinc may have replaced another daemon
            // (proto/native-link.md section 8).
            self.peers.of[idx].dialects = SeenDialects::default();
            return Some(theirs);
        }
        if !theirs.has_handshake() {
            self.refuse_downgrade(idx, theirs, now);
            return Some(theirs.with_minor(hello.minor.max(SPTPS)));
        }
        let offers = theirs.has(Options::NATIVE);
        if offers && self.cx.settings.native && hello.dialect == Dialect::Sptps {
            self.cx.counters.downgrades += 1;
            tracing::warn!(node = %hello.name, "both ends offer native, but the link speaks SPTPS: somebody between us has changed its first line; the link ends");
            return None;
        }
        if !offers {
            self.speaks_native_no_more(idx);
        }
        Some(theirs)
    }

    /// Records that a session was made: the dialect of its end is in force from now on.
    pub(in crate::mesh) fn note_spoken(&mut self, idx: NodeIdx, native: bool) {
        self.note_session(idx);
        let node = &self.nodes[idx];
        self.peers.of[idx].dialects.native |= native;
        let (reported, believed) = (
            self.peers.of[idx].dialects.reported,
            node.reachability.options,
        );
        // A new SPTPS session may belong to an older version than before.
        self.peers.of[idx].dialects.minor = match reported.minor() {
            minor if minor >= SPTPS && !native => minor,
            _ => believed.minor(),
        };
        if reported != believed {
            self.graph.mark_dirty();
        }
    }

    /// Handles a node that spoke native before and now denies native or is silent in it.
    pub(in crate::mesh) fn speaks_native_no_more(&mut self, idx: NodeIdx) {
        let node = &self.nodes[idx];
        if std::mem::take(&mut self.peers.of[idx].dialects.native) {
            self.cx.counters.downgrades += 1;
            self.graph.mark_dirty();
            tracing::warn!(node = %node.name(), "spoke native before and does not now: SPTPS is used unless MinProtocol = native forbids it");
        }
    }

    /// Records that a session is over: statements of others about the node may be accepted now.
    pub(in crate::mesh) fn note_silence(&mut self, idx: NodeIdx) {
        let node = &self.nodes[idx];
        if self.peers.of[idx].dialects.reported != node.reachability.options {
            self.graph.mark_dirty();
        }
    }

    fn refuse_downgrade(&mut self, idx: NodeIdx, reported: Options, now: Instant) {
        self.cx.counters.downgrades += 1;
        let node = &self.nodes[idx];
        let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
        if !self.peers.of[idx].dialects.logged.is_some_and(lately) {
            self.peers.of[idx].dialects.logged = Some(now);
            tracing::warn!(node = %node.shared.name, options = %reported, "downgrade refused: others say that it speaks less than it has spoken with us");
        }
    }
}

#[cfg(test)]
mod tests;
