//! Shared parts of the simulator's tests.

use std::time::{Duration, Instant};

use meshd_sim::{Failure, Plan, World};

/// Seeds of every run; `MESHD_SIM_SEED` replaces them by one.
const SEEDS: [u64; 2] = [1, 2];

/// Runs a scenario for each seed; the panic of a failing one says how to run it again.
#[allow(dead_code, reason = "some choose their own seeds")]
pub(crate) fn hold(scenario: impl Fn(u64) -> Result<(), Failure>) {
    hold_each(&SEEDS, scenario);
}

/// The same for the first seed only, where a run is long.
#[allow(dead_code, reason = "not every test file has long runs")]
pub(crate) fn hold_first(scenario: impl Fn(u64) -> Result<(), Failure>) {
    hold_each(&SEEDS[..1], scenario);
}

#[allow(dead_code, reason = "some choose their own seeds")]
pub(crate) fn hold_each(seeds: &[u64], scenario: impl Fn(u64) -> Result<(), Failure>) {
    let chosen = std::env::var("MESHD_SIM_SEED")
        .ok()
        .map(|seed| vec![seed.parse().unwrap()]);
    for seed in chosen.unwrap_or_else(|| seeds.to_vec()) {
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

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
