//! What a node speaks is not for others to lower (T24 of proto/threat-model.md).
//!
//! Minor version and [`Options::NATIVE`] of a node come in edges that any member may forge, so they are
//! believed upwards only. What a neighbour says on its own link holds; what a node has spoken with us in a
//! tunnel holds until it stays silent where it spoke native, so that going back to tinc
//! works (proto/native-link.md section 8).

use std::time::{Duration, Instant};

use meshd_wire::Options;

use crate::{
    link::{Dialect, Hello},
    mesh::Mesh,
    route::NodeIdx,
};

/// Lowest minor version that speaks SPTPS. Source: wire/tinc-1.1.md section 3.1.
const SPTPS: u8 = 2;
/// One line about one node in this time.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What a node has spoken with us.
#[derive(Debug, Default)]
pub(super) struct Spoke {
    /// Its minor version, while its tunnel was made; 0 before there was one.
    minor: u8,
    /// Its minor version on its last link to us.
    linked: u8,
    /// Whether it has had a native tunnel with us and not fallen silent in it since.
    native: bool,
    /// What the graph says of it, believed or not.
    said: Options,
    /// When the operator was told of it.
    told: Option<Instant>,
}

impl Spoke {
    /// Whether it has shown, in a tunnel or on its own link, that it speaks more than legacy.
    pub(super) fn more_than_legacy(&self) -> bool {
        self.minor >= SPTPS || self.linked >= SPTPS || self.native
    }

    /// The most that it speaks, as the graph has it or last had it.
    pub(super) fn offers(&self) -> Dialect {
        match self.said {
            said if said.has(Options::NATIVE) => Dialect::Native,
            said if said.minor() >= SPTPS => Dialect::Sptps,
            _ => Dialect::Legacy,
        }
    }
}

impl Mesh {
    /// The options of a node, where those of the path to it are `said`. `legacy`: we speak nothing else with
    /// it. `anew`: it became reachable just now.
    pub(super) fn believed(
        &mut self,
        idx: NodeIdx,
        said: Options,
        (legacy, anew): (bool, bool),
        now: Instant,
    ) -> Options {
        if legacy {
            self.nodes[idx].spoke.said = said;
            return Options(said.with_minor(0).0 & !Options::NATIVE);
        }
        let node = &self.nodes[idx];
        let believed = match node.link.and_then(|link| self.active(link)) {
            Some(peer) => said.speaking_as(peer.options),
            None => {
                let (keys, spoke) = (&node.keys, &node.spoke);
                let live = keys.is_established() && !anew;
                let mut believed = said;
                if live || said.minor() < SPTPS {
                    believed = said.with_minor(said.minor().max(spoke.minor));
                }
                if spoke.native || live && keys.native.is_established() {
                    believed = believed.with_minor(believed.minor().max(spoke.minor));
                    believed.0 |= Options::NATIVE;
                }
                believed
            }
        };
        let news = std::mem::replace(&mut self.nodes[idx].spoke.said, said) != said || anew;
        if news && believed.is_above(said) {
            self.refuse_downgrade(idx, said, now);
        }
        believed
    }

    /// What a new neighbour says of itself in its ACK. Only the link's dialect is known better than that.
    pub(super) fn said_in_ack(
        &mut self,
        hello: &Hello,
        idx: NodeIdx,
        theirs: Options,
        now: Instant,
    ) -> Options {
        self.nodes[idx].spoke.linked = hello.minor;
        if hello.is_legacy() {
            // It can speak no more than this now: a tinc may have taken the place of another (proto/native-link.md section 8).
            self.nodes[idx].spoke = Spoke::default();
            return theirs;
        }
        if theirs.minor() < SPTPS {
            self.refuse_downgrade(idx, theirs, now);
            return theirs.with_minor(hello.minor.max(SPTPS));
        }
        let offers = theirs.has(Options::NATIVE);
        if offers && self.settings.native && hello.dialect == Dialect::Sptps {
            self.downgrades += 1;
            tracing::warn!(node = %hello.name, "both ends offer native, but the link speaks SPTPS: somebody between us may have changed its first line; \
                 MinProtocol = native in the host file refuses such links");
        }
        if !offers {
            self.speaks_native_no_more(idx);
        }
        theirs
    }

    /// A session was made: what its end speaks holds from now on.
    pub(super) fn note_spoken(&mut self, idx: NodeIdx, native: bool) {
        self.note_session(idx);
        let node = &mut self.nodes[idx];
        node.spoke.native |= native;
        let (said, believed) = (node.spoke.said, node.place.options);
        // A new SPTPS session may be that of an older version than before.
        node.spoke.minor = match said.minor() {
            minor if minor >= SPTPS && !native => minor,
            _ => believed.minor(),
        };
        self.dirty_graph |= said != believed;
    }

    /// A node that spoke native says that it does not, or stays silent in native.
    pub(super) fn speaks_native_no_more(&mut self, idx: NodeIdx) {
        let node = &mut self.nodes[idx];
        if std::mem::take(&mut node.spoke.native) {
            self.downgrades += 1;
            self.dirty_graph = true;
            tracing::warn!(node = %node.name(), "spoke native before and does not now: SPTPS is used unless MinProtocol = native forbids it");
        }
    }

    /// A session is over: perhaps what others say of the node holds now.
    pub(super) fn note_silence(&mut self, idx: NodeIdx) {
        let node = &self.nodes[idx];
        self.dirty_graph |= node.spoke.said != node.place.options;
    }

    fn refuse_downgrade(&mut self, idx: NodeIdx, said: Options, now: Instant) {
        self.downgrades += 1;
        let node = &mut self.nodes[idx];
        let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
        if !node.spoke.told.is_some_and(lately) {
            node.spoke.told = Some(now);
            tracing::warn!(node = %node.shared.name, options = %said, "downgrade refused: others say that it speaks less than it has spoken with us");
        }
    }
}

#[cfg(test)]
mod tests;
