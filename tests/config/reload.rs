//! A reload ends where a start would.

use meshd::{
    api::change::Change,
    config::{
        self,
        diff::{diff, drifted, restart_needed},
    },
};
use proptest::prelude::*;

use crate::{Tree, host};

/// A good tree: lines of tinc.conf and of the host files that are there.
#[derive(Debug, Clone)]
struct Good {
    main: Vec<&'static str>,
    own: Vec<&'static str>,
    hosts: Vec<Option<Vec<&'static str>>>,
}

const MAIN: &[&str] = &[
    "PingInterval = 20",
    "KeyExpire = 60",
    "AutoConnect = no",
    "Forwarding = off",
    "StrictSubnets = yes",
    "Interface = mesh1",
    "ReplayWindow = 64",
    "UDPRcvBuf = 0",
    "ConnectTo = n0",
    "ConnectTo = n1",
    "BroadcastSubnet = 10.255.0.0/16",
    "DecrementTTL = yes",
    "InterfaceAddress = 10.0.0.1/24",
    "LogLevel = 2",
    "Native = no",
];
const HOST: &[&str] = &[
    "Port = 7000",
    "Weight = 5",
    "Subnet = 10.77.0.0/16",
    "Subnet = fd00:77::/64#3",
    "TCPOnly = yes",
    "ClampMSS = no",
    "PMTU = 1300",
    "MinProtocol = sptps",
    "Address = 192.0.2.7",
];

fn good() -> impl Strategy<Value = Good> {
    let some = |lines: &'static [&'static str]| prop::sample::subsequence(lines, 0..lines.len());
    let hosts = prop::collection::vec(prop::option::of(some(HOST)), 3);
    (some(MAIN), some(&HOST[..7]), hosts).prop_map(|(main, own, hosts)| Good { main, own, hosts })
}

fn put(tree: &Tree, good: &Good) {
    tree.write(
        "tinc.conf",
        &format!("Name = me\n{}\n", good.main.join("\n")),
    );
    tree.write("hosts/me", &format!("{}\n", good.own.join("\n")));
    for (n, lines) in (0..).zip(&good.hosts) {
        let path = format!("hosts/n{n}");
        match lines {
            Some(lines) => tree.write(&path, &format!("{}{}\n", host(n + 1), lines.join("\n"))),
            None => drop(std::fs::remove_file(tree.at(&path))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reloading_from_one_good_tree_to_another_is_starting_with_the_other(a in good(), b in good()) {
        let tree = Tree::bare();
        put(&tree, &a);
        let before = tree.load().unwrap();
        put(&tree, &b);
        let reloaded = config::load(&tree.source(), Some(&before)).unwrap();
        let started = tree.load().unwrap();
        let between = diff(&started, &reloaded);
        prop_assert!(between.is_empty(), "{between:?}");
        prop_assert_eq!(&reloaded.problems, &started.problems);

        let there = diff(&before, &reloaded);
        let back = diff(&reloaded, &before);
        prop_assert_eq!(there.is_empty(), back.is_empty());
        prop_assert_eq!(restart_needed(&there), restart_needed(&back));
        let touched = |good: &Good| (good.main.clone(), good.own.clone(), good.hosts.clone());
        if touched(&a) == touched(&b) {
            prop_assert!(diff(&before, &reloaded).is_empty());
        }
    }

    #[test]
    fn no_bytes_in_any_file_stop_the_reader(
        main in prop::collection::vec(any::<u8>(), 0..200),
        own in "([A-Za-z0-9]{0,20}[ =]{0,3}[ -~]{0,30}\n){0,6}",
        other in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let tree = Tree::of_three();
        std::fs::write(tree.at("hosts/a"), &other).unwrap();
        tree.write("hosts/me", &own);
        let _ = tree.load();
        std::fs::write(tree.at("tinc.conf"), [b"Name = me\n", &main[..]].concat()).unwrap();
        let _ = tree.load();
        std::fs::write(tree.at("conf.d/x.conf"), &other).unwrap();
        let _ = tree.load();
    }
}

/// The metric `meshd_config_drift_files`.
#[test]
fn files_that_are_not_in_force_are_counted() {
    let tree = Tree::of_three();
    let running = tree.clean();
    let drifted = || drifted(&running, &config::load(&tree.source(), Some(&running)));
    assert_eq!(drifted(), 0);
    tree.write("hosts/b", &format!("# moved\n{}", host(2)));
    assert_eq!(drifted(), 0, "a comment");
    tree.write(
        "hosts/b",
        &format!("{}Weight = 3\nTCPOnly = yes\n", host(2)),
    );
    assert_eq!(drifted(), 1);
    tree.write("hosts/a", "torn");
    tree.write("hosts/c", &host(3));
    assert_eq!(drifted(), 3);
    tree.write("tinc.conf", "Name = me\nKeyExpire = 60\nPort = 7\n");
    assert_eq!(drifted(), 4);
    tree.write("tinc.conf", "Name = me\nMode = bridge\n");
    assert_eq!(
        drifted(),
        2,
        "what can still be told: tinc.conf and hosts/a"
    );
}

#[test]
fn a_diff_names_what_changed_and_what_waits_for_a_restart() {
    let tree = Tree::of_three();
    let before = tree.clean();
    tree.write(
        "tinc.conf",
        "Name = me\nInterface = mesh1\nPort = 7\nKeyExpire = 60\nConnectTo = a\n",
    );
    tree.write("hosts/b", &host(2).replace("10.2.0.0", "10.3.0.0"));
    tree.write("hosts/c", &host(3));
    std::fs::remove_file(tree.at("hosts/a")).unwrap();
    let after = config::load(&tree.source(), Some(&before)).unwrap();
    let changes = diff(&before, &after);
    assert_eq!(restart_needed(&changes), ["Interface", "Port"]);
    let lines: Vec<String> = changes.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "Added tinc.conf:2 None -> Some(\"Interface = mesh1\") Restart",
            "Added tinc.conf:3 None -> Some(\"Port = 7\") Restart",
            "Added tinc.conf:5 None -> Some(\"ConnectTo = a\") Now",
            "Added tinc.conf:4 None -> Some(\"KeyExpire = 60\") Now",
            "Removed hosts/a:0 None -> None Now",
            "Changed hosts/b:2 Some(\"Subnet = 10.2.0.0/16\") -> Some(\"Subnet = 10.3.0.0/16\") Now",
            "Added hosts/c:0 None -> None Now",
        ]
    );
}

fn line(change: &Change) -> String {
    let Change {
        kind,
        file,
        line,
        key: _,
        old,
        new,
        when,
    } = change;
    let file = file.as_deref().unwrap_or("-");
    let line = line.unwrap_or(0);
    format!("{kind:?} {file}:{line} {old:?} -> {new:?} {when:?}")
}

/// A changed line is shown as it was and as it is, in both forms; a moved one is no change.
#[test]
fn lines_are_shown_as_they_are_written() {
    let tree = Tree::of_three();
    tree.write(
        "tinc.conf",
        "Name = me\npinginterval=30\nConnectTo = a\nConnectTo = b\nKeyExpire = 60\n",
    );
    let before = tree.clean();
    tree.write(
        "tinc.conf",
        "Name = me\n# now\nPingInterval  20\nConnectTo = b\nConnectTo = a\nKeyExpire = 60\n",
    );
    let after = config::load(&tree.source(), Some(&before)).unwrap();
    let lines: Vec<String> = diff(&before, &after).iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "Order tinc.conf:4 Some(\"ConnectTo = a, ConnectTo = b\") -> Some(\"ConnectTo = b, ConnectTo = a\") Now",
            "Changed tinc.conf:3 Some(\"pinginterval=30\") -> Some(\"PingInterval  20\") Now",
        ]
    );
    let back: Vec<String> = diff(&after, &before).iter().map(line).collect();
    assert_eq!(
        back[1],
        "Changed tinc.conf:2 Some(\"PingInterval  20\") -> Some(\"pinginterval=30\") Now"
    );

    let toml = Tree::bare();
    toml.write(
        "meshd.toml",
        "name = \"me\"\n[liveness]\nping_interval = \"1m\"\n",
    );
    let before = toml.load().unwrap();
    toml.write(
        "meshd.toml",
        "name = \"me\"\n[liveness]\nping_interval = \"30s\"\n[listen]\nport = 7\n",
    );
    let after = config::load(&toml.source(), Some(&before)).unwrap();
    let lines: Vec<String> = diff(&before, &after).iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "Added meshd.toml:5 None -> Some(\"listen.port = 7\") Restart",
            "Changed meshd.toml:3 Some(\"liveness.ping_interval = \\\"1m\\\"\") -> Some(\"liveness.ping_interval = \\\"30s\\\"\") Now",
        ]
    );
}

#[test]
fn comments_order_and_times_are_no_change() {
    let tree = Tree::of_three();
    let before = tree.clean();
    let text = std::fs::read_to_string(tree.at("hosts/a")).unwrap();
    tree.write("hosts/a", &format!("# rewritten by a tool\n\n{text}"));
    tree.write("tinc.conf", "# x\nName = me\n");
    let after = config::load(&tree.source(), Some(&before)).unwrap();
    assert!(diff(&before, &after).is_empty());
}
