//! Simulated meshes whose links meet strangers, changed keys and host files with a validity period.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod sim;

use std::{net::IpAddr, sync::Arc, time::Duration};

use meshd::{
    crypto::{PrivateKey, PublicKey, Rng, noise::StaticSecret, rsa::RsaPrivate},
    link::Dialect,
    link::pool::admission::{KEPT_FOR_KNOWN, MAX_STRANGERS},
    mesh::{
        Settings,
        settings::{Host, MinProtocol},
    },
    wire::NodeName,
};
use meshd_sim::{Failure, Fidelity, Plan, StrangerId, World};
use sim::{hold, seconds, world};

const QUIET: Duration = seconds(30);
const LIMIT: Duration = seconds(900);

fn at_rest(plan: Plan) -> Result<World, Failure> {
    let mut world = world(plan);
    world.run_until_rest(QUIET, LIMIT)?;
    match world.is_whole() {
        true => Ok(world),
        false => Err(world.failure("a node does not reach another".into())),
    }
}

fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{node}")).unwrap()
}

/// Address `number` of the strangers.
fn stranger(number: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    IpAddr::from([203, 0, high, low])
}

/// Changes the host file of a node at another node.
fn edit_host(settings: &mut Settings, node: usize, edit: impl FnOnce(&mut Host)) {
    edit(Arc::make_mut(settings.hosts.get_mut(&name(node)).unwrap()));
}

/// Fails unless this holds.
fn expect(world: &World, holds: bool, what: &str) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(world.failure(what.into())),
    }
}

/// Ends a node and starts it again. Fails if the mesh is not whole within this time.
fn comes_back(world: &mut World, node: usize, within: Duration) -> Result<(), Failure> {
    world.kill(node);
    world.run_for(seconds(2))?;
    world.start_again(node);
    world.run_for(within)?;
    expect(world, world.is_whole(), "a node came back too late")
}

/// T36: the simulator compares the number of unauthenticated connections with the bounds after each
/// connection.
#[test]
fn strangers_with_many_connections_keep_no_member_out() {
    hold(|seed| {
        let mut world = at_rest(Plan::new(seed, 4, Fidelity::Bytes))?;
        let mut all = Vec::new();
        for round in 0..60 {
            for number in 0..80 {
                let link = world.knock(0, stranger(number % 37));
                // Every second one names a member, so it is not evicted for others.
                if number % 2 == 0 {
                    world.push(link, b"0 n1 17.7\n");
                }
                all.push(link);
                world.run_for(Duration::from_millis(5))?;
            }
            if round == 20 {
                world.kill(3);
            }
            if round == 22 {
                world.start_again(3);
            }
        }
        expect(&world, world.is_whole(), "a member was kept out")?;
        let heard = all.iter().any(|link| world.stranger(*link).heard > 0);
        expect(&world, heard, "no stranger got an answer")?;
        world.run_for(seconds(11))?;
        let open = all.iter().any(|link| world.stranger(*link).open);
        expect(&world, !open, "a stranger stays for longer than 10 s")
    });
}

#[test]
fn strangers_that_misbehave_are_held_silently_and_delay_no_member() {
    hold(|seed| {
        let mut world = at_rest(Plan::new(seed, 4, Fidelity::Bytes))?;
        let rubbish: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"0 nobody 17.7\n",
            b"0 n1 16.0\n",
            b"\xff\xfe\n",
        ];
        let held: Vec<StrangerId> = (0..40)
            .map(|number| {
                let link = world.knock(0, stranger(number));
                world.push(link, rubbish[number % rubbish.len()]);
                link
            })
            .collect();
        world.run_for(seconds(1))?;
        let is_held = |link: &StrangerId| {
            let state = world.stranger(*link);
            state.open && state.heard == 0
        };
        expect(&world, held.iter().all(is_held), "a stranger is not held")?;
        comes_back(&mut world, 3, seconds(6))?;
        let is_held = |link: &StrangerId| world.stranger(*link).open;
        expect(&world, held.iter().all(is_held), "it was let go too early")?;
        world.run_for(seconds(3))?;
        let open = held.iter().any(|link| world.stranger(*link).open);
        expect(&world, !open, "a stranger is held for longer than 10 s")
    });
}

/// Strangers hold all places, also those of known addresses. A member that connects then waits, and
/// is not refused. The address of n3 is known by its host name only.
#[test]
fn a_member_that_comes_while_all_places_are_held_waits_and_is_served() {
    hold(|seed| {
        let plan = Plan {
            dials: 3,
            ..Plan::new(seed, 4, Fidelity::Bytes)
        };
        let mut world = world(plan);
        let addr_of = |world: &World, node: usize| -> IpAddr {
            let rows = world.connections(0).into_iter();
            let mut rows = rows.filter(|row| row.name == name(node).as_str());
            rows.next().unwrap().host.parse().unwrap()
        };
        world.run_until_rest(QUIET, LIMIT)?;
        let [member, known, named] = [1, 2, 3].map(|node| addr_of(&world, node));
        world.net.names.insert("three.example".into(), named);
        world.edit(0, |settings| {
            settings.connect_to.push(name(3));
            edit_host(settings, 3, |host| {
                host.addresses[0].host = "three.example".into();
            });
        });
        // n0 loses n3, so it asks for the address of the name.
        world.kill(3);
        world.run_for(seconds(5))?;
        let crowd = |world: &mut World, from: &dyn Fn(usize) -> IpAddr, count: usize| {
            for number in 0..count {
                let link = world.knock(0, from(number));
                world.push(link, b"0 n1 17.7\n");
                world.run_for(Duration::from_millis(10))?;
                let open = world.stranger(link).open;
                expect(world, open, &format!("number {number} is refused"))?;
            }
            // The last ones are answered.
            world.run_for(Duration::from_millis(300))
        };
        crowd(&mut world, &stranger, MAX_STRANGERS - KEPT_FOR_KNOWN)?;
        let refused = world.knock(0, stranger(99));
        world.run_for(seconds(1))?;
        let open = world.stranger(refused).open;
        expect(&world, !open, "a stranger has a place of a member")?;
        let members = |number: usize| [known, named][number % 2];
        crowd(&mut world, &members, KEPT_FOR_KNOWN)?;
        expect(&world, !world.listens(0), "it accepts without a place")?;

        let waits = world.knock(0, member);
        world.push(waits, b"0 n1 17.7\n");
        world.run_for(seconds(1))?;
        let state = world.stranger(waits);
        let waiting = state.open && state.heard == 0;
        expect(&world, waiting, "a member is refused")?;
        world.start_again(3);
        world.run_for(seconds(10))?;
        expect(&world, world.listens(0), "it never accepts again")?;
        let served = world.stranger(waits).heard > 0;
        expect(&world, served, "a waiting connection was forgotten")?;
        expect(&world, world.is_whole(), "a member was kept out")
    });
}

fn rsa(of: &str) -> Arc<RsaPrivate> {
    let text = include_str!("vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let pem = vectors["rsa_keys"][of]["private_pem"].as_str().unwrap();
    Arc::new(RsaPrivate::from_pem(pem).unwrap())
}

/// Nodes that lack each other's Ed25519 keys speak legacy. With LearnKeys the next link exchanges keys,
/// and the link after that uses them.
#[test]
fn a_node_that_learns_a_key_moves_up_from_legacy() {
    hold(|seed| {
        let plan = Plan {
            dials: 1,
            ..Plan::new(seed, 2, Fidelity::Bytes)
        };
        let mut world = world(plan);
        let keys = [rsa("alpha"), rsa("beta")];
        for node in 0..2 {
            let other = keys[1 - node].public();
            world.edit(node, |settings| {
                settings.rsa = Some(Arc::clone(&keys[node]));
                edit_host(settings, 1 - node, |host| {
                    host.rsa = Some(other);
                    host.min = Some(MinProtocol::Legacy);
                    host.key = None;
                });
            });
        }
        let dialect = |world: &World| world.connections(0).first().map(|row| row.protocol);
        world.run_for(seconds(60))?;
        let legacy = dialect(&world) == Some(Dialect::Legacy);
        expect(&world, legacy, "a key is used that no host file has")?;
        (0..2).for_each(|node| world.edit(node, |settings| settings.learn_keys = true));
        comes_back(&mut world, 1, seconds(30))?;
        let moved = dialect(&world).is_some_and(|dialect| dialect > Dialect::Legacy);
        expect(&world, moved, "the nodes still speak legacy")?;
        (0..2).for_each(|node| world.edit(node, |settings| settings.learn_keys = false));
        comes_back(&mut world, 1, seconds(30))?;
        let stays = dialect(&world).is_some_and(|dialect| dialect > Dialect::Legacy);
        expect(&world, stays, "the learned key was lost")
    });
}

/// The TCP connections of a node but those with n0, by their ports.
fn links_without_n0(world: &World, node: usize) -> Vec<(String, String, String)> {
    let rows = world.connections(node).into_iter();
    let others = rows.filter(|row| row.name != "n0");
    others.map(|row| (row.name, row.host, row.port)).collect()
}

/// n0, which other nodes dial, changes its key. Its new key counts from Ed25519PublicKeyNextFrom on,
/// and not before. No link between other nodes ends, and no packet between them is lost.
#[test]
fn a_key_changes_at_its_time_under_traffic() {
    hold(|seed| {
        const NODES: usize = 6;
        let plan = Plan {
            native: false,
            ..Plan::new(seed, NODES, Fidelity::Bytes)
        };
        let mut world = world(plan);
        for node in 0..NODES {
            world.edit(node, |settings| settings.native = true);
        }
        world.run_until_rest(QUIET, LIMIT)?;
        let talk = |world: &mut World, time: u64| {
            for _ in 0..time {
                for from in 1..NODES {
                    world.send(from, from % (NODES - 1) + 1, 400);
                }
                world.run_for(seconds(1))?;
            }
            Ok(())
        };
        talk(&mut world, 20)?;
        let before: Vec<_> = (1..NODES).map(|n| links_without_n0(&world, n)).collect();
        world.run_for(seconds(1))?;
        world.take_lost();

        let key = Arc::new(PrivateKey::generate(&mut Rng::new([7; 32])));
        let (next, from): (PublicKey, u64) = (key.public(), world.unix() + 100);
        for node in 1..NODES {
            world.edit(node, |settings| {
                edit_host(settings, 0, |host| {
                    (host.next, host.next_from) = (Some(next), Some(from));
                });
            });
        }
        talk(&mut world, 5)?;
        let up = |world: &World| {
            world
                .peers(1)
                .iter()
                .any(|row| row.name.as_str() == "n0" && row.up)
        };
        expect(&world, up(&world), "a coming key has ended a link")?;
        world.kill(0);
        world.edit(0, |settings| {
            settings.secret = Arc::new(StaticSecret::of(&key));
            settings.key = Arc::clone(&key);
        });
        world.start_again(0);
        talk(&mut world, 80)?;
        expect(&world, !up(&world), "the new key counts too early")?;
        talk(&mut world, 100)?;
        expect(&world, up(&world), "the new key does not count in time")?;
        let rows = world.connections(0);
        let native = rows.iter().all(|row| row.protocol == Dialect::Native);
        expect(&world, native, "links with the new key are not native")?;
        let after: Vec<_> = (1..NODES).map(|n| links_without_n0(&world, n)).collect();
        expect(&world, before == after, "a link of other nodes has ended")?;
        world.run_for(seconds(2))?;
        let lost = world.take_lost();
        expect(&world, lost.is_empty(), &format!("lost: {lost:?}"))
    });
}

#[test]
fn the_links_of_a_node_end_when_it_expires_or_is_revoked() {
    hold(|seed| {
        for revoked in [false, true] {
            let mut world = at_rest(Plan::new(seed, 5, Fidelity::Bytes))?;
            let at = world.unix() + 30;
            for node in 0..4 {
                world.edit(node, |settings| {
                    edit_host(settings, 4, |host| match revoked {
                        true => host.revoked = Some(at),
                        false => host.expires = Some(at),
                    });
                });
            }
            world.run_for(seconds(28))?;
            expect(&world, world.is_whole(), "it ends too early")?;
            world.run_for(seconds(4))?;
            expect(&world, world.connections(4).is_empty(), "a link holds")?;
            let links = (0..4).flat_map(|node| world.connections(node));
            let mut names = links.map(|row| row.name);
            expect(&world, names.all(|name| name != "n4"), "it has a link")?;
            // It dials again and again.
            world.run_for(seconds(120))?;
            let up = |node: usize| {
                world
                    .peers(node)
                    .iter()
                    .any(|row| row.name.as_str() == "n4" && row.up)
            };
            expect(&world, !(0..4).any(up), "it is back")?;
            // The other nodes hold together.
            let ups = |node: usize| world.peers(node).iter().filter(|row| row.up).count();
            expect(&world, (0..4).all(|node| ups(node) >= 3), "others are gone")?;
        }
        Ok(())
    });
}
