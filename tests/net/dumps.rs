//! The real `tinc dump` on a tincd shows the same for a meshd as for a tincd.

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::World,
};

/// The dumps of the tincd `b` in a line a–b–c, with what cannot be the same twice taken out:
/// handshake times, counters, round trips.
fn seen_by_tincd(others: Kind) -> Vec<String> {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [others, Tinc11, others]);
    for node in [&a, &b, &c] {
        // Weights from the files, not from the time that handshakes took.
        node.tinc(&["set", "Weight", "7"]);
        for peer in ["a", "b", "c"] {
            node.tinc(&["set", &format!("{peer}.Weight"), "7"]);
        }
    }
    a.tinc(&["add", "Subnet", "10.50.0.0/16#3"]);
    a.tinc(&["add", "Subnet", "fd50::/32"]);
    a.connect_to(&["b"]);
    b.connect_to(&["c"]);
    c.start();
    b.start();
    a.start();
    for (from, to) in [(&a, &b), (&b, &c), (&a, &c)] {
        from.wait_reaches(to);
        to.wait_reaches(from);
    }
    for (from, to) in [(&b, &a), (&a, &b), (&b, &c), (&c, &b)] {
        wait_ping(from, &to.v4(), 56);
    }
    for other in ["a", "c"] {
        wait_mtu(&b, other);
    }
    dump_lines(&b)
}

/// All dumps of a node, line by line.
fn dump_lines(node: &Node) -> Vec<String> {
    let mut lines = Vec::new();
    for what in ["nodes", "edges", "subnets", "connections", "graph"] {
        for line in node.dump_text(what).unwrap().lines() {
            // The control connection of this very command, and of looks before it.
            if line.contains("localhost port unix") {
                continue;
            }
            lines.push(format!("{what}: {}", timeless(line)));
        }
    }
    lines
}

fn wait_mtu(node: &Node, other: &str) {
    node.wait_dump("has found the path MTU", |dump| {
        let node = dump.node(other).unwrap();
        node.min_mtu > 0 && node.min_mtu == node.max_mtu
    });
}

fn assert_alike(meshd: &[String], tincd: &[String]) {
    for (ours, theirs) in meshd.iter().zip(tincd) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(meshd.len(), tincd.len(), "{meshd:#?}\n{tincd:#?}");
}

/// A line without what differs between two runs, and without the option bit by which a meshd says that it
/// speaks native: the one difference that a real daemon shows.
fn timeless(line: &str) -> String {
    let line = line.split(" rx ").next().unwrap();
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    for at in 1..words.len() {
        match words[at - 1].as_str() {
            // Bits of a probe in flight and of the way of the last packet.
            "status" => {
                let bits = u32::from_str_radix(&words[at], 16).unwrap();
                words[at] = format!("{:04x}", bits & !0x1300);
            }
            "options" => {
                let bits = u32::from_str_radix(&words[at], 16).unwrap();
                words[at] = format!("{:x}", bits & !0x0080_0000);
            }
            "socket" => words[at] = "N".to_owned(),
            // The dialling side's own port of a TCP connection.
            "port" if words[at] != "655" && words[at].parse::<u16>().is_ok() => {
                words[at] = "P".to_owned();
            }
            _ => {}
        }
    }
    words.join(" ")
}

#[test]
fn tincd_shows_meshd_as_it_shows_tincd() {
    assert_alike(&seen_by_tincd(Meshd), &seen_by_tincd(Tinc11));
}

/// meshctl's own dumps of the same mesh, in tinc's words.
fn shown_of_itself(kind: Kind) -> Vec<String> {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [kind, Tinc11]);
    for node in [&a, &b] {
        for peer in ["a", "b"] {
            node.tinc(&["set", &format!("{peer}.Weight"), "7"]);
        }
    }
    a.tinc(&["add", "Subnet", "10.50.0.0/16#3"]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v4(), 56);
    wait_mtu(&a, "b");
    dump_lines(&a)
}

#[test]
fn meshctl_dumps_like_tinc() {
    assert_alike(&shown_of_itself(Meshd), &shown_of_itself(Tinc11));
}

#[test]
#[ignore = "control: tinc alone"]
fn control_dumps() {
    let (first, second) = (seen_by_tincd(Tinc11), seen_by_tincd(Tinc11));
    eprintln!("{first:#?}");
    assert_eq!(first, second);
    let (first, second) = (shown_of_itself(Tinc11), shown_of_itself(Tinc11));
    assert_eq!(first, second);
}
