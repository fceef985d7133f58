//! Finds the first broken step: rules over facts, without IO, in the order of a packet's path.
//!
//! Source: cli/meshctl.md section 4.3.

use meshd_proto::{
    link::Dialect,
    mesh::reports::{
        path_report::{DialFailureRow, NodeReport},
        view::{DialFault, HostFile, PathKind},
    },
};

use crate::{
    table::age,
    why::facts::{Facts, Name, State, Step},
};

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `db_02 172.20.0.22: reachable, but over TCP (expected UDP)`
    pub(super) headline: String,
    pub(super) steps: Vec<Step>,
    /// The next command, or the remedy.
    pub(super) advice: String,
}

impl Verdict {
    /// Returns the first broken step.
    pub(super) fn broken(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.state == State::Broken)
    }
}

/// Judges one node.
pub(super) fn judge(facts: &Facts) -> Verdict {
    let steps = vec![
        facts.resolve(),
        facts.key(),
        facts.trust(),
        facts.meta_path(),
        facts.endpoint(),
        facts.udp_probe(),
        facts.path_mtu(),
        facts.subnet_owner(),
        facts.local_route(),
        facts.firewall(),
    ];
    let (net, node) = (&facts.net, &facts.node);
    let broken = steps.iter().find(|step| step.state == State::Broken);
    let advice = match (broken, &facts.sight) {
        (Some(step), _) => step.cure.clone(),
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

impl Facts {
    fn headline(&self) -> String {
        let node = &self.node;
        let first = self
            .asked
            .clone()
            .or_else(|| Some(self.subnets.first()?.subnet.clone()));
        let address = first.map_or_else(String::new, |subnet| format!(" {subnet}"));
        let how = match &self.sight {
            None => "according to the files".into(),
            Some(sight) => how(sight),
        };
        format!("{node}{address}: {how}")
    }

    fn resolve(&self) -> Step {
        let Self {
            node,
            asked,
            subnets,
            ..
        } = self;
        let text = match (asked, &self.refused, subnets.first()) {
            (Some(asked), Some((subnet, _)), _) => {
                format!("{asked} is in {subnet}, which {node} announces")
            }
            (Some(asked), None, Some(first)) => format!("{asked} is in {} of {node}", first.subnet),
            _ => format!("{node} is known"),
        };
        Step::fine(Name::Resolve, text)
    }

    /// Returns the node's best protocol and the required minimum, if the minimum forbids it.
    fn forbidden(&self) -> Option<(Dialect, Dialect)> {
        let peer = &self.sight.as_ref()?.peer;
        let (offers, min) = peer.offers.zip(peer.min_protocol)?;
        (offers < min).then_some((offers, min))
    }

    fn key(&self) -> Step {
        let (name, node, reload) = (Name::Key, &self.node, &self.reload);
        let net = &self.net;
        let bring = format!("Copy hosts/{node} from {node}, then {reload}");
        let disk = self.disk.file.as_ref();
        if let Some(Err(problem)) = disk {
            let cure = format!("Correct that file: `meshctl {net}check` shows every mistake");
            return Step::broken(name, problem, cure);
        }
        let reason = self
            .sight
            .as_ref()
            .and_then(|sight| sight.peer.reason.as_ref());
        let shut_out = reason.filter(|reason| reason.code == "shut_out");
        let shut_out = shut_out
            .map(|reason| &reason.text)
            .or(self.disk.shut_out.as_ref());
        if let Some(why) = shut_out {
            let text = format!("{node} is shut out by hosts/{node}: {why}");
            let cure = format!(
                "If that is wrong, change Expires or Revoked in hosts/{node}, then {reload}"
            );
            return Step::broken(name, text, cure);
        }
        let disk = disk.and_then(|file| file.as_ref().ok());
        let Some(sight) = &self.sight else {
            return match disk {
                None => Step::skipped(
                    name,
                    "this user may not read the host files; try it with sudo",
                ),
                Some(HostFile::Missing) => {
                    Step::broken(name, format!("there is no hosts/{node} here"), bring)
                }
                Some(HostFile::NoKey) => Step::skipped(
                    name,
                    format!("hosts/{node} has no Ed25519PublicKey: legacy at most"),
                ),
                Some(HostFile::Key) => {
                    Step::fine(name, self.known_key(self.disk.fingerprint.as_deref()))
                }
            };
        };
        let peer = &sight.peer;
        let loaded = disk.is_none_or(|disk| *disk == peer.host_file);
        let same_key =
            self.disk.fingerprint.is_none() || self.disk.fingerprint == sight.fingerprint;
        if !loaded || !same_key {
            let text = format!("the present hosts/{node} is not in force");
            return Step::broken(name, text, format!("Make meshd read it: {reload}"));
        }
        let legacy = Some(Dialect::Legacy);
        let speaks_legacy = peer.up && peer.protocol == legacy || peer.link == legacy;
        match peer.host_file {
            HostFile::Missing if !speaks_legacy => {
                return Step::broken(name, format!("there is no hosts/{node} here"), bring);
            }
            HostFile::NoKey if !speaks_legacy && peer.min_protocol > Some(Dialect::Legacy) => {
                let reason = peer
                    .reason
                    .as_ref()
                    .filter(|reason| reason.code == "no_key");
                let text = reason.map_or_else(
                    || format!("no Ed25519PublicKey in hosts/{node}"),
                    |reason| reason.text.clone(),
                );
                return Step::broken(name, text, bring);
            }
            HostFile::Missing => {
                return Step::fine(
                    name,
                    format!("no hosts/{node}: legacy, as announced by its neighbours"),
                );
            }
            HostFile::NoKey | HostFile::Key => {}
        }
        let in_question = self.forbidden().is_none() && peer.link.is_none();
        if in_question
            && peer.protocol.is_none()
            && let Some(step) = self.unproven(sight)
        {
            return step;
        }
        let proven = match (peer.link, peer.protocol) {
            (None, None) => "",
            (Some(_), _) => ", proven on its link",
            (None, Some(_)) => ", proven in its tunnel",
        };
        let file = match peer.host_file {
            HostFile::Key => self.known_key(sight.fingerprint.as_deref()),
            _ => format!("hosts/{node}, RSA, for legacy"),
        };
        Step::fine(name, format!("{file}{proven}"))
    }

    fn known_key(&self, fingerprint: Option<&str>) -> String {
        let short: String = fingerprint.unwrap_or("-").chars().take(15).collect();
        format!("hosts/{}, ed25519 {short}…", self.node)
    }

    /// Returns a step if a peer at the address does not prove the key, or refuses ours.
    fn unproven(&self, sight: &NodeReport) -> Option<Step> {
        let (node, own, net) = (&self.node, &self.own, &self.net);
        let cure = format!(
            "Compare the keys: `meshctl {net}status` on {node} shows the key for hosts/{node} here, and the same command here shows the key for hosts/{own} there"
        );
        let text = match (&sight.missed, &sight.unproven) {
            (Some(missed), _) if missed.fault == DialFault::Handshake && !is_policy(missed) => {
                format!(
                    "a peer answers, but it lacks the key of hosts/{node}, or does not know our key: {}",
                    missed.text
                )
            }
            (_, Some(one)) => format!(
                "a peer at {} connected as {node} without the key of hosts/{node}, {} ago: {}",
                one.address,
                age(one.seconds, true),
                one.text
            ),
            _ if sight.pair.up
                && sight.handshake
                && !sight.pair.tcp_only_here
                && !sight.pair.tcp_only_there =>
            {
                format!(
                    "no answer to tunnel handshakes: {node} has a key other than that of hosts/{node}, or an old key of ours"
                )
            }
            _ => return None,
        };
        Some(Step::broken(Name::Key, text, cure))
    }

    fn trust(&self) -> Step {
        let (name, node, reload) = (Name::Trust, &self.node, &self.reload);
        if let Some((offers, min)) = self.forbidden() {
            let place = self.disk.min_place.as_deref().unwrap_or(&self.main);
            let text = format!(
                "{node} speaks at most {}, and MinProtocol = {} ({place}) forbids that",
                offers.name(),
                min.name()
            );
            let cure = format!(
                "Install meshd on {node}, or write `MinProtocol = {}` into hosts/{node} until then and {reload}",
                offers.name()
            );
            return Step::broken(name, text, cure);
        }
        let missed = self.sight.as_ref().and_then(|sight| sight.missed.as_ref());
        if let Some(missed) = missed.filter(|missed| is_policy(missed)) {
            let cure = format!(
                "Install meshd on {node}, or write `MinProtocol = sptps` into hosts/{node} until then and {reload}"
            );
            return Step::broken(name, missed.text.clone(), cure);
        }
        let refused = self.refused.clone().or_else(|| {
            let first = self
                .sight
                .as_ref()?
                .refused
                .first()
                .filter(|_| self.asked.is_none())?;
            Some((first.subnet.clone(), first.why.clone()))
        });
        if let Some((subnet, why)) = refused {
            let text = format!("{node} announces {subnet}, which is refused: {why}");
            let cure = format!(
                "If it is right, write `Subnet = {subnet}` into hosts/{node} here, then {reload}"
            );
            return Step::broken(name, text, cure);
        }
        let listed = match &self.sight {
            Some(sight) => &sight.listed,
            None => &self.disk.subnets,
        };
        let Some(first) = self
            .subnets
            .iter()
            .find(|row| row.owner.as_deref() == Some(node.as_str()))
        else {
            return Step::skipped(name, format!("{node} has no subnet"));
        };
        let subnet = &first.subnet;
        Step::fine(
            name,
            match listed.contains(subnet) {
                true => format!("{subnet} listed in hosts/{node}"),
                false => format!("{subnet} announced by {node}, listed for no other node"),
            },
        )
    }
}

/// Describes the path to the node.
fn how(sight: &NodeReport) -> String {
    let pair = &sight.pair;
    let meant = pair.tcp_only_here || pair.tcp_only_there;
    match pair.path {
        PathKind::Udp => "reachable by UDP".into(),
        PathKind::Tcp if meant => "reachable over TCP, as TCPOnly says".into(),
        PathKind::Tcp => "reachable, but over TCP (expected UDP)".into(),
        PathKind::Via if pair.indirect || meant => format!(
            "reachable through {}",
            pair.via.as_deref().unwrap_or("others")
        ),
        PathKind::Via => format!(
            "reachable, but through {} (expected UDP)",
            pair.via.as_deref().unwrap_or("others")
        ),
        PathKind::Down => "down".into(),
    }
}

/// True if MinProtocol ended a link: the link's error names it.
fn is_policy(missed: &DialFailureRow) -> bool {
    missed.fault == DialFault::Handshake && missed.text.contains("MinProtocol")
}
