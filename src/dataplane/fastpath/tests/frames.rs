//! Switch and hub mode: records of whole frames.

use meshd_proto::{
    route::switch::{MacEntry, MacTable},
    tunnel::{TYPE_MAC, TYPE_VOUCHED},
};
use meshd_wire::ether::Mac;

use crate::io::vnet::{
    Header, MAX_PACKET,
    testing::{LINK, Parts, framed, shifted},
};

use super::*;

/// Addresses in [`LINK`]: ours is the source, node 1's the destination.
const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 9];

/// Nodes 1 and 2 are neighbours; broadcasts go to both.
fn net(mode: Mode, one: NodeState, two: NodeState) -> RouteSnapshot {
    let mut snapshot = line(one, two);
    snapshot.settings.mode = mode;
    snapshot.broadcast = vec![ONE, TWO];
    let entry = |(mac, owner)| MacEntry {
        mac,
        owner,
        sighting: (owner == ME).then(Arc::default),
    };
    snapshot.macs = MacTable::new([(OURS, ME), (THEIRS, ONE)].map(entry).into());
    snapshot
}

/// Returns the records sent to a node, opened: types and data.
fn opened(seen: &mut Seen, node: NodeSlot, theirs: &Tunnel) -> Vec<(u8, Vec<u8>)> {
    let (keys, to) = (theirs.rx(), addr(node));
    let sent = seen.sent.iter_mut().filter(|(addr, _)| *addr == to);
    let open = |(_, datagram): &mut (SocketAddr, Vec<u8>)| {
        let record = &mut datagram[HEADER..];
        let opened = keys[0].open(record).expect("a new number and a right tag");
        (opened.kind, record[5..record.len() - 16].to_vec())
    };
    sent.map(open).collect()
}

fn super_frame(snapshot: &RouteSnapshot, header: &Header, frame: &[u8]) -> Seen {
    let mut scratch = vec![0xaa; MAX_PACKET];
    step(snapshot, |step| {
        step.from_device_super(header, &mut frame.to_vec(), &mut scratch);
    })
}

/// A frame without IP between the two addresses.
fn plain(from: Mac, to: Mac, length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
    frame.resize(length, 7);
    frame
}

#[test]
fn a_frame_goes_whole_and_only_a_frame_is_taken() {
    let (ours, theirs) = tunnel(30);
    let snapshot = net(Mode::Switch, keyed(neighbour(ONE), &ours), neighbour(TWO));
    let frame = plain(OURS, THEIRS, 1400);
    let mut seen = outbound(&snapshot, &frame);
    assert_eq!(opened(&mut seen, ONE, &theirs), [(TYPE_MAC, frame)]);
    let counters = &snapshot.node(ONE).unwrap().counters;
    assert_eq!(counters.tx_bytes.load(Relaxed), 1400);
    // One byte longer than the proven UDP length.
    let long = plain(OURS, THEIRS, 1401);
    let seen = outbound(&snapshot, &long);
    assert!(matches!(&seen.punts[..], [Punt::Packet { to: ONE_IDX, packet }] if *packet == long));

    let key = theirs.tx().unwrap();
    for (kind, length, taken) in [
        (TYPE_MAC, 60, Ok(())),
        (TYPE_MAC, 1518, Ok(())),
        (TYPE_MAC, 1519, Err(DropReason::Malformed)),
        (TYPE_MAC, 13, Err(DropReason::Malformed)),
        (0, 60, Err(DropReason::BadType)),
        (TYPE_MAC | TYPE_VOUCHED, 60, Err(DropReason::BadType)),
        (1 | TYPE_MAC, 60, Err(DropReason::BadType)),
    ] {
        let mut frame = plain(THEIRS, OURS, length.max(14));
        frame.truncate(length);
        let seen = inbound(&snapshot, addr(ONE), &sealed(&snapshot, &key, kind, &frame));
        match taken {
            Ok(()) => assert_eq!(seen.device, [frame]),
            Err(reason) => assert_eq!((seen.device.len(), seen.drops), (0, vec![reason])),
        }
    }
}

#[test]
fn new_addresses_are_told_and_known_ones_noted() {
    let (ours, _) = tunnel(31);
    let snapshot = net(Mode::Switch, keyed(neighbour(ONE), &ours), neighbour(TWO));
    let new = [2, 0, 0, 0, 0, 77];
    let seen = outbound(&snapshot, &plain(new, THEIRS, 60));
    assert!(matches!(seen.punts[..], [Punt::NewMac { mac }] if mac == new));
    assert_eq!(seen.sent.len(), 1);
    let sighting = snapshot.macs.get(OURS).unwrap().sighting.clone().unwrap();
    assert!(!sighting.take());
    assert!(
        outbound(&snapshot, &plain(OURS, THEIRS, 60))
            .punts
            .is_empty()
    );
    assert!(sighting.take());
}

#[test]
fn what_is_for_all_goes_to_each_and_not_back() {
    let (one, at_one) = tunnel(32);
    let (two, at_two) = tunnel(33);
    let to_all = plain(OURS, [0xff; 6], 60);
    for mode in [Mode::Switch, Mode::Hub] {
        let (one, two) = (keyed(neighbour(ONE), &one), keyed(neighbour(TWO), &two));
        let mut snapshot = net(mode, one, two);
        let mut seen = outbound(&snapshot, &to_all);
        for (node, key) in [(ONE, &at_one), (TWO, &at_two)] {
            let got = opened(&mut seen, node, key);
            assert_eq!(got, [(TYPE_MAC, to_all.clone())]);
        }
        // As if another node had sent it.
        snapshot.recent = Arc::default();
        let datagram = sealed(&snapshot, &at_one.tx().unwrap(), TYPE_MAC, &to_all);
        let mut seen = inbound(&snapshot, addr(ONE), &datagram);
        assert_eq!(seen.device, std::slice::from_ref(&to_all));
        assert_eq!(seen.sent.len(), 1);
        assert_eq!(
            opened(&mut seen, TWO, &at_two),
            [(TYPE_MAC, to_all.clone())]
        );
    }
}

/// A checksum that the sender's kernel left to be computed is valid at the other device, behind any
/// link header. The checksum is also valid when the frame is forwarded to a node that needs it
/// complete.
#[test]
fn vouched_frames_are_finished() {
    for link in &LINK[1..] {
        let parts = Parts {
            payload: vec![9; 5000],
            ..Parts::default()
        };
        let (header, packet) = parts.unfinished(1000);
        let want: Vec<_> = parts
            .cut(1000)
            .iter()
            .map(|piece| framed(link, &piece.build()))
            .collect();
        let (ours, theirs) = native_pair();
        let (two, at_two) = tunnel(34);
        let native = NodeState {
            dialect: Dialect::Native,
            tx: Some(ours.tx),
            rx: vec![ours.rx],
            ..neighbour(ONE)
        };
        let mut snapshot = net(Mode::Hub, native, keyed(neighbour(TWO), &two));
        let sent = super_frame(&snapshot, &shifted(link, header), &framed(link, &packet)).sent;
        let to_one = sent.into_iter().filter(|(to, _)| *to == addr(ONE));
        let (mut kinds, mut device, mut passed) = (Vec::new(), Vec::new(), Vec::new());
        for (_, mut datagram) in to_one {
            let opened = theirs.rx.open(&mut datagram).unwrap();
            kinds.push(opened.kind);
            let open = datagram.clone();
            // Sent back unchanged: each segment is a copy, until the fingerprints are forgotten.
            let number = theirs.tx.claim(1).unwrap();
            theirs.tx.seal(number, opened.kind, &mut datagram);
            let seen = inbound(&snapshot, addr(ONE), &datagram);
            assert_eq!(seen.drops, [DropReason::Repeated]);
            let number = theirs.tx.claim(1).unwrap();
            datagram.copy_from_slice(&open);
            theirs.tx.seal(number, opened.kind, &mut datagram);
            let known = std::mem::take(&mut snapshot.recent);
            let mut seen = inbound(&snapshot, addr(ONE), &datagram);
            snapshot.recent = known;
            passed.extend(self::opened(&mut seen, TWO, &at_two));
            device.extend(seen.device);
        }
        let vouched = TYPE_MAC | TYPE_VOUCHED;
        assert_eq!(kinds[0], TYPE_MAC, "the first is asked for");
        assert!(kinds[1..].iter().all(|kind| *kind == vouched) && kinds.len() == 5);
        assert_eq!(device, want);
        assert!(passed.into_iter().map(|(_, frame)| frame).eq(want));
    }
}

proptest! {
    /// A super-frame has the effect of its segments, to one node and to all.
    #[test]
    fn a_super_frame_is_what_its_segments_are(
        (v6, udp, hub) in any::<(bool, bool, bool)>(),
        (length, size) in (1..9000_usize, 200..1500_usize),
        link in proptest::sample::select(LINK[1..].to_vec()),
        min_mtu in proptest::sample::select(vec![0, 600, 1400]),
        mtu in proptest::sample::select(vec![900, 1400, 1514]),
    ) {
        let payload = (0..length).map(|i| i as u8).collect();
        let parts = Parts { v6, udp, payload, ..Parts::default() };
        let (header, packet) = parts.unfinished(size);
        let keys = || (tunnel(35), tunnel(36));
        let tables = |one: &Tunnel, two: &Tunnel| {
            let mode = if hub { Mode::Hub } else { Mode::Switch };
            let state = |idx, tunnel| NodeState { min_mtu, mtu, ..keyed(neighbour(idx), tunnel) };
            net(mode, state(ONE, one), state(TWO, two))
        };
        let ((one, at_one), (two, at_two)) = keys();
        let mut whole = super_frame(&tables(&one, &two), &shifted(link, header), &framed(link, &packet));
        let ((one, again_one), (two, again_two)) = keys();
        let mut single = step(&tables(&one, &two), |step| {
            for segment in parts.cut(size) {
                step.from_device(&mut framed(link, &segment.build()));
            }
        });
        let rest = |seen: &Seen| {
            let mut punts: Vec<_> = seen.punts.iter().map(|punt| format!("{punt:?}")).collect();
            punts.sort();
            format!("{:?} {punts:?} {:?}", seen.device, seen.drops)
        };
        prop_assert_eq!(rest(&whole), rest(&single));
        for (node, key, again) in [(ONE, &at_one, &again_one), (TWO, &at_two, &again_two)] {
            prop_assert_eq!(opened(&mut whole, node, key), opened(&mut single, node, again));
        }
    }
}
