//! Payloads of REQ_KEY and ANS_KEY, decoded.
//!
//! Sources: wire/tinc-1.0.md section 1.8, wire/tinc-1.1.md sections 3.6, 3.7 and 8.3,
//! proto/native-link.md section 3.2.

use std::fmt::{self, Write};

use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};

use crate::{
    base64,
    request::{RequestError, fields::Fields},
};

/// Last word of our REQ_KEY lines that start a tunnel. Real daemons ignore and forward the word. The
/// word tells another meshd that names break the tie of a simultaneous start (wire/tinc-1.1.md
/// sections 3.6 and 8.5).
const TIE_BREAK: &str = " meshd";
/// Characters of an Ed25519 public key in base64.
const PUBLIC_KEY_TEXT: usize = 43;
/// The number in ANS_KEY for cipher, digest and MAC length that means SPTPS.
const SPTPS: i32 = -1;

/// Payload of REQ_KEY: the words after the two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRequest {
    /// No extension, or no number in its place: request for a legacy key. Such a line must never
    /// reach a 1.1 node (wire/tinc-1.1.md section 3.6).
    Legacy,
    /// `15 KEX [meshd]`: starts an SPTPS tunnel.
    Start {
        /// First handshake datagram.
        kex: Vec<u8>,
        /// True if the line ends with the word of a meshd.
        meshd: bool,
    },
    /// `19`: request for the Ed25519 public key.
    ReqPubkey,
    /// `20 KEY`: an Ed25519 public key.
    AnsPubkey([u8; 32]),
    /// `21 DATAGRAM`: a packet of an SPTPS tunnel.
    Packet(Vec<u8>),
    /// `32 MESSAGE`: first message of a native handshake.
    NativeAsk(Vec<u8>),
    /// `33 MESSAGE`: second message of a native handshake.
    NativeAnswer(Vec<u8>),
    /// `34 DATAGRAM`: an empty packet under new native keys, which proves that its sender has them.
    /// The packet travels as a line, so packet loss does not affect it.
    NativeConfirm(Vec<u8>),
    /// `35 DATAGRAM`: a sealed question about a path, or its answer, in a native tunnel.
    NativeQuery(Vec<u8>),
    /// Another extension, or the word of a known one is not in its form.
    Other {
        /// Number of the extension. 0 is a request for a legacy key, as [`Self::Legacy`].
        ext: i32,
        /// The word after the extension. Empty if there is none, or if it cannot be valid: longer
        /// than [`MAX_WORD`](super::MAX_WORD) or not UTF-8.
        text: String,
    },
}

impl KeyRequest {
    /// Number of the extension of [`Self::Packet`].
    pub const PACKET: i32 = 21;

    /// Takes the payload. The words after the names never make the line an error, because real nodes
    /// forward them unread (wire/tinc-1.1.md section 8.3).
    pub(super) fn parse(fields: &mut Fields<'_>) -> Self {
        let ext = fields.decimal();
        let text = fields.text("text").unwrap_or_default();
        let Some(ext) = ext else {
            return Self::Legacy;
        };
        let bytes = || base64::decode(text);
        let known = match ext {
            15 => bytes().map(|kex| Self::Start {
                kex,
                meshd: fields.rest().ends_with(TIE_BREAK.as_bytes()),
            }),
            19 => Some(Self::ReqPubkey),
            20 if text.len() == PUBLIC_KEY_TEXT => bytes()
                .and_then(|key| key.try_into().ok())
                .map(Self::AnsPubkey),
            Self::PACKET => bytes().map(Self::Packet),
            32 => bytes().map(Self::NativeAsk),
            33 => bytes().map(Self::NativeAnswer),
            34 => bytes().map(Self::NativeConfirm),
            35 => bytes().map(Self::NativeQuery),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other {
            ext,
            text: text.into(),
        })
    }

    /// Returns the number of the extension, if the line has one.
    #[must_use]
    pub const fn ext(&self) -> Option<i32> {
        Some(match self {
            Self::Legacy => return None,
            Self::Start { .. } => 15,
            Self::ReqPubkey => 19,
            Self::AnsPubkey(_) => 20,
            Self::Packet(_) => Self::PACKET,
            Self::NativeAsk(_) => 32,
            Self::NativeAnswer(_) => 33,
            Self::NativeConfirm(_) => 34,
            Self::NativeQuery(_) => 35,
            Self::Other { ext, .. } => *ext,
        })
    }

    /// Returns the word after the extension; empty if there is none.
    fn text(&self) -> String {
        match self {
            Self::Legacy | Self::ReqPubkey => String::new(),
            Self::AnsPubkey(key) => base64::encode(key),
            Self::Start { kex: bytes, .. }
            | Self::Packet(bytes)
            | Self::NativeAsk(bytes)
            | Self::NativeAnswer(bytes)
            | Self::NativeConfirm(bytes)
            | Self::NativeQuery(bytes) => base64::encode(bytes),
            Self::Other { text, .. } => text.clone(),
        }
    }

    /// Appends the payload. `hide` replaces the word after the extension by `KEY`.
    pub(super) fn write(&self, line: &mut String, hide: bool) -> fmt::Result {
        let Some(ext) = self.ext() else { return Ok(()) };
        write!(line, " {ext}")?;
        match (self.text().as_str(), hide) {
            ("", _) => {}
            (_, true) => line.push_str(" KEY"),
            (text, false) => write!(line, " {text}")?,
        }
        if let Self::Start { meshd: true, .. } = self {
            line.push_str(TIE_BREAK);
        }
        Ok(())
    }
}

/// Numbers of a legacy suite, as ANS_KEY carries them. Not all values are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuiteNumbers {
    /// OpenSSL's number of the cipher, 0 for none, -1 in SPTPS.
    pub cipher: i32,
    /// OpenSSL's number of the digest, 0 for none.
    pub digest: i32,
    /// Length of the MAC in bytes.
    pub mac_length: i32,
    /// Compression level that the sender requests, 0 to 12.
    pub compression: i32,
}

impl From<[i32; 4]> for SuiteNumbers {
    /// Takes the numbers in the order of the line.
    fn from([cipher, digest, mac_length, compression]: [i32; 4]) -> Self {
        Self {
            cipher,
            digest,
            mac_length,
            compression,
        }
    }
}

/// Payload of ANS_KEY: key and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAnswer {
    /// The cipher is -1: a handshake datagram of an SPTPS tunnel.
    Sptps {
        /// The datagram.
        datagram: Vec<u8>,
        /// Compression level that the sender requests, 0 to 12 if valid.
        compression: i32,
    },
    /// A legacy key for packets to the sender.
    Legacy {
        /// Key and IV.
        key: Vec<u8>,
        /// Suite of the packets.
        suite: SuiteNumbers,
    },
    /// The key is not in the form that the numbers ask for.
    Other {
        /// The word in the place of the key.
        key: String,
        /// The numbers.
        suite: SuiteNumbers,
    },
}

impl KeyAnswer {
    /// Takes the payload. Errors: see [`RequestError`].
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, RequestError> {
        let text = fields.text("key")?;
        let suite = SuiteNumbers {
            cipher: fields.number("cipher")?,
            digest: fields.number("digest")?,
            mac_length: fields.number("MAC length")?,
            compression: fields.number("compression")?,
        };
        let compression = suite.compression;
        let known = match suite.cipher {
            SPTPS => base64::decode(text).map(|datagram| Self::Sptps {
                datagram,
                compression,
            }),
            _ => HEXUPPER_PERMISSIVE
                .decode(text.as_bytes())
                .ok()
                .map(|key| Self::Legacy { key, suite }),
        };
        Ok(known.unwrap_or_else(|| Self::Other {
            key: text.into(),
            suite,
        }))
    }

    /// Returns the suite of a legacy key; `None` for SPTPS.
    #[must_use]
    pub fn suite(&self) -> Option<SuiteNumbers> {
        match self {
            Self::Sptps { .. } => None,
            Self::Legacy { suite, .. } | Self::Other { suite, .. } => {
                Some(*suite).filter(|suite| suite.cipher != SPTPS)
            }
        }
    }

    /// Appends the payload. `hide` replaces the key by `KEY`.
    pub(super) fn write(&self, line: &mut String, hide: bool) -> fmt::Result {
        let (key, suite) = match self {
            Self::Sptps {
                datagram,
                compression,
            } => {
                let suite = SuiteNumbers {
                    cipher: SPTPS,
                    digest: SPTPS,
                    mac_length: SPTPS,
                    compression: *compression,
                };
                (base64::encode(datagram), suite)
            }
            Self::Legacy { key, suite } => (HEXUPPER.encode(key), *suite),
            Self::Other { key, suite } => (key.clone(), *suite),
        };
        let key = if hide { "KEY" } else { key.as_str() };
        write!(
            line,
            " {key} {} {} {} {}",
            suite.cipher, suite.digest, suite.mac_length, suite.compression
        )
    }
}
