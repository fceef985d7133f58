//! AutoConnect in simulated meshes: how many links it makes and drops, and when.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod sim;

use meshd_sim::{Failure, Fidelity, Plan, World};
use sim::{hold, hold_first, seconds, world};

/// Hubs; every other node has ConnectTo for two of them.
const HUBS: usize = 3;

fn plan(seed: u64, nodes: usize, hubs: usize) -> Plan {
    Plan {
        hubs,
        dials: 0,
        auto_connect: true,
        ..Plan::new(seed, nodes, Fidelity::Lines)
    }
}

/// Lets time pass; the links that were made and dropped in it.
fn changes(world: &mut World, time: u64) -> Result<(u64, u64), Failure> {
    let before = world.link_changes();
    world.run_for(seconds(time))?;
    let after = world.link_changes();
    Ok((after.0 - before.0, after.1 - before.1))
}

fn expect(world: &World, what: bool, text: String) -> Result<(), Failure> {
    match what {
        true => Ok(()),
        false => Err(world.failure(text)),
    }
}

/// No node but hubs has more than a few links.
fn has_few_links(world: &World, nodes: usize) -> Result<(), Failure> {
    let links = |node: usize| world.connections(node).len();
    let odd = (HUBS..nodes).find(|node| !(3..=6).contains(&links(*node)));
    let text = |node: usize| format!("n{node} has {} links", links(node));
    odd.map_or(Ok(()), |node| Err(world.failure(text(node))))
}

/// Effect on each of `nodes` nodes when a hub that two thirds of them were linked with goes away and returns.
fn a_hub_goes_and_comes(seed: u64, nodes: usize) -> Result<(), Failure> {
    let mut world = world(plan(seed, nodes, HUBS));
    let leaves = (nodes - HUBS) as u64;
    let (made, cut) = changes(&mut world, 10)?;
    let text = format!("{made} links made and {cut} dropped at the start");
    // Those of ConnectTo, three between hubs, and the first that hub 0 dials.
    expect(&world, made <= 2 * leaves + 3 + 1 && cut <= 2, text)?;
    let (made, cut) = changes(&mut world, 140)?;
    let text = format!("{made} links made and {cut} dropped after the start");
    expect(&world, made <= leaves && cut <= leaves / 10, text)?;
    let quiet = changes(&mut world, 30)?;
    let text = format!("{quiet:?} links changed though nothing happens");
    expect(&world, quiet == (0, 0), text)?;
    has_few_links(&world, nodes)?;

    let losers = world.connections(0).len() as u64;
    world.kill(0);
    let (made, cut) = changes(&mut world, 10)?;
    let text = format!("{made} links made and {cut} dropped in the moment of the loss");
    expect(&world, made == 0 && cut <= losers, text)?;
    let (made, cut) = changes(&mut world, 140)?;
    let text = format!("{losers} lost a link: {made} made and {cut} dropped");
    expect(&world, made <= losers && cut <= losers / 10, text)?;
    let quiet = changes(&mut world, 30)?;
    let text = format!("{quiet:?} links changed long after the loss");
    expect(&world, quiet == (0, 0), text)?;

    world.start_again(0);
    let (made, cut) = changes(&mut world, 150)?;
    let text = format!("the hub is back: {made} links made and {cut} dropped");
    expect(&world, made <= losers + 4 && cut <= losers / 2, text)?;
    let quiet = changes(&mut world, 30)?;
    let text = format!("{quiet:?} links changed long after the return");
    expect(&world, quiet == (0, 0), text)?;
    has_few_links(&world, nodes)?;
    expect(&world, world.is_whole(), "the mesh is not whole".into())
}

#[test]
fn a_hub_goes_and_comes_and_few_links_change() {
    hold_first(|seed| a_hub_goes_and_comes(seed, 28));
}

#[test]
#[ignore = "nightly: minutes in debug"]
fn a_hub_of_two_hundred_nodes_goes_and_comes_and_few_links_change() {
    hold(|seed| a_hub_goes_and_comes(seed, 200));
}

/// Nobody has ConnectTo: AutoConnect alone makes one mesh, and one again after a split.
#[test]
fn a_mesh_without_connect_to_joins_and_heals() {
    hold(|seed| {
        let mut world = world(plan(seed, 24, 0));
        world.run_for(seconds(40))?;
        expect(&world, world.is_whole(), "not whole after 40 s".into())?;
        world.run_for(seconds(80))?;
        has_few_links(&world, 24)?;
        let apart: Vec<usize> = (0..12).collect();
        world.net.put_apart(&apart);
        // Links are found dead after PingInterval, and dialled anew within each part.
        world.run_for(seconds(200))?;
        let up = world.peers(0).iter().filter(|row| row.up).count();
        expect(&world, up == 11, format!("n0 reaches {up} of 11"))?;
        world.heal();
        world.run_for(seconds(40))?;
        expect(
            &world,
            world.is_whole(),
            "not whole 40 s after the split".into(),
        )
    });
}

#[test]
fn the_same_seed_makes_the_same_links() {
    let run = |seed| {
        let mut world = world(plan(seed, 12, 0));
        world.run_for(seconds(60)).unwrap();
        world.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
