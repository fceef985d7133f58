//! Throughput beside tinc 1.1, and beside wireguard-go where it is installed: two hosts, one wire, the same
//! traffic. Programs take turns, so other load of the machine affects all of them. Quote ratios of one
//! run only.
//!
//! `./tests/run bench [--rounds N] [--seconds S] [--mode MODE] [--json] [--readme[=FILE]]`; needs what
//! the namespace tests need. MODE is switch or hub: frames, and meshd with packets beside them. `--readme` puts what it printed into README.md, or into a file that has the same markers.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real daemons in real time"
)]

#[path = "../tests/net/dump.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod dump;
#[path = "../tests/net/keeper.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod keeper;
#[path = "../tests/net/node.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod node;
#[path = "throughput/pair.rs"]
mod pair;
#[path = "throughput/report.rs"]
mod report;
#[path = "../tests/net/traffic.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod traffic;
#[path = "../tests/net/world.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod world;

use std::{fs, thread, time::Duration};

use serde_json::Value;

use crate::{
    pair::{Pair, Program},
    report::{Peer, Report},
    world::World,
};

/// Packets of 64 bytes a second that are offered; the best that arrives counts.
const OFFERED: [u32; 5] = [40_000, 70_000, 100_000, 140_000, 200_000];
/// Mbit/s in packets of 1,400 bytes that are offered, until some are lost: a fifth more each time.
const LOSS_FREE: [u32; 17] = [
    100, 150, 200, 250, 300, 360, 430, 520, 620, 750, 900, 1_100, 1_300, 1_550, 1_900, 2_300, 2_750,
];
/// Part of them that may be lost if no loss is configured.
const LOST: f64 = 0.001;

/// Socket buffer of iperf3's UDP: the most that Linux gives to anybody, and it gives twice that. With less
/// its receiver loses packets whenever it is not run for some milliseconds.
const BUFFER: &str = "208K";

/// Measurements of each round, in the order of the values.
const COLUMNS: [&str; 7] = [
    "TCP Mbit/s",
    "TCP 4 streams",
    "TCP reverse",
    "CPU s/GB",
    "UDP 64 B kpps",
    "UDP 1400 B Mbit/s",
    "ping us",
];
type Round = [f64; COLUMNS.len()];

fn main() {
    let (mut rounds, mut seconds, mut json, mut readme) = (3_usize, 5_usize, false, None);
    let mut programs = Program::installed();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        match argument.as_str() {
            "--rounds" => rounds = number(arguments.next()).expect("--rounds takes a number"),
            "--seconds" => seconds = number(arguments.next()).expect("--seconds takes a number"),
            "--mode" => {
                let mode = arguments.next().expect("--mode takes a word");
                programs = Program::in_mode(&mode);
            }
            "--json" => json = true,
            "--readme" => readme = Some("README.md".to_owned()),
            "--bench" => {}
            other => match other.strip_prefix("--readme=") {
                Some(file) => readme = Some(file.to_owned()),
                None => panic!("unknown argument {other}"),
            },
        }
    }
    let mut all = vec![Vec::<Round>::new(); programs.len()];
    for round in 0..rounds {
        for turn in 0..programs.len() {
            let at = (turn + round) % programs.len();
            let result = measure(&programs[at], seconds);
            eprintln!("round {}: {} {result:.1?}", round + 1, programs[at].name);
            all[at].push(result);
        }
    }
    let peers = programs.iter().zip(&all).map(|(program, rounds)| Peer {
        name: program.name.clone(),
        medians: (0..COLUMNS.len())
            .map(|column| median(rounds.iter().map(|round| round[column]).collect()))
            .collect(),
    });
    let report = Report {
        columns: &COLUMNS,
        peers: peers.collect(),
        rounds,
        seconds,
    };
    match json {
        true => println!("{}", report.json()),
        false => print!("{}", report.text()),
    }
    if let Some(file) = readme {
        report.write_into(&file);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(program: &Program, seconds: usize) -> Round {
    let world = World::alone();
    let pair = Pair::start(program, &world);
    let ping = ping_median(&pair);
    let time = seconds.to_string();
    let before = cpu(&pair);
    let (tcp, bytes) = tcp_of(&pair, &["-t", &time]);
    let used = cpu(&pair) - before;
    let (four, _) = tcp_of(&pair, &["-t", &time, "-P", "4"]);
    let (reverse, _) = tcp_of(&pair, &["-t", &time, "-R"]);
    let small = OFFERED
        .iter()
        .map(|rate| udp(&pair, 64, rate * 64 * 8).0 / 1e3)
        .fold(0.0, f64::max);
    [
        tcp,
        four,
        reverse,
        used / (bytes / 1e9),
        small,
        loss_free(&pair),
        ping,
    ]
}

/// TCP from the first host to the second, or back: Mbit/s of payload, and bytes.
fn tcp_of(pair: &Pair, options: &[&str]) -> (f64, f64) {
    let report = iperf(pair, options);
    let received = &report["end"]["sum_received"];
    let value = |key: &str| received[key].as_f64().unwrap();
    (value("bits_per_second") / 1e6, value("bytes"))
}

/// Measures UDP in packets of `length` bytes, offered at `bits` bit/s for two seconds. Returns the packets
/// that arrive in a second, and the lost part. A transfer that iperf3 could not complete counts as lost,
/// with its reason on standard error.
fn udp(pair: &Pair, length: u32, bits: u32) -> (f64, f64) {
    let (length, bits) = (length.to_string(), bits.to_string());
    let report = iperf(
        pair,
        &["-u", "-l", &length, "-b", &bits, "-t", "2", "-w", BUFFER],
    );
    let sum = &report["end"]["sum"];
    if let (Some(error), true) = (report["error"].as_str(), sum.is_null()) {
        eprintln!("{length} bytes at {bits} bit/s: {error}");
        return (0.0, 1.0);
    }
    let value = |key: &str| sum[key].as_f64().unwrap();
    let (sent, lost) = (value("packets"), value("lost_packets"));
    ((sent - lost) / value("seconds"), lost / sent)
}

/// The most that arrives whole in packets of 1,400 bytes, in Mbit/s; a rate that loses is tried once more.
fn loss_free(pair: &Pair) -> f64 {
    let arrives = |rate: &u32| {
        let once = || udp(pair, 1_400, rate * 1_000_000);
        let whole = |(_, lost): &(f64, f64)| *lost <= LOST;
        let packets = Some(once()).filter(whole);
        let (packets, _) = packets.or_else(|| Some(once()).filter(whole))?;
        Some(packets * 1_400.0 * 8.0 / 1e6)
    };
    // Where iperf3 itself is at its end, more that is offered is no more that arrives.
    let rates = LOSS_FREE.iter().map_while(arrives);
    rates.fold(0.0, f64::max)
}

/// One iperf3 transfer from the first host to the second; its report.
fn iperf(pair: &Pair, options: &[&str]) -> Value {
    let ([from, to], [_, address]) = (&pair.hosts, &pair.addresses);
    let mut server = to
        .command("iperf3")
        .args(["-s", "-1", "-B", address])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    let output = from
        .command("iperf3")
        .args(["-J", "-c", address])
        .args(options)
        .output()
        .unwrap();
    let _ = server.kill();
    server.wait().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

/// Median of 300 pings, in microseconds.
fn ping_median(pair: &Pair) -> f64 {
    let to = &pair.addresses[1];
    let text = pair.hosts[0].exec(&format!("ping -n -i 0.005 -c 300 {to}"));
    let times = text.lines().filter_map(|line| {
        line.split_once("time=")?
            .1
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    });
    median(times.collect()) * 1e3
}

/// Processor seconds that both daemons have used.
fn cpu(pair: &Pair) -> f64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name, which may hold anything: state is field 3, utime 14, stime 15, in hundredths.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    pair.pids().into_iter().map(of).sum()
}
