use Dialect::{Legacy, Native, Sptps};

use super::{
    fixtures::{db, down, line, own},
    *,
};

fn keyless() -> Progress {
    Progress {
        speaks: Some(Legacy),
        min: Some(Legacy),
        host_file: HostFile::NoKey,
        disk: Some(Ok(HostFile::NoKey)),
        ..db()
    }
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
        (todo.finding.code.word().as_str(), todo.next),
        (code, next),
        "{what}: {}",
        todo.finding.text
    );
    for part in parts {
        assert!(
            todo.finding.text.contains(part),
            "{what}: no {part:?} in {}",
            todo.finding.text
        );
    }
    assert!(
        !todo.finding.text.contains('\n'),
        "{what}: {}",
        todo.finding.text
    );
}

/// A case of another node.
type Case = (&'static str, Own, Progress, Option<Expected>);

// One case a line or two.
#[rustfmt::skip]
fn others() -> Vec<Case> {
    let web = own();
    let no_key = Own { offers: Legacy, key_file: false, ..own() };
    let no_native = Own { offers: Sptps, native: line("tinc.conf:3", "no"), ..own() };
    let strict = Own { min: Some(Native), min_line: line("tinc.conf:1", "native"), ..own() };
    let tinc_1_0 = Progress { offers: Some(Legacy), local: Some(false), ..keyless() };
    let tinc_1_1 = Progress { speaks: Some(Sptps), offers: Some(Sptps), ..db() };
    let forbidden = Progress { speaks: None, min: Some(Native), ..tinc_1_1.clone() };
    let refused = "refused: no".to_owned();
    let lax = Progress { min: Some(Legacy), min_line: line("hosts/db:5", "legacy"), ..db() };
    vec![
        ("native", web.clone(), db(), None),
        ("nothing sent yet", web.clone(), Progress { speaks: None, ..db() }, None),
        ("runs tinc 1.0", no_key.clone(), tinc_1_0.clone(), Some(("tinc_1_0", Some(Sptps),
            &["on db, `systemctl disable --now tinc@priv`", "`systemctl enable --now meshd@priv`"]))),
        ("runs tinc 1.0, and we have a key", web.clone(), tinc_1_0, Some(("tinc_1_0", Some(Sptps), &[]))),
        ("runs meshd without key", no_key.clone(), Progress { offers: Some(Legacy), ..keyless() }, Some(("no_key_there", Some(Sptps),
            &["on db, `meshctl -n priv keygen && systemctl restart meshd@priv`", "hosts/db"]))),
        ("of an unknown program", no_key.clone(), Progress { offers: Some(Legacy), local: None, ..keyless() },
            Some(("legacy_there", Some(Sptps), &["check that meshd runs there", "keygen"]))),
        ("has a key, we have none", no_key.clone(), keyless(), Some(("own_key_first", Some(Native), &["see web"]))),
        ("its key is not here", web.clone(), keyless(), Some(("no_key", Some(Native),
            &["hosts/db has no Ed25519PublicKey", "copy hosts/db from db", "`meshctl -n priv reload`"]))),
        ("no host file", web.clone(), Progress { host_file: HostFile::Missing, disk: Some(Ok(HostFile::Missing)), ..keyless() },
            Some(("no_key", Some(Native), &["there is no hosts/db here"]))),
        ("does not know our key", web.clone(), Progress { host_file: HostFile::Key, disk: Some(Ok(HostFile::Key)), ..keyless() },
            Some(("our_key_unknown_there", Some(Native), &["copy our hosts/web to db", "`meshctl -n priv reload` there"]))),
        ("key known, but it runs tinc 1.0", web.clone(), Progress { speaks: None, offers: Some(Legacy), local: Some(false), ..db() },
            Some(("forbidden", Some(Sptps), &["its Ed25519PublicKey in hosts/db forbids", "install meshd on db",
                "`MinProtocol = legacy` into hosts/db"]))),
        ("key known, but its meshd does not use it", web.clone(), Progress { speaks: None, offers: Some(Legacy), ..db() },
            Some(("forbidden", Some(Sptps), &["on db, `meshctl -n priv keygen"]))),
        ("no RSA key of ours any more", web.clone(), Progress { speaks: None, offers: Some(Legacy), min: Some(Sptps), ..keyless() },
            Some(("forbidden", Some(Sptps), &["the missing rsa_key.priv"]))),
        ("runs tinc 1.1", web.clone(), tinc_1_1.clone(), Some(("no_native_there", Some(Native), &["on db, install meshd", "Native = no"]))),
        ("runs tinc 1.1, we have no key", no_key, Progress { speaks: Some(Legacy), ..tinc_1_1 },
            Some(("own_key_first", Some(Sptps), &["see web"]))),
        ("runs tinc 1.1, our file forbids", strict, forbidden.clone(), Some(("forbidden", Some(Native),
            &["MinProtocol = native in tinc.conf:1 forbids", "install meshd on db", "`MinProtocol = sptps` into hosts/db"]))),
        ("runs tinc 1.1, its host file forbids", web.clone(), Progress { min_line: line("hosts/db:4", "native"), ..forbidden },
            Some(("forbidden", Some(Native), &["in hosts/db:4 forbids"]))),
        ("we have Native = no", no_native, Progress { speaks: Some(Sptps), ..db() }, Some(("own_native_first", Some(Native), &["see web"]))),
        ("both offer native in vain", web.clone(), Progress { speaks: Some(Sptps), ..db() },
            Some(("native_fails", Some(Native), &["PresharedKeyFile", "`meshctl -n priv log`"]))),
        ("host file changed", web.clone(), Progress { disk: Some(Ok(HostFile::Key)), ..keyless() },
            Some(("not_reloaded", None, &["hosts/db", "`meshctl -n priv reload`"]))),
        ("host file says another MinProtocol", web.clone(), Progress { min_line: line("hosts/db:1", "legacy"), ..db() },
            Some(("not_reloaded", None, &["hosts/db"]))),
        ("host file is broken", web.clone(), Progress { disk: Some(Err("hosts/db:3: bad key".into())), ..db() },
            Some(("bad_host_file", None, &["hosts/db:3: bad key; then `meshctl -n priv reload`"]))),
        ("host file is not ours to read", web.clone(), Progress { disk: None, ..db() }, None),
        ("host file allows less", web.clone(), lax, Some(("may_fall_back", None, &["MinProtocol = legacy in hosts/db:5", "remove that line"]))),
        ("down, native before", web.clone(), down(), None),
        ("down, tinc 1.1 before", web.clone(), Progress { offers: Some(Sptps), ..down() }, Some(("no_native_there", Some(Native), &["on db"]))),
        ("down, legacy before", web.clone(), Progress { up: false, speaks: None, offers: Some(Legacy), local: None, ..keyless() },
            Some(("legacy_there", Some(Sptps), &["check that meshd runs there"]))),
        ("never seen", web.clone(), Progress { offers: None, ..down() }, Some(("unknown", None,
            &["not heard of since meshd started", "delete hosts/db"]))),
        ("never reached", web, Progress { offers: None, why: Some(refused), ..down() }, Some(("unknown", None, &["(refused: no)"]))),
    ]
}

#[test]
fn each_case_of_another_node_has_its_advice() {
    for (what, own, node, expected) in others() {
        let (own, node) = (&own, &node);
        check(what, Migration { node, own }.todo(), expected);
    }
}

/// Findings of every case.
pub(crate) fn all() -> Vec<Finding> {
    let others = others().into_iter().filter_map(|(_, own, node, _)| {
        let (own, node) = (&own, &node);
        Migration { node, own }.todo()
    });
    let ours = ours().into_iter();
    let ours = ours.filter_map(|(_, own, all_native, _)| own.todo(all_native));
    others.chain(ours).map(|todo| todo.finding).collect()
}

fn no_net() -> Here {
    Here {
        net: None,
        ..own().here
    }
}

/// A case of our own node.
type OwnCase = (&'static str, Own, bool, Option<Expected>);

#[rustfmt::skip]
fn ours() -> Vec<OwnCase> {
    let legacy = Own { offers: Legacy, ..own() };
    vec![
        ("no key", Own { key_file: false, ..legacy.clone() }, false, Some(("no_own_key", Some(Sptps),
            &["`meshctl -n priv keygen`", "`systemctl restart meshd@priv`", "hosts/web to all nodes"]))),
        ("no net", Own { key_file: false, here: no_net(), ..legacy.clone() }, false, Some(("no_own_key", Some(Sptps),
            &["`meshctl -c /etc/tinc/priv keygen`", "a restart of meshd"]))),
        ("a key not in use", legacy.clone(), false, Some(("not_restarted", Some(Sptps), &["`systemctl restart meshd@priv`"]))),
        ("ExperimentalProtocol", Own { experimental: line("tinc.conf:9", "no"), key_file: false, ..legacy }, false,
            Some(("experimental_protocol", Some(Sptps), &["tinc.conf:9", "keygen`, then `systemctl"]))),
        ("Native = no", Own { offers: Sptps, native: line("conf.d/a.conf:2", "no"), ..own() }, false,
            Some(("native_off", Some(Native), &["Native = no in conf.d/a.conf:2", "`meshctl -n priv reload`"]))),
        ("Native = no before", Own { offers: Sptps, ..own() }, false, Some(("not_reloaded", Some(Native), &["reload`"]))),
        ("others have not come so far", own(), false, None),
        ("all are native", own(), true, Some(("may_fall_back", None, &["`MinProtocol = native` into tinc.conf,", "reload`"]))),
        ("all are native, in TOML", Own { here: Here { main: "meshd.toml (`trust.min_protocol`)".into(), ..own().here }, ..own() }, true,
            Some(("may_fall_back", None, &["`MinProtocol = native` into meshd.toml (`trust.min_protocol`), then"]))),
        ("all are native, another line", Own { min: Some(Sptps), min_line: line("tinc.conf:4", "sptps"), ..own() }, true,
            Some(("may_fall_back", None, &["into tinc.conf:4"]))),
        ("forbidden, not reloaded", Own { min_line: line("tinc.conf:1", "native"), ..own() }, true,
            Some(("not_reloaded", None, &["tinc.conf:1"]))),
        ("forbidden, no net", Own { min_line: line("tinc.conf:1", "native"), here: no_net(), ..own() }, true,
            Some(("not_reloaded", None, &["`kill -HUP 7`"]))),
        ("forbidden", Own { min: Some(Native), min_line: line("tinc.conf:1", "native"), ..own() }, true, None),
    ]
}

#[test]
fn each_case_of_our_own_node_has_its_advice() {
    for (what, own, all_native, expected) in ours() {
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
        let facts = Progress {
            offers,
            speaks,
            local,
            ..db()
        };
        assert_eq!(facts.runs(), runs, "{offers:?} {speaks:?} {local:?}");
    }
}
