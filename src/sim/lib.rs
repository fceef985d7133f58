//! The deterministic simulator: many meshes in one process and in virtual time.
//!
//! The same [`meshd_proto::mesh::Mesh`] and [`meshd_proto::link::Link`] as in the daemon, and the same packet steps
//! ([`meshd_dataplane::fastpath::Step`]); only sockets, devices and the clock are made up. Two fidelities: request
//! lines passed from mesh to mesh ([`Fidelity::Lines`], a thousand nodes), or everything down to TCP
//! streams ([`Fidelity::Bytes`], fifty nodes). UDP and the tunnels are the real thing in both.
//!
//! [`World`] is the event queue; [`net`] says what arrives where and when; `model` knows from the list of
//! live links alone what every node should believe; `traffic` watches packets and sequence numbers.
//! Nothing here reads a clock or a global generator: the same seed gives the same run, event for event.

mod conn;
mod drive;
mod links;
mod model;
pub mod net;
mod node;
pub mod plan;
mod traffic;
mod world;

pub use plan::{Fidelity, Plan};
pub use world::{Failure, World};
