//! The simulated network for datagrams and streams: latency, loss, copies, partitions, blocked UDP,
//! narrow paths and NATs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use meshd_crypto::Rng;

use crate::plan::{self, PORT, Plan};

/// Largest UDP payload of a node's own interface, in bytes: an MTU of 1,500.
pub const LONGEST: usize = 1472;
/// Longest extra time of a segment above the path's latency. With it the weight of a link usually
/// changes when the link comes back.
const TCP_JITTER: Duration = Duration::from_millis(5);
/// First port of a NAT.
const FIRST_NAT_PORT: u16 = 20_000;

/// The network between the nodes. Public fields may be changed at any time.
pub struct Net {
    rng: Rng,
    seed: u64,
    /// Lost datagrams per million; a lost segment of TCP is late.
    pub loss_ppm: u32,
    /// Datagrams per million that arrive twice.
    pub copies_ppm: u32,
    /// Longest extra time of a datagram above the path's latency, random for each one.
    pub jitter: Duration,
    /// Side of each node: nodes of different sides exchange nothing.
    sides: Vec<usize>,
    /// Sender and receiver, where nothing passes from the first to the second.
    one_way: BTreeSet<(usize, usize)>,
    /// Nodes whose daemon could not bind its sockets.
    unbound: BTreeSet<usize>,
    /// How often each node got a new public address.
    moves: Vec<u8>,
    /// Pairs without UDP, lower number first.
    no_udp: BTreeSet<(usize, usize)>,
    /// Pairs without TCP, lower number first.
    no_tcp: BTreeSet<(usize, usize)>,
    /// Longest UDP payload of pairs where it is less than [`LONGEST`], lower number first.
    narrow: BTreeMap<(usize, usize), usize>,
    nats: Vec<Option<Nat>>,
    /// Answers of the name server, by host name.
    pub names: BTreeMap<String, IpAddr>,
}

/// A NAT in front of one node: one port per socket, and replies only from addresses that the socket
/// sent to.
struct Nat {
    next: u16,
    /// Public port by private port.
    out: BTreeMap<u16, u16>,
    /// Private port and permitted sources by public port.
    back: BTreeMap<u16, (u16, BTreeSet<SocketAddr>)>,
}

/// One copy of a datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Receiving node.
    pub(super) node: usize,
    /// Source address in the view of that node.
    pub(super) from: SocketAddr,
    /// Time until the arrival.
    pub(super) after: Duration,
}

/// Result of a TCP connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Reaches the listening socket of a node.
    Node(usize),
    /// Reaches a host that rejects it.
    Refused,
    /// Reaches no host: the attempt times out.
    Nowhere,
}

impl Net {
    /// Makes the network of a plan, without faults.
    pub(super) fn new(plan: &Plan) -> Self {
        let nat = |node| plan.is_behind_nat(node).then(Nat::new);
        Self {
            rng: Rng::new(plan.seed_for("net", 0)),
            seed: plan.seed,
            loss_ppm: 0,
            copies_ppm: 0,
            jitter: Duration::ZERO,
            sides: vec![0; plan.nodes],
            one_way: BTreeSet::new(),
            unbound: BTreeSet::new(),
            moves: vec![0; plan.nodes],
            no_udp: BTreeSet::new(),
            no_tcp: BTreeSet::new(),
            narrow: BTreeMap::new(),
            names: BTreeMap::new(),
            nats: (0..plan.nodes).map(nat).collect(),
        }
    }

    /// Separates these nodes from all others, and from nodes separated before.
    pub fn put_apart(&mut self, nodes: &[usize]) {
        let side = self.sides.iter().max().map_or(1, |side| side + 1);
        for node in nodes {
            self.sides[*node] = side;
        }
    }

    pub(super) fn join_all(&mut self) {
        self.no_tcp.clear();
        self.one_way.clear();
        self.narrow.clear();
        self.sides.fill(0);
    }

    /// Drops everything from one node to another; the other direction passes.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.one_way.insert((from, to));
    }

    /// Sets whether a node has its sockets. Without them it can only dial.
    pub fn set_bound(&mut self, node: usize, bound: bool) {
        if bound {
            self.unbound.remove(&node);
        } else {
            self.unbound.insert(node);
        }
    }

    /// Gives a node another public address: its own one, or that of its NAT. Connections over the
    /// old address carry nothing any more.
    pub fn change_address(&mut self, node: usize) {
        self.moves[node] += 1;
        self.rebind(node);
    }

    /// Public address of a node: its own, or that of its NAT.
    pub(super) fn public_ip(&self, node: usize) -> IpAddr {
        plan::public_ip_after(node, self.moves[node])
    }

    /// Returns how often these nodes got a new public address.
    pub(super) fn moves(&self, nodes: [usize; 2]) -> [u8; 2] {
        nodes.map(|node| self.moves[node])
    }

    /// Returns true if a node accepts connections.
    pub(super) fn is_bound(&self, node: usize) -> bool {
        !self.unbound.contains(&node)
    }

    /// Blocks or unblocks UDP between two nodes.
    pub fn block_udp(&mut self, a: usize, b: usize, blocked: bool) {
        if blocked {
            self.no_udp.insert(pair(a, b));
        } else {
            self.no_udp.remove(&pair(a, b));
        }
    }

    /// Stops TCP between two nodes silently; datagrams pass.
    pub fn block_tcp(&mut self, a: usize, b: usize) {
        self.no_tcp.insert(pair(a, b));
    }

    /// Silently drops datagrams between two nodes that are longer than `longest` bytes.
    pub fn narrow(&mut self, a: usize, b: usize, longest: usize) {
        self.narrow.insert(pair(a, b), longest);
    }

    /// Resets a node's NAT: its next datagrams come from new ports.
    pub fn rebind(&mut self, node: usize) {
        if let Some(nat) = &mut self.nats[node] {
            *nat = Nat {
                next: nat.next + 1000,
                ..Nat::new()
            };
        }
    }

    /// Returns true if two nodes exchange nothing.
    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.sides[a] != self.sides[b]
    }

    /// Returns true if nothing passes from one node to another, of TCP at least.
    pub(super) fn is_way_cut(&self, from: usize, to: usize) -> bool {
        self.is_tcp_cut(from, to) || self.one_way.contains(&(from, to))
    }

    /// Returns true if two nodes exchange no TCP.
    pub(super) fn is_tcp_cut(&self, a: usize, b: usize) -> bool {
        self.is_cut(a, b) || self.no_tcp.contains(&pair(a, b))
    }

    /// Returns the arrivals of a datagram that `from` sends.
    pub(super) fn datagram(&mut self, from: usize, to: SocketAddr, length: usize) -> Vec<Arrival> {
        let source = self.translate_out(from, to);
        let Some(node) = self.translate_in(source, to) else {
            return Vec::new();
        };
        let path = pair(from, node);
        let too_long = self
            .narrow
            .get(&path)
            .is_some_and(|longest| length > *longest);
        let bound = self.is_bound(from) && self.is_bound(node);
        let cut = self.is_cut(from, node) || self.one_way.contains(&(from, node));
        if cut || !bound || self.no_udp.contains(&path) || too_long {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.chance(self.copies_ppm));
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            if !self.chance(self.loss_ppm) {
                let after = self.latency(from, node) + self.some(self.jitter);
                arrivals.push(Arrival {
                    node,
                    from: source,
                    after,
                });
            }
        }
        arrivals
    }

    fn translate_out(&mut self, from: usize, to: SocketAddr) -> SocketAddr {
        let port = match &mut self.nats[from] {
            Some(nat) => nat.send(PORT, to),
            None => PORT,
        };
        SocketAddr::new(self.public_ip(from), port)
    }

    fn translate_in(&self, from: SocketAddr, to: SocketAddr) -> Option<usize> {
        let node = self.owner(to.ip())?;
        let admitted = match &self.nats[node] {
            Some(nat) => nat.admits(from, to.port()),
            None => to.port() == PORT,
        };
        admitted.then_some(node)
    }

    /// Returns the node with this public address, regardless of ports.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<usize> {
        let IpAddr::V4(v4) = ip else { return None };
        let [_, _, high, low] = v4.octets();
        let node = usize::from(u16::from_be_bytes([high, low])).checked_sub(1)?;
        (node < self.sides.len() && self.public_ip(node) == ip).then_some(node)
    }

    /// Returns the result of a TCP connection attempt from `from`.
    pub(super) fn connect(&self, from: usize, to: SocketAddr) -> Target {
        match self.owner(to.ip()) {
            None => Target::Nowhere,
            Some(node) if self.is_way_cut(from, node) || self.is_way_cut(node, from) => {
                Target::Nowhere
            }
            Some(node) if !self.is_bound(node) => Target::Refused,
            Some(node) if self.nats[node].is_some() || to.port() != PORT => Target::Refused,
            Some(node) => Target::Node(node),
        }
    }

    /// Returns the time of a segment between two nodes; a lost segment is sent again after a while.
    pub(super) fn segment(&mut self, a: usize, b: usize) -> Duration {
        let mut after = self.latency(a, b) + self.some(TCP_JITTER);
        let mut again = Duration::from_millis(200);
        while self.chance(self.loss_ppm) && again < Duration::from_secs(60) {
            after += again;
            again *= 2;
        }
        after
    }

    /// Returns the one-way latency between two nodes: 1 to 60 ms, constant for a pair.
    pub(super) fn latency(&self, a: usize, b: usize) -> Duration {
        let (a, b) = pair(a, b);
        let mut hash = self.seed ^ (a as u64) << 32 ^ b as u64;
        // splitmix64: any mixing of the bits is suitable.
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros(1000 + (hash ^ hash >> 31) % 59_000)
    }

    fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.rng.below(1_000_000) < ppm
    }

    pub(super) fn some(&mut self, most: Duration) -> Duration {
        let micros = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
        Duration::from_micros(u64::from(self.rng.below(micros + 1)))
    }
}

impl Nat {
    fn new() -> Self {
        Self {
            next: FIRST_NAT_PORT,
            out: BTreeMap::new(),
            back: BTreeMap::new(),
        }
    }

    /// Returns the public port for datagrams from the private `port` to `to`.
    fn send(&mut self, port: u16, to: SocketAddr) -> u16 {
        let next = &mut self.next;
        let public = *self.out.entry(port).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.back
            .entry(public)
            .or_insert_with(|| (port, BTreeSet::new()))
            .1
            .insert(to);
        public
    }

    fn admits(&self, from: SocketAddr, port: u16) -> bool {
        self.back
            .get(&port)
            .is_some_and(|(_, permitted)| permitted.contains(&from))
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fidelity;

    fn net() -> Net {
        Net::new(&Plan {
            behind_nat: 1,
            ..Plan::new(7, 3, Fidelity::Lines)
        })
    }

    fn socket(node: usize) -> SocketAddr {
        SocketAddr::new(plan::public_ip(node), PORT)
    }

    #[test]
    fn a_nat_admits_only_those_whom_its_node_wrote_to() {
        let mut net = net();
        assert!(net.datagram(0, socket(2), 9).is_empty());
        let out = net.datagram(2, socket(0), 9)[0];
        assert_ne!(out.from.port(), PORT);
        assert_eq!(net.datagram(0, out.from, 9)[0].node, 2);
        assert!(
            net.datagram(1, out.from, 9).is_empty(),
            "1 was not written to"
        );
        net.rebind(2);
        assert!(net.datagram(0, out.from, 9).is_empty());
        assert_ne!(net.datagram(2, socket(0), 9)[0].from, out.from);
    }

    #[test]
    fn partitions_blocks_and_narrow_paths_stop_what_they_should() {
        let mut net = net();
        net.narrow(0, 1, 1000);
        assert_eq!(net.datagram(1, socket(0), 1000).len(), 1);
        assert!(net.datagram(1, socket(0), 1001).is_empty());
        net.block_udp(1, 0, true);
        assert!(net.datagram(0, socket(1), 1).is_empty());
        assert_eq!(net.connect(0, socket(1)), Target::Node(1));
        net.put_apart(&[1]);
        assert_eq!(net.connect(0, socket(1)), Target::Nowhere);
        net.join_all();
        assert_eq!(
            net.connect(0, socket(2)),
            Target::Refused,
            "it is behind a NAT"
        );
    }

    #[test]
    fn losses_and_copies_come_as_often_as_asked() {
        let mut net = net();
        (net.loss_ppm, net.copies_ppm) = (500_000, 1_000_000);
        let arrived: usize = (0..1000).map(|_| net.datagram(0, socket(1), 9).len()).sum();
        assert!((900..1100).contains(&arrived), "{arrived}");
    }
}
