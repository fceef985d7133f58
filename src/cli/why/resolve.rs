//! From what was typed, a name, an address or a subnet, to a node.

use std::net::IpAddr;

use meshd_config::vars::nearness;
use meshd_proto::mesh::reports::{
    path_report::{RefusedRow, Rule},
    view::SubnetRow,
};
use meshd_wire::{NodeName, Prefix, Subnet};

/// Names that are suggested at most.
const SUGGESTED: usize = 3;

/// All that a name or an address can mean.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) own: String,
    /// All other nodes.
    pub(crate) names: Vec<String>,
    /// In the order in which they are asked.
    pub(crate) subnets: Vec<SubnetRow>,
    pub(crate) refused: Vec<RefusedRow>,
}

/// What was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) node: NodeName,
    /// What was typed, if it was no name.
    pub(crate) asked: Option<String>,
    /// What it lies in, best first; of a name all that it owns, and others that own the same.
    pub(crate) subnets: Vec<SubnetRow>,
    /// Its only owner is not believed: subnet and why.
    pub(crate) refused: Option<(String, String)>,
}

impl World {
    /// Errors: one sentence, and what to do about it.
    pub(crate) fn resolve(&self, typed: &str) -> Result<Target, (String, String)> {
        if let Ok(address) = typed.parse::<IpAddr>() {
            let all = "`meshctl routes` lists all";
            return self.owner_of(typed, all, |prefix| prefix.contains(address));
        }
        match typed.parse::<Subnet>() {
            Ok(subnet) if typed.contains(['/', ':', '.']) => {
                let all = "`meshctl routes` lists all";
                self.owner_of(typed, all, |prefix| prefix.covers(&subnet.prefix))
            }
            _ => self.named(typed),
        }
    }

    fn owner_of(
        &self,
        typed: &str,
        all: &str,
        holds: impl Fn(&Prefix) -> bool,
    ) -> Result<Target, (String, String)> {
        let fits = |text: &str| {
            text.parse::<Subnet>()
                .is_ok_and(|subnet| holds(&subnet.prefix))
        };
        let mut subnets: Vec<SubnetRow> = self
            .subnets
            .iter()
            .filter(|row| fits(&row.subnet))
            .cloned()
            .collect();
        // The longest prefix first; who serves it before who would.
        let length = |row: &SubnetRow| {
            row.subnet
                .parse::<Subnet>()
                .map(|subnet| bits(&subnet.prefix))
                .unwrap_or_default()
        };
        subnets.sort_by_key(|row| (std::cmp::Reverse(length(row)), !row.active, row.weight));
        let refused = self.refused.iter().find(|row| fits(&row.subnet));
        let (owner, refused) = match (
            subnets
                .iter()
                .find(|row| row.active)
                .or_else(|| subnets.first()),
            refused,
        ) {
            (
                Some(SubnetRow {
                    owner: Some(owner), ..
                }),
                _,
            ) => (owner, None),
            (Some(row), _) => {
                return Err((
                    format!(
                        "{typed} goes to all nodes: {} is a broadcast subnet",
                        row.subnet
                    ),
                    format!("Name a node instead; {all}"),
                ));
            }
            (None, Some(row)) => (&row.owner, Some((row.subnet.clone(), row.why.clone()))),
            (None, None) => {
                let text = format!("{typed} is in no subnet of any node");
                let many = self.refused.iter().find(|row| row.rule == Rule::Bound);
                return Err((
                    text,
                    match many {
                        None => format!(
                            "Whose it is must announce it: `Subnet = {typed}` in its own host file; {all}"
                        ),
                        Some(row) => format!(
                            "{0} announces more subnets than are taken without a file: if it is one of these, write `Subnet = {typed}` into hosts/{0} here; {all}",
                            row.owner
                        ),
                    },
                ));
            }
        };
        let node = NodeName::new(owner).map_err(|error| (error.to_string(), all.into()))?;
        let asked = Some(typed.to_owned());
        Ok(Target {
            node,
            asked,
            subnets,
            refused,
        })
    }

    fn named(&self, typed: &str) -> Result<Target, (String, String)> {
        let known = *typed == self.own || self.names.iter().any(|name| name == typed);
        let Some(node) = NodeName::new(typed).ok().filter(|_| known) else {
            let mut near: Vec<(usize, &String)> = self
                .names
                .iter()
                .chain([&self.own])
                .filter_map(|name| Some((nearness(typed, name)?, name)))
                .collect();
            near.sort();
            let near: Vec<&str> = near
                .iter()
                .take(SUGGESTED)
                .map(|(_, name)| name.as_str())
                .collect();
            let mean = match near.join(", ") {
                none if none.is_empty() => none,
                near => format!("; did you mean {near}?"),
            };
            return Err((
                format!("there is no node {typed:?}{mean}"),
                format!(
                    "`meshctl peers` lists all; a new node needs a host file here: hosts/{}",
                    typed.escape_debug()
                ),
            ));
        };
        let own: Vec<&str> = self
            .subnets
            .iter()
            .filter(|row| row.owner.as_deref() == Some(typed))
            .map(|row| row.subnet.as_str())
            .collect();
        let subnets = self
            .subnets
            .iter()
            .filter(|row| own.contains(&row.subnet.as_str()))
            .cloned();
        let mut subnets: Vec<SubnetRow> = subnets.collect();
        subnets.sort_by_key(|row| row.owner.as_deref() != Some(typed));
        Ok(Target {
            node,
            asked: None,
            subnets,
            refused: None,
        })
    }
}

fn bits(prefix: &Prefix) -> u8 {
    match prefix {
        Prefix::V4(_, length) | Prefix::V6(_, length) => *length,
        Prefix::Mac(_) => 48,
    }
}

#[cfg(test)]
mod tests;
