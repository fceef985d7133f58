//! The part of a node's report ([`NodeReport`]) that another node receives, without private facts.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use meshd_proto::{dialect::Dialect, mesh::reports::facts::HostFile};
use meshd_wire::subnet::Prefix;

use super::{DialFailureRow, DialReport, NodeReport, PathReport, RefusedRow, UnprovenRow, short};
use crate::rows::PeerRow;

/// Most lines of each kind in an answer, so that the answer stays one short packet.
const MAX_LINES: usize = 2;

/// Facts that the steps of `meshctl why` need besides the path itself. Older meshds do not send
/// them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// Dialect of the link to the node; `None` if the node is no neighbour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Dialect>,
    /// The nexthop for the node's lines, if it is not the node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<String>,
    /// Highest dialect that the node announced to this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offers: Option<Dialect>,
    /// Least dialect that this end speaks with the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_protocol: Option<Dialect>,
    /// Content of the node's host file at this end.
    pub host_file: HostFile,
    /// Fingerprint of the Ed25519 key in the host file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The first Address lines of the host file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The first of the learned addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<SocketAddr>,
    /// The first Subnet lines of the host file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Prefix>,
    /// The first announced subnet that this end does not accept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRow>,
    /// True if UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// Dial state of this end for the node; `None` if this end wants no link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial: Option<DialReport>,
    /// The last dial of this end, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<DialFailureRow>,
    /// The last peer that claimed the node's name without proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproven: Option<UnprovenRow>,
    /// True if a tunnel handshake waits for an answer.
    pub handshake: bool,
}

impl NodeReport {
    /// Returns the part of the report that other nodes may see.
    #[must_use]
    pub fn shared(self) -> PathReport {
        let refused = self.refused.into_iter().take(1).map(|row| RefusedRow {
            why: short(&row.why),
            ..row
        });
        let detail = Detail {
            link: self.peer.link,
            nexthop: self.nexthop,
            offers: self.peer.offers,
            min_protocol: self.peer.min_protocol,
            host_file: self.peer.host_file,
            fingerprint: self.fingerprint,
            addresses: self.addresses.into_iter().take(MAX_LINES).collect(),
            learned: self.learned.into_iter().take(1).collect(),
            listed: self.listed.into_iter().take(MAX_LINES).collect(),
            refused: refused.collect(),
            udp_discovery: self.udp_discovery,
            dial: self.dial,
            missed: self.missed.map(|row| DialFailureRow {
                text: short(&row.text),
                ..row
            }),
            unproven: self.unproven.map(|row| UnprovenRow {
                text: short(&row.text),
                ..row
            }),
            handshake: self.handshake,
        };
        PathReport {
            detail: Some(Box::new(detail)),
            ..self.pair
        }
    }

    /// Makes a report from the view of `node` that another node sent. Fields that the other node
    /// did not send have their defaults.
    #[must_use]
    pub fn of_shared(node: &str, pair: &PathReport) -> Self {
        let detail = pair.detail.as_deref().cloned().unwrap_or_default();
        Self {
            peer: PeerRow {
                name: node.to_owned(),
                up: pair.up,
                path: pair.path,
                via: pair.via.clone(),
                protocol: pair.protocol,
                link: detail.link,
                rtt_seconds: pair.rtt_seconds,
                pmtu_bytes: pair.mtu.proven_bytes,
                reason: pair.reason.clone(),
                offers: detail.offers,
                min_protocol: detail.min_protocol,
                host_file: detail.host_file,
                ..PeerRow::default()
            },
            pair: pair.clone(),
            nexthop: detail.nexthop,
            fingerprint: detail.fingerprint,
            addresses: detail.addresses,
            learned: detail.learned,
            listed: detail.listed,
            refused: detail.refused,
            udp_discovery: pair.detail.is_none() || detail.udp_discovery,
            dial: detail.dial,
            missed: detail.missed,
            unproven: detail.unproven,
            handshake: detail.handshake,
            ..Self::default()
        }
    }
}
