//! Two nodes, both connect directions: pings of all sizes, and a large transfer each way.

use crate::{
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

    for (from, to, address) in [(&a, &b, b.v4()), (&b, &a, a.v6())] {
        let rate = Transfer::start(from, to, &address, large()).finish();
        eprintln!("{:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
    a.assert_runs();
    b.assert_runs();
    a.stop();
    b.stop();
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
