//! Send order: threads that send to one node in SPTPS take turns.

use std::sync::{PoisonError, TryLockError};

use meshd_proto::route::NodeShared;
use meshd_sync::MutexGuard;

/// Most nodes that one thread holds at a time. For one more the thread sends its gathered datagrams
/// first.
const MOST: usize = 16;

/// Turns that a thread holds in its batch. Dropping them ends all turns, so the kernel must have
/// the datagrams before.
#[derive(Debug, Default)]
pub struct Turns<'a> {
    held: [Option<(&'a NodeShared, MutexGuard<'a, ()>)>; MOST],
}

impl<'a> Turns<'a> {
    /// Takes the turn for `node`, if the thread does not hold it. If this means waiting, or there
    /// is no room, it calls `send_off` first and ends all other turns. So no thread waits for a
    /// waiting thread.
    pub fn take(&mut self, node: &'a NodeShared, send_off: impl FnOnce()) {
        let mut room = None;
        for slot in &mut self.held {
            match slot {
                Some((held, _)) if std::ptr::eq(*held, node) => return,
                Some(_) => {}
                None => {
                    room = Some(slot);
                    break;
                }
            }
        }
        if let Some(slot) = room {
            let free = match node.sending.try_lock() {
                Ok(turn) => Some(turn),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(turn) = free {
                *slot = Some((node, turn));
                return;
            }
        }
        send_off();
        self.held = Default::default();
        let turn = node.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.held[0] = Some((node, turn));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;
    use meshd_proto::route::{
        NodeSlot,
        testing::{neighbour, snapshot},
    };

    /// Two threads want the same nodes in opposite order: there is no deadlock, and no two threads
    /// have the turn of one node at once.
    #[test]
    fn threads_take_turns_and_never_stand_still() {
        let tables = snapshot([1, 2, 3].map(|n| neighbour(NodeSlot(n))), []);
        let inside: [AtomicU32; 4] = Default::default();
        let work = |order: [u32; 3]| {
            for _ in 0..5_000 {
                let mut turns = Turns::default();
                let entered = std::cell::RefCell::new(Vec::new());
                for n in order {
                    let node = tables.node(NodeSlot(n)).unwrap();
                    let leave = || {
                        for n in entered.borrow_mut().drain(..) {
                            inside[n as usize].fetch_sub(1, Ordering::SeqCst);
                        }
                    };
                    turns.take(node, leave);
                    assert_eq!(inside[n as usize].fetch_add(1, Ordering::SeqCst), 0);
                    entered.borrow_mut().push(n);
                }
                for n in entered.into_inner() {
                    inside[n as usize].fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| work([1, 2, 3]));
            scope.spawn(|| work([3, 2, 1]));
        });
    }

    #[test]
    fn one_node_too_many_sends_off_what_there_is() {
        let tables = snapshot([(); MOST + 1].map(|()| neighbour(NodeSlot(1))), []);
        let nodes: Vec<_> = tables.nodes.iter().flatten().skip(1).collect();
        let mut turns = Turns::default();
        let mut sent = 0;
        for node in nodes.iter().chain(&nodes[..1]) {
            turns.take(node, || sent += 1);
        }
        assert_eq!(sent, 1);
        turns.take(nodes[MOST], || sent += 1);
        assert_eq!(sent, 1);
    }
}
