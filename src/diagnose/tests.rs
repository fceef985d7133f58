//! Every code is produced from facts, and no two codes share a text.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Code, Finding, health, migrate, peer, why};

fn all() -> Vec<Finding> {
    let mut all = peer::tests::all();
    all.extend(why::tests::all());
    all.extend(why::ends::tests::all());
    all.extend(health::tests::all());
    all.extend(migrate::tests::all());
    all
}

#[test]
fn each_code_is_produced_by_some_facts() {
    let produced: BTreeSet<Code> = all().iter().map(|finding| finding.code).collect();
    let missing = Code::ALL.iter().filter(|code| !produced.contains(code));
    let missing: Vec<&str> = missing.map(|code| code.id()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_two_codes_share_a_text_and_each_text_is_one_line() {
    let mut codes: BTreeMap<String, Code> = BTreeMap::new();
    for Finding { code, text, .. } in all() {
        assert!(
            !text.is_empty() && !text.contains('\n'),
            "{code:?}: {text:?}"
        );
        let first = *codes.entry(text.clone()).or_insert(code);
        assert_eq!(first, code, "{text:?}");
    }
}
