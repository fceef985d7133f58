//! Flooded and routed lines: what the node believes, forwards, refreshes and charges.

pub(in crate::mesh) mod backlog;
pub(in crate::mesh) mod belief;
pub(in crate::mesh) mod budget;
pub(in crate::mesh) mod corrections;
pub(in crate::mesh) mod flood;
pub(in crate::mesh) mod law;
pub(in crate::mesh) mod path_hold;
pub(in crate::mesh) mod refresh;
pub(in crate::mesh) mod relay_filter;
pub(in crate::mesh) mod seen;
pub(in crate::mesh) mod unread;
pub(in crate::mesh) mod withdrawn;

use std::time::{Duration, Instant};

use bytes::Bytes;

use meshd_crypto::Rng;

use crate::{
    mesh::{LinkId, peers::handshake::Unconfirmed, topology::per_node::PerNode},
    route::NodeIdx,
};

/// Recent statements of other nodes, and the work that is left with them.
pub(in crate::mesh) struct Gossip {
    seen: seen::Seen,
    /// Statements of others about our neighbours that those neighbours did not make.
    corrections: corrections::Corrections,
    /// Edges between nodes that are no neighbours, deleted by lines of third nodes.
    denied: belief::DeniedEdges,
    /// Changes that became known lately, for the periodic refresh.
    refresh: refresh::Refresh,
    unread: unread::Unread,
    /// Lines held until the graph pass of their batch.
    deferred: Vec<(LinkId, Bytes)>,
    of: PerNode<OfNode>,
}

/// Lines about one node, and from it.
#[derive(Default)]
struct OfNode {
    /// Budgets of lines about the node and from it.
    budget: Option<Box<budget::Budget>>,
    /// Edges and subnets of the node that were not announced again since its link came up.
    unconfirmed: Unconfirmed,
}

impl Gossip {
    pub(in crate::mesh) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self {
            seen: seen::Seen::new(rng, now),
            corrections: corrections::Corrections::default(),
            denied: belief::DeniedEdges::default(),
            refresh: refresh::Refresh::default(),
            unread: unread::Unread::default(),
            deferred: Vec::new(),
            of: PerNode::default(),
        }
    }

    /// Remembers a fact that was new to us, for the periodic refresh.
    pub(in crate::mesh) fn note(&mut self, news: refresh::News, now: Instant) {
        self.refresh.note(news, now);
    }

    /// Takes the lines that waited for the graph pass.
    pub(in crate::mesh) fn take_deferred(&mut self) -> Vec<(LinkId, Bytes)> {
        std::mem::take(&mut self.deferred)
    }

    /// Forgets lines older than `age`. Called about once a second.
    pub(in crate::mesh) fn forget_seen(&mut self, age: Duration, now: Instant) {
        self.seen.forget(age, now);
    }

    /// Forgets a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.denied.forget_node(idx);
        self.of.remove(idx);
    }

    /// Expects a new neighbour to announce its edges and subnets again.
    pub(in crate::mesh) fn expect(&mut self, idx: NodeIdx, unconfirmed: Unconfirmed) {
        self.of[idx].unconfirmed = unconfirmed;
    }

    /// Takes the edges and subnets that a neighbour has not announced again by the end of the first
    /// exchange on `link`.
    pub(in crate::mesh) fn take_unconfirmed(
        &mut self,
        idx: NodeIdx,
        link: LinkId,
    ) -> Option<Unconfirmed> {
        let waits = self.of[idx].unconfirmed.link == Some(link);
        waits.then(|| std::mem::take(&mut self.of[idx].unconfirmed))
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;
    use crate::mesh::testing;

    /// An older link of the neighbour may also have a PONG on the way.
    #[test]
    fn the_pong_of_the_new_link_alone_ends_the_first_exchange() {
        let mut links = SlotMap::<LinkId, ()>::with_key();
        let (old, new) = (links.insert(()), links.insert(()));
        let idx = NodeIdx::FIRST;
        let mut gossip = Gossip::new(&mut Rng::new([1; 32]), testing::start());
        let unconfirmed = Unconfirmed {
            link: Some(new),
            edges: [testing::name(1)].into(),
            ..Unconfirmed::default()
        };
        gossip.expect(idx, unconfirmed);
        assert!(gossip.take_unconfirmed(idx, old).is_none());
        let left = gossip.take_unconfirmed(idx, new).unwrap();
        assert_eq!(left.edges, [testing::name(1)].into());
        assert!(gossip.take_unconfirmed(idx, new).is_none(), "once");
    }
}
