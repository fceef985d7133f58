//! Compressed packets.

use super::*;

/// Each end compresses as the other has requested. Data that would grow stays uncompressed. A
/// compressed packet without a request is invalid.
#[test]
fn packets_are_compressed_as_the_other_end_asks() {
    [6, 12].into_iter().for_each(compressed);
}

fn compressed(level: u8) {
    let asking = |level, own, other| TunnelSetup {
        compression: level,
        ..setup(own, other)
    };
    let (mut a, kex) = Tunnel::initiate(asking(level, 1, 2), &mut rng(1));
    let (mut b, kex) = Tunnel::respond(asking(0, 2, 1), &kex, &mut rng(2)).unwrap();
    a.compress_with(b.compression());
    b.compress_with(a.compression());
    settle(&mut a, &mut b, vec![kex], vec![]);
    let long = b"as long as it is broad, ".repeat(40);
    let packet = |from: &Tunnel, kind, data: &[u8]| {
        let tx = from.tx().unwrap();
        tx.sealed(tx.claim(1).unwrap(), kind, data)
    };
    let open = |to: &Tunnel, mut datagram: Vec<u8>| {
        let opened = to.rx()[0].open(&mut datagram).unwrap();
        let data = &datagram[opened.data(datagram.len())];
        match opened.is_packed() {
            true => opened.unpack(data),
            false => Some((opened.kind, data.to_vec())),
        }
    };
    for kind in [0, TYPE_MAC] {
        let sealed = packet(&b, kind, &long);
        assert!(sealed.len() < 100, "{}", sealed.len());
        assert_eq!(open(&a, sealed), Some((kind, long.clone())));
        // b has not requested compression.
        let plain = packet(&a, kind, &long);
        assert_eq!(plain.len(), long.len() + SPTPS_OVERHEAD);
        assert_eq!(open(&b, plain), Some((kind, long.clone())));
        let unasked = packet(&a, kind | TYPE_COMPRESSED, &long);
        assert_eq!(
            open(&b, unasked),
            Some((kind | TYPE_COMPRESSED, long.clone()))
        );
    }
    let mut noise = [0; 900];
    rng(9).fill(&mut noise);
    assert_eq!(packet(&b, 0, &noise).len(), noise.len() + SPTPS_OVERHEAD);
    assert_eq!(
        packet(&b, TYPE_PROBE, &[0; 900]).len(),
        900 + SPTPS_OVERHEAD
    );
    // T35: damaged, and longer than any packet.
    let damaged = packet(&a, TYPE_COMPRESSED, &long);
    assert_eq!(open(&b, damaged), Some((TYPE_COMPRESSED, long)));
    let bomb = Packer::new(level).unwrap().pack(&vec![0; 1 << 20]);
    let tx = b.tx().unwrap();
    let mut datagram = [&[0; 5], &bomb[..], &[0; 16]].concat();
    tx.seal(tx.claim(1).unwrap(), TYPE_COMPRESSED, &mut datagram);
    assert_eq!(open(&a, datagram), None);
}
