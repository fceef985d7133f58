//! The lines of one member make no honest nodes drop each other. T31 and T39 of proto/threat-model.md.

use rustix::process::Signal;

use super::*;

/// A neighbour that takes nothing for two seconds, as behind a slow wire, while a member sends it 20 MB of lines
/// that are passed on and 5 MB of news: its link stays.
#[test]
fn a_member_does_not_cut_a_neighbour_that_is_slow() {
    let scene = Scene::with(World::new(), Meshd, Meshd, |_| {});
    let mut member = scene.member();
    scene.p.signal(Signal::STOP);
    let long = |n: u32| format!("y{n:03}{}", "y".repeat(250));
    let edge =
        |from: &str, to: &str, n: u32| format!("12 {n:x} {from} {to} 192.0.2.1 655 700000c 1");
    member.say_all(
        (0..100).flat_map(|n| [edge("c", &long(n), 2 * n), edge(&long(n), "c", 2 * n + 1)]),
    );
    member.say_all(
        (0..9_900).map(|n| edge(&long(n / 99), &long((n / 99 + 1 + n % 99) % 100), 300 + n)),
    );
    member.shout(&format!("15 c b 99 {}", "x".repeat(2_000)), 10_000);
    thread::sleep(Duration::from_secs(2));
    scene.p.signal(Signal::CONT);
    wait_ping(&scene.p, &scene.v.v4(), 56);
    let log = scene.v.log();
    let lost = |line: &&str| line.contains("link down") && line.contains("node=b");
    assert_eq!(log.lines().find(lost), None);
    // What it missed meanwhile it is told.
    scene.p.wait_dump("edges", |dump| {
        dump.edges.len() == scene.v.dump().edges.len()
    });
}
