//! The pure steps over snapshots made by hand: this node is node 0, node 1 is a neighbour, node 2
//! is behind it.

mod circles;
mod frames;
mod super_packets;

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering::Relaxed};

use proptest::prelude::*;

use meshd_crypto::{
    PrivateKey, Rng,
    noise::{StaticPublic, StaticSecret},
    seal::Aeads,
};
use meshd_os::clock;
use meshd_proto::{
    dialect::Dialect,
    mesh::event::Punt,
    route::{
        DropReason, Mode, NodeIdx, NodeSlot, NodeState, RouteSnapshot, SourceCheck,
        lpm::Owner,
        source::Claims,
        testing::{ME, addr, neighbour, node, snapshot},
        verdict::ErrorLimiter,
    },
    tunnel::{Tunnel, TunnelSetup, TxKey, native},
};
use meshd_wire::{
    NodeId, NodeName, Subnet,
    datagram::{HEADER, RelayHeader},
    testing::{tcp, v4},
};

use crate::{
    fastpath::{Sink, Step, complete},
    io::vnet::Checksums,
};

const ONE: NodeSlot = NodeSlot(1);
const TWO: NodeSlot = NodeSlot(2);
const ONE_IDX: NodeIdx = NodeIdx::of_slot(ONE);
const TWO_IDX: NodeIdx = NodeIdx::of_slot(TWO);

#[derive(Debug, Default)]
struct Seen {
    mode: Mode,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    device: Vec<Vec<u8>>,
    parked: Vec<(NodeIdx, Vec<u8>)>,
    priorities: Vec<u8>,
    punts: Vec<Punt>,
    drops: Vec<DropReason>,
}

impl Sink for Seen {
    fn datagram(&mut self, to: SocketAddr, _most: usize, length: usize) -> &mut [u8] {
        self.sent.push((to, vec![0xaa; length]));
        &mut self.sent.last_mut().unwrap().1
    }

    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums) {
        complete(self.mode, packet, checksums);
        self.device.push(packet.to_vec());
    }

    fn priority(&mut self, tos: u8) {
        self.priorities.push(tos);
    }

    fn park(&mut self, to: NodeIdx, packet: &[u8]) {
        self.parked.push((to, packet.to_vec()));
    }

    fn punt(&mut self, punt: Punt) {
        self.punts.push(punt);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops.push(reason);
    }
}

fn step(snapshot: &RouteSnapshot, act: impl FnOnce(&mut Step<'_, Seen>)) -> Seen {
    let mut seen = Seen {
        mode: snapshot.settings.mode,
        ..Seen::default()
    };
    let mut limiter = ErrorLimiter::default();
    act(&mut Step::new(
        snapshot,
        &mut seen,
        &mut limiter,
        clock::now(),
    ));
    seen
}

fn outbound(snapshot: &RouteSnapshot, packet: &[u8]) -> Seen {
    step(snapshot, |step| step.from_device(&mut packet.to_vec()))
}

fn inbound(snapshot: &RouteSnapshot, from: SocketAddr, datagram: &[u8]) -> Seen {
    step(snapshot, |step| {
        step.from_network(from, &mut datagram.to_vec(), datagram.len().max(1))
    })
}

/// Two ends of an established tunnel.
fn tunnel(seed: u8) -> (Tunnel, Tunnel) {
    let mut rng = Rng::new([seed; 32]);
    let (key, peer) = (
        PrivateKey::generate(&mut rng),
        PrivateKey::generate(&mut rng),
    );
    let setup = |name: &str, key: &PrivateKey, peer: &str, theirs: &PrivateKey| TunnelSetup {
        key: Arc::new(key.clone()),
        name: NodeName::new(name).unwrap(),
        peer: NodeName::new(peer).unwrap(),
        peer_key: theirs.public(),
        next_key: None,
        replay_window: 128,
        compression: 0,
    };
    let (mut ours, kex) = Tunnel::initiate(setup("n0", &key, "p", &peer), &mut rng);
    let (mut theirs, kex) = Tunnel::respond(setup("p", &peer, "n0", &key), &kex, &mut rng).unwrap();
    let (mut to_us, mut to_them) = (vec![kex], Vec::new());
    while !to_us.is_empty() || !to_them.is_empty() {
        for message in std::mem::take(&mut to_us) {
            to_them.extend(ours.receive(&message, &mut rng).unwrap());
        }
        for message in std::mem::take(&mut to_them) {
            to_us.extend(theirs.receive(&message, &mut rng).unwrap());
        }
    }
    (ours, theirs)
}

fn keyed(state: NodeState, tunnel: &Tunnel) -> NodeState {
    NodeState {
        tx: tunnel.tx(),
        rx: tunnel.rx(),
        ..state
    }
}

/// Each node announces 10.0.N.0/24, and no host file lists a subnet.
fn claims(node: u8) -> Claims {
    let subnet: Subnet = format!("10.0.{node}.0/24").parse().unwrap();
    Claims {
        announced: vec![subnet.prefix],
        ..Claims::default()
    }
}

/// T21: a member sends with the source of another node, of this node, of no node.
#[test]
fn native_nodes_send_from_their_own_subnets_only() {
    let (ours, theirs) = native_pair();
    let mut native = neighbour(ONE);
    (native.tx, native.rx) = (Some(ours.tx), vec![ours.rx]);
    native.dialect = Dialect::Native;
    let (sptps, their_sptps) = tunnel(5);
    for (state, checked) in [(native, true), (keyed(neighbour(ONE), &sptps), false)] {
        let mut tables = line(state, node(TWO, ONE, ONE));
        tables.sources = [0, 1, 2].map(claims).into();
        let mut send = |check: SourceCheck, from: &str, to: &str| {
            tables.settings.source_check = check;
            let packet = v4(from, to, 6, &tcp(&[]));
            let mut datagram = vec![0; packet.len() + native::OVERHEAD];
            if checked {
                datagram[native::HEAD..][..packet.len()].copy_from_slice(&packet);
                theirs
                    .tx
                    .seal(theirs.tx.claim(1).unwrap(), 0, &mut datagram);
            } else {
                datagram = sealed(&tables, &their_sptps.tx().unwrap(), 0, &packet);
            }
            let seen = inbound(&tables, addr(ONE), &datagram);
            assert_eq!(seen.device.len() + seen.drops.len(), 1, "{from} {to}");
            assert!(
                seen.drops
                    .iter()
                    .all(|drop| *drop == DropReason::ForeignSource)
            );
            seen.device.len() == 1
        };
        for from in [
            "10.0.2.1",
            "10.0.0.1",
            "127.0.0.1",
            "224.0.0.1",
            "10.0.9.1",
            "8.8.8.8",
        ] {
            let of_another = ["10.0.2.1", "10.0.0.1"].contains(&from);
            assert_eq!(
                send(SourceCheck::Native, from, "10.0.0.1"),
                !checked && !of_another,
                "{from}"
            );
            assert!(!send(SourceCheck::Strict, from, "10.0.0.1"), "{from}");
            assert!(send(SourceCheck::No, from, "10.0.0.1"), "{from}");
        }
        assert!(send(SourceCheck::Strict, "10.0.1.7", "10.0.0.1"));
    }
}

/// T21: SPTPS packets that pass with a foreign source are counted, each packet of a flow, and no
/// other packets.
#[test]
fn foreign_sources_of_sptps_nodes_are_counted() {
    let (ours, theirs) = tunnel(5);
    let mut tables = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    tables.sources = [0, 1, 2].map(claims).into();
    let mut total = 0;
    for (check, from, to, counted) in [
        (SourceCheck::Native, "10.0.1.7", "10.0.0.1", 0),
        (SourceCheck::Native, "8.8.8.8", "10.0.0.1", 5),
        (SourceCheck::Native, "192.0.2.1", "10.0.0.1", 5),
        (SourceCheck::No, "8.8.8.8", "10.0.0.1", 0),
    ] {
        tables.settings.source_check = check;
        let packet = v4(from, to, 6, &tcp(&[]));
        let tx = theirs.tx().unwrap();
        let seen = step(&tables, |step| {
            for _ in 0..5 {
                let mut datagram = sealed(&tables, &tx, 0, &packet);
                let length = datagram.len();
                step.from_network(addr(ONE), &mut datagram, length);
            }
        });
        assert_eq!((seen.device.len(), seen.drops.len()), (5, 0), "{from} {to}");
        total += counted;
        let counters = &tables.node(ONE).unwrap().counters;
        assert_eq!(counters.foreign.load(Relaxed), total, "{from} {to}");
    }
}

fn native_pair() -> (native::Session, native::Session) {
    let mut rng = Rng::new([6; 32]);
    let keys = [(); 2].map(|()| PrivateKey::generate(&mut rng));
    let setup = |at: usize, names: [&str; 2]| native::Setup {
        secret: Arc::new(StaticSecret::of(&keys[at])),
        name: NodeName::new(names[0]).unwrap(),
        peer: NodeName::new(names[1]).unwrap(),
        peer_keys: vec![StaticPublic::of(&keys[1 - at].public())],
        psk: [0; 32],
        aeads: Aeads::PORTABLE,
    };
    let [ours, theirs] = [ONE, ME].map(|idx| 9 << NodeSlot::SESSION_BITS | idx.0);
    let (asking, first) = native::ask(&setup(0, ["n0", "n1"]), ours, 0, &mut rng).unwrap();
    let (theirs, second) =
        native::answer(&setup(1, ["n1", "n0"]), theirs, &first, &mut rng).unwrap();
    (asking.answered(&second).ok().unwrap(), theirs)
}

/// This node owns 10.0.0.0/24, node 1 10.0.1.0/24, node 2 10.0.2.0/24; 10.0.9.0/24 has no owner.
fn line(one: NodeState, two: NodeState) -> RouteSnapshot {
    let mut snapshot = snapshot(
        [one, two],
        [
            ("10.0.0.0/24", Owner::Node(ME)),
            ("10.0.1.0/24", Owner::Node(ONE)),
            ("10.0.2.0/24", Owner::Node(TWO)),
        ],
    );
    let me = snapshot.node(ME).unwrap().id;
    snapshot.by_id.insert(me, ME);
    for idx in [ONE, TWO] {
        snapshot.by_addr.insert(addr(idx), idx);
        let id = snapshot.node(idx).unwrap().id;
        snapshot.by_id.insert(id, idx);
    }
    snapshot
}

fn ids(snapshot: &RouteSnapshot, to: NodeSlot, from: NodeSlot) -> [u8; HEADER] {
    let id = |idx| snapshot.node(idx).unwrap().id;
    let to = if to == ME { NodeId::DIRECT } else { id(to) };
    RelayHeader { to, from: id(from) }.to_bytes()
}

/// A datagram of node 1 directly to this node.
fn sealed(snapshot: &RouteSnapshot, key: &TxKey, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut datagram = [&ids(snapshot, ME, ONE)[..], &[0; 5], data, &[0; 16]].concat();
    key.seal(key.claim(1).unwrap(), kind, &mut datagram[HEADER..]);
    datagram
}

fn packet(from: &str, to: &str) -> Vec<u8> {
    v4(from, to, 17, b"some datagram of a program")
}

#[test]
fn a_packet_for_a_neighbour_opens_at_the_other_end() {
    let (ours, theirs) = tunnel(1);
    let snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    let packet = packet("10.0.0.5", "10.0.1.7");
    let mut seen = outbound(&snapshot, &packet);
    let (to, mut datagram) = seen.sent.remove(0);
    assert_eq!(to, addr(ONE));
    assert_eq!(datagram[..HEADER], ids(&snapshot, ME, ME));
    let opened = theirs.rx()[0].open(&mut datagram[HEADER..]).unwrap();
    assert_eq!(opened.kind, 0);
    assert_eq!(datagram[HEADER + 5..HEADER + 5 + packet.len()], packet);
    let counters = &snapshot.node(ONE).unwrap().counters;
    assert_eq!(counters.tx_packets.load(Relaxed), 1);
    assert_eq!(counters.tx_bytes.load(Relaxed), packet.len() as u64 + 14);
}

#[test]
fn without_key_or_way_the_packet_is_the_meshs() {
    let snapshot = line(neighbour(ONE), node(TWO, ONE, ONE));
    let wanted = packet("10.0.0.5", "10.0.1.7");
    let seen = outbound(&snapshot, &wanted);
    let [
        Punt::Packet {
            to: ONE_IDX,
            packet: punted,
        },
    ] = &seen.punts[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(punted[..], wanted);
    assert!(seen.sent.is_empty());
}

#[test]
fn datagrams_inherit_the_priority_of_their_packet_where_that_is_wanted() {
    let (ours, _) = tunnel(1);
    let mut snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    let mut packet = packet("10.0.0.5", "10.0.1.7");
    packet[1] = 0xb8;
    assert!(outbound(&snapshot, &packet).priorities.is_empty());
    snapshot.settings.priority_inheritance = true;
    assert_eq!(outbound(&snapshot, &packet).priorities, [0xb8]);
}

#[test]
fn a_packet_for_a_node_that_changes_its_keys_is_parked() {
    let (ours, _) = tunnel(1);
    let paused = NodeState {
        paused: true,
        ..keyed(neighbour(ONE), &ours)
    };
    let packet = packet("10.0.0.5", "10.0.1.7");
    let seen = outbound(&line(paused, node(TWO, ONE, ONE)), &packet);
    assert_eq!(seen.parked, [(ONE_IDX, packet)]);
    assert!(seen.sent.is_empty() && seen.punts.is_empty());
}

#[test]
fn a_packet_to_nowhere_is_answered_to_our_device() {
    let snapshot = line(neighbour(ONE), node(TWO, ONE, ONE));
    let seen = outbound(&snapshot, &packet("10.0.0.5", "10.0.9.1"));
    assert_eq!(seen.device.len(), 1);
    assert_eq!(seen.device[0][9], 1, "ICMP");
    assert_eq!(seen.device[0][16..20], [10, 0, 0, 5]);
    let noise = outbound(&snapshot, b"\x15 no packet");
    assert_eq!(noise.drops, [DropReason::Malformed]);
}

#[test]
fn what_opens_goes_to_the_device_and_only_once() {
    let (ours, theirs) = tunnel(2);
    let snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    let packet = packet("10.0.1.7", "10.0.0.5");
    let datagram = sealed(&snapshot, &theirs.tx().unwrap(), 0, &packet);
    let seen = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(seen.device, std::slice::from_ref(&packet));
    let counters = &snapshot.node(ONE).unwrap().counters;
    assert_eq!(counters.rx_bytes.load(Relaxed), packet.len() as u64 + 14);
    assert_eq!(counters.longest.load(Relaxed), packet.len() as u64);

    let again = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(again.drops, [DropReason::Replayed]);
    assert!(again.device.is_empty());
    let elsewhere = inbound(&snapshot, "203.0.113.1:1".parse().unwrap(), &datagram);
    assert!(matches!(&elsewhere.punts[..], [Punt::Datagram { datagram: d, .. }] if *d == datagram));
}

#[test]
fn a_wrong_tag_costs_nothing_but_a_count() {
    let (ours, theirs) = tunnel(3);
    let snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    let tx = theirs.tx().unwrap();
    let good = sealed(&snapshot, &tx, 0, &packet("10.0.1.7", "10.0.0.5"));
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let seen = inbound(&snapshot, addr(ONE), &bad);
    assert_eq!(seen.drops, [DropReason::BadTag]);
    assert!(matches!(seen.punts[..], [Punt::BadTag { node: ONE_IDX }]));
    assert_eq!(inbound(&snapshot, addr(ONE), &good).device.len(), 1);
    for short in 0..HEADER + 21 {
        let seen = inbound(&snapshot, addr(ONE), &good[..short]);
        assert_eq!(seen.drops, [DropReason::Malformed], "{short}");
    }
}

#[test]
fn types_are_told_apart() {
    let (ours, theirs) = tunnel(4);
    let snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    let tx = theirs.tx().unwrap();
    let packet = packet("10.0.1.7", "10.0.0.5");
    let probe = inbound(&snapshot, addr(ONE), &sealed(&snapshot, &tx, 4, &[0; 18]));
    assert!(
        matches!(&probe.punts[..], [Punt::Probe { node: ONE_IDX, data, .. }] if data.len() == 18)
    );
    let frame = [&[0; 12][..], &[8, 0], &packet].concat();
    let frame = inbound(&snapshot, addr(ONE), &sealed(&snapshot, &tx, 2, &frame));
    assert_eq!(frame.device, std::slice::from_ref(&packet));
    for kind in [1, 3, 5, 128] {
        let seen = inbound(&snapshot, addr(ONE), &sealed(&snapshot, &tx, kind, &packet));
        assert_eq!(seen.drops, [DropReason::BadType], "{kind}");
    }
    for length in [0, 1505] {
        let data = vec![0x45; length];
        let seen = inbound(&snapshot, addr(ONE), &sealed(&snapshot, &tx, 0, &data));
        assert_eq!(seen.drops, [DropReason::Malformed], "{length}");
    }
}

#[test]
fn an_old_key_still_opens_after_a_rekey() {
    let (old, their_old) = tunnel(5);
    let (new, their_new) = tunnel(6);
    let mut state = keyed(neighbour(ONE), &new);
    state.rx.extend(old.rx());
    let snapshot = line(state, node(TWO, ONE, ONE));
    for theirs in [their_old, their_new] {
        let datagram = sealed(
            &snapshot,
            &theirs.tx().unwrap(),
            0,
            &packet("10.0.1.7", "10.0.0.5"),
        );
        assert_eq!(inbound(&snapshot, addr(ONE), &datagram).device.len(), 1);
    }
}

#[test]
fn datagrams_between_others_are_relayed_unopened() {
    let snapshot = line(neighbour(ONE), neighbour(TWO));
    let body = [7; 60];
    let datagram = [&ids(&snapshot, TWO, ONE)[..], &body].concat();
    let seen = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(seen.sent, [(addr(TWO), datagram.clone())]);
    let again = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(again.drops, [DropReason::Repeated]);
    assert_eq!(
        snapshot.node(TWO).unwrap().counters.relayed.load(Relaxed),
        1
    );

    let mut no_udp = neighbour(TWO);
    (no_udp.udp, no_udp.min_mtu) = (None, 0);
    let snapshot = line(neighbour(ONE), no_udp);
    let seen = inbound(&snapshot, addr(ONE), &datagram);
    assert!(
        matches!(&seen.punts[..], [Punt::Relay { to: TWO_IDX, from: ONE_IDX, by: ONE_IDX, datagram }] if datagram[..] == body)
    );
    let unknown = [&[9; 12][..], &body].concat();
    assert_eq!(
        inbound(&snapshot, addr(ONE), &unknown).drops,
        [DropReason::NoRelay]
    );
}

/// T29: a neighbour sends datagrams whose ids name this node as the origin.
#[test]
fn t29_nobody_relays_in_our_name() {
    let snapshot = line(neighbour(ONE), neighbour(TWO));
    let id = |idx| snapshot.node(idx).unwrap().id;
    for to in [TWO, ONE, ME] {
        let (to, from) = (id(to), id(ME));
        let datagram = [&RelayHeader { to, from }.to_bytes()[..], &[7; 60]].concat();
        let seen = inbound(&snapshot, addr(ONE), &datagram);
        assert_eq!(seen.drops, [DropReason::NoRelay]);
        assert!(seen.sent.is_empty() && seen.punts.is_empty());
    }
}

#[test]
fn a_packet_for_a_third_node_is_forwarded_by_its_tunnel() {
    let (ours, theirs) = tunnel(7);
    let (to_two, at_two) = tunnel(8);
    let snapshot = line(keyed(neighbour(ONE), &ours), keyed(neighbour(TWO), &to_two));
    let packet = packet("10.0.1.7", "10.0.2.9");
    let datagram = sealed(&snapshot, &theirs.tx().unwrap(), 0, &packet);
    let mut seen = inbound(&snapshot, addr(ONE), &datagram);
    let (to, mut datagram) = seen.sent.remove(0);
    assert_eq!(to, addr(TWO));
    at_two.rx()[0].open(&mut datagram[HEADER..]).unwrap();
    assert_eq!(datagram[HEADER + 5..][..packet.len()], packet);
}

#[test]
fn broadcasts_go_to_the_tree_but_not_back() {
    let (one, at_one) = tunnel(9);
    let (two, _) = tunnel(10);
    let mut snapshot = line(keyed(neighbour(ONE), &one), keyed(neighbour(TWO), &two));
    snapshot.broadcast = vec![ONE, TWO];
    let broadcast = packet("10.0.1.7", "255.255.255.255");
    snapshot.v4 = meshd_proto::route::lpm::Table::new(vec![meshd_proto::route::lpm::Route {
        addr: u32::MAX,
        len: 32,
        owner: Owner::Broadcast,
    }]);
    let sent = |seen: &Seen| seen.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>();
    assert_eq!(
        sent(&outbound(&snapshot, &broadcast)),
        [addr(ONE), addr(TWO)]
    );
    let datagram = sealed(&snapshot, &at_one.tx().unwrap(), 0, &broadcast);
    let seen = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(seen.drops, [DropReason::Repeated], "it is ours");
    snapshot.recent = Arc::default();
    let datagram = sealed(&snapshot, &at_one.tx().unwrap(), 0, &broadcast);
    let seen = inbound(&snapshot, addr(ONE), &datagram);
    assert_eq!(sent(&seen), [addr(TWO)]);
    assert_eq!(seen.device.len(), 1);
}

#[test]
fn a_key_without_numbers_sends_nothing() {
    let (ours, _) = tunnel(11);
    let snapshot = line(keyed(neighbour(ONE), &ours), node(TWO, ONE, ONE));
    ours.tx().unwrap().fast_forward((1 << 32) - (1 << 13));
    let seen = outbound(&snapshot, &v4("10.0.0.5", "10.0.1.7", 6, &tcp(&[])));
    assert!(seen.sent.is_empty());
    assert!(matches!(
        seen.punts[..],
        [Punt::Exhausted { node: ONE_IDX }]
    ));
    assert_eq!(seen.drops, [DropReason::Exhausted]);
}

proptest! {
    #[test]
    fn no_bytes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        source in 1_u32..4,
    ) {
        let (ours, _) = tunnel(12);
        let snapshot = line(keyed(neighbour(ONE), &ours), neighbour(TWO));
        let to_two = [&ids(&snapshot, TWO, ONE)[..], &bytes].concat();
        for datagram in [&bytes, &to_two] {
            let seen = inbound(&snapshot, addr(NodeSlot(source)), datagram);
            prop_assert!(seen.device.is_empty());
        }
        outbound(&snapshot, &bytes);
    }
}
