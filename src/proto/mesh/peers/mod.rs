//! Neighbours: the links that the node opens and accepts, and their first exchange.

pub(in crate::mesh) mod autoconnect;
pub(in crate::mesh) mod dial;
pub(in crate::mesh) mod downgrade;
pub(in crate::mesh) mod handshake;
pub(in crate::mesh) mod key_upgrade;
pub(in crate::mesh) mod ping;
