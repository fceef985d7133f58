//! `meshctl capture` between real daemons: what was pinged is in the file, and no key is.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use meshd_testing::skip;
use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{
        enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
        interface_statistics::InterfaceStatisticsOption,
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, PATIENCE, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, wait_until},
};

/// A running `meshctl capture`.
struct Capture {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Capture {
    /// Starts it, and waits until the daemon shows packets: inner ones are among those asked for.
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = node.meshctl_within(2 * PATIENCE);
        let command = command.arg("capture").args(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("not encrypted"), "{line}");
        Self { child, said }
    }

    /// Ends it as Ctrl-C does; gives what it wrote to standard output, and the rest of what it said.
    fn end(mut self) -> (String, String) {
        let pid = Pid::from_child(&self.child);
        // It may have come to its end by itself.
        let _ = kill_process(pid, Signal::TERM);
        let (mut out, mut said) = (String::new(), String::new());
        self.said.read_to_string(&mut said).unwrap();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut out).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{said}");
        (out, said)
    }
}

/// A packet of the file.
#[derive(Debug)]
struct Packet {
    kind: String,
    peer: String,
    received: bool,
    data: Vec<u8>,
}

impl Packet {
    /// IPv4 source and destination.
    fn ends(&self) -> [String; 2] {
        [12, 16].map(|at| {
            let address: [u8; 4] = self.data[at..at + 4].try_into().unwrap();
            std::net::Ipv4Addr::from(address).to_string()
        })
    }

    fn ports(&self) -> [u16; 2] {
        [20, 22].map(|at| u16::from_be_bytes([self.data[at], self.data[at + 1]]))
    }
}

/// The packets of a file, which has statistics for each of its interfaces.
fn read(file: &Path) -> Vec<Packet> {
    let bytes = fs::read(file).unwrap();
    let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
    let (mut kinds, mut packets, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(found) => {
                let name = found.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                kinds.push(name.unwrap());
            }
            Block::EnhancedPacket(found) => {
                let (mut peer, mut received) = (String::new(), false);
                for option in &found.options {
                    match option {
                        EnhancedPacketOption::Comment(comment) => peer = comment.to_string(),
                        EnhancedPacketOption::Flags(flags) => received = *flags == 1,
                        _ => {}
                    }
                }
                packets.push(Packet {
                    kind: kinds[found.interface_id as usize].clone(),
                    peer,
                    received,
                    // One kind is written as it is, several ones as frames.
                    data: found.data[if kinds.len() > 1 { 14 } else { 0 }..].to_vec(),
                });
            }
            Block::InterfaceStatistics(found) => {
                statistics.extend(found.options.iter().find_map(|option| match option {
                    InterfaceStatisticsOption::IsbIfDrop(count) => Some(*count),
                    _ => None,
                }))
            }
            _ => {}
        }
    }
    assert_eq!(statistics, vec![0; kinds.len()], "nothing was dropped");
    packets
}

/// Output of tcpdump for a file, if tcpdump is installed.
fn tcpdump(file: &Path) -> Option<String> {
    let result = Command::new("tcpdump")
        .args(["-n", "-A", "-r"])
        .arg(file)
        .output();
    let Ok(result) = result else {
        skip(
            "tcpdump",
            "only one reader has read the file: install tcpdump",
        );
        return None;
    };
    let said = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{said}");
    Some(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Every word of key files and host files of a node that could be one of a key.
fn keys(node: &Node) -> Vec<String> {
    let hosts = fs::read_dir(node.dir().join("hosts")).unwrap();
    let mut files: Vec<PathBuf> = hosts.map(|entry| entry.unwrap().path()).collect();
    files.extend(["ed25519_key.priv", "rsa_key.priv"].map(|name| node.dir().join(name)));
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let words = texts.flat_map(|text| {
        let words = text.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    });
    words.filter(|word| word.len() >= 40).collect()
}

fn run(kind: Kind) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, kind]);
    if kind == Tinc10 {
        b.without_key();
    }
    // The link and the keys of the tunnel come while we look.
    b.connect_to(&["a"]);
    a.start();
    let file = world.dir().join("mesh.pcapng");
    let all = ["--inner", "--outer", "--meta", "-w", file.to_str().unwrap()];
    let capture = Capture::start(&a, &all);
    let second = a.meshctl().args(["capture", "--outer"]).output().unwrap();
    assert_eq!(second.status.code(), Some(8), "one at a time: {second:?}");
    b.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    a.wait_udp(&b);
    if kind != Tinc10 {
        b.wait_udp(&a);
    }
    let ping = format!("ping -n -c 3 -i 0.2 -s 321 {}", b.v4());
    a.host.exec(&ping);
    let (_, said) = capture.end();
    assert!(said.contains("packets captured, 0 dropped"), "{said}");

    let packets = read(&file);
    assert!(
        packets
            .iter()
            .filter(|p| p.kind != "outer")
            .all(|p| p.peer == "b")
    );
    for (received, ends, echo) in [(false, [a.v4(), b.v4()], 8), (true, [b.v4(), a.v4()], 0)] {
        let pings = packets.iter().filter(|p| {
            p.kind == "inner" && p.received == received && p.data.len() == 20 + 8 + 321
        });
        let pings: Vec<_> = pings.collect();
        assert_eq!(pings.len(), 3, "{packets:#?}");
        assert!(pings.iter().all(|p| p.ends() == ends && p.data[20] == echo));
    }
    let wires = [&a, &b].map(|node| node.host.v4()[0].clone());
    for received in [false, true] {
        let mut there = wires.clone();
        if received {
            there.reverse();
        }
        let sealed = packets
            .iter()
            .filter(|p| p.kind == "outer" && p.received == received);
        let sealed: Vec<_> = sealed.collect();
        assert!(
            sealed
                .iter()
                .all(|p| p.ends() == there && p.ports() == [655, 655]),
            "{sealed:#?}"
        );
        let pings = sealed
            .iter()
            .filter(|p| p.peer == "b" && p.data.len() > 28 + 28 + 321);
        assert!(pings.count() >= 3, "{sealed:#?}");
    }
    let lines: Vec<u8> = packets
        .iter()
        .filter(|p| p.kind == "meta")
        .flat_map(|p| p.data[40..].to_vec())
        .collect();
    let lines = String::from_utf8(lines).unwrap();
    let has = |begin: &str| lines.lines().any(|line| line.starts_with(begin));
    assert!(has("4 655 ") && has("12 ") && has("10 "), "{lines}");
    // However the keys of the tunnel are agreed on, both lines are there, and nothing of them.
    let agreed = lines.lines().filter(|line| {
        let mut words = line.split(' ');
        matches!(words.next(), Some("15" | "16")) && line.contains(" KEY")
    });
    assert!(agreed.count() >= 1, "{lines}");
    let long = lines.split_whitespace().find(|word| word.len() >= 40);
    assert_eq!(long, None, "{lines}");
    let whole = fs::read(&file).unwrap();
    let mut looked_for = 0;
    for key in [&a, &b].into_iter().flat_map(keys) {
        let found = whole
            .windows(key.len())
            .any(|window| window == key.as_bytes());
        assert!(!found, "{key} is in the file");
        looked_for += 1;
    }
    assert!(looked_for >= 3);
    if let Some(text) = tcpdump(&file) {
        let echo = format!("{} > {}: ICMP echo request", a.v4(), b.v4());
        let udp = format!("{}.655 > {}.655: UDP", wires[0], wires[1]);
        assert!(text.contains(&echo) && text.contains(&udp), "{text}");
        assert!(
            text.lines()
                .any(|line| line.ends_with(" KEY") || line.contains(" KEY ")),
            "{text}"
        );
    }
    // Who has ended leaves room for the next one, as text.
    let arguments = ["b", "--count", "2", "--snap", "28"];
    let text = wait_until("the capture is given up", PATIENCE, || {
        let mut command = a.meshctl();
        let probe = command
            .args(["capture", "--meta", "--seconds", "1"])
            .output()
            .unwrap();
        match probe.status.code() {
            Some(0) => Ok(Capture::start(&a, &arguments)),
            code => Err(format!("{code:?}")),
        }
    });
    a.host.exec(&ping);
    let (out, said) = text.end();
    assert!(said.contains("2 packets captured"), "{said}");
    let first = out.lines().next().unwrap();
    let shown = format!(
        " inner b out 349 {} > {} ICMP echo request 1",
        a.v4(),
        b.v4()
    );
    assert!(first.ends_with(&shown), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");
    let capture = Capture::start(&a, &["-w", file.to_str().unwrap(), "--count", "2"]);
    a.host.exec(&ping);
    capture.end();
    assert_eq!(read(&file).len(), 2);
    if let Some(text) = tcpdump(&file) {
        assert!(text.contains("ICMP echo request"), "{text}");
    }
    b.assert_runs();
}

#[test]
fn a_ping_between_two_meshds_is_in_the_file() {
    run(Meshd);
}

#[test]
fn a_ping_to_tinc11_is_in_the_file() {
    run(Tinc11);
}

#[test]
fn the_keys_of_tinc10_are_not_in_the_file() {
    run(Tinc10);
}
