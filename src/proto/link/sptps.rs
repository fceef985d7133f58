//! SPTPS over a stream: the handshake, then records.
//!
//! ```text
//! clear:     len(2) | type(1) | data              KEX, KEX, initiator's SIG, responder's SIG
//! encrypted: len(2) | C(type(1) | data) | tag(16)
//! ```
//! Source: wire/tinc-1.1.md sections 2.1 and 2.3. Streams are never rekeyed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use meshd_crypto::{
    Rng,
    aead::{self, TAG},
    sptps::{Agreement, HandshakeError, KEX, Kex, Key, Offer, Parties, Role, SIG},
};

/// Longest useful record data, in bytes: a request line with its LF. A frame is shorter. Longer
/// records are read all the same, because a real daemon forwards lines that fill a record.
pub const MAX_RECORD: usize = super::MAX_LINE + 1;
/// Highest record type that carries data.
const MAX_DATA_TYPE: u8 = 127;
/// Record type of handshake messages.
const HANDSHAKE: u8 = 128;
/// Length of the length field.
const LENGTH: usize = 2;

/// Result of [`Stream::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The other end is authenticated; data may be exchanged now.
    Established,
    /// A record with data.
    Data {
        /// Record type, 0 to 127.
        kind: u8,
        /// Record data, up to 65,535 bytes.
        data: Bytes,
    },
}

/// Reason for the end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A handshake message was rejected.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A record whose length is not the one of the expected handshake message.
    #[error("record of {0} bytes")]
    Length(usize),
    /// A record type that is not allowed here.
    #[error("record of type {0}")]
    Type(u8),
    /// A record that was not sealed with the expected key and number.
    #[error("record with a bad tag")]
    BadTag,
    /// 2^32 records were sent or received.
    #[error("the sequence numbers of the connection are used up")]
    Exhausted,
    /// Data was to be sent before the authentication of the other end.
    #[error("not authenticated yet")]
    NotEstablished,
}

/// One end of an SPTPS stream. The stream holds no bytes: they stay in the caller's buffers.
pub struct Stream {
    parties: Parties,
    stage: Stage,
    /// Number of the next record that we send; handshake records count.
    tx_seq: u32,
    /// Number of the next record that we receive.
    rx_seq: u32,
}

enum Stage {
    /// Our KEX is sent.
    Kex(Offer),
    /// Both KEXes are known; the initiator's SIG is sent.
    Sig(Agreement),
    /// Both ends are authenticated.
    Established { tx: Key, rx: Key },
    /// After an error.
    Failed,
}

impl Stream {
    /// Starts the handshake: appends our KEX to `output`.
    #[must_use]
    pub fn start(parties: Parties, rng: &mut Rng, output: &mut BytesMut) -> Self {
        let offer = Offer::new(rng);
        write_clear(offer.kex(), output);
        Self {
            parties,
            stage: Stage::Kex(offer),
            tx_seq: 1,
            rx_seq: 0,
        }
    }
    /// Returns true if the other end is authenticated.
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established { .. })
    }

    /// Takes the next record off `input`, and appends handshake messages to `output`. Returns
    /// `None` until a whole record has arrived. Errors are final.
    pub fn read(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Option<Record>, StreamError> {
        let Some(length) = input.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let (due, overhead) = match &self.stage {
            Stage::Kex(_) => (length == KEX, 1),
            Stage::Sig(_) => (length == SIG, 1),
            Stage::Established { .. } => (true, 1 + TAG),
            Stage::Failed => (false, 0),
        };
        if !due {
            return self.failed(StreamError::Length(length));
        }
        if input.len() < LENGTH + length + overhead {
            return Ok(None);
        }
        input.advance(LENGTH);
        let record = input.split_to(length + overhead);
        match self.take(record, output) {
            Ok(Some(record)) => Ok(Some(record)),
            // After one handshake message the next one may be complete already.
            Ok(None) => self.read(input, output),
            Err(error) => self.failed(error),
        }
    }

    /// Appends a record with `data` to `output`. `data` is given in pieces of [`MAX_RECORD`] bytes
    /// in all.
    pub fn write(
        &mut self,
        kind: u8,
        data: &[&[u8]],
        output: &mut BytesMut,
    ) -> Result<(), StreamError> {
        let Stage::Established { tx, .. } = &self.stage else {
            return Err(StreamError::NotEstablished);
        };
        let length: usize = data.iter().map(|piece| piece.len()).sum();
        let wire_length = u16::try_from(length).map_err(|_| StreamError::Length(length))?;
        let next = self.tx_seq.checked_add(1).ok_or(StreamError::Exhausted)?;
        output.reserve(LENGTH + 1 + length + TAG);
        output.put_u16(wire_length);
        let start = output.len();
        output.put_u8(kind);
        data.iter().for_each(|piece| output.put_slice(piece));
        output.put_bytes(0, TAG);
        aead::seal(tx, self.tx_seq, &mut output[start..]);
        self.tx_seq = next;
        Ok(())
    }

    /// Handles a whole record, without its length. Returns `None` for a handshake message that
    /// another one follows.
    fn take(
        &mut self,
        mut record: BytesMut,
        output: &mut BytesMut,
    ) -> Result<Option<Record>, StreamError> {
        let next = self.rx_seq.checked_add(1).ok_or(StreamError::Exhausted)?;
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Kex(offer) => {
                let agreement = offer.with(Kex::parse(message(&record)?)?);
                if self.parties.role == Role::Initiator {
                    self.write_sig(&agreement, output);
                }
                self.stage = Stage::Sig(agreement);
                self.rx_seq = next;
                Ok(None)
            }
            Stage::Sig(agreement) => {
                agreement.verify(message(&record)?, &self.parties)?;
                if self.parties.role == Role::Responder {
                    self.write_sig(&agreement, output);
                }
                let keys = agreement.keys(&self.parties);
                self.stage = Stage::Established {
                    tx: keys.tx,
                    rx: keys.rx,
                };
                self.rx_seq = next;
                Ok(Some(Record::Established))
            }
            Stage::Established { tx, rx } => {
                aead::open(&rx, self.rx_seq, &mut record)
                    .map_err(|aead::BadTag| StreamError::BadTag)?;
                let kind = record[0];
                if kind > MAX_DATA_TYPE {
                    return Err(StreamError::Type(kind));
                }
                record.truncate(record.len() - TAG);
                record.advance(1);
                self.stage = Stage::Established { tx, rx };
                self.rx_seq = next;
                let data = record.freeze();
                Ok(Some(Record::Data { kind, data }))
            }
            Stage::Failed => Err(StreamError::Exhausted),
        }
    }

    fn write_sig(&mut self, agreement: &Agreement, output: &mut BytesMut) {
        write_clear(&agreement.sign(&self.parties), output);
        self.tx_seq += 1;
    }

    fn failed<T>(&mut self, error: StreamError) -> Result<T, StreamError> {
        self.stage = Stage::Failed;
        Err(error)
    }
}

fn write_clear(message: &[u8], output: &mut BytesMut) {
    let length = u16::try_from(message.len()).expect("handshake messages have 65 bytes at most");
    output.put_u16(length);
    output.put_u8(HANDSHAKE);
    output.put_slice(message);
}

/// Returns the message in a clear-text record.
fn message(record: &[u8]) -> Result<&[u8], StreamError> {
    match record {
        [HANDSHAKE, message @ ..] => Ok(message),
        [kind, ..] => Err(StreamError::Type(*kind)),
        [] => Err(StreamError::Length(0)),
    }
}
