//! The packet path allocates nothing once it runs: every allocation would be one a packet.
#![expect(
    unsafe_code,
    reason = "an allocator that counts is an unsafe trait to implement"
)]

#[path = "../benches/common/mod.rs"]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use common::{Keys, Path, carried_packets, carried_super};
use meshd::route::Mode;

/// Packets each way; the super-packets stand for 48 each.
const PACKETS: usize = 4_000;
/// Packets of a worker's batch, more or less.
const BATCH: usize = 100;

thread_local! {
    /// Allocations of this thread, those that grow included.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends may allocate when its variables are gone: that is nobody's packet.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's, unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `act` allocates.
fn allocations(act: impl FnOnce()) -> usize {
    let before = COUNT.get();
    act();
    COUNT.get() - before
}

/// Runs `one` with the number of each packet, a batch to warm up and then [`PACKETS`]; returns how often
/// the latter allocated.
fn steady(path: &mut Path, mut one: impl FnMut(&mut Path, usize)) -> usize {
    let mut run = |path: &mut Path, count: usize| {
        for n in 0..count {
            one(path, n);
            if n % BATCH == BATCH - 1 {
                path.sink.flush();
            }
        }
    };
    run(path, BATCH);
    path.sink.counts = [0; 3];
    allocations(|| run(path, PACKETS))
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(7_u64)))), 1);
    assert_eq!(allocations(|| drop(black_box(vec![0_u8; 9]))), 1);
}

/// Everything that a path may carry, and by what.
fn paths() -> impl Iterator<Item = (Keys, Mode)> {
    let modes = [Mode::Router, Mode::Switch, Mode::Hub];
    Keys::ALL
        .into_iter()
        .flat_map(move |keys| modes.map(|mode| (keys, mode)))
}

#[test]
fn packets_of_the_device_allocate_nothing() {
    for (keys, mode) in paths() {
        let mut path = Path::in_mode(keys, mode);
        let mut packets = carried_packets(mode, false);
        let allocated = steady(&mut path, |path, n| {
            let at = n % packets.len();
            path.send(&mut packets[at]);
        });
        assert_eq!(path.sink.counts, [PACKETS, 0, 0], "{keys:?} {mode:?}");
        assert_eq!(allocated, 0, "{keys:?} {mode:?}");
    }
}

#[test]
fn super_packets_of_the_device_allocate_nothing() {
    for (keys, mode) in paths() {
        let mut path = Path::in_mode(keys, mode);
        let (header, mut packet) = carried_super(mode);
        let allocated = steady(&mut path, |path, n| {
            if n % 48 == 0 {
                path.send_super(&header, &mut packet);
            }
        });
        let sent = PACKETS.next_multiple_of(48);
        assert_eq!(path.sink.counts, [sent, 0, 0], "{keys:?} {mode:?}");
        assert_eq!(allocated, 0, "{keys:?} {mode:?}");
    }
}

#[test]
fn datagrams_allocate_nothing() {
    for (keys, mode) in paths() {
        let (mut path, mut packets) = (Path::in_mode(keys, mode), carried_packets(mode, true));
        let (mut datagram, mut number) = (Vec::new(), 0_u32);
        let allocated = steady(&mut path, |path, n| {
            number += 1;
            let at = n % packets.len();
            // Each is another packet: what comes again is dropped where all of them go to many. Twice, as sums do not count.
            if let Some(end) = packets[at].last_chunk_mut() {
                *end = (number * 0x1_0001).to_be_bytes();
            }
            path.seal(&packets[at], &mut datagram);
            path.receive(&mut datagram);
        });
        assert_eq!(path.sink.counts, [0, PACKETS, 0], "{keys:?} {mode:?}");
        assert_eq!(allocated, 0, "{keys:?} {mode:?}");
    }
}
