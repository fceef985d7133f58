//! Segments and Coalescer against the naive reference and against each other.

mod acks;
mod cutting;
mod frames;

use meshd_wire::ip::finish_checksum;
use proptest::prelude::*;

use super::{
    Checksums::{Complete, Vouched},
    testing::{LINK, Parts, framed, shifted},
    *,
};

type Written = Vec<(Header, Vec<u8>)>;

fn segments<'a>(
    header: &Header,
    packet: &'a [u8],
    wanted: Checksums,
) -> Result<Segments<'a>, VnetError> {
    segments_at(0, header, packet, wanted)
}

fn segments_at<'a>(
    ip: usize,
    header: &Header,
    packet: &'a [u8],
    wanted: Checksums,
) -> Result<Segments<'a>, VnetError> {
    let mut segments = Segments::new(header, packet, ip)?;
    if wanted == Vouched {
        segments.vouch();
    }
    Ok(segments)
}

/// Returns the packets of a read.
fn cut(header: &Header, packet: &[u8], wanted: Checksums) -> Result<Vec<Vec<u8>>, VnetError> {
    cut_at(0, header, packet, wanted)
}

fn cut_at(
    ip: usize,
    header: &Header,
    packet: &[u8],
    wanted: Checksums,
) -> Result<Vec<Vec<u8>>, VnetError> {
    let mut segments = segments_at(ip, header, packet, wanted)?;
    let longest = segments.longest();
    let (mut all, mut left) = (Vec::new(), Vec::new());
    let mut out = vec![0xaa; MAX_PACKET + MAX_LINK_HEADER + 1];
    while let Some(length) = segments.next_len() {
        assert!(length <= longest);
        left.push(segments.left());
        if length > 0 {
            assert_eq!(segments.next_into(&mut out[..length - 1]), None);
        }
        assert_eq!(segments.next_into(&mut out), Some(length));
        all.push(out[..length].to_vec());
    }
    assert_eq!(segments.left(), 0);
    assert!(left.into_iter().eq((1..=all.len()).rev()));
    Ok(all)
}

/// Returns the writes to a device for these packets.
fn join(udp: bool, packets: &[(Vec<u8>, Checksums)]) -> Written {
    join_at(0, udp, packets)
}

fn join_at(ip: usize, udp: bool, packets: &[(Vec<u8>, Checksums)]) -> Written {
    let mut coalescer = Coalescer::new(udp);
    let mut written = Vec::new();
    for (packet, checksums) in packets {
        coalescer.push(packet, ip, *checksums, |h, p| {
            written.push((*h, p.to_vec()))
        });
    }
    coalescer.flush(|h, p| written.push((*h, p.to_vec())));
    assert!(coalescer.is_empty());
    written
}

fn built(packets: &[Parts], checksums: Checksums) -> Vec<(Vec<u8>, Checksums)> {
    packets.iter().map(|p| (p.build(), checksums)).collect()
}

/// Returns the packets that the kernel makes of the writes.
fn delivered(written: &Written) -> Vec<Vec<u8>> {
    let all = written.iter().map(|(header, packet)| {
        let read = Header::parse(&header.to_bytes()).unwrap();
        assert_eq!(read, *header);
        cut(&read, packet, Complete).unwrap()
    });
    all.collect::<Vec<_>>().concat()
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..200),
        (1..60_000_usize, any::<u8>()).prop_map(|(n, x)| (0..n).map(|i| x ^ i as u8).collect()),
    ]
}

fn words(max: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..=max).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4))
}

prop_compose! {
    /// A packet that may be cut.
    fn parts()(
        (v6, udp, df) in any::<(bool, bool, bool)>(),
        (class, ttl, id, window) in any::<(u8, u8, u16, u16)>(),
        (seq, ack) in any::<(u32, u32)>(),
        flags in prop::sample::select(vec![0x10, 0x18, 0x11, 0x19, 0x90, 0x98, 0x50, 0xd0]),
        options in words(10),
        payload in payload(),
    ) -> Parts {
        Parts {
            v6, udp, df, class, ttl, id, seq, ack, window, flags, payload,
            options: if udp { Vec::new() } else { options },
            ..Parts::default()
        }
    }
}

prop_compose! {
    /// A packet and the size at which it is cut, at most 64 pieces.
    fn cuts()(parts in parts(), size in 1..2000_usize) -> (Parts, usize) {
        let size = size.max(parts.payload.len().div_ceil(64));
        (parts, size)
    }
}

proptest! {
    #[test]
    fn a_super_packet_is_cut_as_the_reference_does(
        (parts, size) in cuts(),
        ip_options in words(10),
        link in prop::sample::select(LINK.to_vec()),
    ) {
        let parts = Parts { ip_options, ..parts };
        let (header, packet) = parts.unfinished(size);
        let (header, packet) = (shifted(link, header), framed(link, &packet));
        let want: Vec<_> = parts.cut(size).iter().map(|p| framed(link, &p.build())).collect();
        prop_assert_eq!(cut_at(link.len(), &header, &packet, Complete).unwrap(), want);
    }

    #[test]
    fn a_vouched_packet_can_be_finished(parts in parts(), ip_options in words(10)) {
        let parts = Parts { ip_options, ..parts };
        let (_, mut packet) = parts.unfinished(MAX_PACKET);
        finish_checksum(&mut packet);
        prop_assert_eq!(&packet, &parts.build());
        finish_checksum(&mut packet);
        prop_assert_eq!(packet, parts.build());
    }

    #[test]
    fn vouched_segments_are_finished_by_whoever_delivers_them((parts, size) in cuts()) {
        let (header, packet) = parts.unfinished(size);
        let segments = segments(&header, &packet, Vouched).unwrap();
        prop_assert_eq!(segments.checksums(), Vouched);
        let mut got = Vec::new();
        let pieces = cut(&header, &packet, Vouched).unwrap();
        for piece in pieces {
            got.extend(delivered(&join(true, &[(piece, Vouched)])));
        }
        let want: Vec<_> = parts.cut(size).iter().map(Parts::build).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn what_was_cut_is_joined_again(
        (parts, size) in cuts(),
        vouched in any::<bool>(),
        link in prop::sample::select(LINK.to_vec()),
    ) {
        // A frame is no longer than the longest packet.
        let mut parts = parts;
        parts.payload.truncate(60_000 - link.len());
        let (header, packet) = parts.unfinished(size);
        let (header, packet) = (shifted(link, header), framed(link, &packet));
        let wanted = if vouched { Vouched } else { Complete };
        let pieces = cut_at(link.len(), &header, &packet, wanted).unwrap();
        let alone = pieces.len() == 1;
        let pieces: Vec<_> = pieces.into_iter().map(|piece| (piece, wanted)).collect();
        let written = join_at(link.len(), true, &pieces);
        if alone && !vouched {
            prop_assert_eq!(written, vec![(Header::default(), framed(link, &parts.build()))]);
        } else {
            prop_assert_eq!(written, vec![(header, packet)]);
        }
    }

    /// Several mixed flows, with damaged and odd packets between: the packets of each flow leave in
    /// order.
    #[test]
    fn flows_come_out_as_they_went_in(
        flows in prop::collection::vec((cuts(), any::<bool>()), 1..24),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0..20_u8), 1..200),
        udp in any::<bool>(),
    ) {
        let mut flows: Vec<_> = flows.into_iter().enumerate().map(|(i, ((parts, size), vouched))| {
            let parts = Parts { port: i as u16, ..parts };
            let pieces: Vec<_> = parts.cut(size).iter().map(Parts::build).collect();
            (pieces, if vouched { Vouched } else { Complete }, 0)
        }).collect();
        let mut sent = Vec::new();
        for (flow, damage) in order {
            let at = flow.index(flows.len());
            let (pieces, checksums, next) = &mut flows[at];
            let mut packet = pieces[*next % pieces.len()].clone();
            *next += 1;
            let mut checksums = *checksums;
            let last = packet.len() - 1;
            let in_ip_header = if packet[0] >> 4 == 6 { 7 } else { 10 };
            match damage {
                0 => { packet[last] ^= 0x40; checksums = Complete; }
                1 => { packet[in_ip_header] ^= 1; checksums = Complete; }
                2 => packet.truncate(last),
                3 => packet.push(0),
                4 => packet[6] |= 0x20,
                5 => packet[1] ^= 0x10,
                _ => {}
            }
            sent.push((packet, checksums));
        }
        let got = delivered(&join(udp, &sent));
        prop_assert_eq!(got.len(), sent.len());
        let by_flow = |packets: Vec<Vec<u8>>| {
            let mut flows = vec![Vec::new(); 24];
            for packet in packets {
                let transport = if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 15) * 4 };
                flows[usize::from(packet[transport + 1])].push(without_id(packet));
            }
            flows
        };
        // The checksum of a vouched packet gets computed, valid or not: compare the kernel's
        // results.
        let want = sent.into_iter().flat_map(|(packet, checksums)| {
            delivered(&join(false, &[(packet, checksums)]))
        }).collect();
        prop_assert_eq!(by_flow(got), by_flow(want));
    }

    #[test]
    fn odd_headers_never_panic(
        mut header in any::<[u8; HEADER_LEN]>(),
        kind in prop::sample::select(vec![0, 1, 4, 5, 0x81, 3]),
        small in any::<bool>(),
        packet in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            parts().prop_map(|parts| parts.build()),
        ],
        first in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]),
        keep in any::<bool>(),
    ) {
        header[1] = kind;
        if small {
            for at in [3, 5, 7, 9] {
                header[at] = 0;
            }
        }
        let mut packet = packet;
        if let (false, Some(byte)) = (keep, packet.first_mut()) {
            *byte = first;
        }
        if let Ok(header) = Header::parse(&header) {
            for wanted in [Complete, Vouched] {
                for ip in [0, 14, packet.len(), packet.len() + 1] {
                    if let Ok(pieces) = cut_at(ip, &header, &packet, wanted) {
                        let pieces: Vec<_> = pieces.into_iter().map(|p| (p, wanted)).collect();
                        join_at(ip, true, &pieces);
                    }
                }
            }
        }
    }

    #[test]
    fn odd_packets_come_out_unchanged(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        first in prop::sample::select(vec![0x45, 0x46, 0x60]),
    ) {
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            (packet, Complete)
        }).collect();
        let want: Vec<_> = packets.iter().map(|(p, _)| (Header::default(), p.clone())).collect();
        prop_assert_eq!(join(true, &packets), want);
    }
}

/// Clears the identification of an IPv4 packet that is never fragmented; it is meaningless (RFC
/// 6864).
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        let (id, sum) = (
            u32::from(u16::from_be_bytes([packet[4], packet[5]])),
            u32::from(u16::from_be_bytes([packet[10], packet[11]])),
        );
        let sum = ((sum + id) % 0xffff) as u16;
        packet[4..6].fill(0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// `count` packets of a flow of 100 bytes each.
fn flow(parts: &Parts, count: usize) -> Vec<Parts> {
    let payload = vec![7; 100 * count];
    Parts {
        payload,
        ..parts.clone()
    }
    .cut(100)
}

#[test]
fn forty_segments_are_one_write() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let parts = Parts {
            v6,
            udp,
            ..Parts::default()
        };
        let packets = flow(&parts, 40);
        for checksums in [Complete, Vouched] {
            let written = join(true, &built(&packets, checksums));
            assert_eq!(written.len(), 1);
            assert_eq!(written[0].0.gso.unwrap().size, 100);
        }
    }
}

#[test]
fn udp_is_joined_only_where_the_kernel_takes_it() {
    let parts = Parts {
        udp: true,
        ..Parts::default()
    };
    let packets = built(&flow(&parts, 130), Complete);
    let lengths = |udp| join(udp, &packets).len();
    assert_eq!(lengths(false), 130);
    assert_eq!(lengths(true), 3);
}

#[test]
fn a_wrong_checksum_is_passed_alone() {
    for damaged in [0, 1, 4, 9] {
        let mut packets = built(&flow(&Parts::default(), 10), Complete);
        let last = packets[damaged].0.last_mut().unwrap();
        *last ^= 1;
        let written = join(true, &packets);
        assert!(written.contains(&(Header::default(), packets[damaged].0.clone())));
        assert!(written.len() <= 3);
        let sent: Vec<_> = packets.into_iter().map(|(packet, _)| packet).collect();
        assert_eq!(delivered(&written), sent);
    }
}

#[test]
fn a_wrong_ip_checksum_is_not_mended() {
    let mut packets = built(&flow(&Parts::default(), 3), Vouched);
    packets[1].0[10] ^= 1;
    let written = join(true, &packets);
    assert_eq!(written.len(), 3);
    assert_eq!(written[1].1[..20], packets[1].0[..20]);
}

#[test]
fn what_differs_in_its_headers_is_not_joined() {
    let first = Parts {
        df: false,
        flags: 0x10,
        options: vec![1, 1, 1, 1],
        ..Parts::default()
    };
    let changes: [fn(&mut Parts); 14] = [
        |p| p.class = 3,
        |p| p.ttl = 63,
        |p| p.df = true,
        |p| p.id += 1,
        |p| p.seq += 1,
        |p| p.seq -= 1,
        |p| p.ack += 1,
        |p| p.window += 1,
        |p| p.flags |= 0x80,
        |p| p.flags |= 0x40,
        |p| p.options[0] = 0,
        |p| p.options.clear(),
        |p| p.payload.push(1),
        |p| p.host = 2,
    ];
    for change in changes {
        let mut packets = flow(&first, 2);
        assert_eq!(join(true, &built(&packets, Complete)).len(), 1);
        change(&mut packets[1]);
        assert_eq!(join(true, &built(&packets, Complete)).len(), 2);
    }
}

#[test]
fn control_segments_come_behind_what_waits_of_their_flow() {
    let data = flow(&Parts::default(), 3);
    for flags in [0x02, 0x12, 0x04, 0x14, 0x30, 0x50, 0x00] {
        let control = Parts {
            seq: 300,
            flags,
            payload: if flags == 0x30 {
                vec![1; 100]
            } else {
                Vec::new()
            },
            ..Parts::default()
        };
        let other = Parts {
            port: 1,
            ..control.clone()
        };
        let mut packets = data.clone();
        packets.extend([other.clone(), control.clone()]);
        let written = join(true, &built(&packets, Complete));
        let lone = |parts: &Parts| (Header::default(), parts.build());
        assert_eq!(written.len(), 3);
        assert_eq!(written[0], lone(&other));
        assert_eq!(written[1].0.gso.unwrap().size, 100);
        assert_eq!(written[2], lone(&control));
    }
}

#[test]
fn fragments_come_behind_what_waits_between_their_hosts() {
    for v6 in [false, true] {
        let parts = Parts {
            v6,
            ..Parts::default()
        };
        let mut packets = built(&flow(&parts, 3), Complete);
        let (mut fragment, _) = packets.pop().unwrap();
        fragment[6] = if v6 { 44 } else { 0x20 };
        mend_ip_header(&mut fragment);
        let mut foreign = fragment.clone();
        foreign[if v6 { 9 } else { 14 }] = 77;
        mend_ip_header(&mut foreign);
        packets.push((foreign.clone(), Complete));
        packets.push((fragment.clone(), Complete));
        let written = join(true, &packets);
        assert_eq!(written.len(), 3);
        assert_eq!(written[0], (Header::default(), foreign));
        assert_eq!(written[1].0.gso.unwrap().size, 100);
        assert_eq!(written[2], (Header::default(), fragment));
    }
}

/// The first fragment of a datagram has ports, but is no whole packet.
#[test]
fn first_fragments_are_not_joined() {
    let parts = Parts {
        df: false,
        ..Parts::default()
    };
    let mut packets = built(&flow(&parts, 3), Complete);
    for (packet, _) in &mut packets {
        packet[6] = 0x20;
        mend_ip_header(packet);
    }
    let want: Vec<_> = packets
        .iter()
        .map(|(p, _)| (Header::default(), p.clone()))
        .collect();
    assert_eq!(join(true, &packets), want);
}

fn mend_ip_header(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = testing::naive_checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn udp_without_checksum_keeps_none() {
    for checksums in [Complete, Vouched] {
        let mut packets = built(
            &flow(
                &Parts {
                    udp: true,
                    ..Parts::default()
                },
                3,
            ),
            checksums,
        );
        for (packet, _) in &mut packets {
            packet[26..28].fill(0);
        }
        let want: Vec<_> = packets
            .iter()
            .map(|(p, _)| (Header::default(), p.clone()))
            .collect();
        assert_eq!(join(true, &packets), want);
    }
}

#[test]
fn the_oldest_of_many_flows_makes_room() {
    let mut packets = Vec::new();
    for round in 0..3 {
        for port in 0..20 {
            let parts = Parts {
                port,
                ..Parts::default()
            };
            packets.push(flow(&parts, 3).swap_remove(round));
        }
    }
    let written = join(true, &built(&packets, Complete));
    let ports: Vec<_> = written.iter().map(|(_, packet)| packet[21]).collect();
    let want: Vec<u8> = (0..60).map(|i| i % 20).collect();
    assert_eq!(ports, want);
    assert_eq!(join(true, &built(&packets[..16], Complete)).len(), 16);
}

#[test]
fn no_super_packet_is_longer_than_a_packet_may_be() {
    for v6 in [false, true] {
        let parts = Parts {
            v6,
            payload: vec![7; 1460 * 100],
            ..Parts::default()
        };
        let written = join(true, &built(&parts.cut(1460), Complete));
        assert!(written.iter().all(|(_, packet)| packet.len() <= MAX_PACKET));
        assert!(written.len() == 3);
    }
}
