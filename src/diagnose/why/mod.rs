//! The path from a name to a delivered packet, step by step: the first broken step is the reason.
//!
//! Source: cli/meshctl.md section 4.3.

pub(crate) mod ends;
mod explain;
mod graph;
mod key;
mod local;
mod path;
mod resolve;
#[cfg(test)]
pub(crate) mod tests;
mod udp;

use serde::Serialize;

use meshd_api::report::{NodeReport, PathReport};
use meshd_proto::mesh::reports::facts::PathKind;

use crate::{Code, Facts, Finding, Here, Subject, diagnose};

pub(crate) use ends::between;
pub use ends::{Side, add, judge_ends};
pub use explain::{Asked, Explained, explain};
pub use graph::chain;
pub use meshd_api::why::{Disk, Kernel, Other, PathBetween, Target, There, Unknown};
pub use resolve::World;
pub use udp::PROBES;

/// One step from a name to a delivered packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The request names a node.
    Resolve,
    /// The key of the node.
    Key,
    /// The rules that admit the node and its subnets.
    Trust,
    /// The way of lines.
    MetaPath,
    /// An address of the node.
    Endpoint,
    /// UDP probes.
    UdpProbe,
    /// The path MTU.
    PathMtu,
    /// The owner of the subnet.
    SubnetOwner,
    /// The route of this machine.
    LocalRoute,
    /// The firewall of this machine.
    Firewall,
}

impl Step {
    /// Returns the words of the step.
    #[must_use]
    pub const fn label(self) -> &'static str {
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

impl Finding {
    /// Returns the step that the finding is about.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        match self.subject {
            Subject::Step(step) => Some(step),
            Subject::Node(_) | Subject::Daemon => None,
        }
    }
}

/// The facts about one path. The host file is read from disk; the rest is the daemon's state at one instant.
#[derive(Debug, Clone)]
pub struct PathFacts {
    /// Our own node.
    pub here: Here,
    /// ListenAddress lines that no interface has, each with the reason.
    pub not_listening: Vec<String>,
    /// The other node.
    pub target: Target,
    /// The other node's files on this node.
    pub disk: Disk,
    /// The daemon's view of the node; `None`: the daemon was not asked.
    pub report: Option<NodeReport>,
    /// The other end's view of the path.
    pub there: There,
    /// Start of the unanswered probes, as in `03:12:44`.
    pub silent_since: Option<String>,
    /// The interface that the kernel uses.
    pub kernel: Kernel,
    /// The firewall of this machine.
    pub firewall: Firewall,
}

/// Tells whether this machine's firewall admits our port, as far as visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firewall {
    /// Not checked, for this reason.
    Unchecked(String),
    /// Open.
    Open(String),
    /// Closed by this rule.
    Closed(String),
    /// A rule that meshctl cannot evaluate decides.
    Unsure(String),
    /// Probes of this node arrive through it.
    ProbesArrive(String),
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `db_02 172.20.0.22: reachable, but over TCP (expected UDP)`
    pub headline: String,
    /// The steps in order.
    pub steps: Vec<Finding>,
    /// The next command, or the remedy.
    pub advice: String,
}

impl Verdict {
    /// Returns the first broken step.
    #[must_use]
    pub fn broken(&self) -> Option<&Finding> {
        self.steps.iter().find(|step| step.severity.is_fault())
    }
}

/// Judges the path from this node to another one.
#[must_use]
pub fn judge(facts: &PathFacts) -> Verdict {
    let steps = diagnose(&Facts::Path(facts));
    let (net, node) = (facts.here.option(), facts.node());
    let broken = steps.iter().find(|step| step.severity.is_fault());
    let advice = match (broken, &facts.report) {
        (Some(step), _) => step.remedy.clone(),
        (None, None) => format!(
            "Nothing is wrong in the files; with meshd running, `meshctl {net}why {node}` checks the rest"
        ),
        (None, Some(_)) => {
            format!("Nothing is broken; `meshctl {net}ping {node}` measures the path")
        }
    };
    Verdict {
        headline: facts.headline(),
        steps,
        advice,
    }
}

/// Judges a request that names this node.
#[must_use]
pub fn ourselves(here: &Here, target: &Target) -> Verdict {
    let node = &target.node;
    let text = match &target.asked {
        Some(asked) => format!("{asked} is ours"),
        None => format!("{node} is our own name"),
    };
    Verdict {
        headline: format!("{node}: this is our own node"),
        steps: vec![Finding::new(Code::NameOurs, Step::Resolve, text)],
        advice: format!("`meshctl {}status` shows it", here.option()),
    }
}

/// Judges a request that names no node.
#[must_use]
pub fn unknown(typed: &str, end: &Unknown) -> Verdict {
    let Unknown { text, remedy } = end;
    let step = Finding::new(Code::NameUnknown, Step::Resolve, text.as_str());
    Verdict {
        headline: format!("{typed}: not known"),
        advice: remedy.clone(),
        steps: vec![step.remedy(remedy.as_str())],
    }
}

impl PathFacts {
    pub(crate) fn steps(&self) -> Vec<Finding> {
        vec![
            self.resolve(),
            self.key(),
            self.trust(),
            self.meta_path(),
            self.endpoint(),
            self.udp_probe(),
            self.path_mtu(),
            self.subnet_owner(),
            self.local_route(),
            self.firewall(),
        ]
    }

    fn node(&self) -> &str {
        self.target.node.as_str()
    }

    fn headline(&self) -> String {
        let Target { node, asked, .. } = &self.target;
        let first = self.target.subnets.first().map(|row| row.subnet);
        let first = asked
            .clone()
            .or_else(|| first.map(|subnet| subnet.to_string()));
        let address = first.map_or_else(String::new, |subnet| format!(" {subnet}"));
        let how = match &self.report {
            None => "according to the files".into(),
            Some(report) => how(&report.pair),
        };
        format!("{node}{address}: {how}")
    }

    fn resolve(&self) -> Finding {
        let Target {
            node,
            asked,
            subnets,
            refused,
        } = &self.target;
        let text = match (asked, refused, subnets.first()) {
            (Some(asked), Some((subnet, _)), _) => {
                format!("{asked} is in {subnet}, which {node} announces")
            }
            (Some(asked), None, Some(first)) => format!("{asked} is in {} of {node}", first.subnet),
            _ => format!("{node} is known"),
        };
        Finding::new(Code::NameKnown, Step::Resolve, text)
    }
}

/// Describes the path to the node.
fn how(pair: &PathReport) -> String {
    let intended = pair.tcp_only_here || pair.tcp_only_there;
    let via = pair.via.as_deref().unwrap_or("others");
    match pair.path {
        PathKind::Udp => "reachable by UDP".into(),
        PathKind::Tcp if intended => "reachable over TCP, as TCPOnly says".into(),
        PathKind::Tcp => "reachable, but over TCP (expected UDP)".into(),
        PathKind::Via if pair.indirect || intended => format!("reachable through {via}"),
        PathKind::Via => format!("reachable, but through {via} (expected UDP)"),
        PathKind::Down => "down".into(),
    }
}
