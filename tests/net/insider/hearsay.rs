//! T22 for who is no neighbour: what a member says of a pair that talks straight by UDP, or of the way to it, costs the pair nothing.

use super::*;

/// Each line a hundred times, with 10 ms between them: edges, the subnet, options, and hints.
const LINES: [&str; 6] = [
    "13 N c a",
    "11 N c 10.20.0.3",
    "12 N c a 10.77.1.1 655 780000f -5",
    "14 N c",
    "23 c b 512",
    "22 c b 192.0.2.1 655",
];

/// b and c are linked with a only. The member is linked with `at`, and speaks of c.
fn lies_about_a_pair(hub: Kind, at_hub: bool) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c, m] = on_one_wire(&world, &wire, [hub, Meshd, Meshd, Meshd]);
    b.connect_to(&["a"]);
    c.connect_to(&["a"]);
    for node in [&mut a, &mut b, &mut c] {
        node.start();
    }
    b.wait_reaches(&c);
    c.wait_reaches(&b);
    wait_ping(&b, &c.v4(), 56);
    b.wait_udp(&c);
    c.wait_udp(&b);
    let mut member = Member::reachable(&m, if at_hub { &a } else { &b }, &wire);
    let flows = [(&b, &c), (&c, &b)].map(|(from, to)| Flow::start(from, to, &to.v4(), 100, 200));
    for line in LINES {
        for _ in 0..100 {
            let nonce = format!(" {:x} ", fresh_nonce());
            member.say(line.replacen(" N ", &nonce, 1));
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(member.is_alive());
    for flow in flows {
        let stream = flow.finish();
        assert_eq!(stream.lost(), 0, "{stream:?}");
    }
    let log = b.log();
    assert_eq!(log.matches("tunnel established node=c").count(), 1, "{log}");
}

/// The member is a neighbour of one of the two.
#[test]
fn t22_lies_about_a_pair_to_one_of_it() {
    lies_about_a_pair(Meshd, false);
}

/// A real tinc in the middle believes the member, and hands on all.
#[test]
fn t22_lies_about_a_pair_through_a_tinc() {
    lies_about_a_pair(Tinc11, true);
}
