//! Router mode: the decision on one IP packet.
//!
//! Source: config/tinc.md section 6.4, which gives the order of checks. Packets arrive without an
//! Ethernet header (a TUN device); MTUs include its 14 bytes all the same.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use meshd_sync::Guard;
use meshd_wire::{
    Options,
    icmp::{self, Unreachable},
    ip::{self, Packet},
    neighbour::is_for_own_wire,
};

use crate::route::{
    DropReason, ETHER, Forwarding, MTU, NodeSlot, NodeState, RouteSnapshot,
    lpm::Owner,
    source::is_foreign,
    verdict::{Stop, Verdict},
};

/// Type of service or traffic class of an inner packet, for PriorityInheritance; 0 for other
/// packets.
#[must_use]
pub fn priority(packet: &[u8]) -> u8 {
    Packet::parse(packet).map_or(0, |packet| packet.traffic_class())
}

/// Decides on one IP packet of `source`. May change TTL and MSS in place.
#[inline]
pub(super) fn route(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    source: NodeSlot,
) -> Result<Verdict, Stop> {
    let me = snapshot.me;
    let settings = &snapshot.settings;
    if settings.forwarding == Forwarding::Kernel && source != me {
        // The kernel decides on every other packet.
        return match parse(bytes).is_ok_and(|packet| is_foreign(snapshot, &packet, source)) {
            true => Err(Stop::Drop(DropReason::ForeignSource)),
            false => Ok(Verdict::Local),
        };
    }
    let Some((owner, state)) = owner_of(snapshot, &parse(bytes)?, source)? else {
        return broadcast(snapshot, bytes, source);
    };
    if is_foreign(snapshot, &parse(bytes)?, source) {
        return Err(Stop::Drop(DropReason::ForeignSource));
    }
    if source != me && owner != me {
        if settings.forwarding == Forwarding::Off {
            return Err(Stop::unreachable(&parse(bytes)?, Unreachable::Prohibited));
        }
        decrement_ttl(snapshot, bytes)?;
    }

    let packet = parse(bytes)?;
    let next = next_of(snapshot, &state);
    if next == source {
        return Err(Stop::Drop(DropReason::RoutingLoop));
    }
    if settings.direct_only && next != owner {
        return Err(Stop::unreachable(&packet, Unreachable::Prohibited));
    }
    let Some(next_state) = snapshot.state(next) else {
        return Err(Stop::unreachable(&packet, Unreachable::Owner));
    };
    let next_mtu = next_mtu(snapshot, (owner, &state), (next, &next_state));
    let limit = next_mtu.max(if packet.is_v6() { LIMIT_V6 } else { LIMIT_V4 });
    if next != me && bytes.len() + ETHER > limit.into() {
        return too_long(&packet, owner, limit - ETHER as u16);
    }
    if next_state.options.has(Options::CLAMP_MSS) {
        let mtu = next_mtu.min(mtu_of(snapshot, source));
        ip::clamp_mss(bytes, mtu.saturating_sub(ETHER as u16));
    }
    Ok(if owner == me {
        Verdict::Local
    } else {
        Verdict::Send(owner)
    })
}

/// Lower bound of an IPv4 path MTU in routing, in bytes with the Ethernet header.
const LIMIT_V4: u16 = 576 + ETHER as u16;
/// Lower bound of an IPv6 path MTU in routing, in bytes with the Ethernet header.
const LIMIT_V6: u16 = 1280 + ETHER as u16;

pub(super) fn parse(bytes: &[u8]) -> Result<Packet<'_>, Stop> {
    Packet::parse(bytes).ok_or(Stop::Drop(DropReason::Malformed))
}

type State = Guard<Arc<NodeState>>;

/// Returns the reachable owner of the packet's destination, `None` for a broadcast.
fn owner_of(
    snapshot: &RouteSnapshot,
    packet: &Packet<'_>,
    source: NodeSlot,
) -> Result<Option<(NodeSlot, State)>, Stop> {
    let owner = match packet.destination() {
        IpAddr::V4(addr) => snapshot.v4.lookup(addr.to_bits()),
        IpAddr::V6(addr) => snapshot.v6.lookup(addr.to_bits()),
    };
    let owner = match owner {
        None => return Err(Stop::unreachable(packet, Unreachable::Unknown)),
        Some(Owner::Broadcast) => return Ok(None),
        Some(Owner::Node(owner) | Owner::Unreachable(owner)) if owner == source => {
            return Err(Stop::Drop(DropReason::LoopingBack));
        }
        Some(Owner::Unreachable(_)) => None,
        // The state may be newer than the table.
        Some(Owner::Node(owner)) => snapshot.state(owner).map(|state| (owner, state)),
    };
    owner
        .filter(|(_, state)| state.reachable)
        .ok_or_else(|| Stop::unreachable(packet, Unreachable::Owner))
        .map(Some)
}

fn broadcast(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    source: NodeSlot,
) -> Result<Verdict, Stop> {
    match source != snapshot.me {
        true => decrement_ttl(snapshot, bytes)?,
        // There is no router at the other end of a tunnel, and members get all multicast without a
        // report.
        false if is_for_own_wire(&parse(bytes)?) => return Err(Stop::Drop(DropReason::OwnWire)),
        false => {}
    }
    snapshot.broadcast_of(source)
}

/// Applies DecrementTTL to a packet in transit.
pub(super) fn decrement_ttl(snapshot: &RouteSnapshot, bytes: &mut [u8]) -> Result<(), Stop> {
    if !snapshot.settings.decrement_ttl || ip::decrement_ttl(bytes) {
        return Ok(());
    }
    let packet = parse(bytes)?;
    let us = Owner::Node(snapshot.me);
    let source = match packet.is_v6() {
        false => snapshot
            .v4
            .host_of(us)
            .map(|a| Ipv4Addr::from_bits(a).into()),
        true => snapshot
            .v6
            .host_of(us)
            .map(|a| Ipv6Addr::from_bits(a).into()),
    };
    Err(Stop::Error(icmp::time_exceeded(&packet, source)))
}

/// Returns the next node for packets to a node with this state.
pub(super) fn next_of(snapshot: &RouteSnapshot, state: &NodeState) -> NodeSlot {
    match state.via == snapshot.me {
        true => state.nexthop,
        false => state.via,
    }
}

/// Returns the longest packet to `owner` via `next`, in bytes with the Ethernet header.
pub(super) fn next_mtu(
    snapshot: &RouteSnapshot,
    (owner, state): (NodeSlot, &NodeState),
    (next, next_state): (NodeSlot, &NodeState),
) -> u16 {
    match next {
        next if next == snapshot.me => MTU,
        _ => {
            let mode = snapshot.settings.mode;
            mode.tunnel_mtu(state.dialect, next_state.mtu, next == owner)
        }
    }
}

/// Returns the MTU of a node, in bytes with the Ethernet header; for this node the longest frame.
pub(super) fn mtu_of(snapshot: &RouteSnapshot, node: NodeSlot) -> u16 {
    match node != snapshot.me {
        true => snapshot.state(node).map_or(MTU, |state| state.mtu),
        false => MTU,
    }
}

/// Handles a packet that is too long for a path of `mtu` bytes (without Ethernet header).
pub(super) fn too_long(packet: &Packet<'_>, owner: NodeSlot, mtu: u16) -> Result<Verdict, Stop> {
    if packet.dont_fragment() {
        return Err(Stop::Error(icmp::too_big(packet, mtu)));
    }
    let pieces = ip::fragment(packet.bytes(), mtu);
    let pieces = pieces.ok_or(Stop::Drop(DropReason::Malformed))?;
    Ok(Verdict::Fragments(owner, pieces))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::route::{
        Broadcast,
        testing::{B, C, D, ME, change, five, now},
        verdict::{ErrorLimiter, decide},
    };
    use meshd_wire::testing::{fix_payload, sums_are_right, tcp, v4, v6};

    /// This node is a, with links to b and c; d is behind c; e is down.
    fn net() -> RouteSnapshot {
        five([
            ("10.0.0.0/24", Owner::Node(ME)),
            ("10.0.0.1", Owner::Node(ME)),
            ("10.1.0.0/24", Owner::Node(B)),
            ("10.2.0.0/24", Owner::Node(C)),
            ("10.3.0.0/24", Owner::Node(D)),
            ("10.4.0.0/24", Owner::Unreachable(NodeSlot(4))),
            ("224.0.0.0/4", Owner::Broadcast),
            ("fd00::/64", Owner::Node(ME)),
            ("fd00:0:0:1::/64", Owner::Node(B)),
            ("fd00:0:0:2::/64", Owner::Node(C)),
            ("fd00:0:0:3::/64", Owner::Node(D)),
            ("fd00:0:0:4::/64", Owner::Unreachable(NodeSlot(4))),
            ("ff00::/8", Owner::Broadcast),
        ])
    }

    /// A packet from one of a to e (0 to 4; 9: an unowned address) to another.
    fn from_to(from: u8, to: u8, length: usize) -> [Vec<u8>; 2] {
        let four = |node| format!("10.{node}.0.1");
        let six = |node| format!("fd00:0:0:{node}::1");
        [
            v4(&four(from), &four(to), 17, &vec![0; length - 20]),
            v6(&six(from), &six(to), 17, &vec![0; length - 40]),
        ]
    }

    fn ask(snapshot: &RouteSnapshot, packet: &[u8], source: NodeSlot) -> Verdict {
        decide(
            snapshot,
            &mut packet.to_vec(),
            source,
            &mut ErrorLimiter::default(),
            now(),
        )
    }

    /// Returns type and code of the ICMP error.
    fn error(verdict: &Verdict) -> [u8; 2] {
        let Verdict::Reply(reply) = verdict else {
            panic!("no error: {verdict:?}");
        };
        assert!(sums_are_right(reply));
        let at = Packet::parse(reply).unwrap().payload_offset().unwrap();
        [reply[at], reply[at + 1]]
    }

    #[test]
    fn packets_go_to_the_owner_and_ours_to_the_device() {
        let s = net();
        for packet in from_to(0, 3, 100) {
            assert_eq!(ask(&s, &packet, ME), Verdict::Send(D));
        }
        for packet in from_to(3, 0, 100) {
            assert_eq!(ask(&s, &packet, D), Verdict::Local);
        }
        for packet in from_to(1, 2, 100) {
            assert_eq!(ask(&s, &packet, B), Verdict::Send(C));
        }
    }

    #[test]
    fn malformed_packets_are_dropped() {
        let s = net();
        for packet in from_to(1, 2, 40) {
            let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
            for packet in [&packet[..header - 1], &[], &[0x50; 60]] {
                assert_eq!(ask(&s, packet, B), Verdict::Drop(DropReason::Malformed));
            }
        }
    }

    #[test]
    fn errors_of_unicast() {
        let mut s = net();
        let errors = |s: &RouteSnapshot, from, to, source| {
            from_to(from, to, 100).map(|packet| error(&ask(s, &packet, source)))
        };
        assert_eq!(errors(&s, 0, 9, ME), [[3, 6], [1, 3]]);
        assert_eq!(errors(&s, 1, 4, B), [[3, 0], [1, 0]]);
        change(&s, D, |d| d.reachable = false);
        assert_eq!(errors(&s, 1, 3, B), [[3, 0], [1, 0]]);

        s = net();
        s.settings.forwarding = Forwarding::Off;
        assert_eq!(errors(&s, 1, 2, B), [[3, 9], [1, 1]]);
        assert_eq!(ask(&s, &from_to(0, 2, 100)[0], ME), Verdict::Send(C));
        assert_eq!(ask(&s, &from_to(1, 0, 100)[0], B), Verdict::Local);

        s = net();
        s.settings.direct_only = true;
        assert_eq!(ask(&s, &from_to(0, 3, 100)[0], ME), Verdict::Send(D));
        change(&s, D, |d| d.via = C);
        assert_eq!(errors(&s, 0, 3, ME), [[3, 9], [1, 1]]);
        change(&s, D, |d| d.via = ME);
        assert_eq!(errors(&s, 0, 3, ME), [[3, 9], [1, 1]]);
        assert_eq!(ask(&s, &from_to(1, 0, 100)[0], B), Verdict::Local);
    }

    #[test]
    fn packets_do_not_go_back_to_where_they_came_from() {
        let s = net();
        for packet in from_to(2, 2, 100) {
            let verdict = ask(&s, &packet, C);
            assert_eq!(verdict, Verdict::Drop(DropReason::LoopingBack));
        }
        for packet in from_to(0, 0, 100) {
            let verdict = ask(&s, &packet, ME);
            assert_eq!(verdict, Verdict::Drop(DropReason::LoopingBack));
        }
        change(&s, D, |d| d.via = C);
        for packet in from_to(2, 3, 100) {
            let verdict = ask(&s, &packet, C);
            assert_eq!(verdict, Verdict::Drop(DropReason::RoutingLoop));
        }
    }

    #[test]
    fn kernel_forwarding_hands_everything_over_unread() {
        let mut s = net();
        s.settings.forwarding = Forwarding::Kernel;
        let broadcast = v4("10.1.0.1", "224.0.0.1", 17, &[]);
        for packet in [
            &from_to(1, 2, 100)[0][..],
            &from_to(1, 9, 100)[0],
            &broadcast,
            b"?",
        ] {
            assert_eq!(ask(&s, packet, B), Verdict::Local);
        }
        assert_eq!(ask(&s, &from_to(0, 2, 100)[0], ME), Verdict::Send(C));
    }

    #[test]
    fn ttl_counts_in_transit_only() {
        let mut s = net();
        s.settings.decrement_ttl = true;
        let group = v4("10.1.0.1", "224.0.0.1", 17, &[0; 8]);
        for (packet, source, left) in [
            (&from_to(1, 2, 100)[0], B, 63),
            (&from_to(1, 2, 100)[1], B, 63),
            (&from_to(0, 2, 100)[0], ME, 64),
            (&from_to(1, 0, 100)[0], B, 64),
            (&group, B, 63),
            (&group, ME, 64),
        ] {
            let mut packet = packet.clone();
            decide(&s, &mut packet, source, &mut ErrorLimiter::default(), now());
            assert_eq!(Packet::parse(&packet).unwrap().ttl(), left);
        }

        let [mut four, mut six] = from_to(1, 2, 100);
        (four[8], six[7]) = (1, 1);
        let reply = ask(&s, &four, B);
        assert_eq!(error(&reply), [11, 0]);
        let Verdict::Reply(reply) = reply else {
            unreachable!()
        };
        // 10.0.0.1 is announced as a single address, but no IPv6 address is.
        assert_eq!(
            Packet::parse(&reply).unwrap().source().to_string(),
            "10.0.0.1"
        );
        let reply = ask(&s, &six, B);
        assert_eq!(error(&reply), [3, 0]);
        let Verdict::Reply(reply) = reply else {
            unreachable!()
        };
        assert_eq!(
            Packet::parse(&reply).unwrap().source().to_string(),
            "fd00:0:0:2::1"
        );
    }

    #[test]
    fn long_packets_are_cut_or_refused() {
        let s = net();
        change(&s, C, |c| c.mtu = 1451);
        let [mut four, _] = from_to(1, 2, 1438);
        let Verdict::Fragments(C, pieces) = ask(&s, &four, B) else {
            panic!("not cut");
        };
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1436, 22]);
        four[6] |= 0x40;
        let refused = ask(&s, &four, B);
        assert_eq!(error(&refused), [3, 4]);
        let Verdict::Reply(reply) = refused else {
            unreachable!()
        };
        assert_eq!(reply[26..28], 1437_u16.to_be_bytes());
        assert_eq!(ask(&s, &from_to(1, 2, 1437)[0], B), Verdict::Send(C));

        let [_, six] = from_to(1, 2, 1438);
        let refused = ask(&s, &six, B);
        assert_eq!(error(&refused), [2, 0]);
        let Verdict::Reply(reply) = refused else {
            unreachable!()
        };
        assert_eq!(reply[46..48], 1437_u16.to_be_bytes());
        assert_eq!(ask(&s, &from_to(1, 2, 1437)[1], B), Verdict::Send(C));

        // A packet for this node has arrived whole, so its length does not matter. No path MTU
        // counts as less than the minimum.
        assert_eq!(ask(&s, &from_to(1, 0, 1600)[0], B), Verdict::Local);
        change(&s, C, |c| c.mtu = 0);
        assert_eq!(ask(&s, &from_to(1, 2, 576)[0], B), Verdict::Send(C));
        assert_eq!(ask(&s, &from_to(1, 2, 1280)[1], B), Verdict::Send(C));
        assert_eq!(error(&ask(&s, &from_to(1, 2, 1281)[1], B)), [2, 0]);
    }

    #[test]
    fn the_narrower_of_both_ends_bounds_the_mss() {
        let s = net();
        change(&s, B, |b| b.mtu = 1000);
        for (from, to, source, mss) in [
            (0, 1, ME, 946),
            (1, 0, B, 946),
            (1, 2, B, 946),
            (0, 2, ME, 1346),
        ] {
            let mut packet = v4(
                &format!("10.{from}.0.1"),
                &format!("10.{to}.0.1"),
                6,
                &tcp(&[2, 4, 0x05, 0xb4]),
            );
            fix_payload(&mut packet, 16);
            let mut unclamped = packet.clone();
            decide(&s, &mut packet, source, &mut ErrorLimiter::default(), now());
            assert_eq!(packet[42..44], u16::to_be_bytes(mss), "{from} {to}");
            assert!(sums_are_right(&packet));

            let owner = NodeSlot(to);
            change(&s, owner, |o| o.options.0 &= !Options::CLAMP_MSS);
            decide(
                &s,
                &mut unclamped,
                source,
                &mut ErrorLimiter::default(),
                now(),
            );
            assert_eq!(unclamped[42..44], u16::to_be_bytes(1460));
            change(&s, owner, |o| o.options.0 |= Options::CLAMP_MSS);
        }
    }

    #[test]
    fn broadcasts_are_spread_unless_ours_go_nowhere() {
        let mut s = net();
        let packets = [
            v4("10.0.0.1", "224.0.0.1", 17, &[0; 8]),
            v6("fd00::1", "ff02::1", 17, &[0; 8]),
        ];
        for packet in &packets {
            assert_eq!(ask(&s, packet, ME), Verdict::Broadcast);
            let copy = Verdict::Drop(DropReason::Repeated);
            assert_eq!(ask(&s, packet, B), copy, "it is ours");
        }
        s.recent = Arc::default();
        for packet in &packets {
            assert_eq!(ask(&s, packet, B), Verdict::Broadcast);
        }
        // Messages of systems to their own wire stay there; another node may forward them.
        for packet in [
            v4("10.0.0.1", "224.0.0.22", 2, &[0x22, 0, 0, 0]),
            v6("fe80::1", "ff02::2", 58, &[133, 0, 0, 0]),
        ] {
            let own = Verdict::Drop(DropReason::OwnWire);
            assert_eq!(ask(&s, &packet, ME), own);
            assert_eq!(ask(&s, &packet, B), Verdict::Broadcast);
        }
        s.settings.broadcast = Broadcast::No;
        s.recent = Arc::default();
        for packet in &packets {
            let verdict = ask(&s, packet, ME);
            assert_eq!(verdict, Verdict::Drop(DropReason::NoBroadcast));
            assert_eq!(ask(&s, packet, B), Verdict::Broadcast);
        }
    }

    #[test]
    fn three_errors_a_second() {
        let (s, start) = (net(), now());
        let mut limiter = ErrorLimiter::default();
        let mut replies = |millis| {
            let now = start + Duration::from_millis(millis);
            let packets = [from_to(0, 9, 100), from_to(0, 9, 100), from_to(0, 9, 100)];
            let verdicts = packets.into_iter().flatten();
            let verdicts = verdicts.map(|mut p| decide(&s, &mut p, ME, &mut limiter, now));
            verdicts.filter(|v| matches!(v, Verdict::Reply(_))).count()
        };
        assert_eq!(replies(0), 3);
        assert_eq!(replies(999), 0);
        assert_eq!(replies(1000), 3);
    }

    #[test]
    fn errors_are_not_answered() {
        let s = net();
        let packet = v4("10.0.0.1", "10.9.0.1", 1, &[3, 1, 0, 0]);
        let verdict = ask(&s, &packet, ME);
        assert_eq!(verdict, Verdict::Drop(DropReason::ErrorLimit));
    }

    #[test]
    fn priority_is_that_of_the_inner_packet() {
        let [four, six] = from_to(0, 1, 100);
        assert_eq!(
            [priority(&four), priority(&six), priority(b"")],
            [0xb8, 0xb8, 0]
        );
    }

    proptest! {
        #[test]
        fn no_packet_panics(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            source in 0..6_u32,
            switches: [bool; 3],
            to in 0..6_u8,
        ) {
            let mut s = net();
            (s.settings.decrement_ttl, s.settings.direct_only) = (switches[0], switches[1]);
            if let Some(first) = bytes.first_mut() {
                *first = *first & 15 | if switches[2] { 0x40 } else { 0x60 };
            }
            if bytes.len() > 40 && switches[2] {
                bytes[16..20].copy_from_slice(&[10, to, 0, 1]);
            }
            decide(&s, &mut bytes, NodeSlot(source), &mut ErrorLimiter::default(), now());
        }
    }
}
