//! What is known of a node and of the way to it, as plain values: [`super::judge`] needs nothing else.

use serde::Serialize;

use meshd_proto::mesh::reports::{
    path_report::{NodeReport, PathReport},
    view::{HostFile, SubnetRow},
};
use meshd_wire::NodeName;

/// All of it. The host file is that on disk, the rest what the daemon has in force.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Our own node.
    pub(super) own: String,
    /// `-n NET ` of commands, or nothing.
    pub(super) net: String,
    /// What to type so that the daemon reads its files anew.
    pub(super) reload: String,
    /// Addresses that nobody reaches us by, each with the reason.
    pub(super) not_listening: Vec<String>,
    /// The main file.
    pub(super) main: String,
    pub(super) node: NodeName,
    /// What was asked for, if that was an address or a subnet.
    pub(super) asked: Option<String>,
    /// What the asked address lies in, best first; all of the node's subnets if it was asked for by name.
    pub(super) subnets: Vec<SubnetRow>,
    /// The subnet that was asked for is announced and not believed: which, and why.
    pub(super) refused: Option<(String, String)>,
    pub(super) disk: Disk,
    /// What the daemon sees; `None`: it was not asked.
    pub(super) sight: Option<NodeReport>,
    pub(super) there: There,
    /// `03:12:44`: since when probes stay unanswered.
    pub(super) silent_since: Option<String>,
    pub(super) kernel: Kernel,
    pub(super) firewall: Firewall,
}

/// The host file as it stands there now.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// What it is good for, or the first mistake in it; `None` if we may not look.
    pub(super) file: Option<Result<HostFile, String>>,
    /// Fingerprint of its Ed25519 key.
    pub(super) fingerprint: Option<String>,
    /// It is expired or revoked by now.
    pub(super) shut_out: Option<String>,
    /// Address lines.
    pub(super) addresses: Vec<String>,
    /// Subnet lines.
    pub(super) subnets: Vec<String>,
    /// `tinc.conf:3`: where MinProtocol stands that counts for it.
    pub(super) min_place: Option<String>,
    /// Where TCPOnly stands.
    pub(super) tcp_only_place: Option<String>,
}

/// What the other end says of the way.
#[derive(Debug, Clone, Default)]
pub(super) enum There {
    /// It was not asked, as there was nothing to ask or no way to.
    #[default]
    NotAsked,
    /// It is no meshd that speaks native.
    CannotBeAsked,
    /// It did not answer.
    Silent,
    /// This.
    Says(Box<PathReport>),
}

/// Where the kernel sends packets for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kernel {
    NotLooked(String),
    /// Out of this interface; ours is the other one.
    To {
        address: String,
        interface: String,
        ours: String,
        source: Option<String>,
    },
    /// Nowhere.
    No {
        address: String,
        ours: String,
        why: String,
    },
}

/// Whether the firewall of this machine lets our port in, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Firewall {
    NotLooked(String),
    Open(String),
    /// By which rule it is closed.
    Closed(String),
    /// Rules that we cannot follow decide.
    Unsure(String),
}

/// One step of the way from a name to a packet that arrives.
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

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Fine,
    Broken,
    /// Not tried, or meant so.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) name: Name,
    pub(super) state: State,
    /// One sentence.
    pub(super) text: String,
    /// What to do about it, if it is broken.
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
