//! One packet among nodes with different graphs, so that it may go in circles. Counts how often
//! each node gets the packet, and how often it is forwarded.
//!
//! Nodes are numbered from 0. At each node its own index is 0 and the others follow, so an index is
//! a distance around the circle.

use std::{collections::VecDeque, time::Instant};

use super::*;
use meshd_proto::{
    route::{
        Broadcast, MTU, NodeShared,
        lpm::{Route, Table},
    },
    tunnel::SPTPS_OVERHEAD,
};
use meshd_wire::testing::v6;

/// More packets than any test with an end to its packets sends.
const ENDLESS: usize = 2_000;

/// The tables of all nodes.
struct Nodes {
    tables: Vec<RouteSnapshot>,
    /// Nodes without fingerprints, like tincds.
    tinc: Vec<bool>,
    start: Instant,
    /// Number of packets that meshds have sent in [`Self::spread`].
    ours: usize,
}

impl Nodes {
    /// Makes nodes, of which `tinc` marks the tincds. `state` returns the state of a node (second)
    /// at another (first).
    fn new(tinc: &[bool], state: impl Fn(usize, usize, NodeSlot) -> NodeState) -> Self {
        let count = tinc.len();
        let name = |node| NodeName::new(&format!("n{node}")).unwrap();
        let at = |at: usize| {
            let me = NodeState {
                udp: None,
                mtu: MTU,
                neighbour: false,
                ..neighbour(ME)
            };
            let mut tables = RouteSnapshot::empty(Arc::new(NodeShared::new(
                NodeIdx::of_slot(ME),
                name(at),
                me,
            )));
            for idx in (1..count as u32).map(NodeSlot) {
                let node = (at + idx.0 as usize) % count;
                let shared = Arc::new(NodeShared::new(
                    NodeIdx::of_slot(idx),
                    name(node),
                    state(at, node, idx),
                ));
                tables.by_id.insert(shared.id, idx);
                tables.by_addr.insert(addr(idx), idx);
                tables.nodes.push(Some(shared));
            }
            let (owner, len) = (Owner::Broadcast, 4);
            tables.v4 = Table::new(vec![Route {
                addr: 224 << 24,
                len,
                owner,
            }]);
            tables.v6 = Table::new(vec![Route {
                addr: 0xff << 120,
                len: 8,
                owner,
            }]);
            tables
        };
        Self {
            tables: (0..count).map(at).collect(),
            tinc: tinc.to_vec(),
            start: meshd_proto::route::testing::now(),
            ours: 0,
        }
    }

    fn index(&self, at: usize, of: usize) -> NodeSlot {
        NodeSlot(((of + self.tinc.len() - at) % self.tinc.len()) as u32)
    }

    /// Runs a step at a node.
    fn act(&mut self, at: usize, act: impl FnOnce(&mut Step<'_, Seen>)) -> Seen {
        if self.tinc[at] {
            self.tables[at].recent = Arc::default();
        }
        let tables = &self.tables[at];
        let mut seen = Seen {
            mode: tables.settings.mode,
            ..Seen::default()
        };
        let mut limiter = ErrorLimiter::default();
        act(&mut Step::new(tables, &mut seen, &mut limiter, self.start));
        seen
    }

    /// Returns the nodes to which `seen` sends, by UDP or over links.
    fn targets(&self, at: usize, seen: &Seen) -> Vec<usize> {
        let by_udp = seen.sent.iter().map(|(to, _)| match to.ip() {
            std::net::IpAddr::V4(ip) => NodeSlot(ip.octets()[3].into()),
            std::net::IpAddr::V6(_) => unreachable!(),
        });
        let by_links = seen.punts.iter().filter_map(|punt| match punt {
            Punt::Packet { to, .. } => Some(to.slot()),
            Punt::Relay { to, .. } => {
                let to = self.tables[at].state(to.slot()).unwrap();
                Some(to.nexthop)
            }
            _ => None,
        });
        let node = |idx: NodeSlot| (at + idx.0 as usize) % self.tinc.len();
        by_udp.chain(by_links).map(node).collect()
    }

    /// Sends packets from the device of `origin`. Returns how many each device got, and how many
    /// were sent.
    fn spread(&mut self, origin: usize, packets: &[Vec<u8>]) -> (Vec<usize>, usize) {
        let mut delivered = vec![0; self.tinc.len()];
        let mut queue: VecDeque<_> = packets.iter().map(|p| (origin, ME, p.clone())).collect();
        let mut sent = 0;
        while let Some((at, source, packet)) = queue.pop_front() {
            let seen = self.act(at, |step| {
                step.route(source, &mut packet.clone(), Checksums::Complete);
            });
            delivered[at] += seen.device.len();
            for to in self.targets(at, &seen) {
                sent += 1;
                self.ours += usize::from(!self.tinc[at]);
                queue.push_back((to, self.index(to, at), packet.clone()));
            }
            if sent > ENDLESS {
                return (delivered, sent);
            }
        }
        (delivered, sent)
    }
}

/// Returns the edges of all connected graphs of this many nodes; with six nodes, of at least one of
/// each shape.
fn topologies(nodes: usize) -> impl Iterator<Item = Vec<(usize, usize)>> {
    let pairs: Vec<(usize, usize)> = (0..nodes)
        .flat_map(|a| (a + 1..nodes).map(move |b| (a, b)))
        .collect();
    (0..1_u32 << pairs.len()).filter_map(move |mask| {
        let edges: Vec<_> = (0..pairs.len())
            .filter(|bit| mask >> bit & 1 == 1)
            .map(|bit| pairs[bit])
            .collect();
        let degree = |node| {
            edges
                .iter()
                .filter(|(a, b)| *a == node || *b == node)
                .count()
        };
        let degrees: Vec<usize> = (0..nodes).map(degree).collect();
        let wanted = nodes < 6 || degrees.is_sorted();
        (wanted && pieces(nodes, &edges) == 1).then_some(edges)
    })
}

/// Returns the number of parts of a graph.
fn pieces(nodes: usize, edges: &[(usize, usize)]) -> usize {
    let mut piece: Vec<usize> = (0..nodes).collect();
    for (a, b) in edges {
        let (old, new) = (piece[*a], piece[*b]);
        piece
            .iter_mut()
            .filter(|p| **p == old)
            .for_each(|p| *p = new);
    }
    piece.sort_unstable();
    piece.dedup();
    piece.len()
}

fn in_a_frame(packet: &[u8], to: [u8; 6]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 1, 8, 0], packet].concat()
}

/// A broadcast packet in this mode.
fn for_all(mode: Mode) -> Vec<u8> {
    let packet = v4("10.0.0.1", "224.0.0.251", 17, b"who is there?");
    match mode {
        Mode::Router => packet,
        Mode::Switch => in_a_frame(&packet, [0xff; 6]),
        Mode::Hub => in_a_frame(&packet, [2, 0, 0, 0, 0, 9]),
    }
}

/// Each node delivers a broadcast once to its device and sends it at most once to each neighbour,
/// with any trees. Covers every connected graph of up to six nodes, each node with all or some of
/// its links in its tree.
#[test]
fn a_broadcast_ends_whatever_the_trees() {
    let native = Arc::clone(&native_pair().0.tx);
    let mut rng = Rng::new([3; 32]);
    for nodes in 2..=6 {
        for edges in topologies(nodes) {
            // Some nodes are tincds; a circle of tincds alone has no end.
            let mut tinc = vec![false; nodes];
            for mixed in [false, true] {
                let among = |tinc: &[bool]| {
                    let among = edges.iter().filter(|(a, b)| tinc[*a] && tinc[*b]);
                    let among: Vec<_> = among.copied().collect();
                    pieces(nodes, &among) + among.len() == nodes
                };
                for node in 0..if mixed { nodes } else { 0 } {
                    tinc[node] = rng.below(2) == 0;
                    tinc[node] &= among(&tinc);
                }
                let state = |_, node: usize, idx| NodeState {
                    dialect: match tinc[node] {
                        true => Dialect::Sptps,
                        false => Dialect::Native,
                    },
                    tx: (!tinc[node]).then(|| Arc::clone(&native)),
                    ..neighbour(idx)
                };
                let mut net = Nodes::new(&tinc, state);
                let mode = [Mode::Router, Mode::Switch, Mode::Hub][rng.below(3) as usize];
                let whole = rng.below(2) == 0;
                for at in 0..nodes {
                    let ends = edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
                    let others = ends.filter(|(from, _)| *from == at);
                    let mut others: Vec<_> = others.map(|(_, to)| net.index(at, to)).collect();
                    others.retain(|_| whole || rng.below(4) > 0);
                    net.tables[at].broadcast = others;
                    net.tables[at].settings.mode = mode;
                    net.tables[at].settings.broadcast = Broadcast::Mst;
                    // Some nodes send their broadcasts directly to all nodes, and forward none.
                    if !whole && rng.below(4) == 0 {
                        net.tables[at].settings.broadcast = Broadcast::Direct;
                        net.tables[at].broadcast = (1..nodes as u32).map(NodeSlot).collect();
                    }
                }
                let origin = rng.below(nodes as u32) as usize;
                let packet = for_all(mode);
                let (delivered, sent) = net.spread(origin, std::slice::from_ref(&packet));
                let case = format!(
                    "{edges:?}, tincds {tinc:?}, {mode:?} from {origin}: {delivered:?}, {sent} sent"
                );
                for (node, times) in delivered.iter().enumerate().filter(|(n, _)| !tinc[*n]) {
                    assert!(*times <= usize::from(node != origin), "{case}");
                    assert!(*times == 1 || node == origin || !whole, "{case}");
                }
                assert!(
                    sent <= if mixed {
                        2 * nodes * edges.len()
                    } else {
                        nodes * nodes
                    },
                    "{case}"
                );
                if !mixed && whole {
                    assert!(sent <= 2 * edges.len(), "{case}");
                    // Each of an application's equal packets arrives.
                    let mut net = net;
                    net.tables
                        .iter_mut()
                        .for_each(|t| t.recent = Arc::default());
                    let (delivered, _) =
                        net.spread(origin, &[packet.clone(), packet.clone(), packet]);
                    let all = delivered.iter().enumerate();
                    assert!(
                        all.into_iter()
                            .all(|(n, times)| *times == if n == origin { 0 } else { 3 }),
                        "{delivered:?}"
                    );
                }
            }
        }
    }
}

/// Nodes see any part of a graph as their tree: every view of up to three nodes, some views of up to
/// five. Tincds may form circles of their own, in which a packet has no end. Each meshd delivers it
/// at most once and sends it at most once to each neighbour, in every mode.
#[test]
fn a_meshd_passes_a_broadcast_on_once_whatever_tincds_do() {
    let native = Arc::clone(&native_pair().0.tx);
    let mut rng = Rng::new([4; 32]);
    let mut circles = 0;
    for nodes in 2..=5_usize {
        for edges in topologies(nodes) {
            let ends: Vec<_> = edges
                .iter()
                .flat_map(|(a, b)| [(*a, *b), (*b, *a)])
                .collect();
            let all = 1_u32 << ends.len();
            let views: Vec<u32> = match nodes {
                2 | 3 => (0..all).collect(),
                _ => (0..2).map(|_| rng.below(all)).chain([all - 1]).collect(),
            };
            for view in views {
                let tincds = rng.below((1 << nodes) - 1);
                let tinc: Vec<bool> = (0..nodes).map(|node| tincds >> node & 1 == 1).collect();
                let state = |_, node: usize, idx| NodeState {
                    dialect: match tinc[node] {
                        true => Dialect::Sptps,
                        false => Dialect::Native,
                    },
                    tx: (!tinc[node]).then(|| Arc::clone(&native)),
                    ..neighbour(idx)
                };
                for mode in [Mode::Router, Mode::Switch, Mode::Hub] {
                    let mut net = Nodes::new(&tinc, state);
                    for at in 0..nodes {
                        let seen = ends.iter().enumerate();
                        let seen = seen.filter(|(n, (from, _))| *from == at && view >> n & 1 == 1);
                        let seen: Vec<_> = seen.map(|(_, (_, to))| net.index(at, *to)).collect();
                        net.tables[at].broadcast = seen;
                        net.tables[at].settings.mode = mode;
                        net.tables[at].settings.broadcast = Broadcast::Mst;
                    }
                    let mut packet = for_all(mode);
                    if mode == Mode::Hub {
                        // Nothing in the packet counts up.
                        packet[18..20].fill(0);
                    }
                    let origin = rng.below(nodes as u32) as usize;
                    let (delivered, sent) = net.spread(origin, &[packet]);
                    circles += usize::from(sent > ENDLESS);
                    let case = format!("{edges:?}, view {view:b}, tincds {tinc:?}, {mode:?}");
                    for (node, times) in delivered.iter().enumerate().filter(|(n, _)| !tinc[*n]) {
                        assert!(
                            *times <= usize::from(node != origin),
                            "{case}: {delivered:?}"
                        );
                    }
                    assert!(net.ours <= ends.len(), "{case}: {}", net.ours);
                }
            }
        }
    }
    assert!(
        circles > 10,
        "some circles of tincds have no end: {circles}"
    );
}

/// Two tincds and a meshd in a circle, in every mode: the packet is delivered once, whether it counts
/// up or not, and whether it is for one station or for all.
#[test]
fn a_packet_of_a_tincd_in_a_circle_comes_once() {
    let group = v6("fd00::1", "ff02::fb", 17, &[7; 9]);
    let mut unnumbered = v4("10.0.0.1", "10.0.0.9", 17, &[7; 9]);
    unnumbered[4..6].fill(0);
    let station = [2, 0, 0, 0, 0, 9];
    for (mode, packet, times) in [
        (Mode::Router, group.clone(), 1),
        (Mode::Hub, in_a_frame(&group, [0xff; 6]), 1),
        (
            Mode::Hub,
            in_a_frame(&v4("10.0.0.1", "10.0.0.9", 17, &[7; 9]), station),
            1,
        ),
        (Mode::Hub, in_a_frame(&unnumbered, station), 1),
    ] {
        let mut net = Nodes::new(&[false, true, true], |_, _, idx| neighbour(idx));
        for at in 0..3 {
            net.tables[at].settings.mode = mode;
            net.tables[at].settings.broadcast = Broadcast::Mst;
            net.tables[at].broadcast = vec![NodeSlot(1), NodeSlot(2)];
        }
        let (delivered, _) = net.spread(1, std::slice::from_ref(&packet));
        assert_eq!(delivered[0], times, "{packet:?}");
        let mut net = Nodes::new(&[false, false], |_, _, idx| neighbour(idx));
        net.tables[0].settings.mode = mode;
        let again = [(); 40].map(|()| packet.clone());
        let (delivered, _) = net.spread(1, &again);
        assert_eq!(delivered[0], 0, "nothing is spread without a tree");
    }
}

/// Relays that each take another one for the next hop: every such choice among two to six relays. A
/// datagram never goes back to its sender, and each meshd forwards it once.
#[test]
fn a_relayed_datagram_ends_whatever_the_next_hops() {
    for relays in 2..=6_usize {
        // Node 0 sends to node 1. The relays are 1 to `relays`; the last node is down, but no node
        // knows it.
        let (count, target) = (relays + 2, relays + 1);
        // With six relays every 31st choice, because there are many.
        let choices = 0..(relays - 1).pow(relays as u32);
        for choice in choices.step_by(if relays < 6 { 1 } else { 31 }) {
            let hop = |at: usize| {
                let other = choice / (relays - 1).pow(at as u32 - 1) % (relays - 1) + 1;
                other + usize::from(other >= at)
            };
            for mixed in [false, true] {
                let tinc: Vec<bool> = (0..count).map(|n| mixed && (n + choice) % 2 == 0).collect();
                let mut circle = (0..count).fold(1, |at, _| hop(at));
                let mut ours = 0;
                for _ in 0..count {
                    ours += usize::from(!tinc[circle]);
                    circle = hop(circle);
                }
                if ours == 0 {
                    continue;
                }
                let mut net = Nodes::new(&tinc, |at, node, idx| {
                    let by = |node| NodeSlot(((node + count - at) % count) as u32);
                    let mut state = neighbour(idx);
                    if node == target && (1..=relays).contains(&at) {
                        (state.udp, state.min_mtu) = (None, 0);
                        (state.neighbour, state.nexthop) = (false, by(hop(at)));
                    } else if node % 3 == 0 {
                        // Over its link only.
                        (state.udp, state.min_mtu) = (None, 0);
                    }
                    state
                });
                let [to, from] = [target, 0].map(|n| NodeName::new(&format!("n{n}")).unwrap().id());
                let ids = RelayHeader { to, from }.to_bytes();
                let datagram = [&ids[..], &[7; SPTPS_OVERHEAD + 60]].concat();
                let (mut at, mut by, mut sent) = (1, 0, 0);
                loop {
                    let next = if tinc[at] {
                        hop(at)
                    } else {
                        let from = addr(net.index(at, by));
                        let seen = net.act(at, |step| {
                            step.from_network(from, &mut datagram.clone(), datagram.len());
                        });
                        match net.targets(at, &seen)[..] {
                            [next] => next,
                            _ => break,
                        }
                    };
                    assert!(tinc[at] || next != by, "back to {by}");
                    sent += 1;
                    assert!(
                        sent <= 2 * relays,
                        "{relays} relays, choice {choice}: {sent}"
                    );
                    (by, at) = (at, next);
                }
                assert!(
                    mixed || sent <= relays,
                    "{relays} relays, choice {choice}: {sent}"
                );
            }
        }
    }
}
