//! Lines of four nodes, each with a wire to the next one only: packets of a tinc 1.0 are opened and sealed again at every
//! hop, by UDP and over links (TCPOnly). B16 and B17 of the faults of November 2026, and whose addresses count on the way.

use std::{net::UdpSocket, thread, time::Duration};

use crate::{
    hostile::Member,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, introduce, on_one_wire,
    },
    traffic::{Flow, wait_ping},
    world::{World, wait_until},
};

/// All pairs, both ways, short packets and long ones.
fn chain(kinds: [Kind; 4], tcp: bool) {
    let world = World::new();
    let wires = [(); 3].map(|()| world.wire());
    let [left, middle, right] = wires.each_ref();
    let places = [&[left][..], &[left, middle], &[middle, right], &[right]];
    let mut names = 'a'..;
    let mut place = places.into_iter();
    let mut nodes = kinds.map(|kind| {
        let name = names.next().unwrap().to_string();
        Node::new(kind, &world.host(&name, place.next().unwrap()))
    });
    for node in nodes.iter().filter(|_| tcp) {
        node.tinc(&["set", "TCPOnly", "yes"]);
    }
    introduce(&nodes.each_ref());
    for (node, next) in nodes.iter().zip(["b", "c", "d"]) {
        node.connect_to(&[next]);
    }
    nodes.iter_mut().rev().for_each(Node::start);
    for size in [56, 1400] {
        for from in &nodes {
            for to in nodes.iter().filter(|to| to.name != from.name) {
                wait_ping(from, &to.v4(), size);
                wait_ping(from, &to.v6(), size);
            }
        }
    }
    nodes.iter_mut().for_each(Node::assert_runs);
}

#[test]
fn tinc_1_0_behind_three_meshds() {
    chain([Tinc10, Meshd, Meshd, Meshd], false);
}

#[test]
fn two_tinc_1_0_with_two_meshds_between_over_tcp() {
    chain([Tinc10, Meshd, Meshd, Tinc10], true);
}

#[test]
fn all_three_over_tcp() {
    chain([Tinc10, Meshd, Meshd, Tinc11], true);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_chain_of_tinc_1_0_over_tcp() {
    chain([Tinc10; 4], true);
}

/// The one between is a meshd, so both ends hear of a restart by it alone; and it hears of none: the machine of `who` loses its
/// wire, its daemon ends meanwhile, and the new link takes the place of the old one. tests/sim_faults.rs has the bound.
fn restarted_unseen(kinds: [Kind; 3], who: usize) {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, kinds);
    nodes[0].connect_to(&["b"]);
    nodes[2].connect_to(&["b"]);
    nodes[1].start();
    nodes[0].start();
    nodes[2].start();
    let ping_both = |nodes: &[Node; 3]| {
        wait_ping(&nodes[0], &nodes[2].v4(), 56);
        wait_ping(&nodes[2], &nodes[0].v4(), 56);
    };
    ping_both(&nodes);
    let _used = Flow::start(&nodes[0], &nodes[2], &nodes[2].v4(), 20, 100);
    let by_udp = |nodes: &[Node; 3]| {
        let meshd = usize::from(nodes[0].kind != Meshd) * 2;
        let (node, other) = (&nodes[meshd], &nodes[2 - meshd]);
        wait_until("UDP works", Duration::from_secs(60), || {
            match node.peer(&other.name)["path"] == "udp" {
                true => Ok(()),
                false => Err(node.log()),
            }
        });
    };
    by_udp(&nodes);
    wire.cut(&nodes[who].host);
    nodes[who].kill();
    wire.mend(&nodes[who].host);
    nodes[who].start();
    ping_both(&nodes);
    by_udp(&nodes);
}

#[test]
fn a_tinc_1_0_that_restarts_unseen() {
    restarted_unseen([Tinc10, Meshd, Meshd], 0);
}

#[test]
fn a_meshd_that_restarts_unseen_behind_a_meshd() {
    restarted_unseen([Tinc10, Meshd, Meshd], 2);
}

/// A7: a member that speaks SPTPS, though it could speak native, sends in the name of another one, in that of the victim and in
/// its own: the last alone arrives.
#[test]
fn a_member_sends_from_its_own_addresses_only() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, m] = on_one_wire(&world, &wire, [Meshd, Meshd, Meshd]);
    crate::node::bring_up(&mut b, &mut a);
    let heard = a.host.inside(|| UdpSocket::bind("0.0.0.0:5353").unwrap());
    let heard = heard.join().unwrap();
    heard.set_nonblocking(true).unwrap();
    let mut member = Member::reachable(&m, &a, &wire);
    // What it says of itself, as wide as it likes, gives it nothing that host files give to others.
    member.flood(10, "c 10.20.0.0/24");
    for from in [b.v4(), a.v4(), "192.0.2.1".into(), m.v4()] {
        let frame = udp_frame(&from, &a.v4());
        member.say(format!("17 {}", frame.len()));
        member.record(0, &frame);
    }
    assert!(member.is_alive());
    thread::sleep(Duration::from_secs(1));
    let mut sources = Vec::new();
    while let Ok((_, from)) = heard.recv_from(&mut [0; 100]) {
        sources.push(from.ip().to_string());
    }
    assert_eq!(sources, [m.v4()]);
    a.assert_runs();
}

/// An Ethernet frame with a datagram for port 5353, without its checksum.
fn udp_frame(from: &str, to: &str) -> Vec<u8> {
    let [from, to] = [from, to].map(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let mut header = [&[0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0][..], &from, &to].concat();
    let words = header.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let datagram = [0, 53, 0x14, 0xe9, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    [&[0; 12][..], &[8, 0], &header, &datagram].concat()
}
