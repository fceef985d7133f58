//! Switch and hub mode: Ethernet between bridges.

use std::{thread, time::Duration};

use crate::{
    broadcasts::{LINE, RING, assert_reach, up},
    dump::{Dump, wait_agree},
    frames::{ALL, Port},
    legacy,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::{Transfer, large, wait_ping},
    world::{Wire, World},
};

/// Nodes on one wire, in this mode.
fn in_mode<const N: usize>(world: &World, wire: &Wire, mode: &str, kinds: [Kind; N]) -> [Node; N] {
    let nodes = on_one_wire(world, wire, kinds);
    for node in &nodes {
        node.tinc(&["set", "Mode", mode]);
    }
    nodes
}

/// ARP and neighbour discovery, pings of every size, and TCP in both directions.
fn pair(mode: &str, kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = in_mode(&world, &wire, mode, kinds);
    bring_up(&mut a, &mut b);
    for size in [56, 1400, 1472, 8000] {
        for (from, to) in [(&a, &b), (&b, &a)] {
            for address in [to.v4(), to.v6()] {
                wait_ping(from, &address, size);
            }
        }
    }
    let macs = |dump: &Dump| dump.subnets.iter().filter(|s| is_mac(&s.0)).count();
    if mode == "switch" {
        let shared = wait_agree(&[&a, &b]);
        let owners: Vec<_> = shared.subnets.iter().filter(|s| is_mac(&s.0)).collect();
        assert_eq!(owners.len(), 2, "{owners:?}");
    } else {
        assert_eq!(macs(&a.dump()), macs(&b.dump()));
    }
    for (from, to, address) in [
        (&a, &b, b.v4()),
        (&b, &a, a.v4()),
        (&a, &b, b.v6()),
        (&b, &a, a.v6()),
    ] {
        let rate = Transfer::start(from, to, &address, large() / 8).finish();
        eprintln!("{mode}: {:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
    a.assert_runs();
    b.assert_runs();
    a.stop();
    b.stop();
}

/// True if a subnet is an Ethernet address other than the broadcast address.
fn is_mac(subnet: &str) -> bool {
    subnet.split(':').count() == 6 && !subnet.contains("::") && !subnet.starts_with("ff:ff")
}

/// True if `owner` is the only node that has announced `mac`, as `dump` shows.
fn has_mac(dump: &Dump, mac: &str, owner: Option<&str>) -> bool {
    let owners = dump.subnets.iter().filter(|(subnet, _)| subnet == mac);
    owners.map(|(_, owner)| owner.as_str()).eq(owner)
}

/// In every graph each frame to all reaches each other node once, and nobody twice; and addresses in it
/// find each other.
fn graph<const N: usize>(mode: &str, kinds: [Kind; N], links: &[(usize, usize)]) {
    let world = World::new();
    let mut nodes = up(&world, kinds, links, &[("Mode", mode)]);
    let ports = nodes.each_ref().map(Port::new);
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.name != from.name) {
            wait_ping(from, &to.v4(), 56);
            wait_ping(from, &to.v6(), 1400);
        }
    }
    assert_reach(&nodes, &ports, |from, to| usize::from(from != to));
    nodes.iter_mut().for_each(Node::assert_runs);
}

/// Frames between bridges arrive as they were sent: any type, any tags, every length that a link has.
fn frames(mode: &str, kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = in_mode(&world, &wire, mode, kinds);
    bring_up(&mut a, &mut b);
    let (one, two) = (Port::new(&a), Port::new(&b));
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v6(), 1400);
    let (left, right) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    one.wait_through(left, ALL, &two);
    two.wait_through(right, left, &one);
    let tags: [&[u8]; 3] = [&[], &[0x81, 0, 0x20, 7], &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]];
    for (sender, receiver, from, to) in [(&one, &two, left, right), (&two, &one, right, left)] {
        for (number, (tags, length)) in [
            (tags[0], 46),
            (tags[0], 1000),
            (tags[0], 1500),
            (tags[1], 46),
            (tags[1], 1000),
            (tags[1], 1500),
            (tags[2], 1000),
        ]
        .into_iter()
        .enumerate()
        {
            for to in [to, ALL] {
                sender.send_tagged(from, to, tags, number as u32, length);
                thread::sleep(Duration::from_millis(200));
                let got = receiver.received();
                assert_eq!(
                    got.len(),
                    1,
                    "{tags:02x?} {length} to {to:02x?}: {got:02x?}"
                );
                assert_eq!(got[0].len(), 12 + tags.len() + 2 + length);
                assert_eq!(got[0][..6], to);
                assert_eq!(got[0][12..12 + tags.len()], *tags);
            }
        }
    }
}

/// A host that moves from one bridge to another is found where it is, and forgotten when it is silent.
///
/// 1.1~pre18 learns an address at once that somebody else has (the head of 1.1 is said not to), and gives up
/// one that somebody else announces at its next check, up to 10 s later; until then both have it, and the
/// first by name gets its frames.
fn moves(kinds: [Kind; 3]) {
    let world = World::new();
    let settings = [("Mode", "switch"), ("MACExpire", "15")];
    let nodes = up(&world, kinds, &[(0, 2), (1, 2)], &settings);
    let ports = nodes.each_ref().map(Port::new);
    for [from, to] in [[0, 2], [2, 0], [1, 2], [2, 1], [0, 1], [1, 0]] {
        wait_ping(&nodes[from], &nodes[to].v4(), 56);
    }
    let (host, other) = ([2, 0, 0, 0, 0, 0xaa], [2, 0, 0, 0, 0, 0xcc]);
    let text = "02:00:00:00:00:aa";
    for at in [0, 1, 0] {
        ports[at].wait_through(host, ALL, &ports[2]);
        for node in &nodes {
            let owner = Some(nodes[at].name.as_str());
            node.wait_dump("knows where the host is", |dump| has_mac(dump, text, owner));
        }
        ports[2].wait_through(other, host, &ports[at]);
        for port in &ports {
            port.received();
        }
        for number in 0..10 {
            ports[2].send(other, host, number, 100);
        }
        thread::sleep(Duration::from_secs(1));
        let got = ports.each_ref().map(|port| port.received().len());
        let mut expected = [0; 3];
        expected[at] = 10;
        assert_eq!(got, expected, "only where the host is");
    }
    for node in &nodes {
        node.wait_dump("forgets the host", |dump| has_mac(dump, text, None));
    }
    // Nobody knows it now, so all get what is for it.
    ports[2].send(other, host, 1, 100);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(
        ports.each_ref().map(|port| port.received().len()),
        [1, 1, 0]
    );
}

/// The same with a tinc 1.0, that shows no tables. Who dials changes with the mode.
fn with_tinc_1_0(mode: &str, kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = in_mode(&world, &wire, mode, kinds);
    legacy::bring_up(&mut a, &mut b);
    for (from, to, address) in [(&a, &b, b.v4()), (&b, &a, a.v6())] {
        let rate = Transfer::start(from, to, &address, large() / 32).finish();
        eprintln!("{mode}: {:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn switch_with_tinc_1_0() {
    with_tinc_1_0("switch", [Meshd, Tinc10]);
}

#[test]
fn hub_with_tinc_1_0() {
    with_tinc_1_0("hub", [Tinc10, Meshd]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_switch_with_tinc_1_0() {
    with_tinc_1_0("switch", [Tinc10, Tinc10]);
}

#[test]
fn switch_meshd_dials_tincd() {
    pair("switch", [Meshd, Tinc11]);
}

#[test]
fn switch_tincd_dials_meshd() {
    pair("switch", [Tinc11, Meshd]);
}

#[test]
fn switch_meshd_dials_meshd() {
    pair("switch", [Meshd, Meshd]);
}

#[test]
fn hub_meshd_dials_tincd() {
    pair("hub", [Meshd, Tinc11]);
}

#[test]
fn hub_meshd_dials_meshd() {
    pair("hub", [Meshd, Meshd]);
}

#[test]
fn switch_line_meshd_tincd_meshd() {
    graph("switch", [Meshd, Tinc11, Meshd], LINE);
}

#[test]
fn switch_line_tincd_meshd_tincd() {
    graph("switch", [Tinc11, Meshd, Tinc11], LINE);
}

#[test]
fn hub_line_tincd_meshd_meshd() {
    graph("hub", [Tinc11, Meshd, Meshd], LINE);
}

#[test]
fn switch_ring_of_five() {
    graph("switch", [Meshd, Tinc11, Meshd, Tinc11, Meshd], RING);
}

#[test]
fn hub_ring_of_five() {
    graph("hub", [Tinc11, Meshd, Meshd, Tinc11, Meshd], RING);
}

#[test]
fn frames_pass_as_they_are() {
    frames("switch", [Meshd, Tinc11]);
    frames("hub", [Meshd, Meshd]);
}

#[test]
fn a_host_moves() {
    moves([Meshd, Tinc11, Meshd]);
}

#[test]
fn a_host_moves_beside_tincds() {
    moves([Tinc11, Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_switch_pair() {
    pair("switch", [Tinc11; 2]);
    pair("hub", [Tinc11; 2]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_switch_graphs() {
    graph("switch", [Tinc11; 5], RING);
    graph("hub", [Tinc11; 3], LINE);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_frames() {
    frames("switch", [Tinc11; 2]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_a_host_moves() {
    moves([Tinc11; 3]);
}
