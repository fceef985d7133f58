//! `meshctl why`.

use std::fs;

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
        " → Likely a firewall between us. On cache_1: `meshctl -n priv firewall --verify`"
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
        out.contains("✗ trust         cache_1 announces 10.9.0.0/24, which is not believed"),
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
        out.starts_with("cache_1 to db_01: something is broken"),
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
