//! Connections that belong to no node: strangers who may send anything. The bounds of admission are
//! checked after each connection. Source: proto/threat-model.md section 5.6.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;

use meshd_proto::link::pool::admission::{KEPT_FOR_KNOWN, MAX_A_SOURCE, MAX_STRANGERS};

use crate::{
    conn::{Chunk, Conn, End, EndId},
    world::World,
};

/// A connection of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrangerId(u64);

/// State of a stranger's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrangerState {
    /// True if the node has not closed the connection.
    pub open: bool,
    /// Number of bytes that the node sent.
    pub heard: usize,
}

impl World {
    /// Opens a connection to a node from an address that may belong to no node.
    pub fn knock(&mut self, node: usize, from: IpAddr) -> StrangerId {
        let conn = self.new_conn();
        let local = self.own_socket(node);
        let remote = SocketAddr::new(from, 40_000);
        let end = |stranger, local, remote| End {
            node,
            life: self.nodes[node].life,
            link: None,
            local,
            remote,
            open: true,
            last_arrival: self.now,
            stranger,
            stalled: Vec::new(),
            unread: None,
        };
        let ends = [end(Some(0), remote, local), end(None, local, remote)];
        let moves = self.net.moves([node; 2]);
        self.conns.insert(conn, Conn { ends, moves });
        self.arrives(EndId { conn, side: 1 });
        StrangerId(conn)
    }

    /// Sends bytes as a stranger.
    pub fn push(&mut self, stranger: StrangerId, bytes: &[u8]) {
        let end = EndId {
            conn: stranger.0,
            side: 0,
        };
        self.transmit(end, Chunk::Bytes(Bytes::copy_from_slice(bytes)));
    }

    /// Returns the state of a stranger's connection.
    #[must_use]
    pub fn stranger(&self, stranger: StrangerId) -> StrangerState {
        let conn = self.conns.get(&stranger.0);
        StrangerState {
            open: conn.is_some_and(|conn| conn.ends[0].open && conn.ends[1].open),
            heard: conn
                .and_then(|conn| conn.ends[0].stranger)
                .unwrap_or_default(),
        }
    }

    /// Handles a chunk for the end of a stranger. Returns false if the end belongs to a node.
    pub(super) fn stranger_hears(&mut self, end: EndId, chunk: &Chunk) -> bool {
        let conn = self.conns.get_mut(&end.conn);
        let Some(heard) = conn.and_then(|conn| conn.ends[end.side].stranger.as_mut()) else {
            return false;
        };
        if let Chunk::Bytes(bytes) = chunk {
            *heard += bytes.len();
        }
        true
    }

    /// Returns true if a node accepts connections now.
    #[must_use]
    pub fn listens(&self, node: usize) -> bool {
        self.nodes[node].listens
    }

    /// Returns true if a host file has this address, or a name of it.
    fn is_known_addr(&self, node: usize, ip: IpAddr) -> bool {
        let text = ip.to_string();
        let hosts = self.nodes[node].in_force.hosts.values();
        let mut addresses = hosts.flat_map(|host| &host.addresses);
        addresses
            .any(|address| address.host == text || self.net.names.get(&address.host) == Some(&ip))
    }

    /// Checks the bounds of a node's unauthenticated connections, counted here.
    pub(super) fn check_admission(&mut self, node: usize) {
        let sim = &self.nodes[node];
        let mut sources: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut unknown = 0;
        for conn in self.conns.values() {
            let end = &conn.ends[1];
            let link = end.link.and_then(|link| sim.links.get(link));
            if end.node == node && end.open && link.is_some_and(|link| !link.up) {
                *sources.entry(end.remote.ip()).or_default() += 1;
                unknown += usize::from(!self.is_known_addr(node, end.remote.ip()));
            }
        }
        let all: usize = sources.values().sum();
        let most = sources.into_values().max().unwrap_or_default();
        let bounds = all <= MAX_STRANGERS
            && most <= MAX_A_SOURCE
            && unknown <= MAX_STRANGERS - KEPT_FOR_KNOWN;
        if !bounds {
            let what = format!(
                "n{node} holds {all} unauthenticated connections, {unknown} from unknown addresses, {most} from one; its pool counts {}",
                self.nodes[node].pool.strangers()
            );
            self.failure.get_or_insert(what);
        }
    }
}
