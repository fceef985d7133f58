//! Hooks and their environment: a script that writes down what it got, run by meshd and by tincd.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, on_one_wire,
    },
    world::{World, wait_until},
};

const HOOKS: [&str; 9] = [
    "host-up",
    "host-down",
    "hosts/b-up",
    "hosts/b-down",
    "subnet-up",
    "subnet-down",
    "tinc-down",
    "hosts/c-up",
    "hosts/c-down",
];

/// Variables that the daemons set; what else is there came from outside.
const VARIABLES: &str = "NETNAME|NAME|DEVICE|INTERFACE|NODE|REMOTEADDRESS|REMOTEPORT|SUBNET|WEIGHT";

/// Every hook that a daemon of this kind ran on `a`, with its environment, through the whole life
/// of a mesh a–b–c: sorted, as "hook VARIABLE=value …".
fn record(kind: Kind) -> Vec<String> {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [kind, Tinc11, Tinc11]);
    b.tinc(&["add", "Subnet", "10.40.0.0/16#3"]);
    b.tinc(&["add", "Subnet", "fd40::/48"]);
    b.introduce_to(&[&a, &c]);
    let record = world.dir().join("record");
    for hook in HOOKS {
        write_recorder(&a, hook, &record.display().to_string());
    }
    let tinc_up = fs::read_to_string(a.dir().join("tinc-up")).unwrap();
    write_recorder(&a, "tinc-up", &record.display().to_string());
    let recorder = fs::read_to_string(a.dir().join("tinc-up")).unwrap();
    fs::write(
        a.dir().join("tinc-up"),
        format!("{recorder}{}", tinc_up.trim_start_matches("#!/bin/sh\n")),
    )
    .unwrap();
    a.connect_to(&["b"]);
    c.connect_to(&["b"]);
    b.start();
    a.start();
    c.start();
    a.wait_reaches(&b);
    a.wait_reaches(&c);
    let lines = || fs::read_to_string(&record).unwrap_or_default();
    wait_until("all subnets are up", Duration::from_secs(20), || {
        // Two of its own, four of b, two of c.
        let count = lines()
            .lines()
            .filter(|line| line.starts_with("subnet-up "))
            .count();
        if count == 8 { Ok(()) } else { Err(lines()) }
    });
    c.stop();
    a.wait_loses(&c);
    wait_until("the hooks of c going ran", Duration::from_secs(20), || {
        let text = lines();
        if text.contains("hosts/c-down ") && text.matches("subnet-down ").count() == 2 {
            Ok(())
        } else {
            Err(text)
        }
    });
    a.stop();
    thread::sleep(Duration::from_millis(200));
    let mut all: Vec<String> = lines().lines().map(str::to_owned).collect();
    all.sort();
    all
}

fn write_recorder(node: &Node, hook: &str, record: &str) {
    node.write_script(
        hook,
        // One write a run, so that hooks that run side by side do not mix.
        &format!(
            "echo {hook} $(env | grep -E '^({VARIABLES})=' | sort) $(pwd | sed 's#.*/#in #') args=$# >> {record}\n"
        ),
    );
}

#[test]
fn meshd_runs_the_hooks_that_tincd_runs() {
    let (meshd, tincd) = (record(Meshd), record(Tinc11));
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
        (meshd.iter().collect(), tincd.iter().collect());
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&theirs).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "only tincd: {missing:#?}\nonly meshd: {extra:#?}"
    );
    assert_eq!(meshd, tincd, "the same hooks, but not as often");
}

#[test]
#[ignore = "control: tinc alone"]
fn control_hooks() {
    let (first, second) = (record(Tinc11), record(Tinc11));
    eprintln!("{first:#?}");
    assert_eq!(first, second);
}
