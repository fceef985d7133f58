//! Parts shared by the benches and the allocation test: two nodes made by hand, and a sink like the worker's.
#![allow(dead_code, reason = "each program uses its part")]

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use meshd_crypto::{
    PrivateKey, Rng,
    noise::{StaticPublic, StaticSecret},
    seal::Aeads,
};
use meshd_dataplane::{
    fastpath::{Sink, Step, runs::Runs},
    io::vnet::{
        Checksums, Coalescer, Gso, GsoKind, Header, MAX_LINK_HEADER, MAX_PACKET, Segments,
        Unfinished,
    },
};
use meshd_os::clock;
use meshd_proto::{
    dialect::Dialect,
    mesh::event::Punt,
    route::{
        DropReason, ETHER, MTU, Mode, NodeIdx, NodeShared, NodeSlot, NodeState, RouteSnapshot,
        lpm::{Owner, Route, Table},
        source::Claims,
        switch::{MacEntry, MacTable},
        verdict::ErrorLimiter,
    },
    tunnel::{
        Tunnel, TunnelSetup, TxKey,
        native::{self, Session, Setup},
    },
};
use meshd_wire::{NodeId, NodeName, Options, Prefix, datagram::RelayHeader, ether::Mac};

/// Ourselves, and the other node.
pub(crate) const ME: NodeSlot = NodeSlot(0);
pub(crate) const PEER: NodeSlot = NodeSlot(1);
/// Prefixes in every table.
pub(crate) const PREFIXES: u32 = 2_000;
/// Ethernet addresses behind us and behind the other node.
const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// Payload of a TCP segment of 1,400 bytes, in bytes.
const SEGMENT: usize = 1_360;

/// Key that seals packets between the two.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys {
    /// Records of tinc 1.1.
    Sptps,
    /// Native packets, AES-256-GCM.
    Native,
}

impl Keys {
    pub(crate) const ALL: [Self; 2] = [Self::Sptps, Self::Native];
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a good name")
}

/// Both ends of an established tunnel of tinc 1.1.
pub(crate) fn sptps_tunnel() -> (Tunnel, Tunnel) {
    let mut rng = Rng::new([1; 32]);
    let keys = [(); 2].map(|()| PrivateKey::generate(&mut rng));
    let setup = |ours: usize, names: [&str; 2]| TunnelSetup {
        key: Arc::new(keys[ours].clone()),
        name: name(names[0]),
        peer: name(names[1]),
        peer_key: keys[1 - ours].public(),
        next_key: None,
        replay_window: 128,
        compression: 0,
    };
    let (mut ours, kex) = Tunnel::initiate(setup(0, ["n0", "n1"]), &mut rng);
    let (mut theirs, answer) =
        Tunnel::respond(setup(1, ["n1", "n0"]), &kex, &mut rng).expect("a good KEX");
    let mut to_us = vec![answer];
    while !to_us.is_empty() {
        let mut receive = |end: &mut Tunnel, messages: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            let answers = messages.iter();
            answers
                .flat_map(|message| end.receive(message, &mut rng).expect("a good message"))
                .collect()
        };
        let to_them = receive(&mut ours, to_us);
        to_us = receive(&mut theirs, to_them);
    }
    (ours, theirs)
}

/// Both ends of a native session.
pub(crate) fn native_session() -> (Session, Session) {
    let mut rng = Rng::new([1; 32]);
    let keys = [(); 2].map(|()| PrivateKey::generate(&mut rng));
    let setup = |ours: usize, names: [&str; 2]| Setup {
        secret: Arc::new(StaticSecret::of(&keys[ours])),
        name: name(names[0]),
        peer: name(names[1]),
        peer_keys: vec![StaticPublic::of(&keys[1 - ours].public())],
        psk: [0; 32],
        aeads: Aeads::ALL,
    };
    let [ours, theirs] = [PEER, ME].map(|idx| 7 << NodeSlot::SESSION_BITS | idx.0);
    let (asking, first) =
        native::ask(&setup(0, ["n0", "n1"]), ours, 0, &mut rng).expect("a node with a key");
    let (answered, second) = native::answer(&setup(1, ["n1", "n0"]), theirs, &first, &mut rng)
        .expect("a good first message");
    let asked = asking.answered(&second).ok().expect("a good answer");
    (asked, answered)
}

/// 10.0.0.0/24 is ours, all other prefixes (10.0.1.0/24 and up) are the other node's.
pub(crate) fn table() -> Table<u32> {
    Table::new((0..PREFIXES).map(|n| Route {
        addr: (10 << 24) | (n << 8),
        len: 24,
        owner: Owner::Node(if n == 0 { ME } else { PEER }),
    }))
}

/// A TCP super-packet of 48 segments of 1,400 bytes from our net to the other node's, or (`inbound`) back.
pub(crate) fn super_packet(inbound: bool) -> (Header, Vec<u8>) {
    let length = 40 + 48 * SEGMENT;
    let (ours, theirs) = ([10, 0, 0, 5], [10, 4, 1, 7]);
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(
        if inbound {
            [theirs, ours]
        } else {
            [ours, theirs]
        }
        .concat(),
    );
    // Ports 40000 to 22, the numbers, 20 bytes of header, ACK, window; the checksum is the segmenter's.
    packet.extend([0x9c, 0x40, 0, 22, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.extend([0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.resize(length, 7);
    let header = Header {
        unfinished: Some(Unfinished {
            start: 20,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            size: SEGMENT as u16,
            header_len: 40,
            ecn: false,
        }),
    };
    (header, packet)
}

/// The segments of [`super_packet`], each of 1,400 bytes with right checksums.
pub(crate) fn packets(inbound: bool) -> Vec<Vec<u8>> {
    let (header, packet) = super_packet(inbound);
    let mut segments = Segments::new(&header, &packet, 0).expect("a good super-packet");
    let mut packets = Vec::new();
    while let Some(length) = segments.next_len() {
        let mut segment = vec![0; length];
        segments.next_into(&mut segment);
        packets.push(segment);
    }
    packets
}

/// A packet as it is carried in a mode: from us to the other node, or (`inbound`) back.
fn carried(mode: Mode, inbound: bool, packet: &[u8]) -> Vec<u8> {
    let [from, to] = if inbound { [MACS[1], MACS[0]] } else { MACS };
    match mode {
        Mode::Router => packet.to_vec(),
        Mode::Switch | Mode::Hub => [&to[..], &from, &[8, 0], packet].concat(),
    }
}

/// [`packets`] as they are carried in a mode.
pub(crate) fn carried_packets(mode: Mode, inbound: bool) -> Vec<Vec<u8>> {
    let packets = packets(inbound);
    let packets = packets.iter();
    packets
        .map(|packet| carried(mode, inbound, packet))
        .collect()
}

/// [`super_packet`] to the other node, as it is carried in a mode.
pub(crate) fn carried_super(mode: Mode) -> (Header, Vec<u8>) {
    let (mut header, packet) = super_packet(false);
    if let Some(unfinished) = header.unfinished.as_mut() {
        unfinished.start += mode.frame_len(0).abs_diff(ETHER) as u16;
    }
    (header, carried(mode, false, &packet))
}

/// The [`Sink`] of a worker without sockets and device. Runs and super-packets gather, and are dropped
/// where a worker would pass them to the kernel.
pub(crate) struct Gathering {
    mode: Mode,
    runs: Runs,
    coalescer: Coalescer,
    /// Datagrams sent, packets delivered, and what went any other way.
    pub(crate) counts: [usize; 3],
}

impl Gathering {
    /// The worker's actions at the end of a batch.
    pub(crate) fn flush(&mut self) {
        self.runs.flush(|run| {
            black_box(run.data());
        });
        self.coalescer.flush(|header, packet| {
            black_box((header, packet));
        });
    }
}

impl Sink for Gathering {
    fn datagram(&mut self, to: SocketAddr, most: usize, length: usize) -> &mut [u8] {
        self.counts[0] += 1;
        if self.runs.is_full() {
            self.runs.flush(|run| {
                black_box(run.data());
            });
        }
        self.runs.push(to, 0, most, length)
    }

    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums) {
        self.counts[1] += 1;
        let write = |header: &Header, packet: &[u8]| {
            black_box((header, packet));
        };
        self.coalescer
            .push(packet, self.mode.ip_at(packet), checksums, write);
    }

    fn park(&mut self, _: NodeIdx, _: &[u8]) {
        self.counts[2] += 1;
    }

    fn punt(&mut self, _: Punt) {
        self.counts[2] += 1;
    }

    fn dropped(&mut self, _: DropReason) {
        self.counts[2] += 1;
    }
}

/// The packet path of a node with one neighbour, reached by UDP.
pub(crate) struct Path {
    pub(crate) snapshot: RouteSnapshot,
    pub(crate) sink: Gathering,
    limiter: ErrorLimiter,
    now: Instant,
    scratch: Vec<u8>,
    from: SocketAddr,
    their_id: NodeId,
    their_key: Arc<TxKey>,
}

impl Path {
    pub(crate) fn new(keys: Keys) -> Self {
        Self::in_mode(keys, Mode::Router)
    }

    pub(crate) fn in_mode(keys: Keys, mode: Mode) -> Self {
        let (tx, rx, their_key) = match keys {
            Keys::Sptps => {
                let (ours, theirs) = sptps_tunnel();
                (ours.tx(), ours.rx(), theirs.tx())
            }
            Keys::Native => {
                let (ours, theirs) = native_session();
                (Some(ours.tx), vec![ours.rx], Some(theirs.tx))
            }
        };
        let from = SocketAddr::from(([192, 0, 2, 1], 655));
        let state = |idx: NodeSlot| NodeState {
            dialect: tx.as_ref().map_or(Dialect::Sptps, |tx| tx.dialect()),
            reachable: true,
            neighbour: idx == PEER,
            options: Options(0x0700_0000 | Options::PMTU_DISCOVERY | Options::CLAMP_MSS),
            nexthop: idx,
            via: idx,
            udp: (idx == PEER).then_some(from),
            min_mtu: 1_472,
            mtu: MTU,
            tx: tx.clone().filter(|_| idx == PEER),
            paused: false,
            rx: if idx == PEER { rx.clone() } else { Vec::new() },
        };
        let shared = |idx: NodeSlot| {
            let name = name(&format!("n{}", idx.0));
            Arc::new(NodeShared::new(NodeIdx::of_slot(idx), name, state(idx)))
        };
        let peer = shared(PEER);
        let their_id = peer.id;
        let mut snapshot = RouteSnapshot::empty(shared(ME));
        snapshot.nodes.push(Some(peer));
        snapshot.v4 = table();
        let claims = Claims {
            announced: vec![Prefix::V4(Ipv4Addr::new(10, 0, 0, 0), 8)],
            undivided: true,
            ..Claims::default()
        };
        snapshot.sources = vec![Claims::default(), claims];
        snapshot.by_id.insert(their_id, PEER);
        snapshot.by_addr.insert(from, PEER);
        snapshot.settings.mode = mode;
        snapshot.broadcast = vec![PEER];
        let entry = |(mac, owner): (Mac, NodeSlot)| MacEntry {
            mac,
            owner,
            sighting: (owner == ME).then(Arc::default),
        };
        let owners = MACS.into_iter().zip([ME, PEER]);
        snapshot.macs = MacTable::new(owners.map(entry).collect());
        Self {
            snapshot,
            sink: Gathering {
                mode,
                runs: Runs::default(),
                coalescer: Coalescer::new(true),
                counts: [0; 3],
            },
            limiter: ErrorLimiter::default(),
            now: clock::now(),
            scratch: vec![0; MAX_PACKET + MAX_LINK_HEADER],
            from,
            their_id,
            their_key: their_key.expect("an established tunnel"),
        }
    }

    fn step(&mut self) -> (Step<'_, Gathering>, &mut [u8]) {
        let (tables, limiter) = (&self.snapshot, &mut self.limiter);
        let step = Step::new(tables, &mut self.sink, limiter, self.now);
        (step, &mut self.scratch)
    }

    /// [`Step::from_device`].
    pub(crate) fn send(&mut self, packet: &mut [u8]) {
        self.step().0.from_device(packet);
    }

    /// [`Step::from_device_super`].
    pub(crate) fn send_super(&mut self, header: &Header, packet: &mut [u8]) {
        let (mut step, scratch) = self.step();
        step.from_device_super(header, packet, scratch);
    }

    /// [`Step::from_network`], from the other node.
    pub(crate) fn receive(&mut self, datagram: &mut [u8]) {
        let (from, length) = (self.from, datagram.len());
        self.step().0.from_network(from, datagram, length);
    }

    /// Makes `datagram` the next one of the other node, around `packet`.
    pub(crate) fn seal(&self, packet: &[u8], datagram: &mut Vec<u8>) {
        datagram.clear();
        if self.their_key.caps().direct_ids {
            let (to, from) = (NodeId::DIRECT, self.their_id);
            datagram.extend(RelayHeader { to, from }.to_bytes());
        }
        let ids = datagram.len();
        let data = ids + self.their_key.head();
        datagram.resize(ids + self.their_key.overhead() + packet.len(), 0);
        datagram[data..data + packet.len()].copy_from_slice(packet);
        let number = self.their_key.claim(1).expect("numbers enough");
        let kind = self.sink.mode.record_type();
        self.their_key.seal(number, kind, &mut datagram[ids..]);
    }
}
