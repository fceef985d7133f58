//! Trees that the real tinc 1.1 wrote.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use meshd::{
    config::{self, Config, Source},
    crypto::{PrivateKey, PublicKey},
    wire::NodeName,
};

use meshd_testing::skip;

use crate::{Tree, make_private, nodes};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

fn vectors() -> serde_json::Value {
    let text = fs::read_to_string(fixture("vectors/tinc-1.1.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(base: &Path) -> Config {
    let base = base.into();
    let source = Source {
        base,
        ..Source::default()
    };
    config::load(&source, None).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// tests/fixtures/README.md tells how the tree was made.
#[test]
fn a_tree_of_init_add_and_import_is_read() {
    let tree = Tree::bare();
    let from = fixture("fixtures/tinc11-tree");
    for file in [
        "tinc.conf",
        "ed25519_key.priv",
        "hosts/web_01",
        "hosts/db_01",
    ] {
        fs::copy(from.join(file), tree.at(file)).unwrap();
    }
    make_private(&tree.at("ed25519_key.priv"));
    let config = tree.clean();
    let settings = &config.settings;
    assert_eq!(settings.name.as_str(), "web_01");
    assert_eq!(
        settings.key.public().to_string(),
        "gSgtm77Wlf3l1PHKhUp/z6vNYEvgvHenGxqC/RaTQ7N"
    );
    assert_eq!(settings.ping_interval.as_secs(), 30);
    assert_eq!(settings.connect_to, [NodeName::new("db_01").unwrap()]);
    assert!(settings.strict_subnets);
    let subnets: Vec<String> = settings.subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["172.20.0.11", "172.20.7.0/24#20"]);
    assert_eq!(nodes(&config), ["db_01"]);
    let host = &settings.hosts[&NodeName::new("db_01").unwrap()];
    let key = host.key.unwrap().to_string();
    assert_eq!(key, "McbJq140T4ni8saM3L5IboqjZcZAFIBIgOi8Q+xSz6I");
    assert_eq!(host.addresses[0].host, "db_01.example.net");
    assert_eq!(
        host.addresses[0].port, 7655,
        "the file's own Port, though it comes later"
    );
    let subnets: Vec<String> = host.subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["172.20.0.21", "fd00:2::/64"]);
    assert_eq!(host.weight, Some(7));
}

/// The program itself: below MESHD_TINC11, or where `tests/run peers` puts it.
fn tinc() -> Option<Command> {
    let default = || fixture("../target/peers/tinc11");
    let folder = std::env::var_os("MESHD_TINC11").map_or_else(default, PathBuf::from);
    let program = folder.join("usr/sbin/tinc");
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", folder.join("lib"));
    program.exists().then_some(command)
}

#[test]
fn a_tree_that_tinc_writes_now_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let run = |net: &str, arguments: &str| {
        let mut command = tinc()?;
        command.arg("-b").arg("-c").arg(dir.path().join(net));
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
        Some(output.stdout)
    };
    if run("a", "init a").is_none() {
        return skip("tinc11", "`tests/run peers` fetches one");
    }
    run("b", "init b");
    run("b", "add Subnet 10.1.0.0/16");
    fs::write(dir.path().join("a/hosts/b"), run("b", "export").unwrap()).unwrap();
    run("a", "add ConnectTo b");
    let exported = String::from_utf8(run("a", "export").unwrap()).unwrap();
    let config = load(&dir.path().join("a"));
    assert_eq!(nodes(&config), ["b"]);
    assert_eq!(
        config.settings.hosts[&config.settings.connect_to[0]]
            .subnets
            .len(),
        1
    );
    assert!(exported.contains(&config.settings.key.public().to_string()));
}

/// Random lines in up to four files, and the port that the real tincd took from them.
#[test]
fn random_trees_give_the_port_that_tincd_takes() {
    let text = fs::read_to_string(fixture("fixtures/tinc11-ports.json")).unwrap();
    let recorded: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let tree = Tree::bare();
        for (path, text) in case["files"].as_object().unwrap() {
            tree.write(path, text.as_str().unwrap());
        }
        let port = tree.load().ok().map(|config| config.settings.port);
        let theirs = case["port"]
            .as_u64()
            .map(|port| u16::try_from(port).unwrap());
        assert_eq!(port, theirs, "{case:#}");
    }
}

/// Files that the real `tinc join` left behind, both with the head of 1.1 and with pre18.
#[test]
fn trees_that_join_wrote_are_read() {
    let vectors = vectors();
    let mut joined = 0;
    for invitation in vectors["invitations"].as_array().unwrap() {
        let Some(files) = invitation["resulting_files"].as_object() else {
            continue;
        };
        let tree = Tree::bare();
        for (path, text) in files {
            tree.write(path, text.as_str().unwrap());
        }
        let config = load(tree.dir.path());
        assert_eq!(config.settings.name.as_str(), "joined");
        assert_eq!(nodes(&config), ["pyinv"]);
        let inviter = &config.settings.hosts[&config.settings.connect_to[0]];
        assert_eq!(inviter.addresses[0].host, "127.0.0.1");
        assert!(inviter.key.is_some());
        joined += 1;
    }
    assert_eq!(joined, 2);
}

#[test]
fn key_files_of_real_nodes_match_their_host_lines() {
    let vectors = vectors();
    let files = vectors["key_files"].as_array().unwrap();
    assert_eq!(files.len(), 5);
    for file in files {
        let private = PrivateKey::from_pem(file["private_key_file"].as_str().unwrap()).unwrap();
        let tree = Tree::bare();
        tree.write("tinc.conf", "Name = me\n");
        tree.write(
            "ed25519_key.priv",
            file["private_key_file"].as_str().unwrap(),
        );
        tree.write("hosts/me", file["host_file_line"].as_str().unwrap());
        make_private(&tree.at("ed25519_key.priv"));
        let config = tree.clean();
        assert_eq!(config.settings.key.public(), private.public());
        let line = file["host_file_line"].as_str().unwrap();
        let public: PublicKey = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(public, private.public());
    }
}

#[test]
fn public_keys_are_found_in_a_line_a_file_or_a_block() {
    let key = crate::key(7).public();
    let base64 = data_base64(&key);
    let block =
        format!("-----BEGIN ED25519 PUBLIC KEY-----\n{base64}\n-----END ED25519 PUBLIC KEY-----\n");
    let tree = Tree::of_three();
    tree.write("keys", &block);
    for text in [
        format!("Port = 1\n{block}Weight = 3\n"),
        "Ed25519PublicKeyFile = keys\n".into(),
        format!("Ed25519PublicKeyFile = {}\n", tree.at("keys").display()),
        format!("Ed25519PublicKeyFile = nowhere\nEd25519PublicKey = {key}\n"),
    ] {
        tree.write("hosts/a", &text);
        let config = tree.clean();
        assert_eq!(
            config.settings.hosts[&"a".parse().unwrap()].key,
            Some(key),
            "{text}"
        );
    }
}

/// Content of a public block between its lines: tinc's base64 of the 32 bytes.
fn data_base64(key: &PublicKey) -> String {
    meshd::wire::base64::encode(key.as_bytes())
}
