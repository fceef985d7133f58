//! The packet threads ([`fastpath`]) and the system calls under them ([`io`], the only place for `unsafe`).
//!
//! Document: [`data_path`].

pub mod fastpath;
pub mod io;

#[doc = include_str!("data-path.md")]
pub mod data_path {}
