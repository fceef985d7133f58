//! Both ends of a tunnel start at once, over slow lines.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_crypto::Rng;

use crate::{
    mesh::{
        Input, LinkReport, Output,
        testing::{Net, lines_of, name, settings},
    },
    tunnel,
};

/// Fewer seeds with debug assertions, which make each handshake ten times slower; `cargo test
/// --release` runs all.
const SEEDS: usize = if cfg!(debug_assertions) { 400 } else { 10_000 };
const QUIET: Duration = Duration::from_secs(3);

/// Two neighbours and the lines on the way between them: (time, order) -> (receiver, line).
struct Pair {
    net: Net,
    way: BTreeMap<(Instant, usize), (u8, Bytes)>,
    /// Delay of a line from either end.
    delay: [Duration; 2],
    /// Number of REQ_KEY and ANS_KEY lines.
    lines: usize,
    /// Number of all lines.
    sent: usize,
}

impl Pair {
    fn new(native: bool) -> Self {
        let mut all = settings(2);
        all.iter_mut().for_each(|one| one.native = native);
        let mut net = Net::new(all);
        net.no_udp.insert((0, 1));
        net.join(0, 1);
        net.run(QUIET);
        Self {
            net,
            way: BTreeMap::new(),
            delay: [Duration::ZERO; 2],
            lines: 0,
            sent: 0,
        }
    }

    fn other(&self, n: u8) -> crate::route::NodeIdx {
        self.net.meshes[usize::from(n)]
            .nodes
            .find(&name(1 - n))
            .unwrap()
    }

    fn begins(&mut self, n: u8) {
        let (idx, now) = (self.other(n), self.net.now);
        self.net.meshes[usize::from(n)].ensure_session(idx, now);
        self.drain();
    }

    fn is_established(&self, n: u8) -> bool {
        let keys = &self.net.meshes[usize::from(n)].sessions[self.other(n)];
        keys.is_established() && keys.sptps.pending.is_none() && !keys.is_waiting()
    }

    fn drain(&mut self) {
        for n in 0..2 {
            let now = self.net.now;
            let mesh = &mut self.net.meshes[usize::from(n)];
            mesh.settle_all(now);
            while let Some(output) = mesh.poll_output() {
                let Output::SendLine { line, .. } = output else {
                    continue;
                };
                self.lines += usize::from(line.starts_with(b"15 ") || line.starts_with(b"16 "));
                let at = now + self.delay[usize::from(n)];
                // In order of time, then in the order of sending.
                self.sent += 1;
                self.way.insert((at, self.sent), (1 - n, line));
            }
        }
    }

    /// Advances to the next line or timer before `end`; returns true if there was one.
    fn step(&mut self, end: Instant) -> bool {
        let timers = self
            .net
            .meshes
            .iter()
            .filter_map(|mesh| mesh.poll_timeout());
        let timer = timers.map(|(at, _)| at).min().unwrap_or(end);
        let line = self.way.first_key_value().map(|((at, _), _)| *at);
        let next = line.unwrap_or(end).min(timer);
        if next >= end {
            self.net.now = end;
            return false;
        }
        self.net.now = next.max(self.net.now);
        let now = self.net.now;
        if line.is_some_and(|at| at <= now)
            && let Some((_, (to, line))) = self.way.pop_first()
        {
            let mut links = self.net.wires.keys();
            let (_, link) = *links.find(|(node, _)| *node == to).unwrap();
            self.net
                .input(to, Input::Link(LinkReport::Line { link, line }));
        } else {
            for n in 0..2 {
                self.net.input(n, Input::Timeout);
            }
        }
        self.drain();
        true
    }
}

/// T42: both ends start within a millisecond, over lines with up to 100 ms of delay each way. There
/// is one session within two round trips, both ends use it, and no handshake starts again.
#[test]
fn one_session_comes_of_two_that_begin_at_once() {
    let mut rng = Rng::new([42; 32]);
    for native in [false, true] {
        let mut pair = Pair::new(native);
        for seed in 0..SEEDS {
            let mut millis = |below: u32| Duration::from_micros(rng.below(below * 1_000).into());
            pair.delay = [millis(100), millis(100)];
            let (first, gap) = (u8::try_from(seed % 2).unwrap(), millis(1));
            pair.way.clear();
            for n in 0..2 {
                let idx = pair.other(n);
                pair.net.meshes[usize::from(n)].drop_keys(idx);
            }
            pair.lines = 0;
            let began = pair.net.now;
            let mut done = [None; 2];
            let log = lines_of(|| {
                pair.begins(first);
                while pair.step(began + gap) {}
                pair.begins(1 - first);
                while pair.step(began + QUIET) {
                    for n in 0..2 {
                        if done[usize::from(n)].is_none() && pair.is_established(n) {
                            done[usize::from(n)] = Some(pair.net.now - began);
                        }
                    }
                }
            });
            let round_trip = pair.delay[0] + pair.delay[1];
            for n in 0..2 {
                let took = done[usize::from(n)].expect("a session");
                assert!(took <= 2 * round_trip + gap, "seed {seed}: {took:?}");
                assert!(pair.is_established(n), "seed {seed}");
                // Each end opens the packets of the other.
                let (from, to) = (usize::from(n), usize::from(1 - n));
                let sealed = pair.net.meshes[from].seal(pair.other(n), 0, b"hello");
                let keys = pair.net.meshes[to].sessions[pair.other(1 - n)].rx();
                let opened = tunnel::open(&keys[..1], &mut sealed.unwrap());
                assert!(opened.is_ok(), "seed {seed}: by the first key");
            }
            let made = log.iter().filter(|line| line.contains("established"));
            assert_eq!(made.count(), 2, "seed {seed}: one at each end");
            // Two first messages, and the rest of one handshake.
            assert!(pair.lines <= 5, "seed {seed}: {} lines", pair.lines);
        }
    }
}
