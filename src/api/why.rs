//! Facts about the path between two nodes: the answer to [`crate::call::Why`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use meshd_proto::mesh::reports::facts::HostFile;
use meshd_wire::{NodeName, subnet::Prefix};

use crate::{
    proto::{EdgeRow, SubnetRow},
    report::{NodeReport, PathReport},
};

/// Longest time that the daemon takes for the answer: its probes, and its questions to the ends.
pub const LONGEST: Duration = Duration::from_secs(10);

/// The path between two nodes. The daemon takes its own facts at one instant, after its probes and the answers of the
/// ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathBetween {
    /// The first end.
    pub from: End,
    /// The second end.
    pub to: End,
    /// The daemon that answers.
    pub daemon: Daemon,
    /// All edges.
    pub edges: Vec<EdgeRow>,
}

/// The daemon that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process id.
    pub pid: u32,
    /// Configuration directory.
    pub config: String,
    /// Name of the device, if one exists.
    pub interface: Option<String>,
    /// Port of its first listening socket.
    pub port: u16,
    /// ListenAddress lines that no interface has, each with the reason.
    pub not_listening: Vec<String>,
}

/// One end of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum End {
    /// The request names no node.
    Unknown(Unknown),
    /// The daemon's own node.
    Own(Target),
    /// Another node.
    Other(Box<Other>),
}

/// A request that names no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// One sentence for people.
    pub text: String,
    /// The remedy.
    pub remedy: String,
}

/// An end that is not the daemon's own node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// The end.
    pub target: Target,
    /// The daemon's report on the end.
    pub report: NodeReport,
    /// Start of the daemon's unanswered probes to the end, as in `03:12:44`.
    pub silent_since: Option<String>,
    /// View that the end has of the other end.
    pub there: There,
    /// Start of the end's unanswered probes, as it reports it.
    pub there_silent_since: Option<String>,
    /// Facts of the daemon's machine; `None` between two other nodes.
    pub local: Option<Local>,
}

impl Other {
    /// Makes an end that was not asked, without facts of a machine.
    #[must_use]
    pub fn new(target: Target, report: NodeReport) -> Self {
        Self {
            target,
            report,
            silent_since: None,
            there: There::NotAsked,
            there_silent_since: None,
            local: None,
        }
    }
}

/// Facts of the daemon's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Local {
    /// The end's files.
    pub disk: Disk,
    /// The interface that the kernel uses.
    pub kernel: Kernel,
}

/// The node that a request names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The node.
    pub node: NodeName,
    /// The typed text, if it is not a name.
    pub asked: Option<String>,
    /// Subnets that hold the request, best first. For a name: its subnets, and other owners of the same subnets.
    pub subnets: Vec<SubnetRow>,
    /// The subnet and the reason, if its only owner's announcement is refused.
    pub refused: Option<(Prefix, String)>,
}

impl Target {
    /// Returns the typed address, or the first address of the first subnet.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let typed = self.asked.as_ref().and_then(|asked| asked.parse().ok());
        let first = || {
            let mut subnets = self.subnets.iter();
            subnets.find_map(|row| first_address(row.subnet))
        };
        typed.or_else(first)
    }
}

/// Returns the address of a host, or the first address of a network.
fn first_address(subnet: Prefix) -> Option<IpAddr> {
    match subnet {
        Prefix::V4(net, 31..) => Some(net.into()),
        Prefix::V4(net, _) => Some(Ipv4Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::V6(net, 127..) => Some(net.into()),
        Prefix::V6(net, _) => Some(Ipv6Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::Mac(_) => None,
    }
}

/// The present host file on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// State of the host file, or its first mistake; `None` if this user may not read it.
    pub file: Option<Result<HostFile, String>>,
    /// Fingerprint of its Ed25519 key.
    pub fingerprint: Option<String>,
    /// The reason, if the node is expired or revoked.
    pub shut_out: Option<String>,
    /// Address lines.
    pub addresses: Vec<String>,
    /// Subnet lines.
    pub subnets: Vec<Prefix>,
    /// Place of the MinProtocol that applies to the node, as in `tinc.conf:3`.
    pub min_place: Option<String>,
    /// Place of TCPOnly.
    pub tcp_only_place: Option<String>,
}

/// View that an end has of the path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum There {
    /// The end was not asked: there was no reason, or no path.
    #[default]
    NotAsked,
    /// The end does not run a meshd with native.
    CannotBeAsked,
    /// The end did not answer.
    Silent,
    /// The end's report.
    Says(Box<PathReport>),
}

impl There {
    /// Returns the end's report, if it sent one.
    #[must_use]
    pub fn report(&self) -> Option<&PathReport> {
        match self {
            Self::Says(report) => Some(report),
            Self::NotAsked | Self::CannotBeAsked | Self::Silent => None,
        }
    }
}

/// The interface that the kernel uses for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kernel {
    /// Not checked, for this reason.
    Unchecked(String),
    /// Not known from here: only the other end knows it.
    NotSeen(String),
    /// This interface; `ours` is the mesh device.
    To {
        /// The address.
        address: String,
        /// The interface in use.
        interface: String,
        /// The mesh device.
        ours: String,
        /// The source address in use.
        source: Option<String>,
    },
    /// None.
    No {
        /// The address.
        address: String,
        /// The mesh device.
        ours: String,
        /// The kernel's error.
        why: String,
    },
}
