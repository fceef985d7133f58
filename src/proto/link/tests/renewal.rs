//! Records of native links, and the renewal of their keys.

use super::{
    native::{lines, raw, session, up},
    *,
};
use meshd_crypto::{aead::TAG, noise::MSG1_OVERHEAD};

use crate::link::{
    noise::LENGTH,
    record::{MAX_RECORDS, MIN_AGE, RENEW_AFTER, RENEW_RECORDS},
};

proptest! {
    #[test]
    fn a_flipped_bit_in_a_record_ends_the_link(at in any::<proptest::sample::Index>()) {
        let (mut a, mut b) = up();
        a_flipped_bit_is_felt(&mut a, &mut b, at)?;
    }

    /// Both sides send while the keys are renewed, and the network delivers in any order.
    #[test]
    fn a_renewal_loses_and_reorders_nothing(
        script in proptest::collection::vec((0_u8..5, 1_usize..400), 1..120),
    ) {
        let (mut a, mut b) = up();
        let mut later = a.started;
        let (mut to_b, mut to_a) = (BytesMut::new(), BytesMut::new());
        let (mut said, mut heard) = ([vec![], vec![]], [vec![], vec![]]);
        let ring = keys();
        let mut renewals = 0;
        let end = [(3, usize::MAX), (4, usize::MAX)].repeat(4);
        for (number, (what, size)) in script.into_iter().chain(end).enumerate() {
            match what {
                0 | 1 => {
                    let line = format!("9 {number}");
                    [&mut a, &mut b][usize::from(what)].send_line(line.as_bytes());
                    said[usize::from(what)].push(line);
                }
                2 => {
                    later += RENEW_AFTER;
                    renewals += u32::from(a.poll_timeout().is_some_and(|due| due <= later));
                    a.handle_timeout(later);
                }
                3 => {
                    to_b.extend_from_slice(&a.take_output());
                    let piece = to_b.split_to(size.min(to_b.len()));
                    hear(&mut b, &piece, &ring, later);
                    heard[0].extend(drain(&mut b));
                }
                _ => {
                    to_a.extend_from_slice(&b.take_output());
                    let piece = to_a.split_to(size.min(to_a.len()));
                    hear(&mut a, &piece, &ring, later);
                    heard[1].extend(drain(&mut a));
                }
            }
        }
        prop_assert!(a.is_up() && b.is_up(), "{renewals} renewals");
        prop_assert_eq!([lines(&heard[0]), lines(&heard[1])], said);
        let (numbers_a, numbers_b) = (session(&mut a).numbers(), session(&mut b).numbers());
        prop_assert_eq!(numbers_a, (numbers_b.1, numbers_b.0));
    }
}

#[test]
fn keys_are_renewed_each_hour_by_who_dialled() {
    let (mut a, mut b) = up();
    let due = a.started + RENEW_AFTER;
    assert_eq!((a.poll_timeout(), b.poll_timeout()), (Some(due), None));
    a.handle_timeout(due - Duration::from_millis(1));
    assert!(a.take_output().is_empty());
    a.send_line(b"8 before");
    a.handle_timeout(due);
    assert_eq!(a.poll_timeout(), None, "one at a time");
    a.send_line(b"8 meanwhile");
    b.send_line(b"9 meanwhile");
    let ring = keys();
    hear(&mut b, &a.take_output(), &ring, due);
    b.send_line(b"9 after");
    hear(&mut a, &b.take_output(), &ring, due);
    a.send_line(b"8 after");
    hear(&mut b, &a.take_output(), &ring, due);
    assert_eq!(
        lines(&drain(&mut b)),
        ["8 before", "8 meanwhile", "8 after"]
    );
    assert_eq!(lines(&drain(&mut a)), ["9 meanwhile", "9 after"]);
    assert_eq!(
        session(&mut a).numbers(),
        (1, 1),
        "under new keys from 0 on"
    );
    assert_eq!(session(&mut b).numbers(), (1, 1));
    assert_eq!(a.poll_timeout(), Some(due + RENEW_AFTER));
}

#[test]
fn keys_are_renewed_before_their_numbers_end() {
    for a_sends in [true, false] {
        let (mut a, mut b) = up();
        let numbers = match a_sends {
            true => (RENEW_RECORDS - 1, 5),
            false => (5, RENEW_RECORDS - 1),
        };
        session(&mut a).count(numbers.0, numbers.1);
        session(&mut b).count(numbers.1, numbers.0);
        match a_sends {
            true => a.send_line(b"8"),
            false => b.send_line(b"8"),
        }
        let (ring, later) = (keys(), b.started + MIN_AGE);
        for _ in 0..3 {
            hear(&mut b, &a.take_output(), &ring, later);
            hear(&mut a, &b.take_output(), &ring, later);
        }
        assert_eq!(lines(&[drain(&mut a), drain(&mut b)].concat()), ["8"]);
        assert_eq!(session(&mut a).numbers(), (0, 0));
        assert_eq!(session(&mut b).numbers(), (0, 0));
    }
}

#[test]
fn a_link_whose_keys_are_not_renewed_ends() {
    let (mut a, _) = up();
    session(&mut a).count(MAX_RECORDS - 2, 5);
    a.send_line(b"8");
    assert!(a.is_up());
    a.send_line(b"8");
    assert_eq!(drain(&mut a), [LinkEvent::Down(LinkError::Exhausted)]);
    let (mut a, mut b) = up();
    session(&mut a).count(MAX_RECORDS, 5);
    assert!(!a.send_frame(&[0; 100]) && !a.is_up());
    session(&mut b).count(5, MAX_RECORDS);
    feed(&mut b, &[&[0, 18][..], &[0; 18]].concat());
    assert_eq!(drain(&mut b), [LinkEvent::Down(LinkError::Exhausted)]);
}

#[test]
fn records_without_place_end_the_link() {
    let message = [0; MSG1_OVERHEAD + 1];
    let records: &[(u8, &[u8])] = &[
        (0, b""),
        (0, b"8\n"),
        (0, b"8\n9"),
        (0, b"17 20"),
        (0, b"21 40"),
        (3, b""),
        (3, &message),
        (4, b""),
        (4, b"x"),
        (5, b""),
        (128, b"8"),
        (255, b""),
    ];
    for (kind, content) in records {
        for dialler_sends in [true, false] {
            let (a, b) = up();
            let (mut from, mut to) = if dialler_sends { (a, b) } else { (b, a) };
            raw(&mut from, *kind, content);
            let later = to.started + MIN_AGE;
            hear(&mut to, &from.take_output(), &keys(), later);
            let events = drain(&mut to);
            assert!(
                matches!(events[..], [LinkEvent::Down(LinkError::Misbehaved(_))]),
                "{kind} {content:?}: {events:?}"
            );
        }
    }
}

#[test]
fn keys_are_not_renewed_too_often_nor_twice_at_once() {
    // A renewal of a neighbour that comes too soon.
    let (mut a, mut b) = up();
    a.handle_timeout(a.started + RENEW_AFTER);
    feed(&mut b, &a.take_output());
    assert!(matches!(down(&drain(&mut b)), LinkError::Misbehaved(_)));

    // Another first message instead of READY.
    let (mut a, mut b) = up();
    let later = a.started + RENEW_AFTER;
    a.handle_timeout(later);
    hear(&mut b, &a.take_output(), &keys(), later);
    raw(&mut a, 3, &[0; MSG1_OVERHEAD + 1]);
    hear(&mut b, &a.take_output(), &keys(), later + MIN_AGE);
    assert!(matches!(down(&drain(&mut b)), LinkError::Misbehaved(_)));
}

/// T03: packets of invalid lengths are neither sent nor forwarded, and end no link.
#[test]
fn lengths_of_packets_are_those_of_sptps() {
    for (length, frame, relayed) in [
        (0, false, false),
        (13, false, false),
        (14, true, false),
        (32, true, false),
        (33, true, true),
        (1673, true, true),
        (1674, false, true),
        (1706, false, true),
        (1707, false, false),
        (2175, false, false),
    ] {
        let data = vec![0x5a; length];
        for (kind, taken) in [(1, frame), (2, relayed)] {
            let (mut a, mut b) = up();
            let sent = match kind {
                1 => a.send_frame(&data),
                _ => a.send_relayed(&data),
            };
            assert_eq!((sent, a.queued() > 0), (taken, taken), "{kind} {length}");
            if !sent {
                raw(&mut a, kind, &data);
            }
            a.send_line(b"8");
            let events = carry(&mut a, &mut b);
            assert_eq!(events.len(), 1 + usize::from(taken), "{kind} {length}");
            assert_eq!(events.last(), Some(&LinkEvent::Line("8".into())));
        }
    }
    let (mut a, mut b) = up();
    a.send_line(&[b'1'; MAX_LINE + 1]);
    assert_eq!(a.queued(), 0);
    a.send_line(&[b'1'; MAX_LINE]);
    assert_eq!(a.queued(), LENGTH + 1 + MAX_LINE + TAG);
    assert_eq!(
        carry(&mut a, &mut b),
        [LinkEvent::Line(vec![b'1'; MAX_LINE].into())]
    );
    raw(&mut a, 0, &[b'1'; MAX_LINE + 1]);
    assert!(matches!(
        down(&carry(&mut a, &mut b)),
        LinkError::Misbehaved(_)
    ));
}
