//! The faults: each begins, lasts, and ends.

use std::fs;

use meshd::crypto::Rng;
use rustix::process::Signal;

use super::Chaos;
use crate::node::{
    Kind::{Meshd, Tinc10, Tinc11},
    Node,
};

/// A fault; the numbers are those of nodes.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// kill -9, and a start at the end.
    Kill(usize),
    /// SIGTERM, and a start at the end.
    Stop(usize),
    /// SIGSTOP and SIGCONT.
    Freeze(usize),
    /// Nothing passes from one node to another, but passes back.
    CutOneWay(usize, usize),
    /// Nothing passes between two nodes.
    Cut(usize, usize),
    /// Nothing comes to a node, but what it sends passes.
    Deaf(usize),
    /// Nothing passes to or from a node.
    Isolate(usize),
    /// Nothing passes between these nodes and all others.
    Halves(Vec<usize>),
    /// No TCP between two nodes; UDP passes.
    NoTcp(usize, usize),
    /// A node gets other outer addresses, and no file says so.
    Move(usize),
    /// The same, and all files say so, with a reload of all.
    MoveTold(usize),
    /// No packet above 1,280 bytes passes, and nobody is told.
    Mtu,
    /// One packet in ten is lost.
    Loss,
    /// The host files of all others are away from a node's directory, with a reload at either end.
    FilesAway(usize),
    /// The host file of the first is away at the second.
    FileAway(usize, usize),
    /// Another program runs on a node's directory meanwhile.
    Roll(usize),
    /// A node sends broadcasts, 100 a second.
    Broadcasts(usize),
    /// A node leaves and its host files with it, and joins again at the end.
    Join(usize),
    /// The NAT gets another outer address: all of its mappings are gone.
    NatMoves,
    /// A node ends and loses what it wrote: cached addresses and other state.
    StateLost(usize),
}

/// Names of the faults in the table.
impl Fault {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Freeze(_) => "freeze",
            Self::CutOneWay(..) => "cut one way",
            Self::Cut(..) => "cut",
            Self::Deaf(_) => "deaf",
            Self::Isolate(_) => "isolate",
            Self::Halves(_) => "halves",
            Self::NoTcp(..) => "no TCP",
            Self::Move(_) => "move",
            Self::MoveTold(_) => "move, told",
            Self::Mtu => "MTU 1280",
            Self::Loss => "loss 10 %",
            Self::FilesAway(_) => "files away",
            Self::FileAway(..) => "file away",
            Self::Roll(_) => "roll",
            Self::Broadcasts(_) => "broadcasts",
            Self::Join(_) => "join",
            Self::NatMoves => "NAT moves",
            Self::StateLost(_) => "state lost",
        }
    }

    /// The node whose process or files it changes: no other fault may change them too.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::Kill(node)
            | Self::Stop(node)
            | Self::Freeze(node)
            | Self::Move(node)
            | Self::MoveTold(node)
            | Self::FilesAway(node)
            | Self::FileAway(_, node)
            | Self::Roll(node)
            | Self::Join(node)
            | Self::StateLost(node) => Some(*node),
            _ => None,
        }
    }

    /// A random fault among `nodes` nodes, the last of which is behind the NAT.
    pub(super) fn random(rng: &mut Rng, nodes: usize) -> Self {
        let mut below = |bound: usize| rng.below(u32::try_from(bound).unwrap()) as usize;
        let one = below(nodes);
        let two = (one + 1 + below(nodes - 1)) % nodes;
        // The node behind the NAT moves with its NAT.
        let outside = one % (nodes - 1);
        match below(20) {
            0 => Self::Kill(one),
            1 => Self::Stop(one),
            2 => Self::Freeze(one),
            3 => Self::CutOneWay(one, two),
            4 => Self::Cut(one, two),
            5 => Self::Deaf(one),
            6 => Self::Isolate(one),
            7 => {
                let apart = (0..nodes).filter(|_| below(2) == 0).collect();
                Self::Halves(apart)
            }
            8 => Self::NoTcp(one, two),
            9 => Self::Move(outside),
            10 => Self::MoveTold(outside),
            11 => Self::Mtu,
            12 => Self::Loss,
            13 => Self::FilesAway(one),
            14 => Self::FileAway(one, two),
            15 => Self::Roll(one),
            16 => Self::Broadcasts(one),
            17 => Self::Join(one),
            18 => Self::NatMoves,
            _ => Self::StateLost(one),
        }
    }
}

impl Chaos {
    /// Begins a fault. `tag` makes the names of its rules unique.
    pub(super) fn begin(&mut self, fault: &Fault, tag: &str) {
        match fault {
            Fault::Kill(node) | Fault::StateLost(node) => self.nodes[*node].kill(),
            Fault::Stop(node) => self.nodes[*node].stop(),
            Fault::Freeze(node) => self.nodes[*node].signal(Signal::STOP),
            Fault::CutOneWay(from, to) => {
                let (from, to) = (self.port(*from), self.port(*to));
                self.wire
                    .rule(tag, &format!("iifname \"{from}\" oifname \"{to}\""));
            }
            Fault::Cut(a, b) => self.cut_pair(tag, *a, *b, ""),
            Fault::NoTcp(a, b) => self.cut_pair(tag, *a, *b, "meta l4proto tcp"),
            Fault::Deaf(node) => self
                .wire
                .rule(tag, &format!("oifname \"{}\"", self.port(*node))),
            Fault::Isolate(node) => {
                for direction in ["iifname", "oifname"] {
                    let rule = format!("{direction} \"{}\"", self.port(*node));
                    self.wire.rule(tag, &rule);
                }
            }
            Fault::Halves(apart) => {
                for a in 0..self.nodes.len() {
                    for b in (0..a).filter(|b| apart.contains(&a) != apart.contains(b)) {
                        self.cut_pair(tag, a, b, "");
                    }
                }
            }
            Fault::Move(_) | Fault::MoveTold(_) | Fault::NatMoves => {}
            Fault::Join(node) => self.leave(*node),
            Fault::Mtu => {
                for family in ["ip", "ip6"] {
                    let rule = format!("ether type {family} meta length > 1280");
                    self.wire.rule(tag, &rule);
                }
            }
            Fault::Loss => self.wire.rule(tag, "numgen random mod 100 < 10"),
            Fault::FilesAway(node) => self.files_away(*node, None),
            Fault::FileAway(of, at) => self.files_away(*at, Some(*of)),
            Fault::Roll(node) => self.roll(*node),
            Fault::Broadcasts(node) => self.shout(*node),
        }
    }

    /// Ends a fault.
    pub(super) fn end(&mut self, fault: &Fault, tag: &str) {
        match fault {
            Fault::Kill(node) | Fault::Stop(node) => self.nodes[*node].start(),
            Fault::Freeze(node) => self.nodes[*node].signal(Signal::CONT),
            Fault::Halves(apart) if apart.is_empty() || apart.len() == self.nodes.len() => {}
            Fault::CutOneWay(..)
            | Fault::Cut(..)
            | Fault::NoTcp(..)
            | Fault::Deaf(_)
            | Fault::Isolate(_)
            | Fault::Halves(_)
            | Fault::Mtu
            | Fault::Loss => self.wire.unrule(tag),
            Fault::Move(node) => self.change_address(*node),
            Fault::MoveTold(node) => {
                self.change_address(*node);
                self.tell_address(*node);
            }
            Fault::NatMoves => self.change_nat(),
            Fault::FilesAway(node) => self.files_back(*node),
            Fault::FileAway(_, at) => self.files_back(*at),
            Fault::Roll(node) => self.roll(*node),
            Fault::Broadcasts(_) => self.shouting = None,
            Fault::Join(node) => self.join(*node),
            Fault::StateLost(node) => {
                let _ = fs::remove_dir_all(self.nodes[*node].dir().join("cache"));
                self.nodes[*node].start();
            }
        }
    }

    /// The port of a node on the wire, or that of its NAT.
    fn port(&self, node: usize) -> String {
        if node + 1 == self.nodes.len() {
            return self.wire.port(&self.router.name);
        }
        self.wire.port(&self.nodes[node].name)
    }

    fn cut_pair(&self, tag: &str, a: usize, b: usize, what: &str) {
        let (a, b) = (self.port(a), self.port(b));
        self.wire
            .rule(tag, &format!("iifname \"{a}\" oifname \"{b}\" {what}"));
        self.wire
            .rule(tag, &format!("iifname \"{b}\" oifname \"{a}\" {what}"));
    }

    fn files_away(&self, node: usize, only: Option<usize>) {
        let node = &self.nodes[node];
        let (hosts, away) = (node.dir().join("hosts"), node.dir().join("away"));
        fs::create_dir_all(&away).unwrap();
        for entry in fs::read_dir(&hosts).unwrap() {
            let name = entry.unwrap().file_name();
            let wanted = only.is_none_or(|only| name == *self.nodes[only].name);
            if wanted && name != *node.name {
                fs::rename(hosts.join(&name), away.join(&name)).unwrap();
            }
        }
        node.signal(Signal::HUP);
    }

    fn files_back(&self, node: usize) {
        let node = &self.nodes[node];
        let (hosts, away) = (node.dir().join("hosts"), node.dir().join("away"));
        for entry in fs::read_dir(&away).unwrap() {
            let name = entry.unwrap().file_name();
            // A tinc may have written the file anew meanwhile.
            fs::rename(away.join(&name), hosts.join(&name)).unwrap();
        }
        node.signal(Signal::HUP);
    }

    /// Changes the program of a node: meshd and a tinc.
    fn roll(&mut self, node: usize) {
        let first = self.kinds[node];
        let node = &mut self.nodes[node];
        node.stop();
        node.kind = match (node.kind, first) {
            (Meshd, Tinc10) => Tinc10,
            (Meshd, _) => Tinc11,
            (Tinc11 | Tinc10, _) => Meshd,
        };
        node.start();
    }

    fn change_address(&mut self, node: usize) {
        let old = self.outer[node];
        self.moved += 1;
        let new = 100 + self.moved % 100;
        self.outer[node] = new;
        let host = &self.nodes[node].host;
        host.add_address(&self.wire, new);
        host.remove_address(&self.wire, old);
    }

    fn change_nat(&mut self) {
        let old = self.nat;
        self.moved += 1;
        self.nat = 100 + self.moved % 100;
        self.router.add_address(&self.wire, self.nat);
        self.router.remove_address(&self.wire, old);
    }

    /// Writes a node's new address into all host files of it, then all read their files again.
    fn tell_address(&self, node: usize) {
        let address = self.wire.v4(self.outer[node]);
        let name = &self.nodes[node].name;
        for other in &self.nodes {
            let path = other.dir().join("hosts").join(name);
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let lines = text.lines().filter(|line| !line.starts_with("Address"));
            let rest: Vec<&str> = lines.collect();
            fs::write(&path, format!("Address = {address}\n{}\n", rest.join("\n"))).unwrap();
        }
        self.reload_all();
    }

    /// Ends a node, and takes its host file away from all others.
    fn leave(&mut self, node: usize) {
        self.nodes[node].stop();
        let name = self.nodes[node].name.clone();
        for other in self.nodes.iter().filter(|other| other.name != name) {
            let _ = fs::remove_file(other.dir().join("hosts").join(&name));
        }
        self.reload_all();
    }

    /// Gives all others a node's file, which they read, and starts it.
    fn join(&mut self, node: usize) {
        let all: Vec<&Node> = self.nodes.iter().collect();
        self.nodes[node].introduce_to(&all);
        self.reload_all();
        self.nodes[node].start();
    }

    fn reload_all(&self) {
        let running = self.nodes.iter().filter(|node| node.runs());
        running.for_each(|node| node.signal(Signal::HUP));
    }
}
