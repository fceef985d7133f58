//! `meshctl check`: shows every mistake in a configuration at once, without a daemon.

use std::path::{Path, PathBuf};

use serde::Serialize;

use meshd_config::{Config, Problem, Source};
use meshd_crypto::ed25519::KeyError;
use meshd_os::clock;
use meshd_wire::NodeName;

use crate::{
    Exit, Outcome,
    args::{CheckedPlace, Format},
    context::Context,
    output::{self, Frame},
    running_key,
};

#[derive(Serialize)]
struct Checked {
    config: String,
    /// Number of usable host files; null if the whole configuration is unusable.
    hosts: Option<usize>,
    errors: usize,
    warnings: usize,
    problems: Vec<Row>,
    /// Facts that are not mistakes but that the operator must know.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    file: String,
    /// 0: the whole file.
    line: usize,
    /// 0: the whole line.
    column: usize,
    level: &'static str,
    text: String,
}

/// Returns an error for each key of a host file that has torsion: the daemon looks at that only when
/// a node uses the key.
fn unsound_keys(config: &Config) -> Vec<Problem> {
    let hosts = config.settings.hosts.iter();
    let unsound = hosts.filter(|(_, host)| {
        let mut keys = host.key.iter().chain(&host.next);
        keys.any(|key| !key.is_torsion_free())
    });
    let problem = |(name, _): (&NodeName, _)| {
        let file = Path::new("hosts").join(name.as_str());
        Problem::error(&file, 0, KeyError::Torsion.to_string())
    };
    unsound.map(problem).collect()
}

/// Returns exit code 7 for errors, and 1 for warnings under `strict`.
pub(super) fn run(
    context: &Context,
    path: Option<PathBuf>,
    place: Option<CheckedPlace>,
    strict: bool,
) -> Outcome {
    let source = match (place, path) {
        (Some(place), Some(file)) => judged(context.source(None)?, place, file),
        (_, dir) => context.source(dir)?,
    };
    let mut loaded = meshd_config::load(&source, None);
    if let Ok(config) = &mut loaded
        && let Some(status) = running_key::daemon_of(context, &source.base)
        && let Some((file, key)) = running_key::other_than_running(&status)
    {
        let relative = file.strip_prefix(&status.config).unwrap_or(&file);
        let text = meshd_diagnose::health::other_key(&key.to_string());
        config.problems.push(Problem::warning(relative, 0, text));
    }
    if let Ok(config) = &mut loaded {
        let unsound = unsound_keys(config);
        config.problems.extend(unsound);
    }
    if let Some((place, _)) = &source.instead {
        // Problems of other files are dropped: the author of this file does not write them.
        let problems = match &mut loaded {
            Ok(config) => &mut config.problems,
            Err(problems) => problems,
        };
        problems.retain(|problem| problem.file == *place);
    }
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
        notes: loaded
            .as_ref()
            .ok()
            .and_then(Config::not_filtered)
            .into_iter()
            .collect(),
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
                if let Some(excerpt) = excerpt(&source, problem) {
                    output::say(&excerpt);
                }
            }
            output::print(|out| {
                let mut notes = checked.notes.iter();
                notes.try_for_each(|note| writeln!(out, "note: {note}"))?;
                writeln!(out, "{}", summary(&checked, node))
            })?;
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
        column: problem.column,
        level: level(problem),
        text: problem.text.clone(),
    }
}

fn level(problem: &Problem) -> &'static str {
    if problem.error { "error" } else { "warning" }
}

/// Returns the source of a directory in which `file` stands at `place`.
fn judged(source: Source, place: CheckedPlace, file: PathBuf) -> Source {
    let toml = |now: &Path| {
        let is_toml = |file: &Path| {
            file.extension()
                .is_some_and(|extension| extension == "toml")
        };
        is_toml(&file) || is_toml(now)
    };
    let within = match place {
        CheckedPlace::Path(within) => within,
        CheckedPlace::Daemon => match toml(meshd_config::main_file(&source)) {
            true => meshd_config::toml::MAIN.into(),
            false => "tinc.conf".into(),
        },
        CheckedPlace::Host(name) => match toml(&meshd_config::host_path(&source, &name)) {
            true => format!("hosts/{name}.toml").into(),
            false => format!("hosts/{name}").into(),
        },
    };
    Source {
        instead: Some((within, file)),
        ..source
    }
}

/// Returns the line of a problem with a known column, and a mark under the column.
fn excerpt(source: &Source, problem: &Problem) -> Option<String> {
    let before = problem.column.checked_sub(1)?;
    let text = meshd_config::files::read_text(&source.path(&problem.file)).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().nth(problem.line.checked_sub(1)?)?;
    let keep = |c: char| if c == '\t' { c } else { ' ' };
    let blanks: String = line.chars().take(before).map(keep).collect();
    Some(format!("    {line}\n    {blanks}^"))
}

/// `hosts/a:3: error: …`
pub(super) fn human(problem: &Problem) -> String {
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
