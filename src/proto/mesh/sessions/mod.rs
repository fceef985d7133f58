//! Packet keys of each node: native, SPTPS and legacy, and their renewal.

pub(in crate::mesh) mod keys;
pub(in crate::mesh) mod legacy;
pub(in crate::mesh) mod native;
pub(in crate::mesh) mod rekey;
