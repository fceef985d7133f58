//! Two nodes, both connect directions: pings of all sizes, and a large transfer each way.

use crate::{
    line::udp_bytes,
    node::{
        Kind::{self, Meshd, Tinc11},
        bring_up, on_one_wire,
    },
    traffic::{Transfer, large, wait_ping},
    world::World,
};

/// `dialler` connects to `listener`.
fn pair(dialler: Kind, listener: Kind) {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
    bring_up(&mut a, &mut b);
    for size in [56, 1400, 8000] {
        for (from, to) in [(&a, &b), (&b, &a)] {
            for address in [to.v4(), to.v6()] {
                // The first long packets may be answered by "too big", or be lost while the
                // path's MTU is still searched.
                wait_ping(from, &address, size);
            }
        }
    }

    // A tincd takes ten times as long.
    let bytes = match (dialler, listener) {
        (Meshd, Meshd) => large(),
        _ => large() / 2,
    };
    for (from, to, address) in [(&a, &b, b.v4()), (&b, &a, a.v6())] {
        let rate = Transfer::start(from, to, &address, bytes).finish();
        eprintln!("{:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
    a.assert_runs();
    b.assert_runs();
    a.stop();
    b.stop();
}

/// Both ask for compressed packets: what can be made smaller is, and everything arrives as it was.
fn compressed(kinds: [Kind; 2], level: &str) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    for node in [&a, &b] {
        node.tinc(&["set", &format!("{}.Compression", node.name), level]);
    }
    bring_up(&mut a, &mut b);
    for (from, to) in [(&a, &b), (&b, &a)] {
        // LZO is made only by tincd, so by one of the two here: the other's answers are whole.
        let limit = if level.len() > 1 { 40_000 } else { 10_000 };
        let mut took = u64::MAX;
        // Probes of a tincd's path MTU search may come in between, 20 and more of full length.
        for _ in 0..5 {
            let before = udp_bytes(to);
            // All of one byte.
            from.host
                .exec(&format!("ping -c 20 -i 0.02 -s 1300 -p 42 {}", to.v4()));
            took = took.min(udp_bytes(to) - before);
            if took < limit {
                break;
            }
        }
        eprintln!(
            "{:?} to {:?}, level {level}: {took} bytes",
            from.kind, to.kind
        );
        assert!(took < limit, "{took} bytes for 20 packets of 1,328");
        Transfer::start(from, to, &to.v6(), 8 << 20).finish();
    }
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn zlib_between_meshd_and_tincd() {
    compressed([Meshd, Tinc11], "9");
}

#[test]
fn lzo_between_tincd_and_meshd() {
    compressed([Tinc11, Meshd], "10");
}

#[test]
#[ignore = "control: tinc alone"]
fn control_zlib() {
    compressed([Tinc11; 2], "9");
}

#[test]
fn meshd_dials_tincd() {
    pair(Meshd, Tinc11);
}

#[test]
fn tincd_dials_meshd() {
    pair(Tinc11, Meshd);
}

#[test]
fn meshd_dials_meshd() {
    pair(Meshd, Meshd);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tincd_dials_tincd() {
    pair(Tinc11, Tinc11);
}
