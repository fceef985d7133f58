//! Script calls: a name from a fixed list with typed values.
//!
//! The script process ([`super::monitor`]) accepts nothing else from the daemon. Path, interpreter, directory, names of
//! variables and time limits are not part of a call. Source: config/tinc.md section 3.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use meshd_proto::mesh::event::HookEvent;
use meshd_wire::{
    NodeName, Subnet,
    subnet::{DEFAULT_WEIGHT, Prefix},
};

/// Time limit of a script. Source: proto/threat-model.md section 4.
const LIMIT: Duration = Duration::from_secs(30);
/// Time limit of tinc-up and tinc-down; the start waits for tinc-up. Source: proto/threat-model.md section 4.
const LIMIT_DEVICE: Duration = Duration::from_secs(60);

/// One script to run. Values have types with harmless text: names, addresses, numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Call {
    /// tinc-up, tinc-down.
    Device {
        /// True for tinc-up.
        up: bool,
    },
    /// host-up, host-down.
    Host {
        /// True for host-up.
        up: bool,
        /// NODE.
        node: NodeName,
        /// REMOTEADDRESS and REMOTEPORT.
        address: Option<SocketAddr>,
    },
    /// hosts/NODE-up, hosts/NODE-down.
    HostFile {
        /// True for hosts/NODE-up.
        up: bool,
        /// NODE.
        node: NodeName,
        /// REMOTEADDRESS and REMOTEPORT.
        address: Option<SocketAddr>,
    },
    /// subnet-up, subnet-down.
    Subnet {
        /// True for subnet-up.
        up: bool,
        /// NODE.
        node: NodeName,
        /// SUBNET and WEIGHT.
        #[serde(with = "text")]
        subnet: Subnet,
        /// REMOTEADDRESS and REMOTEPORT.
        address: Option<SocketAddr>,
    },
}

impl Call {
    /// Returns the calls of an event, in order.
    #[must_use]
    pub fn of(event: &HookEvent) -> Vec<Self> {
        match event.clone() {
            HookEvent::Host { up, node, address } => {
                let own = node.clone();
                vec![
                    Self::Host { up, node, address },
                    Self::HostFile {
                        up,
                        node: own,
                        address,
                    },
                ]
            }
            HookEvent::Subnet {
                up,
                node,
                subnet,
                address,
            } => vec![Self::Subnet {
                up,
                node,
                subnet,
                address,
            }],
        }
    }

    /// Returns the script below the configuration directory, without extension.
    #[must_use]
    pub fn script(&self) -> String {
        match self {
            Self::HostFile { up, node, .. } => format!("hosts/{node}-{}", updown(*up)),
            _ => self.kind().to_owned(),
        }
    }

    /// Returns the script's name in RunScripts, where hosts/NODE-up counts as host-up.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Device { up: true } => "tinc-up",
            Self::Device { up: false } => "tinc-down",
            Self::Host { up: true, .. } | Self::HostFile { up: true, .. } => "host-up",
            Self::Host { up: false, .. } | Self::HostFile { up: false, .. } => "host-down",
            Self::Subnet { up: true, .. } => "subnet-up",
            Self::Subnet { up: false, .. } => "subnet-down",
        }
    }

    /// Returns the script's own variables.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let (node, address, subnet) = match self {
            Self::Device { .. } => return Vec::new(),
            Self::Host { node, address, .. } | Self::HostFile { node, address, .. } => {
                (node, address, None)
            }
            Self::Subnet {
                node,
                address,
                subnet,
                ..
            } => (node, address, Some(subnet)),
        };
        let mut env = vec![("NODE", node.to_string())];
        env.extend(remote(*address));
        env.extend(subnet.into_iter().flat_map(network));
        env
    }

    /// Returns the lane: the node. Scripts of one lane run one after another.
    #[must_use]
    pub fn lane(&self) -> String {
        match self {
            Self::Device { .. } => String::new(),
            Self::Host { node, .. } | Self::HostFile { node, .. } | Self::Subnet { node, .. } => {
                node.to_string()
            }
        }
    }

    /// True if `other` runs the same script on the same subject, so that only the later one must run.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        let subject = |call: &Self| match call {
            Self::Subnet { subnet, .. } => Some(*subnet),
            _ => None,
        };
        self.script() == other.script() && subject(self) == subject(other)
    }

    /// Returns the time limit of the script.
    #[must_use]
    pub(super) fn limit(&self) -> Duration {
        match self {
            Self::Device { .. } => LIMIT_DEVICE,
            _ => LIMIT,
        }
    }
}

fn updown(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// Unset for an unknown address: scripts see only valid addresses.
fn remote(address: Option<SocketAddr>) -> impl Iterator<Item = (&'static str, String)> {
    let words = address.map(|address| {
        [
            ("REMOTEADDRESS", address.ip().to_string()),
            ("REMOTEPORT", address.port().to_string()),
        ]
    });
    words.into_iter().flatten()
}

/// Returns SUBNET and WEIGHT as tinc 1.1 writes them: the weight is empty if it is the default.
fn network(subnet: &Subnet) -> [(&'static str, String); 2] {
    let weight = match subnet.weight {
        DEFAULT_WEIGHT => String::new(),
        weight => weight.to_string(),
    };
    let prefix: &Prefix = &subnet.prefix;
    [("SUBNET", prefix.to_string()), ("WEIGHT", weight)]
}

/// Serializes a value by its type's text form.
mod text {
    use std::{borrow::Cow, fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Cow::<str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(env: &[(&str, String)]) -> Vec<String> {
        env.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    #[test]
    fn subnets_have_the_short_form_and_an_unknown_address_is_unset() {
        for (text, subnet, weight) in [
            ("10.1.0.9/32#10", "SUBNET=10.1.0.9", "WEIGHT="),
            ("fd00:2:0::/64#5", "SUBNET=fd00:2::/64", "WEIGHT=5"),
        ] {
            let event = HookEvent::Subnet {
                up: false,
                node: NodeName::new("berlin").unwrap(),
                subnet: text.parse().unwrap(),
                address: None,
            };
            let calls = Call::of(&event);
            assert_eq!(calls[0].script(), "subnet-down");
            assert_eq!(rendered(&calls[0].env()), ["NODE=berlin", subnet, weight]);
        }
    }

    #[test]
    fn no_value_from_the_wire_leaves_the_safe_alphabet() {
        // T33: text of a peer must first parse as a name, an address or a subnet.
        let hostile = [
            "$(touch /tmp/x)",
            "`id`",
            "a b",
            "x;y",
            "x\ny",
            "x\0y",
            "%n",
            "'\"",
            "../x",
        ];
        for text in hostile {
            assert!(NodeName::new(text).is_err(), "{text:?}");
            assert!(text.parse::<Subnet>().is_err(), "{text:?}");
            assert!(
                format!("10.0.0.1{text}").parse::<Subnet>().is_err(),
                "{text:?}"
            );
            // The script process rejects such values from the daemon too.
            for (node, subnet, address) in [
                (text, "10.0.0.1", "1.2.3.4:5"),
                ("a", text, "1.2.3.4:5"),
                ("a", "10.0.0.1", text),
            ] {
                let call = serde_json::json!({"Subnet": {
                    "up": true, "node": node, "subnet": subnet, "address": address
                }});
                assert!(serde_json::from_value::<Call>(call).is_err(), "{text:?}");
            }
        }
        let safe = |c: char| c.is_ascii_alphanumeric() || "_.:/#-".contains(c);
        for subnet in ["10.0.0.0/8#-5", "02:00:00:00:00:01", "::ffff:1.2.3.4/128#7"] {
            let event = HookEvent::Subnet {
                up: true,
                node: NodeName::new("a_B9").unwrap(),
                subnet: subnet.parse().unwrap(),
                address: Some("[::ffff:1.2.3.4]:1".parse().unwrap()),
            };
            let call = Call::of(&event).remove(0);
            for (key, value) in call.env() {
                assert!(value.chars().all(safe), "{key}={value:?}");
            }
            let line = serde_json::to_string(&call).unwrap();
            assert_eq!(serde_json::from_str::<Call>(&line).unwrap(), call, "{line}");
        }
    }

    #[test]
    fn a_call_with_anything_else_in_it_is_none() {
        let good = r#"{"Host":{"up":true,"node":"b","address":null}}"#;
        assert!(serde_json::from_str::<Call>(good).is_ok());
        for bad in [
            r#"{"Host":{"up":true,"node":"b","address":null,"path":"/bin/sh"}}"#,
            r#"{"Host":{"up":true,"node":"../b","address":null}}"#,
            r#"{"Host":{"up":1,"node":"b","address":null}}"#,
            r#"{"Host":{"up":true,"address":null}}"#,
            r#"{"Reboot":{"up":true}}"#,
            r#"{"Device":{"up":true},"Host":{"up":true,"node":"b","address":null}}"#,
            "{}",
            "",
        ] {
            assert!(serde_json::from_str::<Call>(bad).is_err(), "{bad}");
        }
    }
}
