//! Router mode: what happens to one IP packet.

use crate::route::{DropReason, NodeIdx};

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to this node's tunnel; [`crate::route::path::send_path`] says how.
    Send(NodeIdx),
    /// Write it to our own device.
    Local,
    /// Spread it: to our device if it is not from there, and to [`crate::route::RouteSnapshot::broadcast`].
    Broadcast,
    /// It cannot go on: this packet answers it, to be routed back to where it came from.
    Reply(Vec<u8>),
    /// Too long without DF: these pieces go to the node instead.
    Fragments(NodeIdx, Vec<Vec<u8>>),
    /// Drop it.
    Drop(DropReason),
}
