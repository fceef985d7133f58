//! Outgoing datagrams, joined to runs of equal length, each for one destination.

use std::net::SocketAddr;

/// Most datagrams of a run for another daemon. Half of tinc's replay window of 128 may be in flight
/// out of order, shared by up to four workers (proto/design.md section 2.4, reorder rule).
pub const MAX_RUN: usize = 16;
/// Most datagrams of a run for a meshd in a native session: the limit of one UDP message
/// (`UDP_MAX_SEGMENTS` of old kernels).
pub const MAX_RUN_NATIVE: usize = 64;
/// Most bytes of a run: the limit of one UDP message, with room for headers.
pub const MAX_RUN_BYTES: usize = 65_000;
/// Number of runs, and of bytes, at which a batch must be sent.
const MAX_RUNS: usize = 64;
const MAX_BATCH_BYTES: usize = 400 << 10;

/// Runs of one batch, in the order of their first datagrams. The buffers of the runs are reused in
/// the next batch.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    used: usize,
    bytes: usize,
}

/// Datagrams for one destination. All have `segment` bytes; the last may be shorter.
#[derive(Debug)]
pub struct Run {
    /// Destination address.
    pub to: SocketAddr,
    /// The datagrams end to end, and behind them leftovers of older runs.
    buffer: Vec<u8>,
    length: usize,
    /// Type of service of all datagrams.
    pub tos: u8,
    /// Length of each datagram but the last, in bytes.
    pub segment: usize,
    /// Number of datagrams.
    pub count: usize,
}

impl Runs {
    /// Appends a datagram of `length` bytes to the last run for `to` and returns it for writing.
    /// Starts a new run if the datagram does not fit, has another type of service, or the run has
    /// `most` datagrams.
    pub fn push(&mut self, to: SocketAddr, tos: u8, most: usize, length: usize) -> &mut [u8] {
        let joined = self.runs[..self.used]
            .iter()
            .rposition(|run| run.to == to)
            .filter(|at| self.runs[*at].tos == tos && self.runs[*at].takes(length, most));
        let at = joined.unwrap_or_else(|| self.start(to, tos, length));
        self.bytes += length;
        self.runs[at].append(length)
    }

    /// Returns true if the batch should be sent before more is appended.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used >= MAX_RUNS || self.bytes >= MAX_BATCH_BYTES
    }

    /// Passes every run to `send` and starts a new batch.
    pub fn flush(&mut self, mut send: impl FnMut(&Run)) {
        self.runs[..self.used].iter().for_each(&mut send);
        (self.used, self.bytes) = (0, 0);
    }

    fn start(&mut self, to: SocketAddr, tos: u8, segment: usize) -> usize {
        let at = self.used;
        self.used += 1;
        if let Some(run) = self.runs.get_mut(at) {
            (run.to, run.tos, run.segment, run.count, run.length) = (to, tos, segment, 0, 0);
        } else {
            self.runs.push(Run {
                to,
                buffer: vec![0; MAX_RUN_BYTES],
                length: 0,
                tos,
                segment,
                count: 0,
            });
        }
        at
    }
}

impl Run {
    /// Returns the datagrams, end to end.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Appends one datagram.
    fn append(&mut self, length: usize) -> &mut [u8] {
        let start = self.length;
        self.length += length;
        self.count += 1;
        if self.buffer.len() < self.length {
            self.buffer.resize(self.length, 0);
        }
        &mut self.buffer[start..self.length]
    }

    /// Returns true if a datagram of `length` bytes may follow. None may follow a shorter one.
    fn takes(&self, length: usize, most: usize) -> bool {
        self.count < most
            && length <= self.segment
            && self.length == self.count * self.segment
            && self.length + length <= MAX_RUN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(runs: &mut Runs) -> Vec<(u16, usize, usize, usize)> {
        let mut all = Vec::new();
        runs.flush(|run| all.push((run.to.port(), run.data().len(), run.segment, run.count)));
        all
    }

    #[test]
    fn a_run_has_one_type_of_service() {
        let mut runs = Runs::default();
        let to = "192.0.2.1:655".parse().unwrap();
        for tos in [0, 0xb8, 0xb8, 0] {
            runs.push(to, tos, MAX_RUN, 100);
        }
        let mut all = Vec::new();
        runs.flush(|run| all.push((run.tos, run.count)));
        assert_eq!(all, [(0, 1), (0xb8, 2), (0, 1)]);
    }

    fn push(runs: &mut Runs, port: u16, length: usize) {
        let to = SocketAddr::from(([10, 0, 0, 1], port));
        assert_eq!(runs.push(to, 0, MAX_RUN, length).len(), length);
    }

    #[test]
    fn equal_lengths_join_and_a_shorter_one_ends_the_run() {
        let mut runs = Runs::default();
        for length in [100, 100, 40, 40, 100] {
            push(&mut runs, 1, length);
        }
        push(&mut runs, 2, 100);
        push(&mut runs, 1, 100);
        assert_eq!(
            lengths(&mut runs),
            [
                (1, 240, 100, 3),
                (1, 40, 40, 1),
                (1, 200, 100, 2),
                (2, 100, 100, 1)
            ]
        );
        assert!(lengths(&mut runs).is_empty());
    }

    #[test]
    fn a_run_has_at_most_sixteen_and_64_kib() {
        let mut runs = Runs::default();
        for _ in 0..17 {
            push(&mut runs, 1, 10);
        }
        for _ in 0..2 {
            push(&mut runs, 2, 40_000);
        }
        assert_eq!(
            lengths(&mut runs),
            [
                (1, 160, 10, 16),
                (1, 10, 10, 1),
                (2, 40_000, 40_000, 1),
                (2, 40_000, 40_000, 1)
            ]
        );
    }

    #[test]
    fn a_batch_of_many_destinations_is_full_at_some_point() {
        let mut runs = Runs::default();
        let pushed = (1..).take_while(|port| {
            push(&mut runs, *port, 20);
            !runs.is_full()
        });
        assert_eq!(pushed.count(), MAX_RUNS - 1);
    }

    #[test]
    fn a_batch_of_many_bytes_is_full_and_empty_when_sent() {
        let mut runs = Runs::default();
        while !runs.is_full() {
            push(&mut runs, 1, 1400);
        }
        let sent = |runs: &mut Runs| lengths(runs).iter().map(|run| run.1).sum::<usize>();
        assert_eq!(sent(&mut runs), MAX_BATCH_BYTES.next_multiple_of(1400));
        assert!(!runs.is_full());
        push(&mut runs, 1, 30);
        assert_eq!(sent(&mut runs), 30);
    }
}
