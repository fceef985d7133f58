//! Host files that can be used but for a line or a key: what is lost, at a start and at a reload alike.

use std::fs;

use meshd::{
    config::{self, Config, Problem},
    crypto::rsa::RsaPublic,
    mesh::settings::{Host, MinProtocol},
};

use crate::{Tree, host, key, make_private, nodes};

/// Lines that cannot be read, and part of what is said.
const BAD: &[(&str, &str)] = &[
    ("Address = http://10.0.0.9", "cannot be part of an address"),
    ("Address = \"10.0.0.9\"", "cannot be part of an address"),
    ("Address = 10.0.0.9 # office", "is not a port"),
    ("Address = 10.0.0.9 70000", "is not a port"),
    ("Port = 655 # x", "is not a port"),
    ("Port = abc", "is not a port"),
    ("Subnet = 10.1.2.3/24", "host bits"),
    ("Subnet = 10.9.0.0/16 # lan", "10.9.0.0/16 # lan"),
    ("Subnet = nonsense", "nonsense"),
    ("Label = x y", "is not a label"),
    ("Allow = everything", "is not a rule"),
    ("Proxy = exec reboot", "may start programs"),
    ("PresharedKeyFile = x", "names a secret"),
];

fn rsa(half: &str) -> String {
    let text = include_str!("../vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    vectors["rsa_keys"]["beta"][half]
        .as_str()
        .unwrap()
        .to_owned()
}

fn of_a(config: &Config) -> &Host {
    &config.settings.hosts[&"a".parse().unwrap()]
}

fn said(problems: &[Problem], error: bool) -> Vec<String> {
    let problems = problems.iter().filter(|problem| problem.error == error);
    problems.map(ToString::to_string).collect()
}

fn reload(tree: &Tree, before: &Config) -> Config {
    config::load(&tree.source(), Some(before)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// A key change beside a bad line counts, before and behind it.
#[test]
fn a_bad_line_costs_itself_at_a_start_and_at_a_reload() {
    for (line, text) in BAD {
        for first in [false, true] {
            let tree = Tree::of_three();
            let before = tree.clean();
            let good = host(1).replace(&key(1).public().to_string(), &key(7).public().to_string());
            let good = good + "Subnet = 10.77.0.0/16\n";
            tree.write(
                "hosts/a",
                &match first {
                    true => format!("{line}\n{good}"),
                    false => format!("{good}{line}\n"),
                },
            );
            let [started, reloaded] = [tree.load().unwrap(), reload(&tree, &before)];
            assert_eq!(of_a(&reloaded).key, Some(key(7).public()), "{line}");
            assert_eq!(of_a(&reloaded).subnets.len(), 2, "{line}");
            assert_eq!(of_a(&reloaded).addresses.len(), 1, "{line}");
            assert!(of_a(&started) == of_a(&reloaded), "{line}");
            assert_eq!(started.problems, reloaded.problems, "{line}");
            let errors = said(&reloaded.problems, true);
            assert!(
                errors.len() == 1 && errors[0].contains(text),
                "{line}: {errors:?}"
            );
            assert!(errors[0].starts_with("hosts/a:"), "{line}: {errors:?}");
            assert!(reloaded.not_taken.is_empty(), "{line}");
        }
    }
}

/// Wherever the writing of a file has come to: a reload takes away neither key nor subnets, unless the cut is between
/// two lines, where nobody can see it; and then not the key.
#[test]
fn a_file_that_is_being_written_takes_nothing_away() {
    let subnets = "Subnet = 10.1.0.0/16\nSubnet = 10.10.10.10/32\nSubnet = fd00:1::/64#5\n";
    let line = format!("Ed25519PublicKey = {}\n", key(1).public());
    let block = rsa("public_pem");
    for whole in [
        format!("{line}{subnets}{block}"),
        format!("{block}{subnets}{line}"),
        format!("{subnets}{block}{line}"),
        format!("{line}{block}{subnets}"),
        format!("{line}Port = 7000\n{subnets}"),
    ] {
        let tree = Tree::of_three();
        tree.write("hosts/a", &whole);
        let before = tree.clean();
        for cut in (0..whole.len()).step_by(2) {
            tree.write("hosts/a", &whole[..cut]);
            let after = reload(&tree, &before);
            let (old, new) = (of_a(&before), of_a(&after));
            let seen = whole[..cut].ends_with('\n') || whole[cut..].starts_with('\n');
            let shown = &whole[..cut];
            assert!(
                new.key == old.key || seen && new.rsa == old.rsa && !shown.contains("Ed25519"),
                "{shown}"
            );
            assert!(new.key.is_some() || new.rsa.is_some(), "{shown}");
            assert!(seen || new.subnets == old.subnets, "{shown}");
            let kept = after.not_taken == ["hosts/a".into()].map(|path: std::path::PathBuf| path);
            assert!(
                kept != said(&after.problems, true).is_empty(),
                "{shown}: {:#?}",
                after.problems
            );
        }
    }
}

#[test]
fn what_a_reload_has_not_taken_is_told() {
    let tree = Tree::of_three();
    let before = tree.clean();
    tree.write("hosts/a", "Subnet = 10.1.0.0/16\n");
    tree.write("hosts/c", "Ed25519PublicKey = AbC\n");
    let after = reload(&tree, &before);
    assert_eq!(nodes(&after), ["a", "b"]);
    assert!(of_a(&after) == of_a(&before));
    let not_taken: Vec<_> = after
        .not_taken
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    assert_eq!(not_taken, ["hosts/a", "hosts/c"]);
    assert!(
        said(&after.problems, true)[0].starts_with("hosts/a: the file has lost its public key")
    );
    // A start knows of no key that it has lost.
    assert!(of_a(&tree.load().unwrap()).key.is_none());
}

/// The files of a node with both keys, ours with RSA and, if that is asked for, Ed25519.
fn both(sptps: bool) -> Tree {
    let tree = Tree::of_three();
    tree.write("rsa_key.priv", &rsa("private_pem"));
    make_private(&tree.at("rsa_key.priv"));
    if !sptps {
        fs::remove_file(tree.at("ed25519_key.priv")).unwrap();
        tree.write("hosts/me", &rsa("public_pem"));
    }
    tree
}

/// Both tincs link by RSA. We do too, and say so: never without a word, and never at a reload.
#[test]
fn a_damaged_ed25519_key_leaves_the_rsa_key() {
    let damaged = format!(
        "Ed25519PublicKey = AbC\nSubnet = 10.1.0.0/16\n{}",
        rsa("public_pem")
    );
    for (sptps, text) in [
        (
            false,
            "the line is ignored, because this node speaks only legacy",
        ),
        (true, "only its RSA key is used, so its links use legacy"),
    ] {
        let tree = both(sptps);
        tree.write("hosts/a", &damaged);
        let config = tree.load().unwrap();
        let host = of_a(&config);
        assert_eq!(
            host.rsa,
            Some(RsaPublic::from_pem(&rsa("public_pem")).unwrap())
        );
        assert!(host.key.is_none() && host.bad_key.is_some());
        let name = "a".parse().unwrap();
        assert_eq!(config.settings.min_protocol_of(&name), MinProtocol::Legacy);
        assert!(config.settings.credentials(host).unwrap().legacy);
        let told = said(&config.problems, sptps);
        assert!(
            told.iter()
                .any(|line| line.starts_with("hosts/a:1: ") && line.contains(text)),
            "{told:?}"
        );
        assert!(config.not_taken.is_empty());

        // MinProtocol has the last word.
        tree.write("hosts/a", &format!("MinProtocol = sptps\n{damaged}"));
        let config = tree.load().unwrap();
        assert!(!config.settings.allows_legacy(&name));
    }
    let tree = Tree::of_three();
    tree.write("hosts/a", &damaged);
    let config = tree.load().unwrap();
    assert!(config.settings.credentials(of_a(&config)).is_none());
    assert!(
        said(&config.problems, true)[0]
            .contains("this node has no RSA key, so no link is possible")
    );

    let tree = both(true);
    tree.write("hosts/a", &(host(1) + &rsa("public_pem")));
    let before = tree.load().unwrap();
    tree.write("hosts/a", &damaged);
    let after = reload(&tree, &before);
    assert!(of_a(&after) == of_a(&before), "no downgrade while it runs");
    assert_eq!(after.not_taken.len(), 1);
}

/// tinc 1.1 links with a node whose good key is followed by a block without an end.
#[test]
fn a_block_without_an_end_leaves_the_key_before_it() {
    let open = "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n";
    let tree = Tree::of_three();
    let before = tree.clean();
    tree.write("hosts/a", &(host(1) + open));
    let config = tree.load().unwrap();
    assert!(of_a(&config) == of_a(&before));
    assert!(said(&config.problems, true)[0].starts_with("hosts/a:4: this -----BEGIN line has no"));
    // It may just be written.
    assert_eq!(reload(&tree, &before).not_taken.len(), 1);
    // What it swallows might be a restriction.
    for line in [
        "Revoked = 2020-01-01T00:00:00Z\n",
        "minprotocol=native\n",
        "Subnet = 10.7.0.0/16\n",
    ] {
        tree.write("hosts/a", &(host(1) + open + line));
        assert_eq!(nodes(&tree.load().unwrap()), ["b"], "{line}");
    }
}

#[test]
fn a_private_key_in_a_host_file_must_be_replaced() {
    let block = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for block in [
        block.to_owned(),
        block.replace("RSA", "ED25519"),
        block.replace("RSA ", ""),
        block.lines().map(|line| format!("#{line}\n")).collect(),
    ] {
        for file in ["a", "me"] {
            let tree = Tree::of_three();
            let text = fs::read_to_string(tree.at(&format!("hosts/{file}"))).unwrap();
            let line = text.lines().count() + 1;
            tree.write(&format!("hosts/{file}"), &(text + &block));
            let config = tree.load().unwrap();
            assert_eq!(nodes(&config), ["a", "b"]);
            let said = said(&config.problems, false);
            let start = format!("hosts/{file}:{line}: the file holds a private key");
            assert!(
                said.len() == 1 && said[0].starts_with(&start),
                "{block}: {said:?}"
            );
            assert!(said[0].contains("holds a private key"), "{said:?}");
        }
    }
}
