//! Content of the records on an SPTPS link. Each record is a request line. After PACKET (17) one
//! record is a frame. After SPTPS_PACKET (21) raw bytes follow outside any record. Source:
//! wire/tinc-1.1.md sections 3.3 and 3.8. The limits are those of T03 of proto/threat-model.md, for
//! native links too.

use bytes::{Buf, Bytes, BytesMut};

use meshd_crypto::PublicKey;

use crate::link::{
    LinkError, LinkEvent, MAX_LINE,
    hello::excerpt,
    sptps::{MAX_RECORD, Record, Stream},
};

/// Shortest frame: its Ethernet header, in bytes.
const MIN_FRAME: usize = 14;
/// Longest forwarded frame, in bytes: tinc's 1518 and the slack that tinc allows (wire/tinc-1.1.md
/// section 4.7).
const MAX_FRAME: usize = 1673;
/// Least bytes that a relay datagram adds to a frame: two ids of 6 bytes and an empty record of 21.
const RELAY_OVERHEAD: usize = 33;
/// Longest tolerated relay datagram, in bytes: that of a tinc built for jumbo frames.
const MAX_IGNORED_RELAY: usize = 9018 + RELAY_OVERHEAD;

/// An SPTPS link behind its ID lines.
pub(super) struct Framed {
    stream: Stream,
    due: Due,
}

/// Next item on the stream.
enum Due {
    /// A record with a request.
    Request,
    /// A record of this length with a frame.
    Frame(usize),
    /// A record of this length that is dropped.
    UselessFrame(usize),
    /// This many raw bytes: a relay datagram.
    Relayed(usize),
    /// This many raw bytes that are dropped.
    Skip(usize),
}

/// Kind of packets on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bulk {
    /// Content of PACKET.
    Frame,
    /// Content of SPTPS_PACKET.
    Relayed,
}

impl Bulk {
    /// Returns true if a packet of this length is sent and forwarded.
    pub(super) fn fits(self, length: usize) -> bool {
        match self {
            Self::Frame => (MIN_FRAME..=MAX_FRAME).contains(&length),
            Self::Relayed => (RELAY_OVERHEAD..=MAX_FRAME + RELAY_OVERHEAD).contains(&length),
        }
    }

    /// Returns the event for the mesh.
    pub(super) fn event(self, data: Bytes) -> LinkEvent {
        match self {
            Self::Frame => LinkEvent::Frame(data),
            Self::Relayed => LinkEvent::Relayed(data),
        }
    }
}

/// Result of reading a link.
pub(super) enum Step {
    /// The other end is authenticated.
    Up,
    /// The other end has sent its Ed25519 key, which ends the UPGRADE. True if our key was sent.
    Upgraded(PublicKey, bool),
    /// An event for the mesh.
    Event(LinkEvent),
    /// The item was consumed here; continue reading.
    Nothing,
}

impl Framed {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            due: Due::Request,
        }
    }

    /// Takes the next item off `input`; `None` until it is complete.
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

    /// Appends a packet, as PACKET or SPTPS_PACKET. Returns `false` if a peer may not accept its
    /// length.
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
        // A real daemon forwards lines with blanks before their number, with line feeds inside and
        // of any length. The records of such lines are valid all the same; the mesh judges the
        // line.
        if data.last() != Some(&b'\n') {
            return misbehaved(format!("a record that is no line: {}", excerpt(&data)));
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

/// Parses the length of following data, at most `most` bytes.
fn length(word: Option<&[u8]>, most: usize) -> Result<usize, LinkError> {
    let word = word.unwrap_or_default();
    std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok())
        .filter(|length| *length <= most)
        .ok_or_else(|| LinkError::Misbehaved(format!("a packet of length {}", excerpt(word))))
}

pub(super) fn misbehaved<T>(what: String) -> Result<T, LinkError> {
    Err(LinkError::Misbehaved(what))
}

const _: () = assert!(MAX_RECORD == MAX_LINE + 1 && MAX_FRAME <= MAX_RECORD);
