//! T44: files that are poisoned, torn, or no files at all. Nothing here may stop the reader.

use std::{fs, os::unix::fs::symlink, path::Path};

use meshd::config::{self, Problem};

use crate::{Tree, host, key, nodes};

fn fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::RUSR, 0).unwrap();
}

/// Puts something in the place of `hosts/a`, and names part of what must be said about it.
type Tear = (&'static str, fn(&Tree), &'static str);

fn replace(tree: &Tree, content: &[u8]) {
    fs::write(tree.at("hosts/a"), content).unwrap();
}

/// Everything that makes a host file unusable.
const TEARS: &[Tear] = &[
    (
        "fifo",
        |tree| {
            fs::remove_file(tree.at("hosts/a")).unwrap();
            fifo(&tree.at("hosts/a"));
        },
        "hosts/a: is a pipe",
    ),
    (
        "directory",
        |tree| {
            fs::remove_file(tree.at("hosts/a")).unwrap();
            fs::create_dir(tree.at("hosts/a")).unwrap();
        },
        "hosts/a: is a directory",
    ),
    (
        "device",
        |tree| {
            fs::remove_file(tree.at("hosts/a")).unwrap();
            symlink("/dev/zero", tree.at("hosts/a")).unwrap();
        },
        "hosts/a: is a device",
    ),
    (
        "symlink loop",
        |tree| {
            fs::remove_file(tree.at("hosts/a")).unwrap();
            symlink("a", tree.at("hosts/a")).unwrap();
        },
        "hosts/a: cannot be read",
    ),
    (
        "dangling symlink",
        |tree| {
            fs::remove_file(tree.at("hosts/a")).unwrap();
            symlink("nowhere", tree.at("hosts/a")).unwrap();
        },
        "hosts/a: no such file",
    ),
    (
        "1 GiB",
        |tree| {
            fs::File::create(tree.at("hosts/a"))
                .unwrap()
                .set_len(1 << 30)
                .unwrap();
        },
        "hosts/a: is larger than 1 MiB",
    ),
    (
        "binary",
        |tree| replace(tree, &[0x7f, b'E', b'L', b'F', 0, 1, 2]),
        "hosts/a: is not a text file",
    ),
    (
        "no value",
        |tree| replace(tree, format!("Weight =\n{}", host(1)).as_bytes()),
        "hosts/a:1: no value",
    ),
    (
        "blanks only",
        |tree| replace(tree, format!("{}   \n", host(1)).as_bytes()),
        "hosts/a:4: no value",
    ),
    (
        "half a PEM",
        |tree| {
            let text = format!("-----BEGIN RSA PUBLIC KEY-----\nMIIBCgKC\n{}", host(1));
            replace(tree, text.as_bytes());
        },
        "hosts/a:1: this -----BEGIN line has no -----END line",
    ),
    (
        "empty",
        |tree| replace(tree, b"# to come\n"),
        "hosts/a: the file is empty",
    ),
    (
        "half a key",
        |tree| replace(tree, b"Ed25519PublicKey = AbC\n"),
        "hosts/a:1: Ed25519PublicKey",
    ),
    (
        "no point",
        |tree| {
            replace(
                tree,
                format!("\nEd25519PublicKey = {}\n", "A".repeat(43)).as_bytes(),
            );
        },
        "hosts/a:2: Ed25519PublicKey",
    ),
    (
        "key file gone",
        |tree| replace(tree, b"Ed25519PublicKeyFile = gone\n"),
        "hosts/a:1: gone: no such file",
    ),
];

fn said(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_torn_host_file_costs_its_own_node_only() {
    for (what, tear, text) in TEARS {
        let tree = Tree::of_three();
        tear(&tree);
        let config = tree
            .load()
            .unwrap_or_else(|problems| panic!("{what}: {problems:#?}"));
        assert_eq!(nodes(&config), ["b"], "{what}");
        let said = said(&config.problems);
        assert!(
            said.iter().any(|line| line.starts_with(text)),
            "{what}: {said:#?}"
        );
        assert!(config.problems.iter().any(|p| p.error), "{what}");
    }
}

#[test]
fn on_a_reload_the_last_good_version_stays_and_a_deleted_file_goes() {
    for (what, tear, text) in TEARS {
        let tree = Tree::of_three();
        let before = tree.clean();
        tear(&tree);
        fs::remove_file(tree.at("hosts/b")).unwrap();
        let after = config::load(&tree.source(), Some(&before)).unwrap();
        assert_eq!(nodes(&after), ["a"], "{what}");
        let a = "a".parse().unwrap();
        assert!(
            after.settings.hosts[&a] == before.settings.hosts[&a],
            "{what}"
        );
        let said = said(&after.problems);
        assert!(
            said.iter().any(|line| line.starts_with(text)),
            "{what}: {said:#?}"
        );
        assert!(
            said.iter().any(|line| line.contains("last good version")),
            "{what}: {said:#?}"
        );

        let later = config::load(&tree.source(), Some(&after)).unwrap();
        assert_eq!(nodes(&later), ["a"], "{what}: still so on the next reload");
    }
}

#[test]
fn odd_but_whole_files_are_used() {
    let a = "a".parse().unwrap();
    let tree = Tree::of_three();

    replace(&tree, host(1).replace('\n', "\r\n").as_bytes());
    assert_eq!(
        tree.clean().settings.hosts[&a].key,
        Some(key(1).public()),
        "CRLF"
    );

    replace(&tree, format!("\u{feff}Weight = 3\n{}", host(1)).as_bytes());
    let config = tree.load().unwrap();
    assert_eq!(config.settings.hosts[&a].key, Some(key(1).public()), "BOM");
    assert_eq!(
        config.settings.hosts[&a].weight, None,
        "it voids the first line, as in tinc"
    );
    assert!(said(&config.problems)[0].contains("byte order mark"));

    replace(&tree, format!("{}{}", host(1), host(2)).as_bytes());
    let config = tree.load().unwrap();
    assert_eq!(
        config.settings.hosts[&a].key,
        Some(key(1).public()),
        "the first key counts"
    );
    let repeated = "hosts/a:6: Ed25519PublicKey is ignored here: hosts/a:3 comes first";
    assert!(
        said(&config.problems).contains(&repeated.into()),
        "{:#?}",
        config.problems
    );

    replace(
        &tree,
        format!("{}Subnet = 0.0.0.0/0\nSubnet = ::/0\n", host(1)).as_bytes(),
    );
    assert_eq!(
        tree.clean().settings.hosts[&a].subnets.len(),
        3,
        "default routes are subnets"
    );

    replace(
        &tree,
        format!("{}Subnet = 10.0.0.1/24\nAddress = a b c\n", host(1)).as_bytes(),
    );
    let config = tree.load().unwrap();
    let host = &config.settings.hosts[&a];
    assert_eq!(
        (host.subnets.len(), host.addresses.len()),
        (1, 1),
        "bad values cost their line"
    );
    assert_eq!(config.problems.iter().filter(|p| p.error).count(), 2);

    tree.write("elsewhere", &crate::host(1));
    fs::remove_file(tree.at("hosts/a")).unwrap();
    symlink("../elsewhere", tree.at("hosts/a")).unwrap();
    assert_eq!(
        nodes(&tree.clean()),
        ["a", "b"],
        "the admin's own symlinks are followed"
    );
}

#[test]
fn what_starts_programs_is_never_taken_from_a_host_file() {
    let tree = Tree::of_three();
    let lines = "ScriptsInterpreter = /bin/evil\nScriptsExtension = .evil\n";
    // In our own host file a Proxy stops us: it is not honoured.
    for (name, proxy) in [("me", "none"), ("a", "exec reboot")] {
        let text = fs::read_to_string(tree.at(&format!("hosts/{name}"))).unwrap();
        let text = format!("{text}Proxy = {proxy}\n{lines}");
        tree.write(&format!("hosts/{name}"), &text);
    }
    let config = tree.load().unwrap();
    assert_eq!(config.shell.scripts_interpreter, None);
    assert_eq!(config.shell.scripts_extension, "");
    let said = said(&config.problems);
    for name in ["me", "a"] {
        for variable in ["Proxy", "ScriptsInterpreter", "ScriptsExtension"] {
            let hit = |line: &&String| {
                line.starts_with(&format!("hosts/{name}:"))
                    && line.contains(&format!("{variable} may start programs"))
            };
            assert_eq!(
                said.iter().filter(hit).count(),
                1,
                "{name} {variable}: {said:#?}"
            );
        }
    }
    tree.write("tinc.conf", "Name = me\nScriptsInterpreter = /bin/sh\n");
    assert_eq!(
        tree.load().unwrap().shell.scripts_interpreter.as_deref(),
        Some("/bin/sh")
    );
}

#[test]
fn a_broken_tinc_conf_keeps_the_old_configuration() {
    type Break = fn(&Tree);
    let breaks: [(&str, Break); 5] = [
        ("gone", |tree| {
            fs::remove_file(tree.at("tinc.conf")).unwrap()
        }),
        ("empty", |tree| tree.write("tinc.conf", "")),
        ("no value", |tree| {
            tree.write("tinc.conf", "Name = me\nMode =\n")
        }),
        ("binary", |tree| tree.write("tinc.conf", "Name = me\n\0")),
        ("fifo", |tree| {
            fs::remove_file(tree.at("tinc.conf")).unwrap();
            fifo(&tree.at("tinc.conf"));
        }),
    ];
    for (what, break_it) in breaks {
        let tree = Tree::of_three();
        let before = tree.clean();
        break_it(&tree);
        let problems = config::load(&tree.source(), Some(&before)).expect_err(what);
        assert!(
            said(&problems)[0].starts_with("tinc.conf"),
            "{what}: {problems:?}"
        );
    }
}

/// As in tinc, which swallows the rest without a word.
#[test]
fn an_open_block_in_tinc_conf_is_a_warning() {
    let tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\n-----BEGIN X-----\nPort = 7\n");
    let config = tree.load().unwrap();
    assert_eq!(config.settings.port, 655);
    assert_eq!((config.problems.len(), config.problems[0].line), (1, 2));
}

#[test]
fn a_torn_own_host_file_stops_a_reload_but_not_a_start() {
    let tree = Tree::of_three();
    let before = tree.clean();
    tree.write("hosts/me", "Port = 7\nWeight =\nSubnet = 10.9.0.0/16\n");
    let started = tree.load().unwrap();
    assert_eq!(started.settings.port, 7, "what came before the tear");
    assert!(started.settings.subnets.is_empty());
    assert!(config::load(&tree.source(), Some(&before)).is_err());
    fs::remove_file(tree.at("hosts/me")).unwrap();
    assert!(config::load(&tree.source(), Some(&before)).is_ok());
}

#[test]
fn two_nodes_with_one_key_are_told() {
    let tree = Tree::of_three();
    tree.write("hosts/b", &host(1).replace("10.1.0.0", "10.2.0.0"));
    let said = tree.said();
    assert_eq!(
        said,
        ["hosts/b: the key is also in hosts/a; give each node its own"]
    );
}

#[test]
fn single_host_files_are_read_at_need() {
    let mut tree = Tree::of_three();
    tree.option("c.TCPOnly=yes");
    let c = "c".parse().unwrap();
    assert!(config::load_host(&tree.source(), &c).is_err());
    tree.write("hosts/c", &host(3));
    let host = config::load_host(&tree.source(), &c).ok().unwrap();
    assert_eq!(host.key, Some(key(3).public()));
    assert!(host.tcp_only, "options count here too");
    fs::write(tree.at("hosts/c"), [0, 1, 2]).unwrap();
    let problems = config::load_host(&tree.source(), &c).err().unwrap();
    assert_eq!(
        problems[0].to_string(),
        "hosts/c: is not a text file; move it away"
    );
}
