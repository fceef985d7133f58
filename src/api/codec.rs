//! JSON lines with a maximum length in both directions.

use serde::{Serialize, de::DeserializeOwned};

/// Longest answer line in bytes that a client accepts: the dump of a mesh at its limits. The limit of requests is
/// [`super::proto::MAX_LINE`].
pub const MAX_ANSWER: usize = 64 << 20;

/// Reason why a line was rejected.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than the limit.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    /// Not JSON, or not of the expected form.
    #[error("not a valid message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes one value as a line with its newline. JSON text contains no newline.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Decodes a line, with or without its newline.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    Ok(serde_json::from_slice(line)?)
}

/// Splits a byte stream into lines.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Number of bytes at the front without a newline.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Accepts lines of at most `limit` bytes without newline. The buffer holds at most that and one read.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let (buffer, searched) = (Vec::new(), 0);
        Self {
            buffer,
            searched,
            limit,
        }
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete line without its newline. Call until `None` after every [`Self::push`]. After an error
    /// the stream is unusable.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n');
        let length = found.map_or(self.buffer.len(), |at| self.searched + at);
        if length > self.limit {
            return Err(CodecError::TooLong(self.limit));
        }
        if found.is_none() {
            self.searched = length;
            return Ok(None);
        }
        let rest = self.buffer.split_off(length + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        call::{self, Request},
        proto::{Answer, Envelope, ErrorCode, Response, VERSION},
    };

    #[test]
    fn requests_and_answers_read_as_documented() {
        let envelope = Envelope {
            v: VERSION,
            request: Request::Log(call::Log {
                level: None,
                since_seconds: 0,
                past: false,
            }),
        };
        let line = encode(&envelope).unwrap();
        let text = "{\"v\":1,\"cmd\":\"log\",\"level\":null,\"since_seconds\":0,\"past\":false}\n";
        assert_eq!(line, text.as_bytes());
        assert_eq!(decode::<Envelope>(&line).unwrap(), envelope);
        let get: Envelope = decode(br#"{"v":1,"cmd":"route","address":"10.0.0.1"}"#).unwrap();
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(get.request, Request::Route(call::Route { address }));
        let text =
            br#"{"v":1,"net":null,"node":"a","time":"t","error":{"code":"unknown","text":"x"}}"#;
        let answer: Answer = decode(text).unwrap();
        assert!(matches!(&answer.response, Response::Error(e) if e.code == ErrorCode::Unknown));
        assert_eq!(encode(&answer).unwrap(), [&text[..], b"\n"].concat());
        let peers: Envelope = decode(br#"{"v":1,"cmd":"peers","more":1}"#).unwrap();
        assert_eq!(peers.request, Request::Peers(call::Peers {}));
        let text = br#"{"v":1,"cmd":"peers"}"#;
        assert_eq!(encode(&peers).unwrap(), [&text[..], b"\n"].concat());
        assert!(decode::<Envelope>(br#"{"v":1,"cmd":"format_disk"}"#).is_err());
        assert!(decode::<Envelope>(b"").is_err());
    }

    #[test]
    fn a_line_that_never_ends_is_an_error_before_it_fills_memory() {
        let mut lines = Lines::new(4);
        lines.push(b"1234\n12345");
        assert_eq!(lines.next_line().unwrap(), Some(b"1234".to_vec()));
        assert!(lines.next_line().is_err());
    }

    proptest! {
        #[test]
        fn lines_come_out_whole_however_they_are_cut(
            texts in proptest::collection::vec("[a-z]{0,20}", 0..8),
            sizes in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let stream: Vec<u8> = texts.iter().flat_map(|t| [t.as_bytes(), b"\n"].concat()).collect();
            let (mut lines, mut out, mut rest) = (Lines::new(20), Vec::new(), &stream[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(rest.len().min(*size));
                lines.push(now);
                rest = later;
                while let Some(line) = lines.next_line().unwrap() {
                    out.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(out, texts);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Lines::new(100);
            lines.push(&bytes);
            while let Ok(Some(line)) = lines.next_line() {
                let _ = decode::<Envelope>(&line);
                let _ = decode::<Answer>(&line);
            }
        }
    }
}
