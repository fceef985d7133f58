//! Native tunnels: through real tincds, renewed at full speed, under a flood of strangers.

use std::{net::Ipv4Addr, thread, time::Duration};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    native::configure,
    node::{
        Kind::{Meshd, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::{Flow, Transfer, large, setting, wait_ping},
    world::{World, wait_until},
};

/// Dialect of the tunnel between the meshd `node` and `other`.
fn spoken(node: &Node, other: &str) -> String {
    node.peer(other)["protocol"].as_str().unwrap().to_owned()
}

fn wait_native(node: &Node, other: &str) {
    let what = format!("{} speaks native with {other}", node.name);
    wait_until(&what, Duration::from_secs(20), || {
        match spoken(node, other).as_str() {
            "native" => Ok(()),
            spoken => Err(spoken.to_owned()),
        }
    });
}

/// Log lines of a tincd that receives something that it does not understand.
const COMPLAINTS: [&str; 6] = [
    "unknown",
    "Unknown",
    "ogus",
    "Failed to",
    "Error",
    "Possible",
];

/// a - t - u - d, of which a and d are meshds and all UDP between those is blocked: native end to end, and the
/// tincds between say nothing that they do not say when they carry for each other.
#[test]
fn native_goes_end_to_end_through_two_tincds() {
    let complaints = |kind| {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b, mut c, mut d] = on_one_wire(&world, &wire, [kind, Tinc11, Tinc11, kind]);
        for (one, other) in [(&a, &c), (&a, &d), (&b, &d)] {
            wire.block_udp(&one.host, &other.host);
        }
        a.connect_to(&["b"]);
        b.connect_to(&["c"]);
        d.connect_to(&["c"]);
        for node in [&mut b, &mut c, &mut d, &mut a] {
            node.start();
        }
        a.wait_reaches(&d);
        d.wait_reaches(&a);
        wait_ping(&a, &d.v4(), 56);
        if kind == Meshd {
            wait_native(&a, "d");
            wait_native(&d, "a");
            assert_eq!(
                (spoken(&a, "b"), spoken(&d, "c")),
                ("sptps".into(), "sptps".into())
            );
        }
        for size in [56, 1400, 8000] {
            wait_ping(&a, &d.v4(), size);
            wait_ping(&d, &a.v6(), size);
        }
        for (from, to) in [(&a, &d), (&d, &a)] {
            Transfer::start(from, to, &to.v4(), large() / 16).finish();
        }
        let logs = [&b, &c].map(|node| node.log());
        let tincds = [&b, &c].map(|node| node.host.v4()[0].clone());
        let lines = logs.iter().flat_map(|log| log.lines());
        let mut bad: Vec<String> = lines
            .filter(|line| COMPLAINTS.iter().any(|what| line.contains(what)))
            // We are ready to send before the two tincds know each other's UDP addresses for sure: what one
            // relays to the other then is dropped, whatever it is (two packets at the start).
            .filter(|line| {
                !tincds
                    .iter()
                    .any(|ip| line.contains(&format!("unknown source {ip} ")))
            })
            // Dates, and numbers of packets.
            .map(|line| {
                line.chars()
                    .skip(19)
                    .filter(|c| !c.is_ascii_digit())
                    .collect()
            })
            .collect();
        bad.sort();
        bad.dedup();
        bad
    };
    let between_tincds = complaints(Tinc11);
    for line in complaints(Meshd) {
        assert!(
            between_tincds.contains(&line),
            "{line}\nbetween tincds: {between_tincds:#?}"
        );
    }
}

/// P9 with real threads: two packet threads a side, a new session about every second, and as many packets as
/// go. Nothing twice, nothing far out of order, nothing lost but what the kernels drop of full queues.
#[test]
fn sessions_change_at_full_speed_and_no_packet_comes_twice() {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    for node in [&a, &b] {
        node.tinc(&["set", "KeyExpire", "1"]);
        configure(node, "tinc.conf", "Workers = 2");
    }
    bring_up(&mut a, &mut b);
    wait_native(&a, "b");
    wait_native(&b, "a");
    let there = Flow::start(&a, &b, &b.v4(), 60_000, 200);
    let back = Flow::start(&b, &a, &a.v6(), 5_000, 600);
    thread::sleep(Duration::from_secs(setting("MESHD_NET_REKEY_SECONDS", 25)));
    for (stream, to) in [(there.finish(), "b"), (back.finish(), "a")] {
        eprintln!("to {to}: {stream:?}");
        assert_eq!(stream.duplicates, 0, "{stream:?}");
        assert!(stream.latest <= 64, "{stream:?}");
        assert!(stream.lost() * 1_000 <= stream.sent, "{stream:?}");
    }
    let renewed = a.log().matches("native keys renewed").count();
    eprintln!("{renewed} sessions");
    assert!(renewed >= 10, "{renewed} renewals");
    a.assert_runs();
    b.assert_runs();
}

/// T26: a tenant sends garbage from the peer's own address, half of it with the number of a session that
/// may be. No session ends, and next to nothing is lost.
#[test]
fn t26_a_flood_in_the_peers_name_ends_no_session() {
    let world = World::alone();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    let tenant = world.host("tenant", &[&wire]);
    bring_up(&mut a, &mut b);
    wait_native(&a, "b");
    let addresses = [&b, &a].map(|node| node.host.v4()[0].parse::<Ipv4Addr>().unwrap());
    let flow = Flow::start(&b, &a, &a.v4(), 2_000, 400);
    let flood = tenant.inside(move || flood(addresses, Duration::from_secs(10)));
    let sent = flood.join().unwrap();
    let stream = flow.finish();
    eprintln!("{sent} forged datagrams, {stream:?}");
    assert!(sent > 50_000, "{sent} forged datagrams are no flood");
    assert!(stream.lost() * 1_000 <= stream.sent, "{stream:?}");
    assert_eq!(stream.duplicates, 0);
    for node in [&a, &b] {
        let log = node.log();
        assert_eq!(log.matches("native tunnel established").count(), 1, "{log}");
        assert_eq!(log.matches("native keys renewed").count(), 0, "{log}");
    }
}

/// Sends UDP datagrams from one address to another, both not ours, for a while; returns how many.
fn flood([source, target]: [Ipv4Addr; 2], time: Duration) -> u64 {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let to = SockAddr::from(std::net::SocketAddr::from((target, 0)));
    let begin = std::time::Instant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < time {
        for _ in 0..500 {
            let mut payload = vec![(sent * 7) as u8; 100 + sent as usize % 900];
            if sent.is_multiple_of(2) {
                // A native header: type, index of a session of node 0, 1 or 2, number.
                payload[..8].copy_from_slice(&[
                    0x80,
                    0,
                    0,
                    0,
                    sent as u8,
                    (sent >> 4) as u8 & 0xf0,
                    0,
                    1,
                ]);
            }
            let udp = u16::try_from(8 + payload.len()).unwrap();
            let mut packet = vec![0x45, 0];
            packet.extend((20 + udp).to_be_bytes());
            packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            packet.extend(source.octets());
            packet.extend(target.octets());
            packet.extend([655_u16, 655, udp, 0].map(u16::to_be_bytes).concat());
            packet.extend(payload);
            sent += u64::from(socket.send_to(&packet, &to).is_ok());
        }
        thread::sleep(Duration::from_millis(8));
    }
    sent
}
