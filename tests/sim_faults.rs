//! Simulated meshes under loss, partition, restart and NAT.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod sim;

use std::time::Duration;

use meshd::{crypto::Rng, mesh::reports::facts::PathKind};
use meshd_sim::{Failure, Fidelity, Plan, World};
use sim::{hold, seconds, world};

const QUIET: Duration = seconds(30);
const LIMIT: Duration = seconds(900);

/// A mesh at rest.
fn at_rest(plan: Plan) -> Result<World, Failure> {
    let mut world = world(plan);
    world.run_until_rest(QUIET, LIMIT)?;
    Ok(world)
}

/// Everybody reaches everybody, all agree, and after a first packet for keys every packet arrives.
fn is_well(world: &mut World, nodes: usize) -> Result<(), Failure> {
    world.run_until_rest(QUIET, LIMIT)?;
    if !world.is_whole() {
        return Err(world.failure("somebody does not reach somebody".into()));
    }
    talk(world, nodes)?;
    world.take_lost();
    talk(world, nodes)?;
    loses_nothing(world)
}

/// Each node sends to three others, then some time passes.
fn talk(world: &mut World, nodes: usize) -> Result<(), Failure> {
    for from in 0..nodes {
        for (step, length) in [(1, 100), (5, 600), (nodes / 2, 1300)] {
            if step % nodes != 0 {
                world.send(from, (from + step) % nodes, length);
            }
        }
        world.run_for(Duration::from_millis(20))?;
    }
    world.run_for(seconds(15))
}

fn loses_nothing(world: &mut World) -> Result<(), Failure> {
    let lost = world.take_lost();
    if lost.is_empty() {
        return Ok(());
    }
    Err(world.failure(format!("lost though the network loses nothing: {lost:?}")))
}

/// Twenty nodes, of which the links speak native with one seed and SPTPS with the next.
fn in_both_dialects(seed: u64) -> Plan {
    Plan {
        native: !seed.is_multiple_of(2),
        ..Plan::new(seed, 20, Fidelity::Bytes)
    }
}

#[test]
fn a_partition_heals() {
    hold(|seed| {
        let mut world = at_rest(in_both_dialects(seed))?;
        let apart: Vec<usize> = (0..20).filter(|node| node % 3 == 0).collect();
        world.net.put_apart(&apart);
        world.run_for(seconds(180))?;
        if world.peers(0).iter().filter(|row| row.up).count() >= apart.len() {
            return Err(world.failure("n0 believes to reach the other side of the cut".into()));
        }
        // Each side is a mesh of its own now.
        world.run_until_rest(QUIET, LIMIT)?;
        world.heal();
        is_well(&mut world, 20)
    });
}

#[test]
fn loss_copies_and_disorder_change_no_packet_and_cut_no_link() {
    hold(|seed| {
        let mut world = at_rest(Plan::new(seed, 20, Fidelity::Bytes))?;
        talk(&mut world, 20)?;
        (world.net.loss_ppm, world.net.copies_ppm) = (100_000, 100_000);
        world.net.jitter = Duration::from_millis(20);
        world.take_lost();
        let mut sent = 0;
        for _ in 0..20 {
            talk(&mut world, 20)?;
            sent += 60;
        }
        // At most three hops by UDP, one packet in ten lost on each, and some more by chance.
        let lost = world.take_lost().len();
        if lost * 2 > sent {
            return Err(world.failure(format!("{lost} of {sent} packets lost at 10 % loss")));
        }
        if !world.is_whole() {
            return Err(world.failure("loss of 10 % took a link away".into()));
        }
        (world.net.loss_ppm, world.net.copies_ppm) = (0, 0);
        is_well(&mut world, 20)
    });
}

#[test]
fn nodes_that_end_or_lose_power_come_back() {
    hold(|seed| {
        let mut world = at_rest(in_both_dialects(seed))?;
        talk(&mut world, 20)?;
        world.kill(3);
        world.power_off(0);
        world.run_for(seconds(100))?;
        world.run_until_rest(QUIET, LIMIT)?;
        world.start_again(3);
        world.start_again(0);
        world.run_for(seconds(70))?;
        is_well(&mut world, 20)?;
        // So fast that nobody has noticed.
        world.power_off(1);
        world.run_for(seconds(1))?;
        world.start_again(1);
        world.run_for(seconds(120))?;
        is_well(&mut world, 20)
    });
}

#[test]
fn a_nat_that_forgets_is_survived() {
    hold(|seed| {
        let plan = Plan {
            behind_nat: 6,
            ..Plan::new(seed, 16, Fidelity::Bytes)
        };
        let mut world = at_rest(plan)?;
        talk(&mut world, 16)?;
        for node in 10..16 {
            world.net.rebind(node);
        }
        world.run_for(seconds(40))?;
        is_well(&mut world, 16)
    });
}

/// How `from` says that its packets for `to` travel.
fn path(world: &World, from: usize, to: usize) -> Option<PathKind> {
    let name = format!("n{to}");
    world
        .peers(from)
        .into_iter()
        .find(|row| row.name.as_str() == name)
        .map(|row| row.path)
}

/// Sends a packet each second for some time.
fn chat(world: &mut World, a: usize, b: usize, time: u64) -> Result<(), Failure> {
    for _ in 0..time {
        world.send(a, b, 200);
        world.send(b, a, 1200);
        world.run_for(seconds(1))?;
    }
    Ok(())
}

#[test]
fn blocked_udp_falls_back_to_tcp_and_comes_back() {
    hold(|seed| {
        let mut world = at_rest(Plan {
            dials: 1,
            ..Plan::new(seed, 2, Fidelity::Bytes)
        })?;
        chat(&mut world, 0, 1, 10)?;
        let expect = |world: &World, expected| {
            let found = path(world, 0, 1);
            if found == Some(expected) {
                return Ok(());
            }
            Err(world.failure(format!("packets go by {found:?} and not by {expected:?}")))
        };
        expect(&world, PathKind::Udp)?;
        world.net.block_udp(0, 1, true);
        chat(&mut world, 0, 1, 60)?;
        expect(&world, PathKind::Tcp)?;
        world.take_lost();
        chat(&mut world, 0, 1, 10)?;
        loses_nothing(&mut world)?;
        world.net.block_udp(0, 1, false);
        chat(&mut world, 0, 1, 30)?;
        expect(&world, PathKind::Udp)?;
        world.take_lost();
        chat(&mut world, 0, 1, 10)?;
        world.run_for(seconds(1))?;
        loses_nothing(&mut world)
    });
}

/// A packet between two nodes every `PACE`, for some time; returns how long no packet arrived, all in all.
fn silence(world: &mut World, from: usize, to: usize, time: Duration) -> Result<Duration, Failure> {
    world.take_lost();
    for _ in 0..time.as_millis() / PACE.as_millis() {
        world.send(from, to, 200);
        world.run_for(PACE)?;
    }
    world.run_for(seconds(1))?;
    Ok(PACE * u32::try_from(world.take_lost().len()).unwrap())
}

const PACE: Duration = Duration::from_millis(50);

/// Fails if a silence is longer than its bound.
fn expect_short(world: &World, what: &str, took: Duration, limit: Duration) -> Result<(), Failure> {
    if took <= limit {
        return Ok(());
    }
    Err(world.failure(format!("{what}: {took:?}, at most {limit:?}")))
}

/// X1, X6: the bounds of proto/threat-model.md section 5.5. tests/net/five.rs shows on real systems that it happens.
#[test]
fn traffic_goes_on_within_its_bounds() {
    hold(|seed| {
        let mut world = at_rest(Plan {
            dials: 1,
            native: !seed.is_multiple_of(2),
            ..Plan::new(seed, 2, Fidelity::Bytes)
        })?;
        let expect = |world: &World, what: &str, took: Duration, limit: u64| {
            expect_short(world, what, took, seconds(limit))
        };
        chat(&mut world, 0, 1, 10)?;
        world.net.block_udp(0, 1, true);
        let took = silence(&mut world, 0, 1, seconds(30))?;
        expect(&world, "UDP is blocked", took, 5)?;

        world.net.block_udp(0, 1, false);
        let since = world.elapsed();
        while path(&world, 0, 1) != Some(PathKind::Udp) && world.elapsed() < since + seconds(60) {
            chat(&mut world, 0, 1, 1)?;
        }
        let took = world.elapsed() - since;
        expect(&world, "UDP is let through again", took, 30)?;

        world.net.put_apart(&[1]);
        world.run_for(seconds(10))?;
        world.heal();
        let took = silence(&mut world, 0, 1, seconds(30))?;
        expect(&world, "the wire is mended", took, 5)
    });
}

/// X3, X4: a node ends and starts again, or loses its wire and its power and starts again while the others still
/// believe in its links. The node dials, or is dialled. tests/net/restart.rs and chains.rs show on real systems that
/// traffic goes on.
#[test]
fn traffic_goes_on_after_a_restart_within_its_bounds() {
    hold(|seed| {
        for (who, other) in [(0, 1), (1, 0)] {
            let mut world = at_rest(Plan {
                dials: 1,
                ..Plan {
                    nodes: 2,
                    ..in_both_dialects(seed)
                }
            })?;
            chat(&mut world, 0, 1, 10)?;
            world.kill(who);
            world.start_again(who);
            let took = silence(&mut world, other, who, seconds(30))?;
            expect_short(&world, "a restart", took, seconds(1))?;

            world.kill(who);
            world.run_for(seconds(1))?;
            world.start_again(who);
            let took = silence(&mut world, other, who, seconds(30))?;
            // The dialling node meets a closed port first, and waits.
            expect_short(&world, "a restart a second later", took, seconds(6))?;

            world.net.put_apart(&[who]);
            world.power_off(who);
            world.heal();
            world.start_again(who);
            let took = silence(&mut world, other, who, seconds(60))?;
            expect_short(&world, "a restart unseen", took, seconds(6))?;
        }
        Ok(())
    });
}

/// X5, X7: a tunnel loses what a lossy path loses, also while keys are renewed; and without TCP between the two nodes
/// datagrams go on.
#[test]
fn a_tunnel_loses_only_what_its_path_loses() {
    hold(|seed| {
        let mut world = at_rest(Plan {
            dials: 1,
            key_expire: seconds(5),
            ..Plan {
                nodes: 2,
                ..in_both_dialects(seed)
            }
        })?;
        chat(&mut world, 0, 1, 10)?;
        world.net.loss_ppm = 100_000;
        // Four standard deviations of the 4,000 draws are 2 %.
        let took = silence(&mut world, 0, 1, seconds(200))?;
        expect_short(&world, "a tenth of 200 s is lost", took, seconds(24))?;
        world.net.loss_ppm = 0;
        chat(&mut world, 0, 1, 10)?;

        world.net.block_tcp(0, 1);
        let took = silence(&mut world, 0, 1, seconds(15))?;
        expect_short(&world, "TCP is blocked", took, Duration::from_millis(150))?;
        world.heal();
        is_well(&mut world, 2)
    });
}

#[test]
fn a_narrow_path_carries_every_length() {
    hold(|seed| {
        let mut world = at_rest(Plan {
            dials: 1,
            ..Plan::new(seed, 2, Fidelity::Bytes)
        })?;
        world.net.narrow(0, 1, 1000);
        chat(&mut world, 0, 1, 20)?;
        world.take_lost();
        for length in (44..1500).step_by(13) {
            world.send(0, 1, length);
            // What is too long is answered, but not more than three times a second.
            world.run_for(Duration::from_millis(400))?;
        }
        world.run_for(seconds(5))?;
        loses_nothing(&mut world)?;
        // Narrower still, in the middle: what was proven is not true any more.
        world.net.narrow(0, 1, 700);
        chat(&mut world, 0, 1, 60)?;
        world.take_lost();
        chat(&mut world, 0, 1, 10)?;
        world.run_for(seconds(1))?;
        loses_nothing(&mut world)
    });
}

#[test]
fn renewing_keys_loses_nothing() {
    hold(|seed| {
        let plan = Plan {
            key_expire: seconds(10),
            ..Plan::new(seed, 8, Fidelity::Bytes)
        };
        let mut world = at_rest(plan)?;
        let round = |world: &mut World| {
            for from in 0..8 {
                for step in [1, 3, 4] {
                    world.send(from, (from + step) % 8, 300);
                }
                world.run_for(Duration::from_millis(5))?;
            }
            Ok(())
        };
        round(&mut world)?;
        world.run_for(seconds(15))?;
        world.take_lost();
        for _ in 0..800 {
            round(&mut world)?;
        }
        world.run_for(seconds(5))?;
        loses_nothing(&mut world)
    });
}

/// Whatever may happen to a network in an hour, in the order that the seed says.
fn churn(plan: Plan, events: usize) -> Result<(), Failure> {
    let (nodes, seed) = (plan.nodes, plan.seed);
    let mut rng = Rng::new(std::array::from_fn(|at| {
        (seed >> (at % 8 * 8)) as u8 ^ at as u8
    }));
    let mut world = at_rest(plan)?;
    let mut down = Vec::new();
    for _ in 0..events {
        let mut node = || rng.below(u32::try_from(nodes).unwrap()) as usize;
        let (one, other) = (node(), node());
        match rng.below(12) {
            0 | 1 if !down.contains(&one) => {
                world.kill(one);
                down.push(one);
            }
            2 if !down.contains(&one) => {
                world.power_off(one);
                down.push(one);
            }
            3..=5 => {
                if let Some(node) = down.pop() {
                    world.start_again(node);
                }
            }
            6 => world.net.put_apart(&[one, other]),
            7 | 8 => world.heal(),
            9 => world.net.loss_ppm = rng.below(200_000),
            10 => {
                world.net.copies_ppm = rng.below(100_000);
                world.net.jitter = Duration::from_millis(u64::from(rng.below(50)));
            }
            _ => world.net.rebind(one),
        }
        for _ in 0..10 {
            let mut node = || rng.below(u32::try_from(nodes).unwrap()) as usize;
            let (from, to) = (node(), node());
            if from != to {
                world.send(from, to, 44 + rng.below(1400) as usize);
            }
            world.run_for(Duration::from_millis(u64::from(rng.below(2000))))?;
        }
    }
    world.heal();
    (world.net.loss_ppm, world.net.copies_ppm, world.net.jitter) = (0, 0, Duration::ZERO);
    for node in down {
        world.start_again(node);
    }
    // Long enough for every link to be found dead and dialled again.
    world.run_for(seconds(200))?;
    is_well(&mut world, nodes)
}

#[test]
fn a_mesh_by_bytes_gets_well_after_any_churn() {
    hold(|seed| {
        churn(
            Plan {
                behind_nat: 3,
                ..Plan::new(seed, 12, Fidelity::Bytes)
            },
            40,
        )
    });
}

#[test]
fn a_mesh_by_lines_gets_well_after_any_churn() {
    hold(|seed| {
        churn(
            Plan {
                dials: 3,
                ..Plan::new(seed, 24, Fidelity::Lines)
            },
            60,
        )
    });
}

/// n8 corrects a stale edge with DEL_EDGE, then the link comes up and it says ADD_EDGE; a link that is new
/// in between and a slow one bring both to n9 in the wrong order. Only repetition tells n9 the truth.
#[test]
fn an_edge_that_goes_and_comes_again_at_once_is_known_everywhere() {
    churn(
        Plan {
            behind_nat: 3,
            ..Plan::new(5, 12, Fidelity::Bytes)
        },
        40,
    )
    .unwrap();
}

#[test]
#[ignore = "nightly: ten minutes in release"]
fn many_seeds_of_churn() {
    let seed = |name, default| std::env::var(name).map_or(default, |seed| seed.parse().unwrap());
    for seed in seed("MESHD_SIM_FIRST", 100)..seed("MESHD_SIM_LAST", 300) {
        let plan = Plan {
            behind_nat: 3,
            ..Plan::new(seed, 12, Fidelity::Bytes)
        };
        churn(plan, 40).unwrap_or_else(|failure| panic!("{failure}"));
        let plan = Plan {
            dials: 3,
            ..Plan::new(seed, 24, Fidelity::Lines)
        };
        churn(plan, 60).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
