//! The request lines of a meta connection, by their numbers.
//!
//! Sources: wire/tinc-1.0.md section 1.2, wire/tinc-1.1.md sections 3.5 to 3.9 and 5.1.

mod fields;
mod keys;

use std::fmt::{self, Write};

use crate::{EdgeAddress, NodeName, Options, Subnet, request::fields::Fields};

pub use keys::{KeyAnswer, KeyRequest, SuiteNumbers};

/// Longest word of a line in bytes. Source: wire/tinc-1.0.md section 0 ("string field").
pub const MAX_WORD: usize = 2048;

/// One parsed request line. Numbers and field order are those of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `4 PORT WEIGHT OPTIONS`: the first line on an authenticated link.
    Ack {
        /// Listening port of the sender; 0 or a non-number: keep the TCP source port.
        port: u16,
        /// The sender's half of the edge weight.
        weight: i32,
        /// Options of the sender, its protocol minor in the top byte.
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
        /// Owner of the subnet.
        owner: NodeName,
        /// The subnet.
        subnet: Subnet,
    },
    /// `11 NONCE OWNER SUBNET`
    DelSubnet {
        /// Former owner of the subnet.
        owner: NodeName,
        /// The subnet.
        subnet: Subnet,
    },
    /// `12 NONCE FROM TO ADDR PORT OPTIONS WEIGHT [LOCALADDR LOCALPORT]`
    AddEdge {
        /// Owner of the edge.
        from: NodeName,
        /// Other end of the edge.
        to: NodeName,
        /// Address of `to` as `from` sees it: TCP address with the UDP port of `to`.
        address: EdgeAddress,
        /// Options; top byte = protocol minor of `to`.
        options: Options,
        /// Weight, may be negative.
        weight: i32,
        /// Local address of `from` on the link, if the line had it.
        local: Option<EdgeAddress>,
    },
    /// `13 NONCE FROM TO`
    DelEdge {
        /// Owner of the edge.
        from: NodeName,
        /// Other end of the edge.
        to: NodeName,
    },
    /// `14 NONCE ORIGIN`
    KeyChanged {
        /// Node whose legacy keys are void.
        origin: NodeName,
    },
    /// `15 FROM TO [EXT [TEXT]]`
    ReqKey {
        /// The asking node.
        from: NodeName,
        /// The asked node.
        to: NodeName,
        /// The words after the names.
        payload: KeyRequest,
    },
    /// `16 FROM TO KEY CIPHER DIGEST MACLEN COMPRESSION [ADDR PORT]`
    AnsKey {
        /// The answering node.
        from: NodeName,
        /// The node that asked.
        to: NodeName,
        /// Key and numbers.
        payload: KeyAnswer,
        /// UDP address of the sender as a relay saw it.
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
        /// Owner of the address.
        from: NodeName,
        /// The node that the line is routed to.
        to: NodeName,
        /// The address.
        address: EdgeAddress,
    },
    /// `23 FROM TO MTU`
    MtuInfo {
        /// Destination of the packets.
        from: NodeName,
        /// The node that the line is routed to.
        to: NodeName,
        /// Longest packet to `from`, in bytes of a frame.
        mtu: i32,
    },
}

/// Reason why a line was rejected. The variant tells who may have written the line: see
/// [`Self::costs_line_only`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The first word, cut at 32 bytes, is not the number of a request allowed on an active link.
    /// Not allowed are 0 to 3, 5, 6, 18 to 20, and every number that is not in [`Request`].
    #[error("unknown or misplaced request number {0:?}")]
    Unknown(String),
    /// A request between neighbours that no node forwards: a field is missing or invalid.
    #[error("{request}: bad {field}")]
    OfLink {
        /// Name of the request.
        request: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A request that nodes forward: a field is missing, invalid or not accepted here.
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

    /// Returns true if any node of the mesh may have written the line. A real daemon forwards some
    /// lines that meshd rejects, so its neighbour drops the line and keeps the link. Any other line
    /// is the neighbour's own.
    #[must_use]
    pub fn costs_line_only(&self) -> bool {
        matches!(self, Self::PassedOn { .. })
    }
}

impl Request {
    /// Parses a line without its LF, as tolerantly as the `scanf` of real daemons. Any white space
    /// separates fields; signs and `0x` are allowed. A number ends at the first byte that is not
    /// part of it, which starts the next field. Numbers wrap at 32 bits. Words after the last field
    /// are ignored.
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
                payload: KeyRequest::parse(&mut fields),
            },
            16 => Self::AnsKey {
                from: fields.name("from")?,
                to: fields.name("to")?,
                payload: KeyAnswer::parse(&mut fields)?,
                address: fields.address("address").ok(),
            },
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
            // A single word closes links between 1.1 nodes, so such a line must not be forwarded.
            local: match fields.has_more() {
                true => Some(fields.address("local address")?),
                false => None,
            },
        })
    }

    /// Returns the line to send, without LF, in the form of tinc 1.1. `nonce` (31 bits) makes the
    /// line differ from an earlier one with the same content; only [flooded](Self::flooded)
    /// requests carry it.
    #[must_use]
    pub fn line(&self, nonce: u32) -> String {
        let mut line = self.number().to_string();
        self.write_fields(&mut line, nonce, false)
            .expect("writing to a string cannot fail");
        line
    }

    /// Returns true if nodes forward the request to all neighbours and drop lines that they saw
    /// before (10 to 14).
    #[must_use]
    pub fn flooded(&self) -> bool {
        FLOODED.contains(&self.number())
    }

    /// Returns true if nodes forward the request: flooded, or routed to the node that it names.
    #[must_use]
    pub fn passed_on(&self) -> bool {
        is_passed_on(self.number())
    }

    /// Returns the error for a line of this request that is too long.
    #[must_use]
    pub fn too_long(&self) -> RequestError {
        RequestError::about(self.name(), self.passed_on(), "length")
    }

    /// Returns the subject of a flooded request; `None` for other requests.
    #[must_use]
    pub fn subject(&self) -> Option<&NodeName> {
        match self {
            Self::AddSubnet { owner, .. } | Self::DelSubnet { owner, .. } => Some(owner),
            Self::AddEdge { from, .. } | Self::DelEdge { from, .. } => Some(from),
            Self::KeyChanged { origin } => Some(origin),
            _ => None,
        }
    }

    /// Returns the sender and the target of a routed request; `None` for other requests.
    #[must_use]
    pub fn ends(&self) -> Option<(&NodeName, &NodeName)> {
        match self {
            Self::ReqKey { from, to, .. }
            | Self::AnsKey { from, to, .. }
            | Self::UdpInfo { from, to, .. }
            | Self::MtuInfo { from, to, .. } => Some((from, to)),
            _ => None,
        }
    }

    /// Returns the line without secrets, for logs and captures. Replaces the packet key of ANS_KEY
    /// (in SPTPS a handshake), and handshakes, keys and sealed packets of REQ_KEY. `None` for all
    /// other requests.
    #[must_use]
    pub fn without_key(&self) -> Option<String> {
        if !matches!(self, Self::AnsKey { .. } | Self::ReqKey { .. }) {
            return None;
        }
        let mut line = self.number().to_string();
        self.write_fields(&mut line, 0, true)
            .expect("writing to a string cannot fail");
        Some(line)
    }

    /// Returns the name of the request in the protocol, for logs.
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

    /// Appends the fields. `hide` replaces the secrets of REQ_KEY and ANS_KEY.
    fn write_fields(&self, line: &mut String, nonce: u32, hide: bool) -> fmt::Result {
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
            Self::ReqKey { from, to, payload } => {
                write!(line, " {from} {to}")?;
                payload.write(line, hide)
            }
            Self::AnsKey {
                from,
                to,
                payload,
                address,
            } => {
                write!(line, " {from} {to}")?;
                payload.write(line, hide)?;
                write_address(line, address.as_ref())
            }
            Self::Packet { length } | Self::SptpsPacket { length } => write!(line, " {length}"),
            Self::UdpInfo { from, to, address } => write!(line, " {from} {to} {address}"),
            Self::MtuInfo { from, to, mtu } => write!(line, " {from} {to} {mtu}"),
        }
    }
}

/// Field name in errors about a NUL or a line feed inside a line.
const CONTROL: &str = "byte (NUL or line feed)";

/// Returns true if nodes forward requests of this number, so that any node may be the author.
const fn is_passed_on(number: i32) -> bool {
    matches!(number, 10..=16 | 22 | 23)
}

/// Requests that start with a nonce.
const FLOODED: std::ops::RangeInclusive<i32> = 10..=14;

/// Returns the name of the request with this number, if it is allowed on an active link.
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
