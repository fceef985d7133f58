//! Selects the next script to run: pure, without processes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::Call;

/// Maximum number of waiting scripts. Memory: about 500 bytes each. Source: proto/threat-model.md section 5.6.
pub(super) const MAX_WAITING: usize = 1024;
/// Rate and burst of script starts, per second. Source: T33 of proto/threat-model.md.
pub(super) const RATE: u32 = 20;
/// Maximum number of running scripts, each of another node.
pub(super) const MAX_RUNNING: usize = 4;

/// Scripts by lane. A lane runs one script at a time, in order. Of one script on one subject only the newest waits.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: BTreeMap<String, Lane>,
    /// Lanes with a waiting script and no running one, in order of readiness.
    ready: VecDeque<String>,
    waiting: usize,
    running: usize,
    tokens: f64,
    refilled: Instant,
}

#[derive(Debug, Default)]
struct Lane {
    running: bool,
    waiting: VecDeque<Call>,
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            waiting: 0,
            running: 0,
            tokens: f64::from(RATE),
            refilled: now,
        }
    }

    /// Queues a script. Returns `false` if a script was skipped because too many wait.
    pub(super) fn push(&mut self, call: Call) -> bool {
        let name = call.lane();
        let lane = self.lanes.entry(name.clone()).or_default();
        if let Some(at) = lane.waiting.iter().position(|other| call.replaces(other)) {
            lane.waiting.remove(at);
            lane.waiting.push_back(call);
            return true;
        }
        if self.waiting >= MAX_WAITING {
            return false;
        }
        if !lane.running && lane.waiting.is_empty() {
            self.ready.push_back(name);
        }
        lane.waiting.push_back(call);
        self.waiting += 1;
        true
    }

    /// Returns the next script, if one may start now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Call> {
        self.refill(now);
        if self.running >= MAX_RUNNING || self.tokens < 1.0 {
            return None;
        }
        let lane = self.lanes.get_mut(&self.ready.pop_front()?)?;
        let call = lane.waiting.pop_front()?;
        lane.running = true;
        self.waiting -= 1;
        self.running += 1;
        self.tokens -= 1.0;
        Some(call)
    }

    /// Handles the end of the running script of a lane.
    pub(super) fn finished(&mut self, name: &str) {
        let Some(lane) = self.lanes.get_mut(name).filter(|lane| lane.running) else {
            return;
        };
        self.running -= 1;
        lane.running = false;
        if lane.waiting.is_empty() {
            self.lanes.remove(name);
        } else {
            self.ready.push_back(name.to_owned());
        }
    }

    /// Returns the time at which the rate admits the next start; `None` if no lane is ready.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.ready.is_empty() || self.running >= MAX_RUNNING {
            return None;
        }
        let missing = (1.0 - self.tokens).max(0.0) / f64::from(RATE);
        // One millisecond later, so that rounding does not cause an early wake-up.
        Some(self.refilled + Duration::from_secs_f64(missing) + Duration::from_millis(1))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled).as_secs_f64();
        let burst = f64::from(RATE);
        self.tokens = (self.tokens + since * burst).min(burst);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(script: &str, lane: &str) -> Call {
        Call::Host {
            up: script == "host-up",
            node: meshd_wire::NodeName::new(lane).unwrap(),
            address: None,
        }
    }

    fn start() -> (Queue, Instant) {
        let now = meshd_os::clock::now();
        (Queue::new(now), now)
    }

    #[test]
    fn a_flapping_node_has_one_running_and_one_waiting_of_each_script() {
        let (mut queue, now) = start();
        assert!(queue.push(call("host-up", "a")));
        assert_eq!(queue.next(now).unwrap().script(), "host-up");
        for _ in 0..5000 {
            assert!(queue.push(call("host-down", "a")));
            assert!(queue.push(call("host-up", "a")));
        }
        assert_eq!(queue.waiting, 2);
        assert!(queue.next(now).is_none(), "the lane is busy");
        queue.finished("a");
        assert_eq!(queue.next(now).unwrap().script(), "host-down");
        queue.finished("a");
        assert_eq!(
            queue.next(now).unwrap().script(),
            "host-up",
            "the last word"
        );
        queue.finished("a");
        assert!(queue.is_idle() && queue.lanes.is_empty());
    }

    #[test]
    fn the_rate_holds_over_any_time() {
        let (mut queue, start) = start();
        let mut ran = 0;
        for tick in 0..300_u64 {
            let now = start + Duration::from_millis(10 * tick);
            queue.push(call("host-up", &format!("n{tick}")));
            while let Some(call) = queue.next(now) {
                ran += 1;
                queue.finished(&call.lane());
            }
        }
        assert!(
            (60..=80).contains(&ran),
            "3 s at 20/s and a burst of 20: {ran}"
        );
        let wake = queue.poll_timeout().unwrap();
        assert!(
            queue.next(wake).is_some(),
            "the time it names is late enough"
        );
    }

    #[test]
    fn other_nodes_do_not_wait_for_a_slow_script_but_the_sum_is_bounded() {
        let (mut queue, now) = start();
        for lane in 0..2000 {
            let fits = queue.push(call("host-up", &lane.to_string()));
            assert_eq!(fits, lane < MAX_WAITING);
        }
        let running: Vec<_> = std::iter::from_fn(|| queue.next(now)).collect();
        assert_eq!(running.len(), MAX_RUNNING);
        assert!(queue.poll_timeout().is_none(), "only an end helps");
        queue.finished("no such lane");
        queue.finished("0");
        assert_eq!(queue.next(now).unwrap().lane(), "4");
    }
}
