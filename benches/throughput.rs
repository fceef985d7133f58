//! Throughput beside tinc 1.1: two hosts, one wire, the same traffic; peers take turns, so that whatever
//! else the machine does falls on both. Quote ratios of one run only.
//!
//! `./tests/run bench [--rounds N] [--seconds S] [--mode MODE] [--json] [--readme[=FILE]]`; needs what the
//! namespace tests need. With another mode than router, meshd in router mode takes its turns too. `--readme` puts what it printed into README.md, or into a file that has the same markers.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real daemons in real time"
)]

#[path = "../tests/net/dump.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod dump;
#[path = "../tests/net/node.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod node;
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
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, bring_up, on_one_wire,
    },
    report::{Peer, Report},
    traffic::wait_ping,
    world::World,
};

/// Packets of 64 bytes a second that are offered; the best that arrives counts.
const OFFERED: [u32; 5] = [40_000, 70_000, 100_000, 140_000, 200_000];
/// Mbit/s in packets of 1,400 bytes that are offered, until some are lost: a fifth more each time.
const LOSS_FREE: [u32; 17] = [
    100, 150, 200, 250, 300, 360, 430, 520, 620, 750, 900, 1_100, 1_300, 1_550, 1_900, 2_300, 2_750,
];
/// What part of them may be lost where nothing is said to be.
const LOST: f64 = 0.001;

/// Socket buffer of iperf3's UDP: the most that Linux gives to anybody, and it gives twice that. With less
/// its receiver loses packets whenever it is not run for some milliseconds.
const BUFFER: &str = "208K";

/// What is measured in each round, in the order of the values.
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
    let mut mode = "router".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--mode" {
            mode = arguments.next().expect("--mode takes a word");
            continue;
        }
        let mut number = || arguments.next().and_then(|n| n.parse().ok());
        match argument.as_str() {
            "--rounds" => rounds = number().expect("--rounds takes a number"),
            "--seconds" => seconds = number().expect("--seconds takes a number"),
            "--json" => json = true,
            "--readme" => readme = Some("README.md".to_owned()),
            "--bench" => {}
            other => match other.strip_prefix("--readme=") {
                Some(file) => readme = Some(file.to_owned()),
                None => panic!("unknown argument {other}"),
            },
        }
    }
    let mut kinds = vec![(Meshd, mode.as_str(), "meshd"), (Tinc11, &mode, "tinc 1.1")];
    if mode != "router" {
        kinds.push((Meshd, "router", "meshd in router mode"));
    }
    let mut all = vec![Vec::<Round>::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let (kind, mode, name) = kinds[at];
            let result = measure(kind, mode, seconds);
            eprintln!("round {}: {name} {result:.1?}", round + 1);
            all[at].push(result);
        }
    }
    let medians = |rounds: &[Round]| -> Vec<f64> {
        (0..COLUMNS.len())
            .map(|column| median(rounds.iter().map(|round| round[column]).collect()))
            .collect()
    };
    for (rounds, (_, _, name)) in all.iter().zip(&kinds).skip(2) {
        eprintln!("{name}, medians: {:.1?}", medians(rounds));
    }
    let peer = |at: usize| Peer {
        name: kinds[at].2.to_owned(),
        medians: medians(&all[at]),
    };
    let report = Report {
        columns: &COLUMNS,
        peers: [peer(0), peer(1)],
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

fn measure(kind: Kind, mode: &str, seconds: usize) -> Round {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [kind, kind]);
    for node in [&a, &b] {
        node.tinc(&["set", "Mode", mode]);
        // As a network card that segments would do it.
        node.host
            .exec("ethtool -K eth1 gso on tso on tx-udp-segmentation on");
    }
    bring_up(&mut a, &mut b);
    // The path MTU of tincds is known some seconds later.
    thread::sleep(Duration::from_secs(4));
    wait_ping(&a, &b.v4(), 1_400);

    let ping = ping_median(&a, &b.v4());
    let time = seconds.to_string();
    let before = cpu(&a) + cpu(&b);
    let (tcp, bytes) = tcp_of(&a, &b, &["-t", &time]);
    let used = cpu(&a) + cpu(&b) - before;
    let (four, _) = tcp_of(&a, &b, &["-t", &time, "-P", "4"]);
    let (reverse, _) = tcp_of(&a, &b, &["-t", &time, "-R"]);
    let small = OFFERED
        .iter()
        .map(|rate| udp(&a, &b, 64, rate * 64 * 8).0 / 1e3)
        .fold(0.0, f64::max);
    [
        tcp,
        four,
        reverse,
        used / (bytes / 1e9),
        small,
        loss_free(&a, &b),
        ping,
    ]
}

/// TCP from a to b, or back: Mbit/s of payload, and bytes.
fn tcp_of(a: &Node, b: &Node, options: &[&str]) -> (f64, f64) {
    let report = iperf(a, b, options);
    let received = &report["end"]["sum_received"];
    let value = |key: &str| received[key].as_f64().unwrap();
    (value("bits_per_second") / 1e6, value("bytes"))
}

/// UDP in packets of so many bytes, offered at so many bit/s for two seconds: packets that arrive in a
/// second, and what part of them all is lost. A transfer that iperf3 could not bring to its end counts as
/// lost, with its reason on standard error.
fn udp(a: &Node, b: &Node, length: u32, bits: u32) -> (f64, f64) {
    let (length, bits) = (length.to_string(), bits.to_string());
    let report = iperf(
        a,
        b,
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
fn loss_free(a: &Node, b: &Node) -> f64 {
    let arrives = |rate: &u32| {
        let once = || udp(a, b, 1_400, rate * 1_000_000);
        let whole = |(_, lost): &(f64, f64)| *lost <= LOST;
        let packets = Some(once()).filter(whole);
        let (packets, _) = packets.or_else(|| Some(once()).filter(whole))?;
        Some(packets * 1_400.0 * 8.0 / 1e6)
    };
    // Where iperf3 itself is at its end, more that is offered is no more that arrives.
    let rates = LOSS_FREE.iter().map_while(arrives);
    rates.fold(0.0, f64::max)
}

/// One iperf3 transfer from a to b; its report.
fn iperf(a: &Node, b: &Node, options: &[&str]) -> Value {
    let mut server = b
        .host
        .command("iperf3")
        .args(["-s", "-1", "-B", &b.v4()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    let output = a
        .host
        .command("iperf3")
        .args(["-J", "-c", &b.v4()])
        .args(options)
        .output()
        .unwrap();
    let _ = server.kill();
    server.wait().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

/// Median of 300 pings, in microseconds.
fn ping_median(from: &Node, to: &str) -> f64 {
    let text = from.host.exec(&format!("ping -n -i 0.005 -c 300 {to}"));
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

/// Processor seconds that a daemon has used.
fn cpu(node: &Node) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    // After the name, which may hold anything: state is field 3, utime 14, stime 15, in hundredths.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
