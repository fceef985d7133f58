//! Measurements for monitoring: round trips, loss, time of the last packet, lines by type.

use std::time::{Duration, Instant};

use meshd_wire::request_name;

use crate::{
    mesh::{
        Mesh,
        reports::view::{LineCount, Measures, PeerMeasures, RTT_BOUNDS},
        topology::node::Nodes,
        total,
    },
    route::NodeIdx,
};

/// Number of last probes that the loss is computed from.
const PROBES: u32 = 32;
/// Number of request line types.
const TYPES: usize = 24;

/// Measurements of one node.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Measured {
    /// Round trips by UDP or over the link, per bucket of [`RTT_BOUNDS`], and above the last.
    trips: [u64; RTT_BOUNDS.len() + 1],
    /// Sum of all round-trip times.
    sum: Duration,
    /// The last [`PROBES`] probes to the address in use, latest in the lowest bit. A set bit is an
    /// unanswered probe.
    lost: u32,
    /// Number of probes in `lost`, up to [`PROBES`].
    probes: u32,
    /// Packets received from the node at the last tick.
    packets: u64,
    /// Time of the last packet from the node; packets are counted once a second.
    heard: Option<Instant>,
}

impl Measured {
    /// Records a probe to the address in use.
    pub(in crate::mesh) fn asked(&mut self) {
        self.lost = self.lost << 1 | 1;
        self.probes = PROBES.min(self.probes + 1);
    }

    /// Records the answer to such a probe.
    pub(in crate::mesh) fn answered(&mut self, trip: Duration, now: Instant) {
        // The answered probe is usually the latest unanswered one. Answers that overtake are rare.
        self.lost &= self.lost.wrapping_sub(1);
        self.round_trip(trip, now);
    }

    /// Records a round-trip time.
    pub(in crate::mesh) fn round_trip(&mut self, trip: Duration, now: Instant) {
        let seconds = trip.as_secs_f64();
        self.trips[RTT_BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += trip;
        self.heard = Some(now);
    }

    /// Returns the share of unanswered probes. The latest probe does not count: its answer may
    /// still arrive.
    fn loss(&self) -> Option<f64> {
        let settled = self.probes.checked_sub(1).filter(|probes| *probes > 0)?;
        let lost = self.lost >> 1 & (u32::MAX >> (u32::BITS - settled));
        Some(f64::from(lost.count_ones()) / f64::from(settled))
    }
}

/// Number of request lines by type: received, then sent.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Lines([[u64; TYPES]; 2]);

impl Lines {
    pub(in crate::mesh) fn received(&mut self, line: &[u8]) {
        self.count(0, line);
    }

    pub(in crate::mesh) fn sent(&mut self, line: &[u8]) {
        self.count(1, line);
    }

    fn count(&mut self, way: usize, line: &[u8]) {
        let digits = line.iter().take(2).take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        if let Some(count) = self.0[way].get_mut(number) {
            *count += 1;
        }
    }
}

impl Mesh {
    /// Records once a second which nodes have sent packets since the last tick.
    pub(in crate::mesh) fn measure_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            let node = &self.nodes[idx];
            let packets = total(&node.shared.counters.rx_packets);
            if self.reports.of[idx].measured.packets != packets {
                let measured = &mut self.reports.of[idx].measured;
                (measured.packets, measured.heard) = (packets, Some(now));
            }
        }
    }

    /// Returns the measurements, peers in order of names.
    #[must_use]
    pub fn measures(&self, now: Instant) -> Measures {
        let peers = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        let peers = peers.map(|(_, node)| {
            let measured = &self.reports.of[node.shared.idx].measured;
            PeerMeasures {
                name: node.name().to_string(),
                round_trips: measured.trips,
                round_trips_seconds: measured.sum.as_secs_f64(),
                loss_ratio: measured.loss(),
                heard: measured.heard.map(|at| now.saturating_duration_since(at)),
            }
        });
        Measures {
            peers: peers.collect(),
            lines: self.lines().collect(),
        }
    }

    /// Returns the number of request lines since start, by type.
    pub fn lines(&self) -> impl Iterator<Item = LineCount> + '_ {
        let lines = self.cx.counters.by_type.0[0]
            .iter()
            .zip(&self.cx.counters.by_type.0[1]);
        (0..).zip(lines).filter_map(|(number, (received, sent))| {
            Some(LineCount {
                name: request_name(number)?,
                received: *received,
                sent: *sent,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::now;

    const TRIP: Duration = Duration::from_millis(1);

    #[test]
    fn loss_is_of_the_last_probes_but_the_one_under_way() {
        let mut measured = Measured::default();
        assert_eq!(measured.loss(), None);
        measured.asked();
        assert_eq!(measured.loss(), None);
        measured.asked();
        assert_eq!(measured.loss(), Some(1.0));
        measured.answered(TRIP, now());
        measured.asked();
        assert_eq!(measured.loss(), Some(0.5));
        for _ in 0..40 {
            measured.answered(TRIP, now());
            measured.asked();
        }
        assert_eq!(measured.loss(), Some(0.0));
        for _ in 0..40 {
            measured.asked();
        }
        assert_eq!(measured.loss(), Some(1.0));
    }

    #[test]
    fn round_trips_are_counted_in_the_first_class_that_holds_them() {
        let mut measured = Measured::default();
        let seconds = RTT_BOUNDS.map(Duration::from_secs_f64);
        for trip in seconds.into_iter().chain([Duration::from_secs(9)]) {
            measured.round_trip(trip, now());
        }
        assert_eq!(measured.trips, [1; RTT_BOUNDS.len() + 1]);
        assert_eq!(
            measured.sum,
            seconds.iter().sum::<Duration>() + Duration::from_secs(9)
        );
        assert!(measured.heard.is_some());
    }

    #[test]
    fn lines_are_counted_by_their_number_and_nothing_else_is() {
        let mut lines = Lines::default();
        for line in ["12 a", "12", "8", "99 x", "", "x", "123"] {
            lines.received(line.as_bytes());
        }
        lines.sent(b"9");
        let [received, sent] = lines.0;
        assert_eq!((received[12], received[8], received[0]), (3, 1, 2));
        assert_eq!((received.iter().sum::<u64>(), sent[9]), (6, 1));
    }
}
