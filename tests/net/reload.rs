//! Torn and poisoned files under a running daemon (T44, X11, X18 of proto/threat-model.md).

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    dump::wait_agree,
    node::{
        Kind::{Meshd, Tinc11},
        Node, introduce, on_one_wire,
    },
    traffic::{Flow, wait_ping},
    world::{World, wait_until},
};

type Spoil = fn(&Path);

/// A change that comes while an older one is being read, and asks for a reload too, is in force in the end. Many files, so that
/// reading takes a while.
#[test]
fn a_reload_asked_for_during_a_reload_follows() {
    let world = World::new();
    let wire = world.wire();
    let [mut a] = on_one_wire(&world, &wire, [Meshd]);
    let own = a.dir().join("hosts/a");
    let text = fs::read_to_string(&own).unwrap();
    for number in 0..400 {
        let other = a.dir().join(format!("hosts/x{number}"));
        fs::write(
            other,
            format!("Subnet = 10.60.{}.{}/32\n", number / 200, number % 200),
        )
        .unwrap();
    }
    a.start();
    let announce = |subnet: &str| {
        let new = a.dir().join("new");
        fs::write(&new, format!("{text}Subnet = {subnet}\n")).unwrap();
        fs::rename(&new, &own).unwrap();
        a.signal(Signal::HUP);
    };
    for round in 0..10 {
        announce(&format!("10.61.{round}.0/24"));
        thread::sleep(Duration::from_millis(1 + round % 5));
        let second = format!("10.62.{round}.0/24");
        announce(&second);
        wait_until(
            "the second change is in force",
            Duration::from_secs(5),
            || match a.dump_text("subnets")? {
                all if all.contains(&second) => Ok(()),
                all => Err(all),
            },
        );
    }
}

/// Ways to spoil a host file, and whether nothing of it can be used.
const TORN: [(&str, Spoil, bool); 14] = [
    ("fifo", |path| make(&["mkfifo"], path), true),
    ("device", |path| make(&["mknod"], path), true),
    ("directory", |path| fs::create_dir(path).unwrap(), true),
    ("symlink loop", |path| symlink(path, path).unwrap(), true),
    (
        "dangling symlink",
        |path| symlink("nowhere", path).unwrap(),
        true,
    ),
    (
        "huge",
        |path| {
            fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
        },
        true,
    ),
    (
        "binary",
        |path| {
            let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
            fs::write(path, bytes).unwrap();
        },
        true,
    ),
    (
        "half a key",
        |path| fs::write(path, "Ed25519PublicKey = abcdef\n").unwrap(),
        true,
    ),
    (
        "half a PEM block",
        |path| {
            fs::write(path, "-----BEGIN ED25519 PUBLIC KEY-----\nabcd").unwrap();
        },
        true,
    ),
    (
        "a line without a value",
        |path| fs::write(path, "Port =\n").unwrap(),
        true,
    ),
    (
        "a subnet that is none",
        |path| {
            fs::write(path, "Subnet = 10.0.0.1/24\nSubnet = 300.1.1.1\n").unwrap();
        },
        true,
    ),
    ("empty", |path| fs::write(path, "").unwrap(), false),
    (
        "an exec proxy",
        |path| {
            fs::write(path, "Proxy = exec touch /tmp/canary-of-meshd\n").unwrap();
        },
        false,
    ),
    (
        "an unknown variable",
        |path| fs::write(path, "Adress = 10.0.0.1\n").unwrap(),
        false,
    ),
];

fn make(program: &[&str], path: &Path) {
    let path = path.to_str().unwrap();
    match program {
        ["mknod"] => crate::world::output(&format!("mknod {path} c 1 5")),
        _ => crate::world::output(&format!("{} {path}", program[0])),
    };
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
}

/// Log lines of the daemon within a few seconds of a reload.
fn reload(node: &mut Node) -> String {
    let before = node.log().len();
    node.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(700));
    node.assert_runs();
    node.log()[before..].to_owned()
}

/// Another node's file is spoilt in every way, at a reload and at a start: the daemon stays, keeps
/// its links and its state, and says in one sentence which file it was.
#[test]
fn t44_a_torn_host_file_costs_nobody_else() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, c] = on_one_wire(&world, &wire, [Meshd, Tinc11, Tinc11]);
    a.connect_to(&["b", "c"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    a.wait_udp(&b);
    b.wait_udp(&a);
    let state = a.dump().shared();
    let flow = Flow::start(&b, &a, &a.v4(), 100, 200);
    let file = a.dir().join("hosts").join(&c.name);
    let good = fs::read(&file).unwrap();
    let sentences = |log: &str| -> Vec<String> {
        log.lines()
            .filter(|line| line.contains("WARN") && line.contains("hosts/c"))
            .map(str::to_owned)
            .collect()
    };
    for (what, spoil, useless) in TORN {
        remove(&file);
        spoil(&file);
        let log = reload(&mut a);
        assert_eq!(a.dump().shared(), state, "after {what}");
        let said = sentences(&log);
        assert!(
            said.len() <= 4 && (!said.is_empty() || !useless),
            "{what}: sentences in the log: {said:#?}\nof\n{log}"
        );
        eprintln!("{what}: {}", said.join(" | "));
    }
    assert!(!Path::new("/tmp/canary-of-meshd").exists());
    // It starts with such a file as well.
    let stream = flow.finish();
    assert!(stream.lost() <= stream.sent / 1000, "{stream:?}");
    for (what, spoil, _) in TORN {
        a.stop();
        remove(&file);
        spoil(&file);
        a.start();
        wait_until(what, Duration::from_secs(20), || {
            let dump = a.try_dump()?;
            if dump.shared().reachable.contains("b") {
                Ok(())
            } else {
                Err(dump.to_string())
            }
        });
    }
    // Once it is whole again the node is as good as any.
    remove(&file);
    fs::write(&file, good).unwrap();
    reload(&mut a);
    let mut c = c;
    c.start();
    a.wait_reaches(&c);
    wait_agree(&[&a, &b]);
}

/// A torn own file or tinc.conf: a reload is refused as a whole, with file and line; the old
/// configuration goes on.
#[test]
fn t44_a_torn_own_file_stops_the_reload() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc11]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    let state = a.dump().shared();
    for (name, text, place) in [
        ("tinc.conf", "Name = a\nMode =\n", "tinc.conf:2"),
        ("tinc.conf", "", "tinc.conf"),
        ("tinc.conf", "Name = a\nMode = zzz\n", "tinc.conf:2"),
        ("tinc.conf", "Name = b\n", "tinc.conf:1"),
        ("hosts/a", "Subnet = 10.20.0.1/8\n", "hosts/a:1"),
    ] {
        let file = a.dir().join(name);
        let good = fs::read(&file).unwrap();
        fs::write(&file, text).unwrap();
        let log = reload(&mut a);
        assert_eq!(a.dump().shared(), state, "after {text:?} in {name}");
        assert!(log.contains(place), "{text:?} in {name}: {log}");
        fs::write(&file, good).unwrap();
    }
    // An unreadable tree likewise.
    let (tree, away) = (a.dir().join("hosts"), a.dir().join("hosts.away"));
    fs::rename(&tree, &away).unwrap();
    reload(&mut a);
    assert_eq!(a.dump().shared(), state);
    fs::rename(&away, &tree).unwrap();
    let log = reload(&mut a);
    assert_eq!(a.dump().shared(), state, "{log}");
    wait_ping(&a, &b.v4(), 56);
}

/// A good tree with one torn file and one deletion: the deletion takes effect all the same.
#[test]
fn t44_a_deletion_beside_a_torn_file_counts() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [Meshd, Tinc11, Tinc11]);
    b.connect_to(&["a"]);
    c.connect_to(&["a"]);
    for node in [&mut a, &mut b, &mut c] {
        node.start();
    }
    a.wait_reaches(&b);
    a.wait_reaches(&c);
    fs::write(a.dir().join("hosts/b"), "Port =\n").unwrap();
    fs::remove_file(a.dir().join("hosts/c")).unwrap();
    reload(&mut a);
    a.wait_loses(&c);
    // b is who it was: it stays, and may come back.
    assert!(a.dump().shared().reachable.contains("b"));
    b.stop();
    a.wait_loses(&b);
    b.start();
    a.wait_reaches(&b);
    thread::sleep(Duration::from_secs(6));
    assert!(!a.dump().shared().reachable.contains("c"));
}

/// X18: ten reloads a second with hosts that change, for a while; a pair that is not concerned
/// loses nothing.
#[test]
fn x18_reloads_in_quick_succession() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    wait_ping(&a, &b.v4(), 56);
    a.wait_udp(&b);
    b.wait_udp(&a);
    let flow = Flow::start(&a, &b, &b.v4(), 1000, 200);
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(15) {
        round += 1;
        let file = a.dir().join(format!("hosts/x{}", round % 7));
        if round % 3 == 0 {
            let _ = fs::remove_file(file);
        } else {
            fs::copy(a.dir().join("hosts/b"), file).unwrap();
        }
        a.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(100));
    }
    let stream = flow.finish();
    assert_eq!(stream.lost(), 0, "after {round} reloads: {stream:?}");
    a.assert_runs();
}

/// A node added by dropping in its host file is known without a reload, as with tinc.
#[test]
fn a_new_host_file_needs_no_reload() {
    let world = World::new();
    let wire = world.wire();
    let mut a = Node::new(Meshd, &world.host("a", &[&wire]));
    let mut b = Node::new(Tinc11, &world.host("b", &[&wire]));
    a.start();
    a.introduce_to(&[&b]);
    b.connect_to(&["a"]);
    b.start();
    thread::sleep(Duration::from_secs(2));
    introduce(&[&a, &b]);
    a.wait_reaches(&b);
    wait_ping(&b, &a.v4(), 56);
}

/// The exit code of a command of meshctl, and all that it said.
fn ask(node: &Node, arguments: &[&str]) -> (i32, String) {
    let output = node.meshctl().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    (code, String::from_utf8(said).unwrap())
}

/// `meshctl plan`, a reload that would cut too many, one that nobody confirms, and the way back.
#[test]
fn reloads_are_planned_guarded_and_undone() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [Meshd, Meshd, Tinc11]);
    for other in [&b, &c] {
        other.connect_to(&["a"]);
    }
    for node in [&mut a, &mut b, &mut c] {
        node.start();
    }
    a.wait_reaches(&b);
    a.wait_reaches(&c);
    let (code, said) = ask(&a, &["plan"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with(
            "= restart needed: no; disconnected: none (limit without --yes: 1 of 2 nodes"
        ),
        "{said}"
    );

    let hosts = a.dir().join("hosts");
    fs::copy(hosts.join("b"), hosts.join("new")).unwrap();
    let (code, said) = ask(&a, &["plan"]);
    assert!(
        code == 10 && said.starts_with("+ hosts/new is new\n"),
        "{code} {said}"
    );
    fs::remove_file(hosts.join("new")).unwrap();

    let kept = world.dir().join("kept");
    fs::rename(&hosts, &kept).unwrap();
    fs::create_dir(&hosts).unwrap();
    fs::copy(kept.join("a"), hosts.join("a")).unwrap();
    for arguments in [&["plan"][..], &["reload"], &["reload", "--yes"]] {
        let (code, said) = ask(&a, arguments);
        assert!(
            code == 8 && said.contains("no usable file any more"),
            "{code} {said}"
        );
    }
    // Somebody else's host file: two are cut, and one of two may be.
    fs::copy(kept.join("b"), hosts.join("new")).unwrap();
    let (code, said) = ask(&a, &["plan"]);
    assert!(
        code == 8 && said.contains("\n- hosts/b is gone") || said.starts_with("- hosts/b is gone"),
        "{code} {said}"
    );
    assert!(
        said.contains("disconnect 2 of 2 nodes (b c), above the limit of 1"),
        "{said}"
    );
    let (code, said) = ask(&a, &["reload"]);
    assert!(
        code == 8 && said.contains("`meshctl reload --yes` reloads anyway"),
        "{code} {said}"
    );
    a.signal(Signal::HUP);
    thread::sleep(Duration::from_secs(1));
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&a, &c.v4(), 56);

    let (code, said) = ask(&a, &["reload", "--yes", "--confirm", "4s"]);
    assert_eq!(code, 0, "{said}");
    a.wait_loses(&b);
    a.wait_loses(&c);
    let (code, said) = ask(&a, &["reload"]);
    assert!(
        code == 8 && said.contains("waits for a confirmation"),
        "{code} {said}"
    );
    a.wait_reaches(&b);
    a.wait_reaches(&c);
    assert!(
        a.log()
            .contains("the last reload was not confirmed in time")
    );

    assert_eq!(ask(&a, &["reload", "--yes", "--confirm", "60s"]).0, 0);
    assert_eq!(ask(&a, &["confirm"]).0, 0);
    let (code, said) = ask(&a, &["confirm"]);
    assert!(
        code == 8 && said.contains("no reload waits"),
        "{code} {said}"
    );
    a.wait_loses(&b);
    assert_eq!(ask(&a, &["reload", "--undo"]).0, 0);
    a.wait_reaches(&b);
    a.wait_reaches(&c);
    let (code, said) = ask(&a, &["reload", "--undo"]);
    assert!(
        code == 8 && said.contains("nothing to undo"),
        "{code} {said}"
    );
    for node in [&mut a, &mut b, &mut c] {
        node.assert_runs();
    }
}
