//! Packets over a link in SPTPS: their lengths, their records, and what records may not be.

use super::*;

/// T03: lengths of PACKET and SPTPS_PACKET, each followed by as many bytes and another line.
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
        (0, b"8\n9\n"),
        (0, b"8\n9"),
        (0, b" 8\n"),
        (128, b"8\n"),
        (129, b"8\n"),
        (255, b"8\n"),
        (0, &[b'a'; MAX_LINE + 2]),
    ] {
        let (mut a, mut b) = pair();
        raw_record(&mut a, kind, data);
        let events = carry(&mut a, &mut b);
        assert!(
            matches!(events[..], [LinkEvent::Down(LinkError::Misbehaved(_))]),
            "{events:?}"
        );
    }
    // The types 1 to 127 behave as 0.
    let (mut a, mut b) = pair();
    raw_record(&mut a, 127, b"8\n");
    assert_eq!(carry(&mut a, &mut b), [LinkEvent::Line("8".into())]);
}
