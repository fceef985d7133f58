//! Paths and the broadcast tree: pure functions over the table of nodes.
//!
//! There are two passes, as in tinc. A breadth-first search finds the path to each node
//! (wire/tinc-1.0.md section 2.5, with the tie-break of wire/tinc-1.1.md section 5.2). A minimum
//! spanning tree serves broadcasts (wire/tinc-1.0.md section 2.6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use slotmap::SecondaryMap;

use meshd_wire::Options;

use crate::{
    dialect::Dialect,
    mesh::{
        gossip::belief::Edges,
        topology::{
            edge::Edge,
            node::{Nodes, Reachability},
        },
    },
    route::NodeIdx,
};

/// Reachability of each reachable node.
pub(in crate::mesh) type Places = SecondaryMap<NodeIdx, Reachability>;

/// The table of nodes as arrays for one pass. A node's rank is its place in the order of names.
struct View<'a> {
    nodes: Vec<NodeIdx>,
    ranks: SecondaryMap<NodeIdx, usize>,
    /// Edges of all nodes, in order of both ends.
    edges: Vec<(usize, &'a Edge)>,
    /// Start of the edges of each node, and their end.
    starts: Vec<usize>,
}

impl<'a> View<'a> {
    fn new(nodes: &'a Nodes) -> Self {
        let order: Vec<NodeIdx> = nodes.by_name().collect();
        let mut ranks = SecondaryMap::with_capacity(nodes.slot_count());
        for (rank, idx) in order.iter().enumerate() {
            ranks.insert(*idx, rank);
        }
        let mut edges = Vec::with_capacity(nodes.edge_count);
        let mut starts = Vec::with_capacity(order.len() + 1);
        for idx in &order {
            starts.push(edges.len());
            let ends = nodes[*idx].edges.values();
            edges.extend(ends.map(|edge| (ranks[edge.to], edge)));
        }
        starts.push(edges.len());
        Self {
            nodes: order,
            ranks,
            edges,
            starts,
        }
    }

    /// Edges of a node, in order of the other ends.
    fn edges(&self, rank: usize) -> &[(usize, &'a Edge)] {
        &self.edges[self.starts[rank]..self.starts[rank + 1]]
    }

    fn edge(&self, from: usize, to: usize) -> Option<&'a Edge> {
        let edges = self.edges(from);
        let at = edges.binary_search_by_key(&to, |(to, _)| *to).ok()?;
        Some(edges[at].1)
    }
}

/// Computes the place of each reachable node. Only edges known in both directions count.
///
/// A path of fewest hops wins. Among paths of equal length the smallest sum of weights decides the
/// nexthop. A node that was first found over an IndirectData edge is updated when a path without
/// such an edge is found; the nexthop stays. `more` are edges that count in addition to the table.
pub(in crate::mesh) fn places(nodes: &Nodes, more: &Edges) -> Places {
    let view = View::new(nodes);
    let me = Nodes::ME;
    let here = Reachability {
        reachable: true,
        distance: 0,
        ..Reachability::nowhere(me)
    };
    // Reachability of a node, and the sum of weights on its path, by rank.
    let mut found: Vec<Option<(Reachability, i64)>> = vec![None; view.nodes.len()];
    found[view.ranks[me]] = Some((here, 0));
    let mut queue = VecDeque::from([view.ranks[me]]);
    while let Some(rank) = queue.pop_front() {
        let idx = view.nodes[rank];
        let Some((from, cost)) = found[rank] else {
            continue;
        };
        let of_table = view.edges(rank).iter().copied();
        // No index is smaller than ours.
        let more_of_it = more.range((idx, me)..);
        let more_of_it = more_of_it.take_while(|((from, _), _)| *from == idx);
        let more_of_it = more_of_it.map(|((_, to), edge)| (view.ranks[*to], edge));
        for (at, edge) in of_table.chain(more_of_it) {
            let to = edge.to;
            let back = || view.edge(at, rank).is_some() || more.contains_key(&(to, idx));
            if to == me || !back() {
                continue;
            }
            let indirect = from.indirect || edge.options.has(Options::INDIRECT);
            let known = from.nexthop == me || nodes[to].introduced_by.is_none();
            let reachability = Reachability {
                vouched: if known { to } else { from.vouched },
                dialect: Dialect::Sptps,
                reachable: true,
                indirect,
                distance: from.distance + 1,
                nexthop: if from.nexthop == me { to } else { from.nexthop },
                via: if indirect { from.via } else { to },
                options: edge.options,
                address: edge.address.target(),
            };
            let cost = cost + i64::from(edge.weight);
            let Some((old, old_cost)) = found[at] else {
                found[at] = Some((reachability, cost));
                queue.push_back(at);
                continue;
            };
            let shorter = old.distance == reachability.distance && cost < old_cost;
            if old.indirect && !indirect {
                let (nexthop, cost) = if shorter {
                    (reachability.nexthop, cost)
                } else {
                    (old.nexthop, old_cost)
                };
                let kept = Reachability {
                    nexthop,
                    distance: old.distance,
                    ..reachability
                };
                found[at] = Some((kept, cost));
                queue.push_back(at);
            } else if shorter && old.indirect == indirect {
                found[at] = Some((reachability, cost));
            }
        }
    }
    let mut places = Places::with_capacity(nodes.slot_count());
    for (idx, found) in view.nodes.iter().zip(found) {
        if let Some((reachability, _)) = found {
            places.insert(*idx, reachability);
        }
    }
    places
}

/// Number of hops from one node to another over usable edges that both ends announce.
pub(in crate::mesh) fn hops(
    nodes: &Nodes,
    from: NodeIdx,
    to: NodeIdx,
    usable: impl Fn(NodeIdx, NodeIdx) -> bool,
) -> Option<i32> {
    let mut seen = BTreeSet::from([from]);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((idx, hops)) = queue.pop_front() {
        if idx == to {
            return Some(hops);
        }
        for edge in nodes[idx].edges.values() {
            let both = nodes.edge(edge.to, idx).is_some();
            if both && usable(idx, edge.to) && seen.insert(edge.to) {
                queue.push_back((edge.to, hops + 1));
            }
        }
    }
    None
}

/// Most nodes remembered between us and another node. A longer path is not used by anybody.
const MAX_BETWEEN: usize = 64;

/// Returns, for each reachable node, the nodes on all shortest paths to it, in order of indices.
/// All nodes count hops alike, but each node chooses among paths of equal length by itself.
pub(in crate::mesh) fn between(nodes: &Nodes) -> BTreeMap<NodeIdx, Vec<NodeIdx>> {
    let reachable = nodes.iter().filter(|(_, node)| node.reachability.reachable);
    let mut order: Vec<(i32, NodeIdx)> = reachable
        .map(|(idx, node)| (node.reachability.distance, idx))
        .collect();
    order.sort();
    let mut found = BTreeMap::<NodeIdx, Vec<NodeIdx>>::new();
    for (distance, idx) in order {
        let mut on_the_way = BTreeSet::new();
        for edge in nodes[idx].edges.values().filter(|_| distance > 1) {
            let nearer = nodes[edge.to].reachability.distance == distance - 1;
            if nearer && nodes.edge(edge.to, idx).is_some() {
                on_the_way.insert(edge.to);
                on_the_way.extend(found.get(&edge.to).into_iter().flatten());
            }
        }
        found.insert(idx, on_the_way.into_iter().take(MAX_BETWEEN).collect());
    }
    found
}

/// Returns our neighbours on the minimum spanning tree. All nodes compute the same tree: each edge
/// in order of weight, then names, joins two parts that no earlier edge joins.
pub(in crate::mesh) fn tree_neighbours(nodes: &Nodes) -> BTreeSet<NodeIdx> {
    let view = View::new(nodes);
    let mut sorted = Vec::with_capacity(view.edges.len() / 2);
    for from in 0..view.nodes.len() {
        let later = view.edges(from).iter().filter(|(to, _)| *to > from);
        for (to, edge) in later {
            // Each direction has its own weight.
            if let Some(back) = view.edge(*to, from) {
                sorted.push((edge.weight, from, *to).min((back.weight, *to, from)));
            }
        }
    }
    sorted.sort_unstable();
    let me = view.ranks[Nodes::ME];
    let mut parts: Vec<usize> = (0..view.nodes.len()).collect();
    let mut neighbours = BTreeSet::new();
    for (_, from, to) in sorted {
        let (a, b) = (part(&mut parts, from), part(&mut parts, to));
        parts[a] = b;
        if a != b && from == me {
            neighbours.insert(view.nodes[to]);
        } else if a != b && to == me {
            neighbours.insert(view.nodes[from]);
        }
    }
    neighbours
}

/// Returns the representative of a node's part, and shortens the way to it.
fn part(parts: &mut [usize], mut of: usize) -> usize {
    while parts[of] != of {
        parts[of] = parts[parts[of]];
        of = parts[of];
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;
    use meshd_wire::{EdgeAddress, Request};

    fn graph(edges: &[(&str, &str, i32, u32)]) -> (Nodes, impl Fn(&str) -> NodeIdx + use<>) {
        let mut nodes = Nodes::new("me".parse().unwrap(), testing::start());
        for (from, to, weight, options) in edges {
            for (from, to) in [(from, to), (to, from)] {
                let from = nodes.add(from.parse().unwrap(), testing::start());
                let to = nodes.add(to.parse().unwrap(), testing::start());
                let edge = Edge {
                    to,
                    address: EdgeAddress::unspec(),
                    local: None,
                    options: Options(*options),
                    weight: *weight,
                    teller: None,
                };
                nodes.insert_edge(from, to, edge);
            }
        }
        let names: BTreeMap<String, NodeIdx> = nodes
            .iter()
            .map(|(idx, node)| (node.name().to_string(), idx))
            .collect();
        (nodes, move |name: &str| names[name])
    }

    #[test]
    fn fewest_hops_win_then_the_smallest_sum_of_weights() {
        let (nodes, at) = graph(&[
            ("me", "a", 100, 0),
            ("me", "b", 1, 0),
            ("a", "z", 1, 0),
            ("b", "z", 50, 0),
            ("b", "c", 1, 0),
            ("c", "d", 1, 0),
            ("d", "z", 1, 0),
        ]);
        let places = places(&nodes, &Edges::new());
        assert_eq!(places[at("z")].nexthop, at("b"));
        assert_eq!(places[at("z")].distance, 2);
        assert_eq!(places[at("z")].via, at("z"));
    }

    /// Two paths of equal length to z; d hangs off one of them, e is on a longer path.
    #[test]
    fn between_are_the_nodes_of_all_shortest_paths() {
        let (mut nodes, at) = graph(&[
            ("me", "a", 1, 0),
            ("me", "b", 100, 0),
            ("a", "c", 1, 0),
            ("b", "c", 1, 0),
            ("c", "z", 1, 0),
            ("b", "d", 1, 0),
            ("d", "e", 1, 0),
            ("e", "z", 1, 0),
        ]);
        let places = places(&nodes, &Edges::new());
        for (idx, reachability) in &places {
            nodes[idx].reachability = *reachability;
        }
        let between = between(&nodes);
        let expect = |of: &str, names: &[&str]| {
            let mut wanted: Vec<NodeIdx> = names.iter().map(|name| at(name)).collect();
            wanted.sort();
            assert_eq!(between[&at(of)], wanted, "{of}");
        };
        expect("a", &[]);
        expect("c", &["a", "b"]);
        expect("z", &["a", "b", "c"]);
        expect("e", &["b", "d"]);
    }

    #[test]
    fn one_way_edges_reach_nobody() {
        let (mut nodes, at) = graph(&[("me", "a", 1, 0), ("a", "b", 1, 0)]);
        nodes.remove_edge(at("b"), at("a"));
        let places = places(&nodes, &Edges::new());
        assert!(places.contains_key(at("a")));
        assert!(!places.contains_key(at("b")));
    }

    #[test]
    fn via_is_the_last_node_before_an_indirect_edge() {
        let (nodes, at) = graph(&[
            ("me", "a", 1, 0),
            ("a", "b", 1, Options::INDIRECT),
            ("b", "c", 1, 0),
        ]);
        let places = places(&nodes, &Edges::new());
        assert_eq!(places[at("b")].via, at("a"));
        assert_eq!(places[at("c")].via, at("a"));
        assert!(places[at("c")].indirect);
        assert_eq!(places[at("c")].nexthop, at("a"));
    }

    #[test]
    fn the_tree_takes_the_lightest_edges_and_has_no_ring() {
        let (mut nodes, at) = graph(&[("me", "a", 5, 0), ("me", "b", 1, 0), ("a", "b", 2, 0)]);
        for (idx, reachability) in places(&nodes, &Edges::new()) {
            nodes[idx].reachability = reachability;
        }
        assert_eq!(tree_neighbours(&nodes), BTreeSet::from([at("b")]));
    }

    /// Compares with the results of a real tincd 1.0.36 for the same edges
    /// (tests/vectors/tinc-1.0.json). Among paths of equal length that tincd takes the first name
    /// regardless of weights. meshd does so if all weights are equal.
    #[test]
    fn recorded_graphs_have_the_same_paths_and_the_same_tree() {
        let text = include_str!("../../../../tests/vectors/tinc-1.0.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["graph"]["cases"].as_array().unwrap() {
            let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let me = word(&case["me"]);
            let mut nodes = Nodes::new(me.parse().unwrap(), testing::start());
            let mut weights = Vec::new();
            let ours = case["my_edges"].as_array().unwrap().iter().map(|edge| {
                let [to, address, port] = ["to", "address", "port"].map(|key| word(&edge[key]));
                let (options, weight) = (edge["options"].as_u64().unwrap(), &edge["weight"]);
                format!("12 0 {me} {to} {address} {port} {options:x} {weight}")
            });
            let theirs = case["add_edge_lines_in_order"].as_array().unwrap();
            for line in ours.chain(theirs.iter().map(word)) {
                let Ok(Request::AddEdge {
                    from,
                    to,
                    address,
                    options,
                    weight,
                    local,
                }) = Request::parse(line.as_bytes())
                else {
                    panic!("{line}");
                };
                let [from, to] = [from, to].map(|name| nodes.add(name, testing::start()));
                let edge = Edge {
                    to,
                    address,
                    local,
                    options,
                    weight: 1,
                    teller: None,
                };
                weights.push((from, edge.to, weight));
                nodes.insert_edge(from, to, edge);
            }
            let found = places(&nodes, &Edges::new());
            let name = |idx: NodeIdx| nodes[idx].name().to_string();
            for (node, expected) in case["expect_nodes"].as_object().unwrap() {
                let idx = nodes.find(&node.parse().unwrap()).unwrap();
                let reachability = found.get(idx);
                assert_eq!(
                    reachability.is_some(),
                    expected["reachable"] == true,
                    "{node} in {case}"
                );
                let Some(reachability) = reachability else {
                    continue;
                };
                let hops = [reachability.nexthop, reachability.via].map(name);
                assert_eq!(
                    hops,
                    ["nexthop", "via"].map(|key| word(&expected[key])),
                    "{node} in {case}"
                );
                assert_eq!(
                    reachability.indirect,
                    expected["indirect"] == true,
                    "{node} in {case}"
                );
                assert_eq!(
                    Some(reachability.options.0.into()),
                    expected["options"].as_u64(),
                    "{node} in {case}"
                );
            }
            for (idx, reachability) in found {
                nodes[idx].reachability = reachability;
            }
            for (from, to, weight) in weights {
                let edge = Edge {
                    weight,
                    ..nodes.edge(from, to).unwrap().clone()
                };
                nodes.insert_edge(from, to, edge);
            }
            let tree = tree_neighbours(&nodes);
            for (node, expected) in case["expect_mst_connections"].as_object().unwrap() {
                let idx = nodes.find(&node.parse().unwrap()).unwrap();
                assert_eq!(tree.contains(&idx), *expected == true, "{node} in {case}");
            }
        }
    }
}
