use std::fs;

use Dialect::Legacy;
use meshd_diagnose::migrate::fixtures::{db, down, line, own};

use super::*;

/// A tinc 1.0 between leaves out what it does not know.
#[test]
fn an_edge_told_by_another_proves_no_tinc_1_0() {
    let edge = |from: &str, to: &str, local: &str| EdgeRow {
        from: from.into(),
        to: to.into(),
        host: "10.0.0.1".into(),
        port: "655".into(),
        local_host: local.into(),
        local_port: "655".into(),
        options: 0xc,
        weight: 1,
    };
    let edges = [
        edge("web", "old", "10.0.0.9"),
        edge("old", "web", "unspec"),
        edge("old", "db", "unspec"),
        edge("db", "old", "unspec"),
        edge("new", "db", "unspec"),
        edge("new", "web", "10.0.0.3"),
    ];
    for (name, local) in [
        ("old", Some(false)),
        ("db", None),
        ("new", Some(true)),
        ("x", None),
    ] {
        assert_eq!(names_local(name, "web", &edges), local, "{name}");
    }
}

/// To forbid all else is the last step, and only when no other node has one left.
#[test]
fn the_last_advice_comes_when_all_others_have_none() {
    let all = |facts: Vec<Progress>| {
        let facts = facts.into_iter().map(|facts| (facts, String::new()));
        rows(&own(), facts.collect(), &[])
    };
    let codes = |rows: &[Row]| -> Vec<Option<Code>> {
        let codes = rows.iter().map(|row| row.todo.as_ref());
        codes
            .map(|todo| todo.map(|todo| todo.finding.code))
            .collect()
    };
    let some = all(vec![
        db(),
        Progress {
            offers: None,
            ..down()
        },
    ]);
    assert_eq!(codes(&some), [None, None, Some(Code::Unknown)]);
    assert_eq!(
        headline(&own(), &some, false),
        "priv - web - 3 nodes: 2 native, 1 down - 1 left to do"
    );
    let none = all(vec![db(), down()]);
    assert_eq!(codes(&none), [Some(Code::MayFallBack), None, None]);
    let lax = Progress {
        min: Some(Legacy),
        min_line: line("hosts/db:5", "legacy"),
        ..db()
    };
    assert_eq!(codes(&all(vec![lax])), [Some(Code::MayFallBack); 2]);
}

#[test]
fn files_are_looked_at_as_they_are_now() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    fs::create_dir(dir.path().join("hosts")).unwrap();
    let key = "Ed25519PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    write("tinc.conf", "Name = web\nNative = no\n");
    write("hosts/web", "Port = 655\nMinProtocol = Legacy\n");
    write("hosts/old", "Address = 10.0.0.1\nMinProtocol = sptps\n");
    write(
        "hosts/bad",
        "Address = 10.0.0.1\nEd25519PublicKey = nonsense\n",
    );
    write("hosts/good", &format!("{}\n", key.replace("AAAA", "BBBB")));
    let source = Source {
        base: dir.path().into(),
        ..Source::default()
    };
    assert_eq!(
        super::line(&source, None, "Native"),
        line("tinc.conf:2", "no")
    );
    assert_eq!(
        super::line(&source, None, "MinProtocol"),
        line("hosts/web:2", "legacy")
    );
    let of = |name: &str| of_file(&source, name);
    assert_eq!(of("old").disk, Some(Ok(HostFile::NoKey)));
    assert_eq!(of("old").min_line, line("hosts/old:2", "sptps"));
    assert_eq!(of("none").disk, Some(Ok(HostFile::Missing)));
    let bad = of("bad").disk.unwrap().unwrap_err();
    assert!(bad.starts_with("hosts/bad:2: "), "{bad}");
    assert_eq!(unheard(&source, "web", &[]), ["bad", "good", "old"]);
    assert_eq!(unheard_of(&source, "old").host_file, HostFile::NoKey);
}
