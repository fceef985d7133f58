//! Snapshots made by hand, for tests of the data plane. Node 0 is this node.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use meshd_wire::{NodeName, Options, Prefix, Subnet};

use crate::dialect::Dialect;
use crate::route::{
    Broadcast, MTU, NodeIdx, NodeShared, NodeSlot, NodeState, RouteSnapshot,
    lpm::{Owner, Route, Table},
};

/// An instant to count from.
#[expect(clippy::disallowed_methods, reason = "only differences matter")]
pub fn now() -> Instant {
    Instant::now()
}

/// This node.
pub const ME: NodeSlot = NodeSlot(0);

/// A reachable node of the current version with a proven UDP path of 1400 bytes and no key.
pub fn node(idx: NodeSlot, nexthop: NodeSlot, via: NodeSlot) -> NodeState {
    NodeState {
        dialect: Dialect::Sptps,
        reachable: true,
        neighbour: nexthop == idx,
        options: Options(0x0700_0000 | Options::PMTU_DISCOVERY | Options::CLAMP_MSS),
        nexthop,
        via,
        udp: Some(addr(idx)),
        min_mtu: 1400,
        mtu: 1400,
        tx: None,
        paused: false,
        rx: Vec::new(),
    }
}

/// A neighbour: a node that we have a link to.
pub fn neighbour(idx: NodeSlot) -> NodeState {
    node(idx, idx, idx)
}

/// The UDP address of [`node`].
pub fn addr(idx: NodeSlot) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, idx.0 as u8], 655))
}

/// A snapshot of this node and `nodes` (from index 1 on) with these subnets.
pub fn snapshot<const N: usize, const S: usize>(
    nodes: [NodeState; N],
    subnets: [(&str, Owner); S],
) -> RouteSnapshot {
    let mut me = neighbour(ME);
    me.neighbour = false;
    me.udp = None;
    me.mtu = MTU;
    let mut snapshot = RouteSnapshot::empty(shared(ME, me));
    for (state, idx) in nodes.into_iter().zip(1..) {
        snapshot.nodes.push(Some(shared(NodeSlot(idx), state)));
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (subnet, owner) in subnets {
        match subnet.parse::<Subnet>().unwrap().prefix {
            Prefix::Mac(_) => panic!("no IP subnet"),
            Prefix::V4(a, len) => v4.push(Route {
                addr: a.to_bits(),
                len,
                owner,
            }),
            Prefix::V6(a, len) => v6.push(Route {
                addr: a.to_bits(),
                len,
                owner,
            }),
        }
    }
    snapshot.v4 = Table::new(v4);
    snapshot.v6 = Table::new(v6);
    snapshot
}

pub const B: NodeSlot = NodeSlot(1);
pub const C: NodeSlot = NodeSlot(2);
pub const D: NodeSlot = NodeSlot(3);

/// This node is a, with links to b and c; d is behind c; e is down.
pub fn five<const S: usize>(subnets: [(&str, Owner); S]) -> RouteSnapshot {
    let mut down = node(NodeSlot(4), B, B);
    down.reachable = false;
    let mut five = snapshot([neighbour(B), neighbour(C), node(D, C, D), down], subnets);
    five.settings.broadcast = Broadcast::Mst;
    five
}

/// Changes the state of a node.
pub fn change(snapshot: &RouteSnapshot, node: NodeSlot, change: impl FnOnce(&mut NodeState)) {
    let node = snapshot.node(node).unwrap();
    let mut state = (**node.state.load()).clone();
    change(&mut state);
    node.state.store(state.into());
}

fn shared(idx: NodeSlot, state: NodeState) -> Arc<NodeShared> {
    let name = NodeName::new(&format!("n{}", idx.0)).unwrap();
    Arc::new(NodeShared::new(NodeIdx::of_slot(idx), name, state))
}
