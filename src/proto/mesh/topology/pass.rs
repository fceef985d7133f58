//! The graph pass: new paths, and what follows for the nodes whose reachability changed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    mesh::{
        HookEvent, Mesh, Output, Timer,
        gossip::belief,
        topology::{
            graph,
            node::{Nodes, Reachability},
        },
    },
    route::NodeIdx,
};

/// Share of the time between two passes that each node of the mesh adds under constant change. A
/// pass takes about a fiftieth of it.
const PER_NODE: Duration = Duration::from_micros(250);
/// Longest mean time between two passes under constant change.
const LONGEST: Duration = Duration::from_millis(500);

/// Returns the mean time between two passes in a mesh of `nodes` nodes under constant change.
fn pass_cost(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    PER_NODE.saturating_mul(nodes).min(LONGEST)
}

impl Mesh {
    /// Runs the graph pass until no edge changes any more, or schedules it. In a storm of changes
    /// one pass serves many of them.
    pub(in crate::mesh) fn settle_graph(&mut self, now: Instant) {
        while self.graph.dirty {
            let due = self.graph.pace.due();
            if due > now {
                return self.cx.arm(due, Timer::Publish, Nodes::ME);
            }
            self.graph.dirty = false;
            self.graph.pace.spend(pass_cost(self.nodes.len()), now);
            self.run_graph(now);
            self.withdraw_orphans();
            if std::mem::take(&mut self.graph.purge) {
                self.purge_unreachable();
            }
        }
    }

    fn run_graph(&mut self, now: Instant) {
        self.cx.counters.graph_runs += 1;
        let mut places = graph::places(&self.nodes, &belief::Edges::new());
        self.keep_doubted_nodes(&mut places, now);
        let nowhere = Reachability::nowhere(Nodes::ME);
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        let mut flips = Vec::new();
        let mut changed = Vec::new();
        let mut news = false;
        for idx in all {
            let mut reachability = places.remove(idx).unwrap_or(nowhere);
            if reachability.reachable && idx != Nodes::ME {
                let anew = !self.nodes[idx].reachability.reachable;
                reachability.dialect = self.least_dialect(idx, &reachability);
                reachability.options =
                    self.believed(idx, reachability.options, (reachability.dialect, anew), now);
                reachability = self.hold_path(idx, reachability, now);
            }
            let node = &mut self.nodes[idx];
            let old = std::mem::replace(&mut node.reachability, reachability);
            if idx != Nodes::ME && old.reachable != reachability.reachable {
                flips.push(idx);
            } else if reachability.reachable && old.dialect != reachability.dialect {
                changed.push(idx);
            } else if reachability.reachable && self.paths[idx].addr.is_none() {
                self.paths[idx].addr = reachability.address;
            }
            if old != reachability {
                news = true;
                self.update_state(idx);
            }
        }
        news |= self.find_carriers();
        // In order of names, after all places are known: a script may inspect other nodes.
        for idx in flips {
            self.flip(idx, now);
        }
        for idx in changed {
            self.start_anew(idx, now);
        }
        let tree = graph::tree_neighbours(&self.nodes);
        news |= tree != self.graph.tree;
        self.graph.tree = tree;
        if news {
            self.publisher.mark_dirty();
        }
    }

    /// Drops the sessions with a reachable node and starts new ones.
    pub(in crate::mesh) fn start_anew(&mut self, idx: NodeIdx, now: Instant) {
        self.drop_keys(idx);
        let node = &mut self.nodes[idx];
        self.paths[idx].reset(node.reachability.address);
        self.update_state(idx);
        self.make_keys(idx, now);
    }

    /// Handles a node that became reachable or unreachable.
    fn flip(&mut self, idx: NodeIdx, now: Instant) {
        let old_address = self.own_address(idx).known();
        self.drop_keys(idx);
        let node = &mut self.nodes[idx];
        node.since = Some(now);
        node.idle_since = now;
        self.paths[idx].reset(node.reachability.address);
        let up = node.reachability.reachable;
        let name = node.name().clone();
        let address = if up {
            node.reachability.address
        } else {
            old_address
        };
        tracing::info!(node = %name, "{}", if up { "reachable" } else { "unreachable" });
        let hooks: Vec<HookEvent> = self.hooks_of(idx, up, address).collect();
        for hook in hooks {
            self.cx.emit(Output::Hook(hook));
        }
        self.update_state(idx);
        if up {
            self.tell_left_out(idx);
            self.make_keys(idx, now);
        }
    }

    /// Returns the script events of a node that becomes reachable or unreachable.
    fn hooks_of(
        &self,
        idx: NodeIdx,
        up: bool,
        address: Option<SocketAddr>,
    ) -> impl Iterator<Item = HookEvent> + '_ {
        let name = self.nodes[idx].name();
        let host = HookEvent::Host {
            up,
            node: name.clone(),
            address,
        };
        let subnets = self.nodes[idx].subnets.iter();
        let subnets = subnets.map(move |subnet| HookEvent::Subnet {
            up,
            node: name.clone(),
            subnet: *subnet,
            address,
        });
        std::iter::once(host).chain(subnets)
    }

    /// Returns the script events for all other nodes at shutdown. The call changes no state, so
    /// packets flow while the scripts run.
    pub fn farewell(&self) -> impl Iterator<Item = HookEvent> + '_ {
        let reachable =
            |idx: &NodeIdx| *idx != Nodes::ME && self.nodes[*idx].reachability.reachable;
        let nodes = self.nodes.by_name().filter(reachable);
        nodes.flat_map(|idx| self.hooks_of(idx, false, self.own_address(idx).known()))
    }
}
