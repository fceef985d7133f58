//! Keeps the path, options and dialect of a node with a live tunnel against single lines of others.
//! See the table in `law.rs`.

use std::time::{Duration, Instant};

use meshd_wire::Options;

use crate::{
    dialect::Dialect,
    mesh::{
        Mesh,
        gossip::law::{self, Ends, Speaker, Statement},
        topology::{
            graph,
            node::{Nodes, Reachability},
        },
    },
    route::NodeIdx,
};

/// Options that both directions of an edge share (wire/tinc-1.0.md section 1.7).
const AGREED: u32 =
    Options::INDIRECT | Options::TCP_ONLY | Options::PMTU_DISCOVERY | Options::CLAMP_MSS;

/// Number of nodes above which a new path via relays takes effect at once. A search per node would
/// cost too much.
const MAX_SEARCHED: usize = 1_024;

/// A change in the graph that is held back.
#[derive(Debug, Clone, Copy)]
pub(in crate::mesh) struct PendingPath {
    choice: PathChoice,
    since: Instant,
    /// State at the last graph pass: the change had settled; the path was direct.
    seen: (bool, bool),
}

/// Options, via, nexthop unless the path is direct, least dialect.
type PathChoice = (Options, NodeIdx, NodeIdx, Dialect);

/// Returns the time for which a change must stay the same: of options for a direct path, of edges
/// for a path via relays.
fn settling(direct: bool) -> Duration {
    let statement = match direct {
        true => Statement::Options,
        false => Statement::Edge,
    };
    match law::ruling(statement, Speaker::Anybody).ends {
        Ends::OnceAgreed(after) | Ends::OncePathSettled(after) => after,
        _ => Duration::ZERO,
    }
}

fn choice(reachability: &Reachability, direct: bool) -> PathChoice {
    let nexthop = if direct {
        Nodes::ME
    } else {
        reachability.nexthop
    };
    (
        reachability.options,
        reachability.via,
        nexthop,
        reachability.dialect,
    )
}

impl Mesh {
    /// Returns the place in use of a reachable node whose place in the graph is `reported`.
    pub(in crate::mesh) fn hold_path(
        &mut self,
        idx: NodeIdx,
        reported: Reachability,
        now: Instant,
    ) -> Reachability {
        let old = self.nodes[idx].reachability;
        let direct = self.is_direct(idx);
        let new = choice(&reported, direct);
        // The path to a neighbour is our own edge.
        let neighbour = self.nodes[idx].link.is_some();
        if new == choice(&old, direct)
            || !old.reachable
            || neighbour
            || !self.is_tunnel_alive(idx, now)
        {
            self.nodes[idx].evidence.pending_path = None;
            return reported;
        }
        let before = self.nodes[idx].evidence.pending_path;
        let before = before.filter(|before| before.choice == new);
        let since = before.map_or(now, |before| before.since);
        let settled = now.saturating_duration_since(since) >= settling(direct);
        self.nodes[idx].evidence.pending_path = Some(PendingPath {
            choice: new,
            since,
            seen: (settled, direct),
        });
        self.arm_doubt_timer(now);
        if reported.dialect != old.dialect {
            // A node changes its dialect only by a restart, and a restart ends its tunnel.
            let (dialect, options) = (old.dialect, old.options);
            return Reachability {
                dialect,
                options,
                ..reported
            };
        }
        let agreed = settled && self.both_ends_agree(idx, reported.options);
        let options = match (settled, agreed) {
            (false, _) => old.options,
            (true, false) => Options(reported.options.0 & !AGREED | old.options.0 & AGREED),
            (true, true) => reported.options,
        };
        let mut reachability = Reachability {
            options,
            ..reported
        };
        if direct && !(agreed && reported.options.has(Options::INDIRECT)) {
            (reachability.via, reachability.indirect) = (old.via, old.indirect);
        }
        if !direct && !settled && self.old_path_holds(idx, &reported) {
            (reachability.via, reachability.indirect) = (old.via, old.indirect);
            (reachability.nexthop, reachability.distance) = (old.nexthop, old.distance);
        }
        reachability
    }

    /// Returns true if packets go directly to the node by UDP.
    fn is_direct(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        node.reachability.via == idx && self.paths[idx].confirmed
    }

    /// Returns true if an edge of the node has these options in both directions.
    fn both_ends_agree(&self, idx: NodeIdx, reported: Options) -> bool {
        let same = |options: Options| options.0 & AGREED == reported.0 & AGREED;
        let mut edges = self.nodes[idx].edges.values();
        edges.any(|edge| {
            let back = self.nodes.edge(edge.to, idx);
            same(edge.options) && back.is_some_and(|back| same(back.options))
        })
    }

    /// Returns true if the old path via relays still exists and is loop-free. Then the old nexthop
    /// has a path without us that is no longer than before, and shorter than any path through us.
    fn old_path_holds(&self, idx: NodeIdx, reported: &Reachability) -> bool {
        let old = &self.nodes[idx].reachability;
        let hop = self.nodes.get(old.nexthop);
        self.nodes.len() <= MAX_SEARCHED
            && hop.is_some_and(|hop| hop.link.is_some())
            && reported.distance + 1 >= old.distance
            && graph::hops(&self.nodes, old.nexthop, idx, |_, to| to != Nodes::ME)
                == Some(old.distance - 1)
    }

    /// Requests a graph pass if a held change may take effect now. Returns true if a change is
    /// still held.
    pub(in crate::mesh) fn settle_pending_path(&mut self, idx: NodeIdx, now: Instant) -> bool {
        let Some(reported) = self.nodes[idx].evidence.pending_path else {
            return false;
        };
        let direct = self.is_direct(idx);
        let settled = now.saturating_duration_since(reported.since) >= settling(direct);
        let changed = (settled, direct) != reported.seen;
        if changed || !self.is_tunnel_alive(idx, now) {
            self.graph.mark_dirty();
        }
        true
    }
}
