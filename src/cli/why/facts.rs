//! Facts about a node and the path to it, as plain values. [`super::judge`] reads nothing else.

use serde::Serialize;

use meshd_proto::mesh::reports::{
    path_report::{NodeReport, PathReport},
    view::{HostFile, SubnetRow},
};
use meshd_wire::NodeName;

/// All facts. The host file is read from disk; the rest is the daemon's state.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Our own node.
    pub(super) own: String,
    /// `-n NET ` for commands, or nothing.
    pub(super) net: String,
    /// The command that makes the daemon reload its files.
    pub(super) reload: String,
    /// ListenAddress lines that no interface has, each with the reason.
    pub(super) not_listening: Vec<String>,
    /// The main file.
    pub(super) main: String,
    pub(super) node: NodeName,
    /// The request, if it was an address or a subnet.
    pub(super) asked: Option<String>,
    /// Subnets that hold the requested address, best first; all of the node's subnets if it was asked for by name.
    pub(super) subnets: Vec<SubnetRow>,
    /// The requested subnet and the reason, if it is announced but refused.
    pub(super) refused: Option<(String, String)>,
    pub(super) disk: Disk,
    /// The daemon's view of the node; `None`: the daemon was not asked.
    pub(super) sight: Option<NodeReport>,
    pub(super) there: There,
    /// Start of the unanswered probes, as in `03:12:44`.
    pub(super) silent_since: Option<String>,
    pub(super) kernel: Kernel,
    pub(super) firewall: Firewall,
}

/// The present host file on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// State of the host file, or its first mistake; `None` if this user may not read it.
    pub(super) file: Option<Result<HostFile, String>>,
    /// Fingerprint of its Ed25519 key.
    pub(super) fingerprint: Option<String>,
    /// The reason, if the node is expired or revoked.
    pub(super) shut_out: Option<String>,
    /// Address lines.
    pub(super) addresses: Vec<String>,
    /// Subnet lines.
    pub(super) subnets: Vec<String>,
    /// Place of the MinProtocol that applies to the node, as in `tinc.conf:3`.
    pub(super) min_place: Option<String>,
    /// Place of TCPOnly.
    pub(super) tcp_only_place: Option<String>,
}

/// The other end's view of the path.
#[derive(Debug, Clone, Default)]
pub(super) enum There {
    /// The other end was not asked: there was no reason, or no path.
    #[default]
    NotAsked,
    /// The other end does not run a meshd with native.
    CannotBeAsked,
    /// The other end did not answer.
    Silent,
    /// The other end's report.
    Says(Box<PathReport>),
}

/// The interface that the kernel uses for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kernel {
    NotLooked(String),
    /// This interface; `ours` is the mesh device.
    To {
        address: String,
        interface: String,
        ours: String,
        source: Option<String>,
    },
    /// None.
    No {
        address: String,
        ours: String,
        why: String,
    },
}

/// Tells whether this machine's firewall admits our port, as far as visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Firewall {
    NotLooked(String),
    Open(String),
    /// Closed by this rule.
    Closed(String),
    /// A rule that meshctl cannot evaluate decides.
    Unsure(String),
}

/// One step from a name to a delivered packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Name {
    Resolve,
    Key,
    Trust,
    MetaPath,
    Endpoint,
    UdpProbe,
    PathMtu,
    SubnetOwner,
    LocalRoute,
    Firewall,
}

impl Name {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Resolve => "name",
            Self::Key => "key",
            Self::Trust => "trust",
            Self::MetaPath => "meta path",
            Self::Endpoint => "endpoint",
            Self::UdpProbe => "udp probe",
            Self::PathMtu => "pmtu",
            Self::SubnetOwner => "subnet owner",
            Self::LocalRoute => "local route",
            Self::Firewall => "firewall",
        }
    }
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Fine,
    Broken,
    /// Not tried, or intended.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) name: Name,
    pub(super) state: State,
    /// One sentence.
    pub(super) text: String,
    /// The remedy, if the step is broken.
    #[serde(skip)]
    pub(super) cure: String,
}

impl Step {
    pub(super) fn fine(name: Name, text: impl Into<String>) -> Self {
        let (state, text, cure) = (State::Fine, text.into(), String::new());
        Self {
            name,
            state,
            text,
            cure,
        }
    }

    pub(super) fn skipped(name: Name, text: impl Into<String>) -> Self {
        Self {
            state: State::Skipped,
            ..Self::fine(name, text)
        }
    }

    pub(super) fn broken(name: Name, text: impl Into<String>, cure: impl Into<String>) -> Self {
        let (state, cure) = (State::Broken, cure.into());
        Self {
            state,
            cure,
            ..Self::fine(name, text)
        }
    }
}
