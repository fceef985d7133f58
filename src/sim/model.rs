//! The oracle: computes the expected state of each node from the list of live links, by naive
//! algorithms.

use std::collections::{BTreeMap, BTreeSet};

use meshd_proto::route::lpm::Owner;
use meshd_wire::NodeName;

use crate::{node::SimNode, plan, world::World};

/// Undirected links by node numbers, lower number first.
type Links = BTreeSet<(usize, usize)>;
/// Weights by both ends, per direction.
type Weights = BTreeMap<(usize, usize), i32>;
/// Hops and sum of weights of the best path: fewest hops first.
type Cost = Option<(usize, i64)>;

/// Compares every running node with the expected state. The mesh must be at rest.
pub(super) fn check(world: &World) -> Result<(), String> {
    let oracle = Oracle::new(world)?;
    for (number, node) in world
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.alive)
    {
        let checks = [
            oracle.check_edges(number),
            oracle.check_paths(number, node, world),
            oracle.check_tables(number, node),
            oracle.check_tree(number, node),
        ];
        for check in checks {
            check.map_err(|what| format!("n{number}: {what}"))?;
        }
    }
    Ok(())
}

struct Oracle {
    /// Edges that each node knows.
    known: Vec<Weights>,
    /// Edges that exist.
    weights: Weights,
    costs: Vec<Vec<Cost>>,
    tree: Links,
}

impl Oracle {
    fn new(world: &World) -> Result<Self, String> {
        let links = live_links(world);
        let known: Vec<Weights> = world.nodes.iter().map(edges).collect();
        let weights = weights(&known, &links)?;
        let costs = costs(world.nodes.len(), &weights);
        let tree = tree(world.nodes.len(), &weights);
        Ok(Self {
            known,
            weights,
            costs,
            tree,
        })
    }

    /// Checks that a node knows every edge of its part, with the right weight, and no other edge
    /// between reachable nodes.
    fn check_edges(&self, me: usize) -> Result<(), String> {
        let known = &self.known[me];
        for ((from, to), weight) in &self.weights {
            if self.costs[me][*from].is_none() {
                continue;
            }
            match known.get(&(*from, *to)) {
                None => return Err(format!("does not know the edge n{from} - n{to}")),
                Some(known) if known != weight => {
                    return Err(format!(
                        "takes the edge n{from} - n{to} for {known} and not for {weight}"
                    ));
                }
                Some(_) => {}
            }
        }
        let reached = |edge: &&(usize, usize)| self.costs[me][edge.0].is_some();
        match known
            .keys()
            .filter(reached)
            .find(|edge| !self.weights.contains_key(*edge))
        {
            Some((from, to)) => Err(format!("believes in the edge n{from} - n{to}")),
            None => Ok(()),
        }
    }

    /// Checks reachability, hops, via and nexthop, as in `dump nodes`. Any of several best nexthops
    /// is valid.
    fn check_paths(&self, me: usize, node: &SimNode, world: &World) -> Result<(), String> {
        for row in node.mesh.nodes(world.now) {
            let to = number(&row.name)?;
            let hops = self.costs[me][to].map(|(hops, _)| hops as i32);
            if row.distance != hops.unwrap_or(-1) {
                return Err(format!(
                    "sees n{to} at {} hops and not at {hops:?}",
                    row.distance
                ));
            }
            if hops.is_none() || to == me {
                continue;
            }
            if row.via != row.name {
                return Err(format!("goes to n{to} via {}", row.via));
            }
            let next = number(&row.nexthop)?;
            if !self.is_next_hop(me, next, to) {
                return Err(format!(
                    "goes to n{to} over n{next}, which is not the best way"
                ));
            }
        }
        Ok(())
    }

    fn is_next_hop(&self, me: usize, next: usize, to: usize) -> bool {
        let first = self.weights.get(&(me, next));
        let (Some(first), Some(rest)) = (first, self.costs[next][to]) else {
            return false;
        };
        self.costs[me][to] == Some((rest.0 + 1, rest.1 + i64::from(*first)))
    }

    /// Checks the tables of the packet threads: reachability and nexthop again, and the owner of
    /// each subnet.
    fn check_tables(&self, me: usize, node: &SimNode) -> Result<(), String> {
        let tables = &node.snapshot;
        for (to, costs) in self.costs[me].iter().enumerate() {
            let found = tables
                .by_id
                .get(&plan::name(to).id())
                .and_then(|idx| tables.node(*idx));
            let state = found.map(|found| found.state.load());
            let reachable = state.as_ref().is_some_and(|state| state.reachable);
            if reachable != costs.is_some() {
                return Err(format!("its tables have n{to} reachable: {reachable}"));
            }
            let (Some(found), Some(state), Some(_)) = (found, state, costs) else {
                continue;
            };
            let owner = tables.v4.lookup(plan::mesh_ip(to).into());
            if owner != Some(Owner::Node(found.idx.slot())) {
                return Err(format!("its tables give the subnet of n{to} to {owner:?}"));
            }
            let next = tables
                .node(state.nexthop)
                .map(|next| number(next.name.as_str()))
                .transpose()?;
            if to != me && !next.is_some_and(|next| self.is_next_hop(me, next, to)) {
                return Err(format!("its tables go to n{to} over {next:?}"));
            }
        }
        Ok(())
    }

    /// Checks that broadcasts follow the minimum spanning tree.
    fn check_tree(&self, me: usize, node: &SimNode) -> Result<(), String> {
        let names = node
            .snapshot
            .broadcast
            .iter()
            .filter_map(|idx| node.snapshot.node(*idx));
        let known: BTreeSet<usize> = names
            .map(|node| number(node.name.as_str()))
            .collect::<Result<_, _>>()?;
        let expected: BTreeSet<usize> = self
            .tree
            .iter()
            .filter(|(a, b)| *a == me || *b == me)
            .map(|(a, b)| if *a == me { *b } else { *a })
            .collect();
        if known == expected {
            return Ok(());
        }
        Err(format!(
            "its tree goes to {known:?} and not to {expected:?}"
        ))
    }
}

/// Returns the links that are up at both ends.
fn live_links(world: &World) -> Links {
    let up = |node: usize, life, link: Option<_>| {
        let sim = &world.nodes[node];
        let link = link.and_then(|link| sim.links.get(link));
        sim.alive && sim.life == life && link.is_some_and(|link| link.up)
    };
    let live = world.conns.values().filter(|conn| {
        conn.ends
            .iter()
            .all(|end| end.open && up(end.node, end.life, end.link))
    });
    live.map(|conn| {
        let [a, b] = &conn.ends;
        (a.node.min(b.node), a.node.max(b.node))
    })
    .collect()
}

/// Returns the weight of each edge, on which its two ends must agree.
fn weights(known: &[Weights], links: &Links) -> Result<Weights, String> {
    let mut weights = Weights::new();
    for (a, b) in links {
        for (from, to) in [(*a, *b), (*b, *a)] {
            let by = |node: usize| known[node].get(&(from, to)).copied();
            match (by(from), by(to)) {
                (Some(one), Some(other)) if one == other => weights.insert((from, to), one),
                (one, other) => {
                    return Err(format!(
                        "the edge n{from} - n{to} weighs {one:?} to one end and {other:?} to the other"
                    ));
                }
            };
        }
    }
    Ok(weights)
}

/// Returns the edges of `dump edges`.
fn edges(node: &SimNode) -> Weights {
    let rows = node.mesh.edges().into_iter();
    rows.filter_map(|row| Some(((number(&row.from).ok()?, number(&row.to).ok()?), row.weight)))
        .collect()
}

/// Returns the best path between all pairs, by Floyd and Warshall's three loops.
fn costs(nodes: usize, weights: &Weights) -> Vec<Vec<Cost>> {
    let mut costs = vec![vec![None; nodes]; nodes];
    for (node, row) in costs.iter_mut().enumerate() {
        row[node] = Some((0, 0));
    }
    for ((from, to), weight) in weights {
        costs[*from][*to] = Some((1, i64::from(*weight)));
    }
    for middle in 0..nodes {
        let second: Vec<Cost> = costs[middle].clone();
        for row in &mut costs {
            let Some(first) = row[middle] else { continue };
            for (best, rest) in row.iter_mut().zip(&second) {
                let Some(rest) = rest else { continue };
                let sum = (first.0 + rest.0, first.1 + rest.1);
                if best.is_none_or(|best| sum < best) {
                    *best = Some(sum);
                }
            }
        }
    }
    costs
}

/// Returns the minimum spanning tree of every part, by Kruskal over edges in order of weight, then
/// names.
fn tree(nodes: usize, weights: &Weights) -> Links {
    let mut order: Vec<(i32, NodeName, NodeName, usize, usize)> = weights
        .iter()
        .map(|((from, to), weight)| (*weight, plan::name(*from), plan::name(*to), *from, *to))
        .collect();
    order.sort();
    let mut part: Vec<usize> = (0..nodes).collect();
    let mut tree = Links::new();
    for (_, _, _, from, to) in order {
        let (old, new) = (part[from], part[to]);
        if old != new {
            tree.insert((from.min(to), from.max(to)));
            part.iter_mut()
                .filter(|part| **part == old)
                .for_each(|part| *part = new);
        }
    }
    tree
}

/// Returns the number in a name made by [`plan::name`].
pub(super) fn number(name: &str) -> Result<usize, String> {
    let digits = name
        .strip_prefix('n')
        .and_then(|digits| digits.parse().ok());
    digits.ok_or_else(|| format!("names a node {name:?} that does not exist"))
}
