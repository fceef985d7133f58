//! The request lines of a meta connection, by their numbers.
//!
//! Sources: wire/tinc-1.0.md section 1.2, wire/tinc-1.1.md sections 3.5 to 3.9 and 5.1.

mod fields;

use std::fmt::{self, Write};

use crate::{EdgeAddress, NodeName, Options, Subnet, request::fields::Fields};

/// Longest word of a line in bytes. Source: wire/tinc-1.0.md section 0 ("string field").
pub const MAX_WORD: usize = 2048;

/// One parsed request line. Numbers and field order as the protocol has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `4 PORT WEIGHT OPTIONS`: the first line on an authenticated link.
    Ack {
        /// The sender's listening port; 0 or a non-number: keep the TCP source port.
        port: u16,
        /// The sender's half of the edge weight.
        weight: i32,
        /// The sender's options, its minor version in the top byte.
        options: Options,
    },
    /// `7`
    TermReq,
    /// `8`
    Ping,
    /// `9`
    Pong,
    /// `10 NONCE OWNER SUBNET`
    AddSubnet {
        /// Who owns it.
        owner: NodeName,
        /// What is owned.
        subnet: Subnet,
    },
    /// `11 NONCE OWNER SUBNET`
    DelSubnet {
        /// Who owned it.
        owner: NodeName,
        /// What was owned.
        subnet: Subnet,
    },
    /// `12 NONCE FROM TO ADDR PORT OPTIONS WEIGHT [LOCALADDR LOCALPORT]`
    AddEdge {
        /// The edge's owner.
        from: NodeName,
        /// Where it leads.
        to: NodeName,
        /// Where `from` sees `to`: TCP address with `to`'s UDP port.
        address: EdgeAddress,
        /// Options; top byte = minor version of `to`.
        options: Options,
        /// Weight, may be negative.
        weight: i32,
        /// `from`'s own address on that link, if the line had it.
        local: Option<EdgeAddress>,
    },
    /// `13 NONCE FROM TO`
    DelEdge {
        /// The edge's owner.
        from: NodeName,
        /// Where it led.
        to: NodeName,
    },
    /// `14 NONCE ORIGIN`
    KeyChanged {
        /// Whose legacy keys are void.
        origin: NodeName,
    },
    /// `15 FROM TO [EXT [TEXT]]`. What follows the names never makes the line an error, because real
    /// nodes pass it on unread (wire/tinc-1.1.md section 8.3).
    ReqKey {
        /// Who asks.
        from: NodeName,
        /// Who is asked.
        to: NodeName,
        /// Extension number (15 start tunnel, 19 and 20 public keys, 21 packet). `None` if there is
        /// none (the legacy form) or it is no number: like 0, that must never reach a 1.1 node
        /// (wire/tinc-1.1.md section 3.6).
        ext: Option<i32>,
        /// The word after the extension; empty if there is none, or none that could mean anything:
        /// longer than [`MAX_WORD`] or not UTF-8.
        text: String,
    },
    /// `16 FROM TO KEY CIPHER DIGEST MACLEN COMPRESSION [ADDR PORT]`
    AnsKey {
        /// Who answers.
        from: NodeName,
        /// Who asked.
        to: NodeName,
        /// Hex key (legacy) or base64 handshake datagram (SPTPS).
        key: String,
        /// Cipher NID, -1 in SPTPS.
        cipher: i32,
        /// Digest NID, -1 in SPTPS.
        digest: i32,
        /// MAC length in bytes, -1 in SPTPS.
        mac_length: i32,
        /// Compression level that the sender wants to receive, 0 to 12.
        compression: i32,
        /// The sender's UDP address as a relay saw it.
        address: Option<EdgeAddress>,
    },
    /// `17 LENGTH`: a frame of that many bytes follows.
    Packet {
        /// Length in bytes.
        length: i32,
    },
    /// `21 LENGTH`: that many raw bytes follow outside any record.
    SptpsPacket {
        /// Length in bytes.
        length: i32,
    },
    /// `22 FROM TO ADDR PORT`
    UdpInfo {
        /// Whose address it is.
        from: NodeName,
        /// Towards whom it travels.
        to: NodeName,
        /// The address.
        address: EdgeAddress,
    },
    /// `23 FROM TO MTU`
    MtuInfo {
        /// Packets to this node.
        from: NodeName,
        /// Towards whom it travels.
        to: NodeName,
        /// may be this long, in bytes of a frame.
        mtu: i32,
    },
}

/// Why a line was refused. The variants tell who may have written it: see [`Self::costs_line_only`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The first word, cut at 32 bytes, is not the number of a request that may come on an active
    /// link: 0 to 3, 5, 6, 18 to 20 and everything else that is not in [`Request`].
    #[error("unknown or misplaced request number {0:?}")]
    Unknown(String),
    /// A request that neighbours send each other and nobody passes on: a field is missing or not of its type.
    #[error("{request}: bad {field}")]
    OfLink {
        /// Name of the request.
        request: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A request that nodes pass on: a field is missing or not of its type, or not one that we take.
    #[error("{request}: bad {field}")]
    PassedOn {
        /// Name of the request.
        request: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}

impl RequestError {
    fn about(request: &'static str, passed_on: bool, field: &'static str) -> Self {
        match passed_on {
            true => Self::PassedOn { request, field },
            false => Self::OfLink { request, field },
        }
    }

    /// Whether any node of the mesh may have written the line: a real daemon passes on some lines that we do not
    /// take, so its neighbour loses the line and not the link. Any other line is the neighbour's own.
    #[must_use]
    pub fn costs_line_only(&self) -> bool {
        matches!(self, Self::PassedOn { .. })
    }
}

impl Request {
    /// Reads a line without its LF, as tolerantly as the `scanf` of real daemons: any white space
    /// between fields, signs and `0x`, a number ends at the first byte that is not part of it (which
    /// starts the next field), numbers wrap at 32 bits, words after the last field are not looked at.
    ///
    /// Errors: see [`RequestError`]. Source: wire/tinc-1.0.md section 1.1.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(line);
        let number = fields.request(name_of)?;
        if line.iter().any(|b| matches!(b, 0 | b'\n')) {
            return Err(fields.bad(CONTROL));
        }
        if FLOODED.contains(&number) {
            fields.hex("nonce")?;
        }
        Ok(match number {
            4 => Self::Ack {
                port: fields.port("port")?,
                weight: fields.number("weight")?,
                options: Options(fields.hex("options")?),
            },
            7 => Self::TermReq,
            8 => Self::Ping,
            9 => Self::Pong,
            10 => Self::AddSubnet {
                owner: fields.name("owner")?,
                subnet: fields.subnet("subnet")?,
            },
            11 => Self::DelSubnet {
                owner: fields.name("owner")?,
                subnet: fields.subnet("subnet")?,
            },
            12 => Self::parse_add_edge(&mut fields)?,
            13 => {
                let (from, to) = fields.two_nodes()?;
                Self::DelEdge { from, to }
            }
            14 => Self::KeyChanged {
                origin: fields.name("origin")?,
            },
            15 => Self::ReqKey {
                from: fields.name("from")?,
                to: fields.name("to")?,
                ext: fields.decimal(),
                text: fields.text("text").unwrap_or_default().into(),
            },
            16 => Self::parse_ans_key(&mut fields)?,
            17 => Self::Packet {
                length: fields.number("length")?,
            },
            21 => Self::SptpsPacket {
                length: fields.number("length")?,
            },
            22 => Self::UdpInfo {
                from: fields.name("from")?,
                to: fields.name("to")?,
                address: fields.address("address")?,
            },
            _ => Self::MtuInfo {
                from: fields.name("from")?,
                to: fields.name("to")?,
                mtu: fields.number("MTU")?,
            },
        })
    }

    fn parse_add_edge(fields: &mut Fields<'_>) -> Result<Self, RequestError> {
        let (from, to) = fields.two_nodes()?;
        Ok(Self::AddEdge {
            from,
            to,
            address: fields.address("address")?,
            options: Options(fields.hex("options")?),
            weight: fields.number("weight")?,
            // One word alone closes links between 1.1 nodes, so such a line must not be passed on.
            local: match fields.has_more() {
                true => Some(fields.address("local address")?),
                false => None,
            },
        })
    }

    fn parse_ans_key(fields: &mut Fields<'_>) -> Result<Self, RequestError> {
        Ok(Self::AnsKey {
            from: fields.name("from")?,
            to: fields.name("to")?,
            key: fields.text("key")?.into(),
            cipher: fields.number("cipher")?,
            digest: fields.number("digest")?,
            mac_length: fields.number("MAC length")?,
            compression: fields.number("compression")?,
            address: fields.address("address").ok(),
        })
    }

    /// The line to send, without LF, printed as tinc 1.1 prints it. `nonce` (31 bits) makes it differ
    /// from an earlier line of the same content; only [flooded](Self::flooded) requests carry one.
    #[must_use]
    pub fn line(&self, nonce: u32) -> String {
        let mut line = self.number().to_string();
        self.write_fields(&mut line, nonce)
            .expect("writing to a string cannot fail");
        line
    }

    /// Whether nodes pass it on to all their neighbours and drop lines that they saw before (10 to 14).
    #[must_use]
    pub fn flooded(&self) -> bool {
        FLOODED.contains(&self.number())
    }

    /// Whether nodes pass it on: flooded, or routed to the node that it names.
    #[must_use]
    pub fn passed_on(&self) -> bool {
        is_passed_on(self.number())
    }

    /// The error about a line of this request that is longer than any that we take.
    #[must_use]
    pub fn too_long(&self) -> RequestError {
        RequestError::about(self.name(), self.passed_on(), "length")
    }

    /// Whom a flooded request speaks about; `None` for the others.
    #[must_use]
    pub fn subject(&self) -> Option<&NodeName> {
        match self {
            Self::AddSubnet { owner, .. } | Self::DelSubnet { owner, .. } => Some(owner),
            Self::AddEdge { from, .. } | Self::DelEdge { from, .. } => Some(from),
            Self::KeyChanged { origin } => Some(origin),
            _ => None,
        }
    }

    /// The line for logs and captures, where what it carries is nobody's business there: the packet key of ANS_KEY
    /// (in SPTPS a handshake), the handshakes, keys and sealed packets of REQ_KEY. `None` for all others.
    #[must_use]
    pub fn without_key(&self) -> Option<String> {
        let mut blank = self.clone();
        match &mut blank {
            Self::AnsKey { key: secret, .. } | Self::ReqKey { text: secret, .. } => {
                if !secret.is_empty() {
                    *secret = "KEY".into();
                }
            }
            _ => return None,
        }
        Some(blank.line(0))
    }

    /// Its name in the protocol, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        name_of(self.number()).expect("every request has a name")
    }

    const fn number(&self) -> i32 {
        match self {
            Self::Ack { .. } => 4,
            Self::TermReq => 7,
            Self::Ping => 8,
            Self::Pong => 9,
            Self::AddSubnet { .. } => 10,
            Self::DelSubnet { .. } => 11,
            Self::AddEdge { .. } => 12,
            Self::DelEdge { .. } => 13,
            Self::KeyChanged { .. } => 14,
            Self::ReqKey { .. } => 15,
            Self::AnsKey { .. } => 16,
            Self::Packet { .. } => 17,
            Self::SptpsPacket { .. } => 21,
            Self::UdpInfo { .. } => 22,
            Self::MtuInfo { .. } => 23,
        }
    }

    fn write_fields(&self, line: &mut String, nonce: u32) -> fmt::Result {
        match self {
            Self::Ack {
                port,
                weight,
                options,
            } => write!(line, " {port} {weight} {options}"),
            Self::TermReq | Self::Ping | Self::Pong => Ok(()),
            Self::AddSubnet { owner, subnet } | Self::DelSubnet { owner, subnet } => {
                write!(line, " {nonce:x} {owner} {subnet}")
            }
            Self::AddEdge {
                from,
                to,
                address,
                options,
                weight,
                local,
            } => {
                write!(line, " {nonce:x} {from} {to} {address} {options} {weight}")?;
                write_address(line, local.as_ref())
            }
            Self::DelEdge { from, to } => write!(line, " {nonce:x} {from} {to}"),
            Self::KeyChanged { origin } => write!(line, " {nonce:x} {origin}"),
            Self::ReqKey {
                from,
                to,
                ext,
                text,
            } => {
                write!(line, " {from} {to}")?;
                let Some(ext) = ext else { return Ok(()) };
                write!(line, " {ext}")?;
                match text.as_str() {
                    "" => Ok(()),
                    text => write!(line, " {text}"),
                }
            }
            Self::AnsKey {
                from,
                to,
                key,
                cipher,
                digest,
                mac_length,
                compression,
                address,
            } => {
                write!(line, " {from} {to} {key}")?;
                write!(line, " {cipher} {digest} {mac_length} {compression}")?;
                write_address(line, address.as_ref())
            }
            Self::Packet { length } | Self::SptpsPacket { length } => write!(line, " {length}"),
            Self::UdpInfo { from, to, address } => write!(line, " {from} {to} {address}"),
            Self::MtuInfo { from, to, mtu } => write!(line, " {from} {to} {mtu}"),
        }
    }
}

/// Name of the field in errors about a NUL or a line feed inside a line.
const CONTROL: &str = "byte (NUL or line feed)";

/// Whether nodes pass requests of this number on, so that their author may be any node.
const fn is_passed_on(number: i32) -> bool {
    matches!(number, 10..=16 | 22 | 23)
}

/// The requests that start with a nonce.
const FLOODED: std::ops::RangeInclusive<i32> = 10..=14;

/// The name of the request of this number, if it may come on an active link.
#[must_use]
pub const fn name_of(number: i32) -> Option<&'static str> {
    Some(match number {
        4 => "ACK",
        7 => "TERMREQ",
        8 => "PING",
        9 => "PONG",
        10 => "ADD_SUBNET",
        11 => "DEL_SUBNET",
        12 => "ADD_EDGE",
        13 => "DEL_EDGE",
        14 => "KEY_CHANGED",
        15 => "REQ_KEY",
        16 => "ANS_KEY",
        17 => "PACKET",
        21 => "SPTPS_PACKET",
        22 => "UDP_INFO",
        23 => "MTU_INFO",
        _ => return None,
    })
}

fn write_address(line: &mut String, address: Option<&EdgeAddress>) -> fmt::Result {
    match address {
        Some(address) => write!(line, " {address}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
