//! The TOML form: the same settings as from tinc's form, and every mistake with its place.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use meshd::{
    config::{
        AddressFamily, MetricsListen,
        convert::to_tinc,
        toml::keys::{ACCESS, File, Form, WITHOUT_KEY},
        vars::{self, Kind, Place, VARS},
    },
    crypto::{Rng, rsa::RsaPrivate},
};

use crate::{Tree, host, key, nodes};

/// The node `me`, in TOML.
fn tree(main: &str) -> Tree {
    let tree = Tree::bare();
    tree.write("meshd.toml", main);
    tree.write(
        "hosts/me.toml",
        &format!("ed25519 = \"{}\"\n", key(0).public()),
    );
    tree
}

fn said(main: &str) -> Vec<String> {
    tree(main).said()
}

/// Of the lists of both manuals, which tests/config/tables.rs compares with the table.
#[test]
fn every_variable_has_a_key_where_it_belongs() {
    let keys = |keys: &[meshd::config::toml::keys::Key]| -> BTreeSet<&str> {
        keys.iter().map(|key| key.var).collect()
    };
    let (daemon, of_host) = (keys(File::Daemon.keys()), keys(File::Host.keys()));
    for var in VARS {
        if WITHOUT_KEY.iter().any(|(name, _)| *name == var.name) {
            continue;
        }
        let (ours, theirs) = (daemon.contains(var.name), of_host.contains(var.name));
        let right = match var.place {
            Place::Server => ours && !theirs,
            // Our own port stands beside our own addresses.
            Place::Host => theirs && (!ours || var.name == "Port"),
            Place::Both => ours,
        };
        assert!(right, "{}: {ours} {theirs}", var.name);
    }
    for key in File::Daemon.keys().iter().chain(File::Host.keys()) {
        let var = vars::find(key.var).unwrap_or_else(|| panic!("{} is no variable", key.var));
        let fits = match var.kind {
            Kind::Bool => matches!(key.form, Form::Flag | Form::Access),
            Kind::Int | Kind::Port => key.form == Form::Number,
            Kind::Seconds => key.form == Form::Duration,
            Kind::Bytes => matches!(key.form, Form::Size | Form::Number),
            Kind::Address | Kind::Listen => key.form == Form::Endpoint,
            Kind::Moment => key.form == Form::Moment,
            Kind::Rule => key.form == Form::Rule,
            _ => matches!(key.form, Form::Text | Form::Labelled),
        };
        assert!(fits && key.many == var.multiple, "{}", key.path());
    }
}

const WHOLE: &str = r#"
schema = 1
name = "me"
[interface]
name = "mesh7"
addresses = ["172.20.0.11/24"]
routes = ["auto"]
mtu = 1400
[listen]
port = 6550
addresses = ["127.0.0.1", "[::1]:700"]
family = "ipv4"
[connect]
to = ["a"]
auto = false
max_backoff = "15m"
[trust]
strict_subnets = false
legacy = "never"
[metrics]
listen = "no"
[transport]
udp_rcvbuf = "1MiB"
udp_sndbuf = 65536
key_expire = "1h 30m"
[liveness]
ping_interval = "30s"
"#;

const SAME: &str = "Name = me
Interface = mesh7
InterfaceAddress = 172.20.0.11/24
InterfaceRoute = auto
InterfaceMTU = 1400
BindToAddress = 127.0.0.1
BindToAddress = ::1 700
AddressFamily = ipv4
Port = 6550
ConnectTo = a
AutoConnect = no
MaxTimeout = 900
MinProtocol = sptps
MetricsListen = no
UDPRcvBuf = 1048576
UDPSndBuf = 65536
KeyExpire = 5400
PingInterval = 30
";

#[test]
fn both_forms_give_the_same_settings() {
    let ours = tree(&WHOLE.replace("family = \"ipv4\"\n", ""));
    ours.write(
        "hosts/a.toml",
        &format!(
            "ed25519 = {:?}\nendpoints = [\"10.0.0.1\", \"db.example.net:700\", \"[fd00::1]:701\", \"fd00::2\"]\n\
             subnets = [\"10.1.0.0/16\", \"10.2.0.0/16#20\"]\nport = 699\ntcp_only = true\nweight = 5\n",
            key(1).public().to_string()
        ),
    );
    let tincs = Tree::bare();
    tincs.write("tinc.conf", &SAME.replace("AddressFamily = ipv4\n", ""));
    tincs.write(
        "hosts/me",
        &format!("Ed25519PublicKey = {}\n", key(0).public()),
    );
    tincs.write(
        "hosts/a",
        &format!(
            "Ed25519PublicKey = {}\nAddress = 10.0.0.1\nAddress = db.example.net 700\nAddress = fd00::1 701\n\
             Address = fd00::2\nSubnet = 10.1.0.0/16\nSubnet = 10.2.0.0/16#20\nPort = 699\nTCPOnly = yes\nWeight = 5\n",
            key(1).public()
        ),
    );
    let (ours, tincs) = (ours.clean(), tincs.clean());
    let diff = meshd::config::diff::diff(&tincs, &ours);
    assert!(diff.is_empty(), "{diff:?}");
    assert_eq!(ours.shell.metrics_listen, MetricsListen::Nowhere);
    assert_eq!(ours.shell.address_family, AddressFamily::Any);
    assert_eq!(ours.settings.key_expire, Duration::from_secs(5400));
    let a = ours.settings.hosts.values().next().unwrap();
    assert_eq!(
        (a.addresses.len(), a.subnets.len(), a.addresses[3].port),
        (4, 2, 699)
    );
}

#[test]
fn access_words_are_variables() {
    for (word, meaning) in ACCESS {
        let tree = tree(&format!("name = \"me\"\n[trust]\nlegacy = \"{word}\"\n"));
        let settings = tree.load().map(|config| config.settings);
        match meaning {
            Some(("ExperimentalProtocol", _)) => {
                let problems = settings.unwrap_err();
                assert!(
                    problems[0].text.contains("needs rsa_key.priv"),
                    "{problems:?}"
                );
            }
            Some(_) => assert!(settings.unwrap().min_protocol.is_some()),
            None => assert!(settings.unwrap().min_protocol.is_none()),
        }
    }
}

/// Defaults of TOML that differ from tinc's form.
#[test]
fn subnets_are_strict_unless_said_otherwise() {
    assert!(tree("name = \"me\"\n").clean().settings.strict_subnets);
    let loose = tree("name = \"me\"\n[trust]\nstrict_subnets = false\n");
    assert!(!loose.clean().settings.strict_subnets);
    let mut option = tree("name = \"me\"\n");
    assert!(
        !option
            .option("StrictSubnets=no")
            .clean()
            .settings
            .strict_subnets
    );
}

#[test]
fn later_files_beat_earlier_ones_and_arrays_grow() {
    let tree =
        tree("name = \"me\"\n[connect]\nto = [\"a\"]\n[liveness]\nping_interval = \"10s\"\n");
    tree.write(
        "conf.d/10-site.toml",
        "[connect]\nto = [\"b\"]\n[liveness]\nping_interval = \"20s\"\n",
    );
    tree.write(
        "conf.d/20-host.toml",
        "[liveness]\nping_interval = \"30s\"\n",
    );
    tree.write("conf.d/ignored.conf", "PingInterval = 40\n");
    tree.write("hosts/a", &host(1));
    tree.write("hosts/b", &host(2));
    let config = tree.clean();
    assert_eq!(config.settings.ping_interval, Duration::from_secs(30));
    assert_eq!(config.settings.connect_to.len(), 2);
    assert_eq!(nodes(&config), ["a", "b"]);
}

/// Each mistake: the file, and what must be said of it, all of it with line and column.
#[test]
fn every_mistake_has_its_place_and_all_are_told_at_once() {
    for (text, told) in [
        (
            "nome = \"me\"",
            "meshd.toml:1:1: unknown key `nome`; did you mean `name`?",
        ),
        (
            "name = \"me\"\nConnectTo = [\"a\"]",
            "meshd.toml:2:1: unknown key `ConnectTo`; it is `to` in [connect] here",
        ),
        (
            "name = \"me\"\nstrict_subnets = true",
            "meshd.toml:2:1: unknown key `strict_subnets`; it is `strict_subnets` in [trust]",
        ),
        (
            "name = \"me\"\n[trust]\nstrict_subnet = true",
            "meshd.toml:3:1: unknown key `strict_subnet` in [trust]; did you mean `strict_subnets` in [trust]?",
        ),
        (
            "name = \"me\"\n[trust]\nstrict_subnets = \"yes\"",
            "meshd.toml:3:18: `trust.strict_subnets` must be true or false, without quotes, not \"yes\"",
        ),
        (
            "name = \"me\"\n[listen]\nport = \"655\"",
            "meshd.toml:3:8: `listen.port` must be a whole number, without quotes, not \"655\"",
        ),
        (
            "name = \"me\"\n[listen]\nport = 65536",
            "meshd.toml:3:8: \"65536\" is not a port",
        ),
        (
            "name = \"me\"\n[connect]\nto = \"a\"",
            "meshd.toml:3:6: `connect.to` must be an array",
        ),
        (
            "name = \"me\"\n[connect]\nto = [\n  1]",
            "meshd.toml:4:3: `connect.to` must be text in quotes, not 1",
        ),
        (
            "name = \"me\"\n[liveness]\nping_interval = 30",
            "meshd.toml:3:17: `liveness.ping_interval` must be a time in whole seconds",
        ),
        (
            "name = \"me\"\n[liveness]\nping_interval = \"1500ms\"",
            "meshd.toml:3:17: `liveness.ping_interval` must be whole seconds",
        ),
        (
            "name = \"me\"\n[liveness]\nping_interval = \"soon\"",
            "meshd.toml:3:17: `liveness.ping_interval` must be a time like",
        ),
        (
            "name = \"me\"\n[transport]\nudp_rcvbuf = \"big\"",
            "meshd.toml:3:14: `transport.udp_rcvbuf` must be a size like",
        ),
        (
            "name = \"me\"\n[trust]\nlegacy = \"no\"",
            "meshd.toml:3:10: `trust.legacy` must be \"never\", \"listed\" or \"always\", not \"no\"",
        ),
        (
            "name = \"me\"\nname = \"you\"",
            "meshd.toml:2:1: duplicate key",
        ),
        (
            "name = \"me\"\n[conect]\nto = []",
            "meshd.toml:2:2: unknown key `conect`",
        ),
        ("name = \"me\"\nkey = ", "meshd.toml:2:"),
        (
            "schema = 2\nname = \"me\"",
            "meshd.toml:1:10: this version of meshd supports only schema 1",
        ),
        ("name = \"\"", "meshd.toml:1:8: `name` must not be empty"),
        (
            "name = \"me\\nConnectTo = x\"",
            "meshd.toml:1:8: `name` must be one line",
        ),
        ("name = \"m.e\"", "meshd.toml:1:8: invalid name"),
        ("name = \"me\"\nmode = \"bridge\"", "meshd.toml:2:8: "),
        (
            "name = \"me\"\nPrivateKey = \"aa\"",
            "meshd.toml:2:1: unknown key `PrivateKey`; a secret in a file that is handed about",
        ),
        (
            "name = \"me\"\nSubnet = [\"10.0.0.0/8\"]",
            "meshd.toml:2:1: unknown key `Subnet`; it belongs into a host file",
        ),
        (
            "name = \"me\"\n[interface]\nmtu = 99999999999999999999",
            "meshd.toml:3:7: ",
        ),
        ("", "meshd.toml: no name; add a line `name = \"NAME\"`"),
    ] {
        let said = said(text);
        assert!(
            said.iter().any(|line| line.contains(told)),
            "{text:?}: {said:#?}"
        );
        assert!(tree(text).load().is_err(), "{text:?}");
    }
    let many =
        said("name = \"me\"\n[trust]\nstrict_subnet = 1\n[listen]\nport = \"x\"\nnone = 1\n");
    assert_eq!(many.len(), 3, "{many:#?}");
}

#[test]
fn a_bad_host_file_costs_that_node_only() {
    for (text, told) in [
        ("subnets = [\"10.1.0.1/16\"]", "hosts/a.toml:2:12: "),
        (
            "endpoints = [\"10.0.0.1 655\"]",
            "hosts/a.toml:2:14: `endpoints` must be \"HOST\"",
        ),
        (
            "endpoints = [\"[fd00::1\"]",
            "hosts/a.toml:2:14: `endpoints` must be \"HOST\"",
        ),
        (
            "ConnectTo = [\"x\"]",
            "hosts/a.toml:2:1: unknown key `ConnectTo`; it belongs into meshd.toml",
        ),
        (
            "Subnet = [\"10.0.0.0/8\"]",
            "hosts/a.toml:2:1: unknown key `Subnet`; it is `subnets` here",
        ),
        ("rsa = 7", "hosts/a.toml:2:7: `rsa` must be the PEM text"),
        ("subnets = [", "hosts/a.toml:2:"),
    ] {
        let tree = tree("name = \"me\"\n");
        tree.write(
            "hosts/a.toml",
            &format!("ed25519 = \"{}\"\n{text}\n", key(1).public()),
        );
        tree.write("hosts/b", &host(2));
        let config = tree.load().unwrap();
        let said = tree.said();
        assert!(
            said.iter().any(|line| line.starts_with(told)),
            "{text:?}: {said:#?}"
        );
        // As in tinc's form: a value that is wrong costs its line.
        let whole = text.starts_with("subnets = [\"");
        let left: &[&str] = if whole { &["a", "b"] } else { &["b"] };
        assert_eq!(nodes(&config), left, "{text:?}");
        assert!(
            said.iter().all(|line| line.contains("hosts/a.toml")),
            "{said:#?}"
        );
    }
}

#[test]
fn one_node_has_one_file() {
    let tree = tree("name = \"me\"\n");
    tree.write("hosts/a", &host(1));
    tree.write(
        "hosts/a.toml",
        &format!("ed25519 = \"{}\"\n", key(1).public()),
    );
    let said = tree.said();
    assert_eq!(
        said,
        ["hosts/a: hosts/a.toml exists too; remove one of the two"]
    );
    assert!(nodes(&tree.load().unwrap()).is_empty());
    tree.write("tinc.conf", "Name = me\n");
    let problems = tree.load().unwrap_err();
    let told = "tinc.conf: meshd.toml exists too";
    assert!(
        problems.iter().any(|p| p.to_string().starts_with(told)),
        "{problems:?}"
    );
}

#[test]
fn a_private_key_that_others_may_read_stops_us() {
    let tree = tree("name = \"me\"\n");
    let open = fs::Permissions::from_mode(0o640);
    fs::set_permissions(tree.at("ed25519_key.priv"), open).unwrap();
    let said = tree.load().unwrap_err();
    assert!(
        said[0]
            .to_string()
            .contains("other users may read it (mode 640)"),
        "{said:?}"
    );
}

#[test]
fn an_rsa_key_stands_in_the_file_itself() {
    let pem = include_str!("../vectors/tinc-1.0.json");
    let vectors: serde_json::Value = serde_json::from_str(pem).unwrap();
    let pem = vectors["rsa_keys"]["alpha"]["public_pem"].as_str().unwrap();
    let tree = tree("name = \"me\"\n");
    // As a template's JSON filter writes it.
    tree.write(
        "hosts/a.toml",
        &format!("rsa = {}\n", serde_json::Value::from(pem)),
    );
    let hosts = &tree.load().unwrap().settings.hosts;
    let a = hosts
        .values()
        .next()
        .unwrap_or_else(|| panic!("{:#?}", tree.said()));
    assert!(a.rsa.is_some() && a.key.is_none());
}

#[test]
fn new_keys_stand_in_front_and_old_ones_become_comments() {
    let tree = tree("name = \"me\"\n");
    let file = tree.at("hosts/me.toml");
    let old = fs::read_to_string(&file).unwrap();
    let rest = "rsa = '''\n-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n'''\nport = 700\n";
    tree.write("hosts/me.toml", &format!("{old}{rest}"));
    assert!(meshd::config::keys::write_public(&file, &key(5).public()).unwrap());
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        format!("ed25519 = \"{}\"\n# {old}{rest}", key(5).public())
    );
    let rsa = RsaPrivate::generate(1024, &mut Rng::new([7; 32])).unwrap();
    let private = tree.at("rsa_key.priv");
    assert!(meshd::config::keys::write_rsa(&private, &file, &rsa).unwrap());
    let text = fs::read_to_string(&file).unwrap();
    let host = to_tinc(&text, File::Host, Path::new("hosts/me.toml"));
    assert_eq!(host.problems, []);
    assert!(
        host.text.contains(rsa.public().to_pem().trim_end()),
        "{}",
        host.text
    );
    assert!(
        host.text.contains("\nPort = 700\n") && !host.text.contains("\nAAAA"),
        "{}",
        host.text
    );
}

#[test]
fn what_is_not_honoured_yet_is_said() {
    let proxy = "name = \"me\"\n[connect]\nproxy = \"socks5 10.0.0.1 1080\"\n";
    let said = said(proxy);
    assert!(
        said.iter()
            .any(|line| line.starts_with("meshd.toml:3:9: meshd does not support Proxy yet: ")),
        "{said:?}"
    );
    let tree = tree(proxy);
    assert!(tree.load().is_err());
}
