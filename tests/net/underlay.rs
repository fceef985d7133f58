//! Underlays that are not there at the start, or have link-local addresses only.

use std::{fs, time::Duration};

use crate::{
    node::{
        Kind::{Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, wait_until},
};

/// Writes other `Address` lines of `of` into the host file that `node` has of it.
fn readdress(node: &Node, of: &Node, address: &str) {
    let path = node.dir().join("hosts").join(&of.name);
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("Address"));
    let rest: Vec<&str> = lines.collect();
    fs::write(&path, format!("Address = {address}\n{}\n", rest.join("\n"))).unwrap();
}

/// Two meshds and a tinc dial each other by `fe80::...%eth1`: links, and UDP both ways.
#[test]
fn nodes_meet_by_link_local_addresses_alone() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, [Meshd, Meshd, Tinc11]);
    let local = |node: &Node| {
        let shown = node.host.exec("ip -6 -o address show scope link");
        let words: Vec<&str> = shown.split_whitespace().collect();
        let address = words[3].split('/').next().unwrap();
        format!("{address}%{}", words[1])
    };
    let addresses = nodes.each_ref().map(local);
    for node in &nodes {
        node.host.remove_address(&wire, node.host.index);
        for (of, address) in nodes.iter().zip(&addresses) {
            if node.name != of.name {
                readdress(node, of, address);
            }
        }
    }
    nodes[0].connect_to(&["b"]);
    nodes[2].connect_to(&["b"]);
    nodes.iter_mut().for_each(Node::start);
    let [a, b, c] = &nodes;
    for (one, other) in [(a, b), (b, c)] {
        one.wait_reaches(other);
        other.wait_reaches(one);
        wait_ping(one, &other.v4(), 56);
        wait_ping(other, &one.v4(), 1200);
    }
    a.wait_udp(b);
    b.wait_udp(a);
    b.wait_udp(c);
    // Zones of ours, which are numbers here, are nobody else's business; tinc shows names of its own.
    let edges = c.dump_text("edges").unwrap();
    let mut zones = edges.split('%').skip(1);
    assert!(
        !zones.any(|zone| zone.starts_with(|c: char| c.is_ascii_digit())),
        "{edges}"
    );
    // And these two know of each other's address from b alone.
    wait_ping(a, &c.v4(), 56);
    a.wait_udp(c);
}

/// A daemon that starts before its network: what it lacks is named, and works once it is there.
#[test]
fn a_listen_address_may_come_later() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    let address = wire.v4(a.host.index);
    let file = a.dir().join("tinc.conf");
    let text = fs::read_to_string(&file).unwrap();
    let listen = format!("ListenAddress = {address} 655\nListenAddress = 127.0.0.1 655\n");
    fs::write(&file, format!("{text}{listen}")).unwrap();
    a.connect_to(&["b"]);
    a.host.remove_address(&wire, a.host.index);
    b.start();
    a.start();
    let missing = format!("{address}:655 (no interface has this address)");
    let tells = |command: &[&str]| {
        let told = a.meshctl().args(command).output().unwrap();
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        (told.status.code(), text)
    };
    let (code, text) = tells(&["health"]);
    assert!(
        code == Some(1) && text.contains(&missing),
        "{code:?} {text}"
    );
    let (_, text) = tells(&["why", "b"]);
    assert!(
        text.contains(&format!("this node does not listen on {missing}")),
        "{text}"
    );
    a.host.add_address(&wire, a.host.index);
    a.wait_reaches(&b);
    a.wait_udp(&b);
    b.wait_udp(&a);
    wait_until("health is fine", Duration::from_secs(10), || {
        match tells(&["health"]) {
            (Some(0), _) => Ok(()),
            (code, text) => Err(format!("{code:?} {text}")),
        }
    });
    a.stop();
    b.stop();
}

/// Another program has the port at the start, and lets go of it.
#[test]
fn a_port_that_was_taken_is_tried_again() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    let address = wire.v4(a.host.index);
    let file = a.dir().join("tinc.conf");
    let text = fs::read_to_string(&file).unwrap();
    let listen = format!("ListenAddress = {address} 655\nListenAddress = 127.0.0.1 655\n");
    fs::write(&file, format!("{text}{listen}")).unwrap();
    let taken = address.clone();
    let socket = a
        .host
        .inside(move || std::net::TcpListener::bind((taken, 655)).unwrap());
    b.connect_to(&["a"]);
    a.start();
    b.start();
    let health = a.meshctl().arg("health").output().unwrap();
    let text = String::from_utf8_lossy(&health.stdout);
    assert!(
        text.contains(&format!("not listening on {address}:655 (")),
        "{text}"
    );
    drop(socket);
    b.wait_reaches(&a);
    a.wait_udp(&b);
    b.wait_udp(&a);
    a.stop();
    b.stop();
}
