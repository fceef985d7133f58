//! Longest-prefix match over an immutable table, flattened to ranges.

use crate::route::NodeIdx;

/// Who answers for a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A reachable node.
    Node(NodeIdx),
    /// Known, but no owner is reachable.
    Unreachable(NodeIdx),
    /// An ownerless broadcast subnet.
    Broadcast,
}

/// One prefix as input of [`Table::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<A> {
    /// Network address; bits beyond `len` are ignored.
    pub addr: A,
    /// Prefix length in bits.
    pub len: u8,
    /// Who answers.
    pub owner: Owner,
}

/// The table for one address family.
#[derive(Debug, Clone)]
pub struct Table<A> {
    ranges: Vec<(A, Option<Owner>)>,
}

impl<A> Default for Table<A> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}
