//! Sealing and opening packets, and the handshakes: `cargo bench --bench crypto`.

mod common;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use meshd::crypto::{
    PrivateKey, Rng,
    aead::{self, TAG},
    noise::{self, Parties, Purpose, StaticSecret},
    seal::{Aead, SealKey},
};

const LENGTHS: [usize; 2] = [64, 1_400];
const KEY: [u8; 32] = [7; 32];
const NUMBER: u32 = 5;

/// One way to seal and open a buffer with room for the tag.
type Cipher<'a> = (&'a str, Box<dyn Fn(&mut [u8])>, Box<dyn Fn(&mut [u8])>);

fn ciphers() -> Vec<Cipher<'static>> {
    let mut all: Vec<Cipher<'static>> = vec![(
        "SPTPS",
        Box::new(|buffer| aead::seal(&KEY, NUMBER, buffer)),
        Box::new(|buffer| aead::open(&KEY, NUMBER, buffer).expect("the right tag")),
    )];
    for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let [sealing, opening] = [(); 2].map(|()| SealKey::new(aead, &KEY));
        all.push((
            aead.name(),
            Box::new(move |buffer| sealing.seal(NUMBER.into(), &[], buffer)),
            Box::new(move |buffer| {
                let opened = opening.open(NUMBER.into(), &[], buffer);
                opened.expect("the right tag");
            }),
        ));
    }
    all
}

fn packets(c: &mut Criterion) {
    for (name, seal, open) in ciphers() {
        let mut group = c.benchmark_group(name);
        for length in LENGTHS {
            group.throughput(Throughput::Bytes(length as u64));
            let mut buffer = vec![7; length + TAG];
            group.bench_function(BenchmarkId::new("seal", length), |b| {
                b.iter(|| seal(black_box(&mut buffer)));
            });
            seal(&mut buffer);
            group.bench_function(BenchmarkId::new("open", length), |b| {
                let open = |sealed: &mut Vec<u8>| open(sealed);
                b.iter_batched_ref(|| buffer.clone(), open, BatchSize::SmallInput);
            });
        }
        group.finish();
    }
}

/// Both messages of the native handshake, both sides.
fn noise(c: &mut Criterion) {
    let mut rng = Rng::new([1; 32]);
    let secrets = [(); 2].map(|()| StaticSecret::of(&PrivateKey::generate(&mut rng)));
    let names = ["n0", "n1"].map(common::name);
    let parties = |secret| Parties {
        purpose: Purpose::Tunnel,
        initiator: &names[0],
        responder: &names[1],
        context: &[],
        psk: &[0; 32],
        secret,
    };
    let [ours, theirs] = [&secrets[0], &secrets[1]].map(parties);
    let [our_key, their_key] = [secrets[0].public(), secrets[1].public()];
    c.bench_function("Noise handshake", |b| {
        b.iter(|| {
            let (begun, first) = noise::begin(&ours, &their_key, b"", &mut rng);
            let asked = noise::asked(&theirs, &[our_key], &first, &mut rng);
            let (second, _keys) = asked.expect("a good first message").0.answer(b"");
            begun.answered(&second).is_ok()
        });
    });
}

/// All messages of tinc's handshake, both sides, and the making of both identities: two scalar
/// multiplications of about twelve.
fn sptps(c: &mut Criterion) {
    c.bench_function("SPTPS handshake", |b| b.iter(common::sptps_tunnel));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    packets(&mut criterion);
    noise(&mut criterion);
    sptps(&mut criterion);
    criterion.final_summary();
}
