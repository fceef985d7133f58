//! meshd: a mesh VPN daemon compatible with tinc.
//!
//! ```text
//!  TCP bytes <-> Link <-> lines <-> Mesh -> Arc<RouteSnapshot> -> packet threads <-> TUN, UDP
//!               (who)              (where)   (published, immutable)   (how fast)
//!  first packets, probes, handshakes, unknown senders: worker -> Punt -> Mesh -> Datagram, TunWrite
//! ```
//!
//! Each layer is a crate of the workspace, so an import against their order does not compile. This crate joins
//! them under one name for the programs, the tests and the benchmarks.
//!
//! Five invariants hold. [`wire`], [`crypto`] and [`proto`] use no clock, randomness, IO or hash order. Only the
//! driver of [`daemon`] changes control state. A published snapshot never changes. A (key, sequence number)
//! pair is used once. `unsafe` is only in [`dataplane`].

pub use meshd_api as api;
#[cfg(feature = "cli")]
pub use meshd_cli as cli;
pub use meshd_config as config;
pub use meshd_crypto as crypto;
#[cfg(feature = "daemon")]
pub use meshd_daemon as daemon;
#[cfg(feature = "daemon")]
pub use meshd_dataplane::{self as dataplane, fastpath, io};
pub use meshd_diagnose as diagnose;
pub use meshd_os as os;
pub use meshd_proto::{self as proto, link, mesh, route, tunnel};
pub use meshd_sync as sync;
pub use meshd_wire as wire;
