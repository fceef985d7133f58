//! Dialects of a scripted member: sends and receives lines in SPTPS and in tinc 1.0's way.

use std::{fs, io::Read as _, sync::Arc};

use data_encoding::HEXUPPER_PERMISSIVE as HEX;
use meshd::{
    crypto::{
        PrivateKey, PublicKey, Rng,
        aead::{self, TAG},
        rsa::{RsaPrivate, RsaPublic},
        sptps::{Kex, Key, Offer, Parties, Role, link_label},
        stream::{Stream, StreamCipher},
        suite::Digest,
    },
    wire::NodeName,
};

use crate::{hostile::Member, node::Node};

/// The framing of a connection behind its handshake.
pub(super) enum Dialect {
    /// Records, each sealed.
    Sptps {
        tx: Key,
        rx: Key,
        tx_seq: u32,
        rx_seq: u32,
        /// The next record is a frame, announced by 17.
        frame_due: bool,
    },
    /// Lines on an encrypted stream; `plain` is what was decrypted and not taken yet.
    Legacy {
        encrypt: Stream,
        decrypt: Stream,
        plain: Vec<u8>,
    },
}

impl Dialect {
    /// One record of any type and content, or in legacy just the content.
    pub(super) fn seal(&mut self, kind: u8, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sptps { tx, tx_seq, .. } => {
                let length = u16::try_from(data.len()).unwrap().to_be_bytes();
                let mut body = [&[kind], data, &[0; TAG]].concat();
                aead::seal(tx, *tx_seq, &mut body);
                *tx_seq += 1;
                [&length[..], &body].concat()
            }
            Self::Legacy { encrypt, .. } => {
                let mut data = data.to_vec();
                encrypt.apply(&mut data);
                data
            }
        }
    }

    /// Takes the next line off `input`. `raw_due`: bytes to be passed over first, which this sets where a line
    /// announces some.
    pub(super) fn next_line(&mut self, input: &mut Vec<u8>, raw_due: &mut usize) -> Option<String> {
        let line = match self {
            Self::Sptps {
                rx,
                rx_seq,
                frame_due,
                ..
            } => loop {
                if !skip(input, raw_due) {
                    return None;
                }
                let (length, rest) = input.split_first_chunk::<2>()?;
                let length = usize::from(u16::from_be_bytes(*length));
                let whole = 1 + length + TAG;
                let mut body = rest.get(..whole)?.to_vec();
                input.drain(..2 + whole);
                aead::open(rx, *rx_seq, &mut body).expect("the victim seals as it should");
                *rx_seq += 1;
                if !std::mem::take(frame_due) {
                    let line = String::from_utf8_lossy(&body[1..=length]);
                    break line.trim_end().to_owned();
                }
            },
            Self::Legacy { decrypt, plain, .. } => {
                decrypt.apply(input);
                plain.append(input);
                if !skip(plain, raw_due) {
                    return None;
                }
                let end = plain.iter().position(|byte| *byte == b'\n')?;
                let line: Vec<u8> = plain.drain(..=end).collect();
                String::from_utf8_lossy(&line).trim_end().to_owned()
            }
        };
        let mut words = line.split(' ');
        let count = (
            words.next(),
            words.next().and_then(|word| word.parse().ok()),
        );
        match (self, count) {
            (Self::Sptps { frame_due, .. }, (Some("17"), Some(_))) => *frame_due = true,
            (_, (Some("17" | "21"), Some(count))) => *raw_due = count,
            _ => {}
        }
        Some(line)
    }
}

/// Passes over what is due; whether all of it was there.
fn skip(input: &mut Vec<u8>, due: &mut usize) -> bool {
    let count = input.len().min(*due);
    input.drain(..count);
    *due -= count;
    *due == 0
}

impl Member {
    /// SPTPS, behind both ID lines.
    pub(super) fn handshake_sptps(&mut self, node: &Node) {
        let parsed = |name: &str| name.parse::<NodeName>().unwrap();
        let pem = fs::read_to_string(node.dir().join("ed25519_key.priv")).unwrap();
        let parties = Parties {
            role: Role::Initiator,
            key: Arc::new(PrivateKey::from_pem(&pem).unwrap()),
            peer_key: ed25519_key(node, &self.victim),
            next_key: None,
            label: link_label(&parsed(&self.name), &parsed(&self.victim)),
        };
        let offer = Offer::new(&mut random());
        let kex = *offer.kex();
        self.write_clear(&kex);
        let theirs = Kex::parse(&self.read_clear()).unwrap();
        let agreement = offer.with(theirs);
        self.write_clear(&agreement.sign(&parties));
        agreement.verify(&self.read_clear(), &parties).unwrap();
        let keys = agreement.keys(&parties);
        self.dialect = Some(Dialect::Sptps {
            tx: keys.tx,
            rx: keys.rx,
            tx_seq: 2,
            rx_seq: 2,
            frame_due: false,
        });
    }

    fn write_clear(&mut self, message: &[u8]) {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        self.write(&[&length, &[128][..], message].concat());
    }

    fn read_clear(&mut self) -> Vec<u8> {
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if rest.len() > length {
                    assert_eq!(rest[0], 128, "record type");
                    let record = self.input.drain(..3 + length).skip(3).collect();
                    return record;
                }
            }
            assert!(self.fill(), "closed in the handshake");
        }
    }

    /// METAKEY, CHALLENGE and CHAL_REPLY, behind both ID lines.
    pub(super) fn handshake_legacy(&mut self, node: &Node) {
        let mut rng = random();
        let pem = fs::read_to_string(node.dir().join("rsa_key.priv")).unwrap();
        let own = RsaPrivate::from_pem(&pem).unwrap();
        let hosts = node.dir().join("hosts").join(&self.victim);
        let theirs = RsaPublic::from_pem(&fs::read_to_string(hosts).unwrap()).unwrap();
        let mut secret = vec![0; theirs.size()];
        rng.fill(&mut secret);
        secret[0] &= 0x7f;
        let (cipher, digest) = (StreamCipher::ours(), Digest::by_name("sha256").unwrap());
        let sealed = HEX.encode(&theirs.encrypt(&secret).unwrap());
        self.write(format!("1 {} {} 0 0 {sealed}\n", cipher.nid, digest.nid).as_bytes());
        let metakey = self.read_line();
        let words: Vec<&str> = metakey.split(' ').collect();
        let theirs = StreamCipher::by_nid(words[1].parse().unwrap()).unwrap();
        let their_digest = Digest::by_nid(words[2].parse().unwrap()).unwrap();
        let sealed = HEX.decode(words[5].as_bytes()).unwrap();
        let their_secret = own.decrypt(&sealed, &mut rng).unwrap();
        self.dialect = Some(Dialect::Legacy {
            encrypt: cipher.encrypt(&secret),
            decrypt: theirs.decrypt(&their_secret),
            plain: Vec::new(),
        });
        self.say(format!("2 {}", HEX.encode(&secret)));
        let patience = std::time::Duration::from_secs(10);
        assert!(self.hears(patience, |line| line.starts_with("2 ")));
        let challenge = HEX.decode(&self.heard[0].as_bytes()[2..]).unwrap();
        let reply = HEX.encode(&their_digest.hash(&challenge));
        self.say(format!("3 {reply}"));
        assert!(self.hears(patience, |line| line.starts_with("3 ")));
    }
}

fn random() -> Rng {
    let mut seed = [0; 32];
    let mut source = fs::File::open("/dev/urandom").unwrap();
    source.read_exact(&mut seed).unwrap();
    Rng::new(seed)
}

fn ed25519_key(node: &Node, other: &str) -> PublicKey {
    let text = fs::read_to_string(node.dir().join("hosts").join(other)).unwrap();
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("Ed25519PublicKey = "))
        .unwrap();
    PublicKey::from_base64(key.trim()).unwrap()
}
