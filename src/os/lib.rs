//! System functions that both programs use without privileges: files, clock, random numbers, routes
//! and users.

pub mod clock;
pub mod files;
pub mod netlink;
pub mod random;
pub mod users;
