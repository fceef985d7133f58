//! `meshctl convert`: writes a configuration in its other form.

use std::path::{Path, PathBuf};

use serde::Serialize;

use meshd_config::{
    Problem, Source,
    convert::{Converted, to_tinc, to_toml},
    files,
    toml::{MAIN, keys::File},
};
use meshd_os::{clock, files::write_given};
use meshd_wire::NodeName;

use crate::{
    Exit, Failure, Outcome,
    args::{Form, Format},
    check,
    context::Context,
    output::{self, Frame},
};

#[derive(Serialize)]
struct Row {
    from: String,
    to: String,
    text: String,
}

/// Returns exit code 1 if the other form cannot express a line.
pub(super) fn run(
    context: &Context,
    to: Form,
    out: Option<PathBuf>,
    dir: Option<PathBuf>,
) -> Outcome {
    let source = context.source(dir)?;
    let (rows, problems) = convert(&source, to)?;
    if rows.is_empty() {
        let text = format!(
            "{} holds no file of the other form; `meshctl check` shows its files",
            source.base.display()
        );
        return Err(Failure::new(Exit::Unknown, text));
    }
    if let Some(out) = &out {
        write(out, &rows)?;
    }
    for problem in &problems {
        output::say(&check::human(problem));
    }
    if context.format == Format::Json {
        let time = clock::rfc3339(clock::wall());
        let frame = Frame {
            net: source.net.as_deref(),
            node: None,
            time: &time,
        };
        output::json("convert", &frame, &rows)?;
    } else {
        output::print(|to| {
            rows.iter().try_for_each(|row| match out {
                Some(_) => writeln!(to, "{} -> {}", row.from, row.to),
                None => writeln!(to, "### {} -> {}\n{}", row.from, row.to, row.text),
            })
        })?;
    }
    Ok(match problems.iter().any(|problem| problem.error) {
        true => Exit::Negative,
        false => Exit::Fine,
    })
}

/// Converts every file of the other form to `to`.
fn convert(source: &Source, to: Form) -> Result<(Vec<Row>, Vec<Problem>), Failure> {
    let (main, other, ending) = match to {
        Form::Toml => ("tinc.conf", MAIN, ".conf"),
        Form::Tinc => (MAIN, "tinc.conf", ".toml"),
    };
    let mut wanted = vec![(PathBuf::from(main), PathBuf::from(other), File::Daemon)];
    for name in names(source, "conf.d")? {
        let new = match to {
            Form::Toml => ".toml",
            Form::Tinc => ".conf",
        };
        if let Some(stem) = name.strip_suffix(ending) {
            let dir = Path::new("conf.d");
            wanted.push((
                dir.join(&name),
                dir.join(format!("{stem}{new}")),
                File::Daemon,
            ));
        }
    }
    for name in names(source, "hosts")? {
        let (stem, is_toml) = match name.strip_suffix(".toml") {
            Some(stem) => (stem, true),
            None => (name.as_str(), false),
        };
        if NodeName::new(stem).is_ok() && is_toml == (to == Form::Tinc) {
            let new = match to {
                Form::Toml => format!("{stem}.toml"),
                Form::Tinc => stem.to_owned(),
            };
            let dir = Path::new("hosts");
            wanted.push((dir.join(&name), dir.join(new), File::Host));
        }
    }
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (from, place, file) in wanted {
        if !source.base.join(&from).exists() {
            continue;
        }
        let text = files::read_text(&source.base.join(&from))
            .map_err(|error| error.to_string())
            .and_then(|text| String::from_utf8(text).map_err(|_| "is not UTF-8 text".into()));
        let converted = match (text, to) {
            (Ok(text), Form::Toml) => to_toml(&text, file, &from),
            (Ok(text), Form::Tinc) => to_tinc(&text, file, &from),
            (Err(error), _) => {
                problems.push(Problem::error(&from, 0, error));
                continue;
            }
        };
        let Converted {
            text,
            problems: of_file,
        } = converted;
        problems.extend(of_file);
        rows.push(Row {
            from: from.display().to_string(),
            to: place.display().to_string(),
            text,
        });
    }
    Ok((rows, problems))
}

fn names(source: &Source, dir: &str) -> Result<Vec<String>, Failure> {
    files::names(&source.base.join(dir)).map_err(|error| {
        let text = format!("{dir} {error}; `meshctl check` tells more");
        Failure::new(Exit::Config, text)
    })
}

/// Writes all files, or none if one of them exists.
fn write(out: &Path, rows: &[Row]) -> Result<(), Failure> {
    if let Some(row) = rows.iter().find(|row| out.join(&row.to).exists()) {
        let text = format!(
            "{} exists already; name another directory with `--out`",
            out.join(&row.to).display()
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    for row in rows {
        let file = out.join(&row.to);
        let dir = file.parent().unwrap_or(out);
        std::fs::create_dir_all(dir)
            .and_then(|()| write_given(&file, row.text.as_bytes(), 0o644))
            .map_err(|error| {
                let text = format!(
                    "cannot write {}: {error}; name another `--out`",
                    file.display()
                );
                Failure::new(Exit::Negative, text)
            })?;
    }
    Ok(())
}
