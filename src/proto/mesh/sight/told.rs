//! What a node tells another of the way to a third: its [`Sight`] without what is nobody else's business.

use serde::{Deserialize, Serialize};

use super::{DialSight, MAX_TEXT, MissedRow, Pair, RefusedRow, Sight, UnprovenRow};
use crate::{
    link::Dialect,
    mesh::view::{HostFile, PeerRow},
};

/// How many lines of each kind are told, so that an answer stays one short packet.
const MAX_LINES: usize = 2;

/// What the steps of `meshctl why` need besides the way itself. Older meshds do not tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// What the link to it speaks; `None` if it is no neighbour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The neighbour that its lines go to, if that is not itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<String>,
    /// The most that it speaks, as this end has heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offers: Option<Dialect>,
    /// The least that this end speaks with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_protocol: Option<Dialect>,
    /// What its host file is good for here.
    pub host_file: HostFile,
    /// Fingerprint of the Ed25519 key in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The first Address lines of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The first of the addresses that were learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<String>,
    /// The first Subnet lines of its host file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<String>,
    /// The first subnet that it announces and this end does not believe.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRow>,
    /// Whether UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// Whether this end wants a link to it, and what it does for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial: Option<DialSight>,
    /// Its last attempt, if that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<MissedRow>,
    /// Who last came under its name without proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproven: Option<UnprovenRow>,
    /// Whether a handshake of the tunnel waits for an answer.
    pub handshake: bool,
}

impl Sight {
    /// What others get of it.
    #[must_use]
    pub fn told(self) -> Pair {
        let some = |lines: Vec<String>| lines.into_iter().take(MAX_LINES).collect();
        let short = |text: String| text.chars().take(MAX_TEXT).collect();
        let refused = self.refused.into_iter().take(1).map(|row| RefusedRow {
            why: short(row.why),
            ..row
        });
        let detail = Detail {
            link: self.peer.link,
            nexthop: self.nexthop,
            offers: self.peer.offers,
            min_protocol: self.peer.min_protocol,
            host_file: self.peer.host_file,
            fingerprint: self.fingerprint,
            addresses: some(self.addresses),
            learned: self.learned.into_iter().take(1).collect(),
            listed: some(self.listed),
            refused: refused.collect(),
            udp_discovery: self.udp_discovery,
            dial: self.dial,
            missed: self.missed.map(|row| MissedRow {
                text: short(row.text),
                ..row
            }),
            unproven: self.unproven.map(|row| UnprovenRow {
                text: short(row.text),
                ..row
            }),
            handshake: self.handshake,
        };
        Pair {
            detail: Some(Box::new(detail)),
            ..self.pair
        }
    }

    /// What another node sees of `node`, from what it has told; the rest of it is as of a node of which nothing is known.
    #[must_use]
    pub fn of_told(node: &str, pair: &Pair) -> Self {
        let detail = pair.detail.as_deref().cloned().unwrap_or_default();
        Self {
            peer: PeerRow {
                name: node.to_owned(),
                up: pair.up,
                path: pair.path,
                via: pair.via.clone(),
                protocol: pair.protocol.clone(),
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
