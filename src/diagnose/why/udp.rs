//! The steps of a direct path: UDP probes and the path MTU.

use meshd_api::report::{NodeReport, PathReport};
use meshd_proto::mesh::reports::facts::PathKind;

use crate::{
    Code, Finding,
    why::{PathFacts, Step, There, path::rtt},
};

/// Number of probes before the path is judged.
pub const PROBES: u8 = 3;
/// A probe within this time shows that probes arrive; keepalives are 10 s apart.
const LATELY: f64 = 12.0;

impl PathFacts {
    pub(super) fn udp_probe(&self) -> Finding {
        let Some(report) = self.report.as_ref().filter(|report| report.pair.up) else {
            return Finding::new(Code::NotTried, Step::UdpProbe, "not tried");
        };
        self.udp_forbidden(report)
            .or_else(|| self.udp_state(report))
            .unwrap_or_else(|| self.udp_silent(report))
    }

    /// Returns a step if the configuration forbids UDP.
    fn udp_forbidden(&self, report: &NodeReport) -> Option<Finding> {
        let (node, pair) = (self.node(), &report.pair);
        let place = self.disk.tcp_only_place.as_ref();
        let place = place.map_or_else(String::new, |place| format!(" ({place})"));
        let found = |code, text: String| Some(Finding::new(code, Step::UdpProbe, text));
        if pair.tcp_only_here {
            return found(Code::TcpOnly, format!("TCPOnly is set here{place}: no UDP"));
        }
        if pair.tcp_only_there {
            return found(Code::TcpOnly, format!("{node} sets TCPOnly{place}: no UDP"));
        }
        if !report.udp_discovery {
            let text = "UDPDiscovery = no: no UDP probes";
            return found(Code::DiscoveryOff, text.into());
        }
        let reason = pair.reason.as_ref();
        let cipher = reason.filter(|reason| reason.code == Code::LegacyCipher.word())?;
        let net = self.here.option();
        let remedy = format!(
            "On {node}: set `Cipher = aes-256-cbc` in its hosts/{node}, or give it an Ed25519 key: `meshctl {net}migrate status`"
        );
        found(Code::LegacyCipher, cipher.text.clone()).map(|step| step.remedy(remedy))
    }

    /// Returns a step if probes are answered, or say nothing yet.
    fn udp_state(&self, report: &NodeReport) -> Option<Finding> {
        let (node, pair) = (self.node(), &report.pair);
        let udp = &pair.udp;
        let found = |code, text: String| Some(Finding::new(code, Step::UdpProbe, text));
        if udp.confirmed && pair.path == PathKind::Udp {
            let text = format!("{} answers{}", address(pair), rtt(report));
            return found(Code::UdpAnswers, text);
        }
        if !self.not_listening.is_empty() {
            return Some(self.deaf(Step::UdpProbe));
        }
        if pair.indirect {
            let text = "IndirectData on the path: packets go through relays";
            return found(Code::Indirect, text.into());
        }
        if pair.protocol.is_none() {
            return found(Code::Idle, "not tried: there is no tunnel yet".into());
        }
        if udp.unanswered == 0 || udp.address.is_none() {
            return found(
                Code::Idle,
                "not tried: no known address, or no traffic".into(),
            );
        }
        // The other end sends no probes for this check; its answer may still be in transit.
        if udp.unanswered < PROBES {
            let text = "just tried: no reply yet; ask again in a second";
            return found(Code::JustTried, text.into());
        }
        let text = format!(
            "no reply; meshd asks {node} for a new key, because it may have restarted; ask again in ten seconds"
        );
        match report.key_doubted {
            true => found(Code::KeyDoubted, text),
            false => None,
        }
    }

    fn udp_silent(&self, report: &NodeReport) -> Finding {
        let (node, own, net) = (self.node(), &self.here.node, self.here.option());
        let since = self.silent_since.as_ref();
        let since = since.map_or_else(String::new, |since| format!(" since {since}"));
        let remedy = match &self.there {
            There::Says(there) if hears(there) => format!(
                "Our probes arrive, so their answers are lost: check the firewall here and on the path back. Here: `meshctl {net}firewall --verify`"
            ),
            There::Says(_) => format!(
                "Likely a firewall between {own} and {node}. On {node}: `meshctl {net}firewall --verify`, and admit UDP at its port"
            ),
            There::NotAsked | There::CannotBeAsked | There::Silent => format!(
                "Likely a firewall between {own} and {node}. On both ends: admit UDP at the port of each (`meshctl {net}firewall --verify` where meshd runs)"
            ),
        };
        let text = format!(
            "{} no reply to {} probes{since}{}",
            address(&report.pair),
            report.pair.udp.unanswered,
            self.other_end()
        );
        Finding::new(Code::UdpNoReply, Step::UdpProbe, text).remedy(remedy)
    }

    /// Describes the other end's view of our probes.
    fn other_end(&self) -> String {
        let node = self.node();
        match &self.there {
            There::NotAsked => String::new(),
            There::CannotBeAsked => format!("; {node} does not run a meshd with native"),
            There::Silent => format!("; {node} does not answer when asked"),
            There::Says(there) if hears(there) => format!("; {node} says: our probes arrive"),
            There::Says(_) => format!("; {node} says: our packets do not arrive"),
        }
    }

    pub(super) fn path_mtu(&self) -> Finding {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::PathMtu, text);
        let report = self.report.as_ref();
        let up = report.filter(|report| report.pair.up && report.pair.udp.confirmed);
        let Some(report) = up else {
            return found(Code::NotTried, "not tried".into());
        };
        let mtu = &report.pair.mtu;
        if mtu.too_small {
            let remedy = format!(
                "The path drops longer datagrams: try `ping -M do -s 1000` to the endpoint of {node}, and admit ICMP \"fragmentation needed\""
            );
            let text = "not even packets of 512 bytes pass by UDP: long ones go over TCP";
            return found(Code::MtuTooSmall, text.into()).remedy(remedy);
        }
        match (mtu.proven_bytes, mtu.fixed) {
            (Some(bytes), true) => found(Code::MtuKnown, format!("packets of {bytes} bytes pass")),
            (Some(bytes), false) => {
                found(Code::MtuSearch, format!("search runs; {bytes} bytes pass"))
            }
            (None, _) => found(Code::MtuSearch, "still searched".into()),
        }
    }
}

fn address(pair: &PathReport) -> String {
    let at = pair.udp.address;
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// True if our last probes arrived there.
pub(super) fn hears(there: &PathReport) -> bool {
    let heard = there.udp.heard_seconds;
    heard.is_some_and(|seconds| seconds < LATELY)
}
