//! Keys are renewed every five seconds under 20,000 packets a second.

use std::{thread, time::Duration};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::{Flow, Stream, setting, wait_ping},
    world::World,
};

const RATE: u64 = 20_000;

/// Losses of a flow from one kind to another, and the kernels' drops of it.
#[derive(Debug)]
struct Loss {
    stream: Stream,
    /// Packets that the kernels dropped because a daemon did not read in time: the device's queue
    /// at the sender, the UDP socket at the receiver.
    overflow: u64,
}

impl Loss {
    /// Without what the kernels dropped while a daemon had to wait for a processor: that is no
    /// matter of keys.
    fn in_the_daemons(&self) -> u64 {
        self.stream.lost().saturating_sub(self.overflow)
    }
}

fn measure(from: Kind, to: Kind) -> Loss {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [from, to]);
    for node in [&a, &b] {
        node.tinc(&["set", "KeyExpire", "5"]);
    }
    bring_up(&mut a, &mut b);
    wait_ping(&b, &a.v4(), 1400);
    let before = overflow(&a, &b);
    let flow = Flow::start(&a, &b, &b.v4(), RATE, 200);
    let seconds = setting("MESHD_NET_REKEY_SECONDS", 12);
    thread::sleep(Duration::from_secs(seconds));
    let (stream, holes) = flow.finish_with_holes();
    let loss = Loss {
        stream,
        overflow: overflow(&a, &b) - before,
    };
    eprintln!(
        "{from:?} to {to:?}: lost {}, {loss:?}, holes (first, count) {holes:?}",
        stream.lost()
    );
    // The load must have been what it is meant to be, or the run says nothing.
    assert!(
        stream.sent > RATE * seconds * 8 / 10,
        "only {} packets sent in {seconds} s",
        stream.sent
    );
    a.assert_runs();
    b.assert_runs();
    loss
}

fn overflow(a: &Node, b: &Node) -> u64 {
    let device: u64 = a
        .host
        .exec("cat /sys/class/net/mesh0/statistics/tx_dropped")
        .trim()
        .parse()
        .unwrap();
    // /proc/net/snmp: a line of names and a line of numbers for each protocol.
    let counters = b.host.exec("cat /proc/net/snmp");
    let mut lines = counters.lines().filter(|line| line.starts_with("Udp:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names
        .split_whitespace()
        .position(|name| name == "RcvbufErrors")
        .unwrap();
    let socket: u64 = numbers.split_whitespace().nth(at).unwrap().parse().unwrap();
    device + socket
}

#[test]
fn between_meshds_nothing_is_lost() {
    let loss = measure(Meshd, Meshd);
    assert_eq!(loss.stream.lost(), 0, "{loss:?}");
    assert_eq!(loss.stream.duplicates, 0, "{loss:?}");
    // L3: one flow stays in order, but for one packet in a thousand.
    assert!(
        loss.stream.reordered <= loss.stream.received / 1000,
        "{loss:?}"
    );
}

#[test]
fn with_tincd_no_more_is_lost_than_between_tincds() {
    let tincds = measure(Tinc11, Tinc11);
    let mixed = [(Meshd, Tinc11), (Tinc11, Meshd)].map(|(from, to)| (from, to, measure(from, to)));
    for (from, to, loss) in mixed {
        assert!(
            loss.in_the_daemons() <= tincds.in_the_daemons(),
            "{from:?} to {to:?}: {loss:?}\nbetween tincds: {tincds:?}"
        );
        assert_eq!(loss.stream.duplicates, 0, "{loss:?}");
    }
}

#[test]
#[ignore = "control: tinc alone"]
fn control_between_tincds() {
    measure(Tinc11, Tinc11);
}
