//! Allow: lets nodes of the mesh reach ports of this node. meshd does not filter; the firewall rules of `meshctl
//! firewall` do.
//!
//! Source: config/toml.md section 3.

use std::fmt;

use meshd_proto::mesh::settings::Host;
use meshd_wire::NodeName;

use crate::values;

/// One rule: `FROM TO`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// Source nodes.
    pub from: Whom,
    /// Services that they may reach.
    pub to: What,
}

/// Nodes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// `*`: every node.
    All,
    /// This one.
    Node(NodeName),
    /// `NAME=VALUE`: every node whose host file has this label.
    Label(String, String),
}

/// A service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// `*`: everything.
    All,
    /// `icmp`: ICMP and ICMPv6.
    Icmp,
    /// `tcp/PORT`, `udp/FIRST-LAST`.
    Ports {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// First port, 1 to 65535.
        first: u16,
        /// Last one, not before it.
        last: u16,
    },
}

impl Whom {
    /// Parses a source. The error is one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::All);
        }
        if text.contains('=') {
            return values::label(text).map(|(name, value)| Self::Label(name, value));
        }
        NodeName::new(text)
            .map(Self::Node)
            .map_err(|_| format!("{text:?} is not a node name, a label NAME=VALUE or `*`"))
    }

    /// True if it matches a node, by name and host file.
    #[must_use]
    pub fn means(&self, name: &NodeName, host: &Host) -> bool {
        match self {
            Self::All => true,
            Self::Node(node) => node == name,
            Self::Label(key, value) => host.labels.get(key) == Some(value),
        }
    }
}

impl What {
    /// Parses a service. The error is one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a service; write tcp/PORT, udp/PORT, tcp/FIRST-LAST, udp/FIRST-LAST, icmp or `*`"
            )
        };
        let (protocol, ports) = match text {
            "*" => return Ok(Self::All),
            "icmp" => return Ok(Self::Icmp),
            _ => text.split_once('/').ok_or_else(wrong)?,
        };
        let known = ["tcp", "udp"].into_iter().find(|known| *known == protocol);
        let protocol = known.ok_or_else(wrong)?;
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let port = text.parse::<u16>().ok();
            port.filter(|port| digits && *port > 0).ok_or_else(wrong)
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (port(first)?, port(last)?);
        match first <= last {
            true => Ok(Self::Ports {
                protocol,
                first,
                last,
            }),
            false => Err(format!(
                "{text:?} ends before it begins; write {protocol}/{last}-{first}"
            )),
        }
    }
}

impl Allow {
    /// Parses `FROM TO`. The error is one sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (from, to) = text.rsplit_once([' ', '\t']).ok_or_else(|| {
            format!("{text:?} is not a rule; write FROM TO, like `role=web tcp/3306`")
        })?;
        Ok(Self {
            from: Whom::parse(from.trim_end())?,
            to: What::parse(to)?,
        })
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Node(node) => write!(f, "{node}"),
            Self::Label(name, value) => write!(f, "{name}={value}"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Icmp => f.write_str("icmp"),
            Self::Ports {
                protocol,
                first,
                last,
            } if first == last => write!(f, "{protocol}/{first}"),
            Self::Ports {
                protocol,
                first,
                last,
            } => write!(f, "{protocol}/{first}-{last}"),
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.from, self.to)
    }
}

impl fmt::Debug for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_whole_and_shown_as_they_are_written() {
        for text in [
            "* *",
            "db_02 icmp",
            "role=web tcp/3306",
            "dc=ams 2 udp/1-65535",
            "role=web tcp/3000-3010",
        ] {
            assert_eq!(Allow::parse(text).unwrap().to_string(), text);
        }
        let blanks = Allow::parse("role = web \t tcp/3306").unwrap();
        assert_eq!(format!("{blanks:?}"), "role=web tcp/3306");
        for (bad, wanted) in [
            ("", "is not a rule"),
            ("tcp/3306", "is not a rule"),
            ("role= tcp/1", "is not a label"),
            ("a.b tcp/1", "not a node name, a label"),
            ("a tcp", "is not a service"),
            ("a tcp/", "is not a service"),
            ("a tcp/0", "is not a service"),
            ("a tcp/+5", "is not a service"),
            ("a tcp/65536", "is not a service"),
            ("a tcp/1-2-3", "is not a service"),
            ("a sctp/5", "is not a service"),
            ("a TCP/5", "is not a service"),
            ("a tcp/http", "is not a service"),
            ("a udp/9-5", "write udp/5-9"),
        ] {
            let error = Allow::parse(bad).unwrap_err();
            assert!(error.contains(wanted), "{bad:?}: {error}");
        }
    }

    #[test]
    fn nodes_are_meant_by_name_by_label_or_all() {
        let name = NodeName::new("web_01").unwrap();
        let mut host = Host::default();
        host.labels.insert("role".into(), "web".into());
        for (whom, means) in [
            ("*", true),
            ("web_01", true),
            ("web_02", false),
            ("role=web", true),
            ("role=we", false),
            ("dc=web", false),
        ] {
            assert_eq!(
                Whom::parse(whom).unwrap().means(&name, &host),
                means,
                "{whom}"
            );
        }
    }
}
