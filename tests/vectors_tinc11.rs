//! Recordings of real tinc 1.1 daemons, replayed: tests/vectors/tinc-1.1.json, made as
//! tests/vectors/README-1.1.md says. `test` is the side whose secrets are known and which our code
//! plays; `daemon` is a real tincd (or, in two invitations, a real `tinc join`).
//!
//! The rekeys (`datagram_rekey`) are replayed by the unit tests of `tunnel`, which can fast-forward
//! a sequence counter.
#![expect(
    clippy::unwrap_used,
    reason = "the recordings are fixed, and a test may stop at a bad one"
)]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use meshd::{
    crypto::{
        PrivateKey, PublicKey, Rng, aead,
        compress::{self, Packer},
        ed25519::{Ephemeral, EphemeralPublic},
        replay::ReplayWindow,
        sptps::{INVITATION_LABEL, Kex, Offer, Parties, Role, link_label, tunnel_label},
    },
    link::{
        Credentials, Dialect, Hello, Identity, Link, LinkEvent, RsaBudget,
        sptps::{Record, Stream},
    },
    tunnel::{Tunnel, TunnelSetup},
    wire::{NodeName, Request, base64},
};
use recording::{hex, list, text};
use serde_json::Value;

#[path = "vectors/recording.rs"]
mod recording;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/tinc-1.1.json")).unwrap()
}

fn bytes<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    hex(value, key).try_into().unwrap()
}

fn private_key(expanded: &[u8; 64], public: &PublicKey) -> PrivateKey {
    let content = [&expanded[..], public.as_bytes()].concat();
    PrivateKey::from_bytes(&content.try_into().unwrap()).unwrap()
}

/// The key pair and name of `test` or `daemon`.
fn node(side: &Value) -> (NodeName, PrivateKey) {
    let public = PublicKey::from_bytes(bytes(side, "ed25519_public")).unwrap();
    if let Some(text) = side["public_b64"].as_str() {
        assert_eq!(text.parse(), Ok(public));
        assert_eq!(public.to_string(), text);
    }
    let key = private_key(&bytes(side, "ed25519_private_expanded_64"), &public);
    (NodeName::new(text(side, "name")).unwrap(), key)
}

/// A generator that gives out the nonce and the ephemeral seed of the recorded `test` side.
fn recorded_rng(handshake: &Value) -> Rng {
    let kex = hex(handshake, "test_kex");
    let script = [&kex[1..33], &hex(handshake, "test_ephemeral_seed")].concat();
    Rng::scripted(&script, [0; 32])
}

/// True if `test` is the initiator: the first byte of its signed text.
fn role(handshake: &Value) -> Role {
    match hex(handshake, "test_signed_message")[0] {
        1 => Role::Initiator,
        _ => Role::Responder,
    }
}

/// Replays the recorded key exchange as values. Returns the keys of the two directions, test's first.
fn check_handshake(session: &Value, parties: &Parties) -> [[u8; 32]; 2] {
    let handshake = &session["handshake"];
    assert_eq!(parties.label, hex(session, "label"));

    let seed = bytes(handshake, "test_ephemeral_seed");
    let expanded = bytes(handshake, "test_ephemeral_private_expanded_64");
    let ephemeral = Ephemeral::from_seed(&seed);
    assert_eq!(
        ephemeral.public(),
        Ephemeral::from_expanded(&expanded).public()
    );
    let daemon_kex = hex(handshake, "daemon_kex");
    let theirs = EphemeralPublic::parse(daemon_kex.last_chunk().unwrap()).unwrap();
    assert_eq!(
        ephemeral.agree(&theirs)[..],
        hex(handshake, "shared_secret")
    );

    let offer = Offer::new(&mut recorded_rng(handshake));
    assert_eq!(offer.kex()[..], hex(handshake, "test_kex"));
    let agreement = offer.with(Kex::parse(&daemon_kex).unwrap());
    assert_eq!(agreement.sign(parties)[..], hex(handshake, "test_sig"));
    let daemon_sig = hex(handshake, "daemon_sig");
    assert_eq!(agreement.verify(&daemon_sig, parties), Ok(()));
    let signed = hex(handshake, "daemon_signed_message");
    assert!(
        parties
            .peer_key
            .verify(&signed, &daemon_sig.try_into().unwrap())
    );

    let keys = agreement.keys(parties);
    let responder: [u8; 64] = bytes(handshake, "key0_responder_to_initiator");
    let initiator: [u8; 64] = bytes(handshake, "key1_initiator_to_responder");
    let material = [responder, initiator].concat();
    assert_eq!(material, hex(handshake, "key_material_128"));
    let (tx, rx) = match parties.role {
        Role::Initiator => (initiator, responder),
        Role::Responder => (responder, initiator),
    };
    assert_eq!((&keys.tx[..], &keys.rx[..]), (&tx[..32], &rx[..32]));
    [*keys.tx, *keys.rx]
}

/// Opens and seals again every encrypted record of both directions. `header` is the length of what
/// stands before the encrypted part.
fn check_records(session: &Value, [tx, rx]: [[u8; 32]; 2], header: usize) {
    let mut encrypted = [0, 0];
    for record in list(session, "records") {
        if record["encrypted"] != true {
            continue;
        }
        let from_test = text(record, "dir") == "test->daemon";
        let key = if from_test { tx } else { rx };
        let seq = record["seqno"].as_u64().unwrap() as u32;
        let wire = hex(record, "wire");
        let mut opened = wire[header..].to_vec();
        assert_eq!(aead::open(&key, seq, &mut opened), Ok(()));
        let length = opened.len() - aead::TAG;
        assert_eq!(
            u64::from(opened[0]),
            record["record_type"].as_u64().unwrap()
        );
        assert_eq!(opened[1..length], hex(record, "plaintext"));
        opened[length..].fill(0);
        aead::seal(&key, seq, &mut opened);
        assert_eq!(opened, wire[header..]);
        encrypted[usize::from(from_test)] += 1;
    }
    assert!(encrypted.iter().all(|count| *count > 0));
}

fn records<'a>(session: &'a Value, from: &'a str) -> impl Iterator<Item = &'a Value> {
    list(session, "records")
        .iter()
        .filter(move |record| text(record, "dir") == from)
}

/// All bytes that one side put on the stream.
fn stream(session: &Value, from: &str) -> Vec<u8> {
    records(session, from)
        .flat_map(|record| hex(record, "wire"))
        .collect()
}

#[test]
fn base64_in_both_alphabets() {
    for row in list(&vectors(), "base64") {
        let plain = hex(row, "bytes");
        let (standard, url) = (text(row, "standard_alphabet"), text(row, "url_alphabet"));
        assert_eq!(base64::encode(&plain), standard);
        assert_eq!(base64::encode_url(&plain), url);
        assert_eq!(base64::decode(standard), Some(plain.clone()));
        assert_eq!(base64::decode(url), Some(plain));
    }
}

#[test]
fn node_ids_are_those_of_the_dumps() {
    for row in list(&vectors(), "node_ids") {
        let id = NodeName::new(text(row, "name")).unwrap().id();
        assert_eq!(id.to_string(), text(row, "id_as_dumped_by_real_tincd"));
    }
}

#[test]
fn key_files_are_read_and_written_as_tinc_does() {
    for row in list(&vectors(), "key_files") {
        let file = text(row, "private_key_file");
        let key = PrivateKey::from_pem(file).unwrap();
        assert_eq!(*key.to_bytes(), bytes::<96>(row, "content_96"));
        assert_eq!(*key.to_pem(), file);
        let public = PublicKey::from_bytes(bytes(row, "public_32")).unwrap();
        assert_eq!(key.public(), public);
        let line = format!("Ed25519PublicKey = {public}");
        assert_eq!(line, text(row, "host_file_line"));
        let again = private_key(&bytes(row, "expanded_private_64"), &public);
        assert!(public.verify(b"message", &again.sign(b"message")));
    }
}

#[test]
fn stream_sessions_as_values() {
    for session in list(&vectors(), "stream_sessions") {
        let (name, key) = node(&session["test"]);
        let (daemon, daemon_key) = node(&session["daemon"]);
        let role = role(&session["handshake"]);
        let label = match role {
            Role::Initiator => link_label(&name, &daemon),
            Role::Responder => link_label(&daemon, &name),
        };
        // Signatures are deterministic: with the daemon's key we make the daemon's own.
        let handshake = &session["handshake"];
        let signed = hex(handshake, "daemon_signed_message");
        assert_eq!(daemon_key.sign(&signed)[..], hex(handshake, "daemon_sig"));

        let parties = Parties {
            role,
            key: Arc::new(key),
            peer_key: daemon_key.public(),
            next_key: None,
            label,
        };
        check_records(session, check_handshake(session, &parties), 2);
    }
}

/// A whole [`Link`] in the place of the recorded script: it must say the same bytes.
#[test]
fn stream_sessions_by_a_link() {
    for session in list(&vectors(), "stream_sessions") {
        for chunk in [1, 50, usize::MAX] {
            replay_link(session, chunk);
        }
    }
}

fn replay_link(session: &Value, chunk: usize) {
    let (name, key) = node(&session["test"]);
    let (daemon, daemon_key) = node(&session["daemon"]);
    let rng = recorded_rng(&session["handshake"]);
    let outgoing = role(&session["handshake"]) == Role::Initiator;
    let (ours, theirs) = match outgoing {
        true => ("cleartext_id_from_initiator", "cleartext_id_from_responder"),
        false => ("cleartext_id_from_responder", "cleartext_id_from_initiator"),
    };
    let local = Arc::new(Identity {
        name,
        key: Arc::new(key),
        sptps: true,
        rsa: None,
        native: None,
    });
    let now = now();
    let mut rsa = RsaBudget::new(now);
    let timeout = Duration::from_secs(5);
    let mut link = match outgoing {
        true => Link::dial(
            local,
            daemon.clone(),
            Credentials::of(daemon_key.public()),
            timeout,
            rng,
            now,
        ),
        false => Link::accept(local, timeout, rng, now),
    };

    let heard = [
        text(session, theirs).as_bytes(),
        &stream(session, "daemon->test"),
    ]
    .concat();
    for piece in heard.chunks(chunk.min(heard.len())) {
        link.handle_bytes(piece, &mut rsa, now);
        if link.needs() == Some(&daemon) {
            let theirs = Credentials::of(daemon_key.public());
            link.handle_credentials(Some(theirs), &mut rsa, now);
        }
    }
    for record in records(session, "test->daemon").filter(|record| record["encrypted"] == true) {
        let line = hex(record, "plaintext");
        link.send_line(line.strip_suffix(b"\n").unwrap());
    }

    let said = [
        text(session, ours).as_bytes(),
        &stream(session, "test->daemon"),
    ]
    .concat();
    assert_eq!(link.take_output(), said);
    let up = LinkEvent::Up(Hello {
        name: daemon,
        minor: 7,
        dialect: Dialect::Sptps,
        outgoing,
        started: now,
    });
    let lines = records(session, "daemon->test")
        .filter(|record| record["encrypted"] == true)
        .map(|record| {
            let line = hex(record, "plaintext");
            LinkEvent::Line(Bytes::copy_from_slice(line.strip_suffix(b"\n").unwrap()))
        });
    let expected: Vec<_> = std::iter::once(up).chain(lines).collect();
    let events: Vec<_> = std::iter::from_fn(|| link.poll_event()).collect();
    assert_eq!(events, expected);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the link wants an instant, any will do"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[test]
fn datagram_sessions_as_values() {
    for session in list(&vectors(), "datagram_sessions") {
        let (name, key) = node(&session["test"]);
        let (daemon, daemon_key) = node(&session["daemon"]);
        let role = role(&session["handshake"]);
        let label = match role {
            Role::Initiator => tunnel_label(&name, &daemon),
            Role::Responder => tunnel_label(&daemon, &name),
        };
        let parties = Parties {
            role,
            key: Arc::new(key),
            peer_key: daemon_key.public(),
            next_key: None,
            label,
        };
        check_records(session, check_handshake(session, &parties), 4);
    }
}

/// A whole [`Tunnel`] in the place of the recorded script.
#[test]
fn datagram_sessions_by_a_tunnel() {
    for session in list(&vectors(), "datagram_sessions") {
        let (name, key) = node(&session["test"]);
        let (daemon, daemon_key) = node(&session["daemon"]);
        let setup = TunnelSetup {
            key: Arc::new(key),
            name,
            peer: daemon,
            peer_key: daemon_key.public(),
            next_key: None,
            replay_window: 128,
            compression: 0,
        };
        let rng = &mut recorded_rng(&session["handshake"]);
        let is_clear = |record: &&Value| record["encrypted"] == false;
        let wires = |from| -> Vec<Vec<u8>> {
            records(session, from)
                .filter(is_clear)
                .map(|record| hex(record, "wire"))
                .collect()
        };
        let [kex, sig] = &wires("daemon->test")[..] else {
            panic!("two clear-text records each");
        };
        let mut said = Vec::new();
        let mut tunnel = match role(&session["handshake"]) {
            Role::Initiator => {
                let (mut tunnel, kex_datagram) = Tunnel::initiate(setup, rng);
                said.push(kex_datagram);
                said.extend(tunnel.receive(kex, rng).unwrap());
                tunnel
            }
            Role::Responder => {
                let (tunnel, kex_datagram) = Tunnel::respond(setup, kex, rng).unwrap();
                said.push(kex_datagram);
                tunnel
            }
        };
        said.extend(tunnel.receive(sig, rng).unwrap());
        assert!(tunnel.is_established());
        assert_eq!(said, wires("test->daemon"));
        for datagram in &said {
            let word = base64::encode(datagram);
            let carried = |line: &Value| {
                let line = line.as_str().unwrap();
                line.starts_with("test->daemon: ") && line.split(' ').any(|w| w == word)
            };
            assert!(list(session, "meta_lines").iter().any(carried));
        }

        let (tx, rx) = (tunnel.tx().unwrap(), tunnel.rx());
        let [rx] = &rx[..] else {
            panic!("one receiving key");
        };
        for record in list(session, "records") {
            if is_clear(&record) {
                continue;
            }
            let seq = record["seqno"].as_u64().unwrap();
            let kind = record["record_type"].as_u64().unwrap() as u8;
            let plain = hex(record, "plaintext");
            let mut wire = hex(record, "wire");
            if text(record, "dir") == "daemon->test" {
                let opened = rx.open(&mut wire).unwrap();
                assert_eq!((opened.seq, opened.kind), (seq, kind));
                assert_eq!(wire[5..wire.len() - aead::TAG], plain);
            } else {
                let mut datagram = [&[0; 5], &plain[..], &[0; aead::TAG]].concat();
                tx.seal(seq, kind, &mut datagram);
                assert_eq!(datagram, wire);
            }
        }
    }
}

/// Data that real daemons compressed, with the requested and the announced level: each is a whole IPv4 packet.
#[test]
fn compressed_records_are_unpacked() {
    let mut levels = Vec::new();
    for session in list(&vectors(), "datagram_sessions") {
        let asked = session["compression_requested_by_test"].as_u64().unwrap() as u8;
        for record in list(session, "records") {
            if record["record_type"] != 1 {
                continue;
            }
            // All daemons had Compression = 9.
            let level = match text(record, "dir") {
                "daemon->test" => asked,
                _ => 9,
            };
            let packed = hex(record, "plaintext");
            let packet = compress::unpack(level, &packed, 1_600).unwrap();
            let length = u16::from_be_bytes([packet[2], packet[3]]);
            assert_eq!(
                (packet[0], usize::from(length)),
                (0x45, packet.len()),
                "{level}"
            );
            assert_eq!(compress::unpack(level, &packed, packet.len() - 1), None);
            let again = Packer::new(level).unwrap().pack(&packet);
            assert_eq!(compress::unpack(level, &again, packet.len()), Some(packet));
            levels.push(level);
        }
    }
    levels.sort_unstable();
    levels.dedup();
    assert_eq!(levels, [9, 10, 11, 12]);
}

/// Handshake and records of invitations: a third label, and record types 1 and 2.
#[test]
fn invitations_by_a_stream() {
    for session in list(&vectors(), "invitations") {
        let cleartext = list(session, "cleartext");
        let word = |line: usize, at: usize| {
            let line = cleartext[line].as_str().unwrap();
            let (_, line) = line.split_once(": ").unwrap();
            line.split(' ').nth(at).unwrap()
        };
        let joiner = word(0, 1).strip_prefix('?').unwrap().parse().unwrap();
        let inviter: PublicKey = word(2, 1).parse().unwrap();
        assert_eq!(
            inviter.to_string(),
            text(session, "invitation_key_public_b64")
        );
        let role = role(&session["handshake"]);
        let (key, peer_key) = match role {
            Role::Initiator => {
                let expanded = bytes(session, "throwaway_private_expanded_64");
                (private_key(&expanded, &joiner), inviter)
            }
            Role::Responder => {
                let expanded = bytes(session, "invitation_private_expanded_64");
                (private_key(&expanded, &inviter), joiner)
            }
        };
        let parties = Parties {
            role,
            key: Arc::new(key),
            peer_key,
            next_key: None,
            label: INVITATION_LABEL.to_vec(),
        };
        check_records(session, check_handshake(session, &parties), 2);

        let mut said = BytesMut::new();
        let mut heard = BytesMut::from(&stream(session, "daemon->test")[..]);
        let rng = &mut recorded_rng(&session["handshake"]);
        let mut joined = Stream::start(parties, rng, &mut said);
        assert_eq!(
            joined.read(&mut heard, &mut said),
            Ok(Some(Record::Established))
        );
        for record in records(session, "daemon->test").filter(|r| r["encrypted"] == true) {
            let kind = record["record_type"].as_u64().unwrap() as u8;
            let data = hex(record, "plaintext").into();
            let expected = Record::Data { kind, data };
            assert_eq!(joined.read(&mut heard, &mut said), Ok(Some(expected)));
        }
        assert_eq!(joined.read(&mut heard, &mut said), Ok(None));
        for record in records(session, "test->daemon").filter(|r| r["encrypted"] == true) {
            let kind = record["record_type"].as_u64().unwrap() as u8;
            joined
                .write(kind, &[&hex(record, "plaintext")], &mut said)
                .unwrap();
        }
        assert_eq!(said[..], stream(session, "test->daemon"));
    }
}

/// The verdicts of real tinc. Knowing departure: we have no "future" rule, so what tinc drops as too
/// far ahead is accepted by us; it is left out of the sequence then, as if the network had lost it.
#[test]
fn replay_window_agrees_but_for_the_far_future() {
    let vectors = vectors();
    let mut window = ReplayWindow::new(128);
    window.mark(2); // "next expected seqno was 3"
    let mut verdicts = 0;
    for row in list(&vectors["replay_window_128"], "sequence") {
        let seq = row[0].as_u64().unwrap();
        match row[1].as_str().unwrap() {
            "future" => assert!(window.clone().accept(seq), "{seq}"),
            "ok" | "ok, window reset" => assert!(window.accept(seq), "{seq}"),
            "replay" | "too old" => assert!(!window.accept(seq), "{seq}"),
            verdict => panic!("unknown verdict {verdict}"),
        }
        verdicts += 1;
    }
    assert_eq!(verdicts, 29);
}

/// Text after "FROM->TO: " in a recorded conversation, where it is a request.
fn recorded_requests(vectors: &Value, key: &str) -> Vec<String> {
    list(&vectors[key], "lines")
        .iter()
        .filter_map(|line| line.as_str().unwrap().split_once(": "))
        .filter(|(sides, text)| {
            sides.contains("->")
                && !sides.ends_with("cleartext")
                && !sides.ends_with("(legacy)")
                && text.contains(' ')
        })
        .map(|(_, text)| text.to_owned())
        .collect()
}

#[test]
fn recorded_requests_are_read_and_written_alike() {
    let vectors = vectors();
    let mut all = Vec::new();
    for key in ["upgrade_path", "pubkey_exchange", "udp_info_mtu_info"] {
        all.extend(recorded_requests(&vectors, key));
    }
    assert_eq!(all.len(), 10, "{all:#?}");
    for text in all {
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!(request.line(0), text);
    }
}

/// Keys that two real daemons send each other in an UPGRADE.
#[test]
fn recorded_keys_of_an_upgrade_are_read_and_written_alike() {
    let vectors = vectors();
    let lines = list(&vectors["upgrade_path"], "lines").iter();
    let told = lines.filter_map(|line| line.as_str()?.split_once("encrypted(legacy): 4 "));
    let told: Vec<_> = told.map(|(_, key)| key).collect();
    assert_eq!(told.len(), 2);
    for text in told {
        assert_eq!(PublicKey::from_base64(text).unwrap().to_string(), text);
    }
}

/// Lines that real daemons accept: versions above 7, unknown option bits, further words.
#[test]
fn what_later_versions_may_add_is_no_error() {
    let options = |text: &str| match Request::parse(text.as_bytes()).unwrap() {
        Request::Ack { options, .. } => options.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(options("4 655 1 6b00000c"), 0x6b00_000c);
    assert_eq!(options("4 655 1 07fffffc native=1 foo"), 0x07ff_fffc);
    assert_eq!(options("4 655 1 ff00000c"), 0xff00_000c);
    let extension = Request::parse(b"15 pya pyb 100 payload100 more words").unwrap();
    assert!(matches!(extension, Request::ReqKey { payload, .. } if payload.ext() == Some(100)));
}
