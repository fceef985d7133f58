//! Resolves a typed name, address or subnet to a node.

use std::{cmp::Reverse, net::IpAddr};

use meshd_api::{proto::SubnetRow, report::RefusedRow};
use meshd_proto::mesh::reports::facts::Rule;
use meshd_wire::{NodeName, Subnet, subnet::Prefix};

use crate::why::{Target, Unknown};

/// Maximum number of suggested names.
const SUGGESTED: usize = 3;

/// Known names and subnets.
#[derive(Debug, Clone)]
pub struct World {
    /// Our own node.
    pub own: String,
    /// All other nodes.
    pub names: Vec<String>,
    /// Subnets in order of preference.
    pub subnets: Vec<SubnetRow>,
    /// Announced subnets that are refused.
    pub refused: Vec<RefusedRow>,
    /// Returns how near a typed name is to a known one; `None`: not near.
    pub nearness: fn(&str, &str) -> Option<usize>,
}

impl World {
    /// Finds the node of a name, an address or a subnet.
    ///
    /// # Errors
    /// If there is none.
    pub fn resolve(&self, typed: &str) -> Result<Target, Unknown> {
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
    ) -> Result<Target, Unknown> {
        let mut subnets: Vec<SubnetRow> = self
            .subnets
            .iter()
            .filter(|row| holds(&row.subnet))
            .cloned()
            .collect();
        // The longest prefix comes first; among equal ones, the active owner.
        subnets.sort_by_key(|row| (Reverse(bits(&row.subnet)), !row.active, row.weight));
        let refused = self.refused.iter().find(|row| holds(&row.subnet));
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
                return Err(Unknown {
                    text: format!(
                        "{typed} goes to all nodes: {} is a broadcast subnet",
                        row.subnet
                    ),
                    remedy: format!("Name a node instead; {all}"),
                });
            }
            (None, Some(row)) => (&row.owner, Some((row.subnet, row.why.clone()))),
            (None, None) => {
                let text = format!("{typed} is in no subnet of any node");
                let many = self.refused.iter().find(|row| row.rule == Rule::Bound);
                return Err(Unknown {
                    text,
                    remedy: match many {
                        None => format!(
                            "Its owner must announce it: write `Subnet = {typed}` into the owner's host file there; {all}"
                        ),
                        Some(row) => format!(
                            "{0} announces more subnets than meshd accepts without a host file: if this is one of them, write `Subnet = {typed}` into hosts/{0} here; {all}",
                            row.owner
                        ),
                    },
                });
            }
        };
        let node = NodeName::new(owner).map_err(|error| Unknown {
            text: error.to_string(),
            remedy: all.into(),
        })?;
        let asked = Some(typed.to_owned());
        Ok(Target {
            node,
            asked,
            subnets,
            refused,
        })
    }

    fn named(&self, typed: &str) -> Result<Target, Unknown> {
        let known = *typed == self.own || self.names.iter().any(|name| name == typed);
        let Some(node) = NodeName::new(typed).ok().filter(|_| known) else {
            let mut near: Vec<(usize, &String)> = self
                .names
                .iter()
                .chain([&self.own])
                .filter_map(|name| Some(((self.nearness)(typed, name)?, name)))
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
            return Err(Unknown {
                text: format!("there is no node {typed:?}{mean}"),
                remedy: format!(
                    "`meshctl peers` lists all; a new node needs a host file here: hosts/{}",
                    typed.escape_debug()
                ),
            });
        };
        let own: Vec<Prefix> = self
            .subnets
            .iter()
            .filter(|row| row.owner.as_deref() == Some(typed))
            .map(|row| row.subnet)
            .collect();
        let subnets = self
            .subnets
            .iter()
            .filter(|row| own.contains(&row.subnet))
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
