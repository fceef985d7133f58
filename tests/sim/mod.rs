//! What the simulator's tests share.

use std::time::{Duration, Instant};

use meshd::sim::{Failure, Plan, World};

/// Seeds of every run; `MESHD_SIM_SEED` replaces them by one.
const SEEDS: [u64; 2] = [1, 2];

/// Runs a scenario for each seed; the panic of a failing one says how to run it again.
pub(crate) fn hold(scenario: impl Fn(u64) -> Result<(), Failure>) {
    let chosen = std::env::var("MESHD_SIM_SEED")
        .ok()
        .map(|seed| vec![seed.parse().unwrap()]);
    for seed in chosen.unwrap_or_else(|| SEEDS.to_vec()) {
        if let Err(failure) = scenario(seed) {
            panic!("{failure}");
        }
    }
}

/// The world of a plan.
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time counts from some instant"
)]
pub(crate) fn world(plan: Plan) -> World {
    let mut world = World::new(plan, Instant::now());
    world.verbose = std::env::var_os("MESHD_SIM_TRACE").is_some();
    world
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
