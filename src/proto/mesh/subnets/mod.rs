//! Subnets: the right to announce one, the addresses a node may send from, and learned MAC addresses.

pub(in crate::mesh) mod mac_learning;
pub(in crate::mesh) mod policy;
pub(in crate::mesh) mod sources;
