//! Parses `tinc dump` and `meshctl dump`, which print the same form.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Status bit: reachable.
pub(crate) const REACHABLE: u32 = 0x10;
/// Status bit: the tunnel has keys.
pub(crate) const VALID_KEY: u32 = 0x02;
/// Status bit: a UDP probe has been answered.
pub(crate) const UDP_CONFIRMED: u32 = 0x80;

/// One line of `dump nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeLine {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) options: u32,
    pub(crate) status: u32,
    pub(crate) nexthop: String,
    pub(crate) via: String,
    pub(crate) distance: i32,
    pub(crate) pmtu: u16,
    pub(crate) min_mtu: u16,
    pub(crate) max_mtu: u16,
}

/// One line of `dump edges`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EdgeLine {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) options: u32,
    pub(crate) weight: i32,
}

/// All three dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) nodes: BTreeMap<String, NodeLine>,
    pub(crate) edges: BTreeSet<EdgeLine>,
    /// Subnet and owner.
    pub(crate) subnets: BTreeSet<(String, String)>,
}

/// The part of a dump on which all nodes of a mesh at rest agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shared {
    pub(crate) reachable: BTreeSet<String>,
    pub(crate) edges: BTreeSet<EdgeLine>,
    pub(crate) subnets: BTreeSet<(String, String)>,
}

impl Dump {
    /// Reads the text of the three dumps; an unexpected line is an error that shows it.
    pub(crate) fn parse(nodes: &str, edges: &str, subnets: &str) -> Result<Self, String> {
        Ok(Self {
            nodes: nodes
                .lines()
                .map(|line| node_line(line).ok_or_else(|| format!("dump nodes: {line:?}")))
                .collect::<Result<_, _>>()?,
            edges: edges
                .lines()
                .map(|line| edge_line(line).ok_or_else(|| format!("dump edges: {line:?}")))
                .collect::<Result<_, _>>()?,
            subnets: subnets
                .lines()
                .map(|line| {
                    let (subnet, owner) = line
                        .split_once(" owner ")
                        .ok_or_else(|| format!("dump subnets: {line:?}"))?;
                    Ok((subnet.to_owned(), owner.trim().to_owned()))
                })
                .collect::<Result<_, String>>()?,
        })
    }

    /// The line of a node.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeLine> {
        self.nodes.get(name)
    }

    /// True if packets to this node go directly by UDP.
    pub(crate) fn direct_udp(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| {
            node.status & (REACHABLE | VALID_KEY) == REACHABLE | VALID_KEY && node.min_mtu > 0
        })
    }

    /// The part that all nodes agree on when the mesh is at rest.
    pub(crate) fn shared(&self) -> Shared {
        Shared {
            reachable: self
                .nodes
                .iter()
                .filter(|(_, node)| node.status & REACHABLE != 0)
                .map(|(name, _)| name.clone())
                .collect(),
            edges: self.edges.clone(),
            subnets: self
                .subnets
                .iter()
                .filter(|(_, owner)| owner != "(broadcast)")
                .cloned()
                .collect(),
        }
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, node) in &self.nodes {
            writeln!(
                f,
                "  {name}: {} port {} options {:x} status {:04x} nexthop {} via {} distance {} pmtu {} ({}..{})",
                node.host,
                node.port,
                node.options,
                node.status,
                node.nexthop,
                node.via,
                node.distance,
                node.pmtu,
                node.min_mtu,
                node.max_mtu
            )?;
        }
        for edge in &self.edges {
            writeln!(
                f,
                "  {} -> {} at {} port {} options {:x} weight {}",
                edge.from, edge.to, edge.host, edge.port, edge.options, edge.weight
            )?;
        }
        for (subnet, owner) in &self.subnets {
            writeln!(f, "  {subnet} of {owner}")?;
        }
        Ok(())
    }
}

/// `NAME id ID at HOST port PORT cipher C digest D maclength M compression Z options %x
/// status %04x nexthop N via V distance %d pmtu %d (min %d max %d) rx … tx …[ rtt …]`
fn node_line(line: &str) -> Option<(String, NodeLine)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |key: &str, skip: usize| {
        let at = words.iter().skip(1).position(|word| *word == key)? + 2 + skip;
        words.get(at).copied()
    };
    Some((
        (*words.first()?).to_owned(),
        NodeLine {
            id: after("id", 0)?.to_owned(),
            host: after("at", 0)?.to_owned(),
            port: after("port", 0)?.to_owned(),
            options: u32::from_str_radix(after("options", 0)?, 16).ok()?,
            status: u32::from_str_radix(after("status", 0)?, 16).ok()?,
            nexthop: after("nexthop", 0)?.to_owned(),
            via: after("via", 0)?.to_owned(),
            distance: after("distance", 0)?.parse().ok()?,
            pmtu: after("pmtu", 0)?.parse().ok()?,
            min_mtu: after("(min", 0)?.parse().ok()?,
            max_mtu: after("(min", 2)?.trim_end_matches(')').parse().ok()?,
        },
    ))
}

/// `FROM to TO at HOST port PORT local LHOST port LPORT options %x weight %d`
fn edge_line(line: &str) -> Option<EdgeLine> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [
        from,
        "to",
        to,
        "at",
        host,
        "port",
        port,
        "local",
        _,
        "port",
        _,
        "options",
        options,
        "weight",
        weight,
    ] = words[..]
    else {
        return None;
    };
    Some(EdgeLine {
        from: from.to_owned(),
        to: to.to_owned(),
        host: host.to_owned(),
        port: port.to_owned(),
        options: u32::from_str_radix(options, 16).ok()?,
        weight: weight.parse().ok()?,
    })
}

/// Waits until all nodes' dumps agree on what they share; shows the difference if they never do.
pub(crate) fn wait_agree(nodes: &[&crate::node::Node]) -> Shared {
    wait_shared("all dumps agree", nodes, |_| true)
}

/// Waits until the dumps of these nodes agree that so many nodes are reachable. A node that is just back, or whose link
/// has just timed out, may be unreachable for all of them a moment before.
pub(crate) fn wait_reachable(nodes: &[&crate::node::Node], count: usize) -> Shared {
    let what = format!("all dumps agree on {count} reachable nodes");
    wait_shared(&what, nodes, |shared| shared.reachable.len() == count)
}

fn wait_shared(
    what: &str,
    nodes: &[&crate::node::Node],
    wanted: impl Fn(&Shared) -> bool,
) -> Shared {
    crate::world::wait_until(what, crate::node::PATIENCE, || {
        let mut dumps = Vec::new();
        for node in nodes {
            dumps.push((&node.name, node.try_dump()?.shared()));
        }
        for (name, shared) in &dumps[1..] {
            let (first, expected) = &dumps[0];
            if shared != expected {
                return Err(format!("{first}: {expected:#?}\n{name}: {shared:#?}"));
            }
        }
        let shared = dumps.swap_remove(0).1;
        match wanted(&shared) {
            true => Ok(shared),
            false => Err(format!("{shared:#?}")),
        }
    })
}
