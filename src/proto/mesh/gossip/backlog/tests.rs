use std::{collections::BTreeSet, time::Duration};

use crate::{
    link::MAX_QUEUE,
    mesh::{
        limits::MAX_ADDRESS_WORD,
        testing::{Net, settings},
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Names of the longest allowed length.
fn long(n: usize) -> String {
    format!("y{n:03}{}", "y".repeat(250))
}

/// 2 - 1: node 2 announces 240 phantoms and some edges between them, of about 600 bytes each.
fn large(edges: usize) -> Net {
    let mut net = Net::new(settings(3));
    net.join(1, 2);
    net.run(SECOND);
    for n in 0..240 {
        for edge in [format!("n2 {}", long(n)), format!("{} n2", long(n))] {
            net.says(
                2,
                1,
                format!("12 f{n:x} {edge} unspec unspec 700000c 1").into(),
            );
        }
    }
    change(&mut net, 0..edges, "12");
    net
}

fn change(net: &mut Net, edges: std::ops::Range<usize>, kind: &str) {
    for n in edges {
        let (x, y) = (n / 239, n % 239);
        let y = if y >= x { y + 1 } else { y };
        let nonce = net.lines + n;
        let ends = format!("{kind} {nonce:x} {} {}", long(x), long(y));
        let line = match kind {
            "12" => format!("{ends} unspec unspec 700000c {n}"),
            _ => ends,
        };
        net.says(2, 1, line.into());
    }
    net.settle();
}

type View = BTreeSet<(String, String, i32)>;

fn view(net: &Net, at: usize) -> View {
    let edges = net.meshes[at].edges().into_iter();
    edges
        .map(|edge| (edge.from, edge.to, edge.weight))
        .collect()
}

/// Grants room on all slow links until none requests more.
fn drain(net: &mut Net) {
    net.slow.clear();
    net.give_room();
}

/// A first exchange is larger than a link's queue. The exchange is sent as the socket takes it, and
/// changes in the meantime arrive.
#[test]
fn a_large_graph_is_told_as_the_socket_takes_it() {
    let mut net = large(9_000);
    net.hold_pongs = true;
    net.all_slow = true;
    net.bytes.clear();
    net.join(0, 1);
    let queued = net.sent_to(1, 0);
    assert!(queued < MAX_QUEUE / 2, "{queued} bytes wait");
    for (kind, edges) in [
        ("13", 0..300),
        ("13", 8_000..8_300),
        ("12", 9_000..15_000),
        ("13", 14_000..14_100),
        ("12", 100..200),
    ] {
        change(&mut net, edges, kind);
    }
    let queued = net.sent_to(1, 0);
    assert!(queued < MAX_QUEUE / 2, "{queued} bytes wait");
    net.hold_pongs = false;
    net.all_slow = false;
    drain(&mut net);
    net.run(SECOND);
    assert_eq!(view(&net, 0), view(&net, 1));
    assert!(net.all_reach(0, 2 + 240));
}

/// The same for an old link that stops taking bytes.
#[test]
fn changes_wait_as_facts_for_a_link_that_takes_nothing() {
    let mut net = large(10);
    net.join(0, 1);
    net.run(SECOND);
    net.slow = net
        .wires
        .keys()
        .filter(|(node, _)| *node == 1)
        .copied()
        .collect();
    net.bytes.clear();
    for _ in 0..2 {
        change(&mut net, 10..5_000, "12");
        change(&mut net, 10..2_500, "13");
    }
    let queued = net.sent_to(1, 0);
    assert!(queued < MAX_QUEUE / 2, "{queued} bytes wait");
    drain(&mut net);
    net.run(SECOND);
    assert_eq!(view(&net, 0), view(&net, 1));
}

/// A joiner learns of unreachable nodes only after they become reachable.
#[test]
fn joiners_hear_of_nodes_once_they_are_reachable() {
    let mut net = Net::new(settings(3));
    net.join(1, 2);
    net.run(SECOND);
    for line in [
        "12 1 z1 z2 unspec unspec 700000c 1",
        "12 2 z2 z1 unspec unspec 700000c 1",
        "10 3 z1 10.9.9.0/24",
    ] {
        net.says(2, 1, line.into());
    }
    net.settle();
    net.join(0, 1);
    net.run(SECOND);
    let knows = |net: &Net| {
        let edges = view(net, 0);
        let subnets = net.meshes[0].subnets();
        let held = subnets
            .iter()
            .any(|row| row.subnet.to_string() == "10.9.9.0/24");
        (
            edges
                .iter()
                .filter(|(from, ..)| from.starts_with('z'))
                .count(),
            held,
        )
    };
    assert_eq!(knows(&net), (0, false));
    for line in [
        "12 4 n2 z1 unspec unspec 700000c 1",
        "12 5 z1 n2 unspec unspec 700000c 1",
    ] {
        net.says(2, 1, line.into());
    }
    net.settle();
    assert_eq!(knows(&net), (3, true));
    assert_eq!(view(&net, 0), view(&net, 1));
}

/// A line with an address word that no daemon writes is dropped. A word as long as an address with
/// a scope passes.
#[test]
fn an_address_longer_than_any_costs_its_line() {
    let mut net = large(0);
    net.join(0, 1);
    let refused = net.meshes[1].status().refused;
    let word = "w".repeat(1_000);
    for n in 0..3_003 {
        let edge = format!(
            "12 a{n:x} {} {} {word}{n} {word} 700000c 10",
            long(n / 200),
            long(20 + n % 200)
        );
        net.says(2, 1, edge.into());
    }
    let scoped = format!(
        "12 b1 {} {} fe80::1%{} 655 700000c 10",
        long(1),
        long(2),
        "e".repeat(MAX_ADDRESS_WORD - 8)
    );
    net.says(2, 1, scoped.into());
    net.settle();
    // Before the refresh: the real n2 would correct lines in its name then.
    net.run(20 * SECOND);
    assert_eq!(net.meshes[1].status().refused - refused, 3_003);
    assert_eq!(view(&net, 1).len(), 2 * 2 + 480 + 1);
    assert_eq!(view(&net, 0), view(&net, 1));
    assert!(net.all_reach(0, 2 + 240) && net.all_reach(2, 2));
}
