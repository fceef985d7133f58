//! The deterministic simulator: many meshes in one process and in virtual time.
//!
//! The simulator runs the same [`meshd_proto::mesh::Mesh`] and [`meshd_proto::link::Pool`] as the
//! daemon, and the same packet steps ([`meshd_dataplane::fastpath::Step`]). Only sockets, devices
//! and the clock are simulated. There are two fidelities: request lines from mesh to mesh
//! ([`Fidelity::Lines`], a thousand nodes), or everything down to TCP streams ([`Fidelity::Bytes`],
//! fifty nodes). UDP and tunnels are real in both.
//!
//! [`World`] is the event queue. [`net`] decides the destination and time of each arrival. `model`
//! computes the expected state of every node from the list of live links. `traffic` checks packets
//! and sequence numbers. `judge` compares honest nodes with each other while `hostile` ones send
//! generated lines. No module reads a clock or a global generator: the same seed gives the
//! same run, event for event.

mod conn;
mod drive;
mod hostile;
mod judge;
mod lines;
mod links;
mod model;
pub mod net;
mod node;
pub mod plan;
mod pool;
mod strangers;
mod traffic;
mod world;

pub use judge::Said;
pub use plan::{Fidelity, Plan};
pub use strangers::{StrangerId, StrangerState};
pub use world::{Failure, World};
