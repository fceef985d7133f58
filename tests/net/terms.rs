//! Host files whose word ends by itself (Expires) or at once (Revoked): config/toml.md section 3.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;

use crate::{
    node::{
        Kind::{Meshd, Tinc11},
        Node, on_one_wire,
    },
    traffic::{try_ping, wait_ping},
    world::{World, wait_until},
};

/// Writes a host file of `a` as it was, with this line more, and reloads.
fn say(a: &Node, good: &str, line: &str) {
    fs::write(a.dir().join("hosts/b"), format!("{good}{line}\n")).unwrap();
    a.signal(Signal::HUP);
}

/// `meshctl peers` of `a` about b: whether there is a link, and the reason.
fn seen(a: &Node) -> (bool, String) {
    let b = a.peer("b");
    let reason = b["reason"]["text"].as_str().unwrap_or_default();
    (!b["link"].is_null(), reason.to_owned())
}

/// A node is shut out at its time with nobody near, though another node still passes its packets on; later it is let
/// in again, and revoked. Both kinds of peers.
#[test]
fn a_node_is_shut_out_when_its_time_is_over() {
    for kind in [Meshd, Tinc11] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [Meshd, kind, Tinc11]);
        for other in [&b, &c] {
            other.connect_to(&["a"]);
        }
        c.connect_to(&["b"]);
        for node in [&mut a, &mut b, &mut c] {
            node.start();
        }
        a.wait_reaches(&b);
        wait_ping(&a, &b.v4(), 56);
        let good = fs::read_to_string(a.dir().join("hosts/b")).unwrap();

        let end = SystemTime::now() + Duration::from_secs(6);
        let end = humantime::format_rfc3339_seconds(end);
        say(&a, &good, &format!("Expires = {end}"));
        let pings = |from: &Node, to: &Node| try_ping(&from.host, &to.v4(), 56, &[]).is_ok();
        assert!(pings(&a, &b), "its time is not over");
        let shut_out = |why: &str| {
            wait_until(why, Duration::from_secs(15), || match seen(&a) {
                (false, reason) if reason == format!("{why} (hosts/b)") => Ok(()),
                other => Err(format!("{other:?}")),
            });
            // c would carry them.
            assert!(!pings(&a, &b) && !pings(&b, &a), "{why}: packets");
            wait_ping(&c, &b.v4(), 56);
            wait_ping(&a, &c.v4(), 56);
        };
        shut_out("expired");

        say(&a, &good, "Expires = 2100-01-01T00:00:00Z");
        wait_ping(&a, &b.v4(), 56);
        say(
            &a,
            &good,
            "Revoked = 2026-01-01T00:00:00Z\nRevokedReason = sold",
        );
        shut_out("revoked: sold");
        a.assert_runs();
    }
}
