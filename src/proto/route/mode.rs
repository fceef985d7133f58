//! What is carried, and where its parts are.

use meshd_wire::ether;

use crate::{
    route::ETHER,
    tunnel::{Opened, TYPE_MAC},
};

/// The Mode variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// IP packets go to whoever has the subnet.
    #[default]
    Router,
    /// Frames go to whoever has the Ethernet address, or to all.
    Switch,
    /// Frames go to all.
    Hub,
}

impl Mode {
    /// Length of the frame of a packet of `length` bytes, in bytes, as MTUs and counters have it.
    #[must_use]
    pub const fn frame_len(self, length: usize) -> usize {
        match self {
            Self::Router => length + ETHER,
            Self::Switch | Self::Hub => length,
        }
    }

    /// Where the IP header of a packet starts; behind its end where it has none.
    #[must_use]
    pub fn ip_at(self, packet: &[u8]) -> usize {
        match self {
            Self::Router => 0,
            Self::Switch | Self::Hub => ether::ip_at(packet),
        }
    }

    /// Type of the records that carry packets. Source: wire/tinc-1.1.md section 4.2.
    #[must_use]
    pub const fn record_type(self) -> u8 {
        match self {
            Self::Router => 0,
            Self::Switch | Self::Hub => TYPE_MAC,
        }
    }

    /// A record as it is looked at: where frames are carried, what came in legacy is one.
    #[must_use]
    pub const fn seen(self, opened: Opened) -> Opened {
        match self {
            Self::Router => opened,
            Self::Switch | Self::Hub => opened.as_frame(),
        }
    }

    /// Where in a record of type `kind` its packet starts, in bytes; `None` for a type that has none.
    #[must_use]
    pub const fn packet_at(self, kind: u8) -> Option<usize> {
        match (self, kind) {
            (Self::Router, 0) | (Self::Switch | Self::Hub, TYPE_MAC) => Some(0),
            // Legal, if unusual: the header says nothing new.
            (Self::Router, TYPE_MAC) => Some(ETHER),
            _ => None,
        }
    }
}
