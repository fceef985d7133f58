//! What may happen to one packet, whatever the mode.

use std::time::{Duration, Instant};

use meshd_wire::{
    icmp::{self, Unreachable},
    ip::Packet,
};

use crate::route::{
    DropReason, Mode, NodeIdx, RouteSnapshot,
    copies::{check_broadcast, check_transit},
    router::route,
    switch::switch,
};

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to this node's tunnel; [`crate::route::path::send_path`] says how.
    Send(NodeIdx),
    /// Write it to our own device.
    Local,
    /// Spread it: to our device if it is not from there, and to [`crate::route::RouteSnapshot::spread_to`].
    Broadcast,
    /// It cannot go on: this packet answers it, to be routed back to where it came from.
    Reply(Vec<u8>),
    /// Too long without DF: these pieces go to the node instead.
    Fragments(NodeIdx, Vec<Vec<u8>>),
    /// Drop it.
    Drop(DropReason),
}

/// Bounds the errors that we answer with: [`Self::PER_SECOND`] in every second, of both IP versions
/// together. Source: config/tinc.md section 6.5.
#[derive(Debug, Default)]
pub struct ErrorLimiter {
    /// Start of the current second, and errors in it.
    current: Option<(Instant, u32)>,
}

impl ErrorLimiter {
    /// Errors allowed in one second.
    pub const PER_SECOND: u32 = 3;

    /// Whether one more error may go out now; counts it if so.
    pub fn allow(&mut self, now: Instant) -> bool {
        let fresh = self
            .current
            .filter(|(start, _)| now.saturating_duration_since(*start) < Duration::from_secs(1));
        let (start, count) = fresh.unwrap_or((now, 0));
        let allowed = count < Self::PER_SECOND;
        self.current = Some((start, count + u32::from(allowed)));
        allowed
    }
}

/// Decides on one packet that came from `source`: ourselves for our device, else the node whose tunnel or
/// link it came out of. In router mode it is an IP packet, else a frame. TTL and MSS may be changed in
/// place.
///
/// The snapshot must hold a state for ourselves: reachable, ourselves as its next hop and via.
pub fn decide(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    source: NodeIdx,
    limiter: &mut ErrorLimiter,
    now: Instant,
) -> Verdict {
    let verdict = match snapshot.settings.mode {
        Mode::Router => route(snapshot, bytes, source),
        Mode::Switch | Mode::Hub => switch(snapshot, bytes, source),
    };
    let verdict = verdict.unwrap_or_else(|stop| match stop {
        Stop::Drop(reason) => Verdict::Drop(reason),
        Stop::Error(Some(error)) if limiter.allow(now) => Verdict::Reply(error),
        Stop::Error(_) => Verdict::Drop(DropReason::ErrorLimit),
    });
    match verdict {
        Verdict::Broadcast => check(snapshot, bytes, source, verdict, now),
        Verdict::Send(_) | Verdict::Fragments(..) if source != snapshot.me => {
            check(snapshot, bytes, source, verdict, now)
        }
        verdict => verdict,
    }
}

/// The verdict on a packet that goes on to others, unless it has been here before.
#[inline(never)] // most packets go straight to their node
fn check(
    snapshot: &RouteSnapshot,
    bytes: &[u8],
    source: NodeIdx,
    verdict: Verdict,
    now: Instant,
) -> Verdict {
    let checked = match &verdict {
        Verdict::Send(to) => check_transit(snapshot, bytes, (source, *to), bytes.len(), now),
        Verdict::Fragments(to, pieces) => {
            let longest = pieces.iter().map(Vec::len).max().unwrap_or_default();
            check_transit(snapshot, bytes, (source, *to), longest, now)
        }
        _ => check_broadcast(snapshot, bytes, source, now),
    };
    checked.map_or_else(Verdict::Drop, |()| verdict)
}

/// Why a packet goes no further.
pub(super) enum Stop {
    Drop(DropReason),
    /// With this answer, unless it must not be answered.
    Error(Option<Vec<u8>>),
}

impl Stop {
    pub(super) fn unreachable(packet: &Packet<'_>, why: Unreachable) -> Self {
        Self::Error(icmp::unreachable(packet, why))
    }
}
