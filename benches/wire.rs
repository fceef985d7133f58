//! Request lines and tinc's base64: `cargo bench --bench wire`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use meshd::wire::{Request, base64};

/// Lines as daemons send them; the third opens a tunnel.
const LINES: [(&str, &str); 3] = [
    (
        "ADD_EDGE",
        "12 5ad1f3c2 droplet_01 droplet_02 203.0.113.7 655 700000c 128 10.133.7.2 655",
    ),
    ("ADD_SUBNET", "10 5ad1f3c2 droplet_01 10.20.30.0/24#10"),
    (
        "REQ_KEY",
        "15 droplet_01 droplet_02 15 \
         AAAAAAAAAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw",
    ),
];

fn requests(c: &mut Criterion) {
    for (name, line) in LINES {
        let parse = |line: &str| Request::parse(line.as_bytes()).expect("a good line");
        let request = parse(line);
        c.bench_function(&format!("{name} parse"), |b| {
            b.iter(|| parse(black_box(line)));
        });
        c.bench_function(&format!("{name} print"), |b| {
            b.iter(|| black_box(&request).line(0x5ad1_f3c2));
        });
    }
}

/// A handshake datagram, and a packet that goes by TCP.
fn texts(c: &mut Criterion) {
    let mut group = c.benchmark_group("base64");
    for length in [69, 1_400] {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let text = base64::encode(&bytes);
        group.throughput(Throughput::Bytes(length));
        group.bench_function(BenchmarkId::new("encode", length), |b| {
            b.iter(|| base64::encode(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("decode", length), |b| {
            b.iter(|| base64::decode(black_box(&text)));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    texts(&mut criterion);
    criterion.final_summary();
}
