//! From one form to the other and back.

use std::{collections::BTreeMap, fs, path::Path};

use meshd::config::{
    convert::{to_tinc, to_toml},
    toml::keys::File,
    vars::{Kind, Place, VARS, Var},
};
use proptest::prelude::*;

use crate::{Tree, host, key};

const TINC: &str = "# Our droplet.
#
Name = me
# The databases.
ConnectTo = a
# And the second of them.
ConnectTo = b
PingInterval = 30
pingtimeout = 4
BindToAddress = 10.0.0.1
BindToAddress = fd00::1 700
UDPRcvBuf = 1048576
AutoConnect = NO
# The end.
";

const TOML: &str = r##"schema = 1
# Our droplet.
#
name = "me"

[listen]
addresses = [
    "10.0.0.1",
    "[fd00::1]:700",
]

[connect]
to = [
    # The databases.
    "a",
    # And the second of them.
    "b",
]
auto = false

[trust]
strict_subnets = false

[transport]
udp_rcvbuf = 1048576

[liveness]
ping_interval = "30s"
ping_timeout = "4s"
# The end.
"##;

#[test]
fn tincs_form_becomes_toml_with_its_comments() {
    let converted = to_toml(TINC, File::Daemon, Path::new("tinc.conf"));
    assert_eq!(converted.problems, []);
    assert_eq!(converted.text, TOML);
}

#[test]
fn toml_becomes_tincs_form_with_its_comments() {
    let text = "# Top.\nname = \"me\" # us\n[connect] # whom\n# both\nto = [ \"a\", # first\n \"b\" ]\n[liveness]\n\
        ping_interval = \"2m\"\n# End.\n";
    let converted = to_tinc(text, File::Daemon, Path::new("meshd.toml"));
    assert_eq!(converted.problems, []);
    assert_eq!(
        converted.text,
        "# Top.\n# us\nName = me\n# whom\n# both\n# first\nConnectTo = a\nConnectTo = b\nPingInterval = 120\n\
         StrictSubnets = yes\n# End.\n"
    );
}

#[test]
fn what_cannot_be_said_is_told_and_left_as_a_comment() {
    let text = "Name = me\nPingInterval = 10 and more\nColour = blue\nMode = router\nMode = hub\nPrivateKey = ab\n";
    let converted = to_toml(text, File::Daemon, Path::new("tinc.conf"));
    let said: Vec<String> = converted.problems.iter().map(ToString::to_string).collect();
    for part in [
        "tinc.conf:2: PingInterval has a value without a TOML form",
        "tinc.conf:3: Colour has no key in this file",
        "tinc.conf:5: Mode is repeated here",
        "tinc.conf:6: PrivateKey has no key in this file",
    ] {
        assert!(
            said.iter().any(|line| line.starts_with(part)),
            "{part}: {said:#?}"
        );
    }
    for line in [
        "# PingInterval = 10 and more",
        "# Colour = blue",
        "# Mode = hub",
        "# PrivateKey = ab",
    ] {
        assert!(
            converted.text.lines().any(|have| have == line),
            "{}",
            converted.text
        );
    }
    let torn = to_toml(
        "Name = me\nPort\nSubnet = 10.0.0.0/8\n",
        File::Host,
        Path::new("hosts/a"),
    );
    assert!(torn.problems.iter().any(|problem| problem.error));
    let broken = to_tinc("name = 1\n", File::Daemon, Path::new("meshd.toml"));
    assert!(broken.problems.iter().any(|problem| problem.error));
}

/// A whole tree there and back: both load to the same.
#[test]
fn trees_mean_the_same_in_both_forms() {
    let pem = "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n";
    let tree = Tree::bare();
    tree.write(
        "tinc.conf",
        &TINC
            .replace("BindToAddress = fd00::1 700\n", "")
            .replace("10.0.0.1", "127.0.0.1"),
    );
    tree.write("conf.d/site.conf", "KeyExpire = 600\n");
    tree.write(
        "hosts/me",
        &format!("Ed25519PublicKey = {}\nPort = 6550\n", key(0).public()),
    );
    tree.write("hosts/a", &format!("# first\n{}", host(1)));
    tree.write("hosts/b", &format!("{}{pem}", host(2)));
    let before = tree.load().unwrap();
    let mut other = Tree::bare();
    let mut back = Tree::bare();
    for (from, to, file) in [
        ("tinc.conf", "meshd.toml", File::Daemon),
        ("conf.d/site.conf", "conf.d/site.toml", File::Daemon),
        ("hosts/me", "hosts/me.toml", File::Host),
        ("hosts/a", "hosts/a.toml", File::Host),
        ("hosts/b", "hosts/b.toml", File::Host),
    ] {
        let text = fs::read_to_string(tree.at(from)).unwrap();
        let toml = to_toml(&text, file, Path::new(from));
        assert_eq!(toml.problems, [], "{from}");
        other.write(to, &toml.text);
        let tinc = to_tinc(&toml.text, file, Path::new(to));
        assert_eq!(tinc.problems, [], "{to}");
        back.write(from, &tinc.text);
        assert_eq!(text.contains("BEGIN"), tinc.text.contains(pem.trim_end()));
    }
    for tree in [&mut other, &mut back] {
        let after = tree.load().unwrap();
        let diff = meshd::config::diff::diff(&before, &after);
        assert!(diff.is_empty(), "{diff:?}");
    }
}

/// A value that a variable may have.
fn value(var: &Var) -> BoxedStrategy<String> {
    match var.kind {
        _ if var.name == "Label" => "[a-z_]{1,9}=[!-~]([ -~]{0,9}[!-~])?".boxed(),
        Kind::Moment => {
            "20[2-9][0-9]-0[1-9]-(1[0-9]|2[0-8])T[01][0-9]:[0-5][0-9]:[0-5][0-9]Z".boxed()
        }
        Kind::Rule => "([a-z]{1,9}|[a-z_]{1,9}=[!-~]([ -~]{0,9}[!-~])?|\\*) \
            (tcp/[1-9][0-9]{0,3}|udp/[1-9]-[1-9][0-9]{2}|icmp|\\*)"
            .boxed(),
        Kind::Bool => prop_oneof![Just("yes".to_owned()), Just("no".to_owned())].boxed(),
        Kind::Int | Kind::Seconds | Kind::Bytes | Kind::Port => {
            (0..65_536u32).prop_map(|n| n.to_string()).boxed()
        }
        Kind::Address | Kind::Listen => {
            "([a-z]{1,9}|10\\.0\\.0\\.[1-9]|fd00::[1-9])( [1-9][0-9]{0,3})?".boxed()
        }
        _ => "[!-~]([ -~]{0,20}[!-~])?".boxed(),
    }
}

proptest! {
    #[test]
    fn every_variable_survives_both_ways(values in VARS.iter().map(value).collect::<Vec<_>>()) {
        for (var, value) in VARS.iter().zip(&values) {
            let (file, shown) = match var.place {
                Place::Host => (File::Host, "hosts/a"),
                _ => (File::Daemon, "conf.d/a.conf"),
            };
            if var.name == "PrivateKey" || var.name == "ExperimentalProtocol" {
                continue;
            }
            let text = format!("{} = {value}\n", var.name);
            let toml = to_toml(&text, file, Path::new(shown));
            prop_assert_eq!(&toml.problems, &[], "{}", toml.text);
            let tinc = to_tinc(&toml.text, file, Path::new("conf.d/a.toml"));
            prop_assert_eq!(&tinc.problems, &[]);
            prop_assert_eq!(tinc.text, text, "{}", toml.text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", bytes in "[ -~\\n\"#=\\[\\]]{0,200}") {
        for text in [text, bytes] {
            for file in [File::Daemon, File::Host] {
                let _ = to_toml(&text, file, Path::new("x"));
                let _ = to_tinc(&text, file, Path::new("x.toml"));
            }
        }
    }
}

#[test]
fn words_of_experimental_protocol_are_those_of_legacy() {
    let words: BTreeMap<_, _> = [
        ("yes", Some("listed")),
        ("no", Some("always")),
        ("maybe", None),
    ]
    .into();
    for (word, expected) in words {
        let text = format!("ExperimentalProtocol = {word}\n");
        let toml = to_toml(&text, File::Daemon, Path::new("conf.d/a.conf"));
        let expected = expected.map(|word| format!("legacy = \"{word}\""));
        assert_eq!(toml.problems.is_empty(), expected.is_some());
        assert!(
            expected.is_none_or(|line| toml.text.contains(&line)),
            "{}",
            toml.text
        );
    }
}
