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
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use common::{Keys, Path, carried_packets, carried_super};
use meshd::{
    crypto::{PrivateKey, Rng},
    link::{Dialect, Hello},
    mesh::{Input, LinkId, LinkReport, Mesh, Settings, settings::Host},
    os::clock,
    route::Mode,
};

/// Packets each way; the super-packets stand for 48 each.
const PACKETS: usize = 4_000;
/// Packets of a worker's batch, more or less.
const BATCH: usize = 100;

thread_local! {
    /// Allocations of this thread, those that grow included.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Bytes that this thread has allocated and not freed.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends may allocate when its variables are gone: that is nobody's packet.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

fn hold(bytes: isize) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is the system allocator's, unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size() as isize);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        hold(size as isize - layout.size() as isize);
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

/// Nodes of a large mesh, each with a subnet and edges to three others.
const NODES: u32 = 10_000;

fn node(n: u32) -> String {
    format!("n{}", n % NODES)
}

fn edge(from: u32, to: u32) -> String {
    let (nonce, weight) = (from * NODES + to, 10 + (from + to) % 90);
    let (from, to) = (node(from), node(to));
    format!("12 {nonce:x} {from} {to} 203.0.113.7 655 700000c {weight}")
}

/// Node 0 knows the mesh over one link. The memory is that of nodes, edges, subnets, host files' entries, lines seen,
/// and tables of the packet threads.
#[test]
fn a_mesh_of_ten_thousand_nodes_takes_at_most_64_megabytes() {
    let now = clock::now();
    let hosts = || (1..NODES).map(|n| (node(n).parse().unwrap(), Arc::new(Host::default())));
    let before = HELD.get();
    let key = Arc::new(PrivateKey::generate(&mut Rng::new([1; 32])));
    let settings = Settings {
        hosts: hosts().collect(),
        ..Settings::new(node(0).parse().unwrap(), key)
    };
    let mut mesh = Mesh::new(Arc::new(settings), [1; 32], now);
    let link = LinkId::default();
    let hello = Hello {
        name: node(1).parse().unwrap(),
        minor: 7,
        outgoing: true,
        dialect: Dialect::Sptps,
        started: now,
    };
    let addr = |host: u8| SocketAddr::from(([192, 0, 2, host], 655));
    mesh.handle(
        Input::Link(LinkReport::Up {
            link,
            hello,
            remote: addr(2),
            local: addr(1),
        }),
        now,
    );
    let ack = ["4 655 10 700000c".to_owned(), edge(1, 0)].into_iter();
    let ends = (1..NODES).flat_map(|a| [1, 7, 50].map(|step| (a, (a + step) % NODES)));
    let edges = ends
        .filter(|(_, b)| *b != 0)
        .flat_map(|(a, b)| [edge(a, b), edge(b, a)]);
    let subnets =
        (1..NODES).map(|n| format!("10 {n:x} {} 10.{}.{}.0/24", node(n), n >> 8, n & 255));
    let mut took = Duration::ZERO;
    let mut lines = 0;
    for (n, line) in ack.chain(edges).chain(subnets).enumerate() {
        let line = line.into();
        let started = clock::now();
        mesh.handle(Input::Link(LinkReport::Line { link, line }), now);
        took += clock::now().saturating_duration_since(started);
        lines += 1;
        if n % 256 == 0 {
            mesh.settle_all(now);
            while mesh.poll_output().is_some() {}
        }
    }
    let later = now + Duration::from_secs(2);
    for at in [later, later + Duration::from_secs(2)] {
        mesh.handle(Input::Timeout, at);
        mesh.settle_all(at);
        while mesh.poll_output().is_some() {}
    }
    assert!(mesh.peers(later).iter().filter(|peer| peer.up).count() as u32 == NODES - 1);
    let held = HELD.get() - before;
    let each = held / NODES as isize;
    println!(
        "{each} bytes a node, {} MB in all; {:.2} us a line of {lines}",
        held >> 20,
        took.as_secs_f64() * 1e6 / f64::from(lines)
    );
    assert!(held <= 64_000_000, "{held} bytes in all");
}
