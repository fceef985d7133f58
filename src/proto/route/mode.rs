//! Modes, and the positions of parts in what they carry.

use meshd_wire::ether;

use crate::{
    route::ETHER,
    tunnel::{Opened, TYPE_MAC},
};

/// The Mode variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// IP packets go to the owner of the subnet.
    #[default]
    Router,
    /// Frames go to the owner of the Ethernet address, else to all nodes.
    Switch,
    /// Frames go to all nodes.
    Hub,
}

impl Mode {
    /// Returns the length of the frame of a packet of `length` bytes, as used for MTUs and
    /// counters.
    #[must_use]
    pub const fn frame_len(self, length: usize) -> usize {
        match self {
            Self::Router => length + ETHER,
            Self::Switch | Self::Hub => length,
        }
    }

    /// Returns the start of the IP header in a packet; behind its end if there is none.
    #[must_use]
    pub fn ip_at(self, packet: &[u8]) -> usize {
        match self {
            Self::Router => 0,
            Self::Switch | Self::Hub => ether::ip_at(packet),
        }
    }

    /// Returns the type of records that carry packets. Source: wire/tinc-1.1.md section 4.2.
    #[must_use]
    pub const fn record_type(self) -> u8 {
        match self {
            Self::Router => 0,
            Self::Switch | Self::Hub => TYPE_MAC,
        }
    }

    /// Returns an opened record as this mode sees it: where frames are carried, every legacy record
    /// is a frame.
    #[must_use]
    pub const fn seen(self, opened: Opened) -> Opened {
        match self {
            Self::Router => opened,
            Self::Switch | Self::Hub => opened.as_frame(),
        }
    }

    /// Returns the start of the packet in a record of type `kind`, in bytes; `None` for a type
    /// without a packet.
    #[must_use]
    pub const fn packet_at(self, kind: u8) -> Option<usize> {
        match (self, kind) {
            (Self::Router, 0) | (Self::Switch | Self::Hub, TYPE_MAC) => Some(0),
            // This type is legal but unusual: the Ethernet header carries nothing new.
            (Self::Router, TYPE_MAC) => Some(ETHER),
            _ => None,
        }
    }
}
