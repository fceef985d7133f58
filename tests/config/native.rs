//! Configuration of meshd's own protocol: keys, secrets, and the nodes that must speak it.

use std::{fs, os::unix::fs::PermissionsExt};

use meshd::{
    config::{
        self,
        diff::{diff, restart_needed},
    },
    crypto::noise::{StaticPublic, StaticSecret},
    mesh::settings::MinProtocol,
    route::SourceCheck,
    wire::NodeName,
};

use crate::{Tree, host, key, make_private, nodes};

const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F\n";
/// The same 32 bytes.
const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn secret_file(tree: &Tree, path: &str, content: &str) {
    tree.write(path, content);
    make_private(&tree.at(path));
}

fn bytes() -> [u8; 32] {
    std::array::from_fn(|n| u8::try_from(n).unwrap())
}

fn mapped(seed: u8) -> StaticPublic {
    StaticPublic::of(&key(seed).public())
}

#[test]
fn by_default_native_is_offered_and_nobody_must_speak_it() {
    let settings = Tree::of_three().clean().settings;
    assert!(settings.native && *settings.psk == [0; 32]);
    assert_eq!(settings.secret.public(), mapped(0));
    let a = name("a");
    assert_eq!(settings.native_keys(&a), [mapped(1)]);
    assert_eq!(settings.min_protocol_of(&a), MinProtocol::Sptps);
    assert_eq!(settings.psk_of(&a), &[0; 32]);
    assert_eq!(settings.native_keys(&name("nobody")), []);
    let credentials = settings.credentials(&settings.hosts[&a]).unwrap();
    assert!(!credentials.native_only && credentials.next.is_none());
    assert_eq!(credentials.native, [mapped(1)]);
}

/// SourceCheck in our own host file is for others: it permits nobody to send from foreign addresses to us.
#[test]
fn a_host_file_says_whether_its_node_routes_for_others() {
    let tree = Tree::of_three();
    tree.write("hosts/a", &(host(1) + "SourceCheck = no\n"));
    tree.write("hosts/me", &(host(0) + "SourceCheck = no\n"));
    let settings = tree.clean().settings;
    assert_eq!(settings.route.source_check, SourceCheck::Native);
    let check = |of: &str| settings.hosts[&name(of)].source_check;
    assert_eq!([check("a"), check("b")], [Some(SourceCheck::No), None]);
    tree.write("tinc.conf", "Name = me\nSourceCheck = strict\n");
    let settings = tree.clean().settings;
    assert_eq!(settings.route.source_check, SourceCheck::Strict);
}

#[test]
fn the_host_file_says_what_a_node_must_speak_else_tinc_conf_does() {
    use MinProtocol::{Legacy, Native, Sptps};
    for (ours, theirs, expected) in [
        ("", "", Sptps),
        ("MinProtocol = native\n", "", Native),
        ("MinProtocol = NATIVE\n", "MinProtocol = sptps\n", Sptps),
        ("MinProtocol = native\n", "MinProtocol = legacy\n", Legacy),
        ("MinProtocol = legacy\n", "MinProtocol = native\n", Native),
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{ours}"));
        tree.write("hosts/a", &(host(1) + theirs));
        let settings = tree.clean().settings;
        let min = settings.min_protocol_of(&name("a"));
        assert_eq!(min, expected, "{ours}{theirs}");
        let credentials = settings.credentials(&settings.hosts[&name("a")]);
        assert_eq!(credentials.unwrap().native_only, expected == Native);
    }
    let mut tree = Tree::of_three();
    tree.option("a.MinProtocol=native");
    let settings = tree.clean().settings;
    assert_eq!(settings.min_protocol_of(&name("a")), Native);
    assert_eq!(settings.min_protocol_of(&name("b")), Sptps);

    tree.write(
        "tinc.conf",
        "Name = me\nNative = no\nMinProtocol = native\n",
    );
    assert!(tree.said()[0].starts_with("tinc.conf:3: MinProtocol = native needs Native = yes"));
    tree.write("tinc.conf", "Name = me\nMinProtocol = newest\n");
    assert!(tree.said()[0].starts_with("tinc.conf:2: MinProtocol must be one of"));
}

#[test]
fn a_node_may_have_a_next_key_and_a_native_one() {
    let tree = Tree::of_three();
    let own = StaticSecret::from_bytes(zeroize::Zeroizing::new(bytes())).public();
    tree.write(
        "hosts/a",
        &format!("{}Ed25519PublicKeyNext = {}\n", host(1), key(7).public()),
    );
    tree.write("hosts/b", &format!("{}NativePublicKey = {own}\n", host(2)));
    let settings = tree.clean().settings;
    assert_eq!(settings.native_keys(&name("a")), [mapped(1), mapped(7)]);
    assert_eq!(settings.native_keys(&name("b")), [own]);
    let credentials = settings.credentials(&settings.hosts[&name("a")]).unwrap();
    assert_eq!(credentials.key, Some(key(1).public()));
    assert_eq!(credentials.next, Some(key(7).public()));
}

#[test]
fn a_bad_line_about_keys_costs_its_node() {
    for (line, said) in [
        (
            "Ed25519PublicKeyNext = x",
            "Ed25519PublicKeyNext: an Ed25519",
        ),
        (
            "NativePublicKey = x",
            "NativePublicKey is not an X25519 key",
        ),
        (
            "NativePublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "NativePublicKey is not an X25519 key",
        ),
        ("MinProtocol = none", "MinProtocol must be one of"),
        (
            "PresharedKeyFile = psk",
            "PresharedKeyFile names a secret of this node and is ignored",
        ),
    ] {
        let tree = Tree::of_three();
        tree.write("hosts/a", &format!("{}{line}\n", host(1)));
        let config = tree.load().unwrap();
        assert!(config.problems[0].error, "{line}");
        let text = config.problems[0].to_string();
        assert!(text.starts_with(&format!("hosts/a:4: {said}")), "{text}");
        // The last one asks for nothing that the node would have to prove.
        let left: &[&str] = match line.starts_with("Preshared") {
            true => &["a", "b"],
            false => &["b"],
        };
        assert_eq!(nodes(&config), left, "{line}");
    }
}

#[test]
fn secrets_are_32_bytes_that_nobody_else_may_read() {
    let tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\nPresharedKeyFile = psk\n");
    assert!(tree.said()[0].starts_with("psk: no such file"));
    for content in [HEX, BASE64, &format!("{BASE64}\n")] {
        secret_file(&tree, "psk", content);
        let config = tree.clean();
        assert_eq!(*config.settings.psk, bytes());
        assert_eq!(config.settings.psk_of(&name("a")), &bytes());
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("30, 31") && !shown.contains(BASE64),
            "{shown}"
        );
    }
    for content in [
        "",
        "x",
        &BASE64[1..],
        &HEX[2..],
        &"0".repeat(64),
        &format!("{BASE64}\n{BASE64}\n"),
    ] {
        secret_file(&tree, "psk", content);
        let said = tree.said();
        assert!(
            said[0].starts_with("psk: the file does not hold 32 bytes"),
            "{said:?}"
        );
    }
    secret_file(&tree, "psk", HEX);
    fs::set_permissions(tree.at("psk"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(tree.said()[0].starts_with("psk: other users may read it (mode 640); chmod 600 it"));
    assert!(tree.load().is_err());

    // Our own host file is for others to read, too; without the secret we do not start.
    tree.write("tinc.conf", "Name = me\n");
    let own = format!(
        "Ed25519PublicKey = {}\nPresharedKeyFile = psk\n",
        key(0).public()
    );
    tree.write("hosts/me", &own);
    assert!(tree.said()[0].starts_with("hosts/me:2: PresharedKeyFile names a secret of this node"));
    assert!(tree.load().is_err());
}

#[test]
fn a_pair_may_have_a_secret_of_its_own() {
    let tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\nPresharedKeyFile = psk\n");
    secret_file(&tree, "psk", HEX);
    fs::create_dir(tree.at("psk.d")).unwrap();
    secret_file(&tree, "psk.d/a", &"01".repeat(32));
    let settings = tree.clean().settings;
    assert_eq!(settings.psk_of(&name("a")), &[1; 32]);
    assert_eq!(settings.psk_of(&name("b")), &bytes());
    let credentials = |node| settings.credentials(&settings.hosts[&name(node)]).unwrap();
    assert_eq!(
        (*credentials("a").psk, *credentials("b").psk),
        ([1; 32], bytes())
    );

    // A bad one is not the same as none.
    secret_file(&tree, "psk.d/a", "x");
    let config = tree.load().unwrap();
    assert_eq!(nodes(&config), ["b"]);
    assert!(
        config.problems[0]
            .to_string()
            .starts_with("psk.d/a: the file does not hold")
    );
}

#[test]
fn we_may_have_a_native_key_of_our_own_and_our_host_file_should_say_so() {
    let tree = Tree::of_three();
    tree.write(
        "tinc.conf",
        "Name = me\nNativePrivateKeyFile = native.priv\n",
    );
    secret_file(&tree, "native.priv", BASE64);
    let own = StaticSecret::from_bytes(zeroize::Zeroizing::new(bytes())).public();
    let advice = format!("hosts/me: it has no NativePublicKey; it should be {own}");
    assert_eq!(tree.said(), [advice]);

    let own_host = |native| {
        let ed25519 = key(0).public();
        format!("Ed25519PublicKey = {ed25519}\nNativePublicKey = {native}\n")
    };
    tree.write("hosts/me", &own_host(own));
    assert_eq!(tree.clean().settings.secret.public(), own);
    tree.write("hosts/me", &own_host(mapped(3)));
    let advice =
        format!("hosts/me: its NativePublicKey does not match our key; it should be {own}");
    assert_eq!(tree.said(), [advice]);
    tree.write("tinc.conf", "Name = me\n");
    assert!(tree.said()[0].contains("remove the line"));
}

#[test]
fn a_reload_tells_what_changed_and_no_secret() {
    let tree = Tree::of_three();
    let before = tree.clean();
    tree.write(
        "tinc.conf",
        "Name = me\nNative = no\nPresharedKeyFile = psk\nNativePrivateKeyFile = psk\n",
    );
    secret_file(&tree, "psk", HEX);
    tree.write(
        "hosts/a",
        &format!(
            "{}Ed25519PublicKeyNext = {}\nMinProtocol = native\n",
            host(1),
            key(7).public()
        ),
    );
    let after = config::load(&tree.source(), Some(&before)).unwrap();
    let changes = diff(&before, &after);
    assert_eq!(restart_needed(&changes), ["NativePrivateKeyFile"]);
    let lines: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.key.as_deref().unwrap(),
                change.line.unwrap(),
                change.new.as_deref().unwrap(),
            )
        })
        .collect();
    let next = format!("Ed25519PublicKeyNext = {}", key(7).public());
    assert_eq!(
        lines,
        [
            ("NativePrivateKeyFile", 4, "NativePrivateKeyFile = psk"),
            ("PresharedKeyFile", 3, "PresharedKeyFile = psk"),
            ("Native", 2, "Native = no"),
            ("Ed25519PublicKeyNext", 4, &*next),
            ("MinProtocol", 5, "MinProtocol = native"),
        ]
    );
    // The line is the same, and the secret another one: it is named, and not shown.
    secret_file(&tree, "psk", &HEX.replace('0', "1"));
    let other = config::load(&tree.source(), Some(&after)).unwrap();
    let changes = diff(&after, &other);
    let psk = changes
        .iter()
        .find(|change| change.key.as_deref() == Some("PresharedKeyFile"))
        .unwrap();
    assert_eq!((&psk.old, &psk.new, psk.line), (&None, &None, None));
    assert_eq!(psk.file.as_deref(), Some("psk"));
}
