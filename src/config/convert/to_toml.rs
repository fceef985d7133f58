//! Conversion to TOML.

use std::{fmt::Write, path::Path};

use super::{Content, Converted, Item, compare};
use crate::{
    Problem,
    allow::Allow,
    tincconf::{self, Line, Lines},
    toml::{
        self,
        keys::{ACCESS, File, Form, Key, NO_SCRIPTS, RSA_TEXT, SCHEMA, SCRIPTS},
    },
    vars,
};

/// Converts a file in tinc's form to these keys. `relative` is its name in messages.
#[must_use]
pub fn to_toml(text: &str, file: File, relative: &Path) -> Converted {
    let lines = tincconf::parse(text.as_bytes());
    let mut problems: Vec<Problem> = lines
        .remarks
        .iter()
        .map(|remark| Problem::error(relative, remark.number, remark.what.to_string()))
        .collect();
    let before = lines.lines.clone();
    let content = read(text, lines);
    let mut writer = Writer {
        file,
        relative,
        out: String::new(),
        problems: &mut problems,
    };
    writer.write(content);
    let text = writer.out;
    let mut after = toml::parse(&text, relative, file, &mut problems)
        .lines
        .lines;
    if !before.iter().any(is_strict) {
        // Added only because the defaults differ.
        after.retain(|line| !is_strict(line));
    }
    let known = before.iter().filter(|line| {
        file.keys()
            .iter()
            .any(|key| key.var.eq_ignore_ascii_case(&line.key))
    });
    let known: Vec<_> = known.cloned().collect();
    compare(relative, &known, &after, &mut problems);
    Converted { text, problems }
}

fn is_strict(line: &Line) -> bool {
    line.key.eq_ignore_ascii_case("StrictSubnets")
}

/// Combines the lexer's lines with the comments that it skips.
fn read(text: &str, lines: Lines) -> Content {
    let (mut comments, mut pem, mut inside) = (Vec::new(), String::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        inside |= line.starts_with("-----BEGIN");
        if inside {
            pem.push_str(line);
            pem.push('\n');
            inside = !line.starts_with("-----END");
        } else if let Some(comment) = line.strip_prefix('#') {
            comments.push((number, comment.to_owned()));
        }
    }
    Content::new(lines.lines, comments, pem)
}

struct Writer<'a> {
    file: File,
    relative: &'a Path,
    out: String,
    problems: &'a mut Vec<Problem>,
}

impl Writer<'_> {
    fn write(&mut self, content: Content) {
        let Content { items, tail, pem } = content;
        let keys = self.file.keys();
        let key_of = |item: &Item| {
            let var = vars::find(&item.line.key)?;
            keys.iter().find(|key| key.var == var.name)
        };
        let main = self.relative == Path::new("tinc.conf");
        if main {
            self.line(&format!("schema = {SCHEMA}"));
        }
        let mut tables: Vec<&str> = keys.iter().map(|key| key.table).collect();
        tables.dedup();
        for table in tables {
            let keys = keys
                .iter()
                .filter(|key| key.table == table && key.form != Form::Rule);
            let all = keys.map(|key| {
                let of_key = |item: &&Item| key_of(item) == Some(key);
                (key, items.iter().filter(of_key).collect::<Vec<_>>())
            });
            let all: Vec<_> = all.filter(|(_, items)| !items.is_empty()).collect();
            if main && table == "trust" && !all.iter().any(|(key, _)| key.var == "StrictSubnets") {
                // The default differs.
                self.line("\n[trust]\nstrict_subnets = false");
            } else if !all.is_empty() && !table.is_empty() {
                self.line(&format!("\n[{table}]"));
            }
            for (key, items) in all {
                self.key(key, &items);
            }
            if table.is_empty() && !pem.is_empty() {
                self.line(&format!("{RSA_TEXT} = '''\n{pem}'''"));
            }
        }
        for item in items.iter().filter(|item| key_of(item).is_none()) {
            self.comments(&item.comments);
            self.lost(item, "has no key in this file");
        }
        for item in items
            .iter()
            .filter(|item| key_of(item).is_some_and(|key| key.form == Form::Rule))
        {
            self.comments(&item.comments);
            self.rule(item);
        }
        self.comments(&tail);
    }

    /// A rule is a table, so it follows all other tables.
    fn rule(&mut self, item: &Item) {
        match Allow::parse(&item.line.value) {
            Ok(Allow { from, to }) => {
                let [from, to] = [from.to_string(), to.to_string()].map(|text| quoted(&text));
                self.line(&format!("\n[[allow]]\nfrom = {from}\nto = {to}"));
            }
            Err(_) => self.lost(item, "has a value without a TOML form"),
        }
    }

    fn key(&mut self, key: &Key, items: &[&Item]) {
        if !key.many {
            let [first, others @ ..] = items else { return };
            self.comments(&first.comments);
            match value(key, &first.line.value) {
                Some(value) => self.line(&format!("{} = {value}", key.name)),
                None => self.lost(first, "has a value without a TOML form"),
            }
            for other in others {
                self.comments(&other.comments);
                self.lost(other, "is repeated here and had no effect");
            }
            return;
        }
        if key.form == Form::Labelled {
            return self.labels(items);
        }
        let none = |item: &&Item| key.var == SCRIPTS && item.line.value == NO_SCRIPTS;
        if let [only] = items
            && none(only)
        {
            self.comments(&only.comments);
            return self.line(&format!("{} = []", key.name));
        }
        let plain = items.len() == 1 && items[0].comments.is_empty();
        let mut values = Vec::new();
        for item in items {
            match value(key, &item.line.value) {
                Some(value) => values.push((item, value)),
                None => self.lost(item, "has a value without a TOML form"),
            }
        }
        if let ([(_, value)], true) = (values.as_slice(), plain) {
            return self.line(&format!("{} = [{value}]", key.name));
        }
        self.line(&format!("{} = [", key.name));
        for (item, value) in values {
            for comment in &item.comments {
                self.line(&format!("    #{comment}"));
            }
            self.line(&format!("    {value},"));
        }
        self.line("]");
    }

    fn labels(&mut self, items: &[&Item]) {
        for item in items {
            self.comments(&item.comments);
            match item.line.value.split_once('=') {
                Some((name, value)) => {
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    let name = match name.trim() {
                        name if !name.is_empty() && name.chars().all(bare) => name.into(),
                        name => quoted(name),
                    };
                    self.line(&format!("{name} = {}", quoted(value.trim())));
                }
                None => self.lost(item, "has a value without a TOML form"),
            }
        }
    }

    /// Keeps a line without a TOML form as a comment.
    fn lost(&mut self, item: &Item, why: &str) {
        let line = &item.line;
        let text = format!("{} {why}; it is left as a comment", line.key);
        let problem = match why.starts_with("stood") {
            true => Problem::warning(self.relative, line.number, text),
            false => Problem::error(self.relative, line.number, text),
        };
        self.problems.push(problem);
        self.line(&format!("# {} = {}", line.key, line.value));
    }

    fn comments(&mut self, comments: &[String]) {
        for comment in comments {
            self.line(&format!("#{comment}"));
        }
    }

    fn line(&mut self, line: &str) {
        writeln!(self.out, "{line}").expect("writing to a string cannot fail");
    }
}

/// Returns the value as TOML; `None` without an equal one.
fn value(key: &Key, text: &str) -> Option<String> {
    let number = || text.trim().parse::<i64>().ok();
    Some(match key.form {
        Form::Flag => match text.to_ascii_lowercase().as_str() {
            "yes" => "true".into(),
            "no" => "false".into(),
            _ => return None,
        },
        Form::Number | Form::Size => number()?.to_string(),
        Form::Duration => format!("\"{}s\"", number().filter(|seconds| *seconds >= 0)?),
        Form::Text | Form::Labelled | Form::Rule => quoted(text),
        Form::Moment => humantime::parse_rfc3339(text).ok().map(|_| text.into())?,
        Form::Endpoint => quoted(&endpoint(text)),
        Form::Access => {
            let yes = text.eq_ignore_ascii_case("yes");
            let means = |meaning: Option<(&str, &str)>| match meaning {
                Some(("ExperimentalProtocol", _)) => !yes && text.eq_ignore_ascii_case("no"),
                Some(_) => false,
                None => yes,
            };
            quoted(ACCESS.iter().find(|(_, meaning)| means(*meaning))?.0)
        }
    })
}

/// Returns `HOST PORT` as `HOST:PORT`.
fn endpoint(text: &str) -> String {
    let mut words = text.split_whitespace();
    match (words.next().unwrap_or_default(), words.next()) {
        (host, Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.into(),
    }
}

/// JSON strings are TOML strings, with one exception.
fn quoted(text: &str) -> String {
    let text = serde_json::Value::from(text).to_string();
    text.replace('\u{7f}', "\\u007f")
}
