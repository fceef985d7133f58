//! Models of the windows of [`Recent`] between packet threads, in every order: see [`meshd_sync`].

use std::sync::Arc;

use meshd_sync::model;
use meshd_wire::NodeId;

use crate::route::{
    NodeSlot,
    recent::{Recent, Repeats},
    testing::now,
};

const FROM: [NodeSlot; 2] = [NodeSlot(1), NodeSlot(2)];

/// Copies of one broadcast arrive from two nodes at two workers at once: only those of one node
/// pass.
#[test]
fn a_broadcast_passes_from_one_node_only() {
    let start = now();
    model::check(move || {
        let recent = Arc::new(Recent::new(1));
        // loom does not see that std's OnceLock synchronises its content.
        assert!(recent.admits(9, FROM[0], Repeats::Any, start));
        let other = Arc::clone(&recent);
        let worker =
            model::spawn(move || [(); 2].map(|()| other.admits(8, FROM[1], Repeats::Any, start)));
        let ours = [(); 2].map(|()| recent.admits(8, FROM[0], Repeats::Any, start));
        let theirs = worker.join().unwrap();
        assert!(
            ours == [true; 2] && theirs == [false; 2] || ours == [false; 2] && theirs == [true; 2]
        );
    });
}

/// Copies of one datagram arrive at two workers at once: exactly one passes.
#[test]
fn a_datagram_passes_by_one_worker_only() {
    model::check(|| {
        let recent = Arc::new(Recent::new(1));
        assert!(recent.admits_datagram(NodeId([3; 6]), NodeId([2; 6]), b"x"));
        let pass = |recent: &Recent| recent.admits_datagram(NodeId([1; 6]), NodeId([2; 6]), b"x");
        let other = Arc::clone(&recent);
        let worker = model::spawn(move || pass(&other));
        let ours = pass(&recent);
        assert_eq!(u8::from(ours) + u8::from(worker.join().unwrap()), 1);
    });
}
