//! Joins packets of a flow to super-packets, and drops acknowledgements that a later one replaces.

use super::{
    Checksums, MAX_PACKET,
    checksum::{RIGHT, finish, fold, sum},
    header::{Gso, GsoKind, Header},
    transport::{HEADER_TCP, HEADER_V4, HEADER_V6, Protocol, Transport, addresses, be, put},
};

/// Most flows that are joined at the same time; the oldest makes room for one more.
const MAX_FLOWS: usize = 16;
/// Most datagrams of a UDP super-packet: `UDP_MAX_SEGMENTS` of old kernels.
const MAX_DATAGRAMS: usize = 64;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// Flags that only the last segment of a super-packet may have.
const LAST_ONLY: u8 = FIN | PSH;

/// Packets on their way to a device with `IFF_VNET_HDR`. The packets of each flow leave in their
/// order of arrival, and [`Self::flush`] leaves none behind. Allocates 1 MiB once.
///
/// A bare acknowledgement of TCP is dropped if the next packet of its flow acknowledges the same
/// and more, as in network cards with LRO. Beside bulk, writing such packets took a tenth of the
/// sending daemon's time. Acknowledgements with a meaning of their own are kept: duplicates, window
/// updates, SACK, ECN.
#[derive(Debug)]
pub struct Coalescer {
    /// The first `used` runs are in use, in the order of their first packets. Single packets pass
    /// through the run behind them.
    runs: Vec<Run>,
    used: usize,
    udp: bool,
}

impl Coalescer {
    /// Makes an empty coalescer. `udp` is true if the kernel accepts super-packets of UDP (USO).
    #[must_use]
    pub fn new(udp: bool) -> Self {
        Self {
            runs: (0..=MAX_FLOWS).map(|_| Run::new()).collect(),
            used: 0,
            udp,
        }
    }

    /// Takes one packet of at most 65,535 bytes with its IP header at `ip` (behind its end if it is
    /// no IP packet). A packet that cannot be joined is written at once, after waiting packets of
    /// its flow. Packets with wrong checksums are written unchanged, alone.
    pub fn push(
        &mut self,
        packet: &[u8],
        ip: usize,
        checksums: Checksums,
        mut write: impl FnMut(&Header, &[u8]),
    ) {
        let Some(transport) = Transport::parse(packet, ip).filter(|_| packet.len() <= MAX_PACKET)
        else {
            self.flush_between(packet.get(ip..).unwrap_or_default(), &mut write);
            return write(&Header::default(), packet);
        };
        let flow = Flow::of(packet, &transport);
        let at = self.runs[..self.used].iter().position(|r| r.flow == flow);
        let joinable = self.is_joinable(packet, &transport);
        let is_ack = is_bare_ack(packet, &transport);
        if let Some(at) = at {
            let run = &mut self.runs[at];
            if is_ack && run.is_outdone_by(packet, &transport, checksums) {
                return run.start(flow, packet, transport, checksums);
            }
            if joinable && run.takes(packet, &transport, checksums) {
                run.append(packet, &transport);
                if run.ended {
                    self.write(at, &mut write);
                }
                return;
            }
            self.write(at, &mut write);
        }
        if is_ack || joinable && !ends_run(packet, &transport) {
            if self.used == MAX_FLOWS {
                self.write(0, &mut write);
            }
            self.runs[self.used].start(flow, packet, transport, checksums);
            self.used += 1;
        } else if checksums == Checksums::Vouched {
            let alone = &mut self.runs[self.used];
            alone.start(flow, packet, transport, checksums);
            alone.write(&mut write);
        } else {
            write(&Header::default(), packet);
        }
    }

    /// Writes all waiting packets.
    pub fn flush(&mut self, mut write: impl FnMut(&Header, &[u8])) {
        self.runs[..self.used]
            .iter_mut()
            .for_each(|run| run.write(&mut write));
        self.used = 0;
    }

    /// Returns true if no packet waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Writes waiting packets between the addresses of a packet of unknown flow: a fragment, one
    /// with extension headers, or neither TCP nor UDP.
    fn flush_between(&mut self, packet: &[u8], write: &mut impl FnMut(&Header, &[u8])) {
        let v6 = match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= HEADER_V4 => false,
            Some(6) if packet.len() >= HEADER_V6 => true,
            _ => return,
        };
        let between = addresses(packet, v6);
        let mut at = 0;
        while at < self.used {
            if self.runs[at].flow.is_between(between) {
                self.write(at, write);
            } else {
                at += 1;
            }
        }
    }

    /// Returns true if a packet may be joined to others: it has data and nothing that a
    /// super-packet cannot express.
    fn is_joinable(&self, packet: &[u8], transport: &Transport) -> bool {
        let &Transport { start, payload, .. } = transport;
        let right = match transport.protocol {
            Protocol::Tcp => packet[start + 13] & (SYN | RST | URG | ACK) == ACK,
            // A super-packet cannot express a missing checksum.
            Protocol::Udp => self.udp && !transport.has_no_checksum(packet),
        };
        has_plain_header(packet, transport) && right && payload < packet.len()
    }

    /// Writes one run and frees its place, which is used next, because its memory is still in the
    /// cache.
    fn write(&mut self, at: usize, write: &mut impl FnMut(&Header, &[u8])) {
        self.runs[at].write(write);
        self.runs[at..self.used].rotate_left(1);
        self.used -= 1;
    }
}

/// Key of a flow: protocol, addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    protocol: Protocol,
    v6: bool,
    addresses: [u8; 32],
    ports: [u8; 4],
}

impl Flow {
    fn of(packet: &[u8], transport: &Transport) -> Self {
        let mut flow = Self {
            protocol: transport.protocol,
            v6: transport.v6,
            addresses: [0; 32],
            ports: [0; 4],
        };
        let between = addresses(&packet[transport.ip..], transport.v6);
        flow.addresses[..between.len()].copy_from_slice(between);
        flow.ports
            .copy_from_slice(&packet[transport.start..transport.start + 4]);
        flow
    }

    fn is_between(&self, between: &[u8]) -> bool {
        self.v6 == (between.len() == 32) && self.addresses.starts_with(between)
    }
}

/// Joined packets of one flow: the headers of the first one, with its Ethernet header if it has
/// one, then the payloads of all.
#[derive(Debug)]
struct Run {
    flow: Flow,
    transport: Transport,
    /// State of the first packet's checksum; those of later packets are checked before they are
    /// appended.
    checksums: Checksums,
    data: Vec<u8>,
    /// Bytes of payload in each packet but the last.
    size: usize,
    count: usize,
    /// True if no packet may follow.
    ended: bool,
}

impl Run {
    fn new() -> Self {
        Self {
            flow: Flow {
                protocol: Protocol::Tcp,
                v6: false,
                addresses: [0; 32],
                ports: [0; 4],
            },
            transport: Transport {
                v6: false,
                protocol: Protocol::Tcp,
                ip: 0,
                start: 0,
                payload: 0,
            },
            checksums: Checksums::Complete,
            data: Vec::with_capacity(MAX_PACKET),
            size: 0,
            count: 0,
            ended: false,
        }
    }

    fn start(&mut self, flow: Flow, packet: &[u8], transport: Transport, checksums: Checksums) {
        self.flow = flow;
        self.transport = transport;
        self.checksums = checksums;
        self.data.clear();
        self.data.extend_from_slice(packet);
        self.size = packet.len() - transport.payload;
        self.count = 1;
        self.ended = false;
    }

    /// Returns true if a joinable packet of this flow continues the run. Checksums are verified
    /// last, because they cost most. The checksum of the first packet is verified only when a
    /// packet follows.
    fn takes(&self, packet: &[u8], transport: &Transport, checksums: Checksums) -> bool {
        let length = packet.len() - transport.payload;
        length <= self.size
            && self.data.len() + length <= MAX_PACKET
            && self.has_headers_before(packet, transport)
            && match transport.protocol {
                Protocol::Tcp => self.has_tcp_header_of(packet, transport),
                Protocol::Udp => self.count < MAX_DATAGRAMS,
            }
            && checksums.hold_for(packet, transport)
            && (self.count > 1 || self.checksums.hold_for(&self.data, &self.transport))
    }

    /// Returns true if this run is an acknowledgement and `packet`, another one of the flow,
    /// replaces it.
    fn is_outdone_by(&self, packet: &[u8], transport: &Transport, checksums: Checksums) -> bool {
        let (first, start) = (&self.data, transport.start);
        let more = number(packet, start + 8).wrapping_sub(number(first, start + 8));
        self.size == 0
            && packet.len() == first.len()
            && self.has_headers_before(packet, transport)
            && number(packet, start + 4) == number(first, start + 4)
            && more.cast_signed() > 0
            && checksums.hold_for(packet, transport)
            && self.checksums.hold_for(first, transport)
    }

    /// Returns true if the headers before the TCP or UDP header are equal, and its length too.
    fn has_headers_before(&self, packet: &[u8], transport: &Transport) -> bool {
        let ip = transport.ip;
        ip == self.transport.ip
            && transport.payload == self.transport.payload
            && (ip == 0 || packet[..ip] == self.data[..ip])
            && self.has_ip_header_of(&packet[ip..])
    }

    /// Returns true if the IP headers differ only in length, checksum and identification. The
    /// identification must count up, or it is meaningless because the packet is never fragmented
    /// (RFC 6864).
    fn has_ip_header_of(&self, packet: &[u8]) -> bool {
        let first = &self.data[self.transport.ip..];
        if self.transport.v6 {
            return packet[..4] == first[..4] && packet[7] == first[7];
        }
        let counted = (be(first, 4) + self.count) & 0xffff;
        packet[1] == first[1]
            && packet[6..9] == first[6..9]
            && (packet[6] & 0x40 != 0 || be(packet, 4) == counted)
    }

    /// Returns true if the TCP headers differ only in sequence number, checksum and flags of the
    /// last packet.
    fn has_tcp_header_of(&self, packet: &[u8], transport: &Transport) -> bool {
        let (first, start) = (&self.data, transport.start);
        let seq = |bytes: &[u8]| number(bytes, start + 4);
        let joined = (self.data.len() - transport.payload) as u32;
        // CWR belongs to the first segment and does not concern the others.
        let flags = |bytes: &[u8]| bytes[start + 13] & !LAST_ONLY;
        seq(packet) == seq(first).wrapping_add(joined)
            && flags(packet) == flags(first) & !CWR
            && packet[start + 8..start + 13] == first[start + 8..start + 13]
            && packet[start + 14..start + 16] == first[start + 14..start + 16]
            && packet[start + 18..transport.payload] == first[start + 18..transport.payload]
    }

    fn append(&mut self, packet: &[u8], transport: &Transport) {
        let payload = &packet[transport.payload..];
        self.data.extend_from_slice(payload);
        self.count += 1;
        self.ended = payload.len() < self.size || ends_run(packet, transport);
        if transport.protocol == Protocol::Tcp {
            let flags = transport.start + 13;
            self.data[flags] |= packet[flags] & LAST_ONLY;
        }
    }

    /// Writes the run as one super-packet, or its only packet unchanged.
    fn write(&mut self, write: &mut impl FnMut(&Header, &[u8])) {
        let mut header = Header::default();
        if self.count > 1 {
            header.gso = Some(self.join());
        }
        // A single packet is written unchanged if its checksum is the sender's.
        let computed =
            self.checksums == Checksums::Vouched && !self.transport.has_no_checksum(&self.data);
        if self.count > 1 || computed {
            self.transport.unfinish(&mut self.data);
            header.unfinished = Some(self.transport.unfinished());
        }
        write(&header, &self.data);
    }

    /// Turns the headers into those of a super-packet, except for the transport checksum.
    fn join(&mut self) -> Gso {
        let Transport {
            v6,
            protocol,
            ip,
            start,
            payload,
        } = self.transport;
        let (data, start) = (&mut self.data[ip..], start - ip);
        // `takes` ensures that there are at most 65,535 bytes.
        let length = data.len() as u16;
        if v6 {
            put(data, 4, (length - HEADER_V6 as u16).to_be_bytes());
        } else {
            put(data, 2, length.to_be_bytes());
            put(data, 10, [0; 2]);
            let sum = finish(sum(&data[..start]));
            put(data, 10, sum);
        }
        if protocol == Protocol::Udp {
            put(data, start + 4, (length - start as u16).to_be_bytes());
        }
        Gso {
            kind: match (protocol, v6) {
                (Protocol::Tcp, false) => GsoKind::TcpV4,
                (Protocol::Tcp, true) => GsoKind::TcpV6,
                (Protocol::Udp, _) => GsoKind::Udp,
            },
            size: self.size as u16,
            header_len: payload as u16,
            ecn: protocol == Protocol::Tcp && data[start + 13] & CWR != 0,
        }
    }
}

/// Returns true if a TCP packet only carries an acknowledgement, a window and a timestamp (RFC
/// 7323).
fn is_bare_ack(packet: &[u8], transport: &Transport) -> bool {
    let &Transport { start, payload, .. } = transport;
    transport.protocol == Protocol::Tcp
        && payload == packet.len()
        && packet[start + 12] & 15 == 0
        && packet[start + 13] == ACK
        && matches!(
            packet[start + HEADER_TCP..],
            [] | [1, 1, 8, 10, _, _, _, _, _, _, _, _]
        )
        && has_plain_header(packet, transport)
}

/// Returns true if the IP header has no options, and a valid checksum if it has one.
fn has_plain_header(packet: &[u8], transport: &Transport) -> bool {
    let header = &packet[transport.ip..transport.start];
    transport.v6 || (header.len() == HEADER_V4 && fold(sum(header)) == RIGHT)
}

/// Returns the number in four bytes at `at`.
fn number(packet: &[u8], at: usize) -> u32 {
    let number = packet[at..].first_chunk();
    u32::from_be_bytes(*number.expect("a whole TCP header"))
}

/// Returns true if a packet has flags that only the last one of a super-packet may have.
fn ends_run(packet: &[u8], transport: &Transport) -> bool {
    transport.protocol == Protocol::Tcp && packet[transport.start + 13] & LAST_ONLY != 0
}

impl Checksums {
    /// Returns true if the TCP or UDP checksum of a packet in this state is valid, or the AEAD
    /// protects it.
    fn hold_for(self, packet: &[u8], transport: &Transport) -> bool {
        self == Self::Vouched
            || fold(transport.pseudo(packet) + sum(&packet[transport.start..])) == RIGHT
    }
}
