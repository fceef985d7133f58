//! Router mode over TAP devices: ARP and neighbour discovery end at each node, IP packets pass.

use crate::{
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, on_one_wire,
    },
    traffic::{Transfer, try_ping, wait_ping},
    world::{World, wait_until},
};
use std::time::Duration;

/// Bytes of a transfer that shows that super-packets pass.
const SHORT: u64 = 32 << 20;

/// Output of `ip` for a node's interface.
fn ip(node: &Node, arguments: &[&str]) -> String {
    let mut command = node.host.command("ip");
    let output = command.args(arguments).args(["dev", "mesh0"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// The word behind another one.
fn word_after(text: &str, before: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == before)?;
    words.next().map(str::to_owned)
}

/// The Ethernet address of an interface with its last byte inverted.
fn inverted(node: &Node) -> String {
    let own = word_after(&ip(node, &["link", "show"]), "link/ether").expect("a TAP device");
    let (head, last) = own.split_at(15);
    format!("{head}{:02x}", !u8::from_str_radix(last, 16).unwrap())
}

/// Two nodes, of which `taps` says which have TAP devices.
fn pair(kinds: [Kind; 2], taps: [bool; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    for (node, tap) in [(&a, taps[0]), (&b, taps[1])] {
        node.tinc(&["set", "Mode", "router"]);
        if tap {
            node.tinc(&["set", "DeviceType", "tap"]);
        }
    }
    crate::legacy::bring_up(&mut a, &mut b);
    for (from, to, address) in [(&a, &b, b.v4()), (&b, &a, a.v6())] {
        let rate = Transfer::start(from, to, &address, SHORT).finish();
        eprintln!("{:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
    for (node, other, tap) in [(&a, &b, taps[0]), (&b, &a, taps[1])] {
        if !tap {
            continue;
        }
        // Whoever it is, its address is ours with the last byte inverted.
        for address in [other.v4(), other.v6()] {
            let shown = ip(node, &["neighbour", "show", &address]);
            assert_eq!(
                word_after(&shown, "lladdr"),
                Some(inverted(node)),
                "{shown}"
            );
        }
        // Nobody has these, so nobody answers.
        for address in ["10.20.0.77", "fd20::77"] {
            try_ping(&node.host, address, 56, &[]).unwrap_err();
            let shown = ip(node, &["neighbour", "show", address]);
            assert!(!shown.contains("lladdr"), "{shown}");
        }
        // Of an owner that is away the kernel hears from the router, not from a neighbour.
        let arguments = ["neighbour", "flush", "all"];
        ip(node, &arguments);
    }
    b.kill();
    if a.kind == Meshd && taps[0] {
        a.wait_loses(&b);
        wait_until("the router says so", Duration::from_secs(20), || {
            let told = try_ping(&a.host, &b.v4(), 56, &[]).unwrap_err();
            match told.contains("Net Unreachable") {
                true => Ok(()),
                false => Err(told),
            }
        });
    }
    b.start();
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v6(), 1200);
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn tap_beside_tap_of_tinc_1_1() {
    pair([Meshd, Tinc11], [true, true]);
}

#[test]
fn tap_beside_tap_of_tinc_1_0() {
    pair([Meshd, Tinc10], [true, true]);
}

#[test]
fn tap_beside_tun() {
    pair([Meshd, Tinc11], [true, false]);
    pair([Meshd, Tinc10], [false, true]);
    pair([Meshd, Meshd], [true, false]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_taps_of_tinc() {
    pair([Tinc11, Tinc11], [true, true]);
    pair([Tinc10, Tinc11], [true, true]);
}
