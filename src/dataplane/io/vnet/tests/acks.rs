//! Acknowledgements without data.

use super::*;

/// The timestamp option that TCP sends with every packet.
const TIMES: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7];

fn ack(ack: u32) -> Parts {
    Parts {
        ack,
        options: TIMES.to_vec(),
        payload: Vec::new(),
        ..Parts::default()
    }
}

/// Among successive acknowledgements, up to a super-packet apart and across the wrap of the
/// numbers, the last one is written unchanged.
#[test]
fn the_last_one_stands_for_all() {
    for (v6, times, link) in [
        (false, true, LINK[0]),
        (false, false, LINK[1]),
        (true, true, LINK[2]),
        (true, false, LINK[0]),
    ] {
        let acks: Vec<_> = (0..40)
            .map(|i| Parts {
                v6,
                id: i as u16,
                window: 500 - i as u16,
                options: if times { TIMES.to_vec() } else { Vec::new() },
                ..ack((u32::MAX - 100_000).wrapping_add(i * 65_000))
            })
            .collect();
        let packets = built(&acks, Complete);
        let framed = |packet: &Vec<u8>| framed(link, packet);
        let all: Vec<_> = packets.iter().map(|(p, c)| (framed(p), *c)).collect();
        let written = join_at(link.len(), true, &all);
        assert_eq!(written, [(Header::default(), framed(&packets[39].0))]);
    }
}

/// Checksums left to the kernel stay so in the acknowledgement that is written.
#[test]
fn vouched_ones_are_summed_by_the_kernel() {
    let written = join(true, &built(&[ack(10), ack(20)], Vouched));
    assert_eq!(written.len(), 1);
    assert!(written[0].0.unfinished.is_some());
    assert_eq!(delivered(&written), [ack(20).build()]);
}

/// A packet that is no plain later acknowledgement of the flow replaces none.
#[test]
fn what_says_something_else_is_kept() {
    let changes: [fn(&mut Parts); 12] = [
        |p| p.ack = 10,
        |p| p.ack = 9,
        |p| (p.ack, p.window) = (10, 400),
        |p| p.seq += 1,
        |p| p.flags |= 0x40,
        |p| p.flags |= 0x08,
        |p| p.class = 3,
        |p| p.ttl = 63,
        |p| p.options.extend([1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        |p| p.options.clear(),
        |p| p.options[1] = 0,
        |p| p.port = 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut second = ack(20);
        assert_eq!(
            join(true, &built(&[ack(10), second.clone()], Complete)).len(),
            1
        );
        change(&mut second);
        let packets = [ack(10), second];
        let written = join(true, &built(&packets, Complete));
        let want: Vec<_> = packets.iter().map(Parts::build).collect();
        assert_eq!(delivered(&written), want, "{number}");
    }
}

/// No acknowledgement is dropped in favour of one that the kernel will reject. A wrong checksum
/// stays wrong.
#[test]
fn wrong_checksums_are_passed_on() {
    for (damaged, at) in [(0, 25), (1, 25), (1, 10)] {
        let mut packets = built(&[ack(10), ack(20)], Complete);
        packets[damaged].0[at] ^= 1;
        let written = join(true, &packets);
        let want: Vec<_> = packets.into_iter().map(|(packet, _)| packet).collect();
        assert_eq!(delivered(&written), want);
    }
}

/// Data between two acknowledgements stay between them.
#[test]
fn data_keep_their_place() {
    let data = Parts {
        options: TIMES.to_vec(),
        ..ack(10)
    };
    let data = flow(&data, 3);
    let mut packets = vec![ack(10)];
    packets.extend(data);
    packets.extend([
        Parts {
            seq: 300,
            ..ack(20)
        },
        Parts {
            seq: 300,
            ..ack(30)
        },
    ]);
    let written = join(true, &built(&packets, Complete));
    let want = [&packets[..4], &packets[5..]].concat();
    let want: Vec<_> = want.iter().map(Parts::build).map(without_id).collect();
    assert_eq!(written.len(), 3);
    assert_eq!(
        delivered(&written)
            .into_iter()
            .map(without_id)
            .collect::<Vec<_>>(),
        want
    );
}
