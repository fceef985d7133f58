//! Validity periods and labels of a node, in both forms.

use std::time::Duration;

use meshd::{config::diff, mesh::settings::Host, os::clock};

use crate::{Tree, host, key, nodes};

const WORDS: [(&str, &str); 8] = [
    (
        "Expires = 2100-06-01T00:00:00Z",
        "expires = 2100-06-01T00:00:00Z",
    ),
    (
        "Revoked = 2026-11-20T09:00:00Z",
        "revoked = { since = 2026-11-20T09:00:00Z, reason = \"sold\" }",
    ),
    ("RevokedReason = sold", ""),
    ("Label = role=mysql", "[labels]\nrole = \"mysql\""),
    ("Label = dc=ams 2", "dc = \"ams 2\""),
    (
        "Allow = role=web tcp/3306",
        "[[allow]]\nfrom = \"role=web\"\nto = \"tcp/3306\"",
    ),
    (
        "Ed25519PublicKeyNextFrom = 2100-12-01T00:00:00Z",
        "[next]\nfrom = 2100-12-01T00:00:00Z",
    ),
    ("Ed25519PublicKeyNext = KEY", "ed25519 = \"KEY\""),
];

#[test]
fn both_forms_say_the_same() {
    let text = |form: fn(&(&'static str, &'static str)) -> &'static str| {
        let lines: Vec<_> = WORDS.iter().map(form).collect();
        lines
            .join("\n")
            .replace("KEY", &key(7).public().to_string())
    };
    let tree = Tree::of_three();
    tree.write(
        "hosts/b",
        &format!(
            "Ed25519PublicKey = {}\n{}\n",
            key(2).public(),
            text(|words| words.0)
        ),
    );
    let tincs = tree.clean();
    std::fs::remove_file(tree.at("hosts/b")).unwrap();
    tree.write(
        "hosts/b.toml",
        &format!(
            "ed25519 = \"{}\"\n{}\n",
            key(2).public(),
            text(|words| words.1)
        ),
    );
    let toml = tree.clean();
    assert_eq!(diff::diff(&tincs, &toml), []);
    let b: &Host = &toml.settings.hosts[&"b".parse().unwrap()];
    assert_eq!(
        (b.expires, b.revoked, b.next_from),
        (
            Some(4_115_491_200),
            Some(1_795_165_200),
            Some(4_131_302_400)
        )
    );
    assert_eq!(b.revoked_reason.as_deref(), Some("sold"));
    let labels: Vec<_> = b
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(labels, ["dc=ams 2", "role=mysql"]);
    assert_eq!(b.next, Some(key(7).public()));
}

/// A faulty validity line, which would admit a node for too long, invalidates the file; a faulty label only its line.
#[test]
fn bad_words_cost_no_more_than_they_must() {
    for (line, told, kept) in [
        (
            "Expires = soon",
            "hosts/b:4: \"soon\" is not a time in UTC; write it like",
            false,
        ),
        (
            "Expires = 2027-06-01T00:00:00+02:00",
            "is not a time in UTC",
            false,
        ),
        ("Expires = 2027-06-01", "is not a time in UTC", false),
        ("Revoked = yes", "\"yes\" is not a time in UTC", false),
        (
            "Ed25519PublicKeyNextFrom = x",
            "\"x\" is not a time in UTC",
            false,
        ),
        (
            "Label = role",
            "hosts/b:4: \"role\" is not a label; write NAME=VALUE",
            true,
        ),
        ("Label = =x", "is not a label", true),
        ("Label = 1a=x", "is not a label", true),
        ("Label = a b=x", "is not a label", true),
    ] {
        let tree = Tree::of_three();
        tree.write("hosts/b", &format!("{}{line}\n", host(2)));
        let said = tree.said();
        assert!(
            said.iter().any(|said| said.contains(told)),
            "{line}: {said:#?}"
        );
        let left: &[&str] = if kept { &["a", "b"] } else { &["a"] };
        assert_eq!(nodes(&tree.load().unwrap()), left, "{line}");
    }
    for (line, told) in [
        (
            "expires = \"2027-06-01T00:00:00Z\"",
            "hosts/b.toml:2:11: `expires` must be a date with time in UTC",
        ),
        (
            "expires = 2027-06-01",
            "hosts/b.toml:2:11: \"2027-06-01\" is not a time in UTC",
        ),
        (
            "[labels]\nrole = 3",
            "hosts/b.toml:3:8: `labels.NAME` must be text in quotes, not 3",
        ),
        (
            "[revoked]\nwhy = \"x\"",
            "hosts/b.toml:3:1: unknown key `why` in [revoked]",
        ),
        ("labels = \"x\"", "hosts/b.toml:2:1: unknown key `labels`"),
    ] {
        let tree = Tree::of_three();
        std::fs::remove_file(tree.at("hosts/b")).unwrap();
        tree.write(
            "hosts/b.toml",
            &format!("ed25519 = \"{}\"\n{line}\n", key(2).public()),
        );
        let said = tree.said();
        assert!(
            said.iter().any(|said| said.starts_with(told)),
            "{line}: {said:#?}"
        );
    }
}

#[test]
fn warnings_begin_a_month_before() {
    let day = Duration::from_secs(86_400);
    for (days, told) in [
        (
            -1,
            Some("hosts/b:4: this node has expired, so its links are refused"),
        ),
        (2, Some("hosts/b:4: this node expires in 1 days")),
        (29, Some("hosts/b:4: this node expires in 28 days")),
        (31, None),
    ] {
        let now = clock::wall();
        let at = match days {
            ..0 => now - day,
            days => now + day * u32::try_from(days).unwrap() - Duration::from_secs(60),
        };
        let at = humantime::format_rfc3339_seconds(at);
        let tree = Tree::of_three();
        tree.write("hosts/b", &format!("{}Expires = {at}\n", host(2)));
        let said = tree.said();
        let found = said.iter().find(|line| line.contains("expire"));
        assert_eq!(found.is_some(), told.is_some(), "{days}: {said:?}");
        let begins = |told| found.is_some_and(|line| line.starts_with(told));
        assert!(told.is_none_or(begins), "{days}: {said:?}");
        assert_eq!(
            nodes(&tree.load().unwrap()),
            ["a", "b"],
            "the daemon ends it, at its time"
        );
    }
}

/// With another weight one node stands in for the other; a wider or narrower one is another subnet.
#[test]
fn one_subnet_of_two_nodes_is_told() {
    let told = "hosts/b:4: Subnet 10.1.0.0/16 is in hosts/a too; give one of them another weight (#20), or remove it there";
    for (line, expected) in [
        ("Subnet = 10.1.0.0/16", vec![told]),
        ("Subnet = 10.1.0.0/16#20", vec![]),
        ("Subnet = 10.1.2.0/24", vec![]),
        ("Subnet = 10.2.0.0/16", vec![]),
    ] {
        let tree = Tree::of_three();
        tree.write("hosts/b", &format!("{}{line}\n", host(2)));
        let said = tree.said();
        let said: Vec<_> = said
            .iter()
            .filter(|line| line.contains(" is in hosts/"))
            .collect();
        assert_eq!(said, expected, "{line}");
    }
    let tree = Tree::of_three();
    tree.write(
        "hosts/me",
        &format!(
            "Ed25519PublicKey = {}\nSubnet = 10.2.0.0/16\n",
            key(0).public()
        ),
    );
    let said = tree.said();
    assert!(
        said[0].starts_with("hosts/b:2: Subnet 10.2.0.0/16 is in hosts/me too"),
        "{said:?}"
    );
}

/// Nodes without the lines take no more than 1,024 of one node.
#[test]
fn very_many_subnets_of_a_node_are_told() {
    for (count, told) in [(1_024, 0), (1_025, 1), (1_500, 1)] {
        let tree = Tree::of_three();
        let line = |n: usize| format!("Subnet = 172.{}.{}.0/24\n", 16 + n / 256, n % 256);
        let lines: String = (0..count).map(line).collect();
        let key = key(2).public();
        tree.write("hosts/b", &format!("Ed25519PublicKey = {key}\n{lines}"));
        let said = tree.said();
        let said: Vec<_> = said
            .iter()
            .filter(|line| line.contains("beyond 1024"))
            .collect();
        assert_eq!(said.len(), told, "{said:?}");
        let first = format!(
            "hosts/b:1026: this is the first of {}",
            count.max(1_024) - 1_024
        );
        assert!(said.iter().all(|line| line.starts_with(&first)), "{said:?}");
    }
}

#[test]
fn scripts_and_rates_are_chosen() {
    let tree = Tree::of_three();
    let run = |lines: &str| {
        tree.write("tinc.conf", &format!("Name = me\n{lines}"));
        tree.clean().shell.run_scripts.clone()
    };
    assert_eq!(run(""), None);
    assert_eq!(run("RunScripts = none\n"), Some(vec![]));
    assert_eq!(
        run("RunScripts = tinc-up\nRunScripts = subnet-up\n"),
        Some(vec!["tinc-up", "subnet-up"])
    );
    tree.write(
        "tinc.conf",
        "Name = me\nRunScripts = tinc-start\nMetaRate = 199\n",
    );
    let said = tree.said();
    assert!(
        said[0].contains("\"tinc-start\" is not a script; use tinc-up, "),
        "{said:?}"
    );
    assert!(
        said[1].contains("MetaRate must be 200 to 1000000"),
        "{said:?}"
    );
    std::fs::remove_file(tree.at("tinc.conf")).unwrap();
    for (text, expected) in [("[]", vec![]), ("[\"host-up\"]", vec!["host-up"])] {
        tree.write(
            "meshd.toml",
            &format!("name = \"me\"\n[scripts]\nrun = {text}\n[limits]\nmeta_rate = 2000\n"),
        );
        let config = tree.clean();
        assert_eq!(config.shell.run_scripts, Some(expected));
        assert_eq!(config.settings.meta_rate, 2000);
    }
}
