//! Resolves host names off the driver's thread, and keeps the last good answer.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{net::lookup_host, sync::mpsc, time::timeout};

use meshd_dataplane::io::udp::canonical;
use meshd_wire::NodeName;

use crate::Event;

/// Longest wait for a name server.
const LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of names with kept answers. Memory: about 500 bytes each.
const MAX_KEPT: usize = 1024;
/// Maximum number of addresses in an answer.
const MAX_ADDRESSES: usize = 16;

/// The last good answers.
#[derive(Debug, Default)]
pub struct Resolver {
    last: BTreeMap<String, Vec<SocketAddr>>,
}

/// An answer for the driver.
#[derive(Debug)]
pub struct Resolved {
    /// The node of the request.
    pub node: NodeName,
    /// The name.
    pub host: String,
    /// The port asked for.
    pub port: u16,
    /// Its addresses; empty if there are none.
    pub addrs: Vec<SocketAddr>,
}

impl Resolver {
    /// Resolves a name on the blocking pool; [`Event::Resolved`] follows.
    pub fn ask(node: NodeName, host: String, port: u16, events: &mpsc::Sender<Event>) {
        let events = events.clone();
        tokio::spawn(async move {
            let addrs = match timeout(LIMIT, lookup_host((host.as_str(), port))).await {
                Ok(Ok(found)) => found.map(canonical).take(MAX_ADDRESSES).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            let resolved = Resolved {
                node,
                host,
                port,
                addrs,
            };
            let _ = events.send(Event::Resolved(resolved)).await;
        });
    }

    /// Returns the addresses to use: those of the answer, or of the last answer with addresses.
    pub fn settle(&mut self, resolved: &Resolved) -> Vec<SocketAddr> {
        let with_port = |addr: &SocketAddr| {
            let mut addr = *addr;
            addr.set_port(resolved.port);
            addr
        };
        if resolved.addrs.is_empty() {
            let last = self.last.get(&resolved.host);
            return last.map_or_else(Vec::new, |addrs| addrs.iter().map(with_port).collect());
        }
        if self.last.len() < MAX_KEPT || self.last.contains_key(&resolved.host) {
            self.last
                .insert(resolved.host.clone(), resolved.addrs.clone());
        }
        resolved.addrs.clone()
    }

    /// True if a name resolved to this address.
    #[must_use]
    pub fn is_known_addr(&self, ip: std::net::IpAddr) -> bool {
        self.last.values().flatten().any(|addr| addr.ip() == ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_answer_stands_in_for_a_failed_one() {
        let mut resolver = Resolver::default();
        let mut answer = Resolved {
            node: NodeName::new("a").unwrap(),
            host: "a.example".into(),
            port: 655,
            addrs: Vec::new(),
        };
        assert!(resolver.settle(&answer).is_empty());
        answer.addrs = vec!["192.0.2.1:655".parse().unwrap()];
        assert_eq!(resolver.settle(&answer), answer.addrs);
        answer.addrs.clear();
        answer.port = 656;
        assert_eq!(resolver.settle(&answer), ["192.0.2.1:656".parse().unwrap()]);
        assert!(resolver.is_known_addr([192, 0, 2, 1].into()));
    }
}
