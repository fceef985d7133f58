//! meshd: a mesh VPN daemon compatible with tinc.
//!
//! ```text
//!  TCP bytes <-> Link <-> lines <-> Mesh -> Arc<RouteSnapshot> -> fast-path workers <-> TUN, UDP
//!               (who)              (where)   (published, immutable)   (how fast)
//!  first packets, probes, handshakes, unknown senders: worker -> Punt -> Mesh -> Datagram, TunWrite
//! ```
//!
//! Three sans-IO machines ([`link`], [`mesh`], [`tunnel`]) that never see each other's insides, one
//! shell ([`daemon`]), one set of threads ([`fastpath`]). Imports point down this list only:
//! `daemon -> {mesh, link, fastpath, io, config, control}`, `fastpath -> {route, tunnel, io}`,
//! `mesh -> {route, tunnel, wire, crypto}`, `route -> {tunnel, wire}`, `tunnel -> {crypto, wire}`,
//! `link -> {crypto, wire}`.
//!
//! Five invariants: no clock, randomness, IO or hash order in the core (`wire`, `crypto`, `link`,
//! `tunnel`, `mesh`, `route`); only the driver changes control state; a published snapshot never
//! changes; a (key, sequence number) pair is used once; `unsafe` only in `io`.

pub mod cli;
pub mod config;
pub mod control;
pub mod crypto;
pub mod daemon;
pub mod fastpath;
pub mod io;
pub mod link;
pub mod mesh;
pub mod route;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sync;
pub mod tunnel;
pub mod wire;
