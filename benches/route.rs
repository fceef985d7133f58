//! Where a packet goes: `cargo bench --bench route`.

mod common;

use std::hint::black_box;

use common::{Keys, ME, PREFIXES, Path};
use criterion::Criterion;
use meshd::{
    os::clock,
    route::verdict::{self, ErrorLimiter},
};

/// A binary search: addresses in no order, so that no branch can be foreseen.
fn lookup(c: &mut Criterion) {
    let table = common::table();
    let mut n = 0_u32;
    c.bench_function(&format!("lookup in {PREFIXES} prefixes"), |b| {
        b.iter(|| {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            table.lookup(black_box((10 << 24) + (n >> 8) % (PREFIXES << 8)))
        });
    });
}

fn decide(c: &mut Criterion) {
    let path = Path::new(Keys::Sptps);
    let mut packet = common::packets(false).remove(0);
    let (mut limiter, now) = (ErrorLimiter::default(), clock::now());
    c.bench_function("decide on an IPv4 packet of 1400 bytes", |b| {
        b.iter(|| {
            let packet = black_box(&mut packet);
            verdict::decide(&path.snapshot, packet, ME, &mut limiter, now)
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lookup(&mut criterion);
    decide(&mut criterion);
    criterion.final_summary();
}
