use std::time::Duration;

use crate::{
    mesh::{
        Settings,
        testing::{Net, lines_of, name, settings},
        topology::node::Nodes,
    },
    route::NodeIdx,
};

const SECOND: Duration = Duration::from_secs(1);

/// Nodes of which only n0 has AutoConnect.
fn net(count: u8, change: impl Fn(&mut Settings)) -> Net {
    let mut all = settings(count);
    all[0].auto_connect = true;
    change(&mut all[0]);
    Net::new(all)
}

fn idx(net: &Net, of: u8) -> NodeIdx {
    net.meshes[0].nodes.find(&name(of)).unwrap()
}

/// Nodes that n0 is linked with.
fn links(net: &Net) -> Vec<String> {
    let edges = net.meshes[0].nodes[Nodes::ME].edges.keys();
    edges.map(ToString::to_string).collect()
}

/// n0 dials as AutoConnect does.
fn dial(net: &mut Net, others: &[u8]) {
    for other in others {
        let now = net.now;
        net.meshes[0].auto_dial(name(*other), now);
        net.settle();
    }
}

fn mesh(net: &mut Net, nodes: &[u8]) {
    for (at, a) in nodes.iter().enumerate() {
        for b in &nodes[at + 1..] {
            net.join(*a, *b);
        }
    }
}

#[test]
fn a_node_without_a_link_dials_at_once_and_others_wait_for_connect_to() {
    let mut alone = net(20, |_| {});
    alone.run(Duration::ZERO);
    assert_eq!(links(&alone).len(), 1);
    let mut two = net(20, |one| one.connect_to = vec![name(1), name(2)]);
    (2..20).for_each(|other| two.join(1, other));
    two.run(10 * SECOND);
    assert_eq!(links(&two), ["n1", "n2"]);
    two.run(60 * SECOND);
    assert_eq!(links(&two).len(), 3);
}

/// A lost link is replaced only after its node had time to come back. The last link is replaced at
/// once.
#[test]
fn a_lost_link_is_replaced_when_its_node_stays_away() {
    let mut net = net(20, |_| {});
    for other in 1..4 {
        net.join(0, other);
    }
    mesh(&mut net, &[1, 2, 3]);
    (4..20).for_each(|other| net.join(1, other));
    net.run(100 * SECOND);
    assert_eq!(links(&net), ["n1", "n2", "n3"]);
    net.part(0, 3);
    net.run(9 * SECOND);
    assert_eq!(links(&net), ["n1", "n2"], "10 s to 20 s for 20 nodes");
    net.join(3, 0);
    net.run(60 * SECOND);
    assert_eq!(links(&net), ["n1", "n2", "n3"], "it is back");
    net.part(0, 3);
    net.run(100 * SECOND);
    assert_eq!(links(&net).len(), 3);
    for other in 1..20 {
        net.part(0, other);
        net.part(other, 0);
    }
    net.run(SECOND);
    assert!(!links(&net).is_empty());
}

#[test]
fn no_link_is_dropped_that_its_other_end_needs_or_that_is_young() {
    for (others, dropped) in [(&[1, 2, 3, 4, 5][..], true), (&[1, 2, 3], false)] {
        let mut net = net(6, |_| {});
        mesh(&mut net, others);
        dial(&mut net, &[1, 2, 3, 4, 5]);
        net.run(59 * SECOND);
        assert_eq!(links(&net).len(), 5, "young");
        net.run(600 * SECOND);
        assert_eq!(links(&net).len(), 5 - usize::from(dropped), "{others:?}");
    }
}

/// n5 to n8 are reached only via n5, which has enough links.
#[test]
fn no_link_is_dropped_that_joins_two_parts() {
    let mut net = net(9, |_| {});
    mesh(&mut net, &[1, 2, 3, 4]);
    mesh(&mut net, &[5, 6, 7, 8]);
    dial(&mut net, &[1, 2, 3, 4, 5]);
    net.run(SECOND);
    let [joins, spare] = [5, 1].map(|other| idx(&net, other));
    assert!(!net.meshes[0].is_reached_without_link(joins));
    assert!(net.meshes[0].is_reached_without_link(spare));
    net.run(600 * SECOND);
    assert_eq!(links(&net).len(), 4);
    assert!(links(&net).contains(&"n5".into()));
    assert!(net.all_reach_all());
}

/// A node that cannot be dialled is dialled ever more rarely, but at least once in 75 s.
#[test]
fn dead_nodes_are_dialled_rarely() {
    let mut net = net(3, |_| {});
    net.join(0, 1);
    net.dial = false;
    let log = lines_of(|| net.run(900 * SECOND));
    let dials = log.iter().filter(|line| line.starts_with("dialling"));
    let dials = dials.count();
    assert!((12..=26).contains(&dials), "{dials}");
}
