//! Evaluates nftables for a packet, from the output of `nft -j list ruleset`. If a rule with an unknown expression
//! decides, the result is unknown.
//!
//! Source: libnftables-json(5).

use std::net::IpAddr;

use serde_json::Value;

use meshd_wire::Prefix;

/// Maximum depth of jumps, as in nftables.
const DEPTH: usize = 16;

/// The first packet of a new flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// `udp` or `tcp`.
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    /// Source address, if known.
    pub(super) from: Option<IpAddr>,
    /// Incoming interface, if known; never the loopback interface.
    pub(super) interface: Option<&'a str>,
}

/// Result for the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    /// Dropped by this rule or policy.
    Dropped(String),
    /// Decided by this rule, which meshctl cannot evaluate.
    Unknown(String),
}

/// Result of a rule or chain.
enum Turn {
    /// Continue with the next rule.
    On,
    Accept,
    Drop(String),
    /// Return to the calling chain.
    Return,
}

/// Rules that may have decided, by their verdict.
#[derive(Default)]
struct Doubt {
    accepted: Option<String>,
    dropped: Option<String>,
}

impl Doubt {
    fn note(&mut self, turn: &Turn, rule: String) {
        if !matches!(turn, Turn::Drop(_)) {
            self.accepted.get_or_insert_with(|| rule.clone());
        }
        if !matches!(turn, Turn::Accept) {
            self.dropped.get_or_insert(rule);
        }
    }
}

/// Returns the result for a packet to this machine.
pub(super) fn fate(ruleset: &Value, packet: Packet<'_>) -> Fate {
    let all: Vec<&Value> = ruleset["nftables"]
        .as_array()
        .map(|all| all.iter().collect())
        .unwrap_or_default();
    let chains = all.iter().filter_map(|object| object.get("chain"));
    let mut doubt = Doubt::default();
    for chain in chains.filter(|chain| is_input(chain, packet.from)) {
        let table = Table {
            all: &all,
            chain,
            packet,
        };
        let name = chain["name"].as_str().unwrap_or_default();
        let dropped = match table.walk(name, &mut doubt, 0) {
            Turn::Drop(rule) => Some(rule),
            Turn::On | Turn::Return if chain["policy"] == "drop" => {
                Some(format!("policy drop of {}", table.place(name)))
            }
            Turn::Accept | Turn::On | Turn::Return => None,
        };
        if let Some(rule) = dropped {
            return doubt.accepted.map_or(Fate::Dropped(rule), Fate::Unknown);
        }
    }
    doubt.dropped.map_or(Fate::Accepted, Fate::Unknown)
}

fn is_input(chain: &Value, from: Option<IpAddr>) -> bool {
    let family = match chain["family"].as_str() {
        Some("inet") => true,
        Some("ip") => from.is_none_or(|from| from.is_ipv4()),
        Some("ip6") => from.is_some_and(|from| from.is_ipv6()),
        _ => false,
    };
    family
        && chain["type"] == "filter"
        && matches!(chain["hook"].as_str(), Some("input" | "prerouting"))
}

struct Table<'a> {
    all: &'a [&'a Value],
    /// The base chain. Chains that it jumps to have the same family and table.
    chain: &'a Value,
    packet: Packet<'a>,
}

impl Table<'_> {
    fn place(&self, chain: &str) -> String {
        let word = |key: &str| self.chain[key].as_str().unwrap_or_default();
        format!("{} {} {chain}", word("family"), word("table"))
    }

    /// Evaluates a chain; `doubt` collects possible verdicts of unknown rules.
    fn walk(&self, chain: &str, doubt: &mut Doubt, depth: usize) -> Turn {
        let rules = self.all.iter().filter_map(|object| object.get("rule"));
        for rule in rules.filter(|rule| self.is_of(rule) && rule["chain"] == chain) {
            match self.rule(rule, chain, doubt, depth) {
                Turn::On => {}
                end => return end,
            }
        }
        Turn::On
    }

    fn rule(&self, rule: &Value, chain: &str, doubt: &mut Doubt, depth: usize) -> Turn {
        let handle = rule["handle"].as_u64().unwrap_or_default();
        let place = format!("rule {handle} of {}", self.place(chain));
        let mut sure = true;
        for part in rule["expr"].as_array().into_iter().flatten() {
            let held = match part.get("match") {
                Some(value) => self.matches(value),
                None => Some(true),
            };
            let verdict = match part.get("vmap").map(|vmap| self.mapped(vmap)) {
                Some(Some(Some(verdict))) => verdict,
                Some(Some(None)) => return Turn::On,
                Some(None) => {
                    doubt.note(&Turn::Return, place);
                    return Turn::On;
                }
                None => part,
            };
            match held {
                Some(true) => {}
                Some(false) => return Turn::On,
                None => sure = false,
            }
            // The statement matches some packets only, or is an iptables match.
            sure &= ["limit", "xt", "quota", "connlimit"]
                .iter()
                .all(|key| part.get(key).is_none());
            match self.verdict(verdict, &place, doubt, depth) {
                None | Some(Turn::On) => {}
                Some(end) if sure => return end,
                Some(end) => {
                    doubt.note(&end, place);
                    return Turn::On;
                }
            }
        }
        Turn::On
    }

    /// Returns the verdict of a statement for the packet; `None`: no verdict.
    fn verdict(&self, part: &Value, place: &str, doubt: &mut Doubt, depth: usize) -> Option<Turn> {
        let (kind, value) = part.as_object()?.iter().next()?;
        Some(match kind.as_str() {
            "accept" => Turn::Accept,
            "drop" | "reject" => Turn::Drop(place.to_owned()),
            "return" => Turn::Return,
            "jump" | "goto" if depth < DEPTH => {
                let target = value["target"].as_str().unwrap_or_default();
                match self.walk(target, doubt, depth + 1) {
                    Turn::Return | Turn::On if kind == "goto" => Turn::Return,
                    Turn::Return => Turn::On,
                    turn => turn,
                }
            }
            _ => return None,
        })
    }

    /// True if a match applies to the packet; `None`: unknown.
    fn matches(&self, value: &Value) -> Option<bool> {
        let held = self.holds(&value["left"], &value["right"])?;
        match value["op"].as_str()? {
            "==" | "in" => Some(held),
            "!=" => Some(!held),
            _ => None,
        }
    }

    /// True if the left value of the packet equals the right value or is in it.
    fn holds(&self, left: &Value, right: &Value) -> Option<bool> {
        let Packet {
            protocol: ours,
            port,
            from,
            interface,
        } = self.packet;
        let v4 = from.map(|from| from.is_ipv4());
        let payload = &left["payload"];
        match (payload["protocol"].as_str(), payload["field"].as_str()) {
            (Some("udp" | "tcp"), _) if payload["protocol"] != ours => return Some(false),
            (Some("icmp" | "icmpv6"), _) => return Some(false),
            (Some("udp" | "tcp" | "th"), Some("dport")) => {
                return self.any(right, |value| is_number(value, port));
            }
            (Some("ip"), _) if v4 == Some(false) => return Some(false),
            (Some("ip6"), _) if v4 == Some(true) => return Some(false),
            (Some("ip"), Some("protocol")) => return self.any(right, |value| is_word(value, ours)),
            (Some("ip" | "ip6"), Some("saddr")) => {
                return self.any(right, |value| is_address(value, from?));
            }
            _ => {}
        }
        match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
            (Some("l4proto"), _) => self.any(right, |value| is_word(value, ours)),
            (Some("nfproto"), _) => {
                let family = if v4? { "ipv4" } else { "ipv6" };
                self.any(right, |value| is_word(value, family))
            }
            // Any interface but the loopback.
            (Some("iifname" | "iif"), _) if right == "lo" => Some(false),
            (Some("iifname" | "iif"), _) => {
                let interface = interface?;
                self.any(right, |value| {
                    let name = value.as_str()?;
                    Some(match name.strip_suffix('*') {
                        Some(begin) => interface.starts_with(begin),
                        None => name == interface,
                    })
                })
            }
            // The first packet to this port is not a forwarded one.
            (_, Some("status")) => Some(false),
            (_, Some("state")) => self.any(right, |value| is_word(value, "new")),
            _ => None,
        }
    }

    /// True if any of the values matches; `None` if none is known to match and one is unknown.
    fn any(&self, right: &Value, holds: impl Fn(&Value) -> Option<bool>) -> Option<bool> {
        let values = match (right.as_array(), right["set"].as_array(), right.as_str()) {
            (Some(all), ..) | (_, Some(all), _) => all.iter().collect(),
            (_, _, Some(text)) if text.starts_with('@') => self.set(&text[1..])?,
            _ => vec![right],
        };
        let held: Vec<Option<bool>> = values.into_iter().map(holds).collect();
        match held.contains(&Some(true)) {
            true => Some(true),
            false if held.contains(&None) => None,
            false => Some(false),
        }
    }

    /// Returns the elements of a named set.
    fn set(&self, name: &str) -> Option<Vec<&Value>> {
        let mut sets = self.all.iter().filter_map(|object| object.get("set"));
        let set = sets.find(|set| set["name"] == name && self.is_of(set))?;
        Some(set["elem"].as_array().into_iter().flatten().collect())
    }

    /// True if a chain, rule or set belongs to the table.
    fn is_of(&self, object: &Value) -> bool {
        ["family", "table"]
            .iter()
            .all(|key| object[key] == self.chain[key])
    }

    /// Returns the verdict of a map for the packet; `None`: unknown.
    fn mapped<'v>(&self, vmap: &'v Value) -> Option<Option<&'v Value>> {
        for pair in vmap["data"]["set"].as_array()? {
            if self.holds(&vmap["key"], &pair[0])? {
                return Some(Some(&pair[1]));
            }
        }
        Some(None)
    }
}

/// True if a value is this number, or a range that includes it; `None` for other values.
fn is_number(value: &Value, number: u16) -> Option<bool> {
    let number = u64::from(number);
    if let Some(one) = value.as_u64() {
        return Some(one == number);
    }
    let ends = value["range"].as_array()?;
    let end = |at: usize| ends.get(at).and_then(Value::as_u64);
    Some((end(0)?..=end(1)?).contains(&number))
}

fn is_word(value: &Value, word: &str) -> Option<bool> {
    value.as_str().map(|text| text == word)
}

/// True if a value is this address, or a prefix or range that includes it; `None` for other values.
fn is_address(value: &Value, address: IpAddr) -> Option<bool> {
    if let Some(text) = value.as_str() {
        return text.parse::<IpAddr>().ok().map(|one| one == address);
    }
    if let Some(ends) = value["range"].as_array() {
        let end = |at: usize| ends.get(at)?.as_str()?.parse::<IpAddr>().ok();
        return Some((end(0)?..=end(1)?).contains(&address));
    }
    let prefix = value.get("prefix")?;
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    let net = prefix["addr"].as_str()?.parse::<IpAddr>().ok()?;
    Some(Prefix::network(net, length).contains(address))
}

#[cfg(test)]
mod tests;
