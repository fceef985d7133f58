//! Answers of routing: the same pings from the same places, with meshd and with tincd as the node under test.

use std::{thread, time::Duration};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::World,
};

/// Text of a failed ping, in a form without times.
fn complaint(node: &Node, to: &str, options: &[&str]) -> String {
    // Errors are limited to three a second over all: leave room for this one.
    thread::sleep(Duration::from_millis(1100));
    let result = node
        .host
        .command("ping")
        .args(["-n", "-c", "1", "-W", "2"])
        .args(options)
        .arg(to)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&result.stdout).into_owned()
        + &String::from_utf8_lossy(&result.stderr);
    let mut said: Vec<_> = text
        .lines()
        .filter(|line| {
            line.contains("icmp_seq") || line.contains("error") || line.contains("received")
        })
        .map(|line| {
            line.split(" time")
                .next()
                .unwrap_or(line)
                .trim_end_matches(',')
        })
        .map(|line| line.split(", +").next().unwrap_or(line))
        .collect();
    said.dedup();
    said.join(" / ")
}

/// ICMP errors of the daemon on `a` towards its own host.
fn errors(kind: Kind) -> Vec<(String, String)> {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [kind, Tinc11]);
    b.tinc(&["add", "Subnet", "10.30.0.0/24"]);
    b.tinc(&["add", "Subnet", "fd30::/64"]);
    b.introduce_to(&[&a]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.host.ip("route add 10.0.0.0/8 dev mesh0");
    a.host.ip("-6 route add fd00::/8 dev mesh0");
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v4(), 56);
    a.wait_udp(&b);
    let mut seen = Vec::new();
    let mut look = |what: &str, to: &str, options: &[&str]| {
        let said = complaint(&a, to, options);
        seen.push((format!("{what}: ping {} {to}", options.join(" ")), said));
    };
    look("nobody's", "10.99.0.1", &[]);
    look("nobody's", "fd99::1", &[]);
    b.stop();
    a.wait_loses(&b);
    look("unreachable owner", "10.30.0.1", &[]);
    look("unreachable owner", "fd30::1", &[]);
    seen
}

#[test]
fn meshd_answers_like_tincd() {
    assert_eq!(errors(Meshd), errors(Tinc11));
}

/// Packets too long for the path, with the path's MTU found.
fn too_long(kind: Kind) -> Vec<String> {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [kind, Tinc11]);
    // No link between them: what is too long cannot go by TCP, as it could between neighbours.
    let mut m = Node::new(Tinc11, &world.host("m", &[&wire]));
    crate::node::introduce(&[&a, &b, &m]);
    a.connect_to(&["m"]);
    b.connect_to(&["m"]);
    m.start();
    a.start();
    b.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v4(), 56);
    a.wait_dump("knows the MTU of the path to b", |dump| {
        let node = dump.node("b").unwrap();
        // Probes go out only while there is traffic.
        let _ = crate::traffic::try_ping(&a.host, &b.v4(), 56, &[]);
        node.min_mtu > 1000 && node.min_mtu == node.max_mtu
    });
    let mtu = a.dump().node("b").unwrap().pmtu;
    let mut seen = vec![format!("pmtu {mtu}")];
    seen.push(complaint(&a, &b.v4(), &["-M", "do", "-s", "1472"]));
    seen.push(complaint(&a, &b.v6(), &["-M", "do", "-s", "1452"]));
    // Without DF it is cut and arrives.
    wait_ping(&a, &b.v4(), 1472);
    seen
}

#[test]
fn meshd_knows_too_long_like_tincd() {
    assert_eq!(too_long(Meshd), too_long(Tinc11));
}

#[test]
#[ignore = "control: tinc alone"]
fn control_errors() {
    let (first, second) = (errors(Tinc11), errors(Tinc11));
    eprintln!("{first:#?}");
    assert_eq!(first, second);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_too_long() {
    let (first, second) = (too_long(Tinc11), too_long(Tinc11));
    eprintln!("{first:#?}");
    assert_eq!(first, second);
}
