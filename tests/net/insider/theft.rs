//! T20: a member announces what host files give to another node.

use super::*;
use crate::{native::configure, traffic::try_ping};

/// Each is 10.20.0.2, more than it, or what no node has.
const STOLEN: [&str; 9] = [
    "10.20.0.2",
    "10.20.0.2#-2147483648",
    "10.20.0.2/32#1",
    "010.020.000.002/32#0",
    "0.0.0.0/0#-1",
    "10.20.0.1#-1",
    "10.77.1.0/24",
    "127.0.0.0/8",
    "224.0.0.0/4",
];

#[test]
fn t20_prefix_theft() {
    theft(Tinc11);
}

#[test]
fn t20_prefix_theft_in_legacy() {
    theft(Tinc10);
}

fn theft(others: Kind) {
    // The kernel of a started node solicits routers after seconds, by a packet for all nodes.
    let quiet = |victim: &Node| configure(victim, "tinc.conf", "Broadcast = no");
    let mut scene = Scene::with(World::new(), Meshd, others, quiet);
    let mut witness = scene.witness();
    let mut thief = scene.member();
    for subnet in STOLEN {
        thief.flood(10, &format!("c {subnet}"));
        thief.flood(10, &format!("c fd20::2#-{}", subnet.len()));
        if !thief.is_alive() {
            thief = scene.member();
        }
    }
    let victim = &scene.v;
    for _ in 0..5 {
        try_ping(&victim.host, &scene.p.v4(), 56, &[]).unwrap();
        try_ping(&victim.host, &scene.p.v6(), 1200, &[]).unwrap();
    }
    // The owner reboots.
    scene.p.kill();
    victim.wait_loses(&scene.p);
    for address in [scene.p.v4(), scene.p.v6()] {
        try_ping(&victim.host, &address, 56, &[]).unwrap_err();
    }
    scene.p.start();
    wait_ping(victim, &scene.p.v4(), 56);
    assert!(thief.is_alive());
    // Neither a packet over its link nor one that waits for its key.
    assert!(!thief.heard.iter().any(|line| line.starts_with("17 ")));
    assert_eq!(victim.peer("c")["tx_packets"], 0, "{}", victim.peer("c"));
    let row = victim.peer("c");
    assert_eq!(row["subnets"], serde_json::json!(["10.20.0.3"]), "{row}");
    assert!(witness.is_alive());
    let told = witness.heard.iter().filter(|line| line.starts_with("10 "));
    let mut stolen = told.filter(|line| line.contains(" c ") && !line.contains(" c 10.20.0.3"));
    assert_eq!(stolen.next(), None);
    let log = victim.log();
    assert_eq!(log.matches("subnet refused").count(), 1, "{log}");
    let status = victim.json_of(&["status"]);
    let refused = &status["data"]["mesh"]["subnets_refused"];
    assert!(refused.as_u64().is_some_and(|count| count >= 9), "{status}");
    scene.v.assert_runs();
}
