//! Handshakes for another node, passed on by the one in the middle, which must not pay for them.

use super::*;

/// Reaction of tinc 1.1~pre18 to each of these lines. A neighbour forwards the line in the name of a node without SPTPS, or of an
/// unreachable node. The tincd closes the link to the neighbour, or crashes: signal 11 if the node is unreachable, 6 if it speaks
/// SPTPS. A known cipher or a key that is too short does no harm.
const HARMFUL: [&str; 13] = [
    "16 c b KEY -1 -1 -1 0",
    "16 c b KEY 91 672 4 0",
    "16 c b KEY 34 672 4 0",
    "16 c b KEY 9999 672 4 0",
    "16 c b KEY 2147483647 672 4 0",
    "16 c b KEY 427 9999 4 0",
    "16 c b KEY 427 672 33 0",
    "16 c b KEY 427 672 -1 0",
    "16 c b KEY 427 0 4 0",
    "16 c b KEY 0 0 4 0",
    "15 c b",
    "15 c b 0",
    "15 c b 0 x",
];

/// Says each line over a link of its own, which `join` makes; `b`'s link to `a` must outlast them.
fn harms_nobody(join: impl Fn(&Scene) -> Member) {
    let mut scene = Scene::new(Meshd);
    let before = scene.p.log().len();
    for line in HARMFUL {
        let mut member = join(&scene);
        member.say(line.replace("KEY", &"AB".repeat(48)));
        // What is said after it is passed on after it.
        member.say(format!("16 c b {} 427 672 4 0", "CD".repeat(48)));
        member.ping(Duration::from_secs(5));
        drop(member);
        scene.p.assert_runs();
    }
    wait_ping(&scene.p, &scene.v.v4(), 56);
    let log = scene.p.log();
    let closed = log[before..]
        .lines()
        .find(|line| line.contains("Closing connection with a"));
    assert!(closed.is_none(), "{closed:?}");
    scene.assert_unharmed(64);
}

#[test]
fn keys_of_a_node_that_is_not_reached_harm_nobody() {
    harms_nobody(|scene| Member::active(&scene.m, &scene.v, &scene.wire));
}

#[test]
fn keys_of_a_node_without_sptps_harm_nobody() {
    harms_nobody(|scene| {
        let mut member = Member::join(&scene.m, &scene.v, &scene.wire);
        member.say("4 655 10 c");
        let address = scene.wire.v4(scene.v.host.index);
        member.flood(12, &format!("c a {address} 655 c 10"));
        member
    });
}
