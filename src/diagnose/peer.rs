//! The state of one node, as `peers`, the metrics and the log show it.

use meshd_api::rows::Reason;
use meshd_proto::mesh::reports::facts::{HostFacts, HostFile, NodeFacts, PathKind};

use crate::{Code, Finding};

/// Returns the finding on a node as the reason in its row.
#[must_use]
pub fn reason(node: &NodeFacts) -> Option<Reason> {
    let finding = find(node)?;
    Some(Reason {
        code: finding.code.word(),
        text: finding.text,
    })
}

/// Returns the reason why the path to a node is worse than it could be, if it is.
#[must_use]
pub fn find(node: &NodeFacts) -> Option<Finding> {
    let (name, host, tunnel) = (&node.name, &node.host, &node.tunnel);
    let found = |code, text: String| Some(Finding::new(code, name.as_str(), text));
    if let Some(why) = &host.shut_out {
        return found(Code::ShutOut, format!("{why} (hosts/{name})"));
    }
    if host.sptps_here && !tunnel.legacy && host.file != HostFile::Key {
        return found(Code::NoKey, no_key(name.as_str(), host));
    }
    if node.path == PathKind::Down {
        return down(node);
    }
    if let Some(why) = &tunnel.suite_refused {
        return found(Code::LegacyCipher, format!("{why}: packets go over TCP"));
    }
    if node.path == PathKind::Udp && tunnel.legacy {
        return found(Code::Legacy, legacy(name.as_str(), host));
    }
    if node.path == PathKind::Udp {
        let text = "UDP carries short packets only: long ones go by TCP";
        let slow = node.udp.mtu_too_small;
        return slow.then(|| Finding::new(Code::MtuTooSmall, name.as_str(), text));
    }
    if node.route.tcp_only_there || node.route.tcp_only_here {
        return found(Code::TcpOnly, "TCPOnly is set".into());
    }
    if node.route.indirect {
        return found(Code::Indirect, "IndirectData is set on the way".into());
    }
    match (tunnel.established, tunnel.handshake, node.udp.unanswered) {
        (false, true, _) => found(Code::Handshake, "waiting for the tunnel handshake".into()),
        (false, false, _) => found(Code::Idle, "no tunnel yet: nothing was sent".into()),
        (true, _, 0) => found(
            Code::Idle,
            "nothing was sent lately, so UDP was not tried".into(),
        ),
        (true, _, probes) => found(
            Code::UdpNoReply,
            format!("{probes} UDP probes unanswered: is UDP blocked between us?"),
        ),
    }
}

fn down(node: &NodeFacts) -> Option<Finding> {
    let name = &node.name;
    let (code, text) = match &node.dial.failure {
        Some(failure) => (Code::CannotConnect, failure.error.clone()),
        None if node.host.file != HostFile::Missing && !node.host.has_address => (
            Code::NoAddress,
            format!("no Address in hosts/{name}, and no node reaches it"),
        ),
        None => (Code::NoPath, "no node reaches it".to_owned()),
    };
    Some(Finding::new(code, name.as_str(), text))
}

/// Explains the missing Ed25519 key of a node.
fn no_key(name: &str, host: &HostFacts) -> String {
    match (&host.bad_key, host.received_key) {
        (Some(why), _) => {
            format!("the Ed25519 key in hosts/{name} cannot be read ({why}): mend the line")
        }
        (None, Some(key)) => format!(
            "no Ed25519PublicKey in hosts/{name}: over a link that its RSA key authenticates {name} says that it is \
             `Ed25519PublicKey = {key}`, and with that line there, or LearnKeys = yes, SPTPS is spoken"
        ),
        (None, None) => format!("no Ed25519PublicKey in hosts/{name}"),
    }
}

/// Explains legacy with a node.
fn legacy(name: &str, host: &HostFacts) -> String {
    match host.file {
        _ if !host.sptps_here => "we speak nothing but legacy".into(),
        HostFile::Missing => {
            format!("legacy: it speaks nothing else, and there is no hosts/{name}")
        }
        HostFile::NoKey => format!("legacy: {}", no_key(name, host)),
        HostFile::Key => "legacy: it offers no more, and MinProtocol = legacy allows it".into(),
    }
}

/// Returns the finding on a new legacy link, for the log.
#[must_use]
pub fn legacy_link(node: &NodeFacts) -> Finding {
    let name = node.name.as_str();
    let why = legacy(name, &node.host);
    let text = format!("legacy link: protects against outsiders only ({why})");
    Finding::new(Code::LegacyLink, name, text)
}

/// Returns the finding on a key that a node sent over its legacy link, for the log.
#[must_use]
pub fn key_sent(node: &NodeFacts) -> Finding {
    let name = node.name.as_str();
    Finding::new(Code::NoKey, name, no_key(name, &node.host))
}

#[cfg(test)]
pub(crate) mod tests;
