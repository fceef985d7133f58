use std::{sync::Arc, time::Duration};

use crate::mesh::peers::downgrade::*;
use crate::mesh::{
    Mesh, Settings,
    reports::facts::HostFile,
    settings::{Host, MinProtocol},
    testing::{Net, ends_of_a_line, lines_of, name, settings},
};

const SECOND: Duration = Duration::from_secs(1);

/// All nodes renew their keys every ten seconds. The node in the middle relays and forges.
fn hasty(native: bool) -> Vec<Settings> {
    ends_of_a_line(native, 10 * SECOND)
}

/// The node in the middle announces to both ends a dialect of the other end.
fn forge(net: &mut Net, nonce: usize, options: u32) {
    for (to, about) in [(0, 2), (2, 0)] {
        let line = format!("12 {nonce:x} n1 n{about} 192.168.7.{about} 655 {options:x} 10");
        net.says(1, to, line.into());
    }
    net.settle();
}

/// Sends packets both ways at 20 a second and calls `at_second` each second. Returns the number of
/// lost packets.
fn lost(net: &mut Net, seconds: usize, mut at_second: impl FnMut(&mut Net, usize)) -> usize {
    net.delivered.clear();
    for second in 0..seconds {
        at_second(net, second);
        for _ in 0..20 {
            net.send(0, 2, 100);
            net.send(2, 0, 100);
            net.run(SECOND / 20);
        }
    }
    net.run(SECOND);
    40 * seconds - net.delivered.len()
}

fn downgrades(mesh: &Mesh) -> u64 {
    mesh.status().downgrades
}

/// T24: a relay constantly announces a lower dialect of the ends. The ends keep their dialect over
/// six renewals without packet loss. The operator is told, but not for every line.
#[test]
fn gossip_does_not_end_what_two_nodes_speak() {
    for (native, dialect) in [(true, "native"), (false, "sptps")] {
        for lie in [0x0000_000c, 0x0300_000c, 0x0700_000c, 0x0680_000c] {
            if !native && lie == 0x0700_000c {
                continue; // these are the true options
            }
            let mut net = Net::spoken(hasty(native));
            assert_eq!(net.protocol(0, 2), dialect);
            assert_eq!(downgrades(&net.meshes[0]), 0);
            let log = lines_of(|| {
                let truth = if native { 0x0780_000c } else { 0x0700_000c };
                let lost = lost(&mut net, 70, |net, second| {
                    forge(net, 2 * second + 1, lie);
                    if second % 2 == 1 {
                        forge(net, 2 * second + 2, truth);
                    }
                });
                assert_eq!(lost, 0, "{dialect}, {lie:x}");
            });
            for (at, of) in [(0, 2), (2, 0)] {
                assert_eq!(net.protocol(at, of), dialect, "{lie:x}");
                let count = downgrades(&net.meshes[usize::from(at)]);
                assert!((10..=80).contains(&count), "{count} of {lie:x}");
            }
            let log = log.iter().filter(|l| l.contains("downgrade refused"));
            assert_eq!(log.count(), 4, "both ends, twice in 70 seconds");
        }
    }
}

/// T24: the same if the node was away, and only false lines arrive when it comes back.
#[test]
fn gossip_does_not_lower_a_node_that_comes_back() {
    for (native, dialect) in [(true, "native"), (false, "sptps")] {
        let mut net = Net::spoken(hasty(native));
        net.part(1, 2);
        net.run(3 * SECOND);
        net.join(1, 2);
        forge(&mut net, 1, 0);
        net.send(0, 2, 100);
        net.run(5 * SECOND);
        let lost = lost(&mut net, 20, |net, second| forge(net, second + 2, 0));
        assert_eq!(lost, 0, "{dialect}");
        assert_eq!(net.protocol(0, 2), dialect);
        assert!(downgrades(&net.meshes[0]) > 0);
    }
}

/// Section 3.8: a node that really goes back to tinc gets SPTPS, a second later than otherwise.
#[test]
fn a_node_behind_others_may_go_back_to_sptps() {
    let mut net = Net::spoken(hasty(true));
    net.part(1, 2);
    net.run(SECOND);
    let mut old = hasty(false).pop().unwrap();
    old.native = false;
    net.meshes[2] = Mesh::new(old.into(), [77; 32], net.now);
    net.join(1, 2);
    net.send(0, 2, 100);
    net.run(3 * SECOND);
    assert_eq!(net.protocol(0, 2), "sptps");
    let log = lines_of(|| assert_eq!(lost(&mut net, 30, |_, _| ()), 0));
    let count = log.iter().filter(|l| l.contains("spoke native before"));
    assert_eq!(count.count(), 1);
    assert_eq!(net.protocol(0, 2), "sptps");
}

/// T24: an ACK that denies SPTPS on an SPTPS link, and one that denies native.
#[test]
fn an_ack_is_believed_as_far_as_its_link_allows() {
    let mut net = Net::new(settings(2));
    net.dialect = Dialect::Sptps;
    net.ack_minor = Some((1, 0));
    net.join(0, 1);
    net.run(4 * SECOND);
    assert_eq!(net.protocol(0, 1), "sptps");
    assert_eq!(downgrades(&net.meshes[0]), 1);
    let edges = net.meshes[0].edges();
    let edge = edges.iter().find(|edge| edge.to == "n1").unwrap();
    assert_eq!(edge.options >> 24, 7, "others are told the truth");
}

/// T24: the first lines of a link, which anybody on the path may change, offered no native on
/// either side. The ACKs inside announce native at both ends. The operator is told once per link,
/// and the link ends.
#[test]
fn a_link_in_sptps_between_two_that_speak_native_ends() {
    let mut all = settings(2);
    all.iter_mut().for_each(|one| one.native = true);
    let mut net = Net::new(all);
    net.dialect = Dialect::Sptps;
    for round in 1..=2 {
        let log = lines_of(|| {
            net.join(0, 1);
            net.run(100 * SECOND);
        });
        let count = log.iter().filter(|l| l.contains("both ends offer native"));
        assert!((1..=2).contains(&count.count()), "{log:?}");
        let told = downgrades(&net.meshes[0]) + downgrades(&net.meshes[1]);
        assert!((round..=2 * round).contains(&told), "{told} of {round}");
        assert!(net.wires.is_empty(), "the link ends");
    }
    net.dialect = Dialect::Native;
    net.join(0, 1);
    net.run(SECOND);
    assert_eq!(net.wires.len(), 2, "a native link stays");
}

/// Facts that guide a migration from tinc 1.0: the highest dialect of a node, also after it has
/// gone, and the least dialect for its keys.
#[test]
fn rows_say_what_a_node_offers_and_what_it_must() {
    let facts = |net: &Net, of| {
        let row = net.row(0, of);
        (row.host.offers, row.host.min_protocol, row.host.file)
    };
    for (native, offers) in [(true, Dialect::Native), (false, Dialect::Sptps)] {
        let mut net = Net::spoken(hasty(native));
        let known = (Some(offers), Some(Dialect::Sptps), HostFile::Key);
        let between = (Some(Dialect::Sptps), known.1, known.2);
        assert_eq!((facts(&net, 1), facts(&net, 2)), (between, known));
        net.part(1, 2);
        net.run(SECOND);
        assert!(!net.row(0, 2).up);
        assert_eq!(facts(&net, 2), known);
    }
    let mut all = settings(2);
    let host = all[0].hosts.get_mut(&name(1)).unwrap();
    *host = Arc::new(Host {
        key: None,
        min: Some(MinProtocol::Legacy),
        ..(**host).clone()
    });
    all[0].connect_to = vec![name(1)];
    let mut net = Net::new(all);
    net.run(SECOND);
    assert_eq!(
        facts(&net, 1),
        (None, Some(Dialect::Legacy), HostFile::NoKey)
    );
}
