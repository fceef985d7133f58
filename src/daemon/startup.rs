//! Start: what is opened, and the way from the device to a daemon that is up.

pub(crate) mod bring_up;
pub(crate) mod device;
pub(crate) mod open;
