//! What the records of an SPTPS link mean: a request line each; after PACKET (17) one record that is a
//! frame; after SPTPS_PACKET (21) raw bytes outside any record. Source:
//! wire/tinc-1.1.md sections 3.3 and 3.8; the limits are those of T03 of proto/threat-model.md, for native links too.

use bytes::{Buf, Bytes, BytesMut};

use meshd_crypto::PublicKey;

use crate::link::{
    LinkError, LinkEvent, MAX_LINE,
    hello::shown,
    sptps::{MAX_RECORD, Record, Stream},
};

/// Shortest frame: its Ethernet header, in bytes.
const MIN_FRAME: usize = 14;
/// Longest frame that is passed on, in bytes: tinc's 1518 and the slack that it allows
/// (wire/tinc-1.1.md section 4.7).
const MAX_FRAME: usize = 1673;
/// What a relay datagram adds to a frame at least: two ids of 6 bytes and an empty record of 21.
const RELAY_OVERHEAD: usize = 33;
/// Longest relay datagram that is tolerated, in bytes: that of a tinc built for jumbo frames.
const MAX_IGNORED_RELAY: usize = 9018 + RELAY_OVERHEAD;

/// An SPTPS link behind its ID lines.
pub(super) struct Framed {
    stream: Stream,
    due: Due,
}

/// What comes next on the stream.
enum Due {
    /// A record with a request.
    Request,
    /// A record of this length with a frame.
    Frame(usize),
    /// A record of this length that is of no use.
    UselessFrame(usize),
    /// This many raw bytes: a relay datagram.
    Relayed(usize),
    /// This many raw bytes that are of no use.
    Skip(usize),
}

/// Packets that travel on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bulk {
    /// What PACKET carries.
    Frame,
    /// What SPTPS_PACKET carries.
    Relayed,
}

impl Bulk {
    /// Whether a packet of this length is sent and passed on.
    pub(super) fn fits(self, length: usize) -> bool {
        match self {
            Self::Frame => (MIN_FRAME..=MAX_FRAME).contains(&length),
            Self::Relayed => (RELAY_OVERHEAD..=MAX_FRAME + RELAY_OVERHEAD).contains(&length),
        }
    }

    /// What the mesh is told of it.
    pub(super) fn event(self, data: Bytes) -> LinkEvent {
        match self {
            Self::Frame => LinkEvent::Frame(data),
            Self::Relayed => LinkEvent::Relayed(data),
        }
    }
}

/// What reading a link found.
pub(super) enum Step {
    /// The other side is authenticated.
    Up,
    /// The other side has told its Ed25519 key and that was all; whether it was told ours.
    Upgraded(PublicKey, bool),
    /// Something for the mesh.
    Event(LinkEvent),
    /// Something that ends here; go on.
    Nothing,
}

impl Framed {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            due: Due::Request,
        }
    }

    /// Takes the next thing off `input`; `None` until it is all there.
    pub(super) fn read(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Option<Step>, LinkError> {
        match self.due {
            Due::Relayed(length) if input.len() < length => return Ok(None),
            Due::Relayed(length) => {
                self.due = Due::Request;
                let datagram = input.split_to(length).freeze();
                return Ok(Some(Step::Event(LinkEvent::Relayed(datagram))));
            }
            Due::Skip(length) if input.len() < length => {
                self.due = Due::Skip(length - input.len());
                input.clear();
                return Ok(None);
            }
            Due::Skip(length) => {
                input.advance(length);
                self.due = Due::Request;
            }
            Due::Request | Due::Frame(_) | Due::UselessFrame(_) => {}
        }
        match self.stream.read(input, output) {
            Ok(None) => Ok(None),
            Ok(Some(Record::Established)) => Ok(Some(Step::Up)),
            Ok(Some(Record::Data { data, .. })) => self.record(data).map(Some),
            Err(error) => Err(LinkError::Misbehaved(error.to_string())),
        }
    }

    /// Appends a request line, at most [`MAX_LINE`] bytes without LF.
    pub(super) fn write_line(
        &mut self,
        line: &[u8],
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        self.write(&[line, b"\n"], output)
    }

    /// Appends a packet, as PACKET or SPTPS_PACKET. `false` if its length is beyond what a peer may take.
    pub(super) fn write_bulk(
        &mut self,
        bulk: Bulk,
        data: &[u8],
        output: &mut BytesMut,
    ) -> Result<bool, LinkError> {
        if !bulk.fits(data.len()) {
            return Ok(false);
        }
        match bulk {
            Bulk::Frame => {
                self.write(&[format!("17 {}\n", data.len()).as_bytes()], output)?;
                self.write(&[data], output)?;
            }
            Bulk::Relayed => {
                self.write(&[format!("21 {}\n", data.len()).as_bytes()], output)?;
                output.extend_from_slice(data);
            }
        }
        Ok(true)
    }

    fn write(&mut self, data: &[&[u8]], output: &mut BytesMut) -> Result<(), LinkError> {
        self.stream
            .write(0, data, output)
            .map_err(|_| LinkError::Exhausted)
    }

    /// Writes a record that no other method would write.
    #[cfg(test)]
    pub(super) fn raw_record(&mut self, kind: u8, data: &[u8], output: &mut BytesMut) {
        let written = self.stream.write(kind, &[data], output);
        written.expect("the tests write on established links");
    }

    fn record(&mut self, data: Bytes) -> Result<Step, LinkError> {
        match std::mem::replace(&mut self.due, Due::Request) {
            Due::Frame(length) | Due::UselessFrame(length) if data.len() != length => {
                misbehaved(format!(
                    "a packet of {} bytes where {length} were announced",
                    data.len()
                ))
            }
            Due::Frame(_) => Ok(Step::Event(LinkEvent::Frame(data))),
            Due::UselessFrame(_) => Ok(Step::Nothing),
            Due::Request | Due::Relayed(_) | Due::Skip(_) => self.request(data),
        }
    }

    fn request(&mut self, mut data: Bytes) -> Result<Step, LinkError> {
        // A real daemon passes lines on with blanks before their number, with line feeds inside and of any length:
        // that does not make its records broken. The mesh judges the line.
        if data.last() != Some(&b'\n') {
            return misbehaved(format!("a record that is no line: {}", shown(&data)));
        }
        data.truncate(data.len() - 1);
        let mut words = data.split(|&byte| byte == b' ');
        self.due = match words.next() {
            None | Some(b"") if data.is_empty() => {
                return misbehaved("an empty request".into());
            }
            Some(b"17") => match length(words.next(), MAX_RECORD)? {
                0 => Due::Request,
                length if Bulk::Frame.fits(length) => Due::Frame(length),
                length => Due::UselessFrame(length),
            },
            Some(b"21") => match length(words.next(), MAX_IGNORED_RELAY)? {
                0 => Due::Request,
                length if Bulk::Relayed.fits(length) => Due::Relayed(length),
                length => Due::Skip(length),
            },
            _ => return Ok(Step::Event(LinkEvent::Line(data))),
        };
        Ok(Step::Nothing)
    }
}

/// The length of data to come, `most` bytes at most.
fn length(word: Option<&[u8]>, most: usize) -> Result<usize, LinkError> {
    let word = word.unwrap_or_default();
    std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok())
        .filter(|length| *length <= most)
        .ok_or_else(|| LinkError::Misbehaved(format!("a packet of length {}", shown(word))))
}

pub(super) fn misbehaved<T>(what: String) -> Result<T, LinkError> {
    Err(LinkError::Misbehaved(what))
}

const _: () = assert!(MAX_RECORD == MAX_LINE + 1 && MAX_FRAME <= MAX_RECORD);
