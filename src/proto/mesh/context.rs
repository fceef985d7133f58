//! The surroundings of every component: time, settings, random numbers, timers, outputs, counters.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use meshd_crypto::Rng;

use crate::{
    dialect::Dialect,
    mesh::{
        Deadline, Output, Settings, Timer, reports::measure::Lines, sessions::lifetime::Lifetime,
    },
    route::NodeIdx,
};

/// State that every component may use: each method of a component takes as much of it as the method
/// needs.
pub(in crate::mesh) struct Context {
    /// Time of the input that is being handled.
    pub(in crate::mesh) now: Instant,
    /// The configuration in force.
    pub(in crate::mesh) settings: Arc<Settings>,
    /// Source of every random number of the mesh.
    pub(in crate::mesh) rng: Rng,
    /// Counters for the operator.
    pub(in crate::mesh) counters: Counters,
    timers: BTreeSet<(Instant, Timer, NodeIdx)>,
    outputs: VecDeque<Output>,
}

/// Counters of the whole mesh since its start.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Counters {
    /// Request lines received.
    pub(in crate::mesh) lines: u64,
    /// Request lines of each type, received and sent.
    pub(in crate::mesh) by_type: Lines,
    /// Runs of the graph pass.
    pub(in crate::mesh) graph_runs: u64,
    /// Lines flooded: our own and forwarded ones.
    pub(in crate::mesh) floods: u64,
    /// Lines and addresses refused by a limit.
    pub(in crate::mesh) refused: u64,
    /// Attempts to lower the dialect of a node.
    pub(in crate::mesh) downgrades: u64,
    /// Announced subnets that are not accepted.
    pub(in crate::mesh) subnets_refused: u64,
}

impl Context {
    pub(in crate::mesh) fn new(settings: Arc<Settings>, rng: Rng, now: Instant) -> Self {
        Self {
            now,
            settings,
            rng,
            counters: Counters::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Returns the lifetimes of a dialect's packet keys.
    pub(in crate::mesh) fn lifetime(&self, dialect: Dialect) -> Lifetime {
        Lifetime::of(dialect, self.settings.key_expire)
    }

    /// Asks the driver for an action.
    pub(in crate::mesh) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Returns the next action for the driver.
    pub(in crate::mesh) fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Sets a timer for a node; for this node if the timer belongs to none.
    pub(in crate::mesh) fn arm(&mut self, at: Instant, timer: Timer, idx: NodeIdx) {
        self.timers.insert((at, timer, idx));
    }

    /// Returns the time and the kind of the first timer.
    pub(in crate::mesh) fn deadline(&self) -> Option<Deadline> {
        self.timers.first().map(|(at, timer, _)| (*at, *timer))
    }

    /// Takes the first timer that is due.
    pub(in crate::mesh) fn take_due(&mut self, now: Instant) -> Option<(Timer, NodeIdx)> {
        let (at, _, _) = self.timers.first()?;
        if *at > now {
            return None;
        }
        let (_, timer, idx) = self.timers.pop_first()?;
        Some((timer, idx))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshd_crypto::PrivateKey;

    use super::*;
    use crate::mesh::testing;

    fn context() -> Context {
        let mut rng = Rng::new([1; 32]);
        let key = Arc::new(PrivateKey::generate(&mut rng));
        let settings = Arc::new(Settings::new(testing::name(0), key));
        Context::new(settings, rng, testing::start())
    }

    #[test]
    fn timers_come_in_order_of_time_and_once_each() {
        let mut cx = context();
        let (now, idx) = (cx.now, NodeIdx::FIRST);
        let later = now + Duration::from_secs(2);
        cx.arm(later, Timer::Tick, idx);
        cx.arm(now, Timer::Dial, idx);
        cx.arm(now, Timer::Dial, idx);
        assert_eq!(cx.deadline(), Some((now, Timer::Dial)));
        assert_eq!(cx.take_due(now), Some((Timer::Dial, idx)));
        assert_eq!(cx.take_due(now), None, "the other one is not due");
        assert_eq!(cx.take_due(later), Some((Timer::Tick, idx)));
        assert_eq!(cx.deadline(), None);
    }

    #[test]
    fn outputs_come_in_the_order_of_their_causes() {
        let mut cx = context();
        let to = testing::underlay(1);
        cx.emit(Output::AskPathMtu { to });
        cx.emit(Output::TunWrite(vec![1].into()));
        assert!(matches!(cx.next_output(), Some(Output::AskPathMtu { .. })));
        assert!(matches!(cx.next_output(), Some(Output::TunWrite(_))));
        assert!(cx.next_output().is_none());
    }
}
