//! Throughput beside tinc 1.1: two hosts, one wire, the same traffic; peers take turns, so that whatever
//! else the machine does falls on both. Quote ratios of one run only.
//!
//! `./tests/run bench [--rounds N] [--seconds S] [--json]`; needs what the namespace tests need.
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
    traffic::wait_ping,
    world::World,
};

/// Packets a second that are offered; the best that arrives counts.
const OFFERED: [u32; 5] = [40_000, 70_000, 100_000, 140_000, 200_000];

/// What one pair did in one round.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// TCP, one stream, in Mbit/s of payload.
    tcp: f64,
    /// Processor seconds of both daemons for a gigabyte of that.
    cpu: f64,
    /// UDP packets of 64 bytes that arrived, thousands a second.
    udp: f64,
    /// Round trip of 56-byte pings, median in microseconds.
    ping: f64,
}

const COLUMNS: [&str; 4] = ["TCP Mbit/s", "CPU s/GB", "64-byte kpps", "ping us"];

impl Round {
    fn values(self) -> [f64; 4] {
        [self.tcp, self.cpu, self.udp, self.ping]
    }
}

fn main() {
    let (mut rounds, mut seconds, mut json) = (3_usize, 5_usize, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok());
        match argument.as_str() {
            "--rounds" => rounds = number().expect("--rounds takes a number"),
            "--seconds" => seconds = number().expect("--seconds takes a number"),
            "--json" => json = true,
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let kinds = [Meshd, Tinc11];
    let mut all: [Vec<Round>; 2] = Default::default();
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let result = measure(kinds[at], seconds);
            eprintln!("round {}: {:?} {result:.1?}", round + 1, kinds[at]);
            all[at].push(result);
        }
    }
    let medians = all.map(|rounds| -> [f64; 4] {
        std::array::from_fn(|column| {
            median(rounds.iter().map(|round| round.values()[column]).collect())
        })
    });
    if json {
        let rows: Vec<Value> = kinds
            .iter()
            .zip(medians)
            .map(|(kind, values)| serde_json::json!({"peer": format!("{kind:?}"), "median": values, "columns": COLUMNS}))
            .collect();
        println!("{}", Value::from(rows));
        return;
    }
    println!(
        "{:10} {}",
        "median",
        COLUMNS.map(|c| format!("{c:>14}")).concat()
    );
    for (kind, values) in kinds.iter().zip(medians) {
        println!(
            "{:10} {}",
            format!("{kind:?}"),
            values.map(|v| format!("{v:14.1}")).concat()
        );
    }
    let ratio: String = (0..4)
        .map(|column| format!("{:14.2}", medians[0][column] / medians[1][column]))
        .collect();
    println!("{:10} {ratio}", "ratio");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(kind: Kind, seconds: usize) -> Round {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [kind, kind]);
    for node in [&a, &b] {
        // As a network card that segments would do it.
        node.host
            .exec("ethtool -K eth1 gso on tso on tx-udp-segmentation on");
    }
    bring_up(&mut a, &mut b);
    // The path MTU of tincds is known some seconds later.
    thread::sleep(Duration::from_secs(4));
    wait_ping(&a, &b.v4(), 1_400);

    let ping = ping_median(&a, &b.v4());
    let before = cpu(&a) + cpu(&b);
    let report = iperf(&a, &b, &["-t", &seconds.to_string()]);
    let used = cpu(&a) + cpu(&b) - before;
    let received = &report["end"]["sum_received"];
    let (bytes, bits) = (
        received["bytes"].as_f64().unwrap(),
        received["bits_per_second"].as_f64().unwrap(),
    );
    let udp = OFFERED
        .iter()
        .map(|rate| {
            let bits = (rate * 64 * 8).to_string();
            let report = iperf(&a, &b, &["-u", "-l", "64", "-b", &bits, "-t", "2"]);
            let sum = &report["end"]["sum"];
            let arrived = sum["packets"].as_f64().unwrap() - sum["lost_packets"].as_f64().unwrap();
            arrived / sum["seconds"].as_f64().unwrap() / 1e3
        })
        .fold(0.0, f64::max);
    Round {
        tcp: bits / 1e6,
        cpu: used / (bytes / 1e9),
        udp,
        ping,
    }
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
