//! Nodes, their edges, and the graph made of them.

pub(in crate::mesh) mod edge;
pub(in crate::mesh) mod graph;
pub(in crate::mesh) mod node;
