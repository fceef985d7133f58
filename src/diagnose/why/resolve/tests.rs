use super::*;
use crate::{
    Code,
    why::{
        tests::{prefix, subnet},
        unknown,
    },
};

/// Stands for the distance of two names.
fn nearness(typed: &str, name: &str) -> Option<usize> {
    let common = typed.bytes().rev().zip(name.bytes().rev());
    let near = typed.len() == name.len() && typed[..2].eq_ignore_ascii_case(&name[..2]);
    near.then(|| common.filter(|(a, b)| a != b).count())
}

fn world() -> World {
    World {
        own: "web_01".into(),
        names: ["db_01", "db_02", "gw_02", "gw_03", "lab_07"]
            .map(String::from)
            .into(),
        subnets: vec![
            subnet("172.20.0.11", "web_01", 10, true),
            subnet("172.20.7.0/24", "gw_02", 10, true),
            subnet("172.20.7.0/24", "gw_03", 20, false),
            subnet("172.20.7.9", "db_02", 10, true),
            subnet("fd00::/64", "gw_03", 10, true),
            SubnetRow {
                owner: None,
                ..subnet("224.0.0.0/4", "-", 10, true)
            },
        ],
        refused: vec![RefusedRow {
            owner: "lab_07".into(),
            subnet: prefix("10.9.0.0/24"),
            why: "not in hosts/lab_07".into(),
            rule: Rule::Bound,
        }],
        nearness,
    }
}

#[test]
fn names_addresses_and_subnets_lead_to_a_node() {
    let world = world();
    for (typed, node, first) in [
        ("db_01", "db_01", None),
        ("web_01", "web_01", Some("172.20.0.11")),
        ("gw_03", "gw_03", Some("172.20.7.0/24")),
        ("172.20.7.8", "gw_02", Some("172.20.7.0/24")),
        ("172.20.7.9", "db_02", Some("172.20.7.9")),
        ("172.20.7.0/24", "gw_02", Some("172.20.7.0/24")),
        ("172.20.7.128/25", "gw_02", Some("172.20.7.0/24")),
        ("fd00::7", "gw_03", Some("fd00::/64")),
        ("10.9.0.1", "lab_07", None),
    ] {
        let target = world.resolve(typed).unwrap();
        assert_eq!(target.node.as_str(), node, "{typed}");
        assert_eq!(
            target.subnets.first().map(|row| row.subnet),
            first.map(prefix),
            "{typed}"
        );
        assert_eq!(target.refused.is_some(), typed == "10.9.0.1", "{typed}");
    }
    assert_eq!(
        world.resolve("gw_03").unwrap().subnets[0].owner.as_deref(),
        Some("gw_03")
    );
}

#[test]
fn what_means_no_node_is_told_with_what_is_near() {
    let world = world();
    for (typed, parts) in [
        (
            "db_03",
            &[
                "no node \"db_03\"; did you mean db_01, db_02",
                "`meshctl peers`",
            ][..],
        ),
        ("WEB_01", &["did you mean web_01?"]),
        (
            "nothing_like_it",
            &["no node \"nothing_like_it\"", "hosts/nothing_like_it"],
        ),
        (
            "10.200.0.1",
            &[
                "10.200.0.1 is in no subnet",
                "`Subnet = 10.200.0.1`",
                "`meshctl routes`",
            ],
        ),
        ("172.20.0.0/16", &["in no subnet"]),
        ("fd99::1", &["in no subnet"]),
        ("224.0.0.5", &["broadcast subnet"]),
        ("a\u{1b}b", &["a\\u{1b}b"]),
        ("", &["no node"]),
    ] {
        let end = world.resolve(typed).unwrap_err();
        let said = format!("{} {}", end.text, end.remedy);
        for part in parts {
            assert!(said.contains(part), "{typed}: {part:?} not in {said}");
        }
        let verdict = unknown(typed, &end);
        assert_eq!(verdict.broken().unwrap().code, Code::NameUnknown);
    }
}
