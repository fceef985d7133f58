use super::*;
use crate::route::lpm::Route;
use meshd_wire::{
    Subnet,
    testing::{v4, v6},
};

use crate::route::testing::{B, C, D, ME, change, neighbour, node, snapshot};

fn prefixes(subnets: &[&str]) -> Vec<Prefix> {
    let parse = |subnet: &&str| subnet.parse::<Subnet>().unwrap().prefix.masked();
    let mut prefixes: Vec<Prefix> = subnets.iter().map(parse).collect();
    prefixes.sort();
    prefixes
}

/// This node is a (10.0.0.1), with links to b and c; d is behind c. The node of index 4 is down,
/// and so is the fifth, which is known only from its host file. Each entry gives the announced
/// subnets and those in the host file.
fn net(nodes: [(&[&str], &[&str]); 6]) -> RouteSnapshot {
    let mut down = node(NodeSlot(4), B, B);
    down.reachable = false;
    let owner = |idx: usize| match idx {
        4 => Owner::Unreachable(NodeSlot(4)),
        _ => Owner::Node(NodeSlot(idx as u32)),
    };
    let mut snapshot = snapshot([neighbour(B), neighbour(C), node(D, C, D), down], []);
    let (mut routes, mut all) = (Vec::new(), Vec::new());
    for (idx, (announced, listed)) in nodes.into_iter().enumerate() {
        let (announced, listed) = (prefixes(announced), prefixes(listed));
        all.extend(listed.clone());
        routes.extend(announced.iter().map(|prefix| (*prefix, owner(idx))));
        if idx < 5 {
            snapshot.sources.push(Claims {
                announced,
                listed: listed.into(),
                ..Claims::default()
            });
        }
    }
    (snapshot.v4, snapshot.v6) = lpm::tables(routes);
    snapshot.listed = Arc::new(Listed::new(all));
    snapshot
}

fn origin(snapshot: &RouteSnapshot, sender: NodeSlot, from: &str) -> Origin {
    let packet = match from.contains(':') {
        false => v4(from, "10.0.0.1", 17, &[0; 8]),
        true => v6(from, "fd00::1", 17, &[0; 8]),
    };
    judge(snapshot, &Packet::parse(&packet).unwrap(), sender)
}

/// This node, b listed, c listed, d not listed, one that is down, one that was never seen.
fn usual() -> RouteSnapshot {
    net([
        (&["10.0.0.1"], &["10.0.0.1"]),
        (
            &["10.1.0.1", "fd01::1", "10.9.0.0/16"],
            &["10.1.0.1", "fd01::1"],
        ),
        (&["10.2.0.0/16", "10.0.0.0/8"], &["10.2.0.0/16"]),
        (&["10.3.0.1"], &[]),
        (
            &["10.4.0.1", "10.2.4.0/24"],
            &["10.4.0.1", "10.2.4.0/24", "fd04::1"],
        ),
        (&[], &["10.5.0.1"]),
    ])
}

#[test]
fn a_node_whose_host_file_lists_subnets_is_held_to_its_own() {
    let net = usual();
    for from in ["10.1.0.1", "fd01::1", "10.9.1.1"] {
        assert_eq!(origin(&net, B, from), Origin::Sound, "{from}");
    }
    for from in [
        "10.2.0.1",
        "10.3.0.1",
        "10.4.0.1",
        "10.5.0.1",
        "10.0.0.1",
        "10.1.0.2",
        "8.8.8.8",
        "127.0.0.1",
        "fd04::1",
        "fd02::1",
        "::1",
    ] {
        assert_eq!(origin(&net, B, from), Origin::Refused, "{from}");
    }
}

/// A node that announces 10.0.0.0/8 may not send for owners of narrower subnets, whether these are
/// up, down or unseen. Such a node may send from addresses that no other host file lists. With a
/// listed wide subnet it may also do so while the owner of a narrower one is down.
#[test]
fn a_wide_subnet_is_no_leave_to_send_from_a_narrower_one() {
    let net = usual();
    for from in ["10.1.0.1", "10.3.0.1", "10.4.0.1", "10.5.0.1", "10.0.0.1"] {
        assert_eq!(origin(&net, C, from), Origin::Refused, "{from}");
    }
    for from in ["10.2.0.1", "10.77.0.1", "10.2.4.1"] {
        assert_eq!(origin(&net, C, from), Origin::Sound, "{from}");
    }
    let mut net = net;
    net.v4 = Table::new(["10.2.0.0/16", "10.2.4.0/24"].map(|subnet| {
        let Prefix::V4(ip, len) = prefixes(&[subnet])[0] else {
            panic!("{subnet}");
        };
        let owner = Owner::Node(if len == 24 { D } else { C });
        net.sources[3].announced = prefixes(&["10.2.4.0/24"]);
        Route {
            addr: ip.to_bits(),
            len,
            owner,
        }
    }));
    assert_eq!(
        origin(&net, C, "10.2.4.1"),
        Origin::Refused,
        "its owner is up"
    );
    assert_eq!(origin(&net, C, "10.2.5.1"), Origin::Sound);
}

/// As in all meshes of tinc whose host files contain only keys.
#[test]
fn a_node_whose_host_file_lists_none_sends_from_all_but_the_addresses_of_others() {
    let mut net = usual();
    for from in ["10.3.0.1", "8.8.8.8", "192.168.7.7", "fd77::1"] {
        let expected = match from {
            "10.3.0.1" => Origin::Sound,
            _ => Origin::Counted,
        };
        assert_eq!(origin(&net, D, from), expected, "{from}");
    }
    for from in [
        "10.0.0.1", "10.1.0.1", "fd01::1", "10.2.0.1", "10.4.0.1", "10.5.0.1", "fd04::1",
    ] {
        assert_eq!(origin(&net, D, from), Origin::Refused, "{from}");
    }
    net.settings.source_check = SourceCheck::Strict;
    assert_eq!(origin(&net, D, "8.8.8.8"), Origin::Refused);
    assert_eq!(origin(&net, D, "10.3.0.1"), Origin::Sound);
}

/// A node whose host file lists a default route does not own the sources of others on the Internet.
#[test]
fn a_default_route_leaves_everything_to_others() {
    let net = net([
        (&["10.0.0.1"], &["10.0.0.1"]),
        (&["0.0.0.0/0", "10.1.0.1"], &["0.0.0.0/0", "10.1.0.1"]),
        (&["10.2.0.1"], &["10.2.0.1"]),
        (&[], &[]),
        (&[], &[]),
        (&[], &[]),
    ]);
    assert_eq!(origin(&net, B, "8.8.8.8"), Origin::Sound);
    assert_eq!(origin(&net, B, "10.2.0.1"), Origin::Refused);
    assert_eq!(origin(&net, B, "10.0.0.1"), Origin::Refused);
    assert_eq!(origin(&net, C, "8.8.8.8"), Origin::Refused);
    assert_eq!(origin(&net, D, "8.8.8.8"), Origin::Counted);
}

/// Two nodes that announce the same subnet may both send from it.
#[test]
fn equal_subnets_are_of_both() {
    let net = net([
        (&["10.0.0.1"], &["10.0.0.1"]),
        (&["10.7.0.0/24"], &["10.7.0.0/24"]),
        (&["10.7.0.0/24"], &["10.7.0.0/24"]),
        (&["10.7.0.0/24"], &[]),
        (&[], &[]),
        (&[], &[]),
    ]);
    for sender in [B, C, D] {
        assert_eq!(origin(&net, sender, "10.7.0.9"), Origin::Sound);
    }
}

#[test]
fn the_word_of_its_host_file_goes_before_ours() {
    let mut net = usual();
    net.sources[1].check = Some(SourceCheck::No);
    net.sources[3].check = Some(SourceCheck::Strict);
    assert_eq!(origin(&net, B, "10.2.0.1"), Origin::Sound);
    assert_eq!(origin(&net, D, "8.8.8.8"), Origin::Refused);
    net.settings.source_check = SourceCheck::No;
    net.sources[1].check = Some(SourceCheck::Native);
    assert_eq!(origin(&net, B, "10.2.0.1"), Origin::Refused);
    assert_eq!(origin(&net, C, "10.1.0.1"), Origin::Sound);
}

/// Legacy packets are sealed again at every hop, so they may come from any node on the path, and
/// from no other.
#[test]
fn what_carriers_hand_on_is_sound() {
    let mut net = usual();
    net.sources[3].carriers = Arc::new([C]);
    assert_eq!(
        origin(&net, C, "10.3.0.1"),
        Origin::Refused,
        "nobody is legacy"
    );
    change(&net, D, |d| d.dialect = crate::dialect::Dialect::Legacy);
    assert_eq!(origin(&net, C, "10.3.0.1"), Origin::Sound);
    assert_eq!(origin(&net, B, "10.3.0.1"), Origin::Refused);
    assert_eq!(origin(&net, C, "10.1.0.1"), Origin::Refused);
    assert_eq!(
        origin(&net, ME, "10.1.0.1"),
        Origin::Sound,
        "our own device"
    );
    // To a legacy node, via this node.
    net.sources[1].carriers = Arc::new([C]);
    let to = |to: &str| {
        let packet = v4("10.1.0.1", to, 17, &[0; 8]);
        judge(&net, &Packet::parse(&packet).unwrap(), C)
    };
    assert_eq!(to("10.3.0.1"), Origin::Sound);
    assert_eq!(to("10.2.0.1"), Origin::Refused);
    assert_eq!(to("10.0.0.1"), Origin::Refused);
}
