//! The crates of the workspace import each other as CONTRIBUTING.md says, and each program is built from its own code.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Crates by name, or by their directory below `src`.
type Names = BTreeSet<String>;

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the map of CONTRIBUTING.md: each crate with the crates that it may import. A row about a module of a crate
/// adds to the crate's imports; a crate's own modules are no imports.
fn written() -> BTreeMap<String, Names> {
    let text = fs::read_to_string(format!("{ROOT}/CONTRIBUTING.md")).unwrap();
    let mut map: BTreeMap<String, Names> = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [place, _, imports] = cells[..] else {
            panic!("no table of three columns: {row}");
        };
        let place = place.trim_matches('`').trim_start_matches("src/");
        let (krate, module) = place.split_once('/').unwrap_or((place, ""));
        // Between modules of a crate a review keeps the order.
        let imports = match (krate, module) {
            ("proto", module) if !module.is_empty() => "",
            _ => imports,
        };
        let imports = imports.split('`').skip(1).step_by(2);
        let imports = imports.filter(|import| *import != "io").map(Into::into);
        map.entry(krate.into()).or_default().extend(imports);
    }
    map
}

/// Returns the crates below `src` with those that each depends on, but for tests.
fn built() -> BTreeMap<String, Names> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let ours = |name: &Value| {
        name.as_str()
            .unwrap()
            .strip_prefix("meshd-")
            .map(String::from)
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter_map(|package| {
            let imports = package["dependencies"].as_array().unwrap().iter();
            let imports = imports.filter(|import| import["kind"] != "dev");
            let imports = imports.filter_map(|import| ours(&import["name"]));
            Some((ours(&package["name"])?, imports.collect()))
        })
        .collect()
}

#[test]
fn crates_import_what_the_map_says_and_no_more() {
    let (written, built) = (written(), built());
    assert!(written.len() > 10, "{written:?}");
    assert_eq!(built, written);
}

/// Returns the crates that a program is built from with only this feature.
fn parts(feature: &str) -> Names {
    let tree = cargo(&[
        "tree",
        "--edges=normal",
        "--prefix=none",
        "--format={p}",
        "--no-default-features",
        "--features",
        feature,
    ]);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.map(Into::into).collect()
}

fn lacks(parts: &Names, foreign: &[&str]) {
    let found: Vec<_> = foreign
        .iter()
        .filter(|name| parts.contains(**name))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

const TERMINAL: [&str; 10] = [
    "meshd-cli",
    "clap",
    "clap_complete",
    "clap_mangen",
    "comfy-table",
    "crossterm",
    "noto-sans-mono-bitmap",
    "ratatui",
    "tar",
    "tiny-skia",
];
const PRIVILEGED: [&str; 9] = [
    "meshd-daemon",
    "meshd-dataplane",
    "caps",
    "hyper",
    "landlock",
    "prometheus",
    "quinn-udp",
    "seccompiler",
    "syscalls",
];

#[test]
fn meshd_has_no_code_for_terminals_pictures_and_archives() {
    let meshd = parts("daemon");
    assert!(
        PRIVILEGED.iter().all(|name| meshd.contains(*name)),
        "{meshd:?}"
    );
    lacks(&meshd, &TERMINAL);
}

#[test]
fn meshctl_alone_has_no_privileged_code() {
    let meshctl = parts("cli");
    assert!(
        TERMINAL.iter().all(|name| meshctl.contains(*name)),
        "{meshctl:?}"
    );
    lacks(&meshctl, &PRIVILEGED);
}
