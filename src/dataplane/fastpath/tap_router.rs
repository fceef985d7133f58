//! Router mode on a TAP device: the frames of our kernel. Source: config/tinc.md section 6.8.

use std::net::IpAddr;

use meshd_proto::route::{DropReason, RouteSnapshot, lpm::Owner};
use meshd_wire::{
    ether::{Frame, TYPE_V4, TYPE_V6},
    neighbour::Question,
};

use crate::{
    fastpath::{Sink, Step},
    io::{neighbour_proxy::LINK_HEADER, tun::Tun, vnet::Header},
};

impl<S: Sink> Step<'_, S> {
    /// Handles one frame from our device, or a super-packet of frames. Answers a neighbour query,
    /// routes an IP packet, and drops any other frame. `scratch` as in [`Self::from_device_super`].
    pub(super) fn take_frame(
        &mut self,
        tun: &Tun,
        header: &Header,
        frame: &mut [u8],
        scratch: &mut [u8],
    ) {
        let Some(seen) = Frame::parse(frame) else {
            return self.sink.dropped(DropReason::Malformed);
        };
        let (asker, is_ip) = (
            seen.source(),
            matches!(seen.first_type(), TYPE_V4 | TYPE_V6),
        );
        if let Some(question) = Question::of(frame) {
            tun.station().seen(asker);
            let others = |ip| is_of_others(self.snapshot, ip);
            if let Some(answer) = question.answer(asker, others)
                && tun.write_frame(&answer).is_err()
            {
                self.sink.dropped(DropReason::SendFailed);
            }
            return;
        }
        match header.without_link() {
            Some(header) if is_ip => {
                self.from_device_super(&header, &mut frame[LINK_HEADER..], scratch);
            }
            _ => self.sink.dropped(DropReason::BadType),
        }
    }
}

/// Returns true if an address lies in a subnet of another node, up or down.
fn is_of_others(snapshot: &RouteSnapshot, ip: IpAddr) -> bool {
    let owner = match ip {
        IpAddr::V4(ip) => snapshot.v4.lookup(ip.to_bits()),
        IpAddr::V6(ip) => snapshot.v6.lookup(ip.to_bits()),
    };
    matches!(owner, Some(Owner::Node(owner) | Owner::Unreachable(owner)) if owner != snapshot.me)
}
