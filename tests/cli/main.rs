//! meshctl as its users run it: against files, against nobody, and against a scripted daemon.
//!
//! Source: cli/meshctl.md sections 4.1 to 4.3.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "waits for real daemons; helpers of tests fail like tests"
)]

mod capture;
mod change_table;
mod check_table;
mod daemon;
mod files;
mod hostile;
mod log_reader;
mod support;
mod top;
mod why;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use meshd::{
    api::{
        proto::{ChangeKind, ControlError, ErrorCode, Planned, Response},
        rows::PeerRow,
    },
    config::keys,
    crypto::{PrivateKey, Rng},
    link::Dialect,
    mesh::reports::facts::PathKind,
};
use serde_json::{Value, json};

use daemon::{Daemon, healthy, peer};

fn meshctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(arguments).env_clear().env("LANG", "C.UTF-8");
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    ended(meshctl(arguments).output().unwrap())
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::generate(&mut Rng::new([seed; 32]))
}

/// A good configuration of node `web_01`.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("hosts")).unwrap();
    fs::write(
        dir.path().join("tinc.conf"),
        "Name = web_01\nConnectTo = db_01\n",
    )
    .unwrap();
    keys::write_private(&dir.path().join("ed25519_key.priv"), &key(1)).unwrap();
    keys::write_public(&dir.path().join("hosts/web_01"), &key(1).public()).unwrap();
    fs::write(dir.path().join("hosts/db_01"), "Address = 10.0.0.2\n").unwrap();
    keys::write_public(&dir.path().join("hosts/db_01"), &key(2).public()).unwrap();
    dir
}

#[test]
fn peers_are_a_table_for_people() {
    let (code, out, err) = Daemon::new(healthy).run(&["peers"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "priv · web_01 172.20.0.11 · 4 peers: 1 direct, 1 tcp, 1 relayed, 1 down · meshd 1.0.0 up 12d 4h"
    );
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words(lines[1]),
        [
            "NAME", "ADDRESS", "PATH", "TUNNEL", "ENDPOINT", "RTT", "MTU", "RX", "TX", "SINCE",
            "NOTE"
        ]
    );
    let db =
        "● db_01 172.20.0.21 +1 udp native AES-256-GCM 10.132.0.21:655 0.4ms 1451 1.2G 12k 12d";
    assert_eq!(words(lines[2]).join(" "), db);
    let symbols: Vec<&str> = lines[2..]
        .iter()
        .map(|line| &line[..line.find(' ').unwrap()])
        .collect();
    assert_eq!(symbols, ["●", "◐", "◑", "○"]);
    assert!(lines[4].contains("via lb_01") && lines[4].ends_with("no Address in hosts/web_09"));
    let column = |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count();
    assert_eq!(column(lines[1], "PATH"), column(lines[2], "udp"));
    assert_eq!(column(lines[1], "PATH"), column(lines[5], "down"));
    assert!(!out.contains('\x1b'), "no colours into a pipe");
}

#[test]
fn output_follows_locale_colour_and_header_options() {
    let daemon = Daemon::new(healthy);
    let socket = daemon.socket();
    let mut command = meshctl(&[
        "--socket",
        socket.to_str().unwrap(),
        "--color=always",
        "--no-header",
        "peers",
    ]);
    let (_, out, _) = ended(command.env("LC_ALL", "C").output().unwrap());
    assert!(out.is_ascii());
    assert_eq!(out.lines().count(), 4);
    assert!(out.starts_with("\x1b[32m*\x1b[0m  db_01"), "{out}");
}

#[test]
fn json_and_tsv_hold_the_same_for_programs() {
    let daemon = Daemon::new(healthy);
    let (code, out, _) = daemon.run(&["peers", "--json"]);
    assert_eq!(code, 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], "meshctl.peers/1");
    assert_eq!(json["net"], "priv");
    assert_eq!(json["node"], "web_01");
    assert_eq!(json["time"], "2026-11-22T10:29:18Z");
    let rows: Vec<PeerRow> = serde_json::from_value(json["data"].clone()).unwrap();
    assert_eq!(rows[0], peer("db_01", PathKind::Udp));
    assert_eq!(rows.len(), 4);

    let (_, out, _) = daemon.run(&["-o", "tsv", "peers"]);
    let table: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    assert!(table.iter().all(|row| row.len() == table[0].len()));
    assert_eq!(
        table[1][..6],
        [
            "db_01",
            "true",
            "udp",
            "",
            "172.20.0.21,10.7.0.0/24",
            "10.132.0.21:655"
        ]
    );
}

#[test]
fn status_is_one_screen() {
    let daemon = Daemon::new(|request| {
        let mut response = healthy(request)?;
        if let Response::Status(status) = &mut response {
            status.refused_calls = [("bpf".into(), 2)].into();
        }
        Some(response)
    });
    let (code, out, _) = daemon.run(&["status"]);
    assert_eq!(code, 0);
    for part in [
        "up 12d 4h",
        "node web_01",
        "iface mesh0  mtu 1400",
        "4 of 5 nodes",
        "no_route 5",
        "refused system calls: bpf 2",
        "udp_gso, recvmmsg  without tun_uso",
        "meshd-w0",
        "device, 0.0.0.0:655, beat 7s ago, drops no_route 4",
        "17 packets had a source outside their sender's subnets",
        "3 downgrades",
        "1 problem",
        "hosts/x:1: no value",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("ttl"), "reasons without drops say nothing");
    let (_, out, _) = daemon.run(&["status", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["data"]["mesh"]["reachable"], 4);
    assert_eq!(json["data"]["threads"][0]["beat_age_seconds"], 7.3);
    let (_, out, _) = daemon.run(&["-o", "tsv", "status"]);
    assert!(out.contains("thread_meshd-w0_drops_no_route\t4\n"), "{out}");
}

#[test]
fn migrate_status_says_what_is_left_and_its_exit_code_whether_anything_is() {
    let daemon = Daemon::new(healthy);
    let (code, out, err) = daemon.run(&["migrate", "status"]);
    assert_eq!((code, err.as_str()), (10, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "priv · web_01 · 5 nodes: 2 native, 1 sptps, 1 silent, 1 down · 2 left to do"
    );
    assert!(lines[2].starts_with("web_01") && lines[2].ends_with('-'));
    assert!(lines[4].contains("meshd or tinc 1.1") && lines[4].contains("on cache_1, install"));
    assert!(lines[6].contains("(no Address in hosts/old_03)"));
    let (code, out, _) = daemon.run(&["migrate", "status", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &json["schema"]),
        (10, &"meshctl.migrate.status/1".into())
    );
    let row = &json["data"][2];
    assert_eq!(
        (&row["runs"], &row["speaks"]),
        (&"meshd-or-tinc-1.1".into(), &"sptps".into())
    );
    assert_eq!(row["todo"]["code"], "no_native_there");
    assert_eq!(
        (&json["data"][1]["todo"], &row["why"]["code"]),
        (&Value::Null, &"no_address".into())
    );

    let done = Daemon::new(|request| {
        let mut response = healthy(request)?;
        match &mut response {
            Response::Peers(rows) => rows.retain(|row| row.protocol == Some(Dialect::Native)),
            Response::Status(status) => status.min_protocol = Some(Dialect::Native),
            _ => {}
        }
        Some(response)
    });
    let (code, out, _) = done.run(&["migrate", "status"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("priv · web_01 · 2 nodes: 2 native · nothing left to do"),
        "{out}"
    );
    let nobody = ["--socket", "/nonexistent/socket", "migrate", "status"];
    assert_eq!(run(&nobody).0, 3);
}

#[test]
fn routes_say_who_gets_the_packets() {
    let daemon = Daemon::new(healthy);
    let (_, out, _) = daemon.run(&["routes"]);
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["SUBNET", "OWNER", "WEIGHT", "STATE"]);
    assert_eq!(rows[3], ["10.7.0.0/24", "cache_1", "20", "standby"]);
    let (code, out, _) = daemon.run(&["routes", "get", "10.7.0.9"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "10.7.0.0/24 -> db_01 (weight 10, active)\n")
    );
    let (code, _, err) = daemon.run(&["routes", "get", "::1"]);
    assert_eq!(code, 4);
    assert!(err.contains("in no subnet"), "{err}");
    assert_eq!(daemon.run(&["routes", "get", "somewhere"]).0, 2);
}

/// The line of pya is one that a real tincd 1.1 printed (tests/vectors/tinc-1.1.json, control).
/// Graph weights are in single precision, as a real `tinc dump graph` printed them.
#[test]
fn dumps_are_in_the_text_of_tinc() {
    let daemon = Daemon::new(healthy);
    let lines = |what: &[&str]| -> Vec<String> {
        let (code, out, err) = daemon.run(&[&["dump"], what].concat());
        assert_eq!(code, 0, "{err}");
        out.lines().map(Into::into).collect()
    };
    assert_eq!(lines(&["nodes"]).len(), 3);
    let nodes = lines(&["reachable", "nodes"]);
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        nodes[0],
        "pya id cd198b483cdf at 127.0.0.1 port 655 cipher 0 digest 0 maclength 0 compression 0 options \
         700000c status 00da nexthop pya via pya distance 1 pmtu 1518 (min 1408 max 1518) rx 0 0 tx 3 294 \
         rtt 0.534"
    );
    assert_eq!(
        lines(&["edges"]),
        [
            "web_01 to pya at 127.0.0.1 port 33455 local 127.0.0.1 port 6582 options 700000c weight 74"
        ]
    );
    assert_eq!(lines(&["subnets"])[2], "10.7.0.0/24#20 owner cache_1");
    assert!(lines(&["connections"]).is_empty());
    assert_eq!(
        lines(&["graph"])[4],
        r#" "web_01" -- "pya" [w = 886.621643, weight = 886.621643];"#
    );
    assert_eq!(daemon.run(&["dump", "reachable", "edges"]).0, 2);
    assert_eq!(daemon.run(&["dump", "everything"]).0, 2);
    let (_, out, _) = daemon.run(&["dump", "digraph", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["data"]["nodes"][1]["name"], "pya");
}

#[test]
fn pings_count_answers_and_losses() {
    let daemon = Daemon::new(healthy);
    let (code, out, _) = daemon.run(&["ping", "db_02", "-c", "1"]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "1 0.51ms udp 10.132.0.22:655 · pmtu 1451\n1 of 1 answered · loss 0%\n"
    );
    let (code, out, _) = daemon.run(&["ping", "old_03", "-c", "1", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["data"]["loss_ratio"]), (1, &Value::from(1.0)));
    assert_eq!(daemon.run(&["ping", "nobody"]).0, 4);
}

#[test]
fn metrics_are_printed_as_they_come_or_written_whole() {
    let daemon = Daemon::new(healthy);
    let (code, text, _) = daemon.run(&["metrics"]);
    assert_eq!((code, text.lines().last()), (0, Some("meshd_up 1")));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meshd.prom");
    let into = |file: &Path| daemon.run(&["metrics", "--textfile", file.to_str().unwrap()]);
    assert_eq!(into(&file), (0, String::new(), String::new()));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let (code, _, error) = into(&dir.path().join("none/meshd.prom"));
    assert!(code == 1 && error.contains("none/meshd.prom"), "{error}");
}

#[test]
fn plans_are_marked_and_tell_by_their_exit_code() {
    let daemon = Daemon::new(healthy);
    let (code, out, err) = daemon.run(&["plan"]);
    assert_eq!((code, err.as_str()), (10, ""));
    assert_eq!(
        out,
        "~ hosts/web_01:3: Port = 655 -> Port = 656, after a restart\n+ hosts/new is new\n\
         = restart needed: Port; disconnected: db_01 (limit without --yes: 3 of 30 nodes)\n"
    );
    let (code, out, _) = daemon.run(&["plan", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["data"]["cut"][0]), (10, &Value::from("db_01")));
    assert_eq!(
        json["data"]["changed"][0],
        json!({
            "kind": "changed", "file": "hosts/web_01", "line": 3, "key": "Port",
            "old": "Port = 655", "new": "Port = 656", "when": "restart",
        })
    );
    assert_eq!(daemon.run(&["confirm"]).0, 8);
    let none = Daemon::new(|_| Some(Response::Plan(Box::default())));
    assert_eq!(none.run(&["plan"]).0, 0);
    let refused = Daemon::new(|_| {
        Some(Response::Plan(Box::new(Planned {
            changed: vec![daemon::host_file(ChangeKind::Removed, "hosts/b")],
            refused: Some("it would disconnect 9 of 9".into()),
            ..Planned::default()
        })))
    });
    let (code, out, err) = refused.run(&["plan"]);
    assert!(
        code == 8 && out.starts_with("- hosts/b") && err.contains("9 of 9"),
        "{out}{err}"
    );
}

/// cli/meshctl.md section 4.2.
#[test]
fn exit_codes_tell_what_went_wrong() {
    let daemon = Daemon::new(healthy);
    assert_eq!(daemon.run(&["retry"]).0, 0);
    let (code, out, _) = daemon.run(&["reload"]);
    assert_eq!(code, 9);
    assert_eq!(
        out,
        "- hosts/db_01 is gone\nrestart needed for: Interface\n"
    );
    let (code, _, err) = daemon.run(&["stop"]);
    assert_eq!(code, 5);
    assert!(
        err.contains("only root may stop meshd; try it with `sudo`"),
        "{err}"
    );
    assert_eq!(daemon.run(&["log"]).0, 8, "an answer to another question");
    assert_eq!(run(&["peers", "--nonsense"]).0, 2);
    assert_eq!(run(&[]).0, 2);

    let nowhere = daemon.dir.path().join("none");
    let (code, out, err) = run(&["--socket", nowhere.to_str().unwrap(), "peers"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(
        err.contains("meshd is not running") && err.contains("systemctl start"),
        "{err}"
    );
    assert_eq!(run(&["-n", "no_such_net", "peers"]).0, 4);
    assert_eq!(run(&["-n", "../x", "peers"]).0, 2);
    let pidfile = daemon.dir.path().join("x.pid");
    assert_eq!(run(&["--pidfile", pidfile.to_str().unwrap(), "peers"]).0, 3);

    let silent = Daemon::new(|_| None);
    let (code, _, err) = silent.run(&["--timeout", "1", "peers"]);
    assert_eq!(code, 6);
    assert!(err.contains("--timeout 60"), "{err}");
    let broken = Daemon::new(|_| {
        let (code, text) = (ErrorCode::Config, "tinc.conf:1: no value".into());
        Some(Response::Error(ControlError { code, text }))
    });
    let (code, _, err) = broken.run(&["reload"]);
    assert_eq!(code, 7);
    assert!(
        err.contains("tinc.conf:1: no value") && err.contains("`meshctl check`"),
        "{err}"
    );
}

#[test]
fn the_daemon_of_a_pid_file_is_found() {
    let daemon = Daemon::new(healthy);
    fs::rename(daemon.socket(), daemon.dir.path().join("x.meshd.sock")).unwrap();
    let pidfile = daemon.dir.path().join("x.pid");
    assert_eq!(run(&["--pidfile", pidfile.to_str().unwrap(), "peers"]).0, 0);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let daemon = Daemon::new(healthy);
    let socket = daemon.socket();
    for command in [
        &["--socket", socket.to_str().unwrap(), "peers"][..],
        &["generate", "man"],
    ] {
        let mut child = meshctl(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn completions_and_man_pages_are_made_from_the_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["generate", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("peers") && out.contains("keygen"), "{shell}");
    }
    use meshd::config::toml::keys::File;
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        run(&["generate", "man", "--out", dir.path().to_str().unwrap()]).0,
        0
    );
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(page("meshctl.1").contains("peers"));
    assert!(page("meshctl-check.1").contains("strict"));
    assert!(page("meshd.8").contains("pidfile"));
    let variables = page("meshd.conf.5");
    for var in meshd::config::vars::VARS {
        assert!(
            variables.contains(&format!("\\fB{}\\fR", var.name)),
            "{}",
            var.name
        );
    }
    let toml = page("meshd.toml.5");
    for file in [File::Daemon, File::Host] {
        for key in file.keys() {
            assert!(
                toml.contains(&format!("\\fB{}\\fR", key.path())),
                "{}",
                key.path()
            );
        }
    }
    let (_, out, _) = run(&["generate", "man", "--page", "meshd.conf"]);
    assert_eq!(out, variables);
}

#[test]
fn under_the_daemons_name_it_is_the_daemon() {
    let help = |name: &str| {
        let output = meshctl(&["--help"]).arg0(name).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(help("meshctl").contains("Inspect and control meshd"));
    assert!(!help("/usr/sbin/meshd").contains("Inspect and control meshd"));
}

#[test]
fn the_sample_host_files_are_good() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts");
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("hosts")).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&path, dir.path().join("hosts").join(&name)).unwrap();
        names.push(name);
    }
    assert_eq!(names.len(), 3);
    fs::write(
        dir.path().join("tinc.conf"),
        "Name = me\nConnectTo = db_01\n",
    )
    .unwrap();
    let (code, _, err) = run(&["-c", dir.path().to_str().unwrap(), "keygen"]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = run(&["check", "--strict", dir.path().to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}
