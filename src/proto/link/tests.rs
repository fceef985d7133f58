//! Links against each other and against hostile bytes.

pub(super) mod legacy;
mod lengths;
mod native;
mod renewal;
mod upgrade;

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use meshd_crypto::{PrivateKey, Rng, sptps::SIG};

const TIMEOUT: Duration = Duration::from_secs(5);

struct Keys(BTreeMap<NodeName, Credentials>);

/// Feeds a link, and answers what it needs from these keys.
fn hear(link: &mut Link, data: &[u8], keys: &Keys, now: Instant) {
    let mut rsa = RsaBudget::new(now);
    link.handle_bytes(data, &mut rsa, now);
    if let Some(name) = link.needs().cloned() {
        link.handle_credentials(keys.0.get(&name).cloned(), &mut rsa, now);
    }
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn key(of: &str) -> PrivateKey {
    let mut seed = [0; 32];
    seed[..of.len()].copy_from_slice(of.as_bytes());
    PrivateKey::from_seed(&seed)
}

pub(super) fn identity(of: &str) -> Arc<Identity> {
    Arc::new(Identity {
        name: name(of),
        key: Arc::new(key(of)),
        sptps: true,
        rsa: None,
        native: None,
    })
}

pub(super) fn credentials(of: &str) -> Credentials {
    Credentials::of(key(of).public())
}

/// A keyring with the key of every node of these tests.
fn keys() -> Keys {
    let nodes = ["alice", "bob", "carol"];
    Keys(nodes.map(|n| (name(n), credentials(n))).into())
}

/// The clock of the tests stands still: only the handshake deadline reads it.
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
pub(super) fn now() -> Instant {
    Instant::now()
}

fn dial(from: &str, to: &str) -> Link {
    let rng = Rng::new([1; 32]);
    Link::dial(
        identity(from),
        name(to),
        credentials(to),
        TIMEOUT,
        rng,
        now(),
    )
}

fn accept(at: &str) -> Link {
    Link::accept(identity(at), TIMEOUT, Rng::new([2; 32]), now())
}

fn drain(link: &mut Link) -> Vec<LinkEvent> {
    std::iter::from_fn(|| link.poll_event()).collect()
}

fn feed(link: &mut Link, data: &[u8]) {
    hear(link, data, &keys(), now());
}

/// Carries bytes both ways, cut into pieces of `cuts`, until both sides are silent.
fn converse(a: &mut Link, b: &mut Link, cuts: &[usize]) -> [Vec<LinkEvent>; 2] {
    let mut cuts = cuts.iter().copied().cycle();
    let mut events = [vec![], vec![]];
    loop {
        let from_a = a.take_output();
        let from_b = b.take_output();
        if from_a.is_empty() && from_b.is_empty() {
            return events;
        }
        a.written(from_a.len());
        b.written(from_b.len());
        for (data, to) in [(from_a, &mut *b), (from_b, &mut *a)] {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                feed(to, piece);
                rest = others;
            }
        }
        events[0].extend(drain(a));
        events[1].extend(drain(b));
    }
}

/// Two links that are up, with no event left.
fn pair() -> (Link, Link) {
    let (mut a, mut b) = (dial("alice", "bob"), accept("bob"));
    converse(&mut a, &mut b, &[usize::MAX]);
    assert!(a.is_up() && b.is_up());
    (a, b)
}

fn carry(from: &mut Link, to: &mut Link) -> Vec<LinkEvent> {
    let data = from.take_output();
    from.written(data.len());
    feed(to, &data);
    drain(to)
}

fn down(events: &[LinkEvent]) -> &LinkError {
    let Some(LinkEvent::Down(error)) = events.last() else {
        panic!("not down: {events:?}");
    };
    error
}

/// Error of the acceptor bob when a stranger sends `data` at once.
fn refused(data: &[u8]) -> LinkError {
    let mut link = accept("bob");
    feed(&mut link, data);
    assert!(link.take_output().is_empty(), "silent towards strangers");
    down(&drain(&mut link)).clone()
}

/// Lines and packets of two links that are up arrive whole and in order, regardless of how the
/// bytes are cut.
fn they_talk(
    a: &mut Link,
    b: &mut Link,
    cuts: &[usize],
    sent: &[String],
    (frame, datagram): (&[u8], &[u8]),
) -> Result<(), TestCaseError> {
    let mut expected = Vec::new();
    for line in sent {
        let line = format!("9 {line}");
        a.send_line(line.as_bytes());
        prop_assert!(a.send_frame(frame));
        prop_assert!(a.send_relayed(datagram));
        b.send_line(b"9");
        expected.extend([
            LinkEvent::Line(line.into()),
            LinkEvent::Frame(Bytes::copy_from_slice(frame)),
            LinkEvent::Relayed(Bytes::copy_from_slice(datagram)),
        ]);
    }
    let [got_a, got_b] = converse(a, b, cuts);
    prop_assert_eq!(got_b, expected);
    prop_assert_eq!(got_a, vec![LinkEvent::Line("9".into()); sent.len()]);
    prop_assert_eq!((a.queued(), b.queued()), (0, 0));
    Ok(())
}

/// One bit of two records is changed on the way between two links that are up.
fn a_flipped_bit_is_felt(
    a: &mut Link,
    b: &mut Link,
    at: proptest::sample::Index,
) -> Result<(), TestCaseError> {
    a.send_line(b"8");
    a.send_line(b"9");
    let mut data = a.take_output().to_vec();
    let bit = at.index(data.len() * 8);
    data[bit / 8] ^= 1 << (bit % 8);
    feed(b, &data);
    feed(b, &[0; 70_000]);
    let events = drain(b);
    prop_assert!(matches!(down(&events), LinkError::Misbehaved(_)));
    prop_assert!(!down(&events).hold());
    prop_assert!(events.len() <= 2, "at most the first line came through");
    Ok(())
}

proptest! {
    #[test]
    fn two_links_agree_under_any_chunking(
        cuts in proptest::collection::vec(1_usize..200, 1..8),
        lines in proptest::collection::vec("[ -~]{1,100}", 0..6),
        frame in proptest::collection::vec(any::<u8>(), 14..1674),
        datagram in proptest::collection::vec(any::<u8>(), 33..1707),
    ) {
        let (mut a, mut b) = (dial("alice", "bob"), accept("bob"));
        let [up_a, up_b] = converse(&mut a, &mut b, &cuts);
        let hello = |of: &str, outgoing, started| LinkEvent::Up(Hello {
            name: name(of), minor: 7, dialect: Dialect::Sptps, outgoing, started,
        });
        prop_assert_eq!(up_a, [hello("bob", true, a.started)]);
        prop_assert_eq!(up_b, [hello("alice", false, b.started)]);
        prop_assert_eq!((a.poll_timeout(), b.poll_timeout()), (None, None));

        they_talk(&mut a, &mut b, &cuts, &lines, (&frame, &datagram))?;
    }

    /// F2: the events do not depend on the chunks, and few bytes are held.
    #[test]
    fn garbage_before_authentication_is_refused_alike_in_any_chunks(
        start in prop_oneof![Just(""), Just("0 alice 17.7\n"), Just("0 carol 17."), Just("0 ^x 17.7\n")],
        garbage in proptest::collection::vec(any::<u8>(), 0..10_000),
        cut in 1_usize..5_000,
    ) {
        let data = [start.as_bytes(), &garbage].concat();
        let (mut whole, mut pieces) = (accept("bob"), accept("bob"));
        feed(&mut whole, &data);
        for piece in data.chunks(cut) {
            feed(&mut pieces, piece);
            prop_assert!(pieces.input.len() <= MAX_PREAUTH);
        }
        prop_assert_eq!(drain(&mut whole), drain(&mut pieces));
        prop_assert_eq!(whole.take_output(), pieces.take_output());
        prop_assert!(!whole.is_up());
    }

    #[test]
    fn a_flipped_bit_on_the_way_ends_the_link(at: proptest::sample::Index) {
        let (mut a, mut b) = pair();
        a_flipped_bit_is_felt(&mut a, &mut b, at)?;
    }
}

/// A link that waits for credentials keeps the bytes behind the ID line, and not more than a bound.
#[test]
fn a_link_waits_for_credentials_with_the_bytes_that_it_kept() {
    let (mut a, mut rsa) = (dial("alice", "bob"), RsaBudget::new(now()));
    let id = a.take_output();
    let answer = |link: &mut Link, rsa: &mut RsaBudget| {
        link.handle_credentials(Some(credentials("alice")), rsa, now());
    };
    let mut server = accept("bob");
    server.handle_bytes(&id, &mut rsa, now());
    answer(&mut server, &mut rsa);
    hear(&mut a, &server.take_output(), &keys(), now());
    let handshake = a.take_output();

    let mut bob = accept("bob");
    bob.handle_bytes(&[&id[..], &handshake].concat(), &mut rsa, now());
    assert_eq!(bob.needs(), Some(&name("alice")));
    assert!(bob.take_output().is_empty() && bob.poll_event().is_none());
    answer(&mut bob, &mut rsa);
    assert_eq!(bob.needs(), None);
    // Both acceptors make the same keys, so the bytes for the one fit the other.
    assert!(matches!(drain(&mut bob)[..], [LinkEvent::Up(_)]));

    let mut bob = accept("bob");
    bob.handle_bytes(&id, &mut rsa, now());
    bob.handle_bytes(&[0; MAX_WAITING], &mut rsa, now());
    assert!(bob.needs().is_some() && bob.input.len() == MAX_WAITING);
    bob.handle_bytes(&[0], &mut rsa, now());
    assert!(matches!(down(&drain(&mut bob)), LinkError::Stranger(_)));
}

#[test]
fn the_answer_to_an_id_line_is_one_write() {
    let mut bob = accept("bob");
    assert!(bob.take_output().is_empty());
    feed(&mut bob, b"0 alice 17.");
    assert!(bob.take_output().is_empty());
    assert_eq!(bob.peer(), None);
    feed(&mut bob, b"7\n");
    let answer = bob.take_output();
    assert!(answer.starts_with(b"0 bob 17.7\n\x00\x41\x80"));
    assert_eq!(answer.len(), 11 + 3 + 65);
    assert_eq!(bob.peer(), Some(&name("alice")));
    assert!(!bob.is_up());
}

/// T01, T11, T34: a peer that is no known node gets no byte, even if the peer claims a known name.
#[test]
fn strangers_get_silence() {
    for line in [
        "0 mallory 17.7\n",
        "0 bob 17.7\n",
        "0 ^0123456789abcdef 17.0\n",
        "0 ?SH7izHD3Kc/7XQ7Whx3VAxH4/4EDS6C9ClA6/m8oLAP 17.1\n",
        "0 ../alice 17.7\n",
        "0 alice 18.7\n",
        "0 alice 17\n",
        "0 alice 17.1\n",
        "1 94 64 0 0 AABB\n",
        "GET / HTTP/1.1\r\n",
        "\n",
    ] {
        let error = refused(line.as_bytes());
        assert!(matches!(error, LinkError::Stranger(_)), "{line:?}: {error}");
        assert!(error.hold());
    }
    assert_eq!(
        refused(b"0 ^secret 17.0\n").hold(),
        refused(b"0 eve 17.0\n").hold()
    );
}

/// T36: the bytes held for a stranger are bounded.
#[test]
fn claims_before_authentication_are_bounded() {
    assert!(matches!(
        refused(&[b'0'; MAX_LINE + 1]),
        LinkError::Stranger(_)
    ));
    for claim in [0_u16, 64, 66, 2176, 0xffff] {
        let mut bob = accept("bob");
        feed(&mut bob, b"0 alice 17.7\n");
        assert!(drain(&mut bob).is_empty());
        feed(&mut bob, &claim.to_be_bytes());
        let events = drain(&mut bob);
        assert!(matches!(down(&events), LinkError::Stranger(_)), "{claim}");
    }
}

#[test]
fn remote_text_in_errors_is_escaped_and_cut() {
    let mut line = b"\x1b[31m\r".to_vec();
    line.extend_from_slice(&[b'a'; 1000]);
    line.push(b'\n');
    let text = refused(&line).to_string();
    assert!(text.contains("\\u{1b}") && text.len() < 250, "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn a_silent_stranger_is_dropped_at_the_deadline() {
    let mut bob = accept("bob");
    let deadline = bob.poll_timeout().unwrap();
    assert_eq!(deadline, bob.started + TIMEOUT);
    feed(&mut bob, b"0 alice 17.7\n");
    bob.handle_timeout(deadline - Duration::from_millis(1));
    assert!(drain(&mut bob).is_empty());
    bob.handle_timeout(deadline);
    assert_eq!(
        drain(&mut bob),
        [LinkEvent::Down(LinkError::AuthTimeout(5))]
    );
    assert_eq!(bob.poll_timeout(), None);
    let patient = Link::accept(
        identity("bob"),
        Duration::from_secs(60),
        Rng::new([0; 32]),
        now(),
    );
    assert_eq!(patient.poll_timeout(), Some(patient.started + MAX_AUTH));
}

#[test]
fn the_wrong_key_ends_the_handshake_on_either_side() {
    // Mallory claims to be alice.
    let mallory = Arc::new(Identity {
        name: name("alice"),
        key: Arc::new(key("mallory")),
        sptps: true,
        rsa: None,
        native: None,
    });
    let rng = Rng::new([1; 32]);
    let theirs = credentials("bob");
    let mut a = Link::dial(mallory, name("bob"), theirs, TIMEOUT, rng, now());
    let mut b = accept("bob");
    let [_, at_bob] = converse(&mut a, &mut b, &[7]);
    let error = down(&at_bob);
    assert!(matches!(error, LinkError::Stranger(_)) && error.to_string().contains("alice"));
    assert!(b.take_output().is_empty());

    // Mallory answers for bob.
    let mallory = Arc::new(Identity {
        name: name("bob"),
        key: Arc::new(key("mallory")),
        sptps: true,
        rsa: None,
        native: None,
    });
    let mut a = dial("alice", "bob");
    let mut b = Link::accept(mallory, TIMEOUT, Rng::new([2; 32]), now());
    let [at_alice, _] = converse(&mut a, &mut b, &[7]);
    assert!(matches!(down(&at_alice), LinkError::Misbehaved(_)));
    assert!(!a.is_up());
}

#[test]
fn a_dialled_node_must_be_the_one_that_answers() {
    for (answer, incompatible) in [
        ("0 carol 17.7\n", false),
        ("0 alice 17.7\n", false),
        ("0 bob 17\n", true),
        ("0 bob 17.1\n", true),
        ("0 bob 18.7\n", true),
        ("hello\n", false),
        // The acceptor speaks SPTPS but does not know our key: METAKEY follows the ID line.
        ("0 bob 17.7\n1 94 64 0 0 AABB\n", true),
    ] {
        let mut alice = dial("alice", "bob");
        assert_eq!(&alice.take_output()[..], b"0 alice 17.7\n");
        feed(&mut alice, answer.as_bytes());
        let events = drain(&mut alice);
        let error = down(&events);
        assert_eq!(
            matches!(error, LinkError::Incompatible(_)),
            incompatible,
            "{error}"
        );
        assert!(!error.hold());
        assert!(alice.take_output().is_empty());
    }
}

#[test]
fn a_dead_link_stays_dead_and_silent() {
    let (mut a, mut b) = pair();
    feed(&mut b, &vec![0xff; 2 + 0xffff + 1 + 16]);
    assert!(matches!(down(&drain(&mut b)), LinkError::Misbehaved(_)));
    a.send_line(b"8");
    feed(&mut b, &a.take_output());
    b.send_line(b"9");
    assert!(!b.send_frame(&[0; 14]) && !b.send_relayed(&[0; 33]));
    b.handle_timeout(b.started + MAX_AUTH);
    assert!(drain(&mut b).is_empty() && b.take_output().is_empty() && !b.is_up());
}

#[test]
fn nothing_can_be_sent_before_authentication() {
    let mut a = dial("alice", "bob");
    let id = a.take_output();
    a.send_line(b"8");
    assert!(!a.send_frame(&[0; 14]) && !a.send_relayed(&[0; 33]));
    assert_eq!(a.queued(), id.len());
}

#[test]
fn a_replayed_handshake_is_refused() {
    let (mut a, mut b) = (dial("alice", "bob"), accept("bob"));
    let mut sent = Vec::new();
    while !b.is_up() {
        let from_a = a.take_output();
        sent.extend_from_slice(&from_a);
        feed(&mut b, &from_a);
        let from_b = b.take_output();
        feed(&mut a, &from_b);
    }
    assert!(sent.len() > SIG);
    let mut again = Link::accept(identity("bob"), TIMEOUT, Rng::new([9; 32]), now());
    feed(&mut again, &sent);
    assert!(matches!(down(&drain(&mut again)), LinkError::Stranger(_)));
}
