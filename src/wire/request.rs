//! The request lines of a meta connection, by their numbers.
//!
//! Sources: tinc-1.0-wire.md section 1.2, tinc-1.1-wire.md sections 3.5 to 3.9 and 5.1.

use crate::wire::{EdgeAddress, NodeName, Options, Subnet};

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
    /// `15 FROM TO [EXT [TEXT]]`: `ext` is `None` for the bare legacy form.
    ReqKey {
        /// Who asks.
        from: NodeName,
        /// Who is asked.
        to: NodeName,
        /// Extension number (15 start tunnel, 19 and 20 public keys, 21 packet), if any.
        ext: Option<i32>,
        /// The word after the extension, empty if there was none.
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

/// Why a line was refused; the link that it came from is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The number names no request that may stand here.
    #[error("unknown or misplaced request number {0:?}")]
    Unknown(String),
    /// A field is missing or not of its type.
    #[error("{request}: bad {field}")]
    Field {
        /// Name of the request.
        request: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}
