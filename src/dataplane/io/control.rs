//! Control messages of one `sendmsg`. Sources: cmsg(3), linux/in.h, linux/in6.h, linux/udp.h.

use std::net::SocketAddr;

const IPPROTO_IP: i32 = 0;
const IP_TOS: i32 = 1;
const IPPROTO_IPV6: i32 = 41;
const IPV6_TCLASS: i32 = 67;
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// Alignment of messages.
const WORD: usize = size_of::<usize>();
/// A `cmsghdr`: length, level, type.
const HEAD: usize = WORD + 8;
/// Number of messages that fit, each of one word.
const MOST: usize = 2;

/// Control data of one call, besides the datagrams.
#[derive(Debug)]
pub(super) struct Control {
    bytes: [u8; MOST * (HEAD + WORD)],
    length: usize,
}

impl Control {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; _],
            length: 0,
        }
    }

    /// Sets the type of service, or traffic class, of datagrams to `to`.
    pub(super) fn mark(&mut self, to: SocketAddr, tos: u8) {
        let (level, kind) = match to {
            SocketAddr::V4(_) => (IPPROTO_IP, IP_TOS),
            SocketAddr::V6(_) => (IPPROTO_IPV6, IPV6_TCLASS),
        };
        self.push(level, kind, &i32::from(tos).to_ne_bytes());
    }

    /// Sets the length of each datagram in the bytes; the last may be shorter.
    pub(super) fn segment(&mut self, length: u16) {
        self.push(SOL_UDP, UDP_SEGMENT, &length.to_ne_bytes());
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let length = (HEAD + value.len()).to_ne_bytes();
        let parts = [
            &length[..],
            &level.to_ne_bytes(),
            &kind.to_ne_bytes(),
            value,
        ];
        let mut at = self.length;
        for part in parts {
            self.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.length = at.next_multiple_of(WORD);
    }
}
