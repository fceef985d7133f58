//! The variables of the legacy protocol: RSA keys in every form, ciphers and digests, what a tinc 1.0's directory means.

use meshd::{
    crypto::rsa::{RsaPrivate, RsaPublic},
    link::Upgrade,
    mesh::settings::MinProtocol,
    wire::NodeName,
};

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{Tree, host};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn pem(node: &str, half: &str) -> String {
    let text = include_str!("../vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    vectors["rsa_keys"][node][half].as_str().unwrap().to_owned()
}

fn public(node: &str) -> RsaPublic {
    RsaPublic::from_pem(&pem(node, "public_pem")).unwrap()
}

fn secret(tree: &Tree, path: &str, content: &str) {
    tree.write(path, content);
    fs::set_permissions(tree.at(path), fs::Permissions::from_mode(0o600)).unwrap();
}

/// We have both kinds of keys; a has both, b only RSA.
fn tree() -> Tree {
    let tree = Tree::of_three();
    secret(&tree, "rsa_key.priv", &pem("alpha", "private_pem"));
    tree.write("hosts/a", &(host(1) + &pem("beta", "public_pem")));
    tree.write(
        "hosts/b",
        &format!("Subnet = 10.0.0.2\n{}", pem("beta", "public_pem")),
    );
    tree
}

#[test]
fn nodes_with_an_rsa_key_only_are_spoken_to_in_legacy() {
    let settings = tree().clean().settings;
    let ours = RsaPrivate::from_pem(&pem("alpha", "private_pem")).unwrap();
    assert_eq!(settings.rsa.as_ref().unwrap().public(), ours.public());
    assert!(settings.sptps);
    for (node, min) in [("a", MinProtocol::Sptps), ("b", MinProtocol::Legacy)] {
        assert_eq!(settings.min_protocol_of(&name(node)), min, "{node}");
        let credentials = settings.credentials(&settings.hosts[&name(node)]).unwrap();
        assert_eq!(credentials.legacy, min == MinProtocol::Legacy);
        // RSA keys are also for telling each other Ed25519 keys.
        assert!(credentials.rsa.is_some() && credentials.upgrade == Upgrade::Possible);
    }
    assert_eq!(settings.hosts[&name("b")].rsa, Some(public("beta")));
    // tinc 1.0 knows most nodes by hearsay: behind a legacy neighbour only.
    let unknown = name("unknown");
    assert!(!settings.allows_legacy(&unknown) && settings.allows_hearsay(&unknown));
    assert!(!settings.allows_hearsay(&name("a")));
}

#[test]
fn min_protocol_has_the_last_word() {
    for (ours, theirs, legacy) in [
        ("", "MinProtocol = legacy\n", true),
        ("MinProtocol = legacy\n", "", true),
        ("MinProtocol = legacy\n", "MinProtocol = sptps\n", false),
        ("", "", false),
    ] {
        let tree = tree();
        tree.write("tinc.conf", &format!("Name = me\n{ours}"));
        tree.write("hosts/a", &(host(1) + &pem("beta", "public_pem") + theirs));
        let settings = tree.clean().settings;
        assert_eq!(settings.allows_legacy(&name("a")), legacy, "{ours}{theirs}");
    }
    let tree = tree();
    tree.write("tinc.conf", "Name = me\nMinProtocol = sptps\n");
    let settings = tree.clean().settings;
    assert!(!settings.allows_legacy(&name("b")) && !settings.allows_hearsay(&name("unknown")));
    assert!(settings.credentials(&settings.hosts[&name("b")]).is_none());
}

/// Without an RSA key of ours nothing changes for anybody.
#[test]
fn without_our_rsa_key_there_is_no_legacy() {
    let tree = tree();
    fs::remove_file(tree.at("rsa_key.priv")).unwrap();
    let settings = tree.clean().settings;
    assert!(settings.rsa.is_none());
    assert!(!settings.allows_legacy(&name("b")) && !settings.allows_hearsay(&name("unknown")));
}

/// The directory of a tinc 1.0, as it is.
#[test]
fn a_directory_of_tinc_1_0_is_taken_over() {
    let tree = tree();
    fs::remove_file(tree.at("ed25519_key.priv")).unwrap();
    tree.write(
        "hosts/me",
        &format!("Subnet = 10.0.0.9\n{}", pem("alpha", "public_pem")),
    );
    let config = tree.load().unwrap();
    assert!(!config.settings.sptps && !config.settings.native);
    assert_eq!(config.settings.options.minor(), 0);
    let said: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with(
        "ed25519_key.priv: no such file, so this node speaks only the legacy protocol"
    ));
    assert!(config.settings.allows_legacy(&name("a")));
    // The stand-in is the same at every reload, and it is not the key of anybody.
    let again = tree.load().unwrap().settings.key.public();
    assert_eq!(config.settings.key.public(), again);
}

#[test]
fn keys_in_files_and_as_numbers() {
    let tree = tree();
    secret(&tree, "my.key", &pem("beta", "private_pem"));
    tree.write("tinc.conf", "Name = me\nPrivateKeyFile = my.key\n");
    tree.write("beta.pem", &pem("beta", "public_pem"));
    tree.write("hosts/b", "Subnet = 10.0.0.2\nPublicKeyFile = beta.pem\n");
    let settings = tree.clean().settings;
    assert_eq!(settings.rsa.as_ref().unwrap().public(), public("beta"));
    assert_eq!(settings.hosts[&name("b")].rsa, Some(public("beta")));

    let number = "C".repeat(511) + "1";
    tree.write("hosts/b", &format!("PublicKey = {number}\n"));
    let read = tree.clean().settings.hosts[&name("b")].rsa.clone();
    assert_eq!(read, Some(RsaPublic::from_hex(&number).unwrap()));

    for (line, said) in [
        (
            "PublicKey = xyz\n",
            "hosts/b:1: PublicKey is no RSA key in hexadecimal digits",
        ),
        (
            "PublicKey = C1\n",
            "hosts/b:1: PublicKey is no RSA key that is fit",
        ),
        ("PublicKeyFile = gone\n", "hosts/b:1: gone: no such file"),
    ] {
        tree.write("hosts/b", line);
        let problems = tree.said();
        assert!(problems[0].starts_with(said), "{problems:?}");
    }
    tree.write("hosts/b", &host(2));
    tree.write("tinc.conf", "Name = me\nPrivateKeyFile = gone\n");
    assert!(tree.said()[0].starts_with("gone: no such file"));
    tree.write("tinc.conf", "Name = me\nPrivateKey = 11\n");
    assert!(tree.said()[0].starts_with("tinc.conf:2: PrivateKey needs its PublicKey"));
    tree.write("tinc.conf", "Name = me\n");
    secret(
        &tree,
        "rsa_key.priv",
        &pem("alpha", "private_pem").replace("MII", "XXX"),
    );
    assert!(tree.said()[0].starts_with("rsa_key.priv: holds an RSA key that is damaged"));
}

#[test]
fn ciphers_and_digests() {
    for (lines, wire) in [
        ("", [427, 672, 16, 0]),
        ("MACLength = 4\n", [427, 672, 4, 0]),
        (
            "Cipher = AES-128-CBC\nDigest = SHA512\nMACLength = 64\nCompression = 11\n",
            [419, 674, 64, 11],
        ),
        ("Cipher = blowfish\nDigest = sha1\n", [91, 64, 16, 0]),
        ("Cipher = none\nDigest = none\n", [0, 0, 0, 0]),
        ("Digest = none\nMACLength = 4\n", [427, 0, 0, 0]),
    ] {
        let tree = tree();
        tree.write("tinc.conf", &format!("Name = me\n{lines}"));
        assert_eq!(
            tree.clean().settings.suite.to_wire(),
            wire.into(),
            "{lines}"
        );
    }
    for (line, said) in [
        (
            "Cipher = aes-256-ctr",
            "meshd does not support Cipher = aes-256-ctr",
        ),
        (
            "Cipher = chacha20-poly1305",
            "meshd does not support Cipher = chacha20-poly1305",
        ),
        (
            "Cipher = aes-256-gcm",
            "meshd does not support Cipher = aes-256-gcm",
        ),
        (
            "Digest = whirlpool",
            "meshd does not support Digest = whirlpool",
        ),
        ("MACLength = 33", "MACLength must be 0 to 32"),
        ("Compression = 13", "Compression must be 0 to 12"),
        ("Compression = 12", "Compression = 12 is LZ4: a tinc 1.1"),
    ] {
        let tree = tree();
        tree.write("tinc.conf", &format!("Name = me\n{line}\n"));
        let problems = tree.said();
        let said = format!("tinc.conf:2: {said}");
        assert!(problems[0].starts_with(&said), "{problems:?}");
    }
}

/// T02: what a node's host file says about packets without protection.
#[test]
fn null_ciphers_of_host_files() {
    let tree = tree();
    tree.write("hosts/a", &(host(1) + "Cipher = none\nDigest = sha1\n"));
    tree.write("hosts/b", &(host(2) + "MACLength = 0\n"));
    let settings = tree.clean().settings;
    let nulls = |node| {
        let host = &settings.hosts[&name(node)];
        (host.null_cipher, host.null_digest)
    };
    assert_eq!([nulls("a"), nulls("b")], [(true, false), (false, true)]);
}

/// MinProtocol and LearnKeys decide the use of RSA keys.
#[test]
fn keys_are_told_unless_it_could_not_help() {
    for (ours, theirs, a, b) in [
        ("", "", true, true),
        ("MinProtocol = sptps\n", "", true, false),
        ("MinProtocol = sptps\nLearnKeys = yes\n", "", true, true),
        ("MinProtocol = native\n", "", false, false),
        ("", "MinProtocol = native\n", false, false),
    ] {
        let tree = tree();
        tree.write("tinc.conf", &format!("Name = me\n{ours}"));
        tree.write("hosts/a", &(host(1) + &pem("beta", "public_pem") + theirs));
        tree.write("hosts/b", &(pem("beta", "public_pem") + theirs));
        let settings = tree.clean().settings;
        for (node, expected) in [("a", a), ("b", b)] {
            let credentials = settings.credentials(&settings.hosts[&name(node)]);
            let upgrade = credentials.map_or(Upgrade::No, |known| known.upgrade);
            let what = format!("{node}: {ours}{theirs}");
            assert_eq!(upgrade == Upgrade::Possible, expected, "{what}");
        }
    }
}
