//! Sealed records of a native link, and the renewal of its keys.
//!
//! ```text
//! len(2) | C(kind(1) | content) | tag(16)     number implicit; len counts what follows and is sealed too
//! ```
//! A whole new handshake inside the stream renews the keys; the dialler starts it. TCP keeps the
//! order, so each end can mark the exact record after which it sends under the new keys:
//!
//! ```text
//! dialler   -> HANDSHAKE 1 ->    acceptor
//!           <- HANDSHAKE 2 <-    last record under its old key
//!           -> READY       ->    last record under the dialler's old key
//! ```
//! Source: proto/native-link.md section 3.1.

use std::{
    mem,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use meshd_crypto::{
    aead::{BadTag, TAG},
    noise::Begun,
    seal::SealKey,
};

use crate::link::{
    LinkError, LinkEvent, MAX_LINE,
    frame::{Bulk, Step, misbehaved},
    hello::excerpt,
    noise::{Keys, LENGTH, MAX_HANDSHAKE, Round, Terms},
};

/// A request line, without LF.
const LINE: u8 = 0;
/// Content of PACKET in SPTPS.
const FRAME: u8 = 1;
/// Content of SPTPS_PACKET in SPTPS.
const RELAYED: u8 = 2;
/// A message of the handshake that renews the keys.
const HANDSHAKE: u8 = 3;
/// The dialler has accepted message 2; no content.
const READY: u8 = 4;

/// Longest body of a record in bytes, with kind and tag.
pub(super) const MAX_BODY: usize = 1 + MAX_LINE + TAG;
/// Length of the body of READY.
pub(super) const READY_BODY: usize = 1 + TAG;
/// Age of keys at which they are renewed. Source: proto/native-link.md section 3.1.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// Records under one key after which both keys are renewed. Source: proto/native-link.md section
/// 3.1.
pub(super) const RENEW_RECORDS: u64 = 1 << 32;
/// Most records under one key. A renewal takes a round trip, and a peer without an answer must not
/// keep the key in use forever.
pub(super) const MAX_RECORDS: u64 = RENEW_RECORDS + (1 << 24);
/// Age of keys below which no end may renew them: each renewal costs some multiplications on the
/// curve. 2^32 records take longer than this.
pub(super) const MIN_AGE: Duration = Duration::from_secs(60);

/// The keys in force, with their counters.
pub(super) struct Session {
    tx: Half,
    rx: Half,
    /// Time at which the keys came into force.
    since: Instant,
    renewal: Renewal,
}

/// One direction.
struct Half {
    key: SealKey,
    /// Number of the next record.
    number: u64,
}

/// A handshake inside the stream.
enum Renewal {
    None,
    /// This node dialled, and its first message is sent.
    Begun(Begun),
    /// This node accepted, and its second message is sent. After READY the other end sends under
    /// this key.
    Answered(SealKey),
}

impl Half {
    fn new(key: SealKey) -> Self {
        Self { key, number: 0 }
    }

    fn seal(&mut self, kind: u8, content: &[u8], output: &mut BytesMut) -> Result<(), LinkError> {
        if self.number >= MAX_RECORDS {
            return Err(LinkError::Exhausted);
        }
        let body = 1 + content.len() + TAG;
        let header = u16::try_from(body)
            .expect("records are short")
            .to_be_bytes();
        output.reserve(LENGTH + body);
        output.put_slice(&header);
        let start = output.len();
        output.put_u8(kind);
        output.put_slice(content);
        output.put_bytes(0, TAG);
        self.key.seal(self.number, &header, &mut output[start..]);
        self.number += 1;
        Ok(())
    }

    fn open(&mut self, header: [u8; LENGTH], mut body: BytesMut) -> Result<(u8, Bytes), LinkError> {
        if self.number >= MAX_RECORDS {
            return Err(LinkError::Exhausted);
        }
        self.key
            .open(self.number, &header, &mut body)
            .map_err(|BadTag| LinkError::Misbehaved("record with a bad tag".into()))?;
        self.number += 1;
        body.truncate(body.len() - TAG);
        let kind = body.get_u8();
        Ok((kind, body.freeze()))
    }
}

impl Session {
    pub(super) fn new(keys: Keys, now: Instant) -> Self {
        Self {
            tx: Half::new(keys.tx),
            rx: Half::new(keys.rx),
            since: now,
            renewal: Renewal::None,
        }
    }

    /// Writes READY: the proof that we have the keys.
    pub(super) fn write_ready(&mut self, output: &mut BytesMut) -> Result<(), LinkError> {
        self.tx.seal(READY, &[], output)
    }

    /// Reads the first record of the dialler: the proof that it has the keys.
    pub(super) fn read_ready(
        &mut self,
        header: [u8; LENGTH],
        body: BytesMut,
    ) -> Result<(), LinkError> {
        match self.rx.open(header, body)? {
            (READY, _) => Ok(()),
            (kind, _) => misbehaved(format!("a first record of type {kind}")),
        }
    }

    /// Handles a whole record.
    pub(super) fn read(
        &mut self,
        header: [u8; LENGTH],
        body: BytesMut,
        terms: &mut Terms,
        output: &mut BytesMut,
        now: Instant,
    ) -> Result<Step, LinkError> {
        let (kind, content) = self.rx.open(header, body)?;
        let step = match kind {
            LINE => line(content)?,
            FRAME => packet(Bulk::Frame, content),
            RELAYED => packet(Bulk::Relayed, content),
            HANDSHAKE if content.len() <= MAX_HANDSHAKE => {
                self.handshake(&content, terms, output, now)?;
                Step::Nothing
            }
            READY if content.is_empty() => {
                self.ready()?;
                Step::Nothing
            }
            _ => return misbehaved(format!("a record of type {kind}, {} bytes", content.len())),
        };
        self.renew_if_worn(terms, output)?;
        Ok(step)
    }

    pub(super) fn write_line(
        &mut self,
        line: &[u8],
        terms: &mut Terms,
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        self.tx.seal(LINE, line, output)?;
        self.renew_if_worn(terms, output)
    }

    /// Appends a packet of a valid length.
    pub(super) fn write_bulk(
        &mut self,
        bulk: Bulk,
        data: &[u8],
        terms: &mut Terms,
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        let kind = match bulk {
            Bulk::Frame => FRAME,
            Bulk::Relayed => RELAYED,
        };
        self.tx.seal(kind, data, output)?;
        self.renew_if_worn(terms, output)
    }

    /// Returns the time at which age makes a renewal due, if this node starts renewals.
    pub(super) fn renewal_due(&self, terms: &Terms) -> Option<Instant> {
        let ours = terms.outgoing && matches!(self.renewal, Renewal::None);
        ours.then(|| self.since + RENEW_AFTER)
    }

    fn renew_if_worn(&mut self, terms: &mut Terms, output: &mut BytesMut) -> Result<(), LinkError> {
        let worn = self.tx.number.max(self.rx.number) >= RENEW_RECORDS;
        match worn && self.renewal_due(terms).is_some() {
            true => self.renew(terms, output),
            false => Ok(()),
        }
    }

    /// Starts a renewal of the keys.
    pub(super) fn renew(
        &mut self,
        terms: &mut Terms,
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        let (begun, message) = terms.begin(Round::Renewal)?;
        self.tx.seal(HANDSHAKE, &message, output)?;
        self.renewal = Renewal::Begun(begun);
        Ok(())
    }

    fn handshake(
        &mut self,
        message: &[u8],
        terms: &mut Terms,
        output: &mut BytesMut,
        now: Instant,
    ) -> Result<(), LinkError> {
        match mem::replace(&mut self.renewal, Renewal::None) {
            Renewal::Begun(begun) => {
                let Keys { tx, rx } = terms.finish(begun, message)?;
                // This was the last record under their old key, and READY is the last under ours.
                self.rx = Half::new(rx);
                self.write_ready(output)?;
                self.tx = Half::new(tx);
                self.since = now;
            }
            Renewal::None if terms.outgoing => {
                return misbehaved("the answer to a renewal that we did not begin".into());
            }
            Renewal::None if now.saturating_duration_since(self.since) < MIN_AGE => {
                return misbehaved("it renews the keys too often".into());
            }
            Renewal::None => {
                let (message, Keys { tx, rx }) = terms.answer(Round::Renewal, message)?;
                self.tx.seal(HANDSHAKE, &message, output)?;
                self.tx = Half::new(tx);
                self.renewal = Renewal::Answered(rx);
                self.since = now;
            }
            Renewal::Answered(_) => return misbehaved("a renewal within a renewal".into()),
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<(), LinkError> {
        match mem::replace(&mut self.renewal, Renewal::None) {
            Renewal::Answered(rx) => {
                self.rx = Half::new(rx);
                Ok(())
            }
            Renewal::None | Renewal::Begun(_) => misbehaved("READY, but nothing was asked".into()),
        }
    }

    /// Writes a record that no other method would write.
    #[cfg(test)]
    pub(super) fn raw_record(&mut self, kind: u8, content: &[u8], output: &mut BytesMut) {
        let written = self.tx.seal(kind, content, output);
        written.expect("the tests write short records");
    }

    /// Sets the numbers of records sent and received.
    #[cfg(test)]
    pub(super) fn count(&mut self, sent: u64, received: u64) {
        (self.tx.number, self.rx.number) = (sent, received);
    }

    /// Returns the numbers of the next records to send and to receive.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.tx.number, self.rx.number)
    }
}

fn line(content: Bytes) -> Result<Step, LinkError> {
    if content.contains(&b'\n') {
        return misbehaved(format!(
            "a record that is not one line: {}",
            excerpt(&content)
        ));
    }
    match content.split(|&byte| byte == b' ').next() {
        None | Some(b"") if content.is_empty() => misbehaved("an empty request".into()),
        // These requests announce data that has records of its own here.
        Some(b"17" | b"21") => {
            misbehaved(format!("a request without place: {}", excerpt(&content)))
        }
        // Blanks before the number are allowed: a line is forwarded unchanged.
        _ => Ok(Step::Event(LinkEvent::Line(content))),
    }
}

fn packet(bulk: Bulk, content: Bytes) -> Step {
    match bulk.fits(content.len()) {
        true => Step::Event(bulk.event(content)),
        false => Step::Nothing,
    }
}

const _: () = assert!(MAX_HANDSHAKE <= MAX_LINE);
