//! AutoConnect: keeps about three links per node.
//!
//! In a large mesh many nodes see the same event, and each link that one of them opens or closes is
//! flooded to all nodes. So a node without a link dials at once, and every other change waits. The
//! wait is shorter if fewer links are left, and longer in a large mesh. A neighbour that restarts
//! is therefore back before it is replaced.
//!
//! After the wait a random choice limits the number of nodes that act at one time. The graph gives
//! the number of links of each node: nodes with too few links are dialled first. A link is closed
//! only if its other end does not need it. Links of ConnectTo and links that others dialled count.
//!
//! Differences from tinc (wire/tinc-1.1.md section 5.3): tinc acts every five seconds and closes a
//! link as soon as it has a fourth. Dials of ConnectTo are not cancelled here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_wire::NodeName;

use crate::{
    mesh::{
        Mesh, Timer,
        peers::{dial::Outgoing, handshake::Peer},
        topology::{
            graph,
            node::{Node, Nodes},
        },
    },
    route::NodeIdx,
};

/// Mean interval between two checks. Each interval is random around this mean, so nodes that
/// started together do not check together. A node that already knows the new links of others does
/// not choose the same node.
const INTERVAL: Duration = Duration::from_secs(5);
/// Number of links that a node wants.
const WANTED: usize = 3;
/// Number of links above which a node closes one. The limit is one more than wanted: after a
/// neighbour was lost and replaced, both links stay when that neighbour returns. The node then has
/// enough links if that neighbour is lost again.
const MOST: usize = 4;
/// Mean number of changes of the whole mesh in one [`INTERVAL`]. A new link costs each node about
/// six lines; the two ends of the link also exchange the whole graph.
const PER_INTERVAL: usize = 16;
/// Number of edges added or removed since the last check above which a node waits: both directions
/// of four times [`PER_INTERVAL`] links.
const STORM: u64 = 2 * 4 * PER_INTERVAL as u64;
/// Longest delay for a storm.
const STORM_PATIENCE: Duration = Duration::from_secs(60);
/// Time per node of the mesh that a node with two links waits before it dials. A random factor of
/// up to two is applied.
const PATIENCE_PER_NODE: Duration = Duration::from_millis(500);
/// Longest time that a node with two links waits before it dials, with the same random factor.
const PATIENCE: Duration = Duration::from_secs(30);
/// Divisor of the wait for a node with one link.
const HURRY: u32 = 6;
/// Longest wait before a node that became unreachable is dialled to rejoin a split mesh.
const LOST: Duration = Duration::from_secs(10);
/// Age of a link below which it is not closed.
const YOUNG: Duration = Duration::from_secs(60);
/// Time for which a node is not dialled after a failure; doubled with each failure.
const HOLD: Duration = Duration::from_secs(5);
/// Longest time for which a node is not dialled.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// State of AutoConnect.
pub(in crate::mesh) struct AutoConnect {
    /// Time of the next check.
    at: Instant,
    started: Instant,
    /// Time at which the number of links fell below the wanted one, and the random share (0 to 1)
    /// added to this node's wait.
    short: Option<(Instant, f64)>,
    /// Value of [`Nodes::changes`] at the last check.
    changes: u64,
    /// Nodes whose dial failed: the number of failures in a row, and the time until which they are
    /// not dialled. At most one entry for each host file.
    held: BTreeMap<NodeName, (u32, Instant)>,
}

/// A node that can be dialled.
struct Candidate {
    name: NodeName,
    reachable: bool,
    /// True if the node's host file has an Address.
    addressed: bool,
    /// Number of links in the graph.
    links: usize,
}

impl Candidate {
    /// Candidates of a higher rank are dialled first.
    fn rank(&self) -> (bool, bool, bool) {
        (self.reachable, self.addressed, self.links < WANTED)
    }
}

impl AutoConnect {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            at: now,
            started: now,
            short: None,
            changes: 0,
            held: BTreeMap::new(),
        }
    }

    /// Allows dials to one node again, or to all nodes.
    pub(in crate::mesh) fn release(&mut self, name: Option<&NodeName>) {
        match name {
            Some(name) => drop(self.held.remove(name)),
            None => self.held.clear(),
        }
    }

    fn holds(&self, name: &NodeName, now: Instant) -> bool {
        self.held.get(name).is_some_and(|(_, until)| now < *until)
    }
}

impl Mesh {
    /// Handles the loss of the last link: the next check runs at once.
    pub(in crate::mesh) fn auto_alone(&mut self, now: Instant) {
        self.peers.auto.at = now;
        self.cx.arm(now, Timer::Dial, Nodes::ME);
    }

    /// Handles the failure of a dial by AutoConnect: no address of the node worked.
    pub(in crate::mesh) fn auto_failed(&mut self, name: &NodeName, now: Instant) {
        let jitter = self.share();
        let (failures, until) = self.peers.auto.held.entry(name.clone()).or_insert((0, now));
        let hold = (HOLD * (1 << *failures)).min(MAX_HOLD);
        *until = now + hold.mul_f64(0.75 + jitter / 2.0);
        *failures = (*failures + 1).min(8);
    }

    /// Runs once a second and when a check is due. Opens or closes at most one link.
    pub(in crate::mesh) fn auto_connect(&mut self, now: Instant) {
        if !self.cx.settings.auto_connect {
            return;
        }
        let links = self.nodes[Nodes::ME].edges.len();
        if links >= WANTED {
            self.peers.auto.short = None;
            self.cancel_needless(now);
        } else if self.peers.auto.short.is_none() {
            self.peers.auto.short = Some((now, self.share()));
        }
        if now < self.peers.auto.at {
            return;
        }
        self.peers.auto.at = now + INTERVAL.mul_f64(0.8 + 0.4 * self.share());
        self.cx.arm(self.peers.auto.at, Timer::Dial, Nodes::ME);
        let before = std::mem::replace(&mut self.peers.auto.changes, self.nodes.changes);
        let storm = self.nodes.changes - before > STORM;
        if self.wants_another(links, storm, now) {
            self.dial_one(links, now);
        } else if links > MOST && !storm {
            self.drop_one(now);
        }
        self.dial_lost_one(links, storm, now);
    }

    /// Returns true if one more link should be dialled now.
    fn wants_another(&mut self, links: usize, storm: bool, now: Instant) -> bool {
        let Some((since, share)) = self.peers.auto.short else {
            return false;
        };
        let (mut ours, mut pending) = (0, 0);
        for out in self
            .peers
            .outgoing
            .values()
            .filter(|out| out.is_under_way(now))
        {
            pending += 1;
            ours += usize::from(out.is_auto());
        }
        if links + ours >= WANTED {
            return false;
        }
        let waited = now.saturating_duration_since(since);
        if links == 0 {
            // A dial of ConnectTo, or to a neighbour from before a restart, goes first.
            return pending == 0 || waited >= 2 * INTERVAL;
        }
        let patience = self.patience().mul_f64(1.0 + share) / if links == 1 { HURRY } else { 1 };
        if waited < patience || storm && waited < patience + STORM_PATIENCE {
            return false;
        }
        let needy = self.count(|node| node.edges.len() < WANTED);
        self.is_our_turn(needy)
    }

    /// Counts the reachable nodes that satisfy a condition, this one included.
    fn count(&self, is: impl Fn(&Node) -> bool) -> usize {
        let there = |idx: NodeIdx, node: &Node| idx == Nodes::ME || node.reachability.reachable;
        let nodes = self.nodes.iter();
        nodes
            .filter(|(idx, node)| there(*idx, node) && is(node))
            .count()
    }

    /// Returns true at random, so that [`PER_INTERVAL`] of `nodes` nodes may act on average.
    fn is_our_turn(&mut self, nodes: usize) -> bool {
        nodes <= PER_INTERVAL || self.below(nodes) < PER_INTERVAL
    }

    /// Dials a random node among those that need a link most.
    fn dial_one(&mut self, links: usize, now: Instant) {
        let (held, mut free): (Vec<_>, Vec<_>) = self
            .auto_candidates()
            .partition(|one| self.peers.auto.holds(&one.name, now));
        if free.is_empty() && links == 0 {
            free = held;
        }
        let Some(best) = free.iter().map(Candidate::rank).max() else {
            return;
        };
        free.retain(|one| one.rank() == best);
        // Take the one of two random nodes with fewer links: this spreads the links.
        let two = [self.below(free.len()), self.below(free.len())];
        let at = two.into_iter().min_by_key(|at| free[*at].links);
        if let Some(at) = at {
            let name = free.swap_remove(at).name;
            self.auto_dial(name, now);
        }
    }

    /// Dials a node that has been unreachable for some time, to rejoin a split mesh. On average
    /// each such node is dialled by one node per [`INTERVAL`], or all of them by [`PER_INTERVAL`]
    /// nodes.
    fn dial_lost_one(&mut self, links: usize, storm: bool, now: Instant) {
        let busy = |out: &Outgoing| out.is_auto() && out.is_under_way(now);
        if links == 0 || self.peers.outgoing.values().any(busy) {
            return;
        }
        let least = if storm {
            STORM_PATIENCE
        } else {
            self.patience().min(LOST)
        };
        let gone = |name: &NodeName| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            let since = node.map_or(self.peers.auto.started, |node| node.idle_since);
            now.saturating_duration_since(since) >= least
        };
        let lost: Vec<NodeName> = self
            .auto_candidates()
            .filter(|one| {
                !one.reachable && gone(&one.name) && !self.peers.auto.holds(&one.name, now)
            })
            .map(|one| one.name)
            .collect();
        let (all, there) = (self.nodes.len(), self.live_nodes() + 1);
        if self.below(all) < lost.len() && self.is_our_turn(lost.len().min(there)) {
            let at = self.below(lost.len());
            self.auto_dial(lost[at].clone(), now);
        }
    }

    /// Shortest time that a node with two links waits before it dials.
    fn patience(&self) -> Duration {
        let size = self.cx.settings.hosts.len().max(self.live_nodes());
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        PATIENCE_PER_NODE.saturating_mul(size).min(PATIENCE)
    }

    /// Nodes without a link that can be dialled: they have a key, and an address or a path.
    fn auto_candidates(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.cx.settings.hosts.iter().filter_map(|(name, host)| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            let reachable = node.is_some_and(|node| node.reachability.reachable);
            let addressed = !host.addresses.is_empty();
            let candidate = node.is_none_or(|node| node.link.is_none())
                && (addressed || reachable)
                && self.cx.settings.has_credentials(host)
                && !self.peers.outgoing.contains_key(name);
            candidate.then(|| Candidate {
                name: name.clone(),
                reachable,
                addressed,
                links: node.map_or(0, |node| node.edges.len()),
            })
        })
    }

    /// Cancels dials to reachable nodes: there are enough links.
    fn cancel_needless(&mut self, now: Instant) {
        let reachable = |name: &NodeName| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            node.is_some_and(|node| node.reachability.reachable)
        };
        let needless: Vec<NodeName> = self
            .peers
            .outgoing
            .iter()
            .filter(|(name, out)| out.is_auto() && !out.is_connected() && reachable(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in needless {
            self.forget_outgoing(&name, "AutoConnect has links enough", now);
        }
    }

    /// Closes a link that we dialled, if neither end needs it.
    fn drop_one(&mut self, now: Instant) {
        let surplus = self.count(|node| node.edges.len() > MOST);
        if !self.is_our_turn(surplus) {
            return;
        }
        let spare = |peer: &&Peer| {
            let auto = self.peers.outgoing.get(&peer.hello.name);
            peer.active
                && peer.hello.outgoing
                && auto.is_some_and(|out| out.is_auto() && out.is_connected())
                && now.saturating_duration_since(peer.up) >= YOUNG
                && self.nodes[peer.node].edges.len() > WANTED
        };
        let spares: Vec<NodeIdx> = self
            .peers
            .values()
            .filter(spare)
            .map(|peer| peer.node)
            .collect();
        if spares.is_empty() {
            return;
        }
        let to = spares[self.below(spares.len())];
        // Other nodes may close their links to that node at the same time.
        let node = &self.nodes[to];
        let excess = node.edges.len() - WANTED;
        let crowded = |idx: NodeIdx| self.nodes[idx].edges.len() > MOST;
        let crowd = node.edges.values().filter(|edge| crowded(edge.to)).count();
        if self.below(crowd) < excess && self.is_reached_without_link(to) {
            let name = self.nodes[to].name().clone();
            self.forget_outgoing(&name, "AutoConnect has links enough", now);
        }
    }

    /// Returns true if a neighbour has another path to us besides our link.
    fn is_reached_without_link(&self, to: NodeIdx) -> bool {
        let usable = |from, next| from != Nodes::ME || next != to;
        graph::hops(&self.nodes, Nodes::ME, to, usable).is_some()
    }

    fn auto_dial(&mut self, name: NodeName, now: Instant) {
        self.nodes.add(name.clone(), now);
        self.want_link(name, false, now);
        self.dial_due(now);
    }

    /// Returns a random number below `count`, or 0.
    fn below(&mut self, count: usize) -> usize {
        self.cx
            .rng
            .below(u32::try_from(count.max(1)).unwrap_or(u32::MAX)) as usize
    }

    /// Returns a random number from 0 to 1.
    fn share(&mut self) -> f64 {
        f64::from(self.cx.rng.below(1000)) / 1000.0
    }
}

#[cfg(test)]
mod tests;
