//! meshd's own protocol: meshds speak it to each other, tinc sees nothing of it, policy holds.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, wait_until},
};

/// Dialect of the only link of the meshd `node`.
fn spoken(node: &Node) -> String {
    let shown = node.json("connections");
    let rows = shown["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{shown}");
    rows[0]["protocol"].as_str().unwrap().to_owned()
}

/// Puts lines at the start of one of a node's files.
pub(crate) fn configure(node: &Node, file: &str, lines: &str) {
    let path = node.dir().join(file);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{lines}\n{text}")).unwrap();
}

fn secret(node: &Node, text: &str) {
    let path = node.dir().join("psk");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    configure(node, "tinc.conf", "PresharedKeyFile = psk");
}

fn wait_logs(node: &Node, what: &str) {
    wait_until(
        &format!("{} logs {what}", node.name),
        Duration::from_secs(30),
        || match node.log().contains(what) {
            true => Ok(()),
            false => Err(node.log()),
        },
    );
}

#[test]
fn two_meshds_speak_native_and_carry_packets_over_it() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    for node in [&a, &b] {
        configure(node, "tinc.conf", "MinProtocol = native");
        secret(node, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    }
    bring_up(&mut a, &mut b);
    assert_eq!((spoken(&a), spoken(&b)), ("native".into(), "native".into()));
    a.stop();
    // All over the link itself now.
    configure(&a, "tinc.conf", "TCPOnly = yes");
    a.start();
    a.wait_reaches(&b);
    b.wait_reaches(&a);
    for size in [56, 1400, 8000] {
        wait_ping(&a, &b.v4(), size);
        wait_ping(&b, &a.v6(), size);
    }
    assert_eq!((spoken(&a), spoken(&b)), ("native".into(), "native".into()));
    a.assert_runs();
    b.assert_runs();
}

/// The pair speaks SPTPS, whoever dials; `dialler` is a meshd or `listener` is.
fn sptps(dialler: Kind, listener: Kind, lines: &str) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
    configure(&a, "tinc.conf", lines);
    bring_up(&mut a, &mut b);
    for node in [&a, &b].iter().filter(|node| node.kind == Meshd) {
        assert_eq!(spoken(node), "sptps");
    }
}

#[test]
fn who_does_not_offer_native_is_spoken_to_in_sptps() {
    sptps(Meshd, Tinc11, "");
    sptps(Tinc11, Meshd, "");
    sptps(Meshd, Meshd, "Native = no");
}

#[test]
fn policy_lets_no_link_in_that_is_not_native() {
    for (dialler, listener) in [(Meshd, Tinc11), (Tinc11, Meshd)] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, [dialler, listener]);
        let (ours, other) = match dialler {
            Meshd => (&a, "b"),
            _ => (&b, "a"),
        };
        configure(ours, &format!("hosts/{other}"), "MinProtocol = native");
        a.connect_to(&["b"]);
        b.start();
        a.start();
        let ours = if dialler == Meshd { &a } else { &b };
        let text = format!(
            "MinProtocol = native, but {other} offers no native link: upgrade it, or set sptps in hosts/{other}"
        );
        wait_logs(ours, &text);
        assert!(!ours.dump().shared().reachable.contains(other));
    }
}

#[test]
fn different_secrets_make_no_link() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    secret(&a, &"01".repeat(32));
    secret(&b, &"02".repeat(32));
    a.connect_to(&["b"]);
    b.start();
    a.start();
    wait_logs(&a, "compare PresharedKeyFile and hosts/ of both");
    assert!(!a.dump().shared().reachable.contains("b"));
    assert!(!b.dump().shared().reachable.contains("a"));
}

/// `a` has its new key already; `b` knows it as the next one.
#[test]
fn a_node_that_changes_its_key_is_known_by_both_in_both_directions() {
    for a_dials in [true, false] {
        let world = World::new();
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
        let old = key_line(&a.dir().join("hosts/a"));
        a.tinc(&["generate-ed25519-keys"]);
        let new = key_line(&a.dir().join("hosts/a"));
        assert_ne!(old, new);
        configure(&b, "hosts/a", &new.replace("PublicKey", "PublicKeyNext"));
        let (dialler, listener) = match a_dials {
            true => (&mut a, &mut b),
            false => (&mut b, &mut a),
        };
        dialler.connect_to(&[&listener.name]);
        listener.start();
        dialler.start();
        dialler.wait_reaches(listener);
        listener.wait_reaches(dialler);
        assert_eq!((spoken(&a), spoken(&b)), ("native".into(), "native".into()));
    }
}

fn key_line(path: &std::path::Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("Ed25519PublicKey"));
    line.unwrap().to_owned()
}
