//! Text and byte forms of everything that tinc sends. Total functions: no input causes a panic.
//!
//! Sources: wire/tinc-1.0.md sections 1.2 and 2, wire/tinc-1.1.md sections 1, 3, 4.

pub mod address;
pub mod base64;
pub mod datagram;
pub mod ether;
pub mod icmp;
pub mod ip;
pub mod name;
pub mod neighbour;
pub mod options;
pub mod request;
pub mod subnet;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, missing_docs, reason = "for tests only")]
pub mod testing;
#[doc = include_str!("tinc-1.0.md")]
pub mod tinc_1_0 {}
#[doc = include_str!("tinc-1.1.md")]
pub mod tinc_1_1 {}

pub use address::EdgeAddress;
pub use name::{NodeId, NodeName};
pub use options::Options;
pub use request::{KeyAnswer, KeyRequest, Request, SuiteNumbers, name_of as request_name};
pub use subnet::{Prefix, Subnet};

/// Returns untrusted text for a log line: escaped, at most 128 bytes (T41 of
/// proto/threat-model.md).
#[must_use]
pub fn printable(text: &[u8]) -> String {
    let cut = text.get(..128).unwrap_or(text);
    let mut shown = cut.escape_ascii().to_string();
    if cut.len() < text.len() {
        shown.push('…');
    }
    shown
}
