//! Forwarding of broadcasts: whether, and to which nodes. The only place that decides it.
//!
//! Source: config/tinc.md section 6.6. Copies of a broadcast are dropped in
//! [`copies`](super::copies).

use crate::route::{
    Broadcast, DropReason, NodeSlot, RouteSettings, RouteSnapshot,
    verdict::{Stop, Verdict},
};

/// Nodes that this node sends a broadcast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipients {
    /// No node.
    Nobody,
    /// Our neighbours in the minimum spanning tree.
    Tree,
    /// All nodes that we reach directly.
    Direct,
}

/// Returns the recipients of broadcasts: of those from our device if `ours`, else of those that
/// another node sent to us. Along the tree every node forwards a broadcast. In direct mode only its
/// origin sends it.
#[inline]
#[must_use]
pub const fn recipients(settings: &RouteSettings, ours: bool) -> Recipients {
    match settings.broadcast {
        _ if settings.tunnel_server => Recipients::Nobody,
        Broadcast::No => Recipients::Nobody,
        Broadcast::Mst => Recipients::Tree,
        Broadcast::Direct if ours => Recipients::Direct,
        Broadcast::Direct => Recipients::Nobody,
    }
}

impl RouteSnapshot {
    /// Returns the verdict on a broadcast of `source`: one of our device is dropped if it goes to
    /// no node. One of another node goes at least to our device.
    pub(super) fn broadcast_of(&self, source: NodeSlot) -> Result<Verdict, Stop> {
        let ours = source == self.me;
        match ours && matches!(recipients(&self.settings, true), Recipients::Nobody) {
            true => Err(Stop::Drop(DropReason::NoBroadcast)),
            false => Ok(Verdict::Broadcast),
        }
    }

    /// Returns the nodes that a broadcast of `source` is sent to, but never the nodes that it came
    /// from: its origin, and our neighbour on the path to the origin.
    pub fn spread_to(&self, source: NodeSlot) -> impl Iterator<Item = NodeSlot> + '_ {
        let ours = source == self.me;
        let forwards = matches!(recipients(&self.settings, false), Recipients::Tree);
        let came_by = self.state(source).map(|state| state.nexthop);
        let all = self.broadcast.iter().copied();
        all.filter(move |to| ours || forwards && *to != source && Some(*to) != came_by)
    }

    /// Returns true if a broadcast of `source` is written to our device: not if it came from there.
    #[inline]
    #[must_use]
    pub fn spreads_here(&self, source: NodeSlot) -> bool {
        source != self.me
    }

    /// Returns true if a broadcast of `source` goes to our device only.
    #[must_use]
    pub fn ends_here(&self, source: NodeSlot) -> bool {
        self.spreads_here(source) && self.spread_to(source).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::array;

    use meshd_crypto::Rng;

    use super::*;
    use crate::route::testing::{B, C, D, ME, five, node, snapshot};

    /// The table of the operator: rows are Broadcast and TunnelServer, columns are broadcasts of our
    /// device and of others.
    #[test]
    fn each_setting_has_its_recipients() {
        use Recipients::{Direct, Nobody, Tree};
        let table = [
            (Broadcast::No, false, [Nobody, Nobody]),
            (Broadcast::No, true, [Nobody, Nobody]),
            (Broadcast::Mst, false, [Tree, Tree]),
            (Broadcast::Mst, true, [Nobody, Nobody]),
            (Broadcast::Direct, false, [Direct, Nobody]),
            (Broadcast::Direct, true, [Nobody, Nobody]),
        ];
        for (broadcast, tunnel_server, expected) in table {
            let settings = RouteSettings {
                broadcast,
                tunnel_server,
                ..RouteSettings::default()
            };
            let found = [true, false].map(|ours| recipients(&settings, ours));
            assert_eq!(found, expected, "{broadcast:?} {tunnel_server}");
        }
    }

    #[test]
    fn a_broadcast_goes_where_its_setting_says() {
        let mut s = five([]);
        s.broadcast = vec![B, C];
        let targets = |s: &RouteSnapshot, source| s.spread_to(source).collect::<Vec<_>>();
        assert_eq!(targets(&s, ME), [B, C]);
        assert_eq!(targets(&s, B), [C]);
        // All packets of d came via c.
        assert_eq!(targets(&s, D), [B]);
        assert_eq!([ME, B].map(|of| s.spreads_here(of)), [false, true]);
        s.settings.broadcast = Broadcast::Direct;
        s.broadcast = vec![B, C, D];
        assert_eq!(targets(&s, ME), [B, C, D]);
        assert_eq!([ME, B, D].map(|of| s.ends_here(of)), [false, true, true]);
        for (broadcast, tunnel_server) in [(Broadcast::No, false), (Broadcast::Mst, true)] {
            s.settings.broadcast = broadcast;
            s.settings.tunnel_server = tunnel_server;
            let ours = s.broadcast_of(ME);
            assert!(matches!(ours, Err(Stop::Drop(DropReason::NoBroadcast))));
            assert_eq!(s.broadcast_of(B).ok(), Some(Verdict::Broadcast));
            assert!(s.ends_here(B));
        }
    }

    const NODES: usize = 8;

    /// Returns the next node on the way between two nodes of a tree, given by the parents of all
    /// nodes but the first.
    fn next(parents: &[usize], from: usize, to: usize) -> usize {
        let mut at = to;
        while at > 0 {
            if parents[at] == from {
                return at;
            }
            at = parents[at];
        }
        parents[from]
    }

    /// The tables of one node of a tree. Slots count from the node.
    fn tables(parents: &[usize], me: usize) -> RouteSnapshot {
        let slot = |of: usize| NodeSlot(((of + NODES - me) % NODES) as u32);
        let states = array::from_fn::<_, { NODES - 1 }, _>(|other| {
            let to = (me + 1 + other) % NODES;
            node(slot(to), slot(next(parents, me, to)), slot(to))
        });
        let mut tables = snapshot(states, []);
        let near = |of: &usize| *of != me && next(parents, me, *of) == *of;
        tables.broadcast = (0..NODES).filter(near).map(slot).collect();
        tables
    }

    /// Along any tree, a broadcast of any node reaches each other node once.
    #[test]
    fn a_broadcast_reaches_each_node_of_a_tree_once() {
        let mut rng = Rng::new([3; 32]);
        for _ in 0..50 {
            let parents: [usize; NODES] =
                array::from_fn(|node| rng.below(node.max(1) as u32) as usize);
            let all: Vec<RouteSnapshot> = (0..NODES).map(|me| tables(&parents, me)).collect();
            for origin in 0..NODES {
                let mut reached = [0; NODES];
                let mut waiting = vec![origin];
                while let Some(at) = waiting.pop() {
                    let source = NodeSlot(((origin + NODES - at) % NODES) as u32);
                    reached[at] += usize::from(all[at].spreads_here(source));
                    let to = all[at].spread_to(source);
                    waiting.extend(to.map(|to| (at + to.0 as usize) % NODES));
                    assert!(waiting.len() <= NODES, "it goes in circles");
                }
                let expected: [usize; NODES] = array::from_fn(|node| usize::from(node != origin));
                assert_eq!(reached, expected, "{parents:?} from {origin}");
            }
        }
    }
}
