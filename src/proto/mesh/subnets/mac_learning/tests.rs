//! Ethernet addresses are learned, move and expire, with lines to all nodes.

use std::time::Duration;

use meshd_wire::{Subnet, ether::Mac};

use crate::{
    mesh::{
        Input, Mesh, Punt,
        testing::{Net, name, settings},
    },
    route::Mode,
};

use crate::mesh::subnets::mac_learning::*;

const SECOND: Duration = Duration::from_secs(1);

const fn host(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

/// A line of three nodes in switch mode: 0 - 1 - 2.
fn three() -> Net {
    let mut all = settings(3);
    for one in &mut all {
        one.route.mode = Mode::Switch;
        one.mac_expire = 20 * SECOND;
    }
    let mut net = Net::new(all);
    net.join(0, 1);
    net.join(1, 2);
    net.run(SECOND);
    net
}

fn sees(net: &mut Net, node: u8, mac: Mac) {
    net.input(node, Input::Punt(Punt::NewMac { mac }));
    net.settle();
}

/// Owner of an address in the view of each node.
fn owners(net: &mut Net, mac: Mac) -> Vec<Option<String>> {
    net.run(SECOND);
    let owner = |mesh: &Mesh| {
        let snapshot = mesh.snapshot();
        let owner = snapshot.macs.get(mac)?.owner;
        Some(snapshot.node(owner)?.name.to_string())
    };
    net.meshes.iter().map(owner).collect()
}

fn all_say(node: u8) -> Vec<Option<String>> {
    vec![Some(name(node).to_string()); 3]
}

#[test]
fn what_one_sees_all_know_until_it_is_silent() {
    let mut net = three();
    sees(&mut net, 0, host(1));
    assert_eq!(owners(&mut net, host(1)), all_say(0));
    // Frames of the address, seen by a worker, keep it.
    for _ in 0..4 {
        net.run(15 * SECOND);
        let snapshot = net.meshes[0].snapshot();
        let entry = snapshot.macs.get(host(1)).unwrap();
        entry.sighting.as_ref().unwrap().note();
    }
    assert_eq!(owners(&mut net, host(1)), all_say(0));
    net.run(22 * SECOND);
    assert_eq!(owners(&mut net, host(1)), [None, None, None]);
}

#[test]
fn whoever_sees_it_last_has_it() {
    let mut net = three();
    for at in [0, 2, 1, 0] {
        sees(&mut net, at, host(1));
        assert_eq!(owners(&mut net, host(1)), all_say(at));
    }
    // An address seen at both ends at once has no owner or one owner, equal at all nodes.
    net.input(0, Input::Punt(Punt::NewMac { mac: host(2) }));
    net.input(2, Input::Punt(Punt::NewMac { mac: host(2) }));
    let announced = owners(&mut net, host(2));
    assert!(
        announced.iter().all(|one| *one == announced[0]),
        "{announced:?}"
    );
}

#[test]
fn a_node_that_is_gone_has_nothing() {
    let mut net = three();
    net.dial = false;
    sees(&mut net, 2, host(1));
    net.part(1, 2);
    let lost = owners(&mut net, host(1));
    assert_eq!(lost[..2], [None, None]);
    // The address came up elsewhere in the meantime. A node with the old owner learns of it when it
    // is back.
    sees(&mut net, 0, host(1));
    net.join(1, 2);
    net.run(SECOND);
    let announced = owners(&mut net, host(1));
    assert!(
        announced.iter().all(|one| *one == announced[0]),
        "{announced:?}"
    );
}

#[test]
fn addresses_of_the_configuration_stay() {
    let mut all = settings(2);
    for one in &mut all {
        one.route.mode = Mode::Switch;
        one.mac_expire = 5 * SECOND;
    }
    all[0].subnets.push("2:0:0:0:0:1#5".parse().unwrap());
    let mut net = Net::new(all);
    net.join(0, 1);
    sees(&mut net, 0, host(1));
    assert_eq!(net.meshes[0].subnets.learned.macs.len(), 0);
    net.run(30 * SECOND);
    assert_eq!(owners(&mut net, host(1)), all_say(0)[..2]);
}

#[test]
fn a_flood_of_addresses_is_bounded() {
    let mut net = three();
    for mesh in &mut net.meshes {
        Arc::make_mut(&mut mesh.cx.settings).mac_expire = 1_000 * SECOND;
    }
    let before = net.lines;
    let mac = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        [2, 0, a, b, c, d]
    };
    for n in 0..30_000 {
        let mac = mac(n);
        net.input(0, Input::Punt(Punt::NewMac { mac }));
        if n % 300 == 0 {
            net.run(SECOND);
        }
    }
    net.run(SECOND);
    let held: Vec<usize> = net
        .meshes
        .iter()
        .map(|mesh| {
            let all: Vec<Subnet> = mesh.nodes[mesh.nodes.find(&name(0)).unwrap()]
                .subnets
                .iter()
                .copied()
                .collect();
            all.iter()
                .filter(|s| matches!(s.prefix, Prefix::Mac(_)))
                .count()
        })
        .collect();
    assert_eq!(held, [MAX_LEARNED; 3]);
    // Each address is added and removed once over both links, and refreshed once by each node that
    // received it.
    let learned = LEARN_BURST + 101 * LEARN_RATE as usize;
    let lines = net.lines - before;
    assert!(lines < 7 * learned, "{lines}");
    assert_eq!(net.wires.len(), 4, "nobody cut a link");
    assert!(net.meshes[0].cx.counters.refused > 20_000);
}
