//! The steps that admit a node: its key, and the rules for its protocol and subnets.

use meshd_api::report::{DialFailureRow, NodeReport};
use meshd_proto::{
    dialect::Dialect,
    mesh::reports::facts::{DialFault, HostFile},
};

use crate::{
    Code, Finding, host_file,
    units::age,
    why::{PathFacts, Step},
};

impl PathFacts {
    /// Returns the node's best protocol and the required minimum, if the minimum forbids it.
    fn forbidden(&self) -> Option<(Dialect, Dialect)> {
        let peer = &self.report.as_ref()?.peer;
        let (offers, min) = peer.offers.zip(peer.min_protocol)?;
        (offers < min).then_some((offers, min))
    }

    pub(super) fn key(&self) -> Finding {
        let net = self.here.option();
        if let Some(Err(problem)) = &self.disk.file {
            let remedy = format!("Correct that file: `meshctl {net}check` shows every mistake");
            return host_file::bad(Step::Key, problem).remedy(remedy);
        }
        if let Some(step) = self.shut_out() {
            return step;
        }
        match &self.report {
            None => self.key_on_disk(),
            Some(report) => self.key_in_force(report),
        }
    }

    fn shut_out(&self) -> Option<Finding> {
        let (node, reload) = (self.node(), self.here.reload());
        let report = self.report.as_ref();
        let reason = report.and_then(|report| report.peer.reason.as_ref());
        let reason = reason.filter(|reason| reason.code == Code::ShutOut.word());
        let why = reason.map(|reason| &reason.text);
        let why = why.or(self.disk.shut_out.as_ref())?;
        let text = format!("{node} is shut out by hosts/{node}: {why}");
        let remedy =
            format!("If that is wrong, change Expires or Revoked in hosts/{node}, then {reload}");
        Some(Finding::new(Code::ShutOut, Step::Key, text).remedy(remedy))
    }

    fn key_on_disk(&self) -> Finding {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::Key, text);
        let file = self.disk.file.as_ref().and_then(|file| file.as_ref().ok());
        match file {
            None => found(
                Code::HostFileUnreadable,
                "this user may not read the host files; try it with sudo".into(),
            ),
            Some(HostFile::Missing) => self.file_missing(),
            Some(HostFile::NoKey) => found(
                Code::LegacyAtMost,
                format!("hosts/{node} has no Ed25519PublicKey: legacy at most"),
            ),
            Some(HostFile::Key) => found(
                Code::KeyKnown,
                self.known_key(self.disk.fingerprint.as_deref()),
            ),
        }
    }

    fn file_missing(&self) -> Finding {
        let text = host_file::missing(self.node());
        Finding::new(Code::HostFileMissing, Step::Key, text).remedy(self.copy())
    }

    fn copy(&self) -> String {
        host_file::sentence(&host_file::copy(self.node(), &self.here))
    }

    fn key_in_force(&self, report: &NodeReport) -> Finding {
        let (node, peer) = (self.node(), &report.peer);
        let disk = self.disk.file.as_ref().and_then(|file| file.as_ref().ok());
        let loaded = disk.is_none_or(|disk| *disk == peer.host_file);
        let same_key =
            self.disk.fingerprint.is_none() || self.disk.fingerprint == report.fingerprint;
        if !loaded || !same_key {
            let mut step = host_file::not_in_force(Step::Key, node, &self.here);
            step.remedy = format!("Make meshd read it: {}", step.remedy);
            return step;
        }
        let legacy = Some(Dialect::Legacy);
        let speaks_legacy = peer.up && peer.protocol == legacy || peer.link == legacy;
        match peer.host_file {
            HostFile::Missing if !speaks_legacy => return self.file_missing(),
            HostFile::NoKey if !speaks_legacy && peer.min_protocol > legacy => {
                let reason = peer.reason.as_ref();
                let reason = reason.filter(|reason| reason.code == Code::NoKey.word());
                let text = reason.map_or_else(
                    || format!("no Ed25519PublicKey in hosts/{node}"),
                    |reason| reason.text.clone(),
                );
                return Finding::new(Code::NoKey, Step::Key, text).remedy(self.copy());
            }
            HostFile::Missing => {
                let text = format!("no hosts/{node}: legacy, as announced by its neighbours");
                return Finding::new(Code::LegacyAnnounced, Step::Key, text);
            }
            HostFile::NoKey | HostFile::Key => {}
        }
        let in_question = self.forbidden().is_none() && peer.link.is_none();
        if in_question
            && peer.protocol.is_none()
            && let Some(step) = self.unproven(report)
        {
            return step;
        }
        let proven = match (peer.link, peer.protocol) {
            (None, None) => "",
            (Some(_), _) => ", proven on its link",
            (None, Some(_)) => ", proven in its tunnel",
        };
        let file = match peer.host_file {
            HostFile::Key => self.known_key(report.fingerprint.as_deref()),
            HostFile::NoKey | HostFile::Missing => format!("hosts/{node}, RSA, for legacy"),
        };
        Finding::new(Code::KeyKnown, Step::Key, format!("{file}{proven}"))
    }

    fn known_key(&self, fingerprint: Option<&str>) -> String {
        let short: String = fingerprint.unwrap_or("-").chars().take(15).collect();
        format!("hosts/{}, ed25519 {short}…", self.node())
    }

    /// Returns a step if a peer at the address does not prove the key, or refuses ours.
    fn unproven(&self, report: &NodeReport) -> Option<Finding> {
        let (node, own, net) = (self.node(), &self.here.node, self.here.option());
        let remedy = format!(
            "Compare the keys: `meshctl {net}status` on {node} shows the key for hosts/{node} here, and the same command here shows the key for hosts/{own} there"
        );
        let text = match (&report.missed, &report.unproven) {
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
            _ if report.pair.up
                && report.handshake
                && !report.pair.tcp_only_here
                && !report.pair.tcp_only_there =>
            {
                format!(
                    "no answer to tunnel handshakes: {node} has a key other than that of hosts/{node}, or an old key of ours"
                )
            }
            _ => return None,
        };
        Some(Finding::new(Code::KeyDiffers, Step::Key, text).remedy(remedy))
    }

    pub(super) fn trust(&self) -> Finding {
        let (node, reload) = (self.node(), self.here.reload());
        let found = |code, text: String| Finding::new(code, Step::Trust, text);
        if let Some((offers, min)) = self.forbidden() {
            let place = self.disk.min_place.as_deref().unwrap_or(&self.here.main);
            let (offers, min) = (offers.name(), min.name());
            let text = format!(
                "{node} speaks at most {offers}, and MinProtocol = {min} ({place}) forbids that"
            );
            let remedy = format!(
                "Install meshd on {node}, or write `MinProtocol = {offers}` into hosts/{node} until then and {reload}"
            );
            return found(Code::Forbidden, text).remedy(remedy);
        }
        let missed = self.report.as_ref().and_then(|seen| seen.missed.as_ref());
        if let Some(missed) = missed.filter(|missed| is_policy(missed)) {
            let remedy = format!(
                "Install meshd on {node}, or write `MinProtocol = sptps` into hosts/{node} until then and {reload}"
            );
            return found(Code::Forbidden, missed.text.clone()).remedy(remedy);
        }
        let target = &self.target;
        let refused = target.refused.clone().or_else(|| {
            let first = self.report.as_ref()?.refused.first();
            let first = first.filter(|_| target.asked.is_none())?;
            Some((first.subnet, first.why.clone()))
        });
        if let Some((subnet, why)) = refused {
            let text = format!("{node} announces {subnet}, which is refused: {why}");
            let remedy = format!(
                "If it is right, write `Subnet = {subnet}` into hosts/{node} here, then {reload}"
            );
            return found(Code::SubnetRefused, text).remedy(remedy);
        }
        let listed = match &self.report {
            Some(report) => &report.listed,
            None => &self.disk.subnets,
        };
        let mut subnets = target.subnets.iter();
        let Some(first) = subnets.find(|row| row.owner.as_deref() == Some(node)) else {
            return found(Code::SubnetMissing, format!("{node} has no subnet"));
        };
        let subnet = first.subnet;
        let text = match listed.contains(&subnet) {
            true => format!("{subnet} listed in hosts/{node}"),
            false => format!("{subnet} announced by {node}, listed for no other node"),
        };
        found(Code::SubnetAccepted, text)
    }
}

/// True if MinProtocol ended a link: the link's error names it.
fn is_policy(missed: &DialFailureRow) -> bool {
    missed.fault == DialFault::Handshake && missed.text.contains("MinProtocol")
}
