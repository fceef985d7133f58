//! meshd's protocol without IO: it takes `now` and a random generator, and names no socket, file,
//! clock or async.
//!
//! [`link`] turns TCP bytes into authenticated lines. [`tunnel`] seals and opens the packets of one
//! node. [`route`] decides on one packet. [`mesh`] is the control plane; it publishes the snapshots
//! that [`route`] reads. Documents: [`threat_model`], [`native_link`], [`design`].
#![forbid(unsafe_code)]

mod bucket;
pub mod dialect;
pub mod link;
pub mod mesh;
pub mod route;
pub mod tunnel;

#[doc = include_str!("design.md")]
pub mod design {}
#[doc = include_str!("native-link.md")]
pub mod native_link {}
#[doc = include_str!("threat-model.md")]
pub mod threat_model {}
