//! Tests of whole meshes, joined by lines and datagrams, for behaviour that one node alone cannot show.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::testing::{Net, name, packet, settings, start, underlay};
use crate::mesh::{
    HookEvent, Input, LinkReport, Mesh, Output, Punt,
    reports::facts::{DialFault, PathKind},
};

mod lines;

const SECOND: Duration = Duration::from_secs(1);

/// A line of three: 0 - 1 - 2.
fn three() -> Net {
    let mut net = Net::new(settings(3));
    net.join(0, 1);
    net.join(1, 2);
    net.run(SECOND);
    net
}

fn row(net: &Net, at: u8, of: u8) -> crate::mesh::reports::facts::NodeFacts {
    let rows = net.meshes[usize::from(at)].peers(net.now);
    rows.into_iter().find(|row| row.name == name(of)).unwrap()
}

fn sends(net: &mut Net, link_of: u8, to: u8, line: &str) {
    let (_, (node, link)) = net
        .wires
        .iter()
        .find(|((from, _), (other, _))| *from == link_of && *other == to)
        .map(|(a, b)| (*a, *b))
        .unwrap();
    net.input(
        node,
        Input::Link(LinkReport::Line {
            link,
            line: Bytes::copy_from_slice(line.as_bytes()),
        }),
    );
    net.settle();
}

#[test]
fn neighbours_find_udp_and_the_mtu_of_the_wire() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.run(4 * SECOND);
    let row = row(&net, 0, 1);
    assert_eq!(row.path, PathKind::Udp);
    assert_eq!(row.udp.proven_mtu, Some(1500 - 28 - 12 - 21 - 14));
    assert!(!row.udp.mtu_too_small && !row.tunnel.legacy);
}

#[test]
fn former_neighbours_are_dialled_once_and_at_once() {
    let mut ours = settings(3).remove(0);
    let former: SocketAddr = "192.0.2.1:1".parse().unwrap();
    ours.hosts.remove(&name(2));
    let mut mesh = Mesh::new(Arc::new(ours), [7; 32], start());
    let dials = |mesh: &mut Mesh, now| {
        mesh.handle(Input::Timeout, now);
        mesh.settle_all(now);
        let outputs = std::iter::from_fn(|| mesh.poll_output());
        let dials = outputs.filter_map(|output| match output {
            Output::Dial { node, addr } => Some((node, addr)),
            _ => None,
        });
        dials.collect::<Vec<_>>()
    };
    assert_eq!(dials(&mut mesh, start()), []);
    // A node that is no longer known, this node, and one that still exists.
    let neighbours = [2, 0, 1].map(|n| (name(n), former)).to_vec();
    mesh.handle(Input::Redial(neighbours), start());
    assert_eq!(dials(&mut mesh, start()), [(name(1), former)]);
    let mut now = start();
    let mut addr = former;
    loop {
        let failed = Input::Link(LinkReport::DialFailed {
            node: name(1),
            addr,
            fault: DialFault::Refused,
            why: "refused".into(),
        });
        mesh.handle(failed, now);
        now += SECOND;
        match dials(&mut mesh, now)[..] {
            [(_, next)] => addr = next,
            _ => break,
        }
        assert_ne!(addr, former);
    }
    assert_eq!(dials(&mut mesh, now + 600 * SECOND), []);
}

#[test]
fn packets_of_every_length_arrive_once_and_unchanged() {
    let mut net = three();
    for length in [28, 84, 1_000, 1_424, 1_425] {
        for (from, to) in [(0, 1), (0, 2), (2, 0), (2, 1)] {
            for wait in [0, 3, 0] {
                net.delivered.clear();
                net.send(from, to, length);
                net.run(SECOND);
                assert_eq!(
                    net.delivered,
                    [(to, packet(from, to, length))],
                    "{length} bytes from {from} to {to}"
                );
                net.run(wait * SECOND);
            }
        }
    }
}

#[test]
fn what_is_too_long_arrives_in_pieces() {
    let mut net = three();
    net.send(0, 1, 1_000);
    net.run(3 * SECOND);
    net.delivered.clear();
    net.send(0, 1, 1_500);
    net.run(SECOND);
    let payload: usize = net
        .delivered
        .iter()
        .map(|(_, packet)| packet.len() - 20)
        .sum();
    assert_eq!((net.delivered.len(), payload), (2, 1_480));
}

#[test]
fn ends_of_a_line_find_each_other_unless_the_wire_forbids() {
    for blocked in [false, true] {
        let mut net = three();
        if blocked {
            net.no_udp.insert((0, 2));
        }
        for _ in 0..15 {
            net.send(0, 2, 100);
            net.send(2, 0, 100);
            net.run(SECOND);
        }
        let expected = if blocked {
            PathKind::Via
        } else {
            PathKind::Udp
        };
        assert_eq!(row(&net, 0, 2).path, expected);
        assert_eq!(row(&net, 2, 0).path, expected);
        let each_way = |node| net.delivered.iter().filter(|(to, _)| *to == node).count();
        assert_eq!((each_way(0), each_way(2)), (15, 15));
    }
}

#[test]
fn udp_that_dies_is_left_within_five_seconds_and_found_again() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.run(4 * SECOND);
    net.no_udp.insert((0, 1));
    for _ in 0..50 {
        net.send(0, 1, 100);
        net.run(SECOND / 10);
    }
    assert_eq!(row(&net, 0, 1).path, PathKind::Tcp);
    net.delivered.clear();
    net.send(0, 1, 1_000);
    assert_eq!(net.delivered.len(), 1);
    net.no_udp.clear();
    net.run(4 * SECOND);
    assert_eq!(row(&net, 0, 1).path, PathKind::Udp);
}

#[test]
fn a_node_that_moves_is_found_by_what_it_sends() {
    let mut net = three();
    for _ in 0..5 {
        net.send(0, 2, 100);
        net.send(2, 0, 100);
        net.run(SECOND);
    }
    assert_eq!(row(&net, 0, 2).path, PathKind::Udp);
    net.moved.insert(2, underlay(99));
    net.delivered.clear();
    for _ in 0..400 {
        net.send(0, 2, 100);
        net.send(2, 0, 100);
        net.run(SECOND / 100);
    }
    let endpoint = row(&net, 0, 2).route.endpoint.unwrap();
    assert_eq!(endpoint, underlay(99));
    let arrived = net.delivered.iter().filter(|(to, _)| *to == 2).count();
    assert!(arrived > 100, "{arrived} of 400 packets in 4 s");
}

/// The inner TCP becomes quiet on a dead path. That must not keep the path alive.
#[test]
fn udp_that_dies_is_left_also_when_tcp_backs_off() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.run(4 * SECOND);
    net.send(0, 1, 100);
    net.run(SECOND);
    net.no_udp.insert((0, 1));
    for pause in [2, 4, 8, 16, 32] {
        net.send(0, 1, 100);
        net.run(pause * SECOND / 10);
    }
    assert_eq!(row(&net, 0, 1).path, PathKind::Tcp);
}

/// A tincd's own reports may be older than a shrunken path, and nobody may make us accept a length
/// (T08).
#[test]
fn a_length_that_nobody_asked_about_proves_nothing() {
    let mut net = Net::new(settings(2));
    net.longest = 1280 - 28;
    net.join(0, 1);
    net.run(4 * SECOND);
    let before = row(&net, 0, 1);
    let mut report = [0; 18];
    report[..3].copy_from_slice(&[2, 0x05, 0x78]);
    let punt = Punt::Probe {
        node: net.meshes[0].nodes.find(&name(1)).unwrap(),
        from: underlay(1),
        data: Bytes::copy_from_slice(&report),
    };
    net.input(0, Input::Punt(punt));
    net.settle();
    let after = row(&net, 0, 1);
    assert_eq!(before.udp.proven_mtu, Some(1280 - 28 - 33 - 14));
    assert_eq!(after.udp.proven_mtu, before.udp.proven_mtu);
}

#[test]
fn a_path_that_shrinks_without_a_word_is_measured_anew() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.run(4 * SECOND);
    net.longest = 1280 - 28;
    for _ in 0..70 {
        net.send(0, 1, 100);
        net.run(SECOND / 10);
    }
    assert_eq!(row(&net, 0, 1).udp.proven_mtu, Some(1280 - 28 - 33 - 14));
}

#[test]
fn a_cut_link_is_told_to_everybody_and_hooks_run() {
    let mut net = three();
    assert!(net.all_reach_all());
    net.hooks.clear();
    net.part(1, 2);
    net.run(SECOND);
    assert!(!row(&net, 0, 2).up);
    assert!(
        net.meshes[0]
            .edges()
            .iter()
            .all(|edge| edge.to != "n2" && edge.from != "n2")
    );
    let down = |hook: &(u8, HookEvent)| matches!(hook, (0, HookEvent::Host { up: false, node, .. }) if *node == name(2));
    assert!(net.hooks.iter().any(down));
    net.join(2, 1);
    net.run(SECOND);
    assert!(net.all_reach_all());
}

#[test]
fn both_ends_dial_at_once_and_one_link_stays() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.join(1, 0);
    net.run(10 * SECOND);
    assert_eq!(net.wires.len(), 2);
    assert!(
        net.meshes[0].connections()[0].outgoing,
        "the lower name's stays"
    );
    assert!(net.all_reach_all());
}

#[test]
fn connect_to_dials_backs_off_and_comes_back() {
    let mut all = settings(2);
    all[0].connect_to = vec![name(1)];
    let mut net = Net::new(all);
    net.dial = false;
    net.run(30 * SECOND);
    let failure = row(&net, 0, 1).dial.failure.unwrap();
    assert_eq!(failure.fault, DialFault::Refused);
    net.dial = true;
    net.run(60 * SECOND);
    assert!(net.all_reach_all());
    net.part(0, 1);
    net.run(2 * SECOND);
    assert!(
        net.all_reach_all(),
        "a link that had worked is dialled again at once"
    );
    net.run(60 * SECOND);
    net.dial = false;
    net.part(0, 1);
    net.run(SECOND);
    net.dial = true;
    net.run(5 * SECOND);
    assert!(
        net.all_reach_all(),
        "if nobody answers yet, then after 5 s, as tinc does"
    );
}

#[test]
fn auto_connect_joins_ten_nodes_with_about_three_links_each() {
    let mut all = settings(10);
    for one in &mut all {
        one.auto_connect = true;
    }
    let mut net = Net::new(all);
    net.run(60 * SECOND);
    assert!(net.all_reach_all());
    for mesh in &net.meshes {
        assert!(
            (2..=8).contains(&mesh.status().links),
            "{}",
            mesh.status().links
        );
    }
}

/// Renews keys for 50 s under load.
fn renewals(anonymous: Option<u8>) {
    let mut all = settings(2);
    for one in &mut all {
        one.key_expire = 10 * SECOND;
    }
    let mut net = Net::new(all);
    net.anonymous = anonymous;
    net.join(0, 1);
    net.run(3 * SECOND);
    net.delivered.clear();
    for _ in 0..5_000 {
        net.send(0, 1, 100);
        net.send(1, 0, 100);
        net.run(SECOND / 100);
    }
    net.run(SECOND);
    assert_eq!(net.delivered.len(), 10_000);
}

#[test]
fn keys_are_renewed_with_nothing_lost() {
    renewals(None);
}

/// A tincd has one receiving key: towards a possible tincd, sending pauses until the tincd has
/// changed its key.
#[test]
fn sending_goes_on_after_a_tincd_has_changed_its_keys() {
    renewals(Some(1));
}

#[test]
fn a_subnet_comes_and_goes_by_reload() {
    let mut net = three();
    let mut other = settings(3).remove(0);
    other.subnets.push("10.9.0.0/16".parse().unwrap());
    net.input(0, Input::Config(Arc::new(other)));
    net.run(SECOND);
    let seen = |net: &Net| {
        net.meshes[2]
            .subnets()
            .iter()
            .any(|row| row.subnet.to_string() == "10.9.0.0/16")
    };
    assert!(seen(&net));
    assert!(net.all_reach_all(), "links stay");
    net.input(0, Input::Config(Arc::new(settings(3).remove(0))));
    net.run(SECOND);
    assert!(!seen(&net));
}

/// A node changes its key: its link ends only if the key that it may have proven is removed.
#[test]
fn a_link_ends_when_a_key_goes_and_not_when_one_comes() {
    let keys = settings(3);
    let [old, new] = [1, 2].map(|n| Some(keys[n].key.public()));
    let linked = |key, next, native: bool| {
        let mut net = three();
        for (key, next, native) in [(old, new, false), (key, next, native)] {
            let mut changed = settings(3).remove(0);
            let host = changed.hosts.get_mut(&name(1)).unwrap();
            let host = Arc::make_mut(host);
            (host.key, host.next) = (key, next);
            host.native = native.then(|| keys[2].secret.public());
            net.input(0, Input::Config(Arc::new(changed)));
            net.run(SECOND);
        }
        !net.meshes[0].connections().is_empty()
    };
    assert!(linked(old, new, false), "a next key has come");
    assert!(linked(new, old, false), "they are equals");
    assert!(!linked(old, None, false));
    assert!(!linked(new, None, false), "it may have proven the old one");
    assert!(!linked(old, new, true), "its native key is another");
    assert!(!linked(None, None, false));
}

/// A node that lost all its links brings back no stale edges.
#[test]
fn the_last_link_takes_with_it_what_only_others_could_tell() {
    let mut net = three();
    net.part(0, 1);
    net.part(1, 2);
    net.run(SECOND);
    assert!(net.meshes[0].edges().is_empty());
    let subnets = net.meshes[0].subnets();
    let of_others = subnets
        .iter()
        .filter(|row| row.owner.as_deref().is_some_and(|owner| owner != "n0"));
    assert_eq!(
        of_others.filter(|row| !row.reachable).count(),
        2,
        "unreachable, not unknown"
    );
    net.join(0, 1);
    net.run(SECOND);
    assert!(row(&net, 0, 1).up && !row(&net, 0, 2).up);
}

/// Graph work is done once per batch of input, never per line.
#[test]
fn the_graph_is_computed_once_per_batch() {
    let mut net = three();
    let before = net.meshes[1].status().graph_runs;
    let (_, (node, link)) = net
        .wires
        .iter()
        .find(|((from, _), (to, _))| (*from, *to) == (2, 1))
        .map(|(a, b)| (*a, *b))
        .unwrap();
    for n in 0..200 {
        let line = format!("12 {n:x} p{n} n2 192.0.2.1 655 700000c 1");
        net.input(
            node,
            Input::Link(LinkReport::Line {
                link,
                line: line.into(),
            }),
        );
    }
    net.settle();
    assert!(net.meshes[1].status().graph_runs <= before + 2);
}

/// Under a change each millisecond, nine publications come at once, and then one every 10 ms with the newest routes.
#[test]
fn many_changes_share_a_publication() {
    let mut net = Net::new(settings(2));
    net.join(0, 1);
    net.run(SECOND);
    let (start, link) = (net.now, *net.link_of(0, 1));
    let mesh = &mut net.meshes[0];
    let mut published = Vec::new();
    for at in 0..120_u8 {
        let now = start + Duration::from_millis(at.into());
        mesh.handle(Input::Timeout, now);
        if at < 100 {
            let line = format!("10 {at:x} n1 10.1.{at}.0/24").into();
            mesh.handle(Input::Link(LinkReport::Line { link, line }), now);
        }
        mesh.settle_all(now);
        while let Some(output) = mesh.poll_output() {
            if let Output::Publish(snapshot) = output {
                published.push(snapshot);
            }
        }
    }
    assert!((15..=22).contains(&published.len()), "{}", published.len());
    let newest = Ipv4Addr::new(10, 1, 99, 1).to_bits();
    assert!(published.pop().unwrap().v4.lookup(newest).is_some());
}

/// Keys of all pairs would cost a large mesh a handshake for each pair, though nobody sends.
#[test]
fn an_idle_mesh_has_keys_of_neighbours_only() {
    let mut net = Net::new(settings(3));
    net.join(0, 1);
    net.join(1, 2);
    net.run(5 * SECOND);
    assert!(net.all_reach_all());
    for (node, other, neighbour) in [(0, 1, true), (0, 2, false), (2, 0, false), (2, 1, true)] {
        let mesh = &net.meshes[node];
        let idx = mesh.nodes.find(&name(other)).unwrap();
        assert_eq!(mesh.sessions[idx].is_established(), neighbour, "{node}");
    }
}
