//! `meshctl migrate status` in a mesh of all kinds of daemons.

use std::{fs::OpenOptions, io::Write as _};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    node::{
        Kind::{Meshd, Tinc10, Tinc11},
        Node, PATIENCE, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, wait_until},
};

/// Waits until this is said of a node, as its program, whether it is up, and the code of what is left; gives the
/// sentence.
fn wait_row(node: &Node, of: &str, (runs, up, code): (&str, bool, Option<&str>)) -> String {
    wait_until(&format!("{of} is {runs}, left {code:?}"), PATIENCE, || {
        let (exit, rows) = node.migrate();
        assert_eq!(exit, Some(10), "{rows:#?}");
        let row = &rows[of];
        let todo = &row["todo"];
        let right = row["runs"] == runs && row["up"] == up && todo["code"].as_str() == code;
        let text = todo["text"].as_str().unwrap_or_default().to_owned();
        right.then_some(text).ok_or_else(|| row.to_string())
    })
}

fn append(node: &Node, file: &str, line: &str) {
    let path = node.dir().join(file);
    let file = OpenOptions::new().append(true).open(path);
    writeln!(file.unwrap(), "{line}").unwrap();
}

/// b runs tinc 1.0, c tinc 1.1, d meshd on a directory of tinc 1.0, e meshd; all of them call a.
#[test]
fn each_node_of_a_mixed_mesh_has_its_next_step() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, [Meshd, Tinc10, Tinc11, Tinc10, Meshd]);
    nodes[3].kind = Meshd;
    nodes[1].without_key();
    nodes[3].without_key();
    nodes[1..].iter().for_each(|node| node.connect_to(&["a"]));
    nodes.iter_mut().for_each(Node::start);
    let [a, b, c, d, e] = &mut nodes;
    for other in [&*b, c, d, e] {
        wait_ping(a, &other.v4(), 56);
    }
    let (old, new, other) = ("tinc-1.0", "meshd", "meshd-or-tinc-1.1");
    wait_row(a, "a", (new, true, None));
    let text = wait_row(a, "b", (old, true, Some("tinc_1_0")));
    assert!(text.contains("on b, `systemctl"), "{text}");
    let text = wait_row(a, "c", (other, true, Some("no_native_there")));
    assert!(text.contains("on c, install meshd"), "{text}");
    let text = wait_row(a, "d", (other, true, Some("no_key_there")));
    assert!(text.contains("on d, `meshctl"), "{text}");
    wait_row(a, "e", (new, true, None));
    let (_, rows) = a.migrate();
    assert_eq!(rows["e"]["speaks"], "native");
    assert_eq!(rows["c"]["speaks"], "sptps");
    assert_eq!(
        (&rows["b"]["speaks"], &rows["b"]["next"]),
        (&"legacy".into(), &Value::Null)
    );
    assert_eq!(rows["b"]["todo"]["next"], "sptps");
    // The reason is that of `peers`.
    assert_eq!(rows["b"]["why"], a.peer("b")["reason"]);
    // d, which has no key itself and no link to the others.
    wait_row(d, "b", ("unknown", true, Some("legacy_there")));
    wait_row(d, "d", (new, true, Some("no_own_key")));
    wait_row(d, "e", (new, true, Some("own_key_first")));

    append(a, "hosts/d", "MinProtocol = sptps");
    wait_row(a, "d", (other, true, Some("not_reloaded")));
    a.signal(Signal::HUP);
    let text = wait_row(a, "d", ("unknown", false, Some("forbidden")));
    assert!(text.contains("MinProtocol = sptps in hosts/d:"), "{text}");
    c.stop();
    wait_row(a, "c", (other, false, Some("no_native_there")));
    e.stop();
    wait_row(a, "e", (new, false, None));
    a.stop();
    a.start();
    let text = wait_row(a, "e", ("unknown", false, Some("unknown")));
    assert!(text.contains("delete hosts/e"), "{text}");
}
