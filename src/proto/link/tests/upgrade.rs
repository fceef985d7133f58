//! UPGRADE: which node sends its Ed25519 key, depending on the keys that each node knows.

use super::{
    legacy::{alice, bob, known, ring, rsa, speaker, talk},
    *,
};

use meshd_crypto::PublicKey;

fn upgraded(events: &[LinkEvent]) -> Option<(PublicKey, bool)> {
    match events {
        [LinkEvent::Upgraded(upgraded)] => Some((upgraded.key, upgraded.sent_ours)),
        _ => None,
    }
}

/// Credentials of the other node: its RSA key, and perhaps more.
fn credentials(of: &str, ed25519: bool, upgrade: Upgrade, learn: bool) -> Credentials {
    Credentials {
        upgrade,
        learn,
        legacy: !ed25519,
        ..known(of, ed25519, true)
    }
}

/// Alice dials. Columns: she has bob's Ed25519 key; she stores keys; she dials for an UPGRADE; bob
/// has hers; he stores keys. Then the results of her and him: a link in legacy or SPTPS, the
/// other's key (and true if the own one was sent), or nothing. The last column is true if she
/// should try an UPGRADE next.
#[test]
fn keys_are_told_where_sptps_can_follow() {
    #[derive(Debug, PartialEq, Clone, Copy)]
    enum End {
        Up(Dialect),
        Key(bool),
        No,
    }
    use Dialect::{Legacy, Sptps};
    use End::{Key, No, Up};
    for (row, expected, another) in [
        // Neither node has a key, and neither would store one: legacy as before.
        ([0, 0, 0, 0, 0], [Up(Legacy); 2], false),
        // Both nodes store keys: both send theirs.
        ([0, 1, 0, 0, 1], [Key(true); 2], false),
        // One node would not store a key: legacy, because the other's SPTPS would be refused.
        ([0, 1, 0, 0, 0], [Up(Legacy); 2], false),
        ([0, 0, 0, 0, 1], [Up(Legacy); 2], false),
        // Bob has a key of alice, and legacy is not allowed: she gets his key when she asks for it.
        ([0, 0, 0, 1, 0], [No; 2], true),
        ([0, 1, 0, 1, 0], [Key(true); 2], false),
        // She does not store his key, so she does not send hers, which he has; he waits for it.
        ([0, 0, 1, 1, 0], [Key(false), No], false),
        // She has his key, he has none of hers.
        ([1, 0, 0, 0, 1], [Key(true); 2], false),
        ([1, 0, 1, 0, 1], [Key(true); 2], false),
        // He does not store her key, so he does not send his: he only receives hers.
        ([1, 0, 0, 0, 0], [No, Key(false)], false),
        // Both have both keys: no UPGRADE.
        ([1, 0, 0, 1, 0], [Up(Sptps); 2], false),
        ([1, 1, 0, 1, 1], [Up(Sptps); 2], false),
    ] {
        let [has, learns, due, had, taught] = row.map(|bit| bit == 1);
        let upgrade = if due { Upgrade::Due } else { Upgrade::Possible };
        let bobs = credentials("bob", has, upgrade, learns);
        let mut a = alice(speaker("alice", true), bobs);
        let mut b = bob(speaker("bob", true));
        let ring = ring(credentials("alice", had, Upgrade::Possible, taught));
        let events = talk(&mut a, &mut b, &ring, usize::MAX);
        let got = events
            .each_ref()
            .map(|events| match (dialect_of(events), upgraded(events)) {
                (Some(dialect), _) => Up(dialect),
                (_, Some((_, sent_ours))) => Key(sent_ours),
                _ => No,
            });
        assert_eq!(got, expected, "{row:?}: {events:?}");
        for (events, of) in events.iter().zip(["bob", "alice"]) {
            let wanted = key(of).public();
            assert!(upgraded(events).is_none_or(|(key, _)| key == wanted));
        }
        assert_eq!(a.wants_upgrade(), another, "{row:?}");
    }
}

fn dialect_of(events: &[LinkEvent]) -> Option<Dialect> {
    match events.first()? {
        LinkEvent::Up(hello) => Some(hello.dialect),
        _ => None,
    }
}

/// A node that answers an SPTPS ID line with METAKEY has no key of ours. Without RSA keys the link
/// ends.
#[test]
fn a_metakey_in_place_of_a_handshake_asks_for_an_upgrade() {
    for possible in [true, false] {
        let bobs = match possible {
            true => credentials("bob", true, Upgrade::Possible, false),
            false => known("bob", true, false),
        };
        let mut a = alice(speaker("alice", true), bobs);
        let ring = ring(known("alice", false, true));
        ring.feed(&mut a, b"0 bob 17.7\n1 429 672 0 0 00\n");
        let events = drain(&mut a);
        let LinkError::Incompatible(why) = down(&events) else {
            panic!("it is not the other end's fault");
        };
        assert!(why.contains("does not know our Ed25519 key"), "{why}");
        assert_eq!(a.wants_upgrade(), possible);
    }
}

/// A key that differs from the host file, or no key, is not accepted, whatever RSA key is proven.
/// Only the RSA key of the host file is accepted.
#[test]
fn another_key_than_that_of_the_host_file_is_not_taken() {
    for (ed25519, rsa_of, line) in [
        ("carol", "alice", None),
        ("alice", "bob", None),
        ("alice", "alice", Some("4 x")),
    ] {
        let identity = Arc::new(Identity {
            name: name("alice"),
            key: Arc::new(key(ed25519)),
            sptps: true,
            rsa: Some(rsa(rsa_of)),
            native: None,
        });
        let bobs = credentials("bob", true, Upgrade::Due, false);
        let mut a = alice(identity, bobs);
        let mut b = bob(speaker("bob", true));
        let ring = ring(credentials("alice", true, Upgrade::Possible, false));
        if let Some(line) = line {
            // Up to her own key, which is replaced by another text.
            let id = a.take_output();
            ring.feed(&mut b, &id);
            ring.feed(&mut a, &b.take_output());
            ring.feed(&mut b, &a.take_output());
            ring.feed(&mut a, &b.take_output());
            ring.feed(&mut b, &a.take_output());
            if let Phase::Legacy(_, legacy) = &mut a.phase {
                legacy.write_line(line.as_bytes(), &mut a.output);
            }
        }
        let events = talk(&mut a, &mut b, &ring, usize::MAX);
        assert_eq!(upgraded(&events[1]), None);
        assert!(upgraded(&events[0]).is_none_or(|(_, sent_ours)| !sent_ours));
        if rsa_of == "alice" {
            assert!(matches!(down(&events[1]), LinkError::Stranger(_)));
        }
    }
}
