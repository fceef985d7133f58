//! The gate of the packet path: instructions of one packet each way, counted by callgrind. More than the
//! committed ceiling is a failure; `./tests/run gate` runs it.
//!
//! The ciphers are left out of the count: which of their forms runs, and so how many instructions that
//! are, depends on what valgrind shows of the machine. All else is code of ours, and the same everywhere
//! on x86-64 with one compiler; `memcpy` alone may differ between C libraries, which the ceilings allow
//! for. A ceiling is what was counted and a tenth more. Whoever makes the path dearer on purpose raises
//! it, and says why; whoever makes it cheaper lowers it.
#![expect(missing_docs, reason = "what gungraun's macros make has none")]

mod common;

use common::{Keys, Path, carried_packets, carried_super};
use gungraun::{Callgrind, EventKind, prelude::*};
use meshd_dataplane::io::vnet::Header;
use meshd_proto::route::Mode;

/// Where the ciphers begin: callgrind stops counting there and goes on when they return.
const CIPHERS: [&str; 4] = [
    "--toggle-collect=meshd_crypto::aead::seal",
    "--toggle-collect=meshd_crypto::aead::open",
    "--toggle-collect=meshd_crypto::seal::SealKey::seal",
    "--toggle-collect=meshd_crypto::seal::SealKey::open",
];

/// `bench` takes at most so many instructions.
///
/// While a path is made nothing is counted, so it is the other way round there: the ciphers are. That
/// count is thrown away where the bench begins. Any of these names that no longer matches shows as a count
/// far above its ceiling; were it gungraun's own, nothing would be counted, which `tests/run` looks for.
fn at_most(bench: &str, instructions: u64) -> LibraryBenchmarkConfig {
    let begin = format!("--zero-before=packet::{bench}::__gungraun_wrapper_mod::{bench}");
    let mut callgrind = Callgrind::with_args(CIPHERS);
    callgrind
        .args([begin])
        .hard_limits([(EventKind::Ir, instructions)]);
    LibraryBenchmarkConfig::default().tool(callgrind).clone()
}

/// A path that has sent two packets, and one more.
fn packet(keys: Keys, mode: Mode) -> (Box<Path>, Vec<u8>) {
    let mut path = Box::new(Path::in_mode(keys, mode));
    let mut packets = carried_packets(mode, false);
    path.send(&mut packets[0]);
    path.send(&mut packets[1]);
    (path, packets.swap_remove(2))
}

/// A path that has sent a super-packet, and one more.
fn super_packets(keys: Keys, mode: Mode) -> (Box<Path>, Header, Vec<u8>) {
    let mut path = Box::new(Path::in_mode(keys, mode));
    let (header, packet) = carried_super(mode);
    path.send_super(&header, &mut packet.clone());
    path.sink.flush();
    (path, header, packet)
}

/// A path that has received two datagrams, and one more.
fn datagram(keys: Keys, mode: Mode) -> (Box<Path>, Vec<u8>) {
    let mut path = Box::new(Path::in_mode(keys, mode));
    let mut datagram = Vec::new();
    let packets = carried_packets(mode, true);
    for packet in &packets[..2] {
        path.seal(packet, &mut datagram);
        path.receive(&mut datagram);
    }
    path.seal(&packets[2], &mut datagram);
    (path, datagram)
}

// What comes back is dropped outside of the count.

#[library_benchmark]
#[bench::sptps(args = (Keys::Sptps, Mode::Router), setup = packet, config = at_most("from_device", 1_730))]
#[bench::native(args = (Keys::Native, Mode::Router), setup = packet, config = at_most("from_device", 1_730))]
#[bench::frames(args = (Keys::Native, Mode::Switch), setup = packet, config = at_most("from_device", 1_780))]
fn from_device((mut path, mut packet): (Box<Path>, Vec<u8>)) -> (Box<Path>, Vec<u8>) {
    path.send(&mut packet);
    (path, packet)
}

#[library_benchmark]
#[bench::sptps(args = (Keys::Sptps, Mode::Router), setup = super_packets, config = at_most("from_device_super", 71_000))]
#[bench::native(args = (Keys::Native, Mode::Router), setup = super_packets, config = at_most("from_device_super", 34_500))]
#[bench::frames(args = (Keys::Native, Mode::Switch), setup = super_packets, config = at_most("from_device_super", 34_500))]
fn from_device_super(
    (mut path, header, mut packet): (Box<Path>, Header, Vec<u8>),
) -> (Box<Path>, Vec<u8>) {
    path.send_super(&header, &mut packet);
    (path, packet)
}

#[library_benchmark]
#[bench::sptps(args = (Keys::Sptps, Mode::Router), setup = datagram, config = at_most("from_network", 3_900))]
#[bench::native(args = (Keys::Native, Mode::Router), setup = datagram, config = at_most("from_network", 3_900))]
#[bench::frames(args = (Keys::Native, Mode::Switch), setup = datagram, config = at_most("from_network", 3_400))]
fn from_network((mut path, mut datagram): (Box<Path>, Vec<u8>)) -> (Box<Path>, Vec<u8>) {
    path.receive(&mut datagram);
    (path, datagram)
}

library_benchmark_group!(
    name = one_packet,
    benchmarks = [from_device, from_device_super, from_network]
);
main!(library_benchmark_groups = one_packet);
