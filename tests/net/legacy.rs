//! The legacy protocol, with the real tinc 1.0.36: links both ways, packets in every cipher, digest and compression,
//! relaying hop by hop, and what is refused.

use std::{thread, time::Duration};

use crate::{
    dump::UDP_CONFIRMED,
    hostile::Member,
    line::in_line,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, on_one_wire,
    },
    traffic::{Flow, Transfer, wait_ping},
    world::World,
};

/// Bytes of a transfer that shows that packets of all sizes pass.
const SHORT: u64 = 8 << 20;

/// Starts two nodes of which `a` dials `b`, and waits until packets pass both ways, by UDP as far as a meshd says.
pub(crate) fn bring_up(a: &mut Node, b: &mut Node) {
    a.connect_to(&[&b.name]);
    b.start();
    a.start();
    pass(a, b);
}

fn pass(a: &Node, b: &Node) {
    for size in [56, 1400, 8000] {
        for (from, to) in [(a, b), (b, a)] {
            wait_ping(from, &to.v4(), size);
            wait_ping(from, &to.v6(), size);
        }
    }
    for (node, other) in [(a, b), (b, a)] {
        if node.kind == Meshd {
            node.wait_udp(other);
        }
    }
}

fn transfer(a: &Node, b: &Node) {
    for (from, to, address) in [(a, b, b.v4()), (b, a, a.v6())] {
        let rate = Transfer::start(from, to, &address, SHORT).finish();
        eprintln!("{:?} to {:?}: {rate:.0} Mbit/s", from.kind, to.kind);
    }
}

/// `dialler` connects to `listener`.
fn pair(dialler: Kind, listener: Kind) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
    bring_up(&mut a, &mut b);
    transfer(&a, &b);
    for (node, other) in [(&a, &b), (&b, &a)] {
        if node.kind == Meshd {
            let row = node.peer(&other.name);
            assert_eq!(row["protocol"], "legacy", "{row}");
            assert_eq!(row["cipher"], "aes-256-cbc sha256/4", "{row}");
            assert_eq!(row["reason"]["code"], "legacy", "{row}");
            let dump = node.dump();
            assert_ne!(dump.node(&other.name).unwrap().status & UDP_CONFIRMED, 0);
        }
    }
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn meshd_dials_tinc_1_0() {
    pair(Meshd, Tinc10);
}

#[test]
fn tinc_1_0_dials_meshd() {
    pair(Tinc10, Meshd);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tinc_1_0_dials_tinc_1_0() {
    pair(Tinc10, Tinc10);
}

/// a - b - c, where a and c have no wire in common (so b relays), or all are on one (so they find each other).
fn line(kinds: [Kind; 3], separate: bool) {
    let world = World::new();
    let wires = [world.wire(), world.wire()];
    let [left, right] = wires.each_ref();
    let wires = if separate {
        vec![left, right]
    } else {
        vec![left]
    };
    let [mut a, mut b, mut c] = in_line(&world, &wires, kinds);
    for size in [56, 1400, 8000] {
        for (from, to) in [(&a, &b), (&b, &c), (&a, &c), (&c, &a)] {
            wait_ping(from, &to.v4(), size);
            wait_ping(from, &to.v6(), size);
        }
    }
    if !separate {
        let _traffic = Flow::start(&a, &c, &c.v4(), 50, 200);
        for (node, other) in [(&a, &c), (&c, &a)] {
            if node.kind != Tinc10 {
                node.wait_udp(other);
            }
        }
    }
    transfer(&a, &c);
    for node in [&mut a, &mut b, &mut c] {
        node.assert_runs();
    }
    // What a node speaks with another is the two nodes' affair, whoever is between them.
    for (node, other) in [(&a, &c), (&c, &a), (&a, &b), (&b, &c)] {
        if node.kind == Meshd {
            let row = node.peer(&other.name);
            let legacy = other.kind == Tinc10;
            assert_eq!(row["protocol"] == "legacy", legacy, "{row}");
        }
    }
}

#[test]
fn meshd_relays_between_tincs_1_0() {
    line([Tinc10, Meshd, Tinc10], true);
}

#[test]
fn tincs_1_0_at_a_meshd_find_each_other() {
    line([Tinc10, Meshd, Tinc10], false);
}

#[test]
fn tinc_1_0_relays_between_meshds() {
    line([Meshd, Tinc10, Meshd], true);
}

#[test]
fn meshds_at_a_tinc_1_0_find_each_other() {
    line([Meshd, Tinc10, Meshd], false);
}

#[test]
fn tinc_1_0_relays_to_a_tinc_1_0() {
    line([Meshd, Tinc10, Tinc10], true);
}

#[test]
fn a_tinc_1_0_behind_a_tinc_1_0_is_found() {
    line([Meshd, Tinc10, Tinc10], false);
}

#[test]
fn meshd_relays_between_tinc_1_0_and_1_1() {
    line([Tinc10, Meshd, Tinc11], true);
}

#[test]
fn tinc_1_1_relays_between_tinc_1_0_and_meshd() {
    line([Tinc10, Tinc11, Meshd], true);
}

#[test]
fn tinc_1_0_relays_between_meshd_and_tinc_1_1() {
    line([Meshd, Tinc10, Tinc11], true);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_line_of_tincs_1_0() {
    line([Tinc10, Tinc10, Tinc10], true);
    line([Tinc10, Tinc11, Tinc11], true);
}

/// Sets what packets to a node are like, in its own host file, and tells the others.
fn set(node: &Node, others: &[&Node], lines: &[(&str, &str)]) {
    for (variable, value) in lines {
        node.tinc(&["set", &format!("{}.{variable}", node.name), value]);
    }
    node.introduce_to(others);
}

/// Every cipher, digest and level of compression of which OpenSSL 3 lets a 1.0.36 make use: what each side wants to get is
/// another row, so that one pair of nodes shows two.
#[test]
fn ciphers_digests_and_compression() {
    let rows = [
        ("aes-128-cbc", "sha1", "10", "0"),
        ("aes-192-cbc", "sha512", "64", "1"),
        ("aes-256-cbc", "md5", "16", "9"),
        ("aes-128-cfb", "sha224", "28", "10"),
        ("aes-192-cfb", "sha384", "48", "11"),
        ("aes-256-cfb", "sha512-224", "20", "0"),
        ("des-ede3-cbc", "sha256", "4", "6"),
        ("aes-128-cbc", "blake2s256", "32", "0"),
        ("aes-192-cbc", "blake2b512", "8", "11"),
        ("aes256", "sha512-256", "32", "5"),
    ];
    for (dialler, listener, pair) in rows.chunks(2).enumerate().map(|(n, pair)| match n % 2 {
        0 => (Meshd, Tinc10, pair),
        _ => (Tinc10, Meshd, pair),
    }) {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
        for (node, other, row) in [(&a, &b, pair[0]), (&b, &a, pair[1])] {
            let (cipher, digest, mac, compression) = row;
            set(
                node,
                &[other],
                &[
                    ("Cipher", cipher),
                    ("Digest", digest),
                    ("MACLength", mac),
                    ("Compression", compression),
                ],
            );
        }
        bring_up(&mut a, &mut b);
        transfer(&a, &b);
        let (meshd, other, row) = match dialler {
            Meshd => (&a, &b, pair[1]),
            _ => (&b, &a, pair[0]),
        };
        let shown = meshd.peer(&other.name)["cipher"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut expected = format!(
            "{} {}/{}",
            row.0.replace("aes256", "aes-256-cbc"),
            row.1,
            row.2
        );
        if row.3 != "0" {
            expected += &format!(" compression {}", row.3);
        }
        assert_eq!(shown, expected);
    }
}

/// Packets without cipher and MAC, where both host files say so: and nothing of the kind where only the other's does.
#[test]
fn null_cipher_and_digest_need_both() {
    for both in [true, false] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc10]);
        let none = [("Cipher", "none"), ("Digest", "none")];
        set(&b, &[&a], &none);
        if both {
            set(&a, &[&b], &none);
        }
        a.connect_to(&["b"]);
        b.start();
        a.start();
        for size in [56, 1400] {
            wait_ping(&a, &b.v4(), size);
            wait_ping(&b, &a.v6(), size);
        }
        if both {
            a.wait_udp(&b);
            transfer(&a, &b);
            assert_eq!(a.peer("b")["cipher"], "none none/0");
        } else {
            let row = a.peer("b");
            assert!(row["cipher"].is_null() && row["path"] == "tcp", "{row}");
            assert_eq!(row["reason"]["code"], "legacy_cipher", "{row}");
        }
    }
}

/// A cipher that meshd does not use: packets go over the link, and nothing else is the matter.
#[test]
fn a_cipher_that_we_do_not_use_means_tcp() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Tinc10, Meshd]);
    set(&a, &[&b], &[("Cipher", "aes-256-ofb")]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    for size in [56, 1400, 8000] {
        wait_ping(&a, &b.v4(), size);
        wait_ping(&b, &a.v6(), size);
    }
    transfer(&a, &b);
    let row = b.peer("a");
    assert_eq!(
        (&row["path"], &row["reason"]["code"]),
        (&"tcp".into(), &"legacy_cipher".into())
    );
    assert!(b.log().contains("428"), "{}", b.log());
}

/// TCPOnly on either side.
#[test]
fn tcp_only() {
    for node in [0, 1] {
        let world = World::new();
        let wire = world.wire();
        let mut nodes = on_one_wire(&world, &wire, [Meshd, Tinc10]);
        nodes[node].tinc(&["set", "TCPOnly", "yes"]);
        let [a, b] = &mut nodes;
        a.connect_to(&["b"]);
        b.start();
        a.start();
        for size in [56, 1400, 8000] {
            wait_ping(a, &b.v4(), size);
            wait_ping(b, &a.v6(), size);
        }
        transfer(a, b);
        assert_eq!(a.peer("b")["path"], "tcp");
    }
}

/// Keys change every ten seconds at both ends. What is on its way when a 1.0.36 changes its key is lost there, as
/// between two of them: it has no other.
#[test]
fn keys_expire_at_both_ends() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc10]);
    for node in [&a, &b] {
        node.tinc(&["set", "KeyExpire", "10"]);
    }
    bring_up(&mut a, &mut b);
    let there = Flow::start(&a, &b, &b.v4(), 200, 200);
    let back = Flow::start(&b, &a, &a.v4(), 200, 200);
    thread::sleep(Duration::from_secs(35));
    let (there, back) = (there.finish(), back.finish());
    eprintln!("there {there:?}, back {back:?}");
    assert!(a.log().matches("KEY_CHANGED").count() >= 2, "{}", a.log());
    assert!(
        b.log().matches("Got KEY_CHANGED").count() >= 2,
        "{}",
        b.log()
    );
    // Nothing that comes to us is lost; to the other end, at most what is on a wire of microseconds.
    assert!(
        back.lost() <= 2 && there.lost() <= 20,
        "there {there:?}, back {back:?}"
    );
    a.wait_udp(&b);
}

/// Nodes that speak nothing but legacy by their own choice, or whose Ed25519 keys are not known.
#[test]
fn tinc_1_1_and_meshd_in_legacy() {
    // A tinc 1.1 with ExperimentalProtocol = no, and a meshd with it.
    for (kind, other) in [(Tinc11, Meshd), (Meshd, Meshd), (Meshd, Tinc11)] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, [kind, other]);
        a.tinc(&["set", "ExperimentalProtocol", "no"]);
        if other == Meshd {
            b.tinc(&["--force", "set", "MinProtocol", "legacy"]);
        } else {
            forget_ed25519(&b, &["a"]);
        }
        bring_up(&mut a, &mut b);
        transfer(&a, &b);
        for (node, other) in [(&a, &b), (&b, &a)] {
            if node.kind == Meshd {
                assert_eq!(node.peer(&other.name)["protocol"], "legacy");
            }
        }
    }
    // Neither knows the other's Ed25519 key: two real daemons would tell each other; we never write hosts/.
    for kinds in [[Tinc11, Meshd], [Meshd, Tinc11]] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
        forget_ed25519(&a, &["b"]);
        forget_ed25519(&b, &["a"]);
        bring_up(&mut a, &mut b);
        transfer(&a, &b);
    }
}

/// Takes the Ed25519 keys of others out of their host files at a node.
pub(crate) fn forget_ed25519(at: &Node, others: &[&str]) {
    for other in others {
        let path = at.dir().join("hosts").join(other);
        let text = std::fs::read_to_string(&path).unwrap();
        let kept = text
            .lines()
            .filter(|line| !line.starts_with("Ed25519PublicKey"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, kept).unwrap();
    }
}

/// A node whose host file has an Ed25519 key is not spoken to in legacy; `MinProtocol = legacy` allows it.
#[test]
fn a_pinned_node_is_refused() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Tinc10, Meshd]);
    let hosts_a = b.dir().join("hosts/a");
    let key = std::fs::read_to_string(a.dir().join("hosts/a")).unwrap();
    let key = key
        .lines()
        .find(|line| line.starts_with("Ed25519PublicKey"))
        .unwrap();
    let text = std::fs::read_to_string(&hosts_a).unwrap();
    std::fs::write(&hosts_a, format!("{key}\n{text}")).unwrap();
    a.connect_to(&["b"]);
    b.start();
    a.start();
    crate::world::wait_until("b refuses a", Duration::from_secs(20), || {
        let log = b.log();
        match log.contains("MinProtocol = legacy in hosts/a") {
            true => Ok(()),
            false => Err(log),
        }
    });
    crate::traffic::try_ping(&a.host, &b.v4(), 56, &[]).unwrap_err();
    std::fs::write(&hosts_a, format!("{key}\nMinProtocol = legacy\n{text}")).unwrap();
    b.signal(rustix::process::Signal::HUP);
    pass(&a, &b);
    assert_eq!(b.peer("a")["reason"]["code"], "legacy");
}

/// Both ends dial, daemons are killed and come back, links are cut: it always comes up again.
#[test]
fn restarts_and_double_dials() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc10]);
    for node in [&a, &b] {
        node.tinc(&["set", "PingInterval", "3"]);
        node.tinc(&["set", "PingTimeout", "2"]);
        node.tinc(&["set", "MaxTimeout", "3"]);
    }
    b.connect_to(&["a"]);
    bring_up(&mut a, &mut b);
    for _ in 0..2 {
        b.kill();
        a.wait_loses(&b);
        b.start();
        pass(&a, &b);
        a.kill();
        a.start();
        pass(&a, &b);
    }
    wire.cut(&b.host);
    a.wait_loses(&b);
    wire.mend(&b.host);
    pass(&a, &b);
    a.assert_runs();
    b.assert_runs();
}

/// UDP is blocked and let through again: packets go over the link meanwhile.
#[test]
fn udp_that_is_blocked() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Tinc10, Meshd]);
    for node in [&a, &b] {
        node.tinc(&["set", "PingInterval", "5"]);
    }
    wire.block_udp(&a.host, &b.host);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    for size in [56, 1400, 8000] {
        wait_ping(&a, &b.v4(), size);
        wait_ping(&b, &a.v6(), size);
    }
    assert_eq!(b.peer("a")["path"], "tcp");
    transfer(&a, &b);
    wire.unblock_udp(&a.host, &b.host);
    pass(&a, &b);
    transfer(&a, &b);
}

/// The path has a smaller MTU than the wire says: both ends find it.
#[test]
fn a_narrow_path() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc10]);
    wire.swallow_udp_longer_than(1300);
    bring_up(&mut a, &mut b);
    transfer(&a, &b);
    // The bridge counts its own 14 bytes: 1,300 - 14 - 28 - 4 of MAC are 78 blocks and a bit; less padding, number and
    // Ethernet header.
    crate::world::wait_until("the MTU is found", Duration::from_secs(20), || {
        let mtu = a.peer("b")["pmtu_bytes"].as_u64();
        match mtu == Some(78 * 16 - 1 - 4 - 14) {
            true => Ok(()),
            false => Err(format!("{mtu:?}")),
        }
    });
}

/// T09: edges to something that is no address, and requests of nodes that are not reachable, either of which kills a
/// tinc 1.0.36, said by a member: they end at us. Without us between, they do kill it.
#[test]
fn what_kills_a_tinc_1_0_is_not_passed_on() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, c] = on_one_wire(&world, &wire, [Meshd, Tinc10, Tinc11]);
    bring_up(&mut a, &mut b);
    let mut member = Member::reachable(&c, &a, &wire);
    member.flood(12, "c x example.org 655 c 1");
    member.flood(12, "x c example.org 655 c 1");
    member.flood(12, "x c not-an-address what c 1");
    member.say("15 ghost b");
    member.say("15 x b");
    a.wait_dump("knows x", |dump| dump.node("x").is_some());
    // What comes after has passed, so what came before has been dealt with.
    member.flood(10, "c 10.66.0.1");
    crate::world::wait_until("b hears of c", Duration::from_secs(10), || {
        match b.log().contains("Got ADD_SUBNET from a") && member.is_alive() {
            true => Ok(()),
            false => Err(b.log()),
        }
    });
    pass(&a, &b);
    b.assert_runs();
    // Nor when it comes and is told all that is known.
    b.kill();
    b.start();
    pass(&a, &b);
    assert!(a.dump().node("x").is_some());
    b.assert_runs();
}
