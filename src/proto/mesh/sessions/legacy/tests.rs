use std::collections::BTreeMap;

use crate::mesh::sessions::legacy::*;
use meshd_crypto::rsa::RsaPrivate;
use meshd_wire::EdgeAddress;

use crate::{
    mesh::{
        Input, LinkReport, Output, Settings,
        settings::{Host, MinProtocol},
        testing::{Net, lines_of, name, settings},
    },
    route::SourceCheck,
};

const SECOND: Duration = Duration::from_secs(1);

/// Meshes without Ed25519 keys of each other, joined by legacy links.
pub(in crate::mesh) fn net(count: u8, change: impl Fn(usize, &mut Settings)) -> Net {
    let text = include_str!("../../../../../tests/vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let pem = vectors["rsa_keys"]["alpha"]["private_pem"]
        .as_str()
        .unwrap();
    let rsa = Arc::new(RsaPrivate::from_pem(pem).unwrap());
    let mut all = settings(count);
    for (n, one) in all.iter_mut().enumerate() {
        one.rsa = Some(rsa.clone());
        let hosts = std::mem::take(&mut one.hosts).into_iter();
        let as_legacy = |host: &Host| Host {
            key: None,
            rsa: Some(rsa.public()),
            ..host.clone()
        };
        one.hosts = hosts
            .map(|(name, host)| (name, Arc::new(as_legacy(&host))))
            .collect();
        change(n, one);
    }
    let mut net = Net::new(all);
    net.dialect = Dialect::Legacy;
    net
}

fn pair() -> Net {
    let mut net = net(2, |_, _| ());
    net.join(0, 1);
    net.run(5 * SECOND);
    net
}

fn host(one: &mut Settings, of: u8, change: impl Fn(&mut Host)) {
    let host = one.hosts.get_mut(&name(of)).unwrap();
    change(Arc::make_mut(host));
}

/// ANS_KEY lines of a node, without the key.
fn announced(net: &Net, by: u8) -> Vec<String> {
    let lines = net
        .routed
        .iter()
        .filter(|(from, line)| *from == by && line.starts_with(b"16 "));
    lines
        .map(|(_, line)| {
            let words: Vec<_> = std::str::from_utf8(line).unwrap().split(' ').collect();
            words[4..].join(" ")
        })
        .collect()
}

fn keys_of(net: &mut Net, at: u8, of: u8) -> &mut Legacy {
    let mesh = &mut net.meshes[usize::from(at)];
    let idx = mesh.nodes.find(&name(of)).unwrap();
    &mut mesh.sessions[idx].legacy
}

#[test]
fn neighbours_tell_their_keys_unasked_and_find_each_other_by_udp() {
    let mut net = pair();
    for (from, to) in [(0, 1), (1, 0)] {
        net.send(from, to, 1000);
        let row = net.row(from, to);
        assert_eq!(
            (crate::dialect::word(row.tunnel.protocol), row.path),
            ("legacy", crate::mesh::reports::facts::PathKind::Udp)
        );
        assert_eq!(row.tunnel.cipher.as_deref(), Some("aes-256-cbc sha256/16"));
        assert!(row.tunnel.legacy);
        // 1,472 bytes of UDP: 1,456 without the MAC are 91 blocks, less padding, number and
        // Ethernet header.
        assert_eq!(row.udp.proven_mtu, Some(1456 - 1 - 4 - 14));
    }
    assert_eq!(net.delivered.len(), 2);
    assert_eq!(
        [announced(&net, 0), announced(&net, 1)],
        [["427 672 16 0"], ["427 672 16 0"]]
    );
    // A node that looks like a tinc 1.1 is asked for its Ed25519 key (19), and for nothing else.
    let asked = |line: &[u8]| line.starts_with(b"15 ") && !line.ends_with(b" 19");
    assert!(!net.routed.iter().any(|(_, line)| asked(line)));
}

/// Compression makes datagrams of any length. All of them are read, and probes find the lengths
/// that fit.
#[test]
fn every_way_to_make_packets() {
    for wire in [
        [419, 64, 10, 0],
        [91, 64, 4, 5],
        [44, 674, 64, 9],
        [421, 672, 4, 11],
    ] {
        let mut net = net(2, |_, one| {
            one.suite = Suite::from_wire(wire.into()).unwrap()
        });
        net.join(0, 1);
        net.run(5 * SECOND);
        for length in [28, 29, 100, 1000, 1200, 1300] {
            net.send(0, 1, length);
            net.send(1, 0, length);
        }
        assert_eq!(net.delivered.len(), 12, "{wire:?}");
        assert_eq!(
            net.row(0, 1).path,
            crate::mesh::reports::facts::PathKind::Udp,
            "{wire:?}"
        );
    }
}

/// The middle node opens and seals packets again. Ends that reach each other by UDP request keys.
#[test]
fn a_relay_opens_what_it_passes_on() {
    for blocked in [true, false] {
        // A relay's packets from another legacy node are not foreign.
        let mut net = net(3, |_, one| one.route.source_check = SourceCheck::Strict);
        if blocked {
            net.no_udp.extend([(0, 2), (2, 0)]);
        }
        net.join(0, 1);
        net.join(1, 2);
        for _ in 0..100 {
            net.send(0, 2, 1000);
            net.send(2, 0, 1000);
            net.run(SECOND / 10);
        }
        assert_eq!(net.delivered.len(), 200, "{blocked}");
        let direct = net.row(0, 2).path == crate::mesh::reports::facts::PathKind::Udp;
        assert_eq!(direct, !blocked);
        assert_eq!(net.row(0, 2).tunnel.protocol, Some(Dialect::Legacy));
    }
}

/// T23, T24: legacy is not spoken with a node that has an Ed25519 key here, no matter what others
/// announce about it.
#[test]
fn gossip_makes_nobody_legacy() {
    let mut all = net(3, |n, one| {
        if n == 0 {
            host(one, 2, |host| host.key = Some(settings(3)[2].key.public()));
        }
    });
    // The middle node plays the third, whose host file has both keys.
    all.join(0, 1);
    all.run(SECOND);
    for line in [
        "12 1 n2 n1 192.168.7.1 655 c 1",
        "12 2 n1 n2 192.168.7.2 655 c 1",
        "10 3 n2 10.0.0.2",
    ] {
        all.says(1, 0, line.to_owned().into());
    }
    all.settle();
    let key = "AB".repeat(48);
    all.says(1, 0, format!("16 n2 n0 {key} 427 672 4 0").into());
    all.says(1, 0, "15 n2 n0".into());
    all.routed.clear();
    for _ in 0..20 {
        all.send(0, 2, 100);
        all.run(SECOND);
    }
    let row = all.row(0, 2);
    assert!(
        row.up && row.tunnel.protocol.is_none() && row.traffic.tx_packets == 0,
        "{row:?}"
    );
    assert!(
        all.routed.iter().all(|(from, _)| *from != 0),
        "{:?}",
        all.routed
    );

    // The node's host file changes that, and changes it back.
    let mut settings = Settings::clone(&all.meshes[0].cx.settings);
    host(&mut settings, 2, |host| {
        host.min = Some(MinProtocol::Legacy)
    });
    all.input(0, Input::Config(Arc::new(settings.clone())));
    all.says(1, 0, format!("16 n2 n0 {key} 427 672 4 0").into());
    all.settle();
    assert_eq!(all.row(0, 2).tunnel.protocol, Some(Dialect::Legacy));
    host(&mut settings, 2, |host| host.min = None);
    all.input(0, Input::Config(Arc::new(settings)));
    all.settle();
    assert_eq!(all.row(0, 2).tunnel.protocol, None);
}

/// Another RSA key in the host file, or legacy no longer allowed: the reload ends the link.
#[test]
fn a_reload_ends_what_it_forbids() {
    type Change = fn(&mut Settings);
    let changes: [(Change, bool); 4] = [
        (|one| one.min_protocol = Some(MinProtocol::Sptps), false),
        (
            |one| host(one, 1, |host| host.min = Some(MinProtocol::Sptps)),
            false,
        ),
        (|one| host(one, 1, |host| host.rsa = None), false),
        (
            |one| one.suite = Suite::from_wire([419, 64, 20, 0].into()).unwrap(),
            true,
        ),
    ];
    for (change, stays) in changes {
        let mut net = pair();
        net.dial = false;
        net.routed.clear();
        let mut settings = Settings::clone(&net.meshes[0].cx.settings);
        change(&mut settings);
        net.input(0, Input::Config(Arc::new(settings)));
        net.run(SECOND);
        assert_eq!(net.row(0, 1).up, stays);
        if stays {
            assert_eq!(announced(&net, 0), ["419 64 20 0"]);
            net.send(1, 0, 500);
            assert_eq!(
                net.row(1, 0).tunnel.cipher.as_deref(),
                Some("aes-128-cbc sha1/20")
            );
            assert_eq!(net.delivered.len(), 1);
        }
    }
}

/// Legacy is spoken with a node without a host file only behind a legacy neighbour.
#[test]
fn hearsay_is_believed_behind_a_legacy_neighbour_only() {
    for (dialect, expected) in [
        (Dialect::Legacy, Some(Dialect::Legacy)),
        (Dialect::Sptps, None),
    ] {
        let mut net = net(3, |n, one| {
            if n == 0 {
                one.hosts.remove(&name(2));
            }
        });
        net.dialect = dialect;
        net.join(0, 1);
        net.dialect = Dialect::Legacy;
        net.join(1, 2);
        // The middle node hides that the third one speaks SPTPS.
        net.says(1, 0, "12 1 n1 n2 192.168.7.2 655 c 1".into());
        net.run(SECOND);
        let row = net.row(0, 2);
        assert!(row.up && row.tunnel.protocol == expected, "{row:?}");
    }
}

/// T02: no cipher, no digest, a short MAC, odd numbers and lengths: the old key is dropped, and
/// packets go over the link.
#[test]
fn weak_keys_are_refused() {
    let key = "AB".repeat(48);
    for answer in [
        "AB 0 672 4 0".to_owned(),
        format!("{key} 0 672 4 0"),
        format!("{key} 427 0 0 0"),
        format!("{key} 427 0 4 0"),
        format!("{key} 427 672 0 0"),
        format!("{key} 427 672 3 0"),
        format!("{key} 427 672 33 0"),
        format!("{key} 427 672 -1 0"),
        format!("{key} 427 672 4 12"),
        format!("{key} 427 672 4 -1"),
        format!("{key} 427 804 4 0"),
        format!("{key} 906 672 4 0"),
        format!("{key} 1018 672 4 0"),
        format!("{} 427 672 4 0", &key[2..]),
        format!("{key}AB 427 672 4 0"),
    ] {
        let mut net = pair();
        let log = lines_of(|| {
            net.says(1, 0, format!("16 n1 n0 {answer}").into());
            net.settle();
        });
        assert_eq!(
            log.iter().filter(|l| l.contains("go over TCP")).count(),
            1,
            "{answer}"
        );
        let row = net.row(0, 1);
        assert!(row.tunnel.cipher.is_none() && row.up, "{answer}: {row:?}");
        assert!(row.tunnel.suite_refused.is_some());
        net.longest = 0;
        net.send(0, 1, 100);
        assert_eq!(net.delivered.len(), 1, "over the link");
    }
    // Text that is not hexadecimal is no key.
    let mut net = pair();
    net.says(1, 0, "16 n1 n0 nonsense 427 672 4 0".into());
    assert!(net.row(0, 1).tunnel.cipher.is_some());
}

/// Packets without cipher and MAC need the consent of our own host file and of the node's.
#[test]
fn null_needs_both() {
    let none = Suite::from_wire([0, 0, 0, 0].into()).unwrap();
    for (both, expected) in [(true, "none none/0"), (false, "aes-256-cbc sha256/16")] {
        let mut net = net(2, |_, one| {
            one.suite = none;
            for of in [0, 1] {
                if one.hosts.contains_key(&name(of)) {
                    host(one, of, |host| {
                        (host.null_cipher, host.null_digest) = (both, both)
                    });
                }
            }
        });
        net.join(0, 1);
        net.run(5 * SECOND);
        net.send(0, 1, 1000);
        net.send(1, 0, 1000);
        assert_eq!(net.row(0, 1).tunnel.cipher.as_deref(), Some(expected));
        assert_eq!(net.delivered.len(), 2);
    }
}

/// A node may request keys as often as it likes. Four are made at once, then one in two seconds,
/// and packets under the previous key still open.
#[test]
fn keys_that_are_asked_for() {
    let mut net = pair();
    net.routed.clear();
    for n in 0..200 {
        net.says(1, 0, "15 n1 n0".into());
        net.send(1, 0, 100);
        net.run(SECOND / 20);
        assert_eq!(net.delivered.len(), n + 1);
    }
    let made = announced(&net, 0).len();
    assert!((8..=10).contains(&made), "{made}");
    assert_eq!(keys_of(&mut net, 0, 1).rx.len(), MAX_RX);
    net.run(Lifetime::of(Dialect::Legacy, SECOND).linger + 2 * SECOND);
    assert_eq!(keys_of(&mut net, 0, 1).rx.len(), 1);
}

/// KeyExpire: neighbours receive new keys, other nodes drop theirs and ask; no packet is lost.
#[test]
fn keys_expire() {
    let mut net = net(3, |_, one| one.key_expire = 10 * SECOND);
    net.join(0, 1);
    net.join(1, 2);
    for n in 0..400 {
        for (from, to) in [(0, 2), (2, 0), (0, 1), (1, 2)] {
            net.send(from, to, 500);
        }
        net.run(SECOND / 10);
        assert_eq!(net.delivered.len(), 4 * (n + 1), "at {n}");
    }
    let made = announced(&net, 0).len();
    assert!((8..=16).contains(&made), "{made}");
}

/// T05 and T06: keys that are worn out, or that somebody guesses at, are changed in time.
#[test]
fn worn_and_attacked_keys_are_changed() {
    for (wire, limit) in [([427, 672, 16, 0], 1 << 30), ([91, 64, 16, 0], 1 << 19)] {
        let mut net = net(2, |_, one| {
            one.suite = Suite::from_wire(wire.into()).unwrap()
        });
        net.join(0, 1);
        net.run(5 * SECOND);
        net.routed.clear();
        let tx = keys_of(&mut net, 0, 1).tx.clone().unwrap();
        tx.fast_forward(limit);
        for n in 0..50 {
            net.send(0, 1, 100);
            net.run(SECOND / 10);
            assert_eq!(net.delivered.len(), n + 1);
        }
        let new = keys_of(&mut net, 0, 1).tx.clone().unwrap();
        assert!(new.claimed() < 1000, "{}", new.claimed());
    }
    let mut net = pair();
    net.routed.clear();
    let mesh = &net.meshes[0];
    let idx = mesh.nodes.find(&name(1)).unwrap();
    let wrong = &mesh.nodes[idx].shared.counters.bad_tag;
    wrong.fetch_add(FORGERIES - 1, Ordering::Relaxed);
    let shared = mesh.nodes[idx].shared.clone();
    net.run(2 * SECOND);
    assert_eq!(announced(&net, 0).len(), 0);
    shared.counters.bad_tag.fetch_add(1, Ordering::Relaxed);
    net.run(2 * SECOND);
    assert_eq!(announced(&net, 0).len(), 1);
}

/// T09: an edge to a word that is no address kills a 1.0.36. The edge is sent to every link but
/// legacy ones.
#[test]
fn no_edge_to_a_name_goes_to_a_legacy_link() {
    let mut net = net(3, |_, _| ());
    net.join(0, 1);
    net.run(SECOND);
    let mesh = &mut net.meshes[0];
    let now = net.now;
    let (fatal, good) = (
        "12 77 x y example.org 655 c 1",
        "12 78 x z 192.0.2.1 655 c 1",
    );
    let from = mesh.peers.keys().next().copied().unwrap();
    let mut others: BTreeMap<_, Vec<String>> = BTreeMap::new();
    // A second neighbour, in another dialect.
    let mut ids = slotmap::SlotMap::<crate::mesh::LinkId, ()>::with_key();
    for _ in 0..10 {
        ids.insert(());
    }
    let sptps = ids.keys().last().unwrap();
    let hello = crate::link::Hello {
        name: name(2),
        minor: 7,
        dialect: Dialect::Sptps,
        outgoing: false,
        started: now,
    };
    let remote = crate::mesh::testing::underlay(2);
    let local = crate::mesh::testing::underlay(0);
    let up = Input::Link(LinkReport::Up {
        link: sptps,
        hello,
        remote,
        local,
    });
    mesh.handle(up, now);
    mesh.handle(
        Input::Link(LinkReport::Line {
            link: sptps,
            line: "4 655 1 700000c".into(),
        }),
        now,
    );
    while mesh.poll_output().is_some() {}
    for line in [fatal, " 12 79 y x example.org 655 c 1", good] {
        mesh.handle(
            Input::Link(LinkReport::Line {
                link: sptps,
                line: line.into(),
            }),
            now,
        );
        mesh.handle(
            Input::Link(LinkReport::Line {
                link: from,
                line: line.replace(" x ", " w ").into(),
            }),
            now,
        );
    }
    while let Some(output) = mesh.poll_output() {
        if let Output::SendLine { to, line } = output {
            let line = String::from_utf8(line.to_vec()).unwrap();
            others.entry(to == from).or_default().push(line);
        }
    }
    let named = |legacy: bool| {
        others[&legacy]
            .iter()
            .filter(|line| line.contains("example.org"))
            .count()
    };
    assert_eq!((named(true), named(false)), (0, 2), "{others:?}");
    assert!(others[&true].iter().any(|line| line == good));
    // A new legacy link does not receive the edge either.
    assert!(mesh.nodes.iter().any(|(_, node)| {
        node.edges
            .values()
            .any(|edge| edge.address == EdgeAddress::parse("example.org", "655"))
    }));
    net.join(1, 0);
    assert!(net.meshes[1].nodes.iter().all(|(_, node)| {
        node.edges
            .values()
            .all(|edge| edge.address.known().is_some())
    }));
}

/// A datagram from an unknown address is tried with keys, within a bound.
#[test]
fn a_node_that_moves_is_found_by_its_mac() {
    let mut net = pair();
    net.moved.insert(1, "192.168.7.77:9999".parse().unwrap());
    for _ in 0..100 {
        net.send(1, 0, 100);
        net.run(SECOND / 10);
    }
    assert_eq!(
        net.row(0, 1).route.endpoint,
        "192.168.7.77:9999".parse().ok()
    );
    // The number of tries is small, but one suffices.
    assert!(net.delivered.len() >= 90, "{}", net.delivered.len());
    let mesh = &mut net.meshes[0];
    let datagram = Bytes::from(vec![7; 132]);
    let stranger = "203.0.113.1:1".parse().unwrap();
    for _ in 0..1000 {
        assert_eq!(mesh.legacy_sender(stranger, &datagram, net.now), None);
    }
    assert!(
        !mesh
            .sessions
            .legacy
            .all
            .has(TRY_ALL, TRY_ALL as usize, net.now)
    );
}

/// A node restarts unnoticed: its keys are gone, those of the others are not.
fn forget_keys(net: &mut Net, at: u8, of: u8) {
    let mesh = &mut net.meshes[usize::from(at)];
    let idx = mesh.nodes.find(&name(of)).unwrap();
    mesh.sessions[idx] = crate::mesh::sessions::keys::Keys::default();
    mesh.update_state(idx);
}

/// Three nodes in a line whose ends reach each other by UDP. If `silent` is true, the last one
/// sends no new key by itself, like tinc 1.0.
fn restarted_unseen(silent: bool) {
    let mut net = net(3, |_, _| ());
    net.join(0, 1);
    net.join(1, 2);
    for _ in 0..50 {
        net.send(0, 2, 100);
        net.send(2, 0, 100);
        net.run(SECOND / 10);
    }
    forget_keys(&mut net, 2, 0);
    if silent {
        keys_of(&mut net, 2, 0).failures.mended = Some(net.now + 1000 * SECOND);
    }
    net.delivered.clear();
    let mut by_udp = 0;
    for _ in 0..50 {
        net.send(0, 2, 100);
        net.run(SECOND / 10);
        let udp = net.row(0, 2).path == crate::mesh::reports::facts::PathKind::Udp;
        let arrived = !std::mem::take(&mut net.delivered).is_empty();
        by_udp = if udp && arrived { by_udp + 1 } else { 0 };
    }
    // Repaired before the last second of five.
    assert!(by_udp >= 10, "{by_udp}");
}

#[test]
fn packets_that_do_not_open_are_answered_with_a_key() {
    restarted_unseen(false);
}

#[test]
fn a_node_that_no_longer_answers_is_asked_for_its_key() {
    restarted_unseen(true);
}

/// Neither the addresses nor the name of a node help an attacker who guesses: its newest key is in
/// use.
#[test]
fn forged_datagrams_change_no_key_in_use() {
    let mut net = pair();
    for _ in 0..20 {
        net.send(1, 0, 100);
        net.run(SECOND / 10);
    }
    net.routed.clear();
    let from = crate::mesh::testing::underlay(1);
    for n in 0..200_u8 {
        let datagram = Bytes::from(vec![n; 132]);
        net.input(
            0,
            Input::Punt(crate::mesh::Punt::Datagram { from, datagram }),
        );
        let idx = net.meshes[0].nodes.find(&name(1)).unwrap();
        net.input(0, Input::Punt(crate::mesh::Punt::BadTag { node: idx }));
        net.run(SECOND / 20);
    }
    assert_eq!(announced(&net, 0), Vec::<String>::new());
}
