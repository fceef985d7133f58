//! Length limits of packets, records, lines and queues.

use super::*;

/// T03: lengths of PACKET and SPTPS_PACKET, each followed by that many bytes and another line.
#[test]
fn lengths_of_packets_are_as_specified() {
    enum Fate {
        Taken,
        Ignored,
        Fatal,
    }
    use Fate::{Fatal, Ignored, Taken};
    let lengths = [
        (-1, Fatal, Fatal),
        (0, Ignored, Ignored),
        (1, Ignored, Ignored),
        (13, Ignored, Ignored),
        (14, Taken, Ignored),
        (32, Taken, Ignored),
        (33, Taken, Taken),
        (1518, Taken, Taken),
        (1519, Taken, Taken),
        (1673, Taken, Taken),
        (1674, Ignored, Taken),
        (1706, Ignored, Taken),
        (1707, Ignored, Ignored),
        (2176, Ignored, Ignored),
        (2177, Fatal, Ignored),
        (9018, Fatal, Ignored),
        (9051, Fatal, Ignored),
        (9052, Fatal, Fatal),
        (32767, Fatal, Fatal),
        (32768, Fatal, Fatal),
        (65535, Fatal, Fatal),
    ];
    let check = |request: &str, fate: &Fate, length: i64, write: &dyn Fn(&mut Link, &[u8])| {
        let (mut a, mut b) = pair();
        a.send_line(request.as_bytes());
        let payload = vec![0x5a; usize::try_from(length).unwrap_or(0)];
        if !payload.is_empty() {
            write(&mut a, &payload);
        }
        a.send_line(b"8");
        let events = carry(&mut a, &mut b);
        let line = LinkEvent::Line("8".into());
        match fate {
            Taken => match &events[..] {
                [LinkEvent::Frame(data) | LinkEvent::Relayed(data), last] => {
                    assert_eq!((&data[..], last), (&payload[..], &line), "{request}");
                }
                _ => panic!("{request}: {events:?}"),
            },
            Ignored => assert_eq!(events, [line], "{request}"),
            Fatal => assert!(matches!(
                events[..],
                [LinkEvent::Down(LinkError::Misbehaved(_))]
            )),
        }
    };
    for (length, packet, relayed) in &lengths {
        check(
            &format!("17 {length}"),
            packet,
            *length,
            &|link, payload| {
                raw_record(link, 0, payload);
            },
        );
        check(
            &format!("21 {length}"),
            relayed,
            *length,
            &|link, payload| {
                link.output.extend_from_slice(payload);
            },
        );
    }
    for request in [
        "17",
        "17 x",
        "17 1x",
        "21",
        "21 +-1",
        "17 99999999999999999999",
    ] {
        let (mut a, mut b) = pair();
        a.send_line(request.as_bytes());
        assert!(
            matches!(down(&carry(&mut a, &mut b)), LinkError::Misbehaved(_)),
            "{request}"
        );
    }
}

/// Writes a record that [`Link`] itself would not write.
fn raw_record(link: &mut Link, kind: u8, data: &[u8]) {
    let Phase::Sptps(_, framed) = &mut link.phase else {
        panic!("not up");
    };
    framed.raw_record(kind, data, &mut link.output);
}

#[test]
fn a_packet_must_have_the_announced_length() {
    for length in [19, 21] {
        let (mut a, mut b) = pair();
        a.send_line(b"17 20");
        raw_record(&mut a, 0, &vec![0; length]);
        assert!(matches!(
            down(&carry(&mut a, &mut b)),
            LinkError::Misbehaved(_)
        ));
    }
}

#[test]
fn a_record_is_one_line() {
    for (kind, data) in [
        (0, &b""[..]),
        (0, b"\n"),
        (0, b"8"),
        (0, b"8\n9"),
        (128, b"8\n"),
        (129, b"8\n"),
        (255, b"8\n"),
        (0, &[b'a'; MAX_LINE + 2]),
        (0, &[b'a'; 65_535]),
    ] {
        let (mut a, mut b) = pair();
        raw_record(&mut a, kind, data);
        let events = carry(&mut a, &mut b);
        assert!(
            matches!(events[..], [LinkEvent::Down(LinkError::Misbehaved(_))]),
            "{events:?}"
        );
    }
    // Lines that a real daemon forwards unchanged; the mesh decides their cost.
    let long = [b"12 ".to_vec(), vec![b'a'; 65_531]].concat();
    for line in [
        &b"12 1f\nn0 n1"[..],
        b" 12 1f",
        b"\n12 1f",
        b"\n",
        b" ",
        &long,
    ] {
        let (mut a, mut b) = pair();
        raw_record(&mut a, 0, &[line, b"\n"].concat());
        a.send_line(b"8");
        let line = LinkEvent::Line(line.to_vec().into());
        assert_eq!(carry(&mut a, &mut b), [line, LinkEvent::Line("8".into())]);
    }
    // The types 1 to 127 work like 0.
    let (mut a, mut b) = pair();
    raw_record(&mut a, 127, b"8\n");
    assert_eq!(carry(&mut a, &mut b), [LinkEvent::Line("8".into())]);
}

#[test]
fn the_longest_line_passes_and_a_longer_one_is_not_sent() {
    let (mut a, mut b) = pair();
    a.send_line(&[b'1'; MAX_LINE + 1]);
    assert_eq!(a.queued(), 0);
    a.send_line(&[b'1'; MAX_LINE]);
    assert_eq!(
        carry(&mut a, &mut b),
        [LinkEvent::Line(vec![b'1'; MAX_LINE].into())]
    );
}

/// T36: for a neighbour that does not read, packets are dropped first, then the link ends.
#[test]
fn a_congested_link_drops_packets_and_then_dies() {
    let (mut a, _) = pair();
    let line = [b'1'; MAX_LINE];
    while a.queued() <= MAX_QUEUE_BULK {
        assert!(a.send_frame(&[0; 1500]) && a.send_relayed(&[0; 1500]));
        a.send_line(&line);
        // Handed out does not mean written.
        let _ = a.take_output();
    }
    let queued = a.queued();
    assert!(!a.send_frame(&[0; 1500]) && !a.send_relayed(&[0; 1500]));
    assert_eq!(a.queued(), queued);

    a.written(queued);
    assert_eq!(a.queued(), 0);
    assert!(a.send_frame(&[0; 1500]));

    while a.is_up() {
        a.send_line(&line);
    }
    let events = drain(&mut a);
    let LinkError::Stalled(queued) = down(&events) else {
        panic!("{events:?}");
    };
    assert!((MAX_QUEUE..MAX_QUEUE + 4096).contains(queued));
}
