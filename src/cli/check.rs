//! `meshctl check`: every mistake of a configuration at once, without a daemon.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{
        Exit, Outcome,
        args::Format,
        context::Context,
        output::{self, Frame},
    },
    config::{self, Problem},
    daemon::clock,
};

#[derive(Serialize)]
struct Checked {
    config: String,
    /// Host files that can be used; null if the configuration as a whole cannot.
    hosts: Option<usize>,
    errors: usize,
    warnings: usize,
    problems: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    file: String,
    /// 0: the whole file.
    line: usize,
    level: &'static str,
    text: String,
}

/// Exit code 7 for errors, 1 for warnings under `strict`.
pub(super) fn run(context: &Context, dir: Option<PathBuf>, strict: bool) -> Outcome {
    let source = context.source(dir)?;
    let loaded = config::load(&source, None);
    let (node, hosts, problems) = match &loaded {
        Ok(config) => {
            let settings = &config.settings;
            (
                Some(settings.name.as_str()),
                Some(settings.hosts.len()),
                &config.problems,
            )
        }
        Err(problems) => (None, None, problems),
    };
    let errors = problems.iter().filter(|p| p.error).count();
    let warnings = problems.len() - errors;
    let checked = Checked {
        config: source.base.display().to_string(),
        hosts,
        errors,
        warnings,
        problems: problems.iter().map(row).collect(),
    };
    match context.format {
        Format::Json => {
            let time = clock::rfc3339(clock::wall());
            let frame = Frame {
                net: source.net.as_deref(),
                node,
                time: &time,
            };
            output::json("check", &frame, &checked)?;
        }
        Format::Tsv => output::print(|out| {
            checked.problems.iter().try_for_each(|row| {
                writeln!(
                    out,
                    "{}\t{}\t{}\t{}",
                    row.file, row.line, row.level, row.text
                )
            })
        })?,
        Format::Table => {
            for problem in problems {
                output::say(&human(problem));
            }
            output::print(|out| writeln!(out, "{}", summary(&checked, node)))?;
        }
    }
    Ok(match (errors, warnings) {
        (0, 0) => Exit::Fine,
        (0, _) if strict => Exit::Negative,
        (0, _) => Exit::Fine,
        _ => Exit::Config,
    })
}

fn row(problem: &Problem) -> Row {
    Row {
        file: problem.file.display().to_string(),
        line: problem.line,
        level: level(problem),
        text: problem.text.clone(),
    }
}

fn level(problem: &Problem) -> &'static str {
    if problem.error { "error" } else { "warning" }
}

/// `hosts/a:3: error: …`
fn human(problem: &Problem) -> String {
    let text = format!("{}: {}", level(problem), problem.text);
    Problem {
        text,
        ..problem.clone()
    }
    .to_string()
}

fn summary(checked: &Checked, node: Option<&str>) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let hosts = checked
        .hosts
        .map(|n| format!("{}, ", count(n, "other node")));
    let node = node.map(|node| format!("node {node}, "));
    format!(
        "{}: {}{}{}, {}",
        checked.config,
        node.unwrap_or_default(),
        hosts.unwrap_or_default(),
        count(checked.errors, "error"),
        count(checked.warnings, "warning"),
    )
}
