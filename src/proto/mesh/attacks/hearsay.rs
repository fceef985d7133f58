//! Lines of a third node about a live pair that are no neighbours: each cell of the table in
//! `belief.rs`.
//!
//! Nodes 0 - 1 - 2 - 3 form a line. Node 4 is the attacker at 0. Nodes 0 and 3 exchange packets
//! directly by UDP. Honest relays forward the lines that they accept. Where a line of the attacker
//! arrives via 1, node 1 plays a tincd, which forwards everything.

use std::{collections::BTreeSet, time::Duration};

use super::SECOND;
use crate::mesh::{
    HookEvent,
    reports::facts::PathKind,
    testing::{Net, lines_of, name, settings},
};

/// The attacker.
const M: u8 = 4;

fn net(native: bool) -> Net {
    net_where(native, |_| ())
}

fn net_where(native: bool, change: impl FnOnce(&mut Net)) -> Net {
    let mut all = settings(5);
    for one in &mut all {
        one.native = native;
    }
    let mut net = Net::new(all);
    change(&mut net);
    for (a, b) in [(0, 1), (1, 2), (2, 3), (M, 0)] {
        net.join(a, b);
    }
    net.run(SECOND);
    for _ in 0..6 {
        net.send(0, 3, 100);
        net.send(3, 0, 100);
        net.run(SECOND);
    }
    net.delivered.clear();
    net.hooks.clear();
    net
}

/// Sends packets both ways at 50 a second for some seconds, and calls `each` before every one of
/// them.
fn talk(net: &mut Net, seconds: usize, mut each: impl FnMut(&mut Net, usize)) -> usize {
    net.delivered.clear();
    for round in 0..50 * seconds {
        each(net, round);
        net.send(0, 3, 100);
        net.send(3, 0, 100);
        net.run(SECOND / 50);
    }
    net.run(SECOND);
    let arrived = net.delivered.iter().filter(|(at, _)| [0, 3].contains(at));
    100 * seconds - arrived.count()
}

/// All statements of one line about node 3, or about the path to it; node 3 is no neighbour of 0. N
/// is a fresh nonce.
const LINES: [&str; 22] = [
    "13 N n3 n2",
    "13 N n2 n3",
    "13 N n2 n1",
    "11 N n3 10.0.0.3",
    "14 N n3",
    "14 N n2",
    // Options: indirect, TCP only, no MTU discovery, no clamping; an older and a newer minor; all
    // of them.
    "12 N n2 n3 192.168.7.3 655 780000d 10",
    "12 N n2 n3 192.168.7.3 655 780000e 10",
    "12 N n2 n3 192.168.7.3 655 7800000 10",
    "12 N n2 n3 192.168.7.3 655 c 10",
    "12 N n2 n3 192.168.7.3 655 ff80000c 10",
    "12 N n2 n3 192.168.7.3 655 3 10",
    "12 N n3 n2 192.168.7.2 655 3 10",
    "12 N n2 n1 192.168.7.1 655 780000f 10",
    // Another address, a high weight, a low weight.
    "12 N n2 n3 192.0.2.1 53 780000c 10",
    "12 N n2 n3 192.168.7.3 655 780000c 2147483647",
    "12 N n3 n2 192.168.7.2 655 780000c -2147483648",
    // A path that does not exist.
    "12 N n3 n4 192.168.7.4 655 780000f -5",
    "23 n3 n0 512",
    "22 n3 n0 192.0.2.1 655",
    "15 n3 n0 15 AAAA",
    "16 n3 n0 AAAA -1 -1 -1 9 192.0.2.1 655",
];

/// One line a second, then a hundred, from the attacker itself or forwarded by a tincd. No packet
/// is lost, no session is replaced, the path stays direct, and no script runs.
#[test]
fn one_line_of_a_third_party_ends_nothing_that_is_alive() {
    let mut worst = Vec::new();
    for (n, line) in LINES.into_iter().enumerate() {
        for (by, rate) in [(M, 1), (M, 100), (1, 1), (1, 100)] {
            // A neighbour may always speak for itself.
            let native = n % 2 == 0;
            let mut net = net(native);
            let mut nonce = 0;
            let mut lost = 0;
            let mut paths = BTreeSet::new();
            let log = lines_of(|| {
                let seconds = if rate == 1 { 3 } else { 1 };
                lost = talk(&mut net, seconds, |net, round| {
                    let lines = if rate == 100 {
                        2
                    } else {
                        usize::from(round % 50 == 7)
                    };
                    for _ in 0..lines {
                        nonce += 1;
                        let line = line.replace(" N ", &format!(" {nonce:x} "));
                        // The attacker's own edge is the other half of the path that does not
                        // exist.
                        if line.contains(" n3 n4 ") {
                            let own = format!("12 {nonce:x}a n4 n3 192.168.7.3 655 780000f -5");
                            net.says(M, 0, own.into());
                        }
                        net.says(by, 0, line.into());
                        net.settle();
                    }
                    let row = net.row(0, 3);
                    paths.insert((format!("{:?}", row.path), row.tunnel.protocol, row.up));
                });
            });
            let cell = format!("{line} by n{by}, {rate} a second, native {native}");
            let all = if rate == 1 { 300 } else { 100 };
            let made = log.iter().filter(|l| l.contains("established")).count();
            let announced = net.hooks.iter().filter(|(at, hook)| {
                let (HookEvent::Host { node, .. } | HookEvent::Subnet { node, .. }) = hook;
                *at == 0 && *node == name(3)
            });
            let announced = announced.count();
            if lost > 0 || made > 0 || announced > 0 || paths.len() > 1 {
                worst.push(format!(
                    "{cell}: {lost} of {all} lost, {made} sessions made, {announced} hooks, {paths:?}"
                ));
            }
        }
    }
    assert!(worst.is_empty(), "{}", worst.join("\n"));
}

/// The same for nodes 0 and 2 in legacy, with node 1 between them. Legacy keys are not protected,
/// but no other line ends the tunnel. KEY_CHANGED sends packets over links for a moment.
#[test]
fn one_line_of_a_third_party_ends_no_legacy_tunnel() {
    for line in [
        "13 N n2 n1",
        "11 N n2 10.0.0.2",
        "14 N n2",
        "12 N n1 n2 192.168.7.2 655 700000c 10",
        "12 N n1 n2 192.168.7.2 655 780000c 10",
        "12 N n1 n2 192.168.7.2 655 3 10",
        "12 N n2 n1 192.168.7.1 655 700000f -10",
    ] {
        for each in [50, 1] {
            let mut net = crate::mesh::sessions::legacy::tests::net(3, |_, _| ());
            net.join(0, 1);
            net.join(1, 2);
            for _ in 0..60 {
                net.send(0, 2, 100);
                net.send(2, 0, 100);
                net.run(SECOND / 10);
            }
            net.delivered.clear();
            for round in 0..200 {
                if round % each == 0 {
                    let line = line.replace(" N ", &format!(" {:x} ", round + 1));
                    net.says(1, 0, line.into());
                    net.settle();
                }
                net.send(0, 2, 100);
                net.send(2, 0, 100);
                net.run(SECOND / 50);
                let row = net.row(0, 2);
                assert_eq!(
                    (row.up, crate::dialect::word(row.tunnel.protocol)),
                    (true, "legacy"),
                    "{line}"
                );
                assert_eq!(row.path, PathKind::Udp, "{line}");
            }
            net.run(SECOND);
            assert_eq!(400 - net.delivered.len(), 0, "{line}, every {each}");
        }
    }
}

/// The same where relays carry the packets: the attacker invents a shorter path, and drops the
/// packets.
#[test]
fn a_way_that_others_make_up_takes_no_packets_of_who_is_heard() {
    for native in [false, true] {
        for rate in [1, 50] {
            let mut net = net_where(native, |net| net.no_udp.extend([(0, 3), (3, 0)]));
            assert_eq!(net.row(0, 3).path, PathKind::Via);
            net.wires
                .retain(|(from, _), (to, _)| (*from, *to) != (0, M));
            let mut nonce = 0;
            let lost = talk(&mut net, 7, |net, round| {
                if round % (50 / rate) == 0 {
                    nonce += 2;
                    for line in [
                        format!("12 {nonce:x} n4 n3 192.168.7.3 655 780000c -5"),
                        format!("12 {:x} n3 n4 192.168.7.4 655 780000c -5", nonce + 1),
                    ] {
                        net.says(M, 0, line.into());
                    }
                    net.settle();
                }
            });
            assert_eq!(lost, 0, "native {native}, {rate} a second");
        }
    }
}

/// A node that really goes away is noticed, also after false reports.
#[test]
fn what_really_ends_is_noticed() {
    for native in [false, true] {
        for lied in [false, true] {
            let lie = |net: &mut Net| {
                for line in ["13 1 n3 n2", "13 2 n2 n3"] {
                    net.says(1, 0, line.into());
                }
                net.settle();
            };
            // The neighbour of a neighbour goes away: the neighbour itself reports it.
            let mut net = net(native);
            net.dial = false;
            net.part(1, 2);
            assert!(!net.row(0, 2).up && !net.row(0, 3).up);

            // Three hops away, while there is traffic.
            let mut net = self::net(native);
            net.dial = false;
            if lied {
                lie(&mut net);
                talk(&mut net, 1, |_, _| ());
                assert!(net.row(0, 3).up);
            }
            net.no_udp.extend([(0, 3), (3, 0)]);
            net.part(2, 3);
            for _ in 0..75 {
                net.send(0, 3, 100);
                net.run(SECOND / 50);
            }
            assert!(!net.row(0, 3).up, "native {native}, lied {lied}");

            // Three hops away, idle.
            let mut net = self::net(native);
            net.dial = false;
            net.run(30 * SECOND);
            net.no_udp.extend([(0, 3), (3, 0)]);
            net.part(2, 3);
            net.run(3 * SECOND / 2);
            assert!(!net.row(0, 3).up, "idle, native {native}");
        }
    }
}

/// A node three hops away restarts while packets are sent to it: its sessions start again, even if
/// its absence was not noticed.
#[test]
fn a_node_that_starts_anew_is_spoken_to_anew() {
    for native in [false, true] {
        let mut net = net(native);
        net.dial = false;
        net.part(2, 3);
        let mut again = settings(5).remove(3);
        again.native = native;
        net.meshes[3] = crate::mesh::Mesh::new(again.into(), [33; 32], net.now);
        net.run(SECOND / 5);
        net.join(2, 3);
        for _ in 0..100 {
            net.send(0, 3, 100);
            net.run(SECOND / 50);
        }
        assert_eq!(talk(&mut net, 2, |_, _| ()), 0, "native {native}");
        assert_eq!(net.row(0, 3).path, PathKind::Udp);
    }
}

/// Host files list a subnet for nodes 2 and 3. It goes over to the one that announces it when the
/// other one withdraws it, in either order and over any link, but not before.
#[test]
fn a_subnet_that_host_files_give_to_two_nodes_fails_over() {
    for early in [false, true] {
        let mut all = settings(5);
        for one in &mut all {
            one.native = true;
            for n in [2, 3] {
                if let Some(host) = one.hosts.get_mut(&name(n)) {
                    let host = std::sync::Arc::make_mut(host);
                    host.subnets.push("10.9.0.0/16".parse().unwrap());
                }
            }
        }
        let mut net = Net::new(all);
        for (a, b) in [(0, 1), (1, 2), (2, 3)] {
            net.join(a, b);
        }
        let owners = |net: &Net| -> Vec<String> {
            let rows = net.meshes[0].subnets().into_iter();
            rows.filter(|row| row.subnet.to_string() == "10.9.0.0/16")
                .filter_map(|row| row.owner)
                .collect()
        };
        net.run(SECOND);
        net.says(1, 0, "10 1 n3 10.9.0.0/16".into());
        net.settle();
        let announce = |net: &mut Net| {
            net.says(1, 0, "10 2 n2 10.9.0.0/16".into());
            net.settle();
        };
        if early {
            announce(&mut net);
        }
        net.says(1, 0, "11 3 n3 10.9.0.0/16".into());
        net.settle();
        assert!(owners(&net).contains(&"n3".into()), "not yet");
        net.run(2 * SECOND);
        if !early {
            assert_eq!(owners(&net), ["n3"], "nobody else has it");
            announce(&mut net);
            net.run(SECOND);
        }
        assert_eq!(owners(&net), ["n2"], "early: {early}");
    }
}

/// A listed subnet stays until its node withdraws it over its own link. Other subnets are removed
/// if no line contradicts.
#[test]
fn a_subnet_of_a_host_file_is_taken_back_by_its_node_only() {
    let subnets = |net: &Net| -> Vec<String> {
        let rows = net.meshes[0].subnets().into_iter();
        rows.filter(|row| row.owner.as_deref() == Some("n3"))
            .map(|row| row.subnet.to_string())
            .collect()
    };
    let mut net = net(true);
    net.dial = false;
    net.says(1, 0, "10 1 n3 10.7.0.0/16".into());
    net.says(1, 0, "11 2 n3 10.7.0.0/16".into());
    net.says(1, 0, "11 3 n3 10.0.0.3".into());
    net.settle();
    net.run(SECOND);
    assert_eq!(subnets(&net), ["10.0.0.3"]);
    net.run(Duration::from_secs(60));
    assert_eq!(subnets(&net), ["10.0.0.3"]);
    // The node goes away and comes back.
    net.says(1, 0, "11 4 n3 10.0.0.3".into());
    net.settle();
    net.part(1, 2);
    net.run(SECOND);
    assert!(!net.row(0, 3).up);
    assert_eq!(subnets(&net), ["10.0.0.3"]);
    net.join(1, 2);
    net.run(SECOND);
    assert_eq!(subnets(&net), ["10.0.0.3"]);
    // The node withdraws the subnet over its own link.
    net.join(0, 3);
    net.run(SECOND);
    net.says(3, 0, "11 5 n3 10.0.0.3".into());
    net.settle();
    assert!(subnets(&net).is_empty());
}
