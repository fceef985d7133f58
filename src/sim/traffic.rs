//! Packets between devices, with the checks on each: delivered only to the owner of its address, at
//! most once, unchanged. No sequence number of a tunnel is sent twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use meshd_proto::{
    dialect::Dialect,
    route::RouteSnapshot,
    tunnel::{TxKey, native},
};
use meshd_wire::NodeId;

use crate::plan;

/// Source and destination port that distinguish our packets from the routers' error replies.
const PORTS: [u8; 4] = [0x4d, 0x53, 0x4d, 0x53];
/// Position of the packet's number.
const NUMBER: std::ops::Range<usize> = 28..36;

/// Destination of broadcasts.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// Number of remembered sending keys of a pair, besides the newest.
const KEYS: usize = 5;

/// All packets of a run.
#[derive(Default)]
pub(super) struct Traffic {
    sent: BTreeMap<u64, Sent>,
    count: u64,
    /// Last packet for which losses were counted.
    counted: u64,
    delivered: BTreeSet<u64>,
    /// Receivers of each broadcast, with its sender from the start.
    to_all: BTreeMap<u64, BTreeSet<usize>>,
    keys: BTreeMap<(usize, NodeId), Vec<Key>>,
    /// Number of times that each datagram was forwarded, by its hash.
    relayed: BTreeMap<u64, usize>,
    failure: Option<String>,
}

struct Sent {
    from: usize,
    to: usize,
    packet: Vec<u8>,
}

/// One sending key, and the hash of the datagram under each number.
struct Key {
    /// Held, so no other key can have the same address.
    key: Arc<TxKey>,
    numbers: BTreeMap<u64, u64>,
}

impl Traffic {
    /// Makes a new packet, at least 44 bytes long.
    pub(super) fn packet(&mut self, from: usize, to: usize, length: usize) -> Vec<u8> {
        let packet = self.packet_to(from, plan::mesh_ip(to), length);
        let sent = Sent {
            from,
            to,
            packet: packet.clone(),
        };
        self.sent.insert(self.count, sent);
        packet
    }

    /// Makes a new packet for all nodes.
    pub(super) fn broadcast(&mut self, from: usize, length: usize) -> Vec<u8> {
        let packet = self.packet_to(from, GROUP, length);
        self.to_all.insert(self.count, BTreeSet::from([from]));
        packet
    }

    /// Returns how often broadcasts were delivered to devices.
    pub(super) fn broadcasts_delivered(&self) -> usize {
        self.to_all.values().map(|nodes| nodes.len() - 1).sum()
    }

    fn packet_to(&mut self, from: usize, to: Ipv4Addr, length: usize) -> Vec<u8> {
        self.count += 1;
        let number = self.count;
        let mut packet = vec![0; length.max(44)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(
            &u16::try_from(length.max(44))
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        packet[6] = 0x40; // don't fragment
        packet[8] = 64;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&plan::mesh_ip(from).octets());
        packet[16..20].copy_from_slice(&to.octets());
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..24].copy_from_slice(&PORTS);
        packet[NUMBER].copy_from_slice(&number.to_be_bytes());
        for (at, byte) in packet[NUMBER.end..].iter_mut().enumerate() {
            *byte = (at as u64 ^ number) as u8;
        }
        packet
    }

    /// Records a packet delivered to a node's device.
    pub(super) fn delivered(&mut self, node: usize, packet: &[u8]) {
        if packet.get(20..24) != Some(&PORTS) {
            return self.answered(node, packet);
        }
        let number = packet[NUMBER]
            .try_into()
            .map(u64::from_be_bytes)
            .unwrap_or(0);
        if let Some(nodes) = self.to_all.get_mut(&number) {
            if !nodes.insert(node) {
                self.fail(format!("n{node} gets the broadcast {number} again"));
            }
            return;
        }
        let what = match self.sent.get(&number) {
            None => "was never sent",
            Some(sent) if sent.to != node => "was delivered to the wrong node",
            Some(sent) if sent.packet != packet => "was changed on its way",
            Some(_) if !self.delivered.insert(number) => "was delivered twice",
            Some(_) => return,
        };
        self.fail(format!("packet {number} {what} (n{node})"));
    }

    /// Records an ICMP error. A packet that is too long for the path does not count as lost if its
    /// sender was told.
    fn answered(&mut self, node: usize, error: &[u8]) {
        let too_long = error.get(20..22) == Some(&[3, 4]);
        let quoted = error.get(28..).unwrap_or_default();
        if too_long && quoted.get(20..24) == Some(&PORTS) {
            let number = quoted.get(NUMBER).and_then(|bytes| bytes.try_into().ok());
            let number = number.map_or(0, u64::from_be_bytes);
            if self.sent.get(&number).is_some_and(|sent| sent.from == node) {
                self.delivered.insert(number);
            }
        }
    }

    /// Checks a datagram that a node sends, its own or a relayed one, to an address of `receiver`.
    pub(super) fn sealed(
        &mut self,
        node: usize,
        tables: &RouteSnapshot,
        receiver: Option<usize>,
        datagram: &[u8],
    ) {
        let (dst, sealed) = if native::index_of(datagram).is_some() {
            (None, datagram)
        } else {
            let (Some(dst), Some(src)) = (id(datagram, 0), id(datagram, 6)) else {
                return;
            };
            if src != plan::name(node).id() {
                return self.passed_on(node, tables.by_id.len(), datagram);
            }
            (
                Some(dst).filter(|dst| *dst != NodeId::DIRECT),
                &datagram[12..],
            )
        };
        let receiver = receiver.map(|receiver| plan::name(receiver).id());
        let Some(dst) = dst.or(receiver) else {
            return;
        };
        let holder = tables.by_id.get(&dst).and_then(|idx| tables.node(*idx));
        let keys = self.keys.entry((node, dst)).or_default();
        if let Some(key) = holder.and_then(|holder| holder.state.load().tx.clone())
            && keys.iter().all(|known| !Arc::ptr_eq(&known.key, &key))
        {
            keys.drain(..keys.len().saturating_sub(KEYS));
            keys.push(Key {
                key,
                numbers: BTreeMap::new(),
            });
        }
        if !Key::take(keys, sealed) {
            self.fail(format!(
                "n{node} seals two datagrams for {dst} under one number"
            ));
        }
    }

    /// Counts a forwarded datagram. No path is longer than the number of nodes.
    fn passed_on(&mut self, node: usize, nodes: usize, datagram: &[u8]) {
        let times = self.relayed.entry(hash(datagram)).or_default();
        *times += 1;
        if *times > nodes {
            self.fail(format!("n{node} passes on a datagram that goes in circles"));
        }
    }

    /// Returns the undelivered packets of those sent since the last call: from, to, length.
    pub(super) fn take_lost(&mut self) -> Vec<(usize, usize, usize)> {
        let since = self.sent.range(self.counted + 1..);
        let lost = since.filter(|(number, _)| !self.delivered.contains(number));
        let lost = lost
            .map(|(_, sent)| (sent.from, sent.to, sent.packet.len()))
            .collect();
        self.counted = self.count;
        lost
    }

    /// Returns the first failure.
    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }
}

impl Key {
    /// Records a datagram under the key that sealed it. Returns `false` if the key sealed another
    /// one under the same number. The same datagram may be sent more than once.
    fn take(keys: &mut [Self], sealed: &[u8]) -> bool {
        let hash = hash(sealed);
        for key in keys.iter_mut().rev() {
            if let Some(number) = key.sealed(sealed) {
                return *key.numbers.entry(number).or_insert(hash) == hash;
            }
        }
        true
    }

    /// Returns the number under which this key sealed a record, if it did. The ciphers are streams,
    /// so sealing the ciphertext returns the plaintext. Sealing that must give the same bytes, with
    /// the tag.
    fn sealed(&self, sealed: &[u8]) -> Option<u64> {
        if sealed.len() < self.key.overhead() {
            return None;
        }
        let mut again = sealed.to_vec();
        let (number, kind) = match self.key.dialect() {
            Dialect::Native => {
                let number = u64::from_be_bytes(*sealed[8..].first_chunk()?);
                let kind = sealed[0] & 0x7f;
                self.key.seal(number, kind, &mut again);
                (number, kind)
            }
            Dialect::Sptps => {
                let number = u32::from_be_bytes(*sealed.first_chunk()?).into();
                self.key.seal(number, 0, &mut again);
                (number, sealed[4] ^ again[4])
            }
            Dialect::Legacy => return None,
        };
        self.key.seal(number, kind, &mut again);
        (again == sealed).then_some(number)
    }
}

/// Returns the node id at an offset of a datagram.
fn id(datagram: &[u8], at: usize) -> Option<NodeId> {
    Some(NodeId(datagram.get(at..at + 6)?.try_into().ok()?))
}

/// Hashes a sealed record or a datagram.
fn hash(sealed: &[u8]) -> u64 {
    sealed.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Returns the checksum of an IPv4 header whose checksum field is zero.
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
