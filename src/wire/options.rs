//! Option bits of ACK and ADD_EDGE.

use std::fmt;

/// The 32 option bits of a link or edge; the top byte is the protocol minor of the *far* node.
///
/// Unknown bits are kept unchanged. Source: wire/tinc-1.1.md section 3.2.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Options(pub u32);

impl Options {
    /// Only nodes with a link to the node may send it UDP (IndirectData).
    pub const INDIRECT: u32 = 1;
    /// Data goes over TCP only (TCPOnly); implies [`Self::INDIRECT`].
    pub const TCP_ONLY: u32 = 2;
    /// Path-MTU discovery is enabled.
    pub const PMTU_DISCOVERY: u32 = 4;
    /// The MSS of TCP is clamped.
    pub const CLAMP_MSS: u32 = 8;
    /// The node speaks native (wire/tinc-1.1.md section 8.8). Real daemons copy the bit into their
    /// edge to the node and never set it. So an edge to X has the bit only if X announced it.
    pub const NATIVE: u32 = 1 << 23;
    /// Lowest protocol minor of a node that makes its tunnel keys in handshakes (SPTPS).
    pub const HANDSHAKE_MINOR: u8 = 2;
    /// Protocol minor that we announce: 17.7.
    pub const OUR_MINOR: u8 = 7;

    /// Returns the protocol minor of the node that an edge leads to; 0 for a node without SPTPS.
    #[must_use]
    pub const fn minor(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Returns true if the node makes its tunnel keys in handshakes. Source: wire/tinc-1.1.md
    /// section 3.1.
    #[must_use]
    pub const fn has_handshake(self) -> bool {
        self.minor() >= Self::HANDSHAKE_MINOR
    }

    /// Returns true if the node understands the 12 bytes of ids in front of a datagram, and so can
    /// relay it. Source: wire/tinc-1.1.md section 4.1.
    #[must_use]
    pub const fn has_ids(self) -> bool {
        self.minor() >= 4
    }

    /// Returns these bits with the top byte replaced by `minor`.
    #[must_use]
    pub const fn with_minor(self, minor: u8) -> Self {
        Self(self.0 & 0x00ff_ffff | (minor as u32) << 24)
    }

    /// Returns these bits with protocol minor and [`Self::NATIVE`] of `other`.
    #[must_use]
    pub const fn speaking_as(self, other: Self) -> Self {
        let mask = 0xff00_0000 | Self::NATIVE;
        Self(self.0 & !mask | other.0 & mask)
    }

    /// Returns true if these bits announce a higher dialect than `other`.
    #[must_use]
    pub const fn is_above(self, other: Self) -> bool {
        self.minor() > other.minor() || self.has(Self::NATIVE) && !other.has(Self::NATIVE)
    }

    /// Returns true if every bit of `bits` is set.
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// Merges the options of both ACKs: `self` is ours, `theirs` is the other end's. PMTU discovery
    /// needs both. The top byte and [`Self::NATIVE`] are theirs; the other bits are joined.
    #[must_use]
    pub const fn merge(self, theirs: Self) -> Self {
        let mut ours = self.0 & 0x00ff_ffff & !Self::NATIVE;
        let mut theirs = theirs.0;
        if ours & theirs & Self::PMTU_DISCOVERY == 0 {
            ours &= !Self::PMTU_DISCOVERY;
            theirs &= !Self::PMTU_DISCOVERY;
        }
        Self(ours | theirs)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_gives_what_real_daemons_publish() {
        let ours = Options(0xc);
        assert_eq!(ours.merge(Options(0x0700_0004)).0, 0x0700_000c);
        assert_eq!(ours.merge(Options(0)).0, 8);
        assert_eq!(ours.merge(Options(3)).0, 0xb);
    }
}
