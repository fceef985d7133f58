//! Whom a broadcast reaches, and how often: along the tree, straight, not at all; frames, and packets of
//! router mode.

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    frames::{Port, broadcast},
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::World,
};

/// A line a-b-c.
pub(crate) const LINE: &[(usize, usize)] = &[(0, 1), (2, 1)];
/// A ring of five with a chord.
pub(crate) const RING: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3)];

/// Nodes on one wire with these settings and links, up, each reaching all others.
pub(crate) fn up<const N: usize>(
    world: &World,
    kinds: [Kind; N],
    links: &[(usize, usize)],
    settings: &[(&str, &str)],
) -> [Node; N] {
    let wire = world.wire();
    let mut nodes = on_one_wire(world, &wire, kinds);
    for node in &nodes {
        for (variable, value) in settings {
            node.tinc(&["set", variable, value]);
        }
    }
    for (dialler, listener) in links {
        let listener = nodes[*listener].name.clone();
        nodes[*dialler].connect_to(&[&listener]);
    }
    // Whoever is dialled first, so that nobody has to try again.
    nodes.iter_mut().rev().for_each(Node::start);
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.name != node.name) {
            node.wait_reaches(other);
        }
    }
    nodes
}

/// Sends from every node in turn; `expected` says how often each frame comes to (from, to).
pub(crate) fn assert_reach(
    nodes: &[Node],
    ports: &[Port],
    expected: impl Fn(usize, usize) -> usize,
) {
    for from in 0..nodes.len() {
        let seen = broadcast(ports, from, [2, 0, 0, 0, 1, from as u8], 10);
        for (to, times) in seen.iter().enumerate() {
            let expected = expected(from, to);
            assert!(
                times.iter().all(|times| *times == expected),
                "from {} ({:?}) to {} ({:?}): {times:?}, not {expected} each\n{}",
                nodes[from].name,
                nodes[from].kind,
                nodes[to].name,
                nodes[to].kind,
                nodes[to].dump()
            );
        }
    }
}

/// A line whose nodes have this Broadcast; all pairs have met before by pings, if `pings`.
fn line_with(kinds: [Kind; 3], variable: &str, pings: bool, times: usize) {
    let world = World::new();
    let settings = [("Mode", "switch"), ("Broadcast", variable)];
    let nodes = up(&world, kinds, LINE, &settings);
    let ports = nodes.each_ref().map(Port::new);
    for from in nodes.iter().filter(|_| pings) {
        for to in nodes.iter().filter(|to| to.name != from.name) {
            wait_ping(from, &to.v4(), 56);
        }
    }
    assert_reach(&nodes, &ports, |from, to| match from == to {
        true => 0,
        false => times,
    });
}

/// Multicast over IPv4 in router mode comes to every other node once.
fn multicast<const N: usize>(kinds: [Kind; N], links: &[(usize, usize)]) {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
    const PORT: u16 = 7777;
    const COUNT: usize = 20;
    let world = World::new();
    let nodes = up(&world, kinds, links, &[]);
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.name != from.name) {
            wait_ping(from, &to.v4(), 56);
        }
        from.host.ip("route add 239.0.0.0/8 dev mesh0");
    }
    let sockets: Vec<UdpSocket> = nodes
        .iter()
        .map(|node| {
            let own: Ipv4Addr = node.v4().parse().unwrap();
            let open = move || {
                let socket = UdpSocket::bind((GROUP, PORT)).unwrap();
                socket.join_multicast_v4(&GROUP, &own).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            };
            node.host.inside(open).join().unwrap()
        })
        .collect();
    for (from, node) in nodes.iter().enumerate() {
        let own: Ipv4Addr = node.v4().parse().unwrap();
        let send = move || {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.set_multicast_loop_v4(false).unwrap();
            socket.set_multicast_ttl_v4(9).unwrap();
            for number in 0..COUNT {
                socket.send_to(&[number as u8], (GROUP, PORT)).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
        };
        node.host.inside(send).join().unwrap();
        thread::sleep(Duration::from_secs(1));
        for (to, socket) in sockets.iter().enumerate() {
            let (mut seen, mut buffer) = ([0; COUNT], [0; 100]);
            while let Ok((_, _)) = socket.recv_from(&mut buffer) {
                seen[usize::from(buffer[0])] += 1;
            }
            let expected = usize::from(from != to);
            assert_eq!(seen, [expected; COUNT], "from {from} to {to}");
        }
    }
}

/// A ring a-b-c-d whose halves cannot tell each other of changes, as TCP between a and b and between c and d stands
/// still while UDP passes: a and d leave the link b-c out of their tree, b and c the link a-d, of which they have not
/// heard. What is sent to all could go round for ever.
fn ring_with_two_trees(kinds: [Kind; 4]) {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, kinds);
    for node in &nodes {
        for (variable, value) in [("Mode", "switch"), ("PingInterval", "300")] {
            node.tinc(&["set", variable, value]);
        }
    }
    nodes[1].tinc(&["set", "c.Weight", "5000"]);
    nodes[2].tinc(&["set", "b.Weight", "5000"]);
    for dialler in 0..3 {
        nodes[dialler].connect_to(&[&nodes[dialler + 1].name]);
    }
    nodes.iter_mut().rev().for_each(Node::start);
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.name != node.name) {
            node.wait_reaches(other);
        }
    }
    let ports = nodes.each_ref().map(Port::new);
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        for (from, to) in [(a, b), (b, a)] {
            wait_ping(&nodes[from], &nodes[to].v4(), 56);
            nodes[from].wait_udp(&nodes[to]);
        }
    }
    wire.block_tcp(&nodes[0].host, &nodes[1].host);
    wire.block_tcp(&nodes[2].host, &nodes[3].host);
    nodes[0].connect_to(&["d"]);
    nodes[0].signal(Signal::HUP);
    for (node, from, to) in [(0, "a", "d"), (0, "d", "a"), (3, "a", "d"), (3, "d", "a")] {
        nodes[node].wait_dump("has the link a-d", |dump| {
            let mut edges = dump.edges.iter();
            edges.any(|edge| edge.from == from && edge.to == to)
        });
    }
    for from in 0..4 {
        let seen = broadcast(&ports, from, [2, 0, 0, 0, 1, from as u8], 10);
        for (to, times) in seen.iter().enumerate() {
            // A tincd takes what comes from both sides.
            if kinds[to] == Meshd {
                assert_eq!(
                    times[..],
                    [usize::from(from != to); 10],
                    "from {from} to {to}"
                );
            }
        }
    }
}

#[test]
fn broadcasts_come_once_whatever_the_trees() {
    ring_with_two_trees([Meshd; 4]);
}

#[test]
fn broadcasts_come_once_whatever_the_trees_of_tincds() {
    ring_with_two_trees([Meshd, Tinc11, Meshd, Tinc11]);
}

#[test]
fn direct_broadcasts_come_straight() {
    line_with([Meshd, Tinc11, Meshd], "direct", true, 1);
}

#[test]
fn direct_broadcasts_of_tincds_come_straight() {
    line_with([Tinc11, Meshd, Tinc11], "direct", true, 1);
}

#[test]
fn no_broadcast_reaches_nobody() {
    line_with([Meshd, Tinc11, Meshd], "no", false, 0);
}

#[test]
fn multicast_in_router_mode_comes_once() {
    multicast([Meshd, Tinc11, Meshd, Tinc11, Meshd], RING);
}

#[test]
fn multicast_along_a_line_of_tincds() {
    multicast([Tinc11, Meshd, Tinc11], LINE);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_broadcasts() {
    line_with([Tinc11; 3], "direct", true, 1);
    line_with([Tinc11; 3], "no", false, 0);
    multicast([Tinc11; 5], RING);
}
