//! Tests of copies over links and of relays on the slow path: no packet loops, and no packet goes
//! back to its sender.

use bytes::Bytes;

use meshd_wire::{KeyRequest, Request, datagram::RelayHeader};

use crate::{
    mesh::{
        Input, LinkId, LinkReport, Output, Punt,
        testing::{Net, name, packet, settings},
        topology::node::Nodes,
    },
    route::{
        Mode, NodeIdx,
        verdict::{self, ErrorLimiter, Verdict},
    },
    tunnel::SPTPS_OVERHEAD,
};

/// Four nodes in a ring without UDP. Each node takes all its links for links of the tree.
fn ring(mode: Mode) -> Net {
    let mut all = settings(4);
    for one in &mut all {
        one.route.mode = mode;
    }
    let mut net = Net::new(all);
    for a in 0..4 {
        net.no_udp.extend((0..4).map(|b| (a, b)));
    }
    for a in 0..4 {
        net.join(a, (a + 1) % 4);
    }
    for mesh in &mut net.meshes {
        let linked = mesh.nodes.iter().filter(|(_, node)| node.link.is_some());
        mesh.graph.set_tree(linked.map(|(idx, _)| idx).collect());
        assert_eq!(mesh.graph.tree().len(), 2);
        mesh.publisher.mark_dirty();
        let _ = mesh.fresh_snapshot();
    }
    net
}

/// Broadcasts a packet from the device of a node.
fn spread(net: &mut Net, from: u8, packet: &Bytes) {
    let now = net.now;
    let snapshot = net.meshes[usize::from(from)].snapshot();
    let (mut bytes, mut limiter) = (packet.to_vec(), ErrorLimiter::default());
    let verdict = verdict::decide(&snapshot, &mut bytes, snapshot.me, &mut limiter, now);
    assert_eq!(verdict, Verdict::Broadcast);
    for to in snapshot.spread_to(snapshot.me) {
        let packet = packet.clone();
        let to = snapshot.idx_of(to).unwrap();
        net.input(from, Input::Punt(Punt::Packet { to, packet }));
    }
    net.settle();
}

#[test]
fn a_broadcast_that_goes_by_links_comes_once() {
    for mode in [Mode::Router, Mode::Switch, Mode::Hub] {
        let mut net = ring(mode);
        let mut group = packet(0, 0, 100).to_vec();
        group[16..20].copy_from_slice(&[224, 0, 0, 251]);
        let sent = match mode {
            Mode::Router => group,
            _ => [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 0], &group].concat(),
        };
        for times in 1..=3 {
            let mut sent = sent.clone();
            *sent.last_mut().unwrap() = times as u8;
            spread(&mut net, 0, &sent.into());
            for node in 1..4 {
                let here = net.delivered.iter().filter(|(n, _)| *n == node);
                assert_eq!(here.count(), times, "{mode:?} n{node}");
            }
            assert!(net.delivered.iter().all(|(n, _)| *n != 0));
        }
    }
}

/// Number of datagrams and packet lines that a node sends.
fn sent(net: &mut Net, node: u8) -> usize {
    let mesh = &mut net.meshes[usize::from(node)];
    let sent = std::iter::from_fn(|| mesh.poll_output()).filter(|output| {
        let line = |line: &[u8]| line.starts_with(b"15 ");
        match output {
            Output::SendRelayed { .. } | Output::Datagram { .. } => true,
            Output::SendLine { line: text, .. } => line(text),
            _ => false,
        }
    });
    sent.count()
}

/// A datagram from a link, in either form, or from a worker is forwarded once, and never back to
/// its sender.
#[test]
fn a_relayed_datagram_passes_once_and_never_goes_back() {
    let mut net = Net::new(settings(3));
    net.join(0, 1);
    net.join(1, 2);
    let idx = |net: &Net, n| net.meshes[1].nodes.find(&name(n)).unwrap();
    let ids = [0, 2].map(|n| idx(&net, n));
    let links: Vec<LinkId> = ids
        .iter()
        .map(|idx| net.meshes[1].nodes[*idx].link.unwrap())
        .collect();
    let node_id = |net: &Net, idx: NodeIdx| net.meshes[1].nodes[idx].shared.id;
    sent(&mut net, 1);
    let mut number = 0;
    for form in ["binary", "line", "worker"] {
        // From n0 to n2: first received from n0, then received from n2, which takes us for a relay.
        for (by, passes) in [(0, 1), (1, 0)] {
            number += 1;
            let sealed = vec![number; SPTPS_OVERHEAD + 60];
            let once = |net: &mut Net| {
                let input = match form {
                    "binary" => {
                        let [from, to] = ids.map(|idx| node_id(net, idx));
                        let header = RelayHeader { to, from }.to_bytes();
                        let datagram = [&header[..], &sealed].concat().into();
                        Input::Link(LinkReport::Relayed {
                            link: links[by],
                            datagram,
                        })
                    }
                    "line" => {
                        let line = Request::ReqKey {
                            from: name(0),
                            to: name(2),
                            payload: KeyRequest::Packet(sealed.clone()),
                        };
                        Input::Link(LinkReport::Line {
                            link: links[by],
                            line: line.line(0).into(),
                        })
                    }
                    _ => Input::Punt(Punt::Relay {
                        to: ids[1],
                        from: ids[0],
                        by: ids[by],
                        datagram: sealed.clone().into(),
                    }),
                };
                net.input(1, input);
                sent(net, 1)
            };
            assert_eq!(once(&mut net), passes, "{form} by {by}");
            // The worker has checked for a repetition before.
            let again = if form == "worker" { passes } else { 0 };
            assert_eq!(once(&mut net), again, "{form} by {by}");
        }
    }
    assert_ne!(ids[0], Nodes::ME);
}
