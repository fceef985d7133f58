//! Index of the subnets that host files and our own configuration list. Each reload costs one pass
//! over the files, and each announced subnet a few look-ups.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use meshd_wire::{NodeName, Subnet, subnet::Prefix};

use crate::{mesh::Settings, route::source::Listed};

/// Subnets in host files. Memory in proportion to the files.
pub(super) struct ListedSubnets {
    /// Subnets of each node, and of this one.
    of: BTreeMap<NodeName, Lines>,
    /// Nodes that a prefix is listed for, by the prefix without host bits.
    owners: BTreeMap<Prefix, BTreeSet<NodeName>>,
    /// Nodes by the numeric addresses at which they are dialled.
    dialled: BTreeMap<IpAddr, NodeName>,
    /// Table for [`crate::route::RouteSnapshot::listed`].
    table: Arc<Listed>,
}

/// Subnets of one node.
#[derive(Default)]
struct Lines {
    /// Subnets with their weights, as listed.
    subnets: BTreeSet<Subnet>,
    /// IP prefixes, longest first.
    sources: Arc<[Prefix]>,
}

impl ListedSubnets {
    pub(super) fn new(settings: &Settings) -> Self {
        let hosts = settings.hosts.iter();
        let lines = hosts.map(|(name, host)| (name, &host.subnets));
        let mut of = BTreeMap::new();
        let mut owners = BTreeMap::<Prefix, BTreeSet<NodeName>>::new();
        for (name, subnets) in lines.chain([(&settings.name, &settings.subnets)]) {
            for prefix in ip_prefixes(subnets) {
                owners.entry(prefix).or_default().insert(name.clone());
            }
            // No check limits our own sources.
            let checked = *name != settings.name;
            let sources = ip_prefixes(subnets).filter(|_| checked);
            let lines = Lines {
                subnets: subnets.iter().copied().collect(),
                sources: sources.collect::<BTreeSet<_>>().into_iter().collect(),
            };
            of.insert(name.clone(), lines);
        }
        let mut dialled = BTreeMap::new();
        for (name, host) in &settings.hosts {
            let addresses = host.addresses.iter().filter_map(|at| at.host.parse().ok());
            for ip in addresses {
                dialled.entry(ip).or_insert_with(|| name.clone());
            }
        }
        Self {
            table: Arc::new(Listed::new(owners.keys().copied())),
            of,
            owners,
            dialled,
        }
    }

    /// Returns true if the owner's host file (for this node: our own configuration) lists this
    /// subnet with this weight. If any weight matched, one line would stand for 2^32 subnets.
    pub(super) fn lists(&self, owner: &NodeName, subnet: &Subnet) -> bool {
        let lines = self.of.get(owner);
        lines.is_some_and(|lines| lines.subnets.contains(subnet))
    }

    /// Returns true if a line of the owner covers the prefix.
    pub(super) fn gives(&self, owner: &NodeName, prefix: &Prefix) -> bool {
        self.covering(prefix, 0)
            .any(|owners| owners.contains(owner))
    }

    /// Returns true if a line of the owner, not its default route, covers the prefix.
    pub(super) fn reserves(&self, owner: &NodeName, prefix: &Prefix) -> bool {
        self.covering(prefix, 1)
            .any(|owners| owners.contains(owner))
    }

    /// Returns the first node but `owner` that has a line which covers the prefix. A default route
    /// reserves nothing for its owner.
    pub(super) fn other_owner(&self, owner: &NodeName, prefix: &Prefix) -> Option<&NodeName> {
        let owners = self.covering(prefix, 1).flatten();
        owners.filter(|other| *other != owner).min()
    }

    /// Returns the other nodes that have a line with exactly this prefix.
    pub(super) fn rivals(
        &self,
        owner: &NodeName,
        prefix: &Prefix,
    ) -> impl Iterator<Item = &NodeName> {
        let owners = self.owners.get(prefix).into_iter().flatten();
        owners.filter(move |other| *other != owner)
    }

    /// Returns the first node that is dialled at an address in the prefix.
    pub(super) fn dialled_in(&self, prefix: &Prefix) -> Option<&NodeName> {
        let from: IpAddr = match prefix.masked() {
            Prefix::V4(ip, _) => ip.into(),
            Prefix::V6(ip, _) => ip.into(),
            Prefix::Mac(_) => return None,
        };
        let from = self.dialled.range::<IpAddr, _>(from..);
        let inside = from.take_while(|(ip, _)| prefix.contains(**ip));
        inside.map(|(_, name)| name).min()
    }

    /// Returns the IP prefixes of a node, longest first.
    pub(super) fn sources(&self, name: &NodeName) -> Arc<[Prefix]> {
        let lines = self.of.get(name);
        lines.map(|lines| lines.sources.clone()).unwrap_or_default()
    }

    /// Returns the table of all listed prefixes.
    pub(super) fn table(&self) -> &Arc<Listed> {
        &self.table
    }

    /// Owners of the lines that cover a prefix, of lines with at least `shortest` bits.
    fn covering(
        &self,
        prefix: &Prefix,
        shortest: u8,
    ) -> impl Iterator<Item = &BTreeSet<NodeName>> + '_ {
        let (ip, length): (IpAddr, u8) = match *prefix {
            Prefix::V4(ip, length) => (ip.into(), length),
            Prefix::V6(ip, length) => (ip.into(), length),
            // No length: nothing covers an Ethernet address but itself.
            Prefix::Mac(_) => (IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
        };
        let is_mac = matches!(prefix, Prefix::Mac(_));
        let lengths = (shortest..=length).filter(move |_| !is_mac);
        lengths.filter_map(move |length| self.owners.get(&Prefix::network(ip, length)))
    }
}

/// IP prefixes of subnets, without host bits.
fn ip_prefixes(subnets: &[Subnet]) -> impl Iterator<Item = Prefix> + '_ {
    let prefixes = subnets.iter().map(|subnet| subnet.prefix.masked());
    prefixes.filter(|prefix| !matches!(prefix, Prefix::Mac(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::testing::{name, settings};

    /// Node 0 with 10.0.0.0, and files of nodes 1 and 2 with these lines.
    fn files(lines: [&[&str]; 2]) -> ListedSubnets {
        let mut settings = settings(3).remove(0);
        for (n, lines) in (1..).zip(lines) {
            let host = Arc::make_mut(settings.hosts.get_mut(&name(n)).unwrap());
            host.subnets = lines.iter().map(|line| line.parse().unwrap()).collect();
        }
        ListedSubnets::new(&settings)
    }

    fn prefix(text: &str) -> Prefix {
        text.parse::<Subnet>().unwrap().prefix
    }

    #[test]
    fn a_line_covers_what_is_inside_it() {
        let files = files([&["10.1.0.0/16", "0.0.0.0/0"], &["10.1.2.0/24", "fd00::/64"]]);
        for (text, of_one, of_two) in [
            ("10.1.2.3", true, true),
            ("10.1.0.0/16", true, false),
            ("10.0.0.0/8", false, false),
            ("fd00::1", false, true),
            ("fd00::/48", false, false),
            ("192.0.2.1", false, false),
        ] {
            let prefix = prefix(text);
            assert_eq!(files.reserves(&name(1), &prefix), of_one, "{text}");
            assert_eq!(files.reserves(&name(2), &prefix), of_two, "{text}");
            // The default route gives, but reserves nothing.
            let v4 = matches!(prefix, Prefix::V4(..));
            assert_eq!(files.gives(&name(1), &prefix), v4, "{text}");
            let other = files.other_owner(&name(2), &prefix).cloned();
            assert_eq!(other, of_one.then(|| name(1)), "{text}");
        }
    }

    #[test]
    fn a_listed_subnet_has_its_weight() {
        let files = files([&["10.1.0.0/16#5"], &[]]);
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(files.lists(&name(1), &subnet("10.1.0.0/16#5")));
        assert!(!files.lists(&name(1), &subnet("10.1.0.0/16#6")));
        assert!(!files.lists(&name(2), &subnet("10.1.0.0/16#5")));
        assert!(files.lists(&name(0), &subnet("10.0.0.0")), "our own");
    }

    #[test]
    fn addresses_of_dials_are_found_by_prefix() {
        let files = files([&[], &[]]);
        assert_eq!(files.dialled_in(&prefix("192.168.7.2")), Some(&name(2)));
        assert_eq!(files.dialled_in(&prefix("192.168.0.0/16")), Some(&name(1)));
        for none in ["192.168.7.0/32", "192.168.8.0/24", "::/0"] {
            assert_eq!(files.dialled_in(&prefix(none)), None, "{none}");
        }
    }
}
