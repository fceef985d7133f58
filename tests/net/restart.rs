//! Restarts under a service manager that keeps descriptors: what is lost, and what is not
//! (proto/native-link.md section 7; X3 and X4 of proto/threat-model.md).

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    legacy,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::{Flow, Transfer, setting, wait_ping},
    world::{Host, World, wait_until},
};

/// RestartSec of the units.
const PAUSE: Duration = Duration::from_secs(1);

/// How a daemon ends before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Planned,
    Killed,
}

/// The index of the mesh interface: another one is another interface.
fn interface(host: &Host) -> String {
    let mut shown = host.command("ip");
    let shown = shown.args(["-o", "link", "show", "mesh0"]).output();
    let text = String::from_utf8(shown.unwrap().stdout).unwrap();
    text.split(':').next().unwrap().to_owned()
}

/// Ends a daemon and starts it again as systemd would.
fn restart(node: &mut Node, end: End) {
    match end {
        End::Planned => node.stop(),
        End::Killed => {
            node.kill();
            thread::sleep(PAUSE);
        }
    }
    node.start();
}

/// Packets every 10 ms each way, and a stream.
struct Watch {
    there: Flow,
    back: Flow,
    stream: Transfer,
    since: Instant,
}

impl Watch {
    fn start(from: &Node, to: &Node) -> Self {
        let pause = Duration::from_millis(20);
        let watch = Self {
            there: Flow::start(from, to, &to.v4(), 100, 100),
            back: Flow::start(to, from, &from.v4(), 100, 100),
            stream: Transfer::start_paced(from, to, &to.v4(), 1 << 40, pause),
            since: Instant::now() + Duration::from_secs(1),
        };
        thread::sleep(Duration::from_secs(1));
        watch
    }

    /// Prints the silence each way; panics unless all goes on. tests/sim_faults.rs bounds the silence.
    fn finish(self, what: &str) {
        for flow in [&self.there, &self.back] {
            flow.wait_arrival(self.since, Duration::from_secs(30));
        }
        self.stream.wait_progress(Duration::from_secs(30));
        self.stream.stop();
        self.stream.finish();
        let [there, back] = [self.there, self.back].map(Flow::finish);
        eprintln!(
            "   {what}: silent for {:?} there and {:?} back, lost {} and {} of {}",
            there.longest_gap,
            back.longest_gap,
            there.lost(),
            back.lost(),
            there.sent
        );
    }
}

/// The dialling node restarts, then the dialled one: the device stays, stream and packets go on.
fn pair(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    for node in [&mut a, &mut b] {
        if node.kind == Meshd {
            node.keep();
        }
    }
    legacy::bring_up(&mut a, &mut b);
    for end in [End::Planned, End::Killed] {
        for who in ["dialler", "listener"] {
            let (node, other) = match who {
                "dialler" => (&mut a, &b),
                _ => (&mut b, &a),
            };
            if node.kind != Meshd {
                continue;
            }
            // Neighbours are noted once a second.
            thread::sleep(Duration::from_millis(1500));
            let before = interface(&node.host);
            let watch = Watch::start(node, other);
            restart(node, end);
            watch.finish(&format!("{kinds:?}, {end:?}, the {who}"));
            assert_eq!(interface(&node.host), before, "another interface");
            wait_ping(other, &node.v4(), 56);
            node.wait_udp(other);
        }
    }
}

#[test]
fn x4_between_meshds() {
    pair([Meshd, Meshd]);
}

#[test]
fn x4_beside_tinc11_that_is_dialled() {
    pair([Meshd, Tinc11]);
}

#[test]
fn x4_beside_tinc11_that_dials() {
    pair([Tinc11, Meshd]);
}

/// The test prints the cost beside that of a tinc 1.0, whose timers decide.
#[test]
fn x4_beside_tinc10() {
    pair([Meshd, Tinc10]);
    pair([Tinc10, Meshd]);
}

/// a and c reach each other through b alone, which restarts.
#[test]
fn x4_of_a_relay() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [Meshd; 3]);
    wire.block_udp(&a.host, &c.host);
    a.connect_to(&["b"]);
    b.connect_to(&["c"]);
    b.keep();
    for node in [&mut a, &mut b, &mut c] {
        node.start();
    }
    a.wait_reaches(&c);
    wait_ping(&a, &c.v4(), 56);
    for node in [&a, &c] {
        node.wait_udp(&b);
    }
    for end in [End::Planned, End::Killed] {
        thread::sleep(Duration::from_millis(1500));
        let watch = Watch::start(&a, &c);
        restart(&mut b, end);
        watch.finish(&format!("{end:?}, a relay"));
    }
}

/// A kept descriptor is taken where it still fits: another port and another interface are made, and the old ones closed.
#[test]
fn what_does_not_fit_any_more_is_let_go() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    a.keep();
    bring_up(&mut a, &mut b);
    let kept = a.keeper().kept();
    for kind in ["tun.", "tcp.", "udp.", "note."] {
        assert!(kept.iter().any(|name| name.starts_with(kind)), "{kept:?}");
    }
    let before = interface(&a.host);
    restart(&mut a, End::Planned);
    assert_eq!(
        (interface(&a.host), a.keeper().kept()),
        (before.clone(), kept.clone())
    );

    a.tinc(&["set", "a.Port", "7655"]);
    restart(&mut a, End::Planned);
    assert_eq!(interface(&a.host), before);
    assert_eq!(a.keeper().kept().len(), kept.len());
    let listening = a.host.command("ss").args(["-lntu"]).output().unwrap();
    let listening = String::from_utf8(listening.stdout).unwrap();
    assert!(
        listening.contains(":7655 ") && !listening.contains(":655 "),
        "{listening}"
    );
    b.wait_reaches(&a);

    a.tinc(&["set", "DeviceType", "tap"]);
    restart(&mut a, End::Planned);
    assert_ne!(interface(&a.host), before);
    assert_eq!(a.keeper().kept().len(), kept.len());
    wait_ping(&a, &b.v4(), 56);

    // A unit that is stopped leaves nothing.
    a.stop();
    a.keeper().forget();
    wait_until(
        "the interface is gone",
        Duration::from_secs(5),
        || match interface(&a.host).as_str() {
            "" => Ok(()),
            index => Err(index.to_owned()),
        },
    );
}

/// X3: a neighbour that is killed again and again costs the survivor nothing for good.
#[test]
fn x3_a_neighbour_killed_again_and_again() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    b.keep();
    bring_up(&mut a, &mut b);
    let cycles = setting("MESHD_NET_RESTARTS", 60);
    let mut early = 0;
    for cycle in 0..cycles {
        b.kill();
        b.start();
        b.wait_reaches(&a);
        if cycle == cycles / 4 {
            early = a.rss();
        }
    }
    let late = a.rss();
    eprintln!("   {early} KiB after a quarter of {cycles} restarts, {late} KiB after all");
    assert!(late <= early + 1024, "{early} KiB, then {late} KiB");
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
}
