//! `meshctl why`.

use std::{fs, sync::Mutex};

use meshd::api::{
    call::{self, Request},
    proto::Response,
};
use serde_json::Value;

use crate::{
    daemon::{Daemon, healthy},
    ended, meshctl, run, tree,
};

#[test]
fn the_first_broken_step_is_named_for_people_and_programs() {
    let daemon = Daemon::new(healthy);
    let (code, out, err) = daemon.run(&["why", "cache_1"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "cache_1 10.7.0.0/24: reachable, but over TCP (expected UDP)"
    );
    assert_eq!(lines.len(), 12);
    let udp = lines
        .iter()
        .find(|line| line.contains("udp probe"))
        .unwrap();
    assert!(
        udp.starts_with(" ✗ udp probe     10.132.0.31:655 no reply to 9 probes since "),
        "{udp}"
    );
    assert!(
        udp.ends_with("; cache_1 says: our packets do not arrive"),
        "{udp}"
    );
    assert!(lines[11].starts_with(
        " → Likely a firewall between web_01 and cache_1. On cache_1: `meshctl -n priv firewall --verify`"
    ));

    let (code, out, _) = daemon.run(&["why", "cache_1", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["schema"]), (1, &"meshctl.why/1".into()));
    let data = &json["data"];
    assert_eq!(
        (&data["from"], &data["to"], &data["broken"]),
        (&"web_01".into(), &"cache_1".into(), &"udp_probe".into())
    );
    assert_eq!(data["steps"][5]["state"], "broken");
    assert_eq!(data["sight"]["pair"]["udp"]["unanswered"], 9);
    assert_eq!(data["to_says"]["up"], false);
    let (_, out, _) = daemon.run(&["-o", "tsv", "why", "cache_1"]);
    assert!(
        out.lines().count() == 10 && out.contains("udp_probe\tbroken\t10.132.0.31:655"),
        "{out}"
    );
}

/// Requests that the daemon of the next test received.
static REQUESTS: Mutex<Vec<Request>> = Mutex::new(Vec::new());

fn noted(request: Request) -> Option<Response> {
    REQUESTS.lock().unwrap().push(request.clone());
    healthy(request)
}

/// The daemon takes all facts at one instant, so `why` asks once.
#[test]
fn why_is_one_request() {
    let daemon = Daemon::new(noted);
    for (typed, from, to) in [
        (&["cache_1"][..], None, "cache_1"),
        (&["10.7.0.9"], None, "10.7.0.9"),
        (&["cache_1", "db_01"], Some("cache_1"), "db_01"),
    ] {
        daemon.run(&[&["why"], typed].concat());
        let (from, to) = (from.map(str::to_owned), to.to_owned());
        let requests = std::mem::take(&mut *REQUESTS.lock().unwrap());
        assert_eq!(requests, [call::Why { from, to }.into()]);
    }
}

#[test]
fn exit_codes_tell_what_is_wrong_from_what_is_unknown() {
    let daemon = Daemon::new(healthy);
    let why = |what: &str| daemon.run(&["why", what]);
    let (code, out, _) = why("db_1");
    assert_eq!(code, 4);
    assert!(
        out.contains("✗ name  there is no node \"db_1\"; did you mean db_01?"),
        "{out}"
    );
    assert_eq!(why("192.0.2.1").0, 4);
    let (code, out, _) = why("10.9.0.7");
    assert_eq!(code, 1);
    assert!(
        out.contains("✗ trust         cache_1 announces 10.9.0.0/24, which is refused"),
        "{out}"
    );
    assert_eq!(why("10.7.0.9").0, 1, "no such route in the kernel here");
    let (code, out, _) = why("web_01");
    assert!(
        code == 0 && out.starts_with("web_01: this is our own node"),
        "{out}"
    );
    let (code, out, _) = daemon.run(&["why", "cache_1", "db_01"]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.starts_with("cache_1 to db_01: a step between them is broken"),
        "{out}"
    );
    assert_eq!(run(&["--socket", "/nonexistent/s", "why", "db_01"]).0, 3);
    assert_eq!(run(&["why"]).0, 2);

    let mut ascii = meshctl(&[
        "--socket",
        daemon.socket().to_str().unwrap(),
        "why",
        "cache_1",
    ]);
    let (_, out, _) = ended(ascii.env("LANG", "C").output().unwrap());
    assert!(
        out.is_ascii() && out.contains(" x udp probe") && out.contains("\n -> Likely"),
        "{out}"
    );
}

#[test]
fn files_alone_are_judged_without_a_daemon() {
    let dir = tree();
    let why = |what: &str| run(&["-c", dir.path().to_str().unwrap(), "why", what]);
    let (code, out, err) = why("db_01");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("✓ key           hosts/db_01, ed25519 SHA256:"),
        "{out}"
    );
    assert!(
        out.contains("Address 10.0.0.2 port 655") && out.contains("- meta path"),
        "{out}"
    );
    assert_eq!(why("db_1").0, 4);
    fs::write(
        dir.path().join("hosts/db_01"),
        "Address = 10.0.0.2\nEd25519PublicKey = x\n",
    )
    .unwrap();
    let (code, out, _) = why("db_01");
    assert!(
        code == 1 && out.contains("✗ key           hosts/db_01:2: "),
        "{out}"
    );
    fs::write(dir.path().join("tinc.conf"), "Nome = x\n").unwrap();
    assert_eq!(why("db_01").0, 7);
}

#[test]
fn hops_and_health_are_shown_for_people_programs_and_plugins() {
    let daemon = Daemon::new(healthy);
    let (code, out, err) = daemon.run(&["trace", "db_01"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "1 web_01          0.0ms\n2 db_01   udp     0.5ms\n");
    let (code, out, _) = daemon.run(&["trace", "10.7.0.9", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["schema"]), (0, &"meshctl.trace/1".into()));
    assert_eq!(json["data"]["hops"][1]["role"], "owner of 10.7.0.0/24");
    assert_eq!(json["data"]["hops"][1]["kind"], "udp");
    let (code, out, _) = daemon.run(&["trace", "old_03"]);
    assert!(code == 1 && out.ends_with("not reachable\n"), "{out}");
    assert_eq!(daemon.run(&["trace", "nobody"]).0, 4);

    let (code, out, _) = daemon.run(&["health"]);
    assert_eq!(code, 1);
    assert!(
        out.starts_with(
            "web_01: 3 of 4 peers up, 1 direct, 1 tcp, 1 relayed\n ✗ 1 of 4 peers down: old_03\n"
        ),
        "{out}"
    );
    assert_eq!(daemon.run(&["health", "--down-warning", "2"]).0, 0);
    let (code, out, err) = daemon.run(&["health", "--nagios", "--detour-critical", "2"]);
    assert_eq!((code, err.as_str()), (2, ""));
    assert!(
        out.starts_with("MESHD CRITICAL - priv web_01: 1 of 4 peers down: old_03; 1 over TCP"),
        "{out}"
    );
    assert!(
        out.contains(" | up=3;;;0;4 ") && out.lines().count() == 1,
        "{out}"
    );
    assert_eq!(daemon.run(&["health", "--nagios"]).0, 1);
    let (code, out, _) = run(&["--socket", "/nonexistent/s", "health", "--nagios"]);
    assert!(
        code == 2 && out.starts_with("MESHD CRITICAL - meshd is not running"),
        "{out}"
    );
    assert_eq!(run(&["--socket", "/nonexistent/s", "health"]).0, 3);
    assert_eq!(run(&["-n", "no_such_net", "health", "--nagios"]).0, 3);
}

#[test]
fn the_mesh_is_drawn_from_the_daemon_and_from_files() {
    let daemon = Daemon::new(healthy);
    let (code, out, _) = daemon.run(&["graph"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("priv, seen from web_01 at 2026-11-22T10:29:18Z\n@ web_01  this node\n"),
        "{out}"
    );
    let dir = tree();
    let base = dir.path().to_str().unwrap();
    let file = dir.path().join("mesh.png");
    let graph = |arguments: &[&str]| run(&[&["-c", base, "graph"], arguments].concat());
    let (code, out, _) = graph(&[]);
    assert_eq!(code, 0);
    assert!(
        out.ends_with("@ web_01  this node\n└─ ● db_01  configured\n"),
        "{out}"
    );
    assert_eq!(
        graph(&["--format", "png", "--out", file.to_str().unwrap()]).0,
        0
    );
    assert!(fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    assert!(graph(&["--format", "svg"]).1.starts_with("<svg "));
    let json: Value = serde_json::from_str(&graph(&["--format", "json"]).1).unwrap();
    assert_eq!(
        (&json["schema"], &json["data"]["links"][0]["from"]),
        (&"meshctl.graph/1".into(), &"db_01".into())
    );
    assert_eq!(graph(&["--format", "gif"]).0, 2);
    assert_eq!(graph(&["--format", "svg", "--out", "/nonexistent/x"]).0, 1);
}

#[test]
fn rules_are_made_from_the_host_files() {
    let dir = tree();
    let base = dir.path().to_str().unwrap();
    let (code, out, err) = run(&["-c", base, "firewall"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("elements = { 10.0.0.2 }") && out.contains("table inet meshd_web_01 {"),
        "{out}"
    );
    fs::write(
        dir.path().join("hosts/lab"),
        fs::read_to_string(dir.path().join("hosts/web_01")).unwrap(),
    )
    .unwrap();
    let (code, out, err) = run(&["-c", base, "firewall", "--format", "ufw"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("from 10.0.0.2 to any port 655 proto tcp"),
        "{out}"
    );
    assert!(
        err.contains("no numeric Address in the host files of lab"),
        "{err}"
    );
    fs::remove_file(dir.path().join("hosts/db_01")).unwrap();
    assert_eq!(run(&["-c", base, "firewall"]).0, 8);
}
