//! The handshake of tinc 1.0, and the lines after it. Each direction of the stream is encrypted
//! after its METAKEY.
//! ```text
//! clear:     1 CIPHER DIGEST 0 0 HEX(RSA of the receiver(secret))       METAKEY, either side
//! encrypted: 2 HEX(random)                                             CHALLENGE, either side
//!            3 HEX(digest of the challenge)                            CHAL_REPLY: the dialler first
//!            lines; `17 LENGTH` and that many bytes of a frame
//! or, UPGRADE of tinc 1.1:
//!            4 KEY                                                     the own Ed25519 key, either side
//!            7                                                         the other end's key is accepted
//! ```
//! Only the holder of the RSA key can read the secret, so the node that answers the challenge is
//! authentic. No MAC protects the lines against changes on the way. Source: wire/tinc-1.0.md
//! sections 1.3 to 1.10, wire/tinc-1.1.md section 3.4.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use meshd_crypto::{
    PublicKey, Rng,
    rsa::{RsaPrivate, RsaPublic},
    stream::{Stream, StreamCipher},
    suite::Digest,
};

use crate::link::{
    LinkError, LinkEvent, MAX_LINE,
    frame::{Bulk, Step, misbehaved},
    hello::excerpt,
};

/// Longest packet that is skipped silently, in bytes; a longer one ends the link.
const MAX_IGNORED: usize = 2176;
/// Digests that a METAKEY may name: the SHA family. Source: wire/tinc-1.0.md section 1.5.
const DIGESTS: [i32; 4] = [64, 672, 673, 674];

/// Knowledge of both ends before the handshake.
pub(super) struct Terms {
    /// True if this node dialled.
    pub(super) outgoing: bool,
    pub(super) own: Arc<RsaPrivate>,
    pub(super) peer: RsaPublic,
    pub(super) rng: Rng,
    /// Keys that an UPGRADE sends instead of lines.
    pub(super) upgrade: Option<Keys>,
}

/// Ed25519 keys of an UPGRADE.
pub(super) struct Keys {
    /// Our key, if it is sent.
    pub(super) own: Option<PublicKey>,
    /// Known keys of the other end; empty accepts any key.
    pub(super) peer: Vec<PublicKey>,
}

/// A legacy link behind its ID lines.
pub(super) struct Legacy {
    terms: Terms,
    stage: Stage,
    encrypt: Stream,
    decrypt: Option<Stream>,
    /// Bytes decrypted and not consumed yet.
    plain: BytesMut,
    /// Our challenge.
    challenge: Vec<u8>,
    /// Digest of the answer to our challenge.
    digest: &'static Digest,
    /// Digest of our answer to the other end's challenge.
    their_digest: &'static Digest,
}

enum Stage {
    /// Expects the METAKEY of the other end.
    Metakey,
    /// Expects the CHALLENGE of the other end.
    Challenge,
    /// Expects the CHAL_REPLY of the other end. Holds our CHAL_REPLY until it is sent.
    Reply(Option<Vec<u8>>),
    /// Both ends are authenticated; expects the Ed25519 key of the other end.
    Key,
    /// Holds the key of the other end; expects its confirmation that it has our key.
    Taken(PublicKey),
    /// Both ends are authenticated; expects a line.
    Line,
    /// Expects this many bytes of a frame.
    Frame(usize),
    /// Skips this many bytes.
    Skip(usize),
    /// Skips the rest of a line that was too long, up to its LF.
    Overlong,
}

impl Legacy {
    /// Starts the handshake: appends our METAKEY to `output`.
    pub(super) fn start(mut terms: Terms, output: &mut BytesMut) -> Result<Self, LinkError> {
        let mut secret = Zeroizing::new(vec![0; terms.peer.size()]);
        terms.rng.fill(&mut secret);
        // The secret is less than any modulus of this length.
        secret[0] &= (1 << ((terms.peer.bits() - 1) % 8)) - 1;
        let Some(sealed) = terms.peer.encrypt(&secret) else {
            return misbehaved("its RSA key does not encrypt".into());
        };
        let (cipher, digest) = (StreamCipher::ours(), our_digest());
        let metakey = format!(
            "1 {} {} 0 0 {}\n",
            cipher.nid,
            digest.nid,
            HEXUPPER.encode(&sealed)
        );
        output.extend_from_slice(metakey.as_bytes());
        Ok(Self {
            terms,
            stage: Stage::Metakey,
            encrypt: cipher.encrypt(&secret),
            decrypt: None,
            plain: BytesMut::new(),
            challenge: Vec::new(),
            digest,
            their_digest: digest,
        })
    }

    /// Takes the next item off `input`; `None` until it is complete. Errors are final.
    /// `may_compute` returns true if there is time for our RSA operation: a stranger can cost us no
    /// more.
    pub(super) fn read(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        may_compute: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Step>, LinkError> {
        let Some(decrypt) = &mut self.decrypt else {
            return match take_line(input)? {
                Some(line) => self.metakey(&line, output, may_compute).map(Some),
                None => Ok(None),
            };
        };
        decrypt.apply(input);
        self.plain.unsplit(input.split());
        match self.stage {
            Stage::Frame(length) if self.plain.len() >= length => {
                self.stage = Stage::Line;
                let frame = self.plain.split_to(length).freeze();
                Ok(Some(Step::Event(LinkEvent::Frame(frame))))
            }
            Stage::Frame(_) => Ok(None),
            Stage::Skip(length) => {
                let here = length.min(self.plain.len());
                self.plain.advance(here);
                self.stage = match length - here {
                    0 => Stage::Line,
                    rest => Stage::Skip(rest),
                };
                Ok((here == length).then_some(Step::Nothing))
            }
            Stage::Overlong => {
                let end = self.plain.iter().position(|&byte| byte == b'\n');
                self.plain
                    .advance(end.map_or(self.plain.len(), |end| end + 1));
                if end.is_some() {
                    self.stage = Stage::Line;
                }
                Ok(end.map(|_| Step::Nothing))
            }
            // A tinc 1.1 forwards lines of any length. The event holds one byte too many, which
            // costs only the line.
            Stage::Line if is_overlong(&self.plain) => {
                self.stage = Stage::Overlong;
                let start = self.plain.split_to(MAX_LINE + 1).freeze();
                Ok(Some(Step::Event(LinkEvent::Line(start))))
            }
            _ => match take_line(&mut self.plain)? {
                Some(line) => self.line(line, output).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Appends a request line, at most [`MAX_LINE`] bytes without LF.
    pub(super) fn write_line(&mut self, line: &[u8], output: &mut BytesMut) {
        self.write(&[line, b"\n"], output);
    }

    /// Appends a frame as PACKET. Returns `false` if a peer may not accept its length, or if the
    /// packet is no frame: legacy links carry only frames.
    pub(super) fn write_bulk(&mut self, bulk: Bulk, data: &[u8], output: &mut BytesMut) -> bool {
        let fits = bulk == Bulk::Frame && bulk.fits(data.len());
        if fits {
            self.write(&[format!("17 {}\n", data.len()).as_bytes(), data], output);
        }
        fits
    }

    fn write(&mut self, pieces: &[&[u8]], output: &mut BytesMut) {
        let start = output.len();
        for piece in pieces {
            output.extend_from_slice(piece);
        }
        self.encrypt.apply(&mut output[start..]);
    }

    /// Writes bytes that no other method would write.
    #[cfg(test)]
    pub(super) fn write_raw(&mut self, data: &[u8], output: &mut BytesMut) {
        self.write(&[data], output);
    }

    fn metakey(
        &mut self,
        line: &[u8],
        output: &mut BytesMut,
        may_compute: &mut dyn FnMut() -> bool,
    ) -> Result<Step, LinkError> {
        let words = words(line, "1", 5)?;
        let number = |word: &str| word.parse::<i32>().unwrap_or(-1);
        let digest = Digest::by_nid(number(words[1])).filter(|d| DIGESTS.contains(&d.nid));
        let (Some(cipher), Some(digest)) = (StreamCipher::by_nid(number(words[0])), digest) else {
            return misbehaved(format!(
                "it encrypts its link in a way that meshd does not (OpenSSL's numbers {} and {})",
                excerpt(words[0].as_bytes()),
                excerpt(words[1].as_bytes())
            ));
        };
        let sealed = of_length(words[4], self.terms.own.public().size())?;
        if !may_compute() {
            return misbehaved("too many legacy handshakes at once: try again".into());
        }
        let Some(secret) = self.terms.own.decrypt(&sealed, &mut self.terms.rng) else {
            return misbehaved("its METAKEY is not for our RSA key".into());
        };
        self.decrypt = Some(cipher.decrypt(&secret));
        self.their_digest = digest;
        self.challenge = vec![0; self.terms.peer.size()];
        self.terms.rng.fill(&mut self.challenge);
        let challenge = format!("2 {}", HEXUPPER.encode(&self.challenge));
        self.write_line(challenge.as_bytes(), output);
        self.stage = Stage::Challenge;
        Ok(Step::Nothing)
    }

    fn line(&mut self, line: Bytes, output: &mut BytesMut) -> Result<Step, LinkError> {
        match &mut self.stage {
            Stage::Challenge => {
                let challenge = words(&line, "2", 1)?;
                let challenge = of_length(challenge[0], self.terms.own.public().size())?;
                if challenge == self.challenge {
                    return misbehaved("it sends our own challenge back".into());
                }
                let reply = self.their_digest.hash(&challenge);
                self.stage = Stage::Reply(Some(reply));
                // The accepting end waits until the other end is authenticated (T01 of
                // proto/threat-model.md).
                if self.terms.outgoing {
                    self.reply(output);
                }
                Ok(Step::Nothing)
            }
            Stage::Reply(_) => {
                let reply = of_length(words(&line, "3", 1)?[0], self.digest.size)?;
                if !bool::from(self.digest.hash(&self.challenge).ct_eq(&reply)) {
                    return misbehaved("its RSA key is not that of its host file".into());
                }
                self.reply(output);
                let Some(keys) = &self.terms.upgrade else {
                    self.stage = Stage::Line;
                    return Ok(Step::Up);
                };
                self.stage = Stage::Key;
                if let Some(own) = keys.own {
                    self.write_line(format!("4 {own}").as_bytes(), output);
                }
                Ok(Step::Nothing)
            }
            Stage::Key => self.their_key(&line, output),
            Stage::Taken(key) => {
                let key = *key;
                words(&line, "7", 0)?;
                if self.terms.outgoing {
                    self.write_line(b"7", output);
                }
                Ok(Step::Upgraded(key, true))
            }
            _ => self.request(line),
        }
    }

    fn their_key(&mut self, line: &[u8], output: &mut BytesMut) -> Result<Step, LinkError> {
        let key = PublicKey::from_base64(words(line, "4", 1)?[0]).ok();
        let Some(key) = key.filter(PublicKey::is_torsion_free) else {
            return misbehaved(format!(
                "what it calls its Ed25519 key is none: {}",
                excerpt(line)
            ));
        };
        let keys = self.terms.upgrade.as_ref();
        if keys.is_some_and(|keys| !keys.peer.is_empty() && !keys.peer.contains(&key)) {
            return misbehaved("its Ed25519 key is not that of its host file".into());
        }
        if keys.is_none_or(|keys| keys.own.is_none()) {
            return Ok(Step::Upgraded(key, false));
        }
        self.stage = Stage::Taken(key);
        // A tincd that we dialled ends the link on our message before its own is sent.
        if !self.terms.outgoing {
            self.write_line(b"7", output);
        }
        Ok(Step::Nothing)
    }

    /// Sends our CHAL_REPLY, once.
    fn reply(&mut self, output: &mut BytesMut) {
        if let Stage::Reply(reply) = &mut self.stage
            && let Some(reply) = reply.take()
        {
            let line = format!("3 {}", HEXUPPER.encode(&reply));
            self.write_line(line.as_bytes(), output);
        }
    }

    fn request(&mut self, line: Bytes) -> Result<Step, LinkError> {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        if words.next() != Some(b"17") {
            return Ok(Step::Event(LinkEvent::Line(line)));
        }
        let length = words
            .next()
            .and_then(|word| str::from_utf8(word).ok()?.parse().ok());
        self.stage = match length {
            Some(length) if Bulk::Frame.fits(length) => Stage::Frame(length),
            Some(length @ 0..=MAX_IGNORED) => Stage::Skip(length),
            _ => {
                return misbehaved(format!(
                    "a packet whose length is wrong: {}",
                    excerpt(&line)
                ));
            }
        };
        Ok(Step::Nothing)
    }
}

/// The digest in our METAKEY.
fn our_digest() -> &'static Digest {
    Digest::by_name("sha256").expect("is in the table")
}

/// Takes a line off the front, without its LF.
fn take_line(input: &mut BytesMut) -> Result<Option<Bytes>, LinkError> {
    match end_of_line(input) {
        Some(end) => {
            let line = input.split_to(end).freeze();
            input.advance(1);
            Ok(Some(line))
        }
        None if is_overlong(input) => misbehaved("a line without an end".into()),
        None => Ok(None),
    }
}

/// Returns the end of the first line, if the line is not too long.
fn end_of_line(input: &[u8]) -> Option<usize> {
    let start = &input[..input.len().min(MAX_LINE + 1)];
    start.iter().position(|&byte| byte == b'\n')
}

fn is_overlong(input: &[u8]) -> bool {
    input.len() > MAX_LINE && end_of_line(input).is_none()
}

/// Returns the first `count` words after the request's number, which must be `request`.
fn words<'l>(line: &'l [u8], request: &str, count: usize) -> Result<Vec<&'l str>, LinkError> {
    let text = str::from_utf8(line).unwrap_or_default();
    let mut all = text.split_ascii_whitespace();
    let due = all.next() == Some(request);
    let words: Vec<&str> = all.take(count).collect();
    match due && words.len() == count {
        true => Ok(words),
        false => misbehaved(format!("request {request} was due: {}", excerpt(line))),
    }
}

/// Decodes hexadecimal text of exactly `length` bytes.
fn of_length(text: &str, length: usize) -> Result<Vec<u8>, LinkError> {
    let bytes = HEXUPPER_PERMISSIVE.decode(text.as_bytes());
    match bytes {
        Ok(bytes) if bytes.len() == length => Ok(bytes),
        _ => misbehaved(format!(
            "{length} bytes were due: does its host file here, or ours there, hold another RSA key?"
        )),
    }
}
