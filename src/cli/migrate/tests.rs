use std::fs;

use super::*;
use Dialect::{Legacy, Native, Sptps};

fn own() -> Own {
    Own {
        name: "web".into(),
        net: Some("priv".into()),
        config: "/etc/tinc/priv".into(),
        main: "tinc.conf".into(),
        pid: 7,
        offers: Native,
        min: None,
        key_file: true,
        experimental: None,
        native: None,
        min_line: None,
    }
}

/// A node in order: native, with a host file as it was read.
fn db() -> Facts {
    Facts {
        name: "db".into(),
        up: true,
        speaks: Some(Native),
        offers: Some(Native),
        min: Some(Sptps),
        host_file: HostFile::Key,
        why: None,
        local: Some(true),
        disk: Some(Ok(HostFile::Key)),
        min_line: None,
    }
}

fn keyless() -> Facts {
    Facts {
        speaks: Some(Legacy),
        min: Some(Legacy),
        host_file: HostFile::NoKey,
        disk: Some(Ok(HostFile::NoKey)),
        ..db()
    }
}

fn down() -> Facts {
    Facts {
        up: false,
        speaks: None,
        local: None,
        ..db()
    }
}

fn line(place: &str, value: &str) -> Option<Line> {
    let (place, value) = (place.into(), value.into());
    Some(Line { place, value })
}

/// Code, next step, and what the sentence must hold of commands and places.
type Expected = (&'static str, Option<Dialect>, &'static [&'static str]);

#[track_caller]
fn check(what: &str, todo: Option<Todo>, expected: Option<Expected>) {
    let Some((code, next, parts)) = expected else {
        assert_eq!(todo, None, "{what}");
        return;
    };
    let todo = todo.unwrap_or_else(|| panic!("{what}: nothing to do"));
    assert_eq!(
        (todo.code, todo.next),
        (code, next),
        "{what}: {}",
        todo.text
    );
    for part in parts {
        assert!(
            todo.text.contains(part),
            "{what}: no {part:?} in {}",
            todo.text
        );
    }
    assert!(!todo.text.contains('\n'), "{what}: {}", todo.text);
}

// One case a line or two.
#[rustfmt::skip]
#[test]
fn each_case_of_another_node_has_its_advice() {
    let web = own();
    let no_key = Own { offers: Legacy, key_file: false, ..own() };
    let no_native = Own { offers: Sptps, native: line("tinc.conf:3", "no"), ..own() };
    let strict = Own { min: Some(Native), min_line: line("tinc.conf:1", "native"), ..own() };
    let tinc_1_0 = Facts { offers: Some(Legacy), local: Some(false), ..keyless() };
    let tinc_1_1 = Facts { speaks: Some(Sptps), offers: Some(Sptps), ..db() };
    let forbidden = Facts { speaks: None, min: Some(Native), ..tinc_1_1.clone() };
    let refused = Reason { code: "x".into(), text: "refused: no".into() };
    let lax = Facts { min: Some(Legacy), min_line: line("hosts/db:5", "legacy"), ..db() };
    let cases: Vec<(&str, &Own, Facts, Option<Expected>)> = vec![
        ("native", &web, db(), None),
        ("nothing sent yet", &web, Facts { speaks: None, ..db() }, None),
        ("runs tinc 1.0", &no_key, tinc_1_0.clone(), Some(("tinc_1_0", Some(Sptps),
            &["on db, `systemctl disable --now tinc@priv`", "`systemctl enable --now meshd@priv`"]))),
        ("runs tinc 1.0, and we have a key", &web, tinc_1_0, Some(("tinc_1_0", Some(Sptps), &[]))),
        ("runs meshd without key", &no_key, Facts { offers: Some(Legacy), ..keyless() }, Some(("no_key_there", Some(Sptps),
            &["on db, `meshctl -n priv keygen && systemctl restart meshd@priv`", "hosts/db"]))),
        ("of an unknown program", &no_key, Facts { offers: Some(Legacy), local: None, ..keyless() },
            Some(("legacy_there", Some(Sptps), &["check that meshd runs there", "keygen"]))),
        ("has a key, we have none", &no_key, keyless(), Some(("own_key_first", Some(Native), &["see web"]))),
        ("its key is not here", &web, keyless(), Some(("no_key", Some(Native),
            &["hosts/db has no Ed25519PublicKey", "copy hosts/db from db", "`meshctl -n priv reload`"]))),
        ("no host file", &web, Facts { host_file: HostFile::Missing, disk: Some(Ok(HostFile::Missing)), ..keyless() },
            Some(("no_key", Some(Native), &["there is no hosts/db here"]))),
        ("does not know our key", &web, Facts { host_file: HostFile::Key, disk: Some(Ok(HostFile::Key)), ..keyless() },
            Some(("our_key_unknown_there", Some(Native), &["copy our hosts/web to db", "`meshctl -n priv reload` there"]))),
        ("key known, but it runs tinc 1.0", &web, Facts { speaks: None, offers: Some(Legacy), local: Some(false), ..db() },
            Some(("forbidden", Some(Sptps), &["its Ed25519PublicKey in hosts/db forbids", "install meshd on db",
                "`MinProtocol = legacy` into hosts/db"]))),
        ("key known, but its meshd does not use it", &web, Facts { speaks: None, offers: Some(Legacy), ..db() },
            Some(("forbidden", Some(Sptps), &["on db, `meshctl -n priv keygen"]))),
        ("no RSA key of ours any more", &web, Facts { speaks: None, offers: Some(Legacy), min: Some(Sptps), ..keyless() },
            Some(("forbidden", Some(Sptps), &["the missing rsa_key.priv"]))),
        ("runs tinc 1.1", &web, tinc_1_1.clone(), Some(("no_native_there", Some(Native), &["on db, install meshd", "Native = no"]))),
        ("runs tinc 1.1, we have no key", &no_key, Facts { speaks: Some(Legacy), ..tinc_1_1 },
            Some(("own_key_first", Some(Sptps), &["see web"]))),
        ("runs tinc 1.1, our file forbids", &strict, forbidden.clone(), Some(("forbidden", Some(Native),
            &["MinProtocol = native in tinc.conf:1 forbids", "install meshd on db", "`MinProtocol = sptps` into hosts/db"]))),
        ("runs tinc 1.1, its host file forbids", &web, Facts { min_line: line("hosts/db:4", "native"), ..forbidden },
            Some(("forbidden", Some(Native), &["in hosts/db:4 forbids"]))),
        ("we have Native = no", &no_native, Facts { speaks: Some(Sptps), ..db() }, Some(("own_native_first", Some(Native), &["see web"]))),
        ("both offer native in vain", &web, Facts { speaks: Some(Sptps), ..db() },
            Some(("native_fails", Some(Native), &["PresharedKeyFile", "`meshctl -n priv log`"]))),
        ("host file changed", &web, Facts { disk: Some(Ok(HostFile::Key)), ..keyless() },
            Some(("not_reloaded", None, &["hosts/db", "`meshctl -n priv reload`"]))),
        ("host file says another MinProtocol", &web, Facts { min_line: line("hosts/db:1", "legacy"), ..db() },
            Some(("not_reloaded", None, &["hosts/db"]))),
        ("host file is broken", &web, Facts { disk: Some(Err("hosts/db:3: bad key".into())), ..db() },
            Some(("bad_host_file", None, &["hosts/db:3: bad key; then `meshctl -n priv reload`"]))),
        ("host file is not ours to read", &web, Facts { disk: None, ..db() }, None),
        ("host file allows less", &web, lax, Some(("may_fall_back", None, &["MinProtocol = legacy in hosts/db:5", "remove that line"]))),
        ("down, native before", &web, down(), None),
        ("down, tinc 1.1 before", &web, Facts { offers: Some(Sptps), ..down() }, Some(("no_native_there", Some(Native), &["on db"]))),
        ("down, legacy before", &web, Facts { up: false, speaks: None, offers: Some(Legacy), local: None, ..keyless() },
            Some(("legacy_there", Some(Sptps), &["check that meshd runs there"]))),
        ("never seen", &web, Facts { offers: None, ..down() }, Some(("unknown", None,
            &["not heard of since meshd started", "delete hosts/db"]))),
        ("never reached", &web, Facts { offers: None, why: Some(refused), ..down() }, Some(("unknown", None, &["(refused: no)"]))),
    ];
    for (what, own, facts, expected) in cases {
        check(what, facts.todo(own), expected);
    }
}

#[rustfmt::skip]
#[test]
fn each_case_of_our_own_node_has_its_advice() {
    let legacy = Own { offers: Legacy, ..own() };
    let cases: Vec<(&str, Own, bool, Option<Expected>)> = vec![
        ("no key", Own { key_file: false, ..legacy.clone() }, false, Some(("no_own_key", Some(Sptps),
            &["`meshctl -n priv keygen`", "`systemctl restart meshd@priv`", "hosts/web to all nodes"]))),
        ("no net", Own { key_file: false, net: None, ..legacy.clone() }, false, Some(("no_own_key", Some(Sptps),
            &["`meshctl -c /etc/tinc/priv keygen`", "a restart of meshd"]))),
        ("a key not in use", legacy.clone(), false, Some(("not_restarted", Some(Sptps), &["`systemctl restart meshd@priv`"]))),
        ("ExperimentalProtocol", Own { experimental: line("tinc.conf:9", "no"), key_file: false, ..legacy }, false,
            Some(("experimental_protocol", Some(Sptps), &["tinc.conf:9", "keygen`, then `systemctl"]))),
        ("Native = no", Own { offers: Sptps, native: line("conf.d/a.conf:2", "no"), ..own() }, false,
            Some(("native_off", Some(Native), &["Native = no in conf.d/a.conf:2", "`meshctl -n priv reload`"]))),
        ("Native = no before", Own { offers: Sptps, ..own() }, false, Some(("not_reloaded", Some(Native), &["reload`"]))),
        ("others have not come so far", own(), false, None),
        ("all are native", own(), true, Some(("may_fall_back", None, &["`MinProtocol = native` into tinc.conf,", "reload`"]))),
        ("all are native, in TOML", Own { main: "meshd.toml (`trust.min_protocol`)".into(), ..own() }, true,
            Some(("may_fall_back", None, &["`MinProtocol = native` into meshd.toml (`trust.min_protocol`), then"]))),
        ("all are native, another line", Own { min: Some(Sptps), min_line: line("tinc.conf:4", "sptps"), ..own() }, true,
            Some(("may_fall_back", None, &["into tinc.conf:4"]))),
        ("forbidden, not reloaded", Own { min_line: line("tinc.conf:1", "native"), ..own() }, true,
            Some(("not_reloaded", None, &["tinc.conf:1"]))),
        ("forbidden, no net", Own { min_line: line("tinc.conf:1", "native"), net: None, ..own() }, true,
            Some(("not_reloaded", None, &["`kill -HUP 7`"]))),
        ("forbidden", Own { min: Some(Native), min_line: line("tinc.conf:1", "native"), ..own() }, true, None),
    ];
    for (what, own, all_native, expected) in cases {
        check(what, own.todo(all_native), expected);
    }
}

#[test]
fn what_a_node_runs_is_said_only_where_it_shows() {
    for (offers, speaks, local, runs) in [
        (Some(Native), None, None, Runs::Meshd),
        (None, Some(Native), None, Runs::Meshd),
        // Others may say less of it than it speaks.
        (Some(Legacy), Some(Native), Some(false), Runs::Meshd),
        (Some(Sptps), Some(Sptps), Some(true), Runs::MeshdOrTinc11),
        (Some(Legacy), Some(Legacy), Some(true), Runs::MeshdOrTinc11),
        (Some(Legacy), Some(Legacy), Some(false), Runs::Tinc10),
        (Some(Legacy), None, None, Runs::Unknown),
        (None, None, None, Runs::Unknown),
    ] {
        let facts = Facts {
            offers,
            speaks,
            local,
            ..db()
        };
        assert_eq!(facts.runs(), runs, "{offers:?} {speaks:?} {local:?}");
    }
}

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
    let all = |facts: Vec<Facts>| {
        let facts = facts.into_iter().map(|facts| (facts, String::new()));
        rows(&own(), facts.collect())
    };
    let codes = |rows: &[Row]| -> Vec<Option<&'static str>> {
        let codes = rows.iter().map(|row| row.todo.as_ref());
        codes.map(|todo| todo.map(|todo| todo.code)).collect()
    };
    let some = all(vec![
        db(),
        Facts {
            offers: None,
            ..down()
        },
    ]);
    assert_eq!(codes(&some), [None, None, Some("unknown")]);
    assert_eq!(
        headline(&own(), &some, false),
        "priv - web - 3 nodes: 2 native, 1 down - 1 left to do"
    );
    let none = all(vec![db(), down()]);
    assert_eq!(codes(&none), [Some("may_fall_back"), None, None]);
    let lax = Facts {
        min: Some(Legacy),
        min_line: line("hosts/db:5", "legacy"),
        ..db()
    };
    assert_eq!(codes(&all(vec![lax])), [Some("may_fall_back"); 2]);
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
    let of = |name: &str| Facts::of_file(&source, name);
    assert_eq!(of("old").disk, Some(Ok(HostFile::NoKey)));
    assert_eq!(of("old").min_line, line("hosts/old:2", "sptps"));
    assert_eq!(of("none").disk, Some(Ok(HostFile::Missing)));
    let bad = of("bad").disk.unwrap().unwrap_err();
    assert!(bad.starts_with("hosts/bad:2: "), "{bad}");
    assert_eq!(unheard(&source, "web", &[]), ["bad", "good", "old"]);
    assert_eq!(Facts::unheard(&source, "old").host_file, HostFile::NoKey);
}
