//! AutoConnect: keeps about three links a node, without haste.
//!
//! In a mesh of some size many nodes see the same event, and each link that one of them makes or drops is told
//! to all. So a node without a link dials at once, and every other change waits: the fewer links a node has
//! left the shorter, and longer in a large mesh, so that a neighbour that restarts is back before it is
//! replaced. Then chance decides, so that a bounded number of nodes act at a time. The graph says how many links each
//! node has: nodes with too few are dialled first, and no link is dropped that its other end needs.
//! Links of ConnectTo and links that others dialled count. Departures from tinc (wire/tinc-1.1.md section 5.3): it acts
//! every five seconds, and drops a link as soon as it has a fourth; attempts of ConnectTo are not cancelled.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use meshd_wire::NodeName;

use crate::{
    mesh::{
        Mesh, Timer,
        dial::Outgoing,
        node::{Node, Nodes},
        peers::Peer,
    },
    route::NodeIdx,
};

/// Mean time between two looks. Each takes a random time around it, so that nodes that started together do not look
/// together: who knows of the others' new links does not choose the same node.
const INTERVAL: Duration = Duration::from_secs(5);
/// Links that a node wants.
const WANTED: usize = 3;
/// Links above which a node drops one. One more than wanted: who has lost a neighbour and found another keeps both
/// when the first one returns, and has enough when it is lost again.
const MOST: usize = 4;
/// Changes that the whole mesh makes in one [`INTERVAL`], on average. A new link costs each node about six lines,
/// and its two ends all that they know.
const PER_INTERVAL: usize = 16;
/// Edges that came or went since the last look, above which a node waits: both directions of four times
/// [`PER_INTERVAL`] links.
const STORM: u64 = 2 * 4 * PER_INTERVAL as u64;
/// Longest delay for a storm.
const STORM_PATIENCE: Duration = Duration::from_secs(60);
/// A node with two links waits this long for each node of the mesh, and up to twice that, before it dials.
const PATIENCE_PER_NODE: Duration = Duration::from_millis(500);
/// Most that a node with two links waits before it dials, to be doubled likewise.
const PATIENCE: Duration = Duration::from_secs(30);
/// A node with one link waits shorter by this factor.
const HURRY: u32 = 6;
/// Most that passes before a node that became unreachable is dialled so that a split mesh finds together.
const LOST: Duration = Duration::from_secs(10);
/// Age below which no link is dropped.
const YOUNG: Duration = Duration::from_secs(60);
/// How long a node is not dialled after it could not be; doubled with each failure.
const HOLD: Duration = Duration::from_secs(5);
/// Longest time for which a node is not dialled.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// What AutoConnect remembers.
pub(super) struct AutoConnect {
    /// Time of the next look.
    at: Instant,
    started: Instant,
    /// When links became fewer than wanted, and the share of the patience that this node adds, 0 to 1.
    short: Option<(Instant, f64)>,
    /// Value of [`Nodes::changes`] at the last look.
    changes: u64,
    /// Nodes that could not be dialled: how often in a row, and until when they are not dialled. No more than there
    /// are host files.
    held: BTreeMap<NodeName, (u32, Instant)>,
}

/// A node that may be dialled.
struct Candidate {
    name: NodeName,
    reachable: bool,
    /// Whether its host file has an Address.
    addressed: bool,
    /// Links that the graph knows of.
    links: usize,
}

impl Candidate {
    /// Candidates of a higher rank are dialled first.
    fn rank(&self) -> (bool, bool, bool) {
        (self.reachable, self.addressed, self.links < WANTED)
    }
}

impl AutoConnect {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: now,
            started: now,
            short: None,
            changes: 0,
            held: BTreeMap::new(),
        }
    }

    /// All nodes may be dialled again, or one.
    pub(super) fn release(&mut self, name: Option<&NodeName>) {
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
    /// The last link is gone: the next look comes at once.
    pub(super) fn auto_alone(&mut self, now: Instant) {
        self.auto.at = now;
        self.timers.insert((now, Timer::Dial, Nodes::ME));
    }

    /// A node that AutoConnect dialled has no address that works.
    pub(super) fn auto_failed(&mut self, name: &NodeName, now: Instant) {
        let jitter = self.share();
        let (failures, until) = self.auto.held.entry(name.clone()).or_insert((0, now));
        let hold = (HOLD * (1 << *failures)).min(MAX_HOLD);
        *until = now + hold.mul_f64(0.75 + jitter / 2.0);
        *failures = (*failures + 1).min(8);
    }

    /// Once a second, and when a look is due: at most one link is wanted or dropped, if it is time.
    pub(super) fn auto_connect(&mut self, now: Instant) {
        if !self.settings.auto_connect {
            return;
        }
        let links = self.nodes[Nodes::ME].edges.len();
        if links >= WANTED {
            self.auto.short = None;
            self.cancel_needless(now);
        } else if self.auto.short.is_none() {
            self.auto.short = Some((now, self.share()));
        }
        if now < self.auto.at {
            return;
        }
        self.auto.at = now + INTERVAL.mul_f64(0.8 + 0.4 * self.share());
        self.timers.insert((self.auto.at, Timer::Dial, Nodes::ME));
        let before = std::mem::replace(&mut self.auto.changes, self.nodes.changes);
        let storm = self.nodes.changes - before > STORM;
        if self.wants_another(links, storm, now) {
            self.dial_one(links, now);
        } else if links > MOST && !storm {
            self.drop_one(now);
        }
        self.dial_lost_one(links, storm, now);
    }

    /// Whether it is time for one more link.
    fn wants_another(&mut self, links: usize, storm: bool, now: Instant) -> bool {
        let Some((since, share)) = self.auto.short else {
            return false;
        };
        let (mut ours, mut pending) = (0, 0);
        for out in self.outgoing.values().filter(|out| out.is_under_way(now)) {
            pending += 1;
            ours += usize::from(out.is_auto());
        }
        if links + ours >= WANTED {
            return false;
        }
        let waited = now.saturating_duration_since(since);
        if links == 0 {
            // ConnectTo, or a neighbour of before a restart, has the first try.
            return pending == 0 || waited >= 2 * INTERVAL;
        }
        let patience = self.patience().mul_f64(1.0 + share) / if links == 1 { HURRY } else { 1 };
        if waited < patience || storm && waited < patience + STORM_PATIENCE {
            return false;
        }
        let needy = self.count(|node| node.edges.len() < WANTED);
        self.is_our_turn(needy)
    }

    /// Reachable nodes of a kind, our own among them.
    fn count(&self, is: impl Fn(&Node) -> bool) -> usize {
        let there = |idx: NodeIdx, node: &Node| idx == Nodes::ME || node.place.reachable;
        let nodes = self.nodes.iter();
        nodes
            .filter(|(idx, node)| there(*idx, node) && is(node))
            .count()
    }

    /// Chance, such that of `nodes` nodes that ask [`PER_INTERVAL`] may act.
    fn is_our_turn(&mut self, nodes: usize) -> bool {
        nodes <= PER_INTERVAL || self.below(nodes) < PER_INTERVAL
    }

    /// Dials a node at random among those that need a link most.
    fn dial_one(&mut self, links: usize, now: Instant) {
        let (held, mut free): (Vec<_>, Vec<_>) = self
            .auto_candidates()
            .partition(|one| self.auto.holds(&one.name, now));
        if free.is_empty() && links == 0 {
            free = held;
        }
        let Some(best) = free.iter().map(Candidate::rank).max() else {
            return;
        };
        free.retain(|one| one.rank() == best);
        // Of two, that with fewer links: nobody gets very many so.
        let two = [self.below(free.len()), self.below(free.len())];
        let at = two.into_iter().min_by_key(|at| free[*at].links);
        if let Some(at) = at {
            let name = free.swap_remove(at).name;
            self.auto_dial(name, now);
        }
    }

    /// Now and then dials a node that has been unreachable for some time, so that a split mesh finds together. On average
    /// each of them is dialled by one node in an [`INTERVAL`], or all of them by [`PER_INTERVAL`] nodes.
    fn dial_lost_one(&mut self, links: usize, storm: bool, now: Instant) {
        let busy = |out: &Outgoing| out.is_auto() && out.is_under_way(now);
        if links == 0 || self.outgoing.values().any(busy) {
            return;
        }
        let least = if storm {
            STORM_PATIENCE
        } else {
            self.patience().min(LOST)
        };
        let gone = |name: &NodeName| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            let since = node.map_or(self.auto.started, |node| node.idle_since);
            now.saturating_duration_since(since) >= least
        };
        let lost: Vec<NodeName> = self
            .auto_candidates()
            .filter(|one| !one.reachable && gone(&one.name) && !self.auto.holds(&one.name, now))
            .map(|one| one.name)
            .collect();
        let (all, there) = (self.nodes.len(), self.live_nodes() + 1);
        if self.below(all) < lost.len() && self.is_our_turn(lost.len().min(there)) {
            let at = self.below(lost.len());
            self.auto_dial(lost[at].clone(), now);
        }
    }

    /// How long a node with two links waits at least before it dials.
    fn patience(&self) -> Duration {
        let size = self.settings.hosts.len().max(self.live_nodes());
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        PATIENCE_PER_NODE.saturating_mul(size).min(PATIENCE)
    }

    /// Nodes without a link that could be dialled: a key, and an address or reachable.
    fn auto_candidates(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.settings.hosts.iter().filter_map(|(name, host)| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            let reachable = node.is_some_and(|node| node.place.reachable);
            let addressed = !host.addresses.is_empty();
            let candidate = node.is_none_or(|node| node.link.is_none())
                && (addressed || reachable)
                && self.settings.credentials(host).is_some()
                && !self.outgoing.contains_key(name);
            candidate.then(|| Candidate {
                name: name.clone(),
                reachable,
                addressed,
                links: node.map_or(0, |node| node.edges.len()),
            })
        })
    }

    /// Ends attempts to dial nodes that are reachable: there are links enough.
    fn cancel_needless(&mut self, now: Instant) {
        let reachable = |name: &NodeName| {
            let node = self.nodes.find(name).map(|idx| &self.nodes[idx]);
            node.is_some_and(|node| node.place.reachable)
        };
        let needless: Vec<NodeName> = self
            .outgoing
            .iter()
            .filter(|(name, out)| out.is_auto() && !out.is_connected() && reachable(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in needless {
            self.forget_outgoing(&name, "AutoConnect has links enough", now);
        }
    }

    /// Drops a link that we dialled, if neither end needs it.
    fn drop_one(&mut self, now: Instant) {
        let surplus = self.count(|node| node.edges.len() > MOST);
        if !self.is_our_turn(surplus) {
            return;
        }
        let spare = |peer: &&Peer| {
            let auto = self.outgoing.get(&peer.hello.name);
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
        // Others may drop their links to that node at the same time.
        let node = &self.nodes[to];
        let excess = node.edges.len() - WANTED;
        let crowded = |idx: NodeIdx| self.nodes[idx].edges.len() > MOST;
        let crowd = node.edges.values().filter(|edge| crowded(edge.to)).count();
        if self.below(crowd) < excess && self.is_reached_without_link(to) {
            let name = self.nodes[to].name().clone();
            self.forget_outgoing(&name, "AutoConnect has links enough", now);
        }
    }

    /// Whether there is a path to a neighbour beside our link to it.
    fn is_reached_without_link(&self, to: NodeIdx) -> bool {
        let mut visited = BTreeSet::from([Nodes::ME]);
        let mut next = vec![Nodes::ME];
        while let Some(idx) = next.pop() {
            for edge in self.nodes[idx].edges.values() {
                let link = idx == Nodes::ME && edge.to == to;
                if !link && self.nodes.edge(edge.to, idx).is_some() && visited.insert(edge.to) {
                    next.push(edge.to);
                }
            }
        }
        visited.contains(&to)
    }

    fn auto_dial(&mut self, name: NodeName, now: Instant) {
        self.nodes.add(name.clone(), now);
        self.want_link(name, false, now);
        self.dial_due(now);
    }

    /// A number below `count`, or 0.
    fn below(&mut self, count: usize) -> usize {
        self.rng
            .below(u32::try_from(count.max(1)).unwrap_or(u32::MAX)) as usize
    }

    /// A number from 0 to 1.
    fn share(&mut self) -> f64 {
        f64::from(self.rng.below(1000)) / 1000.0
    }
}

#[cfg(test)]
mod tests;
