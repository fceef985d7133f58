//! The firewall of this machine: what it does with our port.

mod nft;

use std::{net::IpAddr, process::Command};

use serde_json::Value;

use nft::{Fate, Packet};

/// What can be seen of the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The port is open, for all or for whom was asked.
    Open(String),
    /// It is not, by this rule.
    Closed(String),
    /// A rule decides that we do not understand.
    Unsure(String),
    /// Why nothing was seen.
    Nothing(String),
}

/// Looks whether UDP and TCP to our port come in, from an address if one is known.
pub(super) fn look(from: Option<IpAddr>, port: u16) -> Seen {
    let ruleset = match ruleset() {
        Ok(ruleset) => ruleset,
        Err(why) => return Seen::Nothing(why),
    };
    let whom = from.map_or_else(String::new, |from| format!(" from {from}"));
    for protocol in ["udp", "tcp"] {
        let packet = Packet {
            protocol,
            port,
            from,
        };
        match nft::fate(&ruleset, packet) {
            Fate::Accepted => {}
            Fate::Dropped(rule) => {
                return Seen::Closed(format!("{port}/{protocol}{whom} is closed here: {rule}"));
            }
            Fate::Unknown(rule) => {
                return Seen::Unsure(format!(
                    "{port}/{protocol}{whom}: not known, {rule} decides"
                ));
            }
        }
    }
    Seen::Open(format!(
        "{port}/udp and {port}/tcp{whom} are open here (nft)"
    ))
}

/// What nft prints, which is what ufw, firewalld and iptables make of their rules too.
fn ruleset() -> Result<Value, String> {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let output = output.map_err(|error| format!("nft cannot be run: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("nft fails");
        return Err(format!("{first}; try it with sudo"));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("nft prints no JSON: {error}"))
}
