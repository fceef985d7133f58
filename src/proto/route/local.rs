//! Fast path for packets to this node.

use std::net::IpAddr;

use meshd_wire::{
    Options,
    ip::{self, Packet},
};

use crate::route::{
    ETHER, Forwarding, MTU, NodeSlot, RouteSnapshot,
    router::mtu_of,
    source::{Origin, judge},
};

/// Verdict of the router for all packets of one node between two addresses. The verdict is computed
/// once for many packets, because packets of a flow arrive together.
#[derive(Debug, Clone, Copy)]
pub struct ForUs {
    source: NodeSlot,
    /// Source and destination; SourceCheck uses the source.
    between: (IpAddr, IpAddr),
    /// MTU for clamping the MSS of TCP, in bytes without the Ethernet header.
    clamp: Option<u16>,
    /// True if each packet is counted with [`crate::route::source::count`].
    pub is_counted: bool,
}

impl ForUs {
    /// Returns the rule for packets like `packet`, for which `decide` returned
    /// [`Verdict::Local`](crate::route::verdict::Verdict::Local).
    #[must_use]
    pub fn like(snapshot: &RouteSnapshot, packet: &[u8], source: NodeSlot) -> Option<Self> {
        let kernel = snapshot.settings.forwarding == Forwarding::Kernel && source != snapshot.me;
        let me = snapshot.state(snapshot.me)?;
        let clamp = !kernel && me.options.has(Options::CLAMP_MSS);
        let packet = Packet::parse(packet)?;
        Some(Self {
            source,
            between: between(&packet),
            is_counted: judge(snapshot, &packet, source) == Origin::Counted,
            clamp: clamp.then(|| MTU.min(mtu_of(snapshot, source)) - ETHER as u16),
        })
    }

    /// Returns true if the rule covers a packet. The packet is then ready for our device.
    pub fn takes(&self, packet: &mut [u8], source: NodeSlot) -> bool {
        let takes = source == self.source
            && Packet::parse(packet).is_some_and(|packet| between(&packet) == self.between);
        if let Some(mtu) = self.clamp.filter(|_| takes) {
            ip::clamp_mss(packet, mtu);
        }
        takes
    }
}

fn between(packet: &Packet<'_>) -> (IpAddr, IpAddr) {
    (packet.source(), packet.destination())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{
        lpm::Owner,
        testing::{ME, neighbour, now, snapshot},
        verdict::{self, ErrorLimiter, Verdict},
    };
    use meshd_wire::testing::{tcp, v4};

    const ONE: NodeSlot = NodeSlot(1);

    /// The router delivers every packet that the rule covers, with the same bytes.
    #[test]
    fn the_rule_does_what_the_router_does() {
        for (mtu, clamp, kernel) in [
            (1000, true, false),
            (1400, true, false),
            (1000, false, false),
            (1000, true, true),
        ] {
            let mut one = neighbour(ONE);
            one.mtu = mtu;
            let owners = [
                ("10.0.0.0/24", Owner::Node(ME)),
                ("10.0.1.0/24", Owner::Node(ONE)),
            ];
            let mut tables = snapshot([one], owners);
            if kernel {
                tables.settings.forwarding = Forwarding::Kernel;
            }
            if !clamp {
                let me = tables.node(ME).unwrap();
                let mut state = (**me.state.load()).clone();
                state.options.0 &= !Options::CLAMP_MSS;
                me.state.store(state.into());
            }
            let syn = tcp(&[2, 4, 0x05, 0xb4]);
            let mut rule = None;
            for (to, like_before) in [("10.0.0.1", false), ("10.0.0.1", true), ("10.0.0.2", false)]
            {
                let packet = v4("10.0.1.9", to, 6, &syn);
                let (mut routed, mut ruled) = (packet.clone(), packet);
                let mut limiter = ErrorLimiter::default();
                let verdict = verdict::decide(&tables, &mut routed, ONE, &mut limiter, now());
                assert_eq!(verdict, Verdict::Local);
                let taken = rule.is_some_and(|rule: ForUs| rule.takes(&mut ruled, ONE));
                assert_eq!(taken, like_before);
                if taken {
                    assert_eq!(ruled, routed);
                }
                assert!(!rule.is_some_and(|rule| rule.takes(&mut ruled, ME)));
                rule = ForUs::like(&tables, &routed, ONE);
            }
        }
    }
}
