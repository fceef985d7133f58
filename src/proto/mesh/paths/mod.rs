//! UDP paths to each node: addresses, probes, path MTU, and hints from relays.

pub(in crate::mesh) mod hints;
pub(in crate::mesh) mod pmtu;
pub(in crate::mesh) mod probe;
pub(in crate::mesh) mod udp;
