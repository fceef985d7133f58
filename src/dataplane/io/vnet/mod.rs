//! Super-packets: packets that a TUN or TAP device with `IFF_VNET_HDR` reads and writes.
//!
//! The caller gives the position of the IP header in a packet: 0, or behind the Ethernet header of
//! a TAP device and its tags. All offsets in virtio headers count from the start of the packet.
//!
//! A read returns a [`Header`] and up to 64 KiB of one TCP or UDP flow; [`Segments`] cuts it into
//! packets. In the other direction [`Coalescer`] joins packets of a flow, so one write delivers
//! many. Nothing here does IO, and nothing allocates after its construction.
//!
//! Sources: linux/virtio_net.h, RFC 9293, RFC 1071, dataplane/data-path.md section 3.

mod checksum;
mod coalesce;
mod header;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;

use thiserror::Error;

pub use self::{
    coalesce::Coalescer,
    header::{Gso, GsoKind, HEADER_LEN, Header, Unfinished},
    segment::Segments,
};

/// Longest packet, and longest super-packet, in bytes.
pub const MAX_PACKET: usize = 65_535;
/// Longest parsed Ethernet header in front of a packet, in bytes: with two tags.
pub const MAX_LINK_HEADER: usize = 22;

/// State of the TCP or UDP checksum of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// The checksum field is as the sender made it, valid or not.
    Complete,
    /// The checksum field need not be valid, but the other bytes are those that were sent. The
    /// sender's kernel left the checksum to be computed, and an AEAD protected the packet since
    /// then. The delivering side computes the checksum or lets the kernel compute it
    /// ([`meshd_wire::ip::finish_checksum`]). Only plain TCP and UDP can be in this state: not
    /// behind IPv6 extension headers, not in fragments.
    Vouched,
}

/// Reason why a packet from the device is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VnetError {
    /// The header names a segmentation type that was not enabled.
    #[error("unknown segmentation type {0:#04x} in the virtio header")]
    UnknownGso(u8),
    /// The checksum would lie outside the packet.
    #[error("virtio header: checksum at {start}+{offset} of a packet of {length} bytes")]
    BadChecksum {
        /// Start of the summed bytes, in bytes from the start of the packet.
        start: u16,
        /// Position of the checksum, in bytes from `start`.
        offset: u16,
        /// Length of the packet in bytes.
        length: usize,
    },
    /// The packet does not match its segmentation type, or is too long or too short for it.
    #[error("a packet of {length} bytes cannot be cut as its virtio header says")]
    BadGso {
        /// Length of the packet in bytes.
        length: usize,
    },
}
