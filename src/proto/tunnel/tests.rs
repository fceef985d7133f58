//! Tunnels against each other: handshake, rekey in every order of two paths, sequence numbers.

mod compressed;

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use meshd_crypto::{PrivateKey, Rng, ed25519::Ephemeral, sptps::Offer};
use meshd_wire::NodeName;

fn setup(own: u8, other: u8) -> TunnelSetup {
    let key = |seed| PrivateKey::from_seed(&[seed; 32]);
    let name = |seed: u8| NodeName::new(&format!("node{seed}")).unwrap();
    TunnelSetup {
        key: Arc::new(key(own)),
        name: name(own),
        peer: name(other),
        peer_key: key(other).public(),
        next_key: None,
        replay_window: 128,
        compression: 0,
    }
}

fn rng(seed: u8) -> Rng {
    Rng::new([seed; 32])
}

/// An established pair, initiator first.
fn pair() -> (Tunnel, Tunnel) {
    let (mut a, kex) = Tunnel::initiate(setup(1, 2), &mut rng(1));
    let (mut b, kex) = Tunnel::respond(setup(2, 1), &kex, &mut rng(2)).unwrap();
    let sig = a.receive(&kex, &mut rng(3)).unwrap();
    let sig = b.receive(&sig[0], &mut rng(3)).unwrap();
    assert!(b.is_established() && !a.is_established());
    assert!(a.receive(&sig[0], &mut rng(3)).unwrap().is_empty());
    assert!(a.is_established() && !a.is_rekeying() && !b.is_rekeying());
    (a, b)
}

/// A data datagram.
fn sealed(tunnel: &Tunnel, text: &[u8]) -> Vec<u8> {
    let tx = tunnel.tx().unwrap();
    let seq = tx.claim(1).unwrap();
    let mut datagram = [&[0; 5], text, &[0; 16]].concat();
    tx.seal(seq, TYPE_PROBE, &mut datagram);
    datagram
}

/// Opens a datagram like a worker: tries the keys in order.
fn opened(tunnel: &Tunnel, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
    let keys = tunnel.rx();
    assert!((1..=3).contains(&keys.len()));
    let mut datagram = datagram.to_vec();
    for key in keys {
        match key.open(&mut datagram) {
            Err(OpenError::BadTag) => {}
            Err(error) => return Err(error),
            Ok(found) => {
                assert_eq!(found.kind, TYPE_PROBE);
                return Ok(datagram[5..datagram.len() - 16].to_vec());
            }
        }
    }
    Err(OpenError::BadTag)
}

fn flows(from: &Tunnel, to: &Tunnel) {
    assert_eq!(opened(to, &sealed(from, b"hello")), Ok(b"hello".to_vec()));
}

/// Delivers handshake datagrams both ways until there are none.
fn settle(a: &mut Tunnel, b: &mut Tunnel, to_a: Vec<Vec<u8>>, to_b: Vec<Vec<u8>>) {
    let (mut to_a, mut to_b) = (to_a, to_b);
    while !to_a.is_empty() || !to_b.is_empty() {
        let receive = |tunnel: &mut Tunnel, datagrams: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            let answers = datagrams
                .iter()
                .map(|datagram| tunnel.receive(datagram, &mut rng(7)).unwrap());
            answers.collect::<Vec<_>>().concat()
        };
        let from_b = receive(b, to_b);
        let from_a = receive(a, to_a);
        (to_a, to_b) = (from_b, from_a);
    }
}

#[test]
fn data_flows_both_ways_after_the_handshake() {
    let (a, b) = pair();
    flows(&a, &b);
    flows(&b, &a);
    // Two handshake records precede.
    assert_eq!(a.tx().unwrap().claimed(), 3);
}

#[test]
fn a_rekey_changes_keys_and_goes_on_counting() {
    for initiator_begins in [true, false] {
        let (mut a, mut b) = pair();
        let old = sealed(&a, b"under the old key");
        let before = a.tx().unwrap();
        let begin = if initiator_begins { &mut a } else { &mut b };
        let kex = begin.rekey(&mut rng(5)).unwrap();
        assert!(begin.is_rekeying() && begin.rekey(&mut rng(5)).is_none());
        match initiator_begins {
            true => settle(&mut a, &mut b, vec![], vec![kex]),
            false => settle(&mut a, &mut b, vec![kex], vec![]),
        }
        assert!(!a.is_rekeying() && !b.is_rekeying());
        assert!(!Arc::ptr_eq(&before, &a.tx().unwrap()));
        // KEX, SIG, data, KEX, SIG, ACK
        assert_eq!(a.tx().unwrap().claimed(), 6);

        flows(&a, &b);
        flows(&b, &a);
        assert_eq!(b.rx().len(), 2);
        assert_eq!(opened(&b, &old), Ok(b"under the old key".to_vec()));
        assert_eq!(opened(&b, &old), Err(OpenError::Replayed));
        assert!(b.expire_old() && a.expire_old() && !a.expire_old());
        assert_eq!((a.rx().len(), b.rx().len()), (1, 1));
        assert_eq!(opened(&b, &old), Err(OpenError::BadTag));
        flows(&a, &b);
        flows(&b, &a);
    }
}

#[test]
fn old_keys_stay_until_the_new_one_is_seen_in_use() {
    let (mut a, mut b) = pair();
    flows(&a, &b);
    let kex = a.rekey(&mut rng(5)).unwrap();
    settle(&mut a, &mut b, vec![], vec![kex]);
    assert!(!b.expire_old(), "no datagram came under the new key yet");
    flows(&a, &b);
    assert!(b.expire_old());
}

#[test]
fn simultaneous_rekeys_are_one() {
    let (mut a, mut b) = pair();
    let from_a = a.rekey(&mut rng(5)).unwrap();
    let from_b = b.rekey(&mut rng(6)).unwrap();
    settle(&mut a, &mut b, vec![from_b], vec![from_a]);
    assert!(!a.is_rekeying() && !b.is_rekeying());
    assert_eq!((a.rx().len(), b.rx().len()), (2, 2));
    flows(&a, &b);
    flows(&b, &a);
}

#[test]
fn many_rekeys_keep_three_keys_at_most() {
    let (mut a, mut b) = pair();
    for round in 0..10 {
        let kex = a.rekey(&mut rng(round)).unwrap();
        settle(&mut a, &mut b, vec![], vec![kex]);
        flows(&a, &b);
        flows(&b, &a);
    }
    assert_eq!(a.rx().len(), 3);
}

/// The KEX of a rekey arrives by TCP behind more data than the replay window holds.
#[test]
fn handshake_records_may_be_overtaken_by_more_than_the_window() {
    let (mut a, mut b) = pair();
    let kex = a.rekey(&mut rng(5)).unwrap();
    let early = sealed(&a, b"early");
    for _ in 0..1000 {
        flows(&a, &b);
    }
    assert_eq!(opened(&b, &early), Err(OpenError::Replayed));
    settle(&mut a, &mut b, vec![], vec![kex]);
    assert!(!a.is_rekeying() && !b.is_rekeying());
    flows(&a, &b);
}

#[test]
fn a_replayed_handshake_record_is_refused() {
    let (mut a, mut b) = pair();
    let kex = a.rekey(&mut rng(5)).unwrap();
    settle(&mut a, &mut b, vec![], vec![kex.clone()]);
    let again = b.receive(&kex, &mut rng(5));
    assert_eq!(again, Err(TunnelError::Unexpected));
    assert!(!b.is_rekeying());
}

#[test]
fn a_lost_ack_is_made_up_for_by_the_next_rekey() {
    let (mut a, mut b) = pair();
    let kex = a.rekey(&mut rng(5)).unwrap();
    let kex = b.receive(&kex, &mut rng(6)).unwrap();
    let sig = a.receive(&kex[0], &mut rng(6)).unwrap();
    let sig_and_ack = b.receive(&sig[0], &mut rng(6)).unwrap();
    let _lost = a.receive(&sig_and_ack[0], &mut rng(6)).unwrap();
    assert!(a.receive(&sig_and_ack[1], &mut rng(6)).unwrap().is_empty());
    assert!(b.is_rekeying() && !a.is_rekeying());
    flows(&a, &b);
    flows(&b, &a);
    let kex = a.rekey(&mut rng(7)).unwrap();
    settle(&mut a, &mut b, vec![], vec![kex]);
    assert!(!b.is_rekeying() && !a.is_rekeying());
    flows(&a, &b);
    flows(&b, &a);
}

/// Wrong numbers, types, lengths, keys and tags, at every stage of first handshake and rekey. All
/// are rejected, and the handshake continues undisturbed.
#[test]
fn bad_messages_change_nothing() {
    fn bad(good: &[u8], clear: bool) -> Vec<(Vec<u8>, Option<TunnelError>)> {
        let with = |at: usize, value: u8| {
            let mut datagram = good.to_vec();
            datagram[at] ^= value;
            datagram
        };
        let mut bad = vec![
            (vec![], Some(TunnelError::Malformed)),
            (good[..4].to_vec(), Some(TunnelError::Malformed)),
            (good[..good.len() - 1].to_vec(), None),
            ([good, &[0]].concat(), None),
            (with(3, 0x40), None),
            (with(4, 1), None),
            (with(5, 1), None),
            (with(good.len() - 1, 0x80), None),
        ];
        if clear {
            bad[4].1 = Some(TunnelError::Unexpected);
            bad[5].1 = Some(TunnelError::Unexpected);
            if good.len() == 69 {
                bad[7].1 = Some(TunnelError::BadSignature);
            }
        } else {
            for refused in &mut bad[3..] {
                refused.1 = Some(TunnelError::BadTag);
            }
        }
        bad
    }
    fn receive(tunnel: &mut Tunnel, good: &[u8]) -> Vec<Vec<u8>> {
        let clear = !tunnel.is_established();
        for (datagram, error) in bad(good, clear) {
            // A flipped bit of an ephemeral key may give another valid key: the SIG detects it.
            let kex_with_other_key = clear && good.len() == 70 && datagram.len() == good.len();
            if kex_with_other_key && error.is_none() {
                continue;
            }
            let (stage, claimed) = (tunnel.is_rekeying(), tunnel.rx().len());
            let refused = tunnel.receive(&datagram, &mut rng(9));
            let refused = refused.expect_err("bad datagram");
            assert!(error.is_none_or(|error| error == refused), "{refused}");
            assert_eq!((stage, claimed), (tunnel.is_rekeying(), tunnel.rx().len()));
        }
        tunnel.receive(good, &mut rng(9)).unwrap()
    }

    let (mut a, kex) = Tunnel::initiate(setup(1, 2), &mut rng(1));
    for cut in 0..kex.len() {
        assert!(Tunnel::respond(setup(2, 1), &kex[..cut], &mut rng(2)).is_err());
    }
    let (mut b, kex) = Tunnel::respond(setup(2, 1), &kex, &mut rng(2)).unwrap();
    let sig = receive(&mut a, &kex);
    let sig = receive(&mut b, &sig[0]);
    receive(&mut a, &sig[0]);
    flows(&a, &b);

    let kex = b.rekey(&mut rng(3)).unwrap();
    let kex_sig = receive(&mut a, &kex);
    assert!(receive(&mut b, &kex_sig[0]).is_empty());
    let sig_ack = receive(&mut b, &kex_sig[1]);
    let ack = receive(&mut a, &sig_ack[0]);
    assert!(receive(&mut a, &sig_ack[1]).is_empty());
    assert!(receive(&mut b, &ack[0]).is_empty());
    assert!(!a.is_rekeying() && !b.is_rekeying());
    flows(&a, &b);
    flows(&b, &a);
}

#[test]
fn a_node_with_another_key_does_not_get_in() {
    let mut mallory = setup(1, 2);
    mallory.key = Arc::new(PrivateKey::from_seed(&[66; 32]));
    let (mut a, kex) = Tunnel::initiate(mallory, &mut rng(1));
    let (mut b, kex) = Tunnel::respond(setup(2, 1), &kex, &mut rng(2)).unwrap();
    let sig = a.receive(&kex, &mut rng(3)).unwrap();
    let refused = b.receive(&sig[0], &mut rng(3));
    assert_eq!(refused, Err(TunnelError::BadSignature));
    assert!(!b.is_established() && b.tx().is_none() && b.rx().is_empty());
}

#[test]
fn data_in_a_meta_line_is_no_handshake() {
    let (a, mut b) = pair();
    let data = sealed(&a, &[0; 65]);
    assert_eq!(b.receive(&data, &mut rng(4)), Err(TunnelError::Unexpected));
}

#[test]
fn a_bad_tag_leaves_buffer_window_and_key_untouched() {
    let (a, b) = pair();
    let good = sealed(&a, b"payload");
    let key = &b.rx()[0];
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let before = bad.clone();
        assert_eq!(key.open(&mut bad), Err(OpenError::BadTag));
        assert_eq!(bad, before);
    }
    for short in 0..SPTPS_OVERHEAD {
        let mut bad = good[..short].to_vec();
        assert_eq!(key.open(&mut bad), Err(OpenError::Short));
    }
    assert!(!key.is_used());
    assert_eq!(opened(&b, &good), Ok(b"payload".to_vec()));
    assert!(key.is_used());
    let mut again = good;
    assert_eq!(key.open(&mut again), Err(OpenError::Replayed));
}

/// T10: renewal is requested at 2^31, data stops at 2^32 - 2^13, handshakes a little later.
#[test]
fn numbers_are_never_used_twice_at_the_end() {
    const LAST: u64 = (1 << 32) - (1 << 13);
    let (mut a, mut b) = pair();
    let tx = a.tx().unwrap();
    tx.fast_forward((1 << 31) - 1);
    assert!(!tx.wants_rekey());
    flows(&a, &b);
    assert!(tx.wants_rekey());

    tx.fast_forward(LAST - 70);
    let mut used = BTreeSet::new();
    while let Some(first) = tx.claim(16) {
        used.extend((first..first + 16).inspect(|seq| assert!(*seq < LAST)));
    }
    assert_eq!(used.len(), 64);
    flows(&a, &b);
    while tx.claim(1).is_some() {}
    assert_eq!(tx.claimed(), LAST);

    // A rekey still finds numbers, but leaves none for data.
    let kex = a.rekey(&mut rng(5)).unwrap();
    settle(&mut a, &mut b, vec![], vec![kex]);
    assert_eq!(a.tx().unwrap().claim(1), None);
    assert!(a.tx().unwrap().wants_rekey());
    flows(&b, &a);

    a.tx().unwrap().fast_forward((1 << 32) - 9);
    assert!(a.rekey(&mut rng(5)).is_none());
    let kex = b.rekey(&mut rng(5)).unwrap();
    assert_eq!(a.receive(&kex, &mut rng(5)), Err(TunnelError::Exhausted));
}

/// One packet or handshake message on the way.
#[derive(Clone)]
struct InAir {
    to_a: bool,
    datagram: Vec<u8>,
}

proptest! {
    #[test]
    fn no_bytes_panic_or_change_an_established_session(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        number in 0_u32..4,
    ) {
        let clear = [&number.to_be_bytes()[..], &[TYPE_HANDSHAKE], &bytes].concat();
        let (mut a, b) = pair();
        for datagram in [&bytes, &clear] {
            let _ = Tunnel::respond(setup(2, 1), datagram, &mut rng(1));
            let (mut fresh, _) = Tunnel::initiate(setup(1, 2), &mut rng(1));
            let _ = fresh.receive(datagram, &mut rng(1));
            prop_assert!(!fresh.is_established());
            prop_assert!(a.receive(datagram, &mut rng(1)).is_err());
            prop_assert!(opened(&b, datagram).is_err());
        }
        flows(&a, &b);
        flows(&b, &a);
    }

    /// P5 and P9: data arrives by UDP, reordered within the window; handshake messages arrive by
    /// TCP, in order, slower or faster. Either side rekeys or drops old keys at any time.
    /// Everything arrives once, and no (key, number) pair is used twice.
    #[test]
    fn a_rekey_loses_nothing(
        steps in proptest::collection::vec((any::<bool>(), 0_u8..9, any::<proptest::sample::Index>()), 1..120),
    ) {
        let (mut a, mut b) = pair();
        let (mut udp, mut tcp): (Vec<InAir>, Vec<InAir>) = (vec![], vec![]);
        let mut wire = BTreeSet::new();
        let mut sent = 0_u32;
        let deliver = |tunnel: &Tunnel, datagram: &[u8]| opened(tunnel, datagram).is_ok();
        let mut rekeyed = false;
        for (on_a, what, which) in steps {
            rekeyed &= !udp.is_empty();
            let tunnel = if on_a { &mut a } else { &mut b };
            match what {
                // Data, more often than other steps.
                0..=3 => {
                    let datagram = sealed(tunnel, &sent.to_be_bytes());
                    sent += 1;
                    // Equal direction, number and key stream would show equal bytes: record them.
                    prop_assert!(wire.insert((on_a, datagram[..4].to_vec())));
                    udp.push(InAir { to_a: !on_a, datagram });
                }
                // Three keys live at a time. So there is no second rekey while datagrams from
                // before the first are on their way.
                4 if udp.is_empty() || !rekeyed => {
                    rekeyed = true;
                    let kex = tunnel.rekey(&mut rng(which.index(256) as u8));
                    tcp.extend(kex.map(|datagram| InAir { to_a: !on_a, datagram }));
                }
                // Any datagram arrives.
                5 | 6 if !udp.is_empty() => {
                    let InAir { to_a, datagram } = udp.remove(which.index(udp.len()));
                    prop_assert!(deliver(if to_a { &a } else { &b }, &datagram), "lost");
                }
                // The oldest handshake message of one direction arrives.
                7 => if let Some(at) = tcp.iter().position(|m| m.to_a == on_a) {
                    let message = tcp.remove(at);
                    let answers = tunnel.receive(&message.datagram, &mut rng(which.index(256) as u8));
                    let answers = answers.expect("a handshake message in order");
                    tcp.extend(answers.into_iter().map(|datagram| InAir { to_a: !on_a, datagram }));
                },
                // The caller waits for packets on the way before it expires keys.
                8 if udp.is_empty() => {
                    tunnel.expire_old();
                }
                _ => {}
            }
        }
        for InAir { to_a, datagram } in udp {
            prop_assert!(deliver(if to_a { &a } else { &b }, &datagram), "lost at the end");
        }
    }
}

/// tests/vectors/tinc-1.1.json, `datagram_rekey`: the other side is real tinc with KeyExpire = 14,
/// as initiator and as responder. Our side is rebuilt from its recorded ephemeral keys. Every
/// handshake record must equal the recorded one, with the ACK under the old key and data after it
/// under the new one.
#[test]
fn recorded_rekeys_with_real_tinc_are_replayed() {
    let vectors = include_str!("../../../tests/vectors/tinc-1.1.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let own_key = {
        let test = &vectors["stream_sessions"][0]["test"];
        let halves = [
            hex(&test["ed25519_private_expanded_64"]),
            hex(&test["ed25519_public"]),
        ];
        let content: [u8; 96] = halves.concat().try_into().unwrap();
        PrivateKey::from_bytes(&content).unwrap()
    };
    for session in vectors["datagram_rekey"].as_array().unwrap() {
        replay_rekey(session, &own_key);
    }
}

fn replay_rekey(session: &Value, own_key: &PrivateKey) {
    let name = |text: &Value| NodeName::new(text.as_str().unwrap()).unwrap();
    let daemon = &session["daemon"];
    let peer_key: [u8; 32] = hex(&daemon["ed25519_public"]).try_into().unwrap();
    let setup = TunnelSetup {
        key: Arc::new(own_key.clone()),
        name: NodeName::new("pya").unwrap(),
        peer: name(&daemon["name"]),
        peer_key: meshd_crypto::PublicKey::from_bytes(peer_key).unwrap(),
        next_key: None,
        replay_window: 128,
        compression: 0,
    };
    let events = session["events_in_order"].as_array().unwrap();
    let mut offers = events.iter().filter_map(|event| {
        let kex = hex(event.get("test_kex_created")?);
        let expanded = hex(&event["ephemeral_private_expanded_64"]);
        let ephemeral = Ephemeral::from_expanded(&expanded.try_into().unwrap());
        let offer = Offer::from_parts(kex[1..33].try_into().unwrap(), ephemeral);
        assert_eq!(&offer.kex()[..], kex);
        Some(offer)
    });
    let is_handshake = |event: &Value| event["record_type"] == 128;
    let recorded: Vec<_> = events
        .iter()
        .filter(|event| event["dir"] == "test->daemon" && is_handshake(event))
        .map(|event| hex(&event["wire"]))
        .collect();

    let mut tunnel = None;
    let mut said = Vec::new();
    if session["test_role_in_session"] == "initiator" {
        let (initiator, kex) = Tunnel::initiate_with(setup.clone(), offers.next().unwrap());
        tunnel = Some(initiator);
        said.push(kex);
    }
    let mut data = 0;
    for event in events.iter().filter(|event| event.get("dir").is_some()) {
        let wire = hex(&event["wire"]);
        match (event["dir"] == "daemon->test", is_handshake(event)) {
            (true, true) => {
                // Data left out of the recording used numbers as well.
                let tx = tunnel.as_ref().and_then(Tunnel::tx);
                if let (Some(tx), Some(next)) = (tx, recorded.get(said.len())) {
                    let next = u32::from_be_bytes(next[..4].try_into().unwrap());
                    tx.fast_forward(next.into());
                }
                match &mut tunnel {
                    Some(tunnel) => {
                        let offer = || offers.next();
                        said.extend(tunnel.receive_with(&wire, offer).unwrap());
                    }
                    None => {
                        let offer = || offers.next().unwrap();
                        let (new, kex) = Tunnel::respond_with(setup.clone(), &wire, offer).unwrap();
                        tunnel = Some(new);
                        said.push(kex);
                    }
                }
            }
            (true, false) => {
                let tunnel = tunnel.as_ref().unwrap();
                let mut opened = wire.clone();
                let found = tunnel.rx().iter().any(|key| key.open(&mut opened).is_ok());
                assert!(found);
                assert_eq!(u64::from(opened[4]), event["record_type"].as_u64().unwrap());
                assert_eq!(opened[5..opened.len() - 16], hex(&event["plaintext"]));
                data += 1;
            }
            (false, false) => {
                let text = hex(&event["plaintext"]);
                let mut datagram = [&[0; 5], &text[..], &[0; 16]].concat();
                let seq = event["seqno"].as_u64().unwrap() as u32;
                let kind = event["record_type"].as_u64().unwrap() as u8;
                tunnel
                    .as_ref()
                    .unwrap()
                    .tx()
                    .unwrap()
                    .seal(seq.into(), kind, &mut datagram);
                assert_eq!(datagram, wire);
                data += 1;
            }
            (false, true) => {}
        }
    }
    assert_eq!(said[..recorded.len()], recorded);
    assert!(offers.next().is_none() && data > 0);
    assert!(tunnel.unwrap().rx().len() > 1, "at least one rekey");
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    data_encoding::HEXLOWER.decode(text).unwrap()
}
