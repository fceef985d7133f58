//! Super-packets of the device: cut on the way out, joined on the way in.

use crate::io::vnet::{Checksums, Coalescer, Header, MAX_PACKET, Segments, testing::Parts};

use super::*;

/// Node 1 owns the destinations of [`Parts`], this node the sources. Node 1 accepts `min_mtu` bytes
/// by UDP and `mtu` in all. With `relayed` it is reached via node 2.
fn net(tunnel: &Tunnel, relayed: bool, min_mtu: u16, mtu: u16) -> RouteSnapshot {
    let one = match relayed {
        true => node(ONE, TWO, TWO),
        false => neighbour(ONE),
    };
    let one = NodeState {
        min_mtu,
        mtu,
        ..keyed(one, tunnel)
    };
    let mut snapshot = snapshot(
        [one, neighbour(TWO)],
        [
            ("10.0.0.0/24", Owner::Node(ME)),
            ("10.1.0.0/24", Owner::Node(ONE)),
            ("fd00::/8", Owner::Node(ME)),
            ("fc00::/8", Owner::Node(ONE)),
        ],
    );
    snapshot.by_addr.insert(addr(ONE), ONE);
    snapshot
}

fn super_packet(snapshot: &RouteSnapshot, header: &Header, packet: &[u8]) -> Seen {
    let mut scratch = vec![0xaa; MAX_PACKET];
    step(snapshot, |step| {
        step.from_device_super(header, &mut packet.to_vec(), &mut scratch);
    })
}

/// Returns the sent packets, opened; their distribution over datagrams does not matter.
fn opened(seen: &mut Seen, theirs: &Tunnel) -> Vec<Vec<u8>> {
    let keys = theirs.rx();
    let open = |(_, datagram): &mut (SocketAddr, Vec<u8>)| {
        let record = &mut datagram[HEADER..];
        keys[0].open(record).expect("a new number and a right tag");
        record[5..record.len() - 16].to_vec()
    };
    seen.sent.iter_mut().map(open).collect()
}

fn parts() -> impl Strategy<Value = (Parts, usize)> {
    let flags = proptest::sample::select(vec![0x10, 0x18, 0x11, 0x90]);
    (any::<[bool; 3]>(), flags, any::<u32>(), 1..9000_usize).prop_flat_map(
        |([v6, udp, df], flags, seq, length)| {
            let parts = Parts {
                v6,
                udp,
                df,
                flags,
                seq,
                id: seq as u16,
                payload: (0..length).map(|i| i as u8).collect(),
                ..Parts::default()
            };
            (Just(parts), length.div_ceil(64).max(20)..1500)
        },
    )
}

proptest! {
    #[test]
    fn a_super_packet_is_what_its_segments_are(
        (parts, size) in parts(),
        relayed in any::<bool>(),
        min_mtu in proptest::sample::select(vec![0, 600, 1400]),
        mtu in proptest::sample::select(vec![900, 1400, 1514]),
    ) {
        let (header, packet) = parts.unfinished(size);
        let segments = parts.cut(size);
        let (ours, theirs) = tunnel(20);
        let mut whole = super_packet(&net(&ours, relayed, min_mtu, mtu), &header, &packet);
        // The same numbers again, for the same keys.
        let (ours, theirs_again) = tunnel(20);
        let mut single = step(&net(&ours, relayed, min_mtu, mtu), |step| {
            segments.iter().for_each(|segment| step.from_device(&mut segment.build()));
        });
        let rest = |seen: &Seen| format!("{:?} {:?} {:?}", seen.device, seen.punts, seen.drops);
        prop_assert_eq!(rest(&whole), rest(&single));
        let to = |seen: &Seen| seen.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>();
        prop_assert_eq!(to(&whole), to(&single));
        prop_assert_eq!(opened(&mut whole, &theirs), opened(&mut single, &theirs_again));
    }

    #[test]
    fn any_header_before_any_bytes_is_harmless(
        header in any::<[u8; 10]>(),
        kind in proptest::sample::select(vec![0_u8, 1, 4, 5]),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        (parts, _) in parts(),
    ) {
        let (ours, _) = tunnel(21);
        let snapshot = net(&ours, false, 1400, 1400);
        let mut header = header;
        header[1] = kind;
        let header = Header::parse(&header).unwrap();
        super_packet(&snapshot, &header, &bytes);
        super_packet(&snapshot, &header, &parts.build());
    }

    #[test]
    fn joined_delivery_is_single_delivery(
        flows in proptest::collection::vec(parts(), 1..4),
        order in any::<proptest::sample::Index>(),
        hostile in proptest::collection::vec((any::<proptest::sample::Index>(), 0..60_usize, any::<u8>()), 0..4),
    ) {
        let mut packets = mixed(&flows, order.index(7) + 1);
        for (which, at, flip) in &hostile {
            let packet = which.get(&packets).clone();
            let mut bad = packet.clone();
            if let Some(byte) = bad.get_mut(*at) {
                *byte ^= flip;
            } else {
                bad.truncate(*flip as usize);
            }
            packets.insert(which.index(packets.len()), bad);
        }
        let (ours, theirs) = tunnel(22);
        let snapshot = from_one(keyed(neighbour(ONE), &ours));
        let key = theirs.tx().unwrap();
        let mut joined = Joined::default();
        let mut expected = Vec::new();
        for packet in &packets {
            if packet.len() > 1490 {
                continue;
            }
            let datagram = sealed(&snapshot, &key, 0, packet);
            let mut again = datagram.clone();
            joined.receive(&snapshot, &mut again);
            // Another window, so the same numbers are new again.
            let (ours, _) = tunnel(22);
            expected.extend(inbound(&from_one(keyed(neighbour(ONE), &ours)), addr(ONE), &datagram).device);
        }
        let mut delivered = joined.delivered();
        delivered.iter_mut().chain(&mut expected).for_each(|packet| without_id(packet));
        if hostile.is_empty() {
            for host in 0..flows.len() as u8 {
                let of = |all: &[Vec<u8>]| all.iter().filter(|p| sender(p) == host).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(&delivered), of(&expected), "flow {} is in order", host);
            }
        }
        delivered.sort();
        expected.sort();
        prop_assert_eq!(delivered, expected);
    }
}

#[test]
fn many_segments_are_many_datagrams_and_one_write() {
    let parts = Parts {
        payload: vec![7; 14_000],
        ..Parts::default()
    };
    let (header, packet) = parts.unfinished(1000);
    let (ours, theirs) = tunnel(23);
    let sent = super_packet(&net(&ours, false, 1400, 1400), &header, &packet);
    let lengths: Vec<_> = sent.sent.iter().map(|(_, d)| d.len()).collect();
    assert_eq!(lengths, [HEADER + 21 + 40 + 1000; 14]);
    let them = from_one(keyed(neighbour(ONE), &theirs));
    let mut joined = Joined::default();
    for (_, datagram) in &sent.sent {
        let mut datagram = [&ids(&them, ME, ONE)[..], &datagram[HEADER..]].concat();
        joined.receive(&them, &mut datagram);
    }
    joined.delivered();
    assert_eq!(joined.written, [(header, packet)]);
}

/// All packets are for this node: hostile ones need no valid address.
fn from_one(one: NodeState) -> RouteSnapshot {
    let mut snapshot = line(one, node(TWO, ONE, ONE));
    snapshot.settings.forwarding = meshd_proto::route::Forwarding::Kernel;
    snapshot
}

/// The segments of all flows, `stride` of one flow at a time.
fn mixed(flows: &[(Parts, usize)], stride: usize) -> Vec<Vec<u8>> {
    let mut left: Vec<_> = flows
        .iter()
        .zip(0..)
        .map(|((parts, size), host)| {
            let parts = Parts {
                host,
                ..parts.clone()
            };
            let all: Vec<_> = parts.cut(*size).iter().map(Parts::build).collect();
            all.into_iter()
        })
        .collect();
    let mut packets = Vec::new();
    while left.iter().any(|flow| flow.len() > 0) {
        for flow in &mut left {
            packets.extend(flow.take(stride));
        }
    }
    packets
}

/// Clears the IP identification of a packet that is never fragmented. The identification is
/// meaningless, and may change where packets are joined (RFC 6864).
fn without_id(packet: &mut [u8]) {
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
}

/// Returns the last byte of the source address.
fn sender(packet: &[u8]) -> u8 {
    packet[if packet[0] >> 4 == 4 { 15 } else { 23 }]
}

/// A sink whose device takes super-packets.
struct Joined {
    coalescer: Coalescer,
    written: Vec<(Header, Vec<u8>)>,
}

impl Default for Joined {
    fn default() -> Self {
        Self {
            coalescer: Coalescer::new(true),
            written: Vec::new(),
        }
    }
}

impl Joined {
    /// Receives a datagram of node 1.
    fn receive(&mut self, snapshot: &RouteSnapshot, datagram: &mut [u8]) {
        let mut limiter = ErrorLimiter::default();
        let mut step = Step::new(snapshot, self, &mut limiter, clock::now());
        step.from_network(addr(ONE), datagram, datagram.len().max(1));
    }

    /// Returns the packets that the kernel makes of the writes.
    fn delivered(&mut self) -> Vec<Vec<u8>> {
        let written = &mut self.written;
        self.coalescer
            .flush(|header, packet| written.push((*header, packet.to_vec())));
        let mut all = Vec::new();
        let mut packet = vec![0; MAX_PACKET];
        for (header, bytes) in &self.written {
            let mut segments = Segments::new(header, bytes, 0).unwrap();
            while let Some(length) = segments.next_into(&mut packet) {
                all.push(packet[..length].to_vec());
            }
        }
        all
    }
}

impl Sink for Joined {
    fn park(&mut self, _: NodeIdx, _: &[u8]) {}

    fn datagram(&mut self, _: SocketAddr, _: usize, _: usize) -> &mut [u8] {
        panic!("nothing is sent on")
    }

    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums) {
        let written = &mut self.written;
        self.coalescer.push(packet, 0, checksums, |header, packet| {
            written.push((*header, packet.to_vec()));
        });
    }

    fn punt(&mut self, punt: Punt) {
        panic!("{punt:?}")
    }

    fn dropped(&mut self, reason: DropReason) {
        assert_eq!(reason, DropReason::Malformed);
    }
}
