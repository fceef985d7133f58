//! Path of a packet to a node: UDP with its next hop and header, or TCP.

use std::net::SocketAddr;

use meshd_wire::Options;

use crate::{
    dialect::Dialect,
    route::{MTU, Mode, NodeSlot, NodeState, RouteSnapshot},
};

/// Path of one tunnel datagram. Source: wire/tinc-1.1.md section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendPath {
    /// By UDP.
    Udp {
        /// The node that the datagram is sent to: the destination itself or a relay.
        hop: NodeSlot,
        /// Confirmed address of `hop`.
        to: SocketAddr,
        /// True if `hop` is the destination and this node is the source: the header's dst id is
        /// zero then.
        direct: bool,
        /// True if the 12-byte header of ids is needed. `hop` then has minor 4 or higher, and the
        /// datagram is not a native one sent directly to its destination.
        header: bool,
    },
    /// As a whole frame over the link to this neighbour (PACKET, 17). The neighbour is the
    /// destination, or for a legacy node the next one on the path.
    Frame(NodeSlot),
    /// As a sealed datagram over the link to this neighbour (SPTPS_PACKET, 21 or REQ_KEY 21).
    Relayed(NodeSlot),
    /// No packet can be sent until there is a key.
    NoKey,
    /// There is no path.
    Unreachable,
}

impl SendPath {
    /// Returns the node that the datagram is sent to next; `None` if it is not sent.
    #[must_use]
    pub const fn hop(self) -> Option<NodeSlot> {
        match self {
            Self::Udp { hop, .. } | Self::Frame(hop) | Self::Relayed(hop) => Some(hop),
            Self::NoKey | Self::Unreachable => None,
        }
    }
}

/// Returns the node whose tunnel carries our packet of `length` bytes for `to`: `to` itself in most
/// cases. If the dialect is not end to end (legacy), each node on the path opens the packet and
/// forwards it. The carrier is then `via`, the last node that UDP reaches directly, if the packet
/// can go there; else it is the next hop. Source: wire/tinc-1.0.md section 3.7.
#[must_use]
pub fn carrier(snapshot: &RouteSnapshot, to: NodeSlot, length: usize) -> NodeSlot {
    let Some(target) = snapshot
        .state(to)
        .filter(|target| !target.dialect.caps().end_to_end)
    else {
        return to;
    };
    if target.via == snapshot.me || target.via == target.nexthop {
        return target.nexthop;
    }
    let takes = |via: &NodeState| {
        via.dialect.caps().end_to_end
            || via.tx.is_some()
                && via.udp.is_some()
                && takes_frame(snapshot.settings.mode, via, length)
    };
    match snapshot.state(target.via).is_some_and(|via| takes(&via)) {
        true => target.via,
        false => target.nexthop,
    }
}

/// Returns the node that our packet of `length` bytes for `to` is sent to next, by any path; `None`
/// if it cannot be sent now.
#[must_use]
pub fn next_hop(snapshot: &RouteSnapshot, to: NodeSlot, length: usize) -> Option<NodeSlot> {
    let to = carrier(snapshot, to, length);
    send_path(snapshot, snapshot.me, to, length, false).hop()
}

/// Returns true if a packet fits into the node's UDP path as a frame.
fn takes_frame(mode: Mode, state: &NodeState, length: usize) -> bool {
    mode.frame_len(length) <= state.min_mtu.into() && !state.options.has(Options::TCP_ONLY)
}

/// Chooses the path of a record with `record_len` bytes of data from `from` to `to`: our own
/// packet, or one that we relay. `probe` is set for path-MTU probes, which no MTU limits. Any
/// result but [`SendPath::Udp`] means that a probe cannot be sent, because TCP must not carry it.
///
/// Sources: wire/tinc-1.1.md sections 3.8, 4.2 and 4.3.
#[must_use]
pub fn send_path(
    snapshot: &RouteSnapshot,
    from: NodeSlot,
    to: NodeSlot,
    record_len: usize,
    probe: bool,
) -> SendPath {
    let (Some(me), Some(target)) = (snapshot.state(snapshot.me), snapshot.state(to)) else {
        return SendPath::Unreachable;
    };
    let ours = from == snapshot.me;
    choose(
        snapshot,
        Record::new(ours, &target, record_len, probe),
        &me,
        (to, &target),
    )
}

/// Works as [`send_path`] for our own packet, with the node's state at hand.
#[must_use]
pub fn own_path(snapshot: &RouteSnapshot, to: (NodeSlot, &NodeState), length: usize) -> SendPath {
    let Some(me) = snapshot.state(snapshot.me) else {
        return SendPath::Unreachable;
    };
    choose(snapshot, Record::new(true, to.1, length, false), &me, to)
}

/// A record to be sent.
#[derive(Clone, Copy)]
struct Record {
    /// True if this node made the record, false if it relays it.
    ours: bool,
    /// True if we have a key for the destination.
    keyed: bool,
    /// Dialect of the tunnel; SPTPS for a relayed record, whose dialect is unknown.
    dialect: Dialect,
    /// Bytes of data.
    len: usize,
    /// True if the record is a probe.
    probe: bool,
}

impl Record {
    fn new(ours: bool, target: &NodeState, len: usize, probe: bool) -> Self {
        Self {
            ours,
            keyed: target.tx.is_some(),
            dialect: match ours {
                true => target.dialect,
                false => Dialect::Sptps,
            },
            len,
            probe,
        }
    }

    /// Returns true if the record fits a hop with a proven MTU of `mtu`. The MTU counts SPTPS
    /// records behind ids, whose datagrams are 33 bytes longer.
    fn fits(&self, mtu: u16, direct: bool) -> bool {
        let caps = self.dialect.caps();
        let len = match direct {
            true => self.len.saturating_sub(caps.direct_saving),
            false => self.len + caps.relay_cost,
        };
        self.probe || len <= mtu.into()
    }
}

impl Mode {
    /// Returns the MTU of a tunnel over a hop with MTU `mtu`, in bytes with the Ethernet header. Not
    /// every dialect counts that header in packets that are carried without one.
    pub(crate) fn tunnel_mtu(self, dialect: Dialect, mtu: u16, direct: bool) -> u16 {
        let caps = dialect.caps();
        let longer = match caps.counts_ethernet {
            true => mtu,
            false => self.frame_len(mtu.into()) as u16,
        };
        let mtu = match direct {
            true => longer + caps.direct_saving as u16,
            false => longer - caps.relay_cost as u16,
        };
        mtu.min(MTU)
    }
}

fn choose(
    snapshot: &RouteSnapshot,
    record: Record,
    me: &NodeState,
    (to, target): (NodeSlot, &NodeState),
) -> SendPath {
    if !target.reachable || target.nexthop == snapshot.me {
        return SendPath::Unreachable;
    }
    let tcp_only = |state: &NodeState| state.options.has(Options::TCP_ONLY);
    if record.ours && !target.dialect.caps().end_to_end {
        let fits = record.probe || takes_frame(snapshot.settings.mode, target, record.len);
        return match target.udp.filter(|_| fits && record.keyed && !tcp_only(me)) {
            Some(addr) => SendPath::Udp {
                hop: to,
                to: addr,
                direct: true,
                header: false,
            },
            None => SendPath::Frame(target.nexthop),
        };
    }
    if record.ours && target.neighbour && !record.probe {
        let fits = match record.dialect.caps().counts_ethernet {
            true => snapshot.settings.mode.frame_len(record.len) <= target.min_mtu.into(),
            false => record.fits(target.min_mtu, true),
        };
        if !fits || !record.keyed || tcp_only(me) || tcp_only(target) {
            return SendPath::Frame(to);
        }
    }
    if record.ours && !record.keyed {
        return SendPath::NoKey;
    }

    let fits = |hop, state: &NodeState| record.fits(state.min_mtu, record.ours && hop == to);
    let over = |hop, state: &NodeState| {
        let direct = record.ours && hop == to;
        let header = state.options.has_ids() && (!direct || record.dialect.caps().direct_ids);
        match state.udp {
            // Without the header only the two ends of a tunnel understand its datagrams.
            Some(addr)
                if fits(hop, state) && (direct || header) && !tcp_only(me) && !tcp_only(state) =>
            {
                SendPath::Udp {
                    hop,
                    to: addr,
                    direct,
                    header,
                }
            }
            _ => SendPath::Relayed(target.nexthop),
        }
    };
    // Most packets go directly to their node, whose state is here already.
    if target.via == to && fits(to, target) {
        return over(to, target);
    }
    let via = snapshot
        .state(target.via)
        .filter(|via| fits(target.via, via));
    match via {
        Some(via) if target.via != snapshot.me => over(target.via, &via),
        _ => match snapshot.state(target.nexthop) {
            Some(nexthop) => over(target.nexthop, &nexthop),
            None => SendPath::Unreachable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{
        ETHER,
        testing::{B, C, D, ME, addr, neighbour, node, snapshot},
    };

    fn own(snapshot: &RouteSnapshot, to: NodeSlot, len: usize, keyed: bool) -> SendPath {
        path(snapshot, to, len, keyed, false)
    }

    fn probe(snapshot: &RouteSnapshot, to: NodeSlot, len: usize) -> SendPath {
        path(snapshot, to, len, true, true)
    }

    /// Returns the path of our own record. A test cannot make a key, so the state has none.
    fn path(
        snapshot: &RouteSnapshot,
        to: NodeSlot,
        len: usize,
        keyed: bool,
        probe: bool,
    ) -> SendPath {
        let record = Record {
            ours: true,
            keyed,
            dialect: Dialect::Sptps,
            len,
            probe,
        };
        let (me, target) = (snapshot.state(ME).unwrap(), snapshot.state(to).unwrap());
        choose(snapshot, record, &me, (to, &target))
    }

    fn udp(hop: NodeSlot, direct: bool) -> SendPath {
        SendPath::Udp {
            hop,
            to: addr(hop),
            direct,
            header: true,
        }
    }

    #[test]
    fn neighbour_by_udp_where_the_frame_fits_else_by_its_link() {
        let s = snapshot([neighbour(B)], []);
        assert_eq!(own(&s, B, 1400 - ETHER, true), udp(B, true));
        assert_eq!(own(&s, B, 1401 - ETHER, true), SendPath::Frame(B));
        assert_eq!(own(&s, B, 20, false), SendPath::Frame(B));
        assert_eq!(send_path(&s, ME, B, 20, false), SendPath::Frame(B));
        assert_eq!(probe(&s, B, 1500), udp(B, true));
    }

    #[test]
    fn far_node_directly_then_by_its_next_hop_then_by_links() {
        let mut far = node(C, B, C);
        let s = snapshot([neighbour(B), far.clone()], []);
        assert_eq!(own(&s, C, 1400, true), udp(C, true));
        assert_eq!(own(&s, C, 1400, false), SendPath::NoKey);
        assert_eq!(send_path(&s, ME, C, 1400, false), SendPath::NoKey);
        assert_eq!(own(&s, C, 1401, true), SendPath::Relayed(B));
        far.min_mtu = 1000;
        let s = snapshot([neighbour(B), far], []);
        assert_eq!(own(&s, C, 1001, true), udp(B, false));
        assert_eq!(probe(&s, C, 1001), udp(C, true));
    }

    #[test]
    fn indirect_node_by_its_via() {
        // D is reached via C only, C via B or directly.
        let nodes = [neighbour(B), node(C, B, C), node(D, B, C)];
        let s = snapshot(nodes, []);
        assert_eq!(own(&s, D, 1400, true), udp(C, false));
        assert_eq!(own(&s, D, 1401, true), SendPath::Relayed(B));
        // Only this node can reach D directly.
        let s = snapshot([neighbour(B), neighbour(C), node(D, B, ME)], []);
        assert_eq!(own(&s, D, 1400, true), udp(B, false));
    }

    #[test]
    fn relayed_datagrams_need_no_key_and_no_room_for_a_header() {
        let s = snapshot([neighbour(B), node(C, B, C)], []);
        assert_eq!(send_path(&s, C, B, 1400, false), udp(B, false));
        assert_eq!(send_path(&s, C, B, 1401, false), SendPath::Relayed(B));
        assert_eq!(send_path(&s, B, C, 1400, false), udp(C, false));
    }

    #[test]
    fn old_hops_take_only_what_is_meant_for_them() {
        let mut old = neighbour(B);
        old.options = old.options.with_minor(3);
        let mut far = node(C, B, C);
        far.udp = None;
        far.min_mtu = 0;
        let s = snapshot([old, far], []);
        let SendPath::Udp { direct, header, .. } = own(&s, B, 100, true) else {
            panic!("not by UDP");
        };
        assert!(direct && !header);
        assert_eq!(own(&s, C, 100, true), SendPath::Relayed(B));
        assert_eq!(send_path(&s, C, B, 100, false), SendPath::Relayed(B));
    }

    #[test]
    fn tcp_only_at_either_end_of_a_hop() {
        let tcp = |mut state: NodeState| {
            state.options.0 |= Options::TCP_ONLY | Options::INDIRECT;
            state
        };
        let s = snapshot([tcp(neighbour(B)), node(C, B, C), node(D, B, B)], []);
        assert_eq!(own(&s, B, 100, true), SendPath::Frame(B));
        assert_eq!(own(&s, C, 100, true), udp(C, true));
        assert_eq!(own(&s, D, 100, true), SendPath::Relayed(B));

        let s = snapshot([neighbour(B), node(C, B, C)], []);
        let me = s.node(ME).unwrap();
        me.state.store(tcp((**me.state.load()).clone()).into());
        assert_eq!(own(&s, B, 100, true), SendPath::Frame(B));
        assert_eq!(own(&s, C, 100, true), SendPath::Relayed(B));
        assert_eq!(send_path(&s, C, B, 100, false), SendPath::Relayed(B));
    }

    #[test]
    fn no_path_to_the_unreachable_the_unknown_and_ourselves() {
        let mut down = neighbour(B);
        down.reachable = false;
        let s = snapshot([down], []);
        for to in [B, C, ME] {
            assert_eq!(send_path(&s, C, to, 100, false), SendPath::Unreachable);
        }
    }
}
