//! Recordings of real tinc 1.0.36 daemons, replayed: tests/vectors/tinc-1.0.json, made as
//! tests/vectors/README-1.0.md says. "alpha" always dials "beta".
#![expect(
    clippy::unwrap_used,
    reason = "the recordings are fixed, and a test may stop at a bad one"
)]

use data_encoding::HEXUPPER_PERMISSIVE;
use meshd::{
    crypto::{
        Rng,
        replay::ReplayWindow,
        rsa::{RsaPrivate, RsaPublic},
        stream::{Stream, StreamCipher},
        suite::Digest,
    },
    tunnel::{
        self, TYPE_COMPRESSED, TYPE_PROBE,
        legacy::{Suite, SuiteError},
    },
    wire::{Request, Subnet},
};
use recording::{hex, list, text};
use serde_json::Value;

#[path = "vectors/recording.rs"]
mod recording;

const SIDES: [&str; 2] = ["alpha", "beta"];

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/tinc-1.0.json")).unwrap()
}

fn number(value: &Value, key: &str) -> usize {
    let number = value[key].as_u64();
    number.unwrap_or_else(|| panic!("no number {key}")) as usize
}

fn other(side: &str) -> &'static str {
    if side == "alpha" { "beta" } else { "alpha" }
}

fn private(vectors: &Value, side: &str) -> RsaPrivate {
    RsaPrivate::from_pem(text(&vectors["rsa_keys"][side], "private_pem")).unwrap()
}

fn public(vectors: &Value, side: &str) -> RsaPublic {
    RsaPublic::from_pem(text(&vectors["rsa_keys"][side], "public_pem")).unwrap()
}

#[test]
fn both_halves_of_the_keys_belong_together() {
    let vectors = vectors();
    for side in SIDES {
        assert_eq!(private(&vectors, side).public(), public(&vectors, side));
    }
    assert_ne!(public(&vectors, "alpha"), public(&vectors, "beta"));
}

/// Every METAKEY, both ways: what is in it, and what it looks like on the wire.
#[test]
fn metakeys() {
    let vectors = vectors();
    let mut rng = Rng::new([1; 32]);
    let mut seen = 0;
    for connection in list(&vectors, "meta_connections") {
        for side in SIDES {
            let to = other(side);
            let metakey = &connection["metakeys"][format!("{side}_to_{to}")];
            let line = line_of(connection, side, "1 ");
            let words: Vec<&str> = line.split(' ').collect();
            let sealed = HEXUPPER_PERMISSIVE.decode(words[5].as_bytes()).unwrap();
            let plain = hex(metakey, "rsa_plaintext");
            let opened = private(&vectors, to).decrypt(&sealed, &mut rng).unwrap();
            assert_eq!(*opened, plain);
            assert_eq!(public(&vectors, to).encrypt(&plain).unwrap(), sealed);
            assert!(plain[0] < 0x80);

            let cipher = StreamCipher::by_nid(words[1].parse().unwrap()).unwrap();
            assert_eq!(number(metakey, "cipher_nid"), cipher.nid as usize);
            let digest = Digest::by_nid(words[2].parse().unwrap()).unwrap();
            assert_eq!(digest.name, text(metakey, "digest"));
            assert_eq!(words[3..5], ["0", "0"]);
            let (rest, key) = plain.split_at(plain.len() - cipher.key);
            assert_eq!(key, hex(metakey, "key"));
            assert_eq!(rest[rest.len() - 16..], hex(metakey, "iv"));
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
}

/// The first line of a side that begins so.
fn line_of<'a>(connection: &'a Value, side: &str, start: &str) -> &'a str {
    let messages = list(connection, "messages").iter();
    let mut lines = messages
        .filter(|message| message["from"] == side)
        .filter_map(|message| message["line"].as_str());
    lines.find(|line| line.starts_with(start)).unwrap()
}

/// Both streams of every connection, byte by byte, decrypted and encrypted again, cut at odd places.
#[test]
fn meta_streams() {
    let vectors = vectors();
    let mut lines = 0;
    for connection in list(&vectors, "meta_connections") {
        for side in SIDES {
            let way = format!("{side}_to_{}", other(side));
            let metakey = &connection["metakeys"][&way];
            let stream = hex(&connection["tcp_stream_hex"], &way);
            let clear = number(&connection["encrypted_from_offset"], &way);
            let secret = hex(metakey, "rsa_plaintext");
            let cipher = StreamCipher::by_nid(number(metakey, "cipher_nid") as i32).unwrap();
            let mut plain = stream.clone();
            in_pieces(cipher.decrypt(&secret), &mut plain[clear..], 7);
            let messages = list(connection, "messages").iter();
            let sent = messages.filter(|m| m["from"] == side && m["event"].is_null());
            for message in sent {
                let (at, length) = (number(message, "offset"), number(message, "length"));
                let piece = &plain[at..at + length];
                if let Some(line) = message["line"].as_str() {
                    assert_eq!(piece, format!("{line}\n").as_bytes());
                    is_understood(line);
                    lines += 1;
                } else if message["packet_frame"].is_string() {
                    assert_eq!(piece, hex(message, "packet_frame"));
                }
            }
            in_pieces(cipher.encrypt(&secret), &mut plain[clear..], 1000);
            assert_eq!(plain, stream);
        }
    }
    assert_eq!(lines, 135);
}

fn in_pieces(mut stream: Stream, data: &mut [u8], piece: usize) {
    data.chunks_mut(piece).for_each(|piece| stream.apply(piece));
}

/// A line of an active connection is one that our parser takes.
fn is_understood(line: &str) {
    let number: u32 = line.split(' ').next().unwrap().parse().unwrap();
    if number >= 4 {
        Request::parse(line.as_bytes()).unwrap_or_else(|why| panic!("{line}: {why}"));
    }
}

/// Every CHAL_REPLY is the digest that the challenger's METAKEY names, of its challenge.
#[test]
fn replies_to_challenges() {
    let vectors = vectors();
    for connection in list(&vectors, "meta_connections") {
        for side in SIDES {
            let challenge = line_of(connection, side, "2 ");
            let reply = line_of(connection, other(side), "3 ");
            let way = format!("{side}_to_{}", other(side));
            let digest = number(&connection["metakeys"][&way], "digest_nid");
            let digest = Digest::by_nid(digest as i32).unwrap();
            let challenge = HEXUPPER_PERMISSIVE
                .decode(&challenge.as_bytes()[2..])
                .unwrap();
            assert_eq!(challenge.len(), 256);
            let expected = digest.hash(&challenge);
            let reply = HEXUPPER_PERMISSIVE.decode(&reply.as_bytes()[2..]).unwrap();
            assert_eq!(reply, expected);
        }
    }
}

fn suite_of(packet: &Value) -> Result<Suite, SuiteError> {
    let fields = ["cipher_nid", "digest_nid", "maclength", "compression"];
    Suite::from_wire(fields.map(|field| number(packet, field) as i32).into())
}

/// Opens a recorded datagram; returns its number, type and frame.
fn open(suite: &Suite, packet: &Value) -> (u64, u8, Vec<u8>) {
    let key = suite.receive_with(&hex(packet, "key"), 0);
    let mut datagram = hex(packet, "datagram");
    let opened = tunnel::open(&[key], &mut datagram).unwrap();
    let data = &datagram[opened.data(datagram.len())];
    match opened.kind {
        TYPE_COMPRESSED => {
            let (kind, data) = opened.unpack(data).unwrap();
            (opened.seq, kind, data)
        }
        kind => (opened.seq, kind, data.to_vec()),
    }
}

/// Seals what a recorded datagram holds.
fn seal(suite: &Suite, packet: &Value, kind: u8, data: &[u8]) -> Vec<u8> {
    let key = suite.send(&hex(packet, "key")).unwrap();
    key.sealed(number(packet, "seqno") as u64, kind, data)
}

/// Every datagram is opened, and made again byte by byte where it was not compressed.
#[test]
fn datagrams() {
    let vectors = vectors();
    let pairs = list(&vectors["pmtu"], "request_reply_pairs").iter();
    let pairs = pairs.flat_map(|pair| [&pair["request"], &pair["reply"]]);
    let mut counts = [0; 3];
    for packet in list(&vectors, "udp_packets").iter().chain(pairs) {
        let id = text(packet, "id");
        // meshd does not use these: src/crypto/suite.rs gives the reasons.
        if [
            "aes-256-ofb",
            "aes-256-ecb",
            "camellia-256-cbc",
            "chacha20-poly1305",
        ]
        .contains(&text(packet, "cipher"))
        {
            let nid = number(packet, "cipher_nid") as i32;
            assert_eq!(suite_of(packet), Err(SuiteError::Cipher(nid)), "{id}");
            counts[2] += 1;
            continue;
        }
        let suite = suite_of(packet).unwrap();
        let (seq, kind, data) = open(&suite, packet);
        let frame = hex(packet, "frame");
        assert_eq!(seq, number(packet, "seqno") as u64, "{id}");
        let is_probe = text(packet, "kind") != "data";
        let is_ip = frame[..12] == [0; 12];
        if is_probe {
            assert_eq!((kind, &data), (TYPE_PROBE, &frame), "{id}");
        } else if is_ip {
            assert_eq!((kind, &data[..]), (0, &frame[14..]), "{id}");
        } else {
            // Switch mode: an address of its own, or no IP at all.
            assert!(frame.ends_with(&data), "{id}");
            continue;
        }
        let sealed = seal(&suite, packet, kind, &data);
        if suite.compression == 0 {
            assert_eq!(sealed, hex(packet, "datagram"), "{id}");
            counts[0] += 1;
        } else {
            let key = suite.receive_with(&hex(packet, "key"), 0);
            let mut sealed = sealed;
            let opened = tunnel::open(&[key], &mut sealed).unwrap();
            let (again, unpacked) = opened.unpack(&sealed[opened.data(sealed.len())]).unwrap();
            assert_eq!((again, &unpacked), (kind, &data), "{id}");
            counts[1] += 1;
        }
    }
    assert_eq!(counts, [68, 19, 11]);
}

/// A changed byte anywhere is a bad tag where there is one, and never a panic.
#[test]
fn damaged_datagrams() {
    let vectors = vectors();
    for packet in list(&vectors, "udp_packets") {
        let Ok(suite) = suite_of(packet) else {
            continue;
        };
        let whole = hex(packet, "datagram");
        for at in 0..whole.len() {
            let key = suite.receive_with(&hex(packet, "key"), 0);
            let mut datagram = whole.clone();
            datagram[at] ^= 0x41;
            let opened = tunnel::open(std::slice::from_ref(&key), &mut datagram);
            assert!(opened.is_err() || suite.mac == 0, "{}", text(packet, "id"));
            let mut short = whole[..at].to_vec();
            let opened = tunnel::open(&[key], &mut short);
            assert!(opened.is_err() || suite.mac == 0, "{}", text(packet, "id"));
        }
    }
}

/// Counter mode goes on from packet to packet: whatever is lost takes everything after it along. Not ours to use.
#[test]
fn counter_mode_is_refused() {
    let vectors = vectors();
    assert_eq!(list(&vectors["udp_ctr_quirk"], "packets").len(), 4);
    for nid in [904, 905, 906] {
        let suite = Suite::from_wire([nid, 672, 4, 0].into());
        assert_eq!(suite, Err(SuiteError::Cipher(nid)));
    }
}

/// Replies to probes are the probes with a one at the front.
#[test]
fn probes_and_replies() {
    let vectors = vectors();
    for pair in list(&vectors["pmtu"], "request_reply_pairs") {
        let mut frame = hex(&pair["request"], "frame");
        assert_eq!(frame[..14], [0; 14]);
        frame[0] = 1;
        assert_eq!(frame, hex(&pair["reply"], "frame"));
    }
    // A datagram is as long as we reckon: 14 bytes of frame and more.
    let suite = Suite::from_wire([427, 672, 4, 0].into()).unwrap();
    let key = suite.send(&[7; 48]).unwrap();
    for probe in list(&vectors["pmtu"], "timeline") {
        let (frame, datagram) = (
            number(probe, "frame_length"),
            number(probe, "datagram_length"),
        );
        assert!(key.longest_record(datagram) >= frame && key.longest_record(datagram - 1) < frame);
    }
    assert_eq!(key.longest_record(1472), 1451);
}

/// The replay window agrees with the real one wherever that is not about its "far future": ours takes what is
/// ahead, however far, and remembers more (tests/vectors/DEPARTURES.md). Nothing is taken twice.
#[test]
fn replay_windows() {
    let vectors = vectors();
    let mut compared = 0;
    for run in list(&vectors["replay_window"], "runs") {
        let width = 8 * number(run, "replay_window_bytes") as u64;
        let mut window = ReplayWindow::new(width as u32);
        let _ = window.accept(0);
        let mut far = false;
        let mut taken = std::collections::BTreeSet::new();
        for pair in list(run, "seq_accepted") {
            let (seq, accepted) = (pair[0].as_u64().unwrap(), pair[1] == 1);
            far |= width > 0 && seq >= window.next() - 1 + width;
            let ours = window.accept(seq);
            assert!(!ours || width == 0 || taken.insert(seq), "{seq} twice");
            if !far {
                assert_eq!(ours, accepted || width == 0, "{seq} of {width}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared}");
}

/// Texts of subnets: both forms that daemons send mean the same, and what ends a link with a 1.0.36 we do not take.
#[test]
fn subnet_texts() {
    let vectors = vectors();
    let subnets = &vectors["subnet_text"];
    for row in list(subnets, "accepted") {
        let parsed: Subnet = text(row, "text").parse().unwrap();
        for emitted in ["emitted_by_1_0_36", "emitted_by_1_1pre18"] {
            if let Some(emitted) = row[emitted].as_str() {
                assert_eq!(emitted.parse::<Subnet>().ok(), Some(parsed), "{emitted}");
            }
        }
    }
    for text in list(subnets, "rejected_with_disconnect") {
        let text = text.as_str().unwrap();
        assert!(text.parse::<Subnet>().is_err(), "{text}");
    }
}
