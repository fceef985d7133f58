//! The system as both programs use it, without privileges of their own: files, clock, random numbers, routes and
//! users.

pub mod clock;
pub mod files;
pub mod netlink;
pub mod random;
pub mod users;
