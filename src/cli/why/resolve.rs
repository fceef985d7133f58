//! Resolves a typed name, address or subnet to a node.

use std::net::IpAddr;

use meshd_config::vars::nearness;
use meshd_proto::mesh::reports::{
    path_report::{RefusedRow, Rule},
    view::SubnetRow,
};
use meshd_wire::{NodeName, Prefix, Subnet};

/// Maximum number of suggested names.
const SUGGESTED: usize = 3;

/// Known names and subnets.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) own: String,
    /// All other nodes.
    pub(crate) names: Vec<String>,
    /// In order of preference.
    pub(crate) subnets: Vec<SubnetRow>,
    pub(crate) refused: Vec<RefusedRow>,
}

/// The node that the request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) node: NodeName,
    /// The typed text, if it is not a name.
    pub(crate) asked: Option<String>,
    /// Subnets that hold the request, best first. For a name: its subnets, and other owners of the same subnets.
    pub(crate) subnets: Vec<SubnetRow>,
    /// The subnet and the reason, if its only owner's announcement is refused.
    pub(crate) refused: Option<(String, String)>,
}

impl World {
    /// Errors are one sentence with a remedy.
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
        // The longest prefix comes first; among equal ones, the active owner.
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
                            "Its owner must announce it: write `Subnet = {typed}` into the owner's host file there; {all}"
                        ),
                        Some(row) => format!(
                            "{0} announces more subnets than meshd accepts without a host file: if this is one of them, write `Subnet = {typed}` into hosts/{0} here; {all}",
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
