//! A line a–b–c: a and c know each other only through b.

use std::{thread, time::Duration};

use crate::{
    dump::{UDP_CONFIRMED, wait_agree},
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, introduce, on_one_wire,
    },
    traffic::{Flow, Transfer, large, wait_ping},
    world::{Wire, World},
};

/// While UDP between a and c is blocked, b relays; when it is let through they find each other.
fn line(kinds: [Kind; 3]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, kinds);
    wire.block_udp(&a.host, &c.host);
    a.connect_to(&["b"]);
    c.connect_to(&["b"]);
    b.start();
    a.start();
    c.start();
    a.wait_reaches(&c);
    c.wait_reaches(&a);
    for size in [56, 1400] {
        for (from, to) in [(&a, &c), (&c, &a)] {
            wait_ping(from, &to.v4(), size);
            wait_ping(from, &to.v6(), size);
        }
    }
    let dump = a.dump();
    let far = dump.node("c").unwrap();
    assert_eq!((far.nexthop.as_str(), far.distance), ("b", 2), "{dump}");

    // Relayed both ways, and relayed still after the probes of several seconds went unanswered.
    for (from, to) in [(&a, &c), (&c, &a)] {
        Transfer::start(from, to, &to.v4(), large() / 16).finish();
    }
    let flow = Flow::start(&a, &c, &c.v4(), 100, 200);
    thread::sleep(Duration::from_secs(8));
    let stream = flow.finish();
    for (node, other) in [(&a, "c"), (&c, "a")] {
        let dump = node.dump();
        assert_eq!(
            dump.node(other).unwrap().status & UDP_CONFIRMED,
            0,
            "{} holds a blocked path confirmed:\n{dump}",
            node.name
        );
    }
    assert!(
        stream.received > stream.sent * 9 / 10,
        "relayed flow: {stream:?}"
    );

    wire.unblock_udp(&a.host, &c.host);
    let there = Flow::start(&a, &c, &c.v4(), 100, 200);
    let back = Flow::start(&c, &a, &a.v6(), 100, 200);
    a.wait_udp(&c);
    c.wait_udp(&a);
    there.finish();
    back.finish();
    // Straight now: nothing of it passes b.
    let before = udp_bytes(&b);
    Transfer::start(&a, &c, &c.v4(), 16 << 20).finish();
    let relayed = udp_bytes(&b) - before;
    assert!(relayed < 1 << 20, "{relayed} bytes still went through b");
    wait_agree(&[&a, &b, &c]);
}

/// Bytes that have reached the host of a node from the wire.
pub(crate) fn udp_bytes(node: &Node) -> u64 {
    node.host
        .exec("cat /sys/class/net/eth1/statistics/rx_bytes")
        .trim()
        .parse()
        .unwrap()
}

/// a on the first of the wires, c on the last, b on all: a and c connect to b.
pub(crate) fn in_line(world: &World, wires: &[&Wire], kinds: [Kind; 3]) -> [Node; 3] {
    let mut a = Node::new(kinds[0], &world.host("a", &wires[..1]));
    let mut b = Node::new(kinds[1], &world.host("b", wires));
    let mut c = Node::new(kinds[2], &world.host("c", &wires[wires.len() - 1..]));
    introduce(&[&a, &b, &c]);
    a.connect_to(&["b"]);
    c.connect_to(&["b"]);
    b.start();
    a.start();
    c.start();
    [a, b, c]
}

/// a and c have no wire in common at all.
fn separate_wires(kinds: [Kind; 3]) {
    let world = World::new();
    let [a, b, c] = in_line(&world, &[&world.wire(), &world.wire()], kinds);
    a.wait_reaches(&c);
    c.wait_reaches(&a);
    for size in [56, 1400, 8000] {
        for (from, to) in [(&a, &c), (&c, &a)] {
            wait_ping(from, &to.v4(), size);
            wait_ping(from, &to.v6(), size);
        }
    }
    for (from, to) in [(&a, &c), (&c, &a)] {
        Transfer::start(from, to, &to.v4(), large() / 16).finish();
    }
    wait_agree(&[&a, &b, &c]);
}

/// `Forwarding = off` in the middle: tinc still relays what it cannot open, and so do we.
fn forwarding_off(kinds: [Kind; 3]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, kinds);
    wire.block_udp(&a.host, &c.host);
    b.tinc(&["set", "Forwarding", "off"]);
    b.tinc(&["set", "DecrementTTL", "yes"]);
    a.connect_to(&["b"]);
    c.connect_to(&["b"]);
    b.start();
    a.start();
    c.start();
    a.wait_reaches(&c);
    wait_ping(&a, &c.v4(), 56);
    wait_ping(&c, &a.v6(), 1400);
    // Relayed packets are opaque: their time to live is not b's affair.
    crate::traffic::try_ping(&a.host, &c.v4(), 56, &["-t", "1"]).unwrap();
}

#[test]
fn forwarding_off_still_relays() {
    forwarding_off([Tinc11, Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_forwarding_off() {
    forwarding_off([Tinc11; 3]);
}

#[test]
fn tincd_tincd_meshd() {
    line([Tinc11, Tinc11, Meshd]);
}

#[test]
fn tincd_meshd_tincd() {
    line([Tinc11, Meshd, Tinc11]);
}

#[test]
fn tincd_meshd_meshd() {
    line([Tinc11, Meshd, Meshd]);
}

#[test]
fn meshd_tincd_tincd() {
    line([Meshd, Tinc11, Tinc11]);
}

#[test]
fn meshd_tincd_meshd() {
    line([Meshd, Tinc11, Meshd]);
}

#[test]
fn meshd_meshd_tincd() {
    line([Meshd, Meshd, Tinc11]);
}

#[test]
fn meshd_relays_between_wires() {
    separate_wires([Tinc11, Meshd, Tinc11]);
}

#[test]
fn tincd_relays_between_wires() {
    separate_wires([Meshd, Tinc11, Meshd]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tincd_tincd_tincd() {
    line([Tinc11; 3]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tincd_relays_between_wires() {
    separate_wires([Tinc11; 3]);
}
