use std::time::Duration;

use bytes::Bytes;

use crate::mesh::{
    Input, LinkReport, Punt,
    limits::{FORGET_AFTER, MAX_UNKNOWN_PER_NEIGHBOUR},
    testing::{Net, name, packet, settings},
};

use super::*;

/// Rounds of naming and forgetting: two days of one member that names as many nodes as it may.
const ROUNDS: usize = 288;

#[test]
fn a_slot_is_used_again_under_another_index() {
    let now = crate::mesh::testing::start();
    let mut nodes = Nodes::new(name(0), now);
    let old = nodes.add(name(1), now);
    nodes.remove(old);
    let new = nodes.add(name(2), now);
    assert_eq!(new.slot(), old.slot());
    assert_ne!(new, old);
    assert!(nodes.get(old).is_none() && nodes.get_mut(old).is_none());
    assert_eq!(nodes.get(new).map(Node::name), Some(&name(2)));
    assert_eq!((Nodes::ME.slot(), nodes.slot_count()), (NodeSlot(1), 3));
}

/// A14: one member names 256 unknown nodes every ten minutes. Slots and publications follow the
/// nodes that exist.
#[test]
fn forgotten_nodes_leave_no_slots_behind() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    let mut now = net.now;
    let mut stale = Vec::new();
    for round in 0..ROUNDS {
        for n in 0..MAX_UNKNOWN_PER_NEIGHBOUR {
            let line = format!("10 {round:x} stranger{round}x{n} 10.9.0.0/16");
            let link = *net.link_of(0, 1);
            net.meshes[0].handle(
                Input::Link(LinkReport::Line {
                    link,
                    line: line.into(),
                }),
                now,
            );
        }
        let mesh = &mut net.meshes[0];
        assert_eq!(mesh.nodes.len(), 2 + MAX_UNKNOWN_PER_NEIGHBOUR, "{round}");
        stale.extend(mesh.nodes.find(&stranger(round)));
        now += FORGET_AFTER + Duration::from_secs(1);
        mesh.forget_nodes(now);
        mesh.settle_all(now);
        assert_eq!(mesh.nodes.len(), 2, "{round}");
    }
    let mesh = &mut net.meshes[0];
    let most = 3 + MAX_UNKNOWN_PER_NEIGHBOUR;
    assert!(mesh.nodes.slot_count() <= most);
    assert!(mesh.fresh_snapshot().nodes.len() <= most);
    stale.sort();
    stale.dedup();
    assert_eq!(stale.len(), ROUNDS, "no index is used twice");
}

fn stranger(round: usize) -> NodeName {
    format!("stranger{round}x0").parse().unwrap()
}

/// Workers send back an index that was forgotten meanwhile. The node that has the slot now gets
/// nothing of it.
#[test]
fn a_punt_for_a_forgotten_node_does_not_reach_its_successor() {
    let mut net = Net::new(settings(3));
    net.join(0, 1);
    let nodes = &mut net.meshes[0].nodes;
    if let Some(two) = nodes.find(&name(2)) {
        nodes.remove(two);
    }
    let old = nodes.add("stranger".parse().unwrap(), net.now);
    nodes.remove(old);
    // Node 2 takes the slot of the stranger, and comes up.
    net.join(0, 2);
    net.run(Duration::from_secs(3));
    let two = net.meshes[0].nodes.find(&name(2)).unwrap();
    assert_eq!(two.slot(), old.slot());
    let from = "192.0.2.9:655".parse().unwrap();
    let probe = Bytes::from(vec![0; 100]);
    let stale = [
        Punt::Packet {
            to: old,
            packet: packet(0, 2, 100),
        },
        Punt::Probe {
            node: old,
            from,
            data: probe.clone(),
        },
        Punt::Relay {
            to: old,
            from: old,
            by: old,
            datagram: probe,
        },
        Punt::BadTag { node: old },
        Punt::Exhausted { node: old },
    ];
    let began = net.meshes[0].sessions[two].began;
    for punt in stale {
        net.input(0, Input::Punt(punt));
        assert!(net.meshes[0].poll_output().is_none());
    }
    assert_eq!(net.meshes[0].sessions[two].began, began);
    // The same packet under the index of the node is sent.
    net.input(
        0,
        Input::Punt(Punt::Packet {
            to: two,
            packet: packet(0, 2, 100),
        }),
    );
    assert!(net.meshes[0].poll_output().is_some());
}
