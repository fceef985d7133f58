//! Legacy links against each other, against recordings of real daemons, and against hostile bytes.

use std::cell::RefCell;

use super::*;
use meshd_crypto::rsa::{RsaPrivate, RsaPublic};

/// Keys of two real daemons: "alpha" is our alice, "beta" is bob, who also stands for all others.
pub(in crate::link) fn rsa(of: &str) -> Arc<RsaPrivate> {
    let text = include_str!("../../../../tests/vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let daemon = if of == "alice" { "alpha" } else { "beta" };
    let pem = vectors["rsa_keys"][daemon]["private_pem"].as_str().unwrap();
    Arc::new(RsaPrivate::from_pem(pem).unwrap())
}

pub(in crate::link) fn speaker(of: &str, sptps: bool) -> Arc<Identity> {
    Arc::new(Identity {
        name: name(of),
        key: Arc::new(key(of)),
        sptps,
        rsa: Some(rsa(of)),
        native: None,
    })
}

/// Credentials of a node with these keys.
pub(in crate::link) fn known(of: &str, ed25519: bool, legacy: bool) -> Credentials {
    let rsa: Option<RsaPublic> = legacy.then(|| rsa(of).public());
    Credentials {
        key: ed25519.then(|| key(of).public()),
        native: Vec::new(),
        rsa,
        legacy,
        ..credentials(of)
    }
}

pub(super) struct Ring {
    keys: BTreeMap<NodeName, Credentials>,
    /// Has one RSA operation, at the time of the ring.
    rsa: RefCell<RsaBudget>,
    at: Instant,
}

impl Ring {
    /// Feeds a link, and answers what it needs.
    pub(super) fn feed(&self, link: &mut Link, data: &[u8]) {
        let rsa = &mut self.rsa.borrow_mut();
        link.handle_bytes(data, rsa, self.at);
        if let Some(name) = link.needs().cloned() {
            link.handle_credentials(self.keys.get(&name).cloned(), rsa, self.at);
        }
    }
}

pub(super) fn ring(theirs: Credentials) -> Ring {
    let at = now();
    Ring {
        keys: BTreeMap::from([(name("alice"), theirs)]),
        rsa: RefCell::new(RsaBudget::of(1, at)),
        at,
    }
}

pub(super) fn alice(local: Arc<Identity>, bob: Credentials) -> Link {
    Link::dial(local, name("bob"), bob, TIMEOUT, Rng::new([1; 32]), now())
}

pub(super) fn bob(local: Arc<Identity>) -> Link {
    Link::accept(local, TIMEOUT, Rng::new([2; 32]), now())
}

/// Carries bytes both ways until both sides are silent.
pub(super) fn talk(a: &mut Link, b: &mut Link, ring: &Ring, cut: usize) -> [Vec<LinkEvent>; 2] {
    let mut events = [Vec::new(), Vec::new()];
    loop {
        let (from_a, from_b) = (a.take_output(), b.take_output());
        if from_a.is_empty() && from_b.is_empty() {
            return events;
        }
        from_a.chunks(cut).for_each(|piece| ring.feed(b, piece));
        from_b.chunks(cut).for_each(|piece| ring.feed(a, piece));
        events[0].extend(drain(a));
        events[1].extend(drain(b));
    }
}

fn dialect_of(events: &[LinkEvent]) -> Option<(Dialect, u8)> {
    match events.first()? {
        LinkEvent::Up(hello) => Some((hello.dialect, hello.minor)),
        _ => None,
    }
}

#[test]
fn two_nodes_without_ed25519_keys_talk_however_bytes_are_cut() {
    for cut in [1, 7, 536, usize::MAX] {
        let mut a = alice(speaker("alice", false), known("bob", false, true));
        let mut b = bob(speaker("bob", true));
        let ring = ring(known("alice", false, true));
        let events = talk(&mut a, &mut b, &ring, cut);
        for events in &events {
            assert_eq!(dialect_of(events), Some((Dialect::Legacy, 0)), "{events:?}");
        }
        {
            let (from, to) = (&mut a, &mut b);
            from.send_line(b"10 1 alice 10.0.0.1/32");
            assert!(from.send_frame(&[7; 1518]));
            assert!(!from.send_frame(&[7; 13]) && !from.send_relayed(&[7; 100]));
            from.send_line(b"8");
            let sent = from.take_output();
            assert!(
                !sent.windows(5).any(|text| text == b"alice"),
                "it is encrypted"
            );
            sent.chunks(cut).for_each(|piece| ring.feed(to, piece));
            let expected = [
                LinkEvent::Line(Bytes::from_static(b"10 1 alice 10.0.0.1/32")),
                LinkEvent::Frame(Bytes::from(vec![7; 1518])),
                LinkEvent::Line(Bytes::from_static(b"8")),
            ];
            assert_eq!(drain(to), expected);
        }
    }
}

/// Dialect that results from the keys and dialects of both ends.
#[test]
fn legacy_is_spoken_only_where_nothing_better_is_and_nobody_forbids_it() {
    use Dialect::{Legacy, Sptps};
    // Columns: alice speaks SPTPS; bob knows her Ed25519 key; bob may use her RSA key.
    for (sptps, ed25519, legacy, expected) in [
        (true, true, true, Some(Sptps)),
        (true, true, false, Some(Sptps)),
        (false, true, true, Some(Legacy)),
        (false, false, true, Some(Legacy)),
        // T24: legacy is not spoken with a node that has an Ed25519 key, unless its host file
        // allows it.
        (false, true, false, None),
    ] {
        let mut a = alice(speaker("alice", sptps), known("bob", sptps, !sptps));
        let mut b = bob(speaker("bob", true));
        let ring = ring(known("alice", ed25519, legacy));
        let [_, events] = talk(&mut a, &mut b, &ring, usize::MAX);
        let dialect = dialect_of(&events).map(|(dialect, _)| dialect);
        assert_eq!(dialect, expected, "{sptps} {ed25519} {legacy}: {events:?}");
        if expected.is_none() {
            let LinkError::Stranger(why) = down(&events) else {
                panic!("{events:?}");
            };
            assert!(why.contains("MinProtocol = legacy in hosts/alice"), "{why}");
        }
    }
}

/// Answer of the acceptor to an ID line of a known node and these bytes.
fn after_id(id: &str, more: &[u8]) -> (Link, Vec<u8>, Vec<LinkEvent>) {
    let mut b = bob(speaker("bob", true));
    let ring = ring(known("alice", false, true));
    ring.feed(&mut b, id.as_bytes());
    ring.feed(&mut b, more);
    let said = b.take_output().to_vec();
    let events = drain(&mut b);
    (b, said, events)
}

/// T01: no byte is sent before an ID line, and no CHAL_REPLY or ACK to an unauthenticated peer. Our
/// own name is refused.
#[test]
fn strangers_learn_nothing() {
    let (_, said, _) = after_id("", b"");
    assert!(said.is_empty());
    let (_, said, events) = after_id("0 bob 17\n", b"");
    assert!(said.is_empty() && matches!(down(&events), LinkError::Stranger(_)));
    let (_, said, events) = after_id("0 mallory 17\n", b"");
    assert!(said.is_empty() && matches!(down(&events), LinkError::Stranger(_)));

    // A METAKEY that anybody can make, a challenge, and no answer to ours.
    let mut rng = Rng::new([9; 32]);
    let mut secret = vec![0; 256];
    rng.fill(&mut secret[1..]);
    let sealed = rsa("bob").public().encrypt(&secret).unwrap();
    let hex = data_encoding::HEXUPPER.encode(&sealed);
    let mut bytes = format!("1 429 672 0 0 {hex}\n").into_bytes();
    let mut stream = meshd_crypto::stream::StreamCipher::ours().encrypt(&secret);
    let mut challenge = format!("2 {}\n", "AB".repeat(256)).into_bytes();
    stream.apply(&mut challenge);
    bytes.extend_from_slice(&challenge);
    let (mut link, said, events) = after_id("0 alice 17\n", &bytes);
    assert_eq!(events, []);
    let text = String::from_utf8_lossy(&said);
    assert!(text.starts_with("0 bob 17\n1 429 672 0 0 "), "{text}");
    // ID, METAKEY and CHALLENGE, which has as many bytes as the digits of 256, and three more.
    let first = text.match_indices('\n').nth(1).unwrap().0;
    assert_eq!(said.len() - (first + 1), 2 + 512 + 1);

    // A wrong answer ends the link, and gets no answer either.
    let mut reply = format!("3 {}\n", "00".repeat(32)).into_bytes();
    stream.apply(&mut reply);
    ring(known("alice", false, true)).feed(&mut link, &reply);
    assert!(link.take_output().is_empty());
    assert!(matches!(down(&drain(&mut link)), LinkError::Stranger(_)));
}

/// T02 and T07: METAKEYs with an unknown cipher or digest, or of a wrong length.
#[test]
fn odd_metakeys_are_refused() {
    let hex = "0A".repeat(256);
    for line in [
        format!("1 0 672 0 0 {hex}\n"),
        format!("1 429 0 0 0 {hex}\n"),
        format!("1 427 672 0 0 {hex}\n"),
        format!("1 94 64 0 0 {hex}\n"),
        format!("1 429 4 0 0 {hex}\n"),
        format!("1 429 672 0 0 {}\n", &hex[2..]),
        format!("1 429 672 0 0 {hex}00\n"),
        format!("1 429 672 0 0 {}\n", "FF".repeat(256)),
        "1 429 672 0 0\n".to_owned(),
        "2 AB\n".to_owned(),
        "10 1 alice 10.0.0.1\n".to_owned(),
        "x".repeat(MAX_LINE + 1),
    ] {
        let (_, _, events) = after_id("0 alice 17\n", line.as_bytes());
        assert!(matches!(down(&events), LinkError::Stranger(_)), "{line}");
    }
}

/// T37: RSA operations for strangers are counted; a stranger beyond the limit is refused.
#[test]
fn there_is_not_always_time_for_strangers() {
    let ring = ring(known("alice", false, true));
    for expected in [true, false] {
        let mut a = alice(speaker("alice", false), known("bob", false, true));
        let mut b = bob(speaker("bob", true));
        talk(&mut a, &mut b, &ring, usize::MAX);
        assert_eq!(b.is_up(), expected);
    }
}

/// A key that differs from the host file, on either side.
#[test]
fn only_the_holder_of_the_key_gets_in() {
    for (caller, called) in [("carol", "bob"), ("alice", "alice")] {
        // The caller has the key of `caller`, but claims to be alice, whose key the other end
        // expects. The same at the other end.
        let identity = |of: &str, key_of: &str| {
            Arc::new(Identity {
                name: name(of),
                key: Arc::new(key(of)),
                sptps: false,
                rsa: Some(rsa(key_of)),
                native: None,
            })
        };
        let mut a = alice(identity("alice", caller), known("bob", false, true));
        let mut b = bob(identity("bob", called));
        let ring = ring(known("alice", false, true));
        talk(&mut a, &mut b, &ring, usize::MAX);
        assert!(!a.is_up() && !b.is_up(), "{caller} {called}");
    }
}

/// T03: PACKETs of every length, and the data behind them.
#[test]
fn packets_of_odd_lengths() {
    for (length, delivered, alive) in [
        (0, false, true),
        (1, false, true),
        (13, false, true),
        (14, true, true),
        (1518, true, true),
        (1673, true, true),
        (1674, false, true),
        (2176, false, true),
        (2177, false, false),
        (9018, false, false),
        (65_535, false, false),
    ] {
        let mut a = alice(speaker("alice", false), known("bob", false, true));
        let mut b = bob(speaker("bob", true));
        let ring = ring(known("alice", false, true));
        talk(&mut a, &mut b, &ring, usize::MAX);
        // Sent as a line, so that the length is not checked.
        a.send_line(format!("17 {length}").as_bytes());
        if let Phase::Legacy(_, legacy) = &mut a.phase {
            legacy.write_raw(&vec![3; length], &mut a.output);
        }
        a.send_line(b"8");
        let data = a.take_output();
        data.chunks(500).for_each(|piece| ring.feed(&mut b, piece));
        let events = drain(&mut b);
        let frames = events
            .iter()
            .filter(|event| matches!(event, LinkEvent::Frame(_)));
        assert_eq!(
            frames.count(),
            usize::from(delivered),
            "{length}: {events:?}"
        );
        assert_eq!(b.is_up(), alive, "{length}");
        let ping = LinkEvent::Line(Bytes::from_static(b"8"));
        assert_eq!(events.contains(&ping), alive, "{length}");
    }
}

proptest! {
    // Each case makes and uses RSA keys.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rubbish_never_panics(data in proptest::collection::vec(any::<u8>(), 0..3000), up: bool) {
        let mut a = alice(speaker("alice", false), known("bob", false, true));
        let mut b = bob(speaker("bob", true));
        let ring = ring(known("alice", false, true));
        if up {
            talk(&mut a, &mut b, &ring, usize::MAX);
        } else {
            ring.feed(&mut b, b"0 alice 17\n");
        }
        data.chunks(97).for_each(|piece| ring.feed(&mut b, piece));
        prop_assert!(b.input.len() <= MAX_PREAUTH);
    }
}
