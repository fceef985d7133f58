//! Writes pcapng files: an interface for each kind of packet, and the node's name as a comment of each packet.
//!
//! Source: draft-ietf-opsawg-pcapng, sections 4.1 to 4.6; the link types are tcpdump.org's.

use std::io::{self, Write};

/// Packets begin with their IPv4 or IPv6 header.
pub(super) const LINKTYPE_RAW: u16 = 101;
/// Packets are Ethernet frames.
pub(super) const LINKTYPE_ETHERNET: u16 = 1;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// An interface of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) link_type: u16,
}

/// A packet in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub(super) time_ns: u64,
    pub(super) comment: &'a str,
    pub(super) received: bool,
    /// Length of the packet.
    pub(super) length: u32,
    /// Captured bytes of it.
    pub(super) data: &'a [u8],
}

/// Writes a file. Each block is written at once, so a file of a killed writer ends with a whole block.
pub(super) struct Writer<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file with these interfaces. Each packet has at most `snap` bytes, headers included.
    pub(super) fn new(out: W, interfaces: &[Interface<'_>], snap: u32) -> io::Result<Self> {
        let mut writer = Self {
            out,
            block: Vec::new(),
        };
        writer.word(BYTE_ORDER);
        writer.half(1);
        writer.half(0);
        // Length of the section: unknown.
        writer.long(u64::MAX);
        writer.option(4, concat!("meshctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        writer.end(SECTION)?;
        for interface in interfaces {
            writer.half(interface.link_type);
            writer.half(0);
            writer.word(snap);
            writer.option(2, interface.name.as_bytes());
            writer.option(3, interface.description.as_bytes());
            // Times are in units of 10^-9 seconds.
            writer.option(9, &[9]);
            writer.end(INTERFACE)?;
        }
        Ok(writer)
    }

    /// Writes a packet of the given interface.
    pub(super) fn packet(&mut self, interface: u32, packet: &Packet<'_>) -> io::Result<()> {
        self.word(interface);
        self.time(packet.time_ns);
        self.word(packet.data.len() as u32);
        self.word(packet.length);
        self.bytes(packet.data);
        self.option(1, packet.comment.as_bytes());
        let direction: u32 = if packet.received { 1 } else { 2 };
        self.option(2, &direction.to_ne_bytes());
        self.end(PACKET)
    }

    /// Writes the counters of an interface at this time, including missing packets.
    pub(super) fn statistics(
        &mut self,
        interface: u32,
        time_ns: u64,
        (all, dropped): (u64, u64),
    ) -> io::Result<()> {
        self.word(interface);
        self.time(time_ns);
        self.option(4, &all.to_ne_bytes());
        self.option(5, &dropped.to_ne_bytes());
        self.end(STATISTICS)
    }

    fn half(&mut self, value: u16) {
        self.block.extend_from_slice(&value.to_ne_bytes());
    }

    fn word(&mut self, value: u32) {
        self.block.extend_from_slice(&value.to_ne_bytes());
    }

    fn long(&mut self, value: u64) {
        self.block.extend_from_slice(&value.to_ne_bytes());
    }

    /// The upper half comes first in either byte order.
    fn time(&mut self, time_ns: u64) {
        self.word((time_ns >> 32) as u32);
        self.word(time_ns as u32);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Writes an option of at most 65,535 bytes; nothing for an empty one.
    fn option(&mut self, code: u16, value: &[u8]) {
        if let (false, Ok(length)) = (value.is_empty(), u16::try_from(value.len())) {
            self.half(code);
            self.half(length);
            self.bytes(value);
        }
    }

    /// Writes the block. Each of our blocks has options, which end with an empty one.
    fn end(&mut self, kind: u32) -> io::Result<()> {
        self.word(0);
        let length = (self.block.len() + 12) as u32;
        let mut whole = Vec::with_capacity(self.block.len() + 12);
        whole.extend_from_slice(&kind.to_ne_bytes());
        whole.extend_from_slice(&length.to_ne_bytes());
        whole.append(&mut self.block);
        whole.extend_from_slice(&length.to_ne_bytes());
        self.out.write_all(&whole)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{
        Block, PcapNgReader,
        blocks::{
            enhanced_packet::EnhancedPacketOption, interface_statistics::InterfaceStatisticsOption,
        },
    };

    use super::*;

    #[test]
    fn another_reader_finds_what_was_written() {
        let mut file = Vec::new();
        let interfaces = [("inner", LINKTYPE_ETHERNET), ("outer", LINKTYPE_RAW)];
        let interfaces = interfaces.map(|(name, link_type)| Interface {
            name,
            description: "what it is",
            link_type,
        });
        let mut writer = Writer::new(&mut file, &interfaces, 65_535).unwrap();
        for (interface, comment) in [(0, "db_01"), (1, "")] {
            let packet = Packet {
                time_ns: 1_795_343_358_123_456_789,
                comment,
                received: interface == 0,
                length: 100,
                data: &[7; 9],
            };
            writer.packet(interface, &packet).unwrap();
        }
        writer
            .statistics(1, 1_795_343_358_123_456_789, (5, 4))
            .unwrap();
        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            seen.push(match block.unwrap() {
                Block::InterfaceDescription(found) => {
                    format!("{:?} {}", found.linktype, found.snaplen)
                }
                Block::EnhancedPacket(found) => {
                    assert_eq!(
                        (found.data.as_ref(), found.original_len),
                        (&[7; 9][..], 100)
                    );
                    assert_eq!(found.timestamp.as_nanos(), 1_795_343_358_123_456_789);
                    let options = found.options.iter().map(|option| match option {
                        EnhancedPacketOption::Comment(comment) => comment.to_string(),
                        EnhancedPacketOption::Flags(flags) => flags.to_string(),
                        other => panic!("{other:?}"),
                    });
                    format!("{} {:?}", found.interface_id, options.collect::<Vec<_>>())
                }
                Block::InterfaceStatistics(found) => {
                    let options = found.options.iter().map(|option| match option {
                        InterfaceStatisticsOption::IsbIfRecv(n) => ("all", *n),
                        InterfaceStatisticsOption::IsbIfDrop(n) => ("dropped", *n),
                        other => panic!("{other:?}"),
                    });
                    format!("{} {:?}", found.interface_id, options.collect::<Vec<_>>())
                }
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(
            seen,
            [
                "ETHERNET 65535",
                "RAW 65535",
                "0 [\"db_01\", \"1\"]",
                "1 [\"2\"]",
                "1 [(\"all\", 5), (\"dropped\", 4)]",
            ]
        );
    }
}
