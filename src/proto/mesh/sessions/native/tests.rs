use std::time::Duration;

use bytes::Bytes;

use meshd_crypto::seal::{Aead, Aeads};

use crate::mesh::{
    Input, LinkReport, Settings,
    testing::{Net, name, settings, underlay},
};

const SECOND: Duration = Duration::from_secs(1);

/// Settings of nodes that all speak native, except those in `old`.
fn native(count: u8, old: &[u8]) -> Vec<Settings> {
    let mut all = settings(count);
    for (settings, n) in all.iter_mut().zip(0..) {
        if !old.contains(&n) {
            settings.native = true;
        }
    }
    all
}

/// A line of three whose middle is no native node: 0 - 1 - 2.
fn line() -> Net {
    let mut net = Net::new(native(3, &[1]));
    net.join(0, 1);
    net.join(1, 2);
    net.run(SECOND);
    net
}

/// Sends packets both ways, `rounds` times at 100 a second. Returns the number of lost packets.
fn lost(net: &mut Net, ends: [u8; 2], rounds: usize) -> usize {
    net.delivered.clear();
    for _ in 0..rounds {
        net.send(ends[0], ends[1], 100);
        net.send(ends[1], ends[0], 100);
        net.run(SECOND / 100);
    }
    net.run(SECOND);
    2 * rounds - net.delivered.len()
}

fn handshakes(net: &Net, ext: &str) -> usize {
    let ext = format!(" {ext} ");
    let lines = net
        .native
        .iter()
        .map(|(_, line)| String::from_utf8_lossy(line));
    lines.filter(|line| line.contains(&ext)).count()
}

#[test]
fn neighbours_that_offer_it_speak_native_over_all_that_the_wire_carries() {
    let mut net = Net::new(native(2, &[]));
    net.join(0, 1);
    net.run(4 * SECOND);
    for (at, of) in [(0, 1), (1, 0)] {
        assert_eq!(net.protocol(at, of), "native");
        let rows = net.meshes[usize::from(at)].peers(net.now);
        assert_eq!(rows[0].udp.proven_mtu, Some(1500 - 28 - 32));
    }
    for length in [28, 1_424, 1_425, 1_439, 1_440] {
        net.delivered.clear();
        net.send(0, 1, length);
        net.send(1, 0, length);
        assert_eq!(net.delivered.len(), 2, "{length}");
        assert!(
            net.delivered
                .iter()
                .all(|(_, packet)| packet.len() == length)
        );
    }
    assert_eq!(lost(&mut net, [0, 1], 300), 0);
}

#[test]
fn a_pair_of_which_one_does_not_offer_it_speaks_sptps() {
    for old in [0, 1] {
        let mut net = Net::new(native(2, &[old]));
        net.join(0, 1);
        net.run(4 * SECOND);
        assert_eq!((net.protocol(0, 1), net.protocol(1, 0)), ("sptps", "sptps"));
        assert!(net.native.is_empty(), "nobody was asked");
        assert_eq!(lost(&mut net, [0, 1], 100), 0);
    }
}

#[test]
fn native_goes_end_to_end_through_a_node_that_has_none() {
    for no_udp in [false, true] {
        let mut net = line();
        if no_udp {
            net.no_udp.insert((0, 2));
        }
        net.send(0, 2, 100);
        net.run(4 * SECOND);
        assert_eq!(net.protocol(0, 2), "native");
        assert_eq!(net.protocol(2, 0), "native");
        assert_eq!(net.protocol(0, 1), "sptps");
        let ours = Aeads::of_this_machine();
        let cipher = |of| net.row(0, of).tunnel.cipher;
        assert_eq!(cipher(1).as_deref(), Some("ChaCha20-Poly1305"));
        assert_eq!(cipher(2).as_deref(), ours.best(ours).map(Aead::name));
        assert_eq!(
            [1, 2].map(|of| net.row(0, of).link.is_some()),
            [true, false]
        );
        assert_eq!(lost(&mut net, [0, 2], 300), 0);
        for length in [1_000, 1_414, 1_425, 1_428, 1_430, 1_440] {
            net.delivered.clear();
            net.send(0, 2, length);
            assert!(!net.delivered.is_empty(), "{length}");
        }
    }
}

#[test]
fn a_node_that_hints_and_stays_silent_gets_sptps() {
    for ext in [32, 33] {
        let mut net = Net::new(native(2, &[]));
        net.lost = Some(ext);
        net.join(0, 1);
        net.send(0, 1, 100);
        net.run(3 * SECOND);
        assert_eq!(net.protocol(0, 1), "sptps");
        net.run(9 * SECOND);
        assert_eq!(lost(&mut net, [0, 1], 100), 0);
        // The node is asked again, rarely, and answers.
        net.lost = None;
        net.run(310 * SECOND);
        assert_eq!(net.protocol(0, 1), "native");
        assert_eq!(lost(&mut net, [0, 1], 100), 0);
        assert!(handshakes(&net, "32") <= 20, "{}", handshakes(&net, "32"));
    }
}

/// The first packet under the new keys proves as much as the lost line.
#[test]
fn a_lost_confirmation_is_made_up_for_by_a_packet() {
    let mut net = Net::new(native(2, &[]));
    net.lost = Some(34);
    net.join(0, 1);
    net.run(4 * SECOND);
    net.send(0, 1, 100);
    net.send(1, 0, 100);
    net.run(2 * SECOND);
    assert_eq!(
        (net.protocol(0, 1), net.protocol(1, 0)),
        ("native", "native")
    );
    assert_eq!(lost(&mut net, [0, 1], 100), 0);
}

/// P9: renewal every ten seconds, started by either end, loses no packet.
#[test]
fn sessions_are_renewed_with_nothing_lost() {
    for middle in [false, true] {
        let mut all = native(3, &[1]);
        for one in &mut all {
            one.key_expire = 10 * SECOND;
        }
        let mut net = Net::new(all);
        net.join(0, 1);
        net.join(1, 2);
        if !middle {
            net.join(0, 2);
        }
        net.run(SECOND);
        net.send(0, 2, 100);
        net.run(3 * SECOND);
        net.native.clear();
        assert_eq!(lost(&mut net, [0, 2], 6_000), 0);
        let begun = handshakes(&net, "32");
        assert!((5..=40).contains(&begun), "{begun} renewals in a minute");
        assert_eq!(net.protocol(0, 2), "native");
    }
}

/// T42: both ends start at the same moment. There is one session, and no further handshake.
#[test]
fn both_begin_at_once_and_one_session_comes_of_it() {
    let mut net = line();
    net.send(0, 2, 100);
    net.run(4 * SECOND);
    for _ in 0..50 {
        net.native.clear();
        let [first, _, last] = &mut net.meshes[..] else {
            unreachable!()
        };
        for (mesh, to) in [(first, name(2)), (last, name(0))] {
            let idx = mesh.nodes.find(&to).unwrap();
            mesh.sessions[idx].native.due = None;
            mesh.ask_native(idx, net.now);
        }
        net.run(3 * SECOND);
        // Each line is sent twice: by its sender and by the node in the middle.
        assert_eq!(handshakes(&net, "32"), 4);
        assert_eq!(handshakes(&net, "33"), 2);
        assert_eq!(handshakes(&net, "34"), 2);
        assert_eq!(lost(&mut net, [0, 2], 5), 0);
    }
}

/// T25, T38: replayed or forged first messages change no session and cost little.
#[test]
fn messages_of_others_do_not_disturb_a_session() {
    let mut net = line();
    net.send(0, 2, 100);
    net.run(4 * SECOND);
    let recorded: Vec<Bytes> = net.native.iter().map(|(_, line)| line.clone()).collect();
    assert!(!recorded.is_empty());
    net.native.clear();
    net.delivered.clear();
    let links: Vec<_> = net
        .wires
        .iter()
        .filter(|(_, (_, _))| true)
        .map(|(a, b)| (*a, *b))
        .collect();
    let forged = [
        b"15 n0 n2 32 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".as_slice(),
        b"15 n0 n2 33 AAAA",
        b"15 n0 n2 34 AAAA",
        b"15 n2 n0 32 ?",
    ]
    .map(Bytes::from_static);
    for round in 0..1_000 {
        for line in recorded.iter().chain(&forged) {
            let to = if line.starts_with(b"15 n0") { 2 } else { 0 };
            let (_, (node, link)) = links
                .iter()
                .find(|((from, _), (node, _))| *from == 1 && *node == to)
                .unwrap();
            let line = line.clone();
            net.input(*node, Input::Link(LinkReport::Line { link: *link, line }));
        }
        net.send(0, 2, 100);
        net.send(2, 0, 100);
        net.run(SECOND / 100);
        assert_eq!(net.delivered.len(), 2 * (round + 1));
    }
    // Ten seconds: each end may have answered once in two seconds.
    assert!(
        handshakes(&net, "33") <= 2 * 2 * (4 + 5),
        "{}",
        handshakes(&net, "33")
    );
    assert_eq!(net.protocol(0, 2), "native");
}

/// T27: a node with a new address is found by its packets. The node gets no bulk traffic there
/// before it has answered.
#[test]
fn a_native_node_that_moves_is_found() {
    let mut net = Net::new(native(2, &[]));
    net.join(0, 1);
    net.run(4 * SECOND);
    let mut new = underlay(9);
    new.set_port(4_000);
    net.moved.insert(1, new);
    net.send(1, 0, 100);
    net.run(SECOND);
    assert_eq!(lost(&mut net, [0, 1], 100), 0);
    let rows = net.meshes[0].peers(net.now);
    assert_eq!(rows[0].route.endpoint, Some(new));
}

/// A peer that comes back without native (a tincd in its place) gets SPTPS.
#[test]
fn a_node_that_goes_back_to_sptps_is_followed() {
    let mut net = Net::new(native(2, &[]));
    net.join(0, 1);
    net.run(4 * SECOND);
    assert_eq!(net.protocol(0, 1), "native");
    net.part(0, 1);
    net.run(SECOND);
    let mut old = native(2, &[1]);
    net.meshes[1] = crate::mesh::Mesh::new(old.pop().unwrap().into(), [77; 32], net.now);
    net.join(0, 1);
    net.run(4 * SECOND);
    assert_eq!((net.protocol(0, 1), net.protocol(1, 0)), ("sptps", "sptps"));
    assert_eq!(lost(&mut net, [0, 1], 100), 0);
}
