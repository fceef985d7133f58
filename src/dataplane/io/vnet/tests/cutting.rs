//! Super-packets that are odd, or must not be cut.

use super::*;

#[test]
fn what_needs_no_cut_is_finished_or_left_alone() {
    let parts = Parts::default();
    let (header, packet) = parts.unfinished(1000);
    assert_eq!(cut(&header, &packet, Complete), Ok(vec![parts.build()]));
    assert_eq!(cut(&header, &packet, Vouched), Ok(vec![packet.clone()]));
    let plain = Header::default();
    assert_eq!(cut(&plain, &packet, Vouched), Ok(vec![packet.clone()]));
    let segments = segments(&plain, &packet, Vouched).unwrap();
    assert_eq!(segments.checksums(), Complete);
}

/// A checksum deep inside (in a tunnel's inner packet) cannot be found by the receiver.
#[test]
fn only_checksums_in_their_usual_place_are_left_to_the_receiver() {
    let (header, mut packet) = Parts::default().unfinished(1000);
    packet[76..78].fill(0);
    let deep = Header {
        unfinished: Some(Unfinished {
            start: 60,
            offset: 16,
        }),
        ..header
    };
    let segments = segments(&deep, &packet, Vouched).unwrap();
    assert_eq!(segments.checksums(), Complete);
    let out = cut(&deep, &packet, Vouched).unwrap();
    assert_eq!(checksum::fold(checksum::sum(&out[0][60..])), [0xff; 2]);
}

/// The kernel gives the start of the transport header behind extension headers.
#[test]
fn tcp_behind_extension_headers_is_cut() {
    let parts = Parts {
        v6: true,
        payload: vec![9; 250],
        ..Parts::default()
    };
    let extension = [6, 0, 1, 4, 0, 0, 0, 0];
    let extend = |packet: &mut Vec<u8>| {
        packet[6] = 60;
        packet[5] += 8;
        packet.splice(40..40, extension);
    };
    let (mut header, mut packet) = parts.unfinished(100);
    extend(&mut packet);
    header.unfinished.as_mut().unwrap().start += 8;
    let mut want: Vec<_> = parts.cut(100).iter().map(Parts::build).collect();
    want.iter_mut().for_each(extend);
    assert_eq!(cut(&header, &packet, Vouched), Ok(want));
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let (header, packet) = Parts {
        payload: vec![1; 300],
        ..Parts::default()
    }
    .unfinished(100);
    let gso = header.gso.unwrap();
    let sum = header.unfinished.unwrap();
    let bad = [
        (None, Some(gso)),
        (Some(sum), Some(Gso { size: 0, ..gso })),
        (
            Some(sum),
            Some(Gso {
                kind: GsoKind::TcpV6,
                ..gso
            }),
        ),
        (
            Some(sum),
            Some(Gso {
                kind: GsoKind::Udp,
                ..gso
            }),
        ),
        (Some(Unfinished { start: 24, ..sum }), Some(gso)),
        (Some(Unfinished { offset: 6, ..sum }), Some(gso)),
    ];
    for (unfinished, gso) in bad {
        let header = Header { unfinished, gso };
        let length = packet.len();
        assert_eq!(
            cut(&header, &packet, Complete),
            Err(VnetError::BadGso { length })
        );
    }
    let long = Parts {
        v6: true,
        payload: vec![1; 70_000],
        ..Parts::default()
    };
    let (long_header, long) = long.unfinished(1400);
    assert!(cut(&long_header, &long, Complete).is_err());
    for short in [&packet[..10], &packet[..39], &packet[..40]] {
        assert!(cut(&header, short, Complete).is_err());
    }
    assert_eq!(
        Header::parse(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
        Err(VnetError::UnknownGso(3))
    );
}
