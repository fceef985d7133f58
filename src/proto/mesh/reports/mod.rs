//! Facts about nodes, paths and links for the control socket, `meshctl` and other nodes.

pub(in crate::mesh) mod measure;
pub mod path_report;
pub mod query;
pub(in crate::mesh) mod rows;
pub mod view;
