//! Checks the content of packaging/ with the programs that read it.
//!
//! `MESHD_PROMTOOL`: Prometheus's promtool (default: the one that `tests/run` fetches, `target/peers/…`).

mod debs;
mod terraform;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use meshd::config::toml::keys::File;
use meshd_testing::skip;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs promtool in the root of the repository. Where there is none the test is skipped.
fn promtool(arguments: &[&str]) {
    let default = || Path::new(ROOT).join("target/peers/prometheus/usr/bin/promtool");
    let program = env::var_os("MESHD_PROMTOOL").map_or_else(default, PathBuf::from);
    if !program.exists() {
        return skip("promtool", "`tests/run peers` fetches it");
    }
    let output = Command::new(program)
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .expect("promtool runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// The formula's TOML name of each variable is one that meshd reads.
#[test]
fn the_formula_knows_every_key_of_toml() {
    let mut wanted = String::new();
    for (file, keys) in [("daemon", File::Daemon.keys()), ("host", File::Host.keys())] {
        wanted.push_str(&format!("{file}:\n"));
        for key in keys {
            let form = format!("{:?}", key.form).to_lowercase();
            wanted.push_str(&format!(
                "  {}: {{table: '{}', name: {}, form: {form}, many: {}}}\n",
                key.var, key.table, key.name, key.many
            ));
        }
    }
    let file = Path::new(ROOT).join("packaging/salt/meshd/toml.yaml");
    let text = fs::read_to_string(file).expect("it is there");
    let (_, names) = text.split_once('\n').expect("the first line is a comment");
    assert_eq!(names, wanted);
}

#[test]
fn alert_rules_are_sound_and_fire_when_they_should() {
    promtool(&["check", "rules", "packaging/prometheus/meshd.rules.yml"]);
    promtool(&["test", "rules", "tests/packaging/rules.test.yml"]);
}

/// Every query of the dashboard, with its variables filled in, as rules: promtool reads no dashboards.
#[test]
fn queries_of_the_dashboard_are_sound() {
    let file = Path::new(ROOT).join("packaging/grafana/meshd.json");
    let text = fs::read_to_string(file).expect("the dashboard is there");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let mut rules = Vec::new();
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        for target in panel["targets"].as_array().expect("a panel has queries") {
            let query = target["expr"].as_str().expect("a query is text");
            let query = query.replace("$__rate_interval", "5m");
            let record = format!("panel:{}", rules.len());
            rules.push(serde_json::json!({"record": record, "expr": query}));
        }
    }
    assert!(rules.len() >= 15);
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let dir = tempfile::tempdir().expect("there is room");
    let file = dir.path().join("rules.yml");
    fs::write(&file, groups.to_string()).expect("there is room");
    promtool(&["check", "rules", file.to_str().expect("its name is text")]);
}
