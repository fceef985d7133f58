//! Single frames.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use meshd_wire::testing::{fix_payload, sums_are_right, tcp, v4, v6};

use crate::route::{
    Broadcast,
    testing::{B, C, D, ME, change, five, now},
    verdict::{ErrorLimiter, decide},
};

const ALL: Mac = [0xff; 6];
const TAG: [u8; 4] = [0x81, 0, 0, 7];

/// The address of the only host behind a node (9: unowned).
const fn host(node: u8) -> Mac {
    [2, 0, 0, 0, 0, node]
}

/// This node is a, with links to b and c; d is behind c; e is down.
fn net() -> RouteSnapshot {
    let mut s = five([]);
    s.settings.mode = Mode::Switch;
    s.broadcast = vec![B, C];
    let entries = (0..5).map(|owner| MacEntry {
        mac: host(owner),
        owner: NodeSlot(owner.into()),
        sighting: (owner == 0).then(Arc::default),
    });
    s.macs = MacTable::new(entries.collect());
    s
}

fn frame(from: Mac, to: Mac, tag: &[u8], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, tag, &ether_type.to_be_bytes(), payload].concat()
}

/// An IP packet in a frame from behind one node to behind another.
fn ip_frame(from: u8, to: u8, tag: &[u8], packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame(host(from), host(to), tag, ether_type, packet)
}

fn ask(snapshot: &RouteSnapshot, frame: &[u8], source: NodeSlot) -> (Verdict, Vec<u8>) {
    let (mut frame, mut limiter) = (frame.to_vec(), ErrorLimiter::default());
    let verdict = decide(snapshot, &mut frame, source, &mut limiter, now());
    (verdict, frame)
}

fn verdict(snapshot: &RouteSnapshot, frame: &[u8], source: NodeSlot) -> Verdict {
    ask(snapshot, frame, source).0
}

#[test]
fn frames_go_to_whoever_has_the_address_or_to_all() {
    let mut s = net();
    let to = |to| frame(host(0), to, &TAG, 0x88b5, &[0; 50]);
    for (mac, expected) in [
        (host(1), Verdict::Send(B)),
        (host(3), Verdict::Send(D)),
        (host(0), Verdict::Drop(DropReason::LoopingBack)),
        (host(4), Verdict::Broadcast),
        (host(9), Verdict::Broadcast),
        (ALL, Verdict::Broadcast),
        ([0x33, 0x33, 0, 0, 0, 1], Verdict::Broadcast),
    ] {
        assert_eq!(verdict(&s, &to(mac), ME), expected, "{mac:02x?}");
    }
    assert_eq!(verdict(&s, &to(host(0)), B), Verdict::Local);
    let ours = Verdict::Drop(DropReason::RoutingLoop);
    assert_eq!(verdict(&s, &to(host(2)), B), ours, "it has been here");
    let from_b = frame(host(1), host(2), &TAG, 0x88b5, &[0; 50]);
    assert_eq!(verdict(&s, &from_b, B), Verdict::Send(C));
    let back = Verdict::Drop(DropReason::LoopingBack);
    assert_eq!(verdict(&s, &to(host(1)), B), back);
    // Frames of d arrive only via c.
    change(&s, D, |state| state.via = ME);
    let ring = Verdict::Drop(DropReason::RoutingLoop);
    assert_eq!(verdict(&s, &to(host(3)), C), ring);
    s.settings.direct_only = true;
    let forbidden = Verdict::Drop(DropReason::Prohibited);
    assert_eq!(verdict(&s, &to(host(3)), ME), forbidden);
    s.settings.forwarding = Forwarding::Off;
    assert_eq!(verdict(&s, &to(host(2)), B), forbidden);
    assert_eq!(verdict(&s, &to(host(2)), ME), Verdict::Send(C));
    s.settings.forwarding = Forwarding::Kernel;
    assert_eq!(verdict(&s, &to(host(2)), B), Verdict::Local);
    assert_eq!(verdict(&s, &to(ALL), B), Verdict::Local);

    let mut hub = net();
    hub.settings.mode = Mode::Hub;
    for mac in [host(0), host(1), ALL] {
        assert_eq!(verdict(&hub, &to(mac), ME), Verdict::Broadcast);
    }
}

#[test]
fn our_frame_to_all_is_dropped_if_it_goes_nowhere() {
    let mut s = net();
    let to_all = frame(host(0), ALL, &[], 0x0806, &[0; 28]);
    s.settings.broadcast = Broadcast::No;
    let none = Verdict::Drop(DropReason::NoBroadcast);
    assert_eq!(verdict(&s, &to_all, ME), none);
    assert_eq!(verdict(&s, &to_all, B), Verdict::Broadcast);
}

#[test]
fn what_is_too_long_is_answered_in_frames() {
    for tag in [&[][..], &TAG] {
        let s = net();
        change(&s, B, |state| state.mtu = 1000);
        let at = 14 + tag.len();
        let six = v6("fd00::1", "fd00::2", 17, &[0; 1270]);
        let four = v4("10.0.0.1", "10.0.0.2", 17, &[0; 1000]);
        let mut whole = four.clone();
        whole[6] = 0x40;
        for (packet, mtu) in [(&six, 1280), (&whole, 1000 - at)] {
            let frame = ip_frame(0, 1, tag, packet);
            let Verdict::Reply(reply) = verdict(&s, &frame, ME) else {
                panic!("no answer");
            };
            let view = Frame::parse(&reply).unwrap();
            assert_eq!((view.destination(), view.source()), (host(0), host(1)));
            assert_eq!(reply[12..at], frame[12..at]);
            assert!(sums_are_right(&reply[at..]));
            let error = Packet::parse(&reply[at..]).unwrap();
            let error = &reply[at + error.payload_offset().unwrap()..];
            assert_eq!(usize::from(u16::from_be_bytes([error[6], error[7]])), mtu);
        }
        let frame = ip_frame(0, 1, tag, &four);
        let Verdict::Fragments(B, pieces) = verdict(&s, &frame, ME) else {
            panic!("no fragments");
        };
        assert_eq!(pieces.len(), 2);
        for piece in pieces {
            assert!(piece.len() <= 1000 && piece[..at] == frame[..at]);
            assert_eq!(
                Packet::parse(&piece[at..]).unwrap().total_length(),
                piece.len() - at
            );
        }
        // Links carry frames without IP, and frames so small that every path carries them.
        let other = self::frame(host(0), host(1), tag, 0x88b5, &[0; 1400]);
        assert_eq!(verdict(&s, &other, ME), Verdict::Send(B));
        change(&s, B, |state| state.mtu = 512);
        let small = ip_frame(0, 1, tag, &v4("10.0.0.1", "10.0.0.2", 17, &[0; 560]));
        assert_eq!(verdict(&s, &small, ME), Verdict::Send(B));
        // The longest frame.
        for (length, fits) in [(1518 - at, true), (1519 - at, false)] {
            let frame = self::frame(host(0), host(1), tag, 0x88b5, &vec![0; length]);
            let refused = Verdict::Drop(DropReason::Malformed);
            assert_eq!(verdict(&s, &frame, ME) != refused, fits);
        }
    }
}

#[test]
fn tcp_is_held_down_to_what_the_way_takes() {
    let mss = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at + 42], frame[at + 43]]);
    let mut packet = v4("10.0.0.1", "10.0.0.2", 6, &tcp(&[2, 4, 0x05, 0xb4]));
    fix_payload(&mut packet, 16);
    for tag in [&[][..], &TAG] {
        let at = 14 + tag.len();
        let syn = ip_frame(0, 1, tag, &packet);
        let mut s = net();
        change(&s, B, |state| state.mtu = 1400);
        change(&s, C, |state| state.mtu = 1300);
        let clamped = |s: &RouteSnapshot, source| {
            let (_, frame) = ask(s, &syn, source);
            assert!(sums_are_right(&frame[at..]));
            usize::from(mss(&frame, at))
        };
        assert_eq!(clamped(&s, ME), 1400 - at - 40);
        // To all nodes: the least MTU of the paths.
        s.settings.mode = Mode::Hub;
        assert_eq!(clamped(&s, ME), 1300 - at - 40);
        s.broadcast = vec![B];
        assert_eq!(clamped(&s, B), 1400 - at - 40);
    }
}

#[test]
fn ip_in_transit_ages_behind_tags_too() {
    for tag in [&[][..], &TAG] {
        let mut s = net();
        s.settings.decrement_ttl = true;
        let at = 14 + tag.len();
        let mut packet = v4("10.0.0.1", "10.0.0.2", 17, &[0; 50]);
        let frame = ip_frame(1, 2, tag, &packet);
        for (source, ttl) in [(ME, 64), (B, 63)] {
            let (verdict, frame) = ask(&s, &frame, source);
            assert_eq!((verdict, frame[at + 8]), (Verdict::Send(C), ttl));
        }
        let to_all = [&ALL[..], &frame[6..]].concat();
        assert_eq!(ask(&s, &to_all, B).1[at + 8], 63);
        packet[8] = 1;
        let last = ip_frame(1, 2, tag, &packet);
        let Verdict::Reply(reply) = verdict(&s, &last, B) else {
            panic!("no answer");
        };
        assert_eq!(Frame::parse(&reply).unwrap().destination(), host(1));
        let no_ip = self::frame(host(1), host(2), tag, 0x0806, &[1; 28]);
        assert_eq!(ask(&s, &no_ip, B), (Verdict::Send(C), no_ip));
    }
}

#[test]
fn our_device_teaches_who_is_behind_it() {
    let s = net();
    let from = |mac| frame(mac, ALL, &[], 0x0806, &[0; 28]);
    assert_eq!(sight(&s, &from(host(9))), Some(host(9)));
    // An address of another node so far: it has moved.
    assert_eq!(sight(&s, &from(host(1))), Some(host(1)));
    for mac in [ALL, [0x33, 0x33, 0, 0, 0, 1], [0; 6]] {
        assert_eq!(sight(&s, &from(mac)), None);
    }
    assert_eq!(sight(&s, &from(host(9))[..13]), None);
    let seen = |s: &RouteSnapshot| s.macs.get(host(0)).unwrap().sighting.clone().unwrap();
    assert!(!seen(&s).take());
    assert_eq!(sight(&s, &from(host(0))), None);
    assert!(seen(&s).take() && !seen(&s).take());
}

proptest! {
    #[test]
    fn the_table_is_a_map_of_the_first(macs in prop::collection::vec((0..20_u8, 0..5_u32), 0..60)) {
        let entry = |(mac, owner)| MacEntry { mac: host(mac), owner: NodeSlot(owner), sighting: None };
        let table = MacTable::new(macs.iter().copied().map(entry).collect());
        let mut map = BTreeMap::new();
        for (mac, owner) in macs {
            map.entry(mac).or_insert(NodeSlot(owner));
        }
        for mac in 0..21 {
            prop_assert_eq!(table.get(host(mac)).map(|e| e.owner), map.get(&mac).copied());
        }
    }

    /// No bytes cause a panic, and no answer is longer than the longest frame.
    #[test]
    fn any_bytes_have_a_verdict(
        bytes in prop::collection::vec(any::<u8>(), 0..1600),
        (to, tag, ip) in (0..10_u8, any::<bool>(), 0..3_u8),
        source in 0..4_u32,
        hub in any::<bool>(),
    ) {
        let mut s = net();
        if hub {
            s.settings.mode = Mode::Hub;
        }
        s.settings.decrement_ttl = true;
        change(&s, B, |state| state.mtu = 900);
        let tag = if tag { &TAG[..] } else { &[] };
        let ether_type = [0x0800, 0x86dd, 0x0806][usize::from(ip)];
        let framed = frame(host(1), host(to), tag, ether_type, &bytes);
        for bytes in [&bytes, &framed] {
            match verdict(&s, bytes, NodeSlot(source)) {
                Verdict::Reply(reply) => prop_assert!(reply.len() <= MTU.into()),
                Verdict::Fragments(_, pieces) => {
                    prop_assert!(pieces.iter().all(|piece| piece.len() <= bytes.len()));
                }
                Verdict::Send(_) | Verdict::Local | Verdict::Broadcast | Verdict::Drop(_) => {}
            }
        }
    }
}
