//! Native links: the dialect of each pair, and attacks on the way.

use zeroize::Zeroizing;

use super::*;
use meshd_crypto::{
    noise::{MSG1_OVERHEAD, StaticPublic, StaticSecret},
    seal::Aeads,
};

use crate::link::{
    noise::{LENGTH, MAX_HANDSHAKE},
    record::Session,
};

const ID_A: &[u8] = b"0 alice 17.7 native1\n";
const ID_B: &[u8] = b"0 bob 17.7 native1\n";

/// A node that offers native, with the key of the node `key_of`.
fn offering(of: &str, key_of: &str, aeads: Aeads) -> Arc<Identity> {
    let key = key(key_of);
    Arc::new(Identity {
        name: name(of),
        sptps: true,
        rsa: None,
        native: Some(NativeIdentity {
            secret: Arc::new(StaticSecret::of(&key)),
            aeads,
        }),
        key: Arc::new(key),
    })
}

fn native(of: &str) -> Arc<Identity> {
    offering(of, of, Aeads::ALL)
}

fn must(mut theirs: Credentials) -> Credentials {
    theirs.native_only = true;
    theirs
}

fn with_psk(mut theirs: Credentials, byte: u8) -> Credentials {
    theirs.psk = Zeroizing::new([byte; 32]);
    theirs
}

/// Alice, who dials bob.
fn alice(local: Arc<Identity>, bob: Credentials) -> Link {
    Link::dial(local, name("bob"), bob, TIMEOUT, Rng::new([1; 32]), now())
}

fn bob(local: Arc<Identity>) -> Link {
    Link::accept(local, TIMEOUT, Rng::new([2; 32]), now())
}

/// Keyring of bob.
fn ring(alice: Credentials) -> Keys {
    Keys([(name("alice"), alice)].into())
}

/// Carries bytes both ways until both sides are silent. Each piece passes through `edit` first,
/// with true if alice sent it.
fn talk(
    a: &mut Link,
    b: &mut Link,
    ring: &Keys,
    mut edit: impl FnMut(bool, Bytes) -> Vec<u8>,
) -> [Vec<LinkEvent>; 2] {
    loop {
        let (from_a, from_b) = (a.take_output(), b.take_output());
        if from_a.is_empty() && from_b.is_empty() {
            return [drain(a), drain(b)];
        }
        a.written(from_a.len());
        b.written(from_b.len());
        let started = [a.started, b.started];
        hear(b, &edit(true, from_a), ring, started[1]);
        hear(a, &edit(false, from_b), ring, started[0]);
    }
}

fn plainly(_: bool, data: Bytes) -> Vec<u8> {
    data.to_vec()
}

/// Two native links that are up, with no event left.
pub(super) fn up() -> (Link, Link) {
    let (mut a, mut b) = (
        alice(native("alice"), credentials("bob")),
        bob(native("bob")),
    );
    talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
    assert_eq!((dialect(&a), dialect(&b)), (NATIVE, NATIVE));
    (a, b)
}

const NATIVE: Option<Dialect> = Some(Dialect::Native);
const SPTPS: Option<Dialect> = Some(Dialect::Sptps);

/// Dialect of an authenticated link.
fn dialect(link: &Link) -> Option<Dialect> {
    match &link.phase {
        Phase::Native(..) => NATIVE,
        Phase::Sptps(..) => SPTPS,
        _ => None,
    }
    .filter(|_| link.is_up())
}

pub(super) fn session(link: &mut Link) -> &mut Session {
    let Phase::Native(_, native) = &mut link.phase else {
        panic!("not native");
    };
    native.session()
}

pub(super) fn raw(link: &mut Link, kind: u8, content: &[u8]) {
    let mut output = mem::take(&mut link.output);
    session(link).raw_record(kind, content, &mut output);
    link.output = output;
}

pub(super) fn lines(events: &[LinkEvent]) -> Vec<String> {
    let line = |event: &LinkEvent| match event {
        LinkEvent::Line(line) => String::from_utf8_lossy(line).into_owned(),
        other => panic!("{other:?}"),
    };
    events.iter().map(line).collect()
}

#[test]
fn what_two_nodes_speak_is_the_best_that_both_offer() {
    for (ours, theirs, expected) in [
        (native("alice"), native("bob"), NATIVE),
        (native("alice"), identity("bob"), SPTPS),
        (identity("alice"), native("bob"), SPTPS),
        (identity("alice"), identity("bob"), SPTPS),
    ] {
        let (mut a, mut b) = (alice(ours, credentials("bob")), bob(theirs));
        let events = talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
        for (events, link) in events.iter().zip([&a, &b]) {
            let [LinkEvent::Up(hello)] = &events[..] else {
                panic!("{events:?}");
            };
            assert_eq!(Some(hello.dialect), expected);
            assert_eq!((dialect(link), hello.minor), (expected, 7));
        }
    }
}

#[test]
fn a_node_that_must_speak_native_gets_no_sptps() {
    // This node dials.
    for (ours, theirs) in [
        (native("alice"), identity("bob")),
        (identity("alice"), native("bob")),
    ] {
        let (mut a, mut b) = (alice(ours, must(credentials("bob"))), bob(theirs));
        let [at_a, at_b] = talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
        let error = down(&at_a);
        assert!(matches!(error, LinkError::Incompatible(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("MinProtocol") && text.contains("bob"),
            "{text}"
        );
        assert!(at_b.is_empty() && !b.is_up());
    }
    // The other node dials.
    for (theirs, ours) in [
        (native("alice"), identity("bob")),
        (identity("alice"), native("bob")),
    ] {
        let (mut a, mut b) = (alice(theirs, credentials("bob")), bob(ours));
        let [at_a, at_b] = talk(&mut a, &mut b, &ring(must(credentials("alice"))), plainly);
        let error = down(&at_b);
        assert!(matches!(error, LinkError::Stranger(_)), "{error}");
        assert!(error.to_string().contains("alice"), "{error}");
        assert!(at_a.is_empty() && !a.is_up(), "it hears nothing");
    }
}

/// An attacker hides offers on the way. With one offer hidden there is no link; with both hidden
/// there is SPTPS, if that is allowed.
#[test]
fn hidden_offers_bring_no_link_up_that_policy_forbids() {
    let hide = |hidden: [bool; 2]| {
        move |from_a: bool, data: Bytes| match data.split(|byte| *byte == b'\n').next() {
            Some(line) if hidden[usize::from(!from_a)] && line.ends_with(b" native1") => {
                let rest = &data[line.len()..];
                [&line[..line.len() - b" native1".len()], rest].concat()
            }
            _ => data.to_vec(),
        }
    };
    for native_only in [false, true] {
        let policy = |theirs| match native_only {
            true => must(theirs),
            false => theirs,
        };
        for hidden in [[true, false], [false, true], [true, true]] {
            let mut a = alice(native("alice"), policy(credentials("bob")));
            let mut b = bob(native("bob"));
            let ring = ring(policy(credentials("alice")));
            talk(&mut a, &mut b, &ring, hide(hidden));
            // A link that waits for more bytes gets them.
            for link in [&mut a, &mut b] {
                let started = link.started;
                hear(link, &[0; 5000], &ring, started);
            }
            let [at_a, at_b] = talk(&mut a, &mut b, &ring, hide([false; 2]));
            let ups = [at_a, at_b].concat();
            let ups = ups.iter().filter(|e| matches!(e, LinkEvent::Up(_))).count();
            assert_eq!(ups, 0, "{native_only} {hidden:?}");
        }
    }
    let mut a = alice(native("alice"), credentials("bob"));
    let mut b = bob(native("bob"));
    talk(&mut a, &mut b, &ring(credentials("alice")), hide([true; 2]));
    assert_eq!(
        (dialect(&a), dialect(&b)),
        (SPTPS, SPTPS),
        "no policy forbids it"
    );
}

#[test]
fn any_other_edit_of_an_id_line_breaks_the_handshake() {
    let edits: [(&[u8], &[u8]); 4] = [
        (ID_A, b"0 alice 17.7 native1 more\n"),
        (ID_A, b"0 alice 17.6 native1\n"),
        (ID_B, b"0 bob 17.7  native1\n"),
        (ID_B, b"0 bob 17.8 native1\n"),
    ];
    for (sent, received) in edits {
        let mut a = alice(native("alice"), credentials("bob"));
        let mut b = bob(native("bob"));
        let [at_a, at_b] = talk(
            &mut a,
            &mut b,
            &ring(credentials("alice")),
            |_, data| match data == sent {
                true => received.to_vec(),
                false => data.to_vec(),
            },
        );
        assert!(at_a.is_empty() && !a.is_up());
        assert!(matches!(down(&at_b), LinkError::Stranger(_)));
    }
}

#[test]
fn the_acceptor_says_nothing_but_its_id_line_before_message_1() {
    let mut b = bob(native("bob"));
    feed(&mut b, ID_A);
    assert_eq!(&b.take_output()[..], ID_B);
    let mut a = alice(native("alice"), credentials("bob"));
    assert_eq!(&a.take_output()[..], ID_A);
    feed(&mut a, ID_B);
    assert_eq!(a.take_output().len(), LENGTH + MSG1_OVERHEAD + 1);
}

#[test]
fn a_replayed_first_message_brings_nothing_up() {
    let mut sent = Vec::new();
    let (mut a, mut b) = (
        alice(native("alice"), credentials("bob")),
        bob(native("bob")),
    );
    talk(
        &mut a,
        &mut b,
        &ring(credentials("alice")),
        |from_a, data| {
            if from_a {
                sent.extend_from_slice(&data);
            }
            data.to_vec()
        },
    );
    assert!(a.is_up() && b.is_up());

    let fresh = || Link::accept(native("bob"), TIMEOUT, Rng::new([9; 32]), now());
    let mut again = fresh();
    feed(&mut again, &sent[..ID_A.len() + LENGTH + MSG1_OVERHEAD + 1]);
    assert!(!again.take_output().is_empty() && !again.is_up());
    again.handle_timeout(again.started + TIMEOUT);
    assert_eq!(
        drain(&mut again),
        [LinkEvent::Down(LinkError::AuthTimeout(5))]
    );

    let mut again = fresh();
    feed(&mut again, &sent);
    assert!(matches!(
        drain(&mut again)[..],
        [LinkEvent::Down(LinkError::Stranger(_))]
    ));
}

#[test]
fn the_wrong_key_secret_or_name_is_refused() {
    // Mallory claims to be alice.
    let mut a = alice(offering("alice", "mallory", Aeads::ALL), credentials("bob"));
    let mut b = bob(native("bob"));
    let [at_a, at_b] = talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
    assert!(matches!(down(&at_b), LinkError::Stranger(why) if why.contains("alice")));
    assert!(at_a.is_empty() && !a.is_up());

    // Mallory answers for bob.
    let mut a = alice(native("alice"), credentials("bob"));
    let mut b = bob(offering("bob", "mallory", Aeads::ALL));
    let [at_a, at_b] = talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
    assert!(matches!(down(&at_b), LinkError::Stranger(_)) && at_a.is_empty());

    // Carol, a known node, claims to be alice.
    let mut a = alice(offering("alice", "carol", Aeads::ALL), credentials("bob"));
    let mut b = bob(native("bob"));
    let [_, at_b] = talk(&mut a, &mut b, &keys(), plainly);
    assert!(matches!(down(&at_b), LinkError::Stranger(_)));

    for (at_alice, at_bob, fits) in [(1, 1, true), (1, 2, false), (0, 1, false), (1, 0, false)] {
        let mut a = alice(native("alice"), with_psk(credentials("bob"), at_alice));
        let mut b = bob(native("bob"));
        let ring = ring(with_psk(credentials("alice"), at_bob));
        let [at_a, _] = talk(&mut a, &mut b, &ring, plainly);
        assert_eq!((a.is_up(), b.is_up()), (fits, fits));
        if !fits {
            let text = down(&at_a).to_string();
            assert!(
                text.contains("bob") && text.contains("PresharedKeyFile"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_node_may_prove_the_key_that_it_changes_to() {
    for speaks in [native as fn(&str) -> Arc<Identity>, identity] {
        let rotating = |of: &str, next: &str| {
            let next = key(next).public();
            let mut both = credentials(of);
            both.next = Some(next);
            both.native.push(StaticPublic::of(&next));
            both
        };
        let with_key = |of: &str, key_of: &str| {
            let proto = speaks(key_of);
            Arc::new(Identity {
                name: name(of),
                sptps: true,
                rsa: None,
                key: proto.key.clone(),
                native: proto.native.clone(),
            })
        };
        for (key_of, accepted) in [("alice", true), ("new", true), ("mallory", false)] {
            let mut a = alice(with_key("alice", key_of), credentials("bob"));
            let mut b = bob(speaks("bob"));
            talk(&mut a, &mut b, &ring(rotating("alice", "new")), plainly);
            assert_eq!((a.is_up(), b.is_up()), (accepted, accepted), "{key_of}");
        }
        for (key_of, accepted) in [("bob", true), ("new", true), ("mallory", false)] {
            // A native dialler addresses one of the keys: the shell tries them in turn.
            let up = (0..2).any(|turn| {
                let mut theirs = rotating("bob", "new");
                theirs.native.rotate_left(turn);
                let mut a = alice(speaks("alice"), theirs);
                let mut b = bob(with_key("bob", key_of));
                talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
                a.is_up()
            });
            assert_eq!(up, accepted, "{key_of}");
        }
    }
}

#[test]
fn the_aead_is_one_that_both_accept() {
    for (ours, theirs, up) in [
        (Aeads::ALL, Aeads::ALL, true),
        (Aeads::PORTABLE, Aeads::ALL, true),
        (Aeads::ALL, Aeads::PORTABLE, true),
        (Aeads(0xff), Aeads::PORTABLE, true),
        (Aeads(2), Aeads::PORTABLE, false),
        (Aeads(0x80), Aeads::ALL, false),
    ] {
        let mut a = alice(offering("alice", "alice", ours), credentials("bob"));
        let mut b = bob(offering("bob", "bob", theirs));
        talk(&mut a, &mut b, &ring(credentials("alice")), plainly);
        assert_eq!((a.is_up(), b.is_up()), (up, up), "{ours:?} {theirs:?}");
    }
}

/// T36: the bytes held for a stranger are bounded.
#[test]
fn claims_before_authentication_are_bounded() {
    for claim in [
        0,
        MSG1_OVERHEAD - 1,
        MAX_HANDSHAKE,
        MAX_HANDSHAKE + 1,
        0xffff,
    ] {
        let mut b = bob(native("bob"));
        feed(&mut b, ID_A);
        feed(&mut b, &u16::try_from(claim).unwrap().to_be_bytes());
        for _ in 0..4 {
            feed(&mut b, &[0; 700]);
            assert!(b.input.len() <= LENGTH + MAX_HANDSHAKE);
        }
        assert!(
            matches!(drain(&mut b)[..], [LinkEvent::Down(LinkError::Stranger(_))]),
            "{claim}"
        );
    }
}

proptest! {
    #[test]
    fn two_native_links_agree_under_any_chunking(
        cuts in proptest::collection::vec(1_usize..200, 1..8),
        sent in proptest::collection::vec("[ -~]{1,100}", 0..6),
        frame in proptest::collection::vec(any::<u8>(), 14..1674),
        datagram in proptest::collection::vec(any::<u8>(), 33..1707),
    ) {
        let mut a = alice(native("alice"), credentials("bob"));
        let mut b = bob(native("bob"));
        let [up_a, up_b] = converse(&mut a, &mut b, &cuts);
        let hello = |of: &str, outgoing, started| LinkEvent::Up(Hello {
            name: name(of), minor: 7, dialect: Dialect::Native, outgoing, started,
        });
        prop_assert_eq!(up_a, [hello("bob", true, a.started)]);
        prop_assert_eq!(up_b, [hello("alice", false, b.started)]);

        they_talk(&mut a, &mut b, &cuts, &sent, (&frame, &datagram))?;
    }

    /// F2: the events do not depend on the chunks, and few bytes are held.
    #[test]
    fn garbage_is_refused_alike_in_any_chunks(
        length in 0_u16..3000,
        garbage in proptest::collection::vec(any::<u8>(), 0..10_000),
        cut in 1_usize..5_000,
    ) {
        let data = [ID_A, &length.to_be_bytes(), &garbage].concat();
        let (mut whole, mut pieces) = (bob(native("bob")), bob(native("bob")));
        feed(&mut whole, &data);
        for piece in data.chunks(cut) {
            feed(&mut pieces, piece);
            prop_assert!(pieces.input.len() <= MAX_PREAUTH);
        }
        prop_assert_eq!(drain(&mut whole), drain(&mut pieces));
        prop_assert_eq!(whole.take_output(), pieces.take_output());
        prop_assert!(!whole.is_up());
    }

    /// After any flipped bit in any handshake message the acceptor never comes up.
    #[test]
    fn a_flipped_bit_ends_the_handshake(
        which in 0_usize..5,
        at in any::<proptest::sample::Index>(),
    ) {
        let mut a = alice(native("alice"), credentials("bob"));
        let mut b = bob(native("bob"));
        let ring = keys();
        let mut seen = 0;
        let mut events = talk(&mut a, &mut b, &ring, |_, data| {
            let mut data = data.to_vec();
            if !data.is_empty() {
                if seen == which {
                    let bit = at.index(data.len() * 8);
                    data[bit / 8] ^= 1 << (bit % 8);
                }
                seen += 1;
            }
            data
        });
        prop_assert!(seen > which);
        // A link that waits for the rest of a longer message gets it.
        for (link, events) in [&mut a, &mut b].into_iter().zip(&mut events) {
            let started = link.started;
            hear(link, &[0x55; 10_000], &ring, started);
            events.extend(drain(link));
        }
        let ups = |events: &[LinkEvent]| events.iter().any(|e| matches!(e, LinkEvent::Up(_)));
        prop_assert!(!ups(&events[1]));
        prop_assert!(!ups(&events[0]) || which == 4, "only READY comes after the dialler is up");
        prop_assert!(matches!(down(&events[1]), LinkError::Stranger(_)));
        prop_assert!(a.is_dead() && b.is_dead());
    }
}
