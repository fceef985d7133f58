//! The gate of the packet path: instructions of one packet each way, counted by callgrind. More than the
//! committed ceiling is a failure; `./tests/run gate` runs it. Arguments: parts of the names of benches.
//!
//! The ciphers are not counted: valgrind's view of the processor decides which of their forms runs. The
//! other code is ours, and the same on every x86-64 with one compiler. Only `memcpy` may differ between C
//! libraries, and the ceilings allow for that. A ceiling is the count and a tenth more. A change that makes
//! the path dearer on purpose raises the ceiling, and its commit says why. A cheaper path lowers it.

mod common;

use std::{
    env,
    path::Path as File,
    process::{Command, ExitCode},
};

use common::{Keys, Path, carried_packets, carried_super};
use meshd_dataplane::io::vnet::Header;
use meshd_proto::route::Mode;

/// Where the ciphers begin: callgrind stops counting there and goes on when they return.
const CIPHERS: [&str; 4] = [
    "meshd_crypto::aead::seal",
    "meshd_crypto::aead::open",
    "meshd_crypto::seal::SealKey::seal",
    "meshd_crypto::seal::SealKey::open",
];

/// Each bench: its function, the path that it takes, and its ceiling of instructions.
const BENCHES: [(&str, Kind, u64); 9] = [
    ("from_device", (Keys::Sptps, Mode::Router), 1_730),
    ("from_device", (Keys::Native, Mode::Router), 1_730),
    ("from_device", (Keys::Native, Mode::Switch), 1_780),
    ("from_device_super", (Keys::Sptps, Mode::Router), 71_000),
    ("from_device_super", (Keys::Native, Mode::Router), 34_500),
    ("from_device_super", (Keys::Native, Mode::Switch), 34_500),
    ("from_network", (Keys::Sptps, Mode::Router), 3_900),
    ("from_network", (Keys::Native, Mode::Router), 3_900),
    ("from_network", (Keys::Native, Mode::Switch), 3_400),
];

/// Fewer instructions than this are not a packet's: the function was not found.
const LEAST: u64 = 100;

type Kind = (Keys, Mode);

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

#[inline(never)]
fn from_device((mut path, mut packet): (Box<Path>, Vec<u8>)) -> (Box<Path>, Vec<u8>) {
    path.send(&mut packet);
    (path, packet)
}

#[inline(never)]
fn from_device_super(
    (mut path, header, mut packet): (Box<Path>, Header, Vec<u8>),
) -> (Box<Path>, Vec<u8>) {
    path.send_super(&header, &mut packet);
    (path, packet)
}

#[inline(never)]
fn from_network((mut path, mut datagram): (Box<Path>, Vec<u8>)) -> (Box<Path>, Vec<u8>) {
    path.receive(&mut datagram);
    (path, datagram)
}

/// Runs one bench, under callgrind.
fn run(bench: &str, (keys, mode): Kind) {
    drop(match bench {
        "from_device" => from_device(packet(keys, mode)),
        "from_device_super" => from_device_super(super_packets(keys, mode)),
        _ => from_network(datagram(keys, mode)),
    });
}

/// Returns the instructions that callgrind counts in bench `index`.
///
/// While a path is made nothing is counted, so it is the other way round there: the ciphers are. That
/// count is thrown away where the bench begins. Any cipher that no longer has its name shows as a count
/// far above the ceiling, and a bench without its name counts nothing.
fn count(index: usize) -> u64 {
    let bench = format!("packet::{}", BENCHES[index].0);
    let out = File::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{index}"));
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .args([
            format!("--zero-before={bench}"),
            format!("--toggle-collect={bench}"),
        ])
        .args(CIPHERS.map(|cipher| format!("--toggle-collect={cipher}")))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe().expect("a program has a path"))
        .args(["--run", &index.to_string()])
        // Environment and arguments lie on the stack, and shift it.
        .env_clear();
    if let Some(path) = env::var_os("PATH") {
        valgrind.env("PATH", path);
    }
    let status = valgrind.status().expect("valgrind is installed");
    assert!(status.success(), "{valgrind:?}: {status}");
    let text = std::fs::read_to_string(out).expect("callgrind writes its counts");
    let totals = text
        .lines()
        .filter_map(|line| line.strip_prefix("totals: "));
    totals
        .map(|total| total.parse::<u64>().expect("a count"))
        .sum()
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [run_one, index] = &args[..]
        && run_one == "--run"
    {
        let (bench, kind, _) = BENCHES[index.parse::<usize>().expect("a number")];
        run(bench, kind);
        return ExitCode::SUCCESS;
    }
    // Cargo adds --bench.
    let parts: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let mut code = ExitCode::SUCCESS;
    for (index, (bench, (keys, mode), ceiling)) in BENCHES.into_iter().enumerate() {
        let name = format!("{bench} {keys:?} {mode:?}");
        if !parts.is_empty() && !parts.iter().any(|part| name.contains(*part)) {
            continue;
        }
        let counted = count(index);
        let fine = (LEAST..=ceiling).contains(&counted);
        let verdict = if fine { "" } else { "  FAILED" };
        println!("{name:36} {counted:>7} instructions, at most {ceiling:>7}{verdict}");
        if !fine {
            code = ExitCode::FAILURE;
        }
    }
    code
}
