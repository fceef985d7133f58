use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::mesh::{
    Mesh,
    limits::LINE_BURST,
    settings::Host,
    testing::{Net, lines_of, name, settings},
};

const SECOND: Duration = Duration::from_secs(1);

/// Line 0 - 1 - 2, where node 2 is hostile, and node 3 at 1.
fn star() -> Net {
    let mut net = Net::new(settings(4));
    for other in [0, 2, 3] {
        net.join(1, other);
    }
    net.run(SECOND);
    net
}

fn linked(net: &Net, a: u8, b: u8) -> bool {
    let mut ends = net.wires.iter();
    ends.any(|((from, _), (to, _))| (*from, *to) == (a, b))
}

fn up(net: &Net, at: u8) -> usize {
    let rows = net.meshes[usize::from(at)].peers(net.now);
    rows.iter().filter(|row| row.up).count()
}

/// Replaces a node by a fresh one and links it again.
fn restart(net: &mut Net, node: u8, neighbour: u8) {
    net.part(node, neighbour);
    let own = settings(4).remove(usize::from(node));
    net.meshes[usize::from(node)] = Mesh::new(Arc::new(own), [99; 32], net.now);
    net.join(neighbour, node);
    net.run(2 * SECOND);
}

/// The hub of a mesh of 10,000 nodes sends everything to a joiner that has their host files.
#[test]
fn who_joins_a_mesh_of_ten_thousand_nodes_learns_of_all() {
    let count = 10_000;
    let mut all = settings(2);
    let known = (0..count).map(|n| {
        let name = format!("m{n:05}").parse().unwrap();
        (name, Arc::new(Host::default()))
    });
    all[0].hosts.extend(known);
    let mut net = Net::new(all);
    net.hold_pongs = true;
    net.join(0, 1);
    for n in 0..count {
        // Some nodes have a subnet: SubnetPolicy searches all host files for each.
        let subnet = format!("10 {n:x}1 m{n:05} 10.100.{}.{}", n / 250, n % 250);
        let lines = [
            subnet,
            format!("12 {n:x}2 m{n:05} n1 192.0.2.7 655 700000c 10"),
            format!("12 {n:x}3 n1 m{n:05} 192.0.2.8 655 700000c 10"),
        ];
        for line in lines.into_iter().skip(usize::from(n % 20 != 0)) {
            net.says(1, 0, line.into());
        }
    }
    net.hold_pongs = false;
    net.says(1, 0, Bytes::from_static(b"9"));
    net.settle();
    let status = net.meshes[0].status();
    assert_eq!((status.refused, status.reachable), (0, count + 2));
}

/// Edges between 240 phantoms behind `from`, starting with edge `begin`.
fn phantoms(net: &mut Net, from: u8, to: u8, begin: usize, count: usize) {
    for n in begin..begin + count {
        let (x, y) = (n / 239 % 240, n % 239);
        let y = if y >= x { y + 1 } else { y };
        let edge = format!("12 {n:x} y{x:03} y{y:03} unspec unspec 700000c {n}");
        net.says(from, to, edge.into());
    }
    net.settle();
}

fn introduce(net: &mut Net, from: u8, to: u8) {
    for n in 0..240 {
        let me = name(from);
        for edge in [format!("{me} y{n:03}"), format!("y{n:03} {me}")] {
            let edge = format!("12 f{n:x} {edge} unspec unspec 700000c 1");
            net.says(from, to, edge.into());
        }
    }
    net.settle();
}

/// A member sends as much as its budget allows. A node that links with an honest neighbour still
/// learns of all nodes.
#[test]
fn a_neighbour_that_restarts_sees_all_whatever_a_member_says_within_its_budget() {
    let mut net = star();
    introduce(&mut net, 2, 1);
    phantoms(&mut net, 2, 1, 0, 19_000);
    let mut told = 19_000;
    for _ in 0..2 {
        net.run(10 * SECOND);
        phantoms(&mut net, 2, 1, told, 1_950);
        told += 1_950;
    }
    assert_eq!(net.meshes[1].status().refused, 0, "it is within its budget");
    restart(&mut net, 0, 1);
    assert_eq!(up(&net, 0), 3 + 240);
    // Once more, after the refresh of all changes.
    net.run(100 * SECOND);
    restart(&mut net, 0, 1);
    assert_eq!(up(&net, 0), 3 + 240);
    assert!(linked(&net, 0, 1) && linked(&net, 1, 3));
}

/// A neighbour cuts a member far above its budget. A node that receives the lines from that
/// neighbour neither cuts the neighbour nor rejects its own lines.
#[test]
fn an_honest_neighbour_does_not_answer_for_what_it_passes_on() {
    let mut net = star();
    introduce(&mut net, 2, 1);
    phantoms(&mut net, 2, 1, 0, 19_400);
    let mut n = 19_400;
    while linked(&net, 2, 1) && n < 80_000 {
        phantoms(&mut net, 2, 1, n, 1_000);
        n += 1_000;
        net.run(SECOND / 2);
    }
    assert!(!linked(&net, 2, 1), "cut");
    assert!(linked(&net, 0, 1) && linked(&net, 1, 3));
    for (at, subnet) in [(1, "10.99.1.0/24"), (3, "10.99.3.0/24")] {
        let line = format!("10 abc{at} n{at} {subnet}");
        net.says(at, if at == 1 { 0 } else { 1 }, line.into());
        net.settle();
        let held = net.meshes[0].subnets();
        assert!(
            held.iter().any(|row| row.subnet.to_string() == subnet),
            "{subnet}"
        );
    }
}

/// Sends lines at a rate for a time. Returns the number of seconds until the link was cut.
fn flood(
    net: &mut Net,
    rate: usize,
    seconds: usize,
    line: impl Fn(usize) -> String,
) -> Option<usize> {
    for n in 0..rate * seconds {
        net.says(2, 1, line(n).into());
        if n % (rate / 100) == 0 {
            net.settle();
            net.run(SECOND / 100);
            if !linked(net, 2, 1) {
                return Some(n / rate);
            }
        }
    }
    None
}

/// An accepted line from time to time does not reset the period, and the log names the node that
/// was cut.
#[test]
fn who_is_over_its_budget_for_ten_seconds_is_cut_and_named() {
    let mut net = star();
    let mut after = None;
    let said = lines_of(|| {
        after = flood(&mut net, 3_000, 25, |n| {
            format!("12 {n:x} n2 n1 192.0.2.1 655 700000c {n}")
        });
    });
    let after = after.expect("cut");
    assert!((10..25).contains(&after), "{after} s");
    assert!(linked(&net, 1, 0) && linked(&net, 1, 3));
    let named = said
        .iter()
        .any(|line| line.contains("over its budget") && line.contains("n2"));
    assert!(named, "{said:?}");
}

/// Repetitions of one line, and lines about others, are a flood too.
#[test]
fn naming_others_does_not_help() {
    for line in ["13 N n3 n1", "12 N n1 y1 192.0.2.1 655 c N"] {
        let mut net = star();
        let after = flood(&mut net, 10_000, 45, |n| line.replace('N', &n.to_string()));
        assert!(after.is_some_and(|after| after >= 10), "{line}: {after:?}");
        assert!(linked(&net, 1, 0) && linked(&net, 1, 3), "{line}");
    }
}

/// A burst of a neighbour's own lines within its budget has no consequence.
#[test]
fn bursts_are_borne() {
    let mut net = star();
    for n in 0..LINE_BURST - 10 {
        net.says(
            2,
            1,
            format!("12 {n:x} n2 n1 192.0.2.1 655 700000c {n}").into(),
        );
    }
    net.settle();
    net.run(60 * SECOND);
    assert_eq!(net.meshes[1].status().refused, 0);
    assert!(linked(&net, 2, 1));
}

/// Routed lines: those beyond a fair share are dropped on a congested link, and lines of others are
/// forwarded. A neighbour that sends too many for ten seconds is cut.
#[test]
fn routed_lines_are_dropped_before_they_harm_their_target() {
    let text = "x".repeat(2_000);
    for line in [
        format!("15 n2 n0 99 {text}"),
        format!("16 n2 n0 {text} -1 -1 -1 0"),
        format!("15 n3 n0 99 {text}"),
        "22 n2 n0 192.0.2.1 1".to_owned(),
        "23 n2 n0 1000".to_owned(),
    ] {
        let mut net = star();
        net.slow = net
            .wires
            .keys()
            .filter(|(node, _)| *node == 1)
            .copied()
            .collect();
        net.bytes.clear();
        for _ in 0..10_000 {
            net.says(2, 1, line.clone().into());
        }
        net.settle();
        let queued = net.sent_to(1, 0);
        assert!(
            queued < crate::link::MAX_QUEUE / 2,
            "{queued} bytes: {}",
            &line[..12]
        );
        net.says(3, 1, Bytes::from_static(b"15 n3 n0 99 honest"));
        net.settle();
        if !line.starts_with("15 n3") {
            assert!(
                net.sent_to(1, 0) > queued,
                "honest lines go on: {}",
                &line[..12]
            );
        }
        let mut n = 0;
        while linked(&net, 2, 1) && n < 300 {
            for _ in 0..500 {
                net.says(2, 1, line.clone().into());
            }
            n += 1;
            net.run(SECOND / 10);
        }
        assert!(!linked(&net, 2, 1), "cut: {}", &line[..12]);
        assert!(linked(&net, 1, 0) && linked(&net, 1, 3));
    }
}
