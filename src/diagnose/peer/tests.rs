use std::time::Duration;

use meshd_crypto::{PrivateKey, Rng};
use meshd_proto::{
    dialect::Dialect,
    mesh::reports::facts::{
        DialFacts, DialFault, FailedDial, RouteFacts, Traffic, TunnelFacts, UdpFacts,
    },
};
use meshd_wire::NodeName;

use super::*;
use crate::Severity;

/// A node in order.
fn node() -> NodeFacts {
    NodeFacts {
        name: NodeName::new("db").unwrap(),
        subnets: Vec::new(),
        up: true,
        path: PathKind::Udp,
        since: None,
        link: Some(Dialect::Native),
        route: RouteFacts::default(),
        tunnel: TunnelFacts {
            protocol: Some(Dialect::Native),
            established: true,
            ..TunnelFacts::default()
        },
        udp: UdpFacts::default(),
        traffic: Traffic::default(),
        host: HostFacts {
            file: HostFile::Key,
            has_address: true,
            sptps_here: true,
            ..HostFacts::default()
        },
        dial: DialFacts::default(),
    }
}

fn with(change: impl FnOnce(&mut NodeFacts)) -> NodeFacts {
    let mut node = node();
    change(&mut node);
    node
}

fn legacy(change: impl FnOnce(&mut NodeFacts)) -> NodeFacts {
    with(|node| {
        node.tunnel.legacy = true;
        change(node);
    })
}

fn down(change: impl FnOnce(&mut NodeFacts)) -> NodeFacts {
    with(|node| {
        node.up = false;
        node.path = PathKind::Down;
        change(node);
    })
}

fn over_tcp(change: impl FnOnce(&mut NodeFacts)) -> NodeFacts {
    with(|node| {
        node.path = PathKind::Tcp;
        change(node);
    })
}

fn refused() -> Option<FailedDial> {
    Some(FailedDial {
        fault: DialFault::Refused,
        error: "10.0.0.1:655: refused".into(),
        ago: Duration::ZERO,
    })
}

/// Facts, the code, and a part of the text.
#[rustfmt::skip]
fn cases() -> Vec<(NodeFacts, Code, &'static str)> {
    let key = PrivateKey::generate(&mut Rng::new([5; 32])).public();
    let no_key = |node: &mut NodeFacts| node.host.file = HostFile::NoKey;
    vec![
        (with(|n| n.host.shut_out = Some("expired".into())), Code::ShutOut, "expired (hosts/db)"),
        (with(no_key), Code::NoKey, "no Ed25519PublicKey in hosts/db"),
        (with(|n| { no_key(n); n.host.bad_key = Some("length".into()); }), Code::NoKey, "cannot be read (length): mend the line"),
        (with(|n| { no_key(n); n.host.received_key = Some(key); }), Code::NoKey, "it is `Ed25519PublicKey = "),
        (down(|n| n.dial.failure = refused()), Code::CannotConnect, "10.0.0.1:655: refused"),
        (down(|n| n.host.has_address = false), Code::NoAddress, "no Address in hosts/db, and no node reaches it"),
        (down(|_| ()), Code::NoPath, "no node reaches it"),
        (legacy(|n| n.tunnel.suite_refused = Some("aes-256-ctr is not used".into())), Code::LegacyCipher, "aes-256-ctr is not used: packets go over TCP"),
        (legacy(|n| n.host.sptps_here = false), Code::Legacy, "we speak nothing but legacy"),
        (legacy(|n| n.host.file = HostFile::Missing), Code::Legacy, "there is no hosts/db"),
        (legacy(no_key), Code::Legacy, "legacy: no Ed25519PublicKey"),
        (legacy(|_| ()), Code::Legacy, "MinProtocol = legacy allows it"),
        (with(|n| n.udp.mtu_too_small = true), Code::MtuTooSmall, "short packets only"),
        (over_tcp(|n| n.route.tcp_only_here = true), Code::TcpOnly, "TCPOnly is set"),
        (over_tcp(|n| n.route.tcp_only_there = true), Code::TcpOnly, "TCPOnly is set"),
        (over_tcp(|n| n.route.indirect = true), Code::Indirect, "IndirectData is set"),
        (over_tcp(|n| { n.tunnel.established = false; n.tunnel.handshake = true; }), Code::Handshake, "tunnel handshake"),
        (over_tcp(|n| n.tunnel.established = false), Code::Idle, "no tunnel yet"),
        (over_tcp(|_| ()), Code::Idle, "nothing was sent lately"),
        (over_tcp(|n| n.udp.unanswered = 9), Code::UdpNoReply, "9 UDP probes unanswered"),
    ]
}

/// Findings of every case.
pub(crate) fn all() -> Vec<Finding> {
    let cases = cases();
    let found = cases.iter().filter_map(|(node, ..)| find(node));
    found.chain([legacy_link(&legacy(|_| ()))]).collect()
}

#[test]
fn each_fault_of_a_path_has_its_code_and_sentence() {
    for (node, code, part) in cases() {
        let found = find(&node).unwrap();
        assert_eq!(found.code, code, "{found:?}");
        assert!(found.text.contains(part), "{found:?}");
        let reason = reason(&node).unwrap();
        assert_eq!((reason.code, reason.text), (code.word(), found.text));
    }
    assert_eq!(find(&node()), None);
}

#[test]
fn lines_of_the_log_name_the_reason_and_the_key() {
    let link = legacy_link(&legacy(|_| ()));
    let text = "legacy link: protects against outsiders only (legacy: it offers no more, and MinProtocol = legacy allows it)";
    assert_eq!(
        (link.severity, link.text.as_str()),
        (Severity::Warning, text)
    );
    let key = PrivateKey::generate(&mut Rng::new([5; 32])).public();
    let sent = key_sent(&with(|node| {
        node.host.file = HostFile::NoKey;
        node.host.received_key = Some(key);
    }));
    assert!(sent.text.contains(&format!("`Ed25519PublicKey = {key}`")));
}
