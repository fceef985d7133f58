//! Diagnosis: facts in, findings out. Pure: no file, no socket, no terminal, no clock.
//!
//! One table of codes ([`Code`]) and one function ([`diagnose`]) stand behind `peers`, `why`, `health`, `migrate status`,
//! the metrics and the log. All sentences for operators about the state of nodes and paths are made here.

mod code;
mod finding;
pub mod health;
mod here;
mod host_file;
pub mod migrate;
pub mod peer;
#[cfg(test)]
mod tests;
pub mod units;
pub mod why;

use meshd_proto::mesh::reports::facts::NodeFacts;

pub use code::Code;
pub use finding::{Finding, Severity, Subject, counts};
pub use here::Here;

/// Facts to judge.
#[derive(Debug, Clone, Copy)]
pub enum Facts<'a> {
    /// Another node, as the daemon sees it.
    Node(&'a NodeFacts),
    /// The path from this node to another one.
    Path(&'a why::PathFacts),
    /// The path between two nodes, as its ends report it.
    Ends(&'a [why::Side; 2], [&'a why::Target; 2]),
    /// This node's part of the mesh.
    Health(&'a health::HealthFacts<'a>),
    /// Another node on its move from tinc 1.0 to native.
    Migration(&'a migrate::Migration<'a>),
    /// This node on that move; the flag tells if all other nodes have finished.
    OwnMigration(&'a migrate::Own, bool),
}

/// Judges the facts. The findings of a path are its steps, in the order of a packet's way.
#[must_use]
pub fn diagnose(facts: &Facts<'_>) -> Vec<Finding> {
    match *facts {
        Facts::Node(node) => peer::find(node).into_iter().collect(),
        Facts::Path(path) => path.steps(),
        Facts::Ends(sides, targets) => why::between(sides, targets),
        Facts::Health(health) => health.findings(),
        Facts::Migration(node) => node.todo().into_iter().map(|todo| todo.finding).collect(),
        Facts::OwnMigration(own, all_native) => {
            let todo = own.todo(all_native);
            todo.into_iter().map(|todo| todo.finding).collect()
        }
    }
}
