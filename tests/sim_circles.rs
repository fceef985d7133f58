//! Simulated meshes whose nodes hold different graphs, as TCP stands still between some while UDP passes: nothing goes
//! in circles.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod sim;

use std::time::Duration;

use meshd_sim::{Failure, Fidelity, Plan};
use sim::{hold_each, seconds, world};

const NODES: usize = 6;

/// Six nodes. Between some pairs TCP stands still, then one node loses its power and one is ended, so that of its
/// neighbours only some tell others, and only some are told. Whoever is left sends to all and to those that are gone.
fn graphs_that_differ(seed: u64) -> Result<(), Failure> {
    let mut world = world(Plan::new(seed, NODES, Fidelity::Bytes));
    world.run_until_rest(seconds(30), seconds(900))?;
    let everybody = |world: &mut meshd_sim::World| {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                world.send(from, to, 200);
            }
        }
        world.run_for(seconds(3))
    };
    for _ in 0..4 {
        everybody(&mut world)?;
    }
    let before = world.broadcasts_delivered();
    (0..NODES).for_each(|from| world.broadcast(from, 100));
    world.run_for(seconds(1))?;
    let delivered = world.broadcasts_delivered() - before;
    if delivered != NODES * (NODES - 1) {
        let what = format!("{delivered} deliveries of broadcasts while all graphs are equal");
        return Err(world.failure(what));
    }
    let mut bits = seed;
    for a in 0..NODES {
        for b in 0..a {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed | 1);
            if bits >> 62 == 0 {
                world.net.block_tcp(a, b);
            }
        }
    }
    let gone = bits as usize >> 40;
    world.kill(gone % NODES);
    for second in 0..40 {
        if second == 20 {
            world.start_again(gone % NODES);
        }
        for from in 0..NODES {
            world.broadcast(from, 100);
            world.send(from, gone % NODES, 300);
        }
        world.run_for(Duration::from_millis(1000))?;
    }
    Ok(())
}

#[test]
fn nothing_goes_in_circles_while_graphs_differ() {
    hold_each(&[1, 2, 3, 4], graphs_that_differ);
}
