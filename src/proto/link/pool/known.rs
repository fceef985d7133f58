//! Addresses of known nodes: those of host files, those that worked before, and those of host names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Maximum number of host names with kept answers. Memory: about 500 bytes each.
pub(super) const MAX_NAMES: usize = 1024;

/// Addresses that a known node may connect from.
#[derive(Debug, Default)]
pub(super) struct KnownAddrs {
    configured: BTreeSet<IpAddr>,
    /// The last answer with addresses, by host name.
    answers: BTreeMap<String, Vec<SocketAddr>>,
}

impl KnownAddrs {
    /// Uses the addresses of another configuration.
    pub(super) fn configure(&mut self, addrs: BTreeSet<IpAddr>) {
        self.configured = addrs;
    }

    /// Handles the answer of a name server: see [`Pool::resolved`](super::Pool::resolved).
    pub(super) fn resolved(
        &mut self,
        host: &str,
        port: u16,
        addrs: Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let with_port = |addr: &SocketAddr| SocketAddr::new(addr.ip(), port);
        if addrs.is_empty() {
            let last = self.answers.get(host).into_iter().flatten();
            return last.map(with_port).collect();
        }
        if self.answers.len() < MAX_NAMES || self.answers.contains_key(host) {
            self.answers.insert(host.to_owned(), addrs.clone());
        }
        addrs
    }

    /// Returns true if a known node may connect from this address.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let mut answers = self.answers.values().flatten();
        self.configured.contains(&ip) || answers.any(|addr| addr.ip() == ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_answer_stands_in_for_a_failed_one() {
        let mut known = KnownAddrs::default();
        let addr: SocketAddr = "192.0.2.1:655".parse().unwrap();
        assert!(known.resolved("a.example", 655, Vec::new()).is_empty());
        assert!(!known.contains(addr.ip()));
        assert_eq!(known.resolved("a.example", 655, vec![addr]), [addr]);
        let stale = known.resolved("a.example", 656, Vec::new());
        assert_eq!(stale, ["192.0.2.1:656".parse().unwrap()]);
        assert!(known.contains(addr.ip()));
        for n in 0..2 * MAX_NAMES {
            known.resolved(&format!("{n}.example"), 655, vec![addr]);
        }
        assert_eq!(known.answers.len(), MAX_NAMES);
        // A name that is kept already gets its new address.
        let moved = "192.0.2.2:655".parse().unwrap();
        known.resolved("a.example", 655, vec![moved]);
        assert!(known.contains(moved.ip()));
    }

    #[test]
    fn another_configuration_replaces_the_addresses_of_host_files_only() {
        let mut known = KnownAddrs::default();
        let [a, b, c] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        known.configure([a].into());
        known.resolved("c.example", 655, vec![SocketAddr::new(c, 655)]);
        known.configure([b].into());
        assert_eq!([a, b, c].map(|ip| known.contains(ip)), [false, true, true]);
    }
}
