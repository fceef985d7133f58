//! Whether nftables lets a packet in, from what `nft -j list ruleset` prints. Rules that use what is not understood
//! here may match or not: where one of them decides, the answer is that it is not known.
//!
//! Source: libnftables-json(5).

use std::net::IpAddr;

use serde_json::Value;

use meshd_wire::Prefix;

/// How deep jumps are followed, as nftables itself.
const DEPTH: usize = 16;

/// The first packet of a stranger's flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// `udp` or `tcp`.
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    /// From where, if that is known.
    pub(super) from: Option<IpAddr>,
    /// In by which interface, if that is known; never that of the machine to itself.
    pub(super) interface: Option<&'a str>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    /// By this rule or policy.
    Dropped(String),
    /// This rule decides, and it is not understood.
    Unknown(String),
}

/// What a rule or a chain makes of it, if anything.
enum Turn {
    /// On to the next rule.
    On,
    Accept,
    Drop(String),
    /// Back to who has jumped here.
    Return,
}

/// Rules that may have ended it, by what they would have made of it.
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

/// The fate of a packet to this machine.
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
    /// The base chain: its family and table are those of all that it jumps to.
    chain: &'a Value,
    packet: Packet<'a>,
}

impl Table<'_> {
    fn place(&self, chain: &str) -> String {
        let word = |key: &str| self.chain[key].as_str().unwrap_or_default();
        format!("{} {} {chain}", word("family"), word("table"))
    }

    /// Goes through a chain, where `doubt` gets what may end it and is not understood.
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
            // Passes for some packets only, or is a match of iptables.
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

    /// What a statement makes of the packet; `None`: it decides nothing.
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

    /// Whether a match holds for the packet; `None`: that is not known.
    fn matches(&self, value: &Value) -> Option<bool> {
        let held = self.holds(&value["left"], &value["right"])?;
        match value["op"].as_str()? {
            "==" | "in" => Some(held),
            "!=" => Some(!held),
            _ => None,
        }
    }

    /// Whether what stands left of the packet is what stands right, or in it.
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
            // From a wire, whichever.
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
            // A stranger's first packet to this port was not sent on here from another.
            (_, Some("status")) => Some(false),
            (_, Some("state")) => self.any(right, |value| is_word(value, "new")),
            _ => None,
        }
    }

    /// Whether any value holds of those that stand there; `None` if none is known to and one is not understood.
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

    /// The elements of a named set.
    fn set(&self, name: &str) -> Option<Vec<&Value>> {
        let mut sets = self.all.iter().filter_map(|object| object.get("set"));
        let set = sets.find(|set| set["name"] == name && self.is_of(set))?;
        Some(set["elem"].as_array().into_iter().flatten().collect())
    }

    /// Whether a chain, rule or set belongs to the table.
    fn is_of(&self, object: &Value) -> bool {
        ["family", "table"]
            .iter()
            .all(|key| object[key] == self.chain[key])
    }

    /// The verdict of a map for the packet; `None`: that is not known.
    fn mapped<'v>(&self, vmap: &'v Value) -> Option<Option<&'v Value>> {
        for pair in vmap["data"]["set"].as_array()? {
            if self.holds(&vmap["key"], &pair[0])? {
                return Some(Some(&pair[1]));
            }
        }
        Some(None)
    }
}

/// Whether a value is this number, or a range that holds it; `None` if it is something else.
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

/// Likewise of an address, a prefix or a range of addresses.
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
