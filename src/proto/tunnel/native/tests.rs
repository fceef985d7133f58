use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use meshd_crypto::{PrivateKey, Rng};

use crate::tunnel::{self, TYPE_CONFIRM, TYPE_PROBE, TYPE_VOUCHED};

/// Configuration of alice, or of bob.
fn setup(at: usize, aeads: Aeads) -> Setup {
    let names = ["alice", "bob"].map(|name| NodeName::new(name).unwrap());
    let keys = [1, 2].map(|seed| PrivateKey::from_seed(&[seed; 32]));
    Setup {
        secret: Arc::new(StaticSecret::of(&keys[at])),
        name: names[at].clone(),
        peer: names[1 - at].clone(),
        peer_keys: vec![StaticPublic::of(&keys[1 - at].public())],
        psk: [0; 32],
        aeads,
    }
}

fn shake(alice: &Setup, bob: &Setup, turn: usize) -> Option<(Session, Session)> {
    let mut rng = Rng::new([3; 32]);
    let (asking, first) = ask(alice, 0x0010_0001, turn, &mut rng)?;
    let (theirs, second) = answer(bob, 0x0020_0002, &first, &mut rng).ok()?;
    let ours = asking.answered(&second).ok()?;
    Some((ours, theirs))
}

fn pair(aead: Aead) -> (Session, Session) {
    let aeads = match aead {
        Aead::Aes256Gcm => Aeads::ALL,
        Aead::ChaCha20Poly1305 => Aeads::PORTABLE,
    };
    shake(&setup(0, aeads), &setup(1, Aeads::ALL), 0).unwrap()
}

fn seal(session: &Session, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; data.len() + OVERHEAD];
    datagram[HEAD..HEAD + data.len()].copy_from_slice(data);
    let number = session.tx.claim(1).unwrap();
    session.tx.seal(number, kind, &mut datagram);
    datagram
}

#[test]
fn both_ends_understand_each_other_in_either_aead() {
    for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let (a, b) = pair(aead);
        assert_eq!(a.tx.cipher(), aead.name());
        for (from, to) in [(&a, &b), (&b, &a)] {
            for (seq, kind) in [0, TYPE_PROBE, TYPE_CONFIRM, TYPE_VOUCHED]
                .into_iter()
                .enumerate()
            {
                let mut datagram = seal(from, kind, b"some data");
                assert_eq!(index_of(&datagram), Some(to.index));
                let length = datagram.len();
                let opened = to.rx.open(&mut datagram).unwrap();
                assert_eq!((opened.seq, opened.kind), (seq as u64, kind));
                assert_eq!(&datagram[opened.data(length)], b"some data");
            }
        }
    }
}

/// The layout of proto/native-link.md section 3.3: 32 bytes in all.
#[test]
fn the_layout_of_packets_and_messages() {
    let (a, _) = pair(Aead::ChaCha20Poly1305);
    a.tx.fast_forward(0x0102_0304_0506);
    let datagram = seal(&a, TYPE_PROBE, &[]);
    assert_eq!(datagram.len(), 32);
    let head = [0x84, 0, 0, 0, 0, 0x20, 0, 2, 0, 0, 1, 2, 3, 4, 5, 6];
    assert_eq!(datagram[..HEAD], head);

    let mut rng = Rng::new([3; 32]);
    let (_, first) = ask(&setup(0, Aeads::ALL), 7, 0, &mut rng).unwrap();
    assert_eq!((first.len(), &first[..5]), (101, &[0, 0, 0, 7, 3][..]));
    let (_, second) = answer(&setup(1, Aeads::ALL), 8, &first, &mut rng).unwrap();
    assert_eq!((second.len(), &second[..4]), (57, &[0, 0, 0, 7][..]));
}

#[test]
fn no_changed_bit_of_a_packet_passes() {
    for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let (a, b) = pair(aead);
        let good = seal(&a, 0, b"some data");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.rx.open(&mut bad), Err(OpenError::BadTag), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(b.rx.open(&mut good[..length].to_vec()).is_err());
        }
        assert!(!b.rx.is_used());
        assert!(b.rx.open(&mut good.clone()).is_ok());
        assert!(b.rx.is_used());
        assert_eq!(b.rx.open(&mut good.clone()), Err(OpenError::Replayed));
        // Back to its sender.
        assert_eq!(a.rx.open(&mut good.clone()), Err(OpenError::BadTag));
    }
}

/// F7: no byte of either message may be changed.
#[test]
fn no_changed_bit_of_a_message_passes() {
    let (alice, bob) = (setup(0, Aeads::ALL), setup(1, Aeads::ALL));
    let mut rng = Rng::new([3; 32]);
    let (mut asking, first) = ask(&alice, 7, 0, &mut rng).unwrap();
    for bit in (0..first.len() * 8).step_by(3) {
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(answer(&bob, 8, &bad, &mut rng).is_err(), "bit {bit}");
    }
    let (_, second) = answer(&bob, 8, &first, &mut rng).unwrap();
    for bit in (0..second.len() * 8).step_by(3) {
        let mut bad = second.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        asking = asking.answered(&bad).unwrap_err().expect("it goes on");
    }
    assert!(asking.answered(&second).is_ok());
}

#[test]
fn names_keys_and_secrets_must_be_those_that_both_expect() {
    let edits: [fn(&mut Setup); 4] = [
        |bob| bob.name = NodeName::new("carol").unwrap(),
        |bob| bob.peer = NodeName::new("carol").unwrap(),
        |bob| bob.psk = [1; 32],
        |bob| bob.peer_keys.clear(),
    ];
    for edit in edits {
        let mut bob = setup(1, Aeads::ALL);
        edit(&mut bob);
        assert!(shake(&setup(0, Aeads::ALL), &bob, 0).is_none());
    }
    assert!(shake(&setup(0, Aeads(0x80)), &setup(1, Aeads::ALL), 0).is_none());
}

/// Rotation (proto/native-link.md section 8): the caller may use either of its keys, and tries both
/// keys of the callee in turn.
#[test]
fn either_key_of_a_node_in_rotation_will_do() {
    let (mut alice, mut bob) = (setup(0, Aeads::ALL), setup(1, Aeads::ALL));
    let next = PrivateKey::from_seed(&[5; 32]);
    let next_public = StaticPublic::of(&next.public());
    alice.peer_keys.push(next_public);
    assert!(shake(&alice, &bob, 0).is_some());
    assert!(shake(&alice, &bob, 1).is_none());
    bob.secret = Arc::new(StaticSecret::of(&next));
    assert!(shake(&alice, &bob, 0).is_none());
    assert!(shake(&alice, &bob, 1).is_some());
    // The other way round.
    alice.peer_keys.truncate(1);
    let (mut alice, mut bob) = (setup(0, Aeads::ALL), setup(1, Aeads::ALL));
    bob.peer_keys.push(next_public);
    alice.secret = Arc::new(StaticSecret::of(&next));
    assert!(shake(&alice, &bob, 0).is_some());
}

/// P5: the limits of proto/native-link.md section 5; no number occurs twice.
#[test]
fn numbers_end_before_they_could_repeat() {
    for (aead, renew, refuse) in [
        (Aead::Aes256Gcm, 1_u64 << 27, 1_u64 << 28),
        (Aead::ChaCha20Poly1305, 1 << 60, 1 << 61),
    ] {
        let (a, _) = pair(aead);
        a.tx.fast_forward(renew - 1);
        assert!(!a.tx.wants_rekey());
        assert_eq!(a.tx.claim(1), Some(renew - 1));
        assert!(a.tx.wants_rekey());
        a.tx.fast_forward(refuse - 40);
        let mut used = BTreeSet::new();
        while let Some(first) = a.tx.claim(16) {
            used.extend(first..first + 16);
        }
        assert_eq!(used.len(), 32);
        assert_eq!(a.tx.claim(8), Some(refuse - 8));
        assert_eq!(a.tx.claim(1), None);
    }
}

/// A native datagram among those of real daemons is found by its index; other datagrams have none.
#[test]
fn other_datagrams_name_no_session() {
    let (a, b) = pair(Aead::Aes256Gcm);
    let mut native = seal(&a, 0, b"x");
    assert!(b.rx.is_named_by(&native) && !a.rx.is_named_by(&native));
    assert_eq!(index_of(&native[..HEAD - 1]), None);
    let ids = [&[0; 6][..], &[9; 6], &[0; 40]].concat();
    assert_eq!(index_of(&ids), None);
    let mut odd = native.clone();
    odd[2] = 1;
    assert_eq!(index_of(&odd), None);
    let mut unnamed = native.clone();
    unnamed[7] ^= 1;
    assert_eq!(
        tunnel::open(std::slice::from_ref(&b.rx), &mut unnamed),
        Err(OpenError::BadTag)
    );
    assert!(tunnel::open(&[a.rx, b.rx], &mut native).is_ok());
}

proptest! {
    /// P1, P4: in any order of arrival each packet is delivered at most once and unchanged. A
    /// packet that is not too old is delivered.
    #[test]
    fn packets_in_any_order_are_delivered_once(
        order in proptest::collection::vec((0_usize..40, any::<Option<(u8, u8)>>()), 1..200),
    ) {
        let (a, b) = pair(Aead::Aes256Gcm);
        let sent: Vec<Vec<u8>> = (0_u8..40).map(|n| seal(&a, 0, &[n; 5])).collect();
        let mut delivered = BTreeMap::new();
        for (at, change) in order {
            let mut datagram = sent[at].clone();
            let changed = change.is_some_and(|(byte, bits)| {
                let byte = usize::from(byte) % datagram.len();
                datagram[byte] ^= bits;
                bits != 0
            });
            let length = datagram.len();
            match b.rx.open(&mut datagram) {
                Ok(opened) => {
                    prop_assert!(!changed);
                    prop_assert_eq!(&datagram[opened.data(length)], &[at as u8; 5][..]);
                    prop_assert!(delivered.insert(at, ()).is_none());
                }
                Err(OpenError::BadTag) => prop_assert!(changed),
                Err(OpenError::Replayed) => prop_assert!(delivered.contains_key(&at)),
                Err(OpenError::Short) => prop_assert!(false),
            }
        }
    }
}
