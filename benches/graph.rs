//! Times one line of a neighbour that changes an edge, and the graph pass that follows, in a mesh of 300
//! nodes. Run `cargo bench --bench graph`.

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::name;
use criterion::{BatchSize, Criterion};
use meshd::{
    crypto::{PrivateKey, Rng},
    link::{Dialect, Hello},
    mesh::{Input, LinkId, LinkReport, Mesh, Settings, settings::Host},
    os::clock,
    wire::NodeName,
};

const NODES: u32 = 300;
/// Each node has edges to those so many places behind it.
const STEPS: [u32; 3] = [1, 7, 50];

fn node(n: u32) -> NodeName {
    name(&format!("n{}", n % NODES))
}

fn edge(from: u32, to: u32, weight: u32) -> String {
    let (from, to) = (node(from), node(to));
    format!("12 {weight:08x} {from} {to} 203.0.113.7 655 700000c {weight}")
}

fn settings() -> Settings {
    let key = PrivateKey::generate(&mut Rng::new([1; 32]));
    Settings {
        hosts: BTreeMap::from_iter((1..NODES).map(|n| (node(n), Arc::new(Host::default())))),
        ..Settings::new(node(0), Arc::new(key))
    }
}

/// Takes a line of our one link and all that follows at once.
fn take(mesh: &mut Mesh, line: String, now: Instant) {
    let (link, line) = (LinkId::default(), Bytes::from(line));
    mesh.handle(Input::Link(LinkReport::Line { link, line }), now);
    mesh.settle_all(now);
    while mesh.poll_output().is_some() {}
}

/// Node 0, which has a link to node 1 and knows the whole mesh by it.
fn mesh(now: Instant) -> Mesh {
    let mut mesh = Mesh::new(Arc::new(settings()), [1; 32], now);
    let addr = |host: u8| SocketAddr::from(([192, 0, 2, host], 655));
    let hello = Hello {
        name: node(1),
        minor: 7,
        outgoing: true,
        dialect: Dialect::Sptps,
        started: now,
    };
    let up = Input::Link(LinkReport::Up {
        link: LinkId::default(),
        hello,
        remote: addr(2),
        local: addr(1),
    });
    mesh.handle(up, now);
    let ends = || (1..NODES).flat_map(|a| STEPS.map(|step| (a, a + step)));
    let lines = ends().filter(|(_, b)| b % NODES != 0).flat_map(|(a, b)| {
        // Weights are the nonces too, so that no two lines are the same.
        [
            edge(a, b, 10 + a * 64 + b % 64),
            edge(b, a, 10 + b * 64 + a % 64),
        ]
    });
    let subnets =
        (1..NODES).map(|n| format!("10 {n:08x} {} 10.{}.{}.0/24", node(n), n >> 8, n & 255));
    let line = |line: String| {
        Input::Link(LinkReport::Line {
            link: LinkId::default(),
            line: line.into(),
        })
    };
    let ack = std::iter::once("4 655 10 700000c".to_owned());
    let back = std::iter::once(edge(1, 0, 10));
    for text in ack.chain(back).chain(lines).chain(subnets) {
        mesh.handle(line(text), now);
    }
    mesh.settle_all(now);
    while mesh.poll_output().is_some() {}
    let reachable = mesh.peers(now).iter().filter(|peer| peer.up).count();
    assert_eq!(reachable, NODES as usize - 1, "all nodes have a path");
    mesh
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let now = clock::now();
    let mut group = criterion.benchmark_group(format!("{NODES} nodes"));
    group.sample_size(30);
    // The tables were published a moment ago: that waits.
    group.bench_function("an edge changes, paths", |b| {
        let change = |mesh: &mut Mesh| take(mesh, edge(20, 70, 9), now);
        b.iter_batched_ref(|| mesh(now), change, BatchSize::LargeInput);
    });
    group.bench_function("an edge changes, paths and publication", |b| {
        let later = now + Duration::from_millis(20);
        let change = |mesh: &mut Mesh| take(mesh, edge(20, 70, 9), later);
        b.iter_batched_ref(|| mesh(now), change, BatchSize::LargeInput);
    });
    group.finish();
    criterion.final_summary();
}
