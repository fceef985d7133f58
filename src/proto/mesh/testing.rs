//! Helpers for the unit tests of the mesh: some meshes joined by lines and datagrams, in virtual
//! time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use bytes::Bytes;
use slotmap::SlotMap;
use tracing_subscriber::{layer::SubscriberExt, registry};

use meshd_crypto::{PrivateKey, Rng};
use meshd_wire::{NodeId, NodeName, Request, datagram::RelayHeader};

use crate::{
    link::{Dialect, Hello},
    mesh::{
        HookEvent, Input, LinkId, LinkReport, Mesh, Notice, Output, Punt, Settings,
        reports::facts::{DialFault, NodeFacts},
        settings::{Host, HostAddress},
    },
    route::verdict::{self, ErrorLimiter, Verdict},
};

/// A point in time from which the tests count.
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs one Instant to count from"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}

/// Settings of nodes `0..count`, which know each other's keys, addresses and subnet 10.0.0.N/32.
pub(super) fn settings(count: u8) -> Vec<Settings> {
    let mut rng = Rng::new([9; 32]);
    let keys: Vec<Arc<PrivateKey>> = (0..count)
        .map(|_| Arc::new(PrivateKey::generate(&mut rng)))
        .collect();
    let host = |n: u8| {
        let host = Host {
            key: Some(keys[usize::from(n)].public()),
            addresses: vec![HostAddress {
                host: underlay(n).ip().to_string(),
                port: 655,
            }],
            subnets: vec![format!("10.0.0.{n}").parse().unwrap()],
            ..Host::default()
        };
        (name(n), Arc::new(host))
    };
    let one = |n: u8| Settings {
        subnets: vec![format!("10.0.0.{n}").parse().unwrap()],
        hosts: (0..count).filter(|other| *other != n).map(host).collect(),
        ..Settings::new(name(n), keys[usize::from(n)].clone())
    };
    (0..count).map(one).collect()
}

/// Settings for [`Net::spoken`].
pub(super) fn ends_of_a_line(native: bool, key_expire: Duration) -> Vec<Settings> {
    let mut all = settings(3);
    for one in &mut all {
        one.native = native;
        one.key_expire = key_expire;
    }
    all[1].native = false;
    all
}

pub(super) fn name(n: u8) -> NodeName {
    NodeName::new(&format!("n{n}")).unwrap()
}

pub(super) fn underlay(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 7, n)), 655)
}

/// An IPv4 packet between the subnets of two nodes, of `length` bytes.
pub(super) fn packet(from: u8, to: u8, length: usize) -> Bytes {
    let total = u16::try_from(length.max(28)).unwrap();
    let mut packet = vec![0; usize::from(total)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[10, 0, 0, from]);
    packet[16..20].copy_from_slice(&[10, 0, 0, to]);
    packet.into()
}

/// Some meshes and the links between them. Links and datagrams deliver at once and in order.
pub(super) struct Net {
    pub meshes: Vec<Mesh>,
    pub now: Instant,
    /// (node, its link) -> (other node, its link)
    pub wires: BTreeMap<(u8, LinkId), (u8, LinkId)>,
    links: SlotMap<LinkId, ()>,
    /// Pairs of nodes between which no datagram passes.
    pub no_udp: BTreeSet<(u8, u8)>,
    /// Links that take no bytes: (node, its link).
    pub slow: BTreeSet<(u8, LinkId)>,
    /// True if all links take no bytes.
    pub all_slow: bool,
    /// Links for which room was requested: (node, its link).
    pub asked: Vec<(u8, LinkId)>,
    /// Bytes of lines sent: (node, its link).
    pub bytes: BTreeMap<(u8, LinkId), usize>,
    /// True if PONG lines are lost.
    pub hold_pongs: bool,
    /// Nodes that left their [`underlay`] address, with the new address.
    pub moved: BTreeMap<u8, SocketAddr>,
    /// Longest datagram that passes, in bytes of UDP payload.
    pub longest: usize,
    /// Packets that reached a device: (node, packet).
    pub delivered: Vec<(u8, Bytes)>,
    pub hooks: Vec<(u8, HookEvent)>,
    /// Number of lines sent.
    pub lines: usize,
    /// Number of frames that links took.
    frames: usize,
    /// True if dials are carried out.
    pub dial: bool,
    /// A node that does not show the word of a meshd.
    pub anonymous: Option<u8>,
    /// Dialect of links made from now on.
    pub dialect: Dialect,
    /// A node whose ACK has another protocol minor.
    pub ack_minor: Option<(u8, u8)>,
    /// REQ_KEY extension of lines that are lost.
    pub lost: Option<i32>,
    /// REQ_KEY and ANS_KEY lines sent: (sender, line).
    pub routed: Vec<(u8, Bytes)>,
    /// Datagrams to unused addresses: (sender, to, length, time).
    pub stray: Vec<(u8, SocketAddr, usize, Instant)>,
    /// Lines of native handshakes sent: (sender, line).
    pub native: Vec<(u8, Bytes)>,
    /// Questions and answers that arrived: (receiver, sender, content).
    pub queries: Vec<(u8, NodeName, Bytes)>,
    /// Events for the log: (node, other node, event).
    pub notices: Vec<(u8, NodeName, Notice)>,
}

impl Net {
    pub(super) fn new(settings: Vec<Settings>) -> Self {
        let now = start();
        let meshes = settings
            .into_iter()
            .zip(1..)
            .map(|(s, seed)| Mesh::new(Arc::new(s), [seed; 32], now))
            .collect();
        Self {
            meshes,
            now,
            wires: BTreeMap::new(),
            links: SlotMap::with_key(),
            no_udp: BTreeSet::new(),
            slow: BTreeSet::new(),
            all_slow: false,
            asked: Vec::new(),
            bytes: BTreeMap::new(),
            hold_pongs: false,
            moved: BTreeMap::new(),
            longest: 1472,
            delivered: Vec::new(),
            hooks: Vec::new(),
            lines: 0,
            frames: 0,
            dial: true,
            anonymous: None,
            dialect: Dialect::Native,
            ack_minor: None,
            lost: None,
            routed: Vec::new(),
            stray: Vec::new(),
            native: Vec::new(),
            queries: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Makes the index of a link that leads to no node.
    pub(super) fn new_link(&mut self) -> LinkId {
        self.links.insert(())
    }

    /// Joins two nodes by a link that `a` dialled.
    pub(super) fn join(&mut self, a: u8, b: u8) {
        let (la, lb) = (self.links.insert(()), self.links.insert(()));
        self.wires.insert((a, la), (b, lb));
        self.wires.insert((b, lb), (a, la));
        for (me, link, other, outgoing) in [(a, la, b, true), (b, lb, a, false)] {
            let hello = Hello {
                name: name(other),
                minor: 7,
                dialect: self.dialect,
                outgoing,
                started: self.now,
            };
            let remote = if outgoing {
                underlay(other)
            } else {
                SocketAddr::new(underlay(other).ip(), 40_000)
            };
            self.input(
                me,
                Input::Link(LinkReport::Up {
                    link,
                    hello,
                    remote,
                    local: underlay(me),
                }),
            );
        }
        self.settle();
    }

    /// The link of a node to another.
    pub(super) fn link_of(&self, a: u8, b: u8) -> &LinkId {
        let mut wires = self.wires.iter();
        let found = wires.find(|((from, _), (to, _))| (*from, *to) == (a, b));
        let ((_, link), _) = found.unwrap();
        link
    }

    fn address(&self, n: u8) -> SocketAddr {
        self.moved.get(&n).copied().unwrap_or_else(|| underlay(n))
    }

    /// Cuts every link between two nodes.
    pub(super) fn part(&mut self, a: u8, b: u8) {
        let cut: Vec<_> = self
            .wires
            .iter()
            .filter(|((from, _), (to, _))| (*from, *to) == (a, b))
            .map(|(x, y)| (*x, *y))
            .collect();
        for ((a, la), (b, lb)) in cut {
            self.wires.remove(&(a, la));
            self.wires.remove(&(b, lb));
            self.input(
                a,
                Input::Link(LinkReport::Down {
                    link: la,
                    why: "cut".into(),
                }),
            );
            self.input(
                b,
                Input::Link(LinkReport::Down {
                    link: lb,
                    why: "cut".into(),
                }),
            );
        }
        self.settle();
    }

    pub(super) fn input(&mut self, node: u8, input: Input) {
        let now = self.now;
        self.meshes[usize::from(node)].handle(input, now);
    }

    /// Drains outputs until no node has any at this time.
    pub(super) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for n in 0..self.meshes.len() {
                let now = self.now;
                self.meshes[n].settle_all(now);
                while let Some(output) = self.meshes[n].poll_output() {
                    quiet = false;
                    self.carry_out(u8::try_from(n).unwrap(), output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, me: u8, output: Output) {
        match output {
            Output::SendLine { to, mut line } => {
                self.lines += 1;
                *self.bytes.entry((me, to)).or_default() += line.len();
                if self.hold_pongs && *line == *b"9" {
                    return;
                }
                if line.starts_with(b"15 ") || line.starts_with(b"16 ") {
                    self.routed.push((me, line.clone()));
                }
                if let Some(ext) = native_extension(&line) {
                    self.native.push((me, line.clone()));
                    if self.lost == Some(ext) {
                        return;
                    }
                }
                if let Some((_, minor)) = self.ack_minor.filter(|(node, _)| *node == me)
                    && let Ok(Request::Ack {
                        port,
                        weight,
                        options,
                    }) = Request::parse(&line)
                {
                    let options = options.with_minor(minor);
                    let ack = Request::Ack {
                        port,
                        weight,
                        options,
                    };
                    line = ack.line(0).into();
                }
                if self.anonymous == Some(me) && line.ends_with(b" meshd") {
                    line.truncate(line.len() - b" meshd".len());
                }
                if let Some((node, link)) = self.wires.get(&(me, to)).copied() {
                    self.input(node, Input::Link(LinkReport::Line { link, line }));
                }
            }
            Output::SendFrame { to, frame } => {
                self.frames += 1;
                assert!(self.frames < 10_000, "frames go in circles");
                if let Some((node, link)) = self.wires.get(&(me, to)).copied() {
                    self.input(node, Input::Link(LinkReport::Frame { link, frame }));
                }
            }
            Output::SendRelayed { to, datagram } => {
                if let Some((node, link)) = self.wires.get(&(me, to)).copied() {
                    self.input(node, Input::Link(LinkReport::Relayed { link, datagram }));
                }
            }
            Output::Datagram { to, datagram } => {
                let hit = (0..self.meshes.len())
                    .map(|n| u8::try_from(n).unwrap())
                    .find(|n| self.address(*n) == to);
                if hit.is_none() {
                    self.stray.push((me, to, datagram.len(), self.now));
                }
                if let Some(node) = hit
                    && !self.no_udp.contains(&(me, node))
                    && !self.no_udp.contains(&(node, me))
                    && datagram.len() <= self.longest
                {
                    let punt = self.as_worker(node, self.address(me), datagram);
                    self.input(node, Input::Punt(punt));
                }
            }
            Output::TunWrite(packet) => self.delivered.push((me, packet)),
            Output::Dial { node, addr } => {
                let other = (0..self.meshes.len())
                    .map(|n| u8::try_from(n).unwrap())
                    .find(|n| name(*n) == node && underlay(*n) == addr);
                match other.filter(|_| self.dial) {
                    Some(other) => self.join(me, other),
                    None => self.input(
                        me,
                        Input::Link(LinkReport::DialFailed {
                            node,
                            addr,
                            fault: DialFault::Refused,
                            why: "refused".into(),
                        }),
                    ),
                }
            }
            Output::Close { link, .. } => {
                if let Some((node, other)) = self.wires.remove(&(me, link)) {
                    self.wires.remove(&(node, other));
                    self.input(
                        node,
                        Input::Link(LinkReport::Down {
                            link: other,
                            why: "closed".into(),
                        }),
                    );
                }
            }
            Output::AskRoom { link } => match self.all_slow || self.slow.contains(&(me, link)) {
                true => self.asked.push((me, link)),
                false => self.input(me, Input::Link(LinkReport::Room { link })),
            },
            Output::AskPathMtu { to } => self.input(me, Input::PathMtu { to, mtu: 1500 }),
            Output::Hook(hook) => self.hooks.push((me, hook)),
            Output::Resolve { .. }
            | Output::CancelDial { .. }
            | Output::Remember { .. }
            | Output::Seen { .. }
            | Output::Pong { .. }
            | Output::Publish(_) => {}
            Output::Notice { node, notice } => self.notices.push((me, node, notice)),
            Output::Query { node, data } => self.queries.push((me, node, data)),
        }
    }

    /// Three nodes in a line, 0 - 1 - 2. The middle node looks like a stock tincd; the ends have
    /// exchanged packets.
    pub(super) fn spoken(all: Vec<Settings>) -> Self {
        let mut net = Self::new(all);
        net.join(0, 1);
        net.join(1, 2);
        net.run(Duration::from_secs(1));
        net.send(0, 2, 100);
        net.run(Duration::from_secs(4));
        net
    }

    /// Row of node `of` at node `at`.
    pub(super) fn row(&self, at: u8, of: u8) -> NodeFacts {
        let rows = self.meshes[usize::from(at)].peers(self.now);
        let row = rows.into_iter().find(|row| row.name == name(of));
        row.unwrap()
    }

    /// Dialect of the tunnel between `at` and `of`.
    pub(super) fn protocol(&self, at: u8, of: u8) -> &'static str {
        crate::dialect::word(self.row(at, of).tunnel.protocol)
    }

    /// Sends any line from `from` to its neighbour `to`.
    pub(super) fn says(&mut self, from: u8, to: u8, line: Bytes) {
        let mut links = self.wires.iter();
        let (_, (_, link)) = links
            .find(|((end, _), (other, _))| (*end, *other) == (from, to))
            .unwrap();
        let link = *link;
        self.input(to, Input::Link(LinkReport::Line { link, line }));
    }

    /// Returns the punt of a worker for a datagram: one from a confirmed address may be a relay
    /// datagram.
    fn as_worker(&self, node: u8, from: SocketAddr, datagram: Bytes) -> Punt {
        let snapshot = self.meshes[usize::from(node)].snapshot();
        let header = RelayHeader::parse(&datagram).filter(|header| header.to != NodeId::DIRECT);
        let ends = header.and_then(|header| {
            let find = |id| snapshot.idx_of(*snapshot.by_id.get(&id)?);
            Some((find(header.to)?, find(header.from)?))
        });
        let by = snapshot.by_addr.get(&from);
        match ends.zip(by.and_then(|by| snapshot.idx_of(*by))) {
            Some(((to, from), by)) => Punt::Relay {
                to,
                from,
                by,
                datagram: datagram.slice(12..),
            },
            None => Punt::Datagram { from, datagram },
        }
    }

    /// Advances the time, timer by timer.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let next = self
                .meshes
                .iter()
                .filter_map(|mesh| mesh.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = at.max(self.now);
            for n in 0..self.meshes.len() {
                if self.meshes[n]
                    .poll_timeout()
                    .is_some_and(|(at, _)| at <= self.now)
                {
                    self.input(u8::try_from(n).unwrap(), Input::Timeout);
                }
            }
        }
    }

    /// Sends a packet from a node's device, as a worker without a fast path would.
    pub(super) fn send(&mut self, from: u8, to: u8, length: usize) {
        let now = self.now;
        let mesh = &mut self.meshes[usize::from(from)];
        let mut packet = packet(from, to, length).to_vec();
        let snapshot = mesh.snapshot();
        let mut limiter = ErrorLimiter::default();
        let verdict = verdict::decide(&snapshot, &mut packet, snapshot.me, &mut limiter, now);
        let (to, packets) = match verdict {
            Verdict::Send(to) => (to, vec![packet]),
            Verdict::Fragments(to, pieces) => (to, pieces),
            _ => return,
        };
        let to = snapshot.idx_of(to).unwrap();
        for packet in packets {
            let packet = packet.into();
            self.input(from, Input::Punt(Punt::Packet { to, packet }));
        }
        self.settle();
    }

    /// Bytes of lines that one node has sent to another.
    pub(super) fn sent_to(&self, from: u8, to: u8) -> usize {
        let ends = self.wires.iter();
        let mut links = ends.filter(|((a, _), (b, _))| (*a, *b) == (from, to));
        links
            .next()
            .map_or(0, |(end, _)| self.bytes.get(end).copied().unwrap_or(0))
    }

    /// Grants room to all links that requested it.
    pub(super) fn give_room(&mut self) {
        while let Some((node, link)) = self.asked.pop() {
            self.input(node, Input::Link(LinkReport::Room { link }));
            self.settle();
        }
    }

    /// Returns true if a node reaches `others` nodes.
    pub(super) fn all_reach(&self, at: u8, others: usize) -> bool {
        let rows = self.meshes[usize::from(at)].peers(self.now);
        rows.iter().filter(|row| row.up).count() == others
    }

    /// Returns true if every node reaches every other.
    pub(super) fn all_reach_all(&self) -> bool {
        self.meshes.iter().all(|mesh| {
            mesh.peers(self.now).iter().filter(|row| row.up).count() == self.meshes.len() - 1
        })
    }
}

/// Extension of a REQ_KEY line that belongs to a native handshake.
fn native_extension(line: &[u8]) -> Option<i32> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("15 ")?;
    let ext: i32 = line.split(' ').nth(2)?.parse().ok()?;
    (32..=35).contains(&ext).then_some(ext)
}

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Log lines for the operator during `act`. All tests share one subscriber: the output of a scoped
/// one depends on other threads.
pub(super) fn lines_of(act: impl FnOnce()) -> Vec<String> {
    struct Layer;
    struct Text<'a>(&'a mut String);
    impl tracing::field::Visit for Text<'_> {
        fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0.push_str(&format!("{value:?} "));
        }
    }
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Layer {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            LINES.with_borrow_mut(|lines| {
                if let Some(lines) = lines {
                    let mut line = String::new();
                    event.record(&mut Text(&mut line));
                    lines.push(line);
                }
            });
        }
    }
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(registry().with(Layer)).expect("the only one");
    });
    LINES.set(Some(Vec::new()));
    act();
    LINES.take().unwrap_or_default()
}
