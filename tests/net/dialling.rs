//! How nodes find and keep each other: dead addresses, back-off, the address cache, IPv6 below,
//! AutoConnect, a peer that dies and comes back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    dump::wait_agree,
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::{Flow, Transfer, large, wait_ping},
    world::{World, wait_until},
};

/// Rewrites the `Address` lines that `node` has for `peer`.
fn readdress(node: &Node, peer: &str, addresses: &[&str]) {
    let file = node.dir().join("hosts").join(peer);
    let kept: String = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("Address"))
        .map(|line| format!("{line}\n"))
        .collect();
    let new: String = addresses
        .iter()
        .map(|address| format!("Address = {address}\n"))
        .collect();
    fs::write(file, new + &kept).unwrap();
}

/// b's first addresses are nobody's, silent, and closed; the last one is right.
fn dead_addresses(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let silent = world.host("silent", &[&wire]);
    silent.nft("table inet f { chain in { type filter hook input priority 0; policy accept; meta l4proto tcp drop; }\n}");
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    readdress(
        &a,
        "b",
        &[
            &wire.v4(200),
            &wire.v4(silent.index),
            &format!("{} 1", wire.v4(b.host.index)),
            &wire.v6(b.host.index),
        ],
    );
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
}

#[test]
fn meshd_gets_past_dead_addresses() {
    dead_addresses([Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_dead_addresses() {
    dead_addresses([Tinc11; 2]);
}

/// While b is down, a dials ever more rarely; SIGALRM makes it dial at once.
fn back_off(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    a.connect_to(&["b"]);
    a.host.nft(
        "table inet count { chain out { type filter hook output priority 0; policy accept; tcp dport 655 tcp flags syn / syn,ack counter comment \"dials\"; }\n}",
    );
    a.start();
    thread::sleep(Duration::from_secs(32));
    let listing = a.host.exec("nft list table inet count");
    let dials: u32 = listing
        .split("packets ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    // After 5, 10, 15 s: four rounds in 32 s, each over the one or two addresses it knows.
    assert!((3..=9).contains(&dials), "{dials} dials in 32 s");
    b.start();
    let asked = Instant::now();
    a.signal(Signal::ALARM);
    wait_until("SIGALRM makes a dial", Duration::from_secs(8), || {
        let dump = a.try_dump()?;
        if dump.shared().reachable.contains("b") {
            Ok(())
        } else {
            Err(dump.to_string())
        }
    });
    eprintln!(
        "{kinds:?}: {dials} dials, up {:?} after SIGALRM",
        asked.elapsed()
    );
}

#[test]
fn meshd_backs_off() {
    back_off([Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_back_off() {
    back_off([Tinc11; 2]);
}

/// An address that worked is remembered over a restart, though no file names it any more.
fn cached_address(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    a.connect_to(&["b"]);
    a.tinc(&["set", "PingInterval", "1"]);
    if kinds[0] == Tinc11 {
        // 1.1~pre18 remembers nothing if its folder is not there, and does not make it.
        fs::create_dir(a.dir().join("cache")).unwrap();
    }
    b.start();
    a.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    a.wait_udp(&b);
    // tinc writes an address down when a PING over it is answered.
    thread::sleep(Duration::from_secs(4));
    a.stop();
    readdress(&a, "b", &[]);
    a.start();
    a.wait_reaches(&b);
}

#[test]
fn meshd_remembers_addresses() {
    cached_address([Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_cached_address() {
    cached_address([Tinc11; 2]);
}

/// Everything between the two goes by IPv6.
fn ipv6_below(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    for node in [&a, &b] {
        node.host.ip("address flush dev eth1 scope global");
        node.host.ip(&format!(
            "-6 address replace {}/64 dev eth1 nodad",
            wire.v6(node.host.index)
        ));
    }
    let address = wire.v6(b.host.index);
    readdress(&a, "b", &[&address]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    for size in [56, 1400, 8000] {
        wait_ping(&a, &b.v4(), size);
        wait_ping(&b, &a.v6(), size);
    }
    a.wait_udp(&b);
    b.wait_udp(&a);
    assert_eq!(a.dump().node("b").unwrap().host, address);
    for (from, to) in [(&a, &b), (&b, &a)] {
        Transfer::start(from, to, &to.v4(), large() / 16).finish();
    }
    wait_agree(&[&a, &b]);
}

#[test]
fn meshd_dials_tincd_over_ipv6() {
    ipv6_below([Meshd, Tinc11]);
}

#[test]
fn tincd_dials_meshd_over_ipv6() {
    ipv6_below([Tinc11, Meshd]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_ipv6_below() {
    ipv6_below([Tinc11; 2]);
}

/// Nodes that are told nothing but each other's addresses join into one mesh.
fn auto_connect(kinds: [Kind; 4]) {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, kinds);
    for node in &mut nodes {
        node.tinc(&["set", "AutoConnect", "yes"]);
        node.start();
    }
    for node in &nodes {
        for other in &nodes {
            node.wait_reaches(other);
        }
    }
    // Fewer than three links are too few: in the end everybody is linked to all others.
    nodes[0].wait_dump("sees every link", |dump| dump.edges.len() == 12);
    let all: Vec<&Node> = nodes.iter().collect();
    wait_agree(&all);
}

#[test]
fn meshd_connects_by_itself() {
    auto_connect([Meshd, Tinc11, Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_auto_connect() {
    auto_connect([Tinc11; 4]);
}

/// X3: the peer is killed and started again, five times; packets arrive again soon after.
fn peer_restarts(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    b.connect_to(&["a"]);
    a.start();
    b.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    for round in 0..5 {
        b.kill();
        thread::sleep(Duration::from_millis(500));
        b.start();
        let started = Instant::now();
        let flow = Flow::start(&a, &b, &b.v4(), 100, 200);
        // X3 of proto/threat-model.md says 2.5 s after the start; and a second for the test itself.
        wait_until("packets arrive", Duration::from_millis(3500), || {
            if flow.any_arrived() {
                Ok(())
            } else {
                Err("none yet".to_owned())
            }
        });
        eprintln!("{kinds:?}, round {round}: {:?}", started.elapsed());
        flow.finish();
    }
    a.assert_runs();
    wait_agree(&[&a, &b]);
}

#[test]
fn tincd_restarts_beside_meshd() {
    peer_restarts([Meshd, Tinc11]);
}

#[test]
fn meshd_restarts_beside_tincd() {
    peer_restarts([Tinc11, Meshd]);
}

#[test]
fn meshd_restarts_beside_meshd() {
    peer_restarts([Meshd, Meshd]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_peer_restarts() {
    peer_restarts([Tinc11; 2]);
}
