//! State of each node that one component owns.

use std::ops::{Index, IndexMut};

use slotmap::SecondaryMap;

use crate::route::NodeIdx;

/// One `T` for each node. A node without an entry has the default, which takes no more memory than a
/// pointer.
pub(in crate::mesh) struct PerNode<T> {
    of: SecondaryMap<NodeIdx, Box<T>>,
    default: T,
}

impl<T: Default> PerNode<T> {
    /// Forgets a node.
    pub(in crate::mesh) fn remove(&mut self, idx: NodeIdx) {
        self.of.remove(idx);
    }

    /// Takes what is known of a node, if it is not the default.
    pub(in crate::mesh) fn take(&mut self, idx: NodeIdx) -> Option<T> {
        self.of.remove(idx).map(|value| *value)
    }

    /// Returns false if the node has the default. An access for a change makes an entry.
    pub(in crate::mesh) fn has(&self, idx: NodeIdx) -> bool {
        self.of.contains_key(idx)
    }

    /// Returns the entries that are not the default, or were not once.
    pub(in crate::mesh) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.of.values_mut().map(Box::as_mut)
    }
}

impl<T: Default> Default for PerNode<T> {
    fn default() -> Self {
        Self {
            of: SecondaryMap::new(),
            default: T::default(),
        }
    }
}

impl<T> Index<NodeIdx> for PerNode<T> {
    type Output = T;

    fn index(&self, idx: NodeIdx) -> &T {
        self.of.get(idx).map_or(&self.default, Box::as_ref)
    }
}

/// For indices of nodes known to exist, as in [`super::node::Nodes`].
impl<T: Default> IndexMut<NodeIdx> for PerNode<T> {
    fn index_mut(&mut self, idx: NodeIdx) -> &mut T {
        let entry = self.of.entry(idx).expect("a live node's index");
        entry.or_default()
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_successor_in_the_slot_starts_from_the_default() {
        let mut nodes = SlotMap::<NodeIdx, ()>::with_key();
        let mut state = PerNode::<u32>::default();
        let old = nodes.insert(());
        assert_eq!(state[old], 0);
        state[old] += 7;
        assert_eq!(state[old], 7);
        nodes.remove(old);
        // Even if a component did not forget the node.
        let new = nodes.insert(());
        assert_eq!((new.slot(), state[new]), (old.slot(), 0));
        state[new] += 1;
        assert_eq!((state[new], state[old]), (1, 0));
        state.remove(new);
        assert_eq!(state.values_mut().count(), 0);
    }
}
