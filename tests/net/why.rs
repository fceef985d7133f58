//! `meshctl why`: one fault at a time between real daemons, and the step that it names.

use std::fs;

use serde_json::Value;

use crate::{
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, PATIENCE, bring_up, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, wait_until},
};

/// Answer of `meshctl why ARGUMENTS --json`, and its exit code.
fn why(node: &Node, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = node.meshctl();
    let command = command.arg("why").args(arguments).arg("--json");
    let result = command.output().unwrap();
    let shown = serde_json::from_slice(&result.stdout);
    let shown: Value =
        shown.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&result.stderr)));
    assert_eq!(shown["schema"], "meshctl.why/1");
    (result.status.code(), shown["data"].clone())
}

/// Waits until this is the first broken step; gives what was said.
fn wait_why(node: &Node, arguments: &[&str], broken: Option<&str>) -> Value {
    let what = format!("why {arguments:?} on {}: {broken:?}", node.name);
    wait_until(&what, PATIENCE, || {
        let (code, data) = why(node, arguments);
        let right = data["broken"].as_str() == broken;
        let wanted = i32::from(broken.is_some());
        match right && code == Some(wanted) {
            true => Ok(data),
            false => Err(format!("exit {code:?}: {data:#}")),
        }
    })
}

/// The sentence of a step.
fn text(data: &Value, step: &str) -> String {
    let steps = data["steps"].as_array().unwrap();
    let found = steps.iter().find(|one| one["name"] == step);
    found.unwrap()["text"].as_str().unwrap().to_owned()
}

fn pair(kinds: [Kind; 2]) -> (World, crate::world::Wire, [Node; 2]) {
    let world = World::new();
    let wire = world.wire();
    let nodes = on_one_wire(&world, &wire, kinds);
    (world, wire, nodes)
}

/// Replaces the lines of a file that begin with this.
fn replace(node: &Node, file: &str, begin: &str, line: &str) {
    let path = node.dir().join(file);
    let old = fs::read_to_string(&path).unwrap();
    let kept = old.lines().filter(|line| !line.starts_with(begin));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    fs::write(path, format!("{kept}{line}\n")).unwrap();
}

const DROP_UDP: &str =
    "table inet why { chain input { type filter hook input priority 0; meta l4proto udp drop; }; }";

#[test]
fn blocked_udp_is_told_apart_by_asking_the_other_end() {
    let (_world, wire, [mut a, mut b]) = pair([Meshd, Meshd]);
    bring_up(&mut a, &mut b);
    let data = wait_why(&a, &["b"], None);
    assert!(text(&data, "udp_probe").contains("answers"), "{data:#}");
    assert!(text(&data, "local_route").contains("dev mesh0"), "{data:#}");
    assert!(
        text(&data, "path_mtu").contains("1440 bytes pass"),
        "{data:#}"
    );
    assert_eq!(data["to_says"]["path"], "udp");
    // By an address of it, and its own name.
    let data = wait_why(&a, &[&b.v4()], None);
    assert_eq!(data["to"], "b");
    assert_eq!(wait_why(&a, &["a"], None)["to"], "a");
    assert_eq!(why(&a, &["c"]).0, Some(4));
    assert_eq!(why(&a, &["10.99.0.1"]).0, Some(4));

    wire.block_udp(&a.host, &b.host);
    let data = wait_why(&a, &["b"], Some("udp_probe"));
    let said = text(&data, "udp_probe");
    assert!(
        said.contains("no reply to") && said.contains("since"),
        "{said}"
    );
    wait_until("b has not heard us for a while", PATIENCE, || {
        let said = text(&why(&a, &["b"]).1, "udp_probe");
        said.contains("b says: our packets do not arrive")
            .then_some(())
            .ok_or(said)
    });
    wire.unblock_udp(&a.host, &b.host);
    wait_why(&a, &["b"], None);

    // What a asks comes to b, and the answers are lost in front of a.
    a.host.nft(DROP_UDP);
    let data = wait_why(&a, &["b"], Some("udp_probe"));
    let said = text(&data, "udp_probe");
    assert!(said.contains("b says: our probes arrive"), "{said}");
    let said = text(&data, "firewall");
    assert!(
        said.contains("udp from 10.77.1.") && said.contains("of inet why input"),
        "{said}"
    );
    assert_eq!(data["to_says"]["up"], true);
}

#[test]
fn a_tincd_is_not_asked_and_lives_on() {
    let (_world, wire, [mut a, mut b]) = pair([Meshd, Tinc11]);
    bring_up(&mut a, &mut b);
    let data = wait_why(&a, &["b"], None);
    assert_eq!(data["to_says"], Value::Null);
    wire.block_udp(&a.host, &b.host);
    let data = wait_why(&a, &["b"], Some("udp_probe"));
    let said = text(&data, "udp_probe");
    assert!(said.contains("b does not run a meshd"), "{said}");
    b.assert_runs();
    b.stop();
    let data = wait_why(&a, &["b"], Some("meta_path"));
    assert!(text(&data, "meta_path").contains("down"), "{data:#}");
}

#[test]
fn a_legacy_peer_is_fine_as_it_is() {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, Tinc10]);
    b.without_key();
    a.connect_to(&["b"]);
    b.start();
    a.start();
    wait_ping(&a, &b.v4(), 56);
    wait_ping(&b, &a.v4(), 56);
    a.wait_udp(&b);
    let data = wait_why(&a, &["b"], None);
    assert!(
        text(&data, "key").contains("for legacy, proven on its link"),
        "{data:#}"
    );
    b.assert_runs();
}

#[test]
fn blocked_tcp_and_a_peer_that_is_down_are_told_apart() {
    let (_world, wire, [mut a, mut b]) = pair([Meshd, Meshd]);
    a.connect_to(&["b"]);
    a.start();
    let data = wait_why(&a, &["b"], Some("meta_path"));
    assert!(text(&data, "meta_path").contains("refused"), "{data:#}");
    assert!(
        data["advice"]
            .as_str()
            .unwrap()
            .starts_with("On b: check that"),
        "{data:#}"
    );
    wire.block_tcp(&a.host, &b.host);
    b.start();
    a.meshctl().arg("retry").status().unwrap();
    wait_until("TCP is swallowed", PATIENCE, || {
        let data = wait_why(&a, &["b"], Some("meta_path"));
        let said = text(&data, "meta_path");
        (said.contains("no answer within") || said.contains("timed out"))
            .then_some(())
            .ok_or(said)
    });
    wire.unblock_tcp(&a.host, &b.host);
    a.meshctl().arg("retry").status().unwrap();
    wait_why(&a, &["b"], None);
}

/// a has another key of b than b has.
fn wrong_key(kind: Kind) {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, kind]);
    let key = fs::read_to_string(a.dir().join("hosts/a")).unwrap();
    let key = key
        .lines()
        .find(|line| line.starts_with("Ed25519PublicKey"));
    replace(&a, "hosts/b", "Ed25519PublicKey", key.unwrap());
    a.connect_to(&["b"]);
    b.start();
    a.start();
    let data = wait_why(&a, &["b"], Some("key"));
    assert!(
        text(&data, "key").contains("it lacks the key of hosts/b"),
        "{data:#}"
    );
    if kind == Meshd {
        let data = wait_why(&b, &["a"], Some("key"));
        assert!(
            text(&data, "key").contains("connected as a without the key"),
            "{data:#}"
        );
    }
    b.assert_runs();
}

#[test]
fn a_wrong_key_is_seen_at_both_ends() {
    wrong_key(Meshd);
}

#[test]
fn a_wrong_key_of_a_tincd_is_seen() {
    wrong_key(Tinc11);
}

#[test]
fn mistakes_in_files_are_named_by_the_file() {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, Tinc11]);
    a.connect_to(&["b"]);
    let whole = fs::read_to_string(a.dir().join("hosts/b")).unwrap();
    replace(&a, "hosts/b", "Address", "");
    b.start();
    a.start();
    let data = wait_why(&a, &["b"], Some("endpoint"));
    assert!(
        text(&data, "endpoint").contains("no Address in hosts/b"),
        "{data:#}"
    );
    // The same from the files alone.
    let mut offline = a.host.command(env!("CARGO_BIN_EXE_meshctl"));
    let offline = offline
        .arg("-c")
        .arg(a.dir())
        .args(["why", "b", "--json"])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert!(text(&shown["data"], "endpoint").contains("no Address in hosts/b"));
    assert_eq!(offline.status.code(), Some(0));

    fs::write(a.dir().join("hosts/b"), &whole).unwrap();
    a.meshctl().arg("reload").status().unwrap();
    a.meshctl().arg("retry").status().unwrap();
    wait_ping(&a, &b.v4(), 56);
    wait_why(&a, &["b"], None);
    fs::write(a.dir().join("hosts/b"), "Ed25519PublicKey = nonsense\n").unwrap();
    let data = wait_why(&a, &["b"], Some("key"));
    assert!(text(&data, "key").starts_with("hosts/b:1: "), "{data:#}");
    fs::write(a.dir().join("hosts/b"), &whole).unwrap();
    fs::remove_file(a.dir().join("hosts/b")).unwrap();
    wait_why(&a, &["b"], Some("key"));
}

#[test]
fn a_subnet_that_is_not_listed_and_a_route_that_is_missing_are_named() {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, Tinc11]);
    a.tinc(&["set", "StrictSubnets", "yes"]);
    b.tinc(&["add", "Subnet", "10.99.0.0/24"]);
    bring_up(&mut a, &mut b);
    let data = wait_why(&a, &["10.99.0.1"], Some("trust"));
    assert!(
        text(&data, "trust").contains("b announces 10.99.0.0/24"),
        "{data:#}"
    );
    assert!(
        data["advice"]
            .as_str()
            .unwrap()
            .contains("`Subnet = 10.99.0.0/24` into hosts/b"),
        "{data:#}"
    );
    a.tinc(&["add", "b.Subnet", "10.99.0.0/24"]);
    a.meshctl().arg("reload").status().unwrap();
    let data = wait_why(&a, &["10.99.0.1"], Some("local_route"));
    assert!(text(&data, "local_route").contains("10.99.0.1"), "{data:#}");
    a.host.ip("route add 10.99.0.0/24 dev mesh0");
    wait_why(&a, &["10.99.0.1"], None);
    a.host.ip("route replace 10.99.0.0/24 dev lo");
    let data = wait_why(&a, &["10.99.0.1"], Some("local_route"));
    assert!(
        text(&data, "local_route").contains("out of lo, not mesh0"),
        "{data:#}"
    );
}

#[test]
fn a_hole_that_swallows_all_but_short_packets_is_found() {
    let (_world, wire, [mut a, mut b]) = pair([Meshd, Meshd]);
    wire.swallow_udp_longer_than(400);
    bring_up(&mut a, &mut b);
    let data = wait_why(&a, &["b"], Some("path_mtu"));
    assert!(
        text(&data, "path_mtu").contains("not even packets of 512 bytes"),
        "{data:#}"
    );
}

/// a and b see each other through c only.
#[test]
fn two_ends_of_a_relay_are_asked_from_the_middle_and_from_one_end() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, [Meshd, Meshd, Meshd]);
    nodes[0].connect_to(&["c"]);
    nodes[1].connect_to(&["c"]);
    wire.block_udp(&nodes[0].host, &nodes[1].host);
    nodes.iter_mut().for_each(Node::start);
    let [a, b, c] = &nodes;
    wait_ping(a, &b.v4(), 56);
    let data = wait_why(a, &["b"], Some("udp_probe"));
    assert_eq!(data["sight"]["pair"]["via"], "c");
    assert_eq!(data["to_says"]["via"], "c");
    let traced = a.json_of(&["trace", &b.v4()]);
    let hops = traced["data"]["hops"].as_array().unwrap();
    let names: Vec<_> = hops
        .iter()
        .map(|hop| hop["node"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "c", "b"], "{traced:#}");
    assert_eq!(hops[2]["kind"], "udp", "as c says: {traced:#}");
    assert!(
        hops[1]["rtt_seconds"].is_f64() && hops[2]["rtt_seconds"].is_f64(),
        "{traced:#}"
    );
    assert_eq!(hops[2]["role"], format!("owner of {}", b.v4()));
    wait_until("c asks both", PATIENCE, || {
        // Discovery needs traffic.
        wait_ping(a, &b.v4(), 56);
        let (code, data) = why(c, &["a", "b"]);
        let right = code == Some(1) && data["broken"] == "udp_probe";
        let both = data["from_says"]["via"] == "c" && data["to_says"]["via"] == "c";
        (right && both)
            .then_some(())
            .ok_or_else(|| data.to_string())
    });
}

/// The names of the steps, in order.
fn steps(data: &Value) -> Vec<&str> {
    let steps = data["steps"].as_array().unwrap().iter();
    steps.map(|one| one["name"].as_str().unwrap()).collect()
}

const TEN: [&str; 10] = [
    "resolve",
    "key",
    "trust",
    "meta_path",
    "endpoint",
    "udp_probe",
    "path_mtu",
    "subnet_owner",
    "local_route",
    "firewall",
];

/// UDP of b is dropped by a, not the other way round: c has it from what both say, a and b too.
#[test]
fn a_firewall_that_drops_one_direction_is_found_by_a_third_and_by_both_ends() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, [Meshd, Meshd, Meshd]);
    nodes[0].connect_to(&["c"]);
    nodes[1].connect_to(&["c"]);
    nodes.iter_mut().for_each(Node::start);
    let [a, b, c] = &nodes;
    wait_ping(a, &b.v4(), 56);
    let data = wait_until("both are fine", PATIENCE, || {
        wait_ping(a, &b.v4(), 56);
        let (code, data) = why(c, &["a", "b"]);
        // A busy machine may answer too late, and each end knows no more than it has probed.
        let known = text(&data, "path_mtu").contains("bytes pass")
            && !text(&data, "key").contains("not known")
            && text(&data, "firewall").contains("probes of b arrive");
        match code == Some(0) && known {
            true => Ok(data),
            false => Err(data.to_string()),
        }
    });
    assert_eq!(steps(&data), TEN);
    assert!(
        text(&data, "key").contains("a: hosts/b, ed25519"),
        "{data:#}"
    );
    assert!(
        text(&data, "key").contains("b: hosts/a, ed25519"),
        "{data:#}"
    );
    assert!(text(&data, "meta_path").contains("a: a -> c"), "{data:#}");
    // An end that is ours looks at its own kernel and rules.
    let (code, data) = why(a, &["b", "a"]);
    assert_eq!((code, steps(&data)), (Some(0), TEN.to_vec()), "{data:#}");
    assert_eq!((&data["from"], &data["to"]), (&"b".into(), &"a".into()));
    assert!(text(&data, "local_route").contains("; a: "), "{data:#}");

    a.host.nft(&format!(
        "table inet why {{ chain input {{ type filter hook input priority 0; ip saddr {} meta l4proto udp drop; }}; }}",
        b.host.v4()[0]
    ));
    let lost = |node: &Node, ends: &[&str]| {
        wait_until(&format!("{} finds it", node.name), PATIENCE, || {
            let _ = a
                .host
                .command("ping")
                .args(["-c1", "-W1", &b.v4()])
                .output();
            let (code, data) = why(node, ends);
            let said = text(&data, "udp_probe");
            let right = code == Some(1) && data["broken"] == "udp_probe";
            match right && said.contains("b says: our probes arrive") {
                true => Ok(data),
                false => Err(data.to_string()),
            }
        })
    };
    let data = lost(c, &["a", "b"]);
    let advice = data["advice"].as_str().unwrap();
    assert!(
        advice.starts_with("On a: Our probes arrive, so their answers are lost"),
        "{data:#}"
    );
    let data = lost(a, &["a", "b"]);
    assert!(
        text(&data, "firewall").contains("of inet why input"),
        "{data:#}"
    );
    lost(a, &["b"]);
}

/// `why` finds from here that the other end does not believe a subnet.
#[test]
fn what_the_other_end_refuses_is_named_here() {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, Meshd]);
    b.tinc(&["set", "StrictSubnets", "yes"]);
    a.tinc(&["add", "Subnet", "10.99.0.0/24"]);
    bring_up(&mut a, &mut b);
    let data = wait_why(&a, &["b"], Some("trust"));
    assert!(
        text(&data, "trust").starts_with("b says: a announces 10.99.0.0/24, which is refused"),
        "{data:#}"
    );
    assert!(
        data["advice"].as_str().unwrap().starts_with("On b: "),
        "{data:#}"
    );
}

/// A tinc 1.1 cannot be asked: `why` takes its facts from the graph and the other end, or reports them as unknown.
#[test]
fn a_tincd_at_one_end_leaves_steps_unknown_and_no_step_out() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = on_one_wire(&world, &wire, [Meshd, Tinc11, Meshd]);
    nodes[0].connect_to(&["b", "c"]);
    nodes.iter_mut().for_each(Node::start);
    let [a, b, c] = &nodes;
    wait_ping(a, &b.v4(), 56);
    a.wait_udp(b);
    let data = wait_why(c, &["a", "b"], None);
    assert_eq!(steps(&data), TEN);
    assert!(
        text(&data, "key").ends_with("b: proven by the link that it has with a"),
        "{data:#}"
    );
    assert!(text(&data, "meta_path").contains("b: b -> a"), "{data:#}");
    for step in ["trust", "udp_probe", "path_mtu", "local_route", "firewall"] {
        let said = text(&data, step);
        assert!(
            said.contains("b: not known from here: b runs tinc"),
            "{data:#}"
        );
    }
    assert_eq!(data["to_says"], Value::Null);
    wire.block_udp(&a.host, &b.host);
    let data = wait_why(c, &["a", "b"], Some("udp_probe"));
    let said = text(&data, "udp_probe");
    assert!(
        said.contains("b does not run a meshd with native"),
        "{said}"
    );
    nodes[1].assert_runs();
    nodes[1].stop();
    wait_why(&nodes[2], &["a", "b"], Some("meta_path"));
}

#[test]
fn rules_that_are_printed_let_the_peers_in_and_others_are_found_to_close() {
    let (_world, _wire, [mut a, mut b]) = pair([Meshd, Tinc11]);
    bring_up(&mut a, &mut b);
    let rules = crate::world::run(a.meshctl().arg("firewall"));
    assert!(rules.contains("iifname \"eth1\""), "{rules}");
    let checked = a.host.command("nft").args(["-c", &rules]).status().unwrap();
    assert!(checked.success());
    let verify = |node: &Node| {
        node.meshctl()
            .args(["firewall", "--verify"])
            .status()
            .unwrap()
            .code()
    };
    // Twice: it replaces itself.
    for _ in 0..2 {
        a.host.nft(&rules);
    }
    assert_eq!(verify(&a), Some(0));
    let data = wait_why(&a, &["b"], None);
    assert!(
        text(&data, "firewall").contains("are open here"),
        "{data:#}"
    );
    b.stop();
    b.start();
    wait_ping(&a, &b.v4(), 56);
    a.host.nft(
        "table inet other { chain input { type filter hook input priority 1; policy drop; }; }",
    );
    assert_eq!(verify(&a), Some(1));
}
