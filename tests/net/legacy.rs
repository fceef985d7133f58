//! The legacy protocol, with the real tinc 1.0.36: links both ways, packets in every cipher, digest and compression,
//! relaying hop by hop, and what is refused.

use crate::{
    dump::UDP_CONFIRMED,
    node::{
        Kind::{self, Meshd, Tinc10},
        Node, on_one_wire,
    },
    traffic::{Transfer, wait_ping},
    world::World,
};

/// Bytes of a transfer that shows that packets of all sizes pass.
const SHORT: u64 = 8 << 20;

/// Starts two nodes of which `a` dials `b`, and waits until packets pass both ways, by UDP as far as a meshd says.
fn bring_up(a: &mut Node, b: &mut Node) {
    a.connect_to(&[&b.name]);
    b.start();
    a.start();
    pass(a, b);
}

fn pass(a: &Node, b: &Node) {
    for size in [56, 1400, 8000] {
        for (from, to) in [(a, b), (b, a)] {
            wait_ping(from, &to.v4(), size);
            wait_ping(from, &to.v6(), size);
        }
    }
    for (node, other) in [(a, b), (b, a)] {
        if node.kind == Meshd {
            node.wait_udp(other);
        }
    }
}

fn transfer(a: &Node, b: &Node) {
    for (from, to, address) in [(a, b, b.v4()), (b, a, a.v6())] {
        let rate = Transfer::start(from, to, &address, SHORT).finish();
        eprintln!("{:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
}

/// `dialler` connects to `listener`.
fn pair(dialler: Kind, listener: Kind) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
    bring_up(&mut a, &mut b);
    transfer(&a, &b);
    for (node, other) in [(&a, &b), (&b, &a)] {
        if node.kind == Meshd {
            let row = node.peer(&other.name);
            assert_eq!(row["protocol"], "legacy", "{row}");
            assert_eq!(row["cipher"], "aes-256-cbc sha256/4", "{row}");
            assert_eq!(row["reason"]["code"], "legacy", "{row}");
            let dump = node.dump();
            assert_ne!(dump.node(&other.name).unwrap().status & UDP_CONFIRMED, 0);
        }
    }
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn meshd_dials_tinc_1_0() {
    pair(Meshd, Tinc10);
}

#[test]
fn tinc_1_0_dials_meshd() {
    pair(Tinc10, Meshd);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tinc_1_0_dials_tinc_1_0() {
    pair(Tinc10, Tinc10);
}
