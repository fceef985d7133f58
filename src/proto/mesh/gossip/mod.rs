//! Flooded and routed lines: what the node believes, forwards, refreshes and charges.

pub(in crate::mesh) mod backlog;
pub(in crate::mesh) mod belief;
pub(in crate::mesh) mod budget;
pub(in crate::mesh) mod corrections;
pub(in crate::mesh) mod flood;
pub(in crate::mesh) mod path_hold;
pub(in crate::mesh) mod refresh;
pub(in crate::mesh) mod relay_filter;
pub(in crate::mesh) mod seen;
pub(in crate::mesh) mod unread;
pub(in crate::mesh) mod withdrawn;
