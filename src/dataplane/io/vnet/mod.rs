//! Super-packets: what a TUN or TAP device with `IFF_VNET_HDR` gives and takes.
//!
//! Whoever hands in a packet says where its IP header stands: at its start, or behind the Ethernet header
//! of a TAP device and its tags. All places in virtio headers count from the start of the packet.
//!
//! A read gives a [`Header`] and up to 64 KiB of one TCP or UDP flow: [`Segments`] cuts it into the
//! packets that it stands for. On the way back [`Coalescer`] joins packets of a flow again, so that
//! one write delivers many. Nothing here does IO, and nothing allocates after its construction.
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
/// Longest Ethernet header in front of one that is looked through, in bytes: with two tags.
pub const MAX_LINK_HEADER: usize = 22;

/// What is known of the TCP or UDP checksum of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// It is in its field, as on any wire, and as right or wrong as its sender made it.
    Complete,
    /// Its field need not be right, but the other bytes are those that were sent (their sender's
    /// kernel left it to be computed, and an AEAD vouches for the way in between): whoever delivers
    /// the packet has it computed, or computes it ([`meshd_wire::ip::finish_checksum`]). Only plain TCP and UDP may be so: not behind IPv6 extension
    /// headers, not in fragments.
    Vouched,
}

/// Why a packet from the device is not sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VnetError {
    /// The header names a kind of segmentation that was never asked for.
    #[error("unknown segmentation type {0:#04x} in the virtio header")]
    UnknownGso(u8),
    /// The checksum would lie outside the packet.
    #[error("virtio header: checksum at {start}+{offset} of a packet of {length} bytes")]
    BadChecksum {
        /// Where the summed bytes start, in bytes from the start of the packet.
        start: u16,
        /// Where the checksum stands, in bytes from `start`.
        offset: u16,
        /// Length of the packet in bytes.
        length: usize,
    },
    /// The packet is not what the segmentation type says, or too long or too short for it.
    #[error("a packet of {length} bytes cannot be cut as its virtio header says")]
    BadGso {
        /// Length of the packet in bytes.
        length: usize,
    },
}
