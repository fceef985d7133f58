//! The TOML form of the configuration, for management tools: meshd.toml, conf.d/*.toml and hosts/NAME.toml. It is
//! converted to lines of tinc's form; only the structure of values is checked here.
//!
//! Source: config/toml.md sections 1 to 4.

pub mod keys;
mod values;

use std::{borrow::Cow, ops::Range, path::Path};

use ::toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use keys::File;

use crate::{
    Problem,
    allow::{What, Whom},
    tincconf::{Line, Lines},
};

/// The main file.
pub const MAIN: &str = "meshd.toml";

/// True if a file is in this form, by its name.
pub(super) fn is_toml(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "toml")
}

/// A parsed file.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Its content, as lines of tinc's form.
    pub(super) lines: Lines,
    /// The RSA public key in it, as PEM.
    pub(super) rsa: Option<String>,
}

/// Parses a file with these keys. Every mistake is an error in `problems`.
pub(super) fn parse(
    text: &str,
    relative: &Path,
    file: File,
    problems: &mut Vec<Problem>,
) -> Document {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading {
        text,
        relative,
        file,
        document: Document::default(),
        problems,
    };
    for error in errors {
        let at = error.span().unwrap_or_default();
        reading.wrong(&at, error.message().to_owned());
    }
    reading.table("", table.get_ref());
    let Reading { mut document, .. } = reading;
    document
        .lines
        .lines
        .sort_by_key(|line| (line.number, line.column));
    document
}

struct Reading<'a> {
    text: &'a str,
    relative: &'a Path,
    file: File,
    document: Document,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn table(&mut self, table: &str, content: &DeTable<'_>) {
        for (name, value) in content {
            let at = name.span();
            let name: &Cow<'_, str> = name.get_ref();
            match (self.file.find(table, name), value.get_ref()) {
                (Some(key), _) => self.value(key, name, value),
                (None, DeValue::Table(inner)) if table.is_empty() && self.is_table(name) => {
                    self.table(name, inner);
                }
                (None, _) if table.is_empty() && self.special(name, value) => {}
                (None, _) => {
                    let advice = self.file.advice(table, name);
                    let place = match table {
                        "" => String::new(),
                        table => format!(" in [{table}]"),
                    };
                    let short: String = name.chars().take(64).collect();
                    self.wrong(&at, format!("unknown key `{short}`{place}; {advice}"));
                }
            }
        }
    }

    fn is_table(&self, name: &str) -> bool {
        self.file.keys().iter().any(|key| key.table == name)
    }

    /// Handles keys that are not variables.
    fn special(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> bool {
        let host = self.file == File::Host;
        match (name, value.get_ref()) {
            (keys::RSA_TEXT, DeValue::String(text)) if host => {
                self.document.rsa = Some(text.clone().into_owned());
            }
            (keys::RSA_TEXT, _) if host => {
                self.wrong(
                    &value.span(),
                    "`rsa` must be the PEM text of the key".into(),
                );
            }
            ("schema", value_of) if !host => {
                let is_current =
                    value_of.as_integer().and_then(values::integer) == Some(keys::SCHEMA);
                if !is_current {
                    let text = format!(
                        "this version of meshd supports only schema {}",
                        keys::SCHEMA
                    );
                    self.wrong(&value.span(), text);
                }
            }
            _ => return false,
        }
        true
    }

    fn value(&mut self, key: &'static keys::Key, name: &str, value: &Spanned<DeValue<'_>>) {
        match (
            key.many && key.form != keys::Form::Labelled,
            value.get_ref(),
        ) {
            (false, _) => self.single(key, name, value),
            (true, DeValue::Array(none)) if none.is_empty() && key.var == keys::SCRIPTS => {
                let text = format!("{} = []", key.path());
                self.add(key.var, keys::NO_SCRIPTS.into(), value, text);
            }
            (true, DeValue::Array(all)) => all.iter().for_each(|one| self.single(key, name, one)),
            (true, _) => {
                let (path, wanted) = (key.path(), key.wanted());
                self.wrong(
                    &value.span(),
                    format!("`{path}` must be an array [...] of {wanted}"),
                );
            }
        }
    }

    /// Handles `{ from = "role=web", to = "tcp/3306" }` part by part, so that each mistake has its place.
    fn rule(&mut self, key: &'static keys::Key, value: &Spanned<DeValue<'_>>, rule: &DeTable<'_>) {
        let mut parts = keys::RULE.map(|_| None);
        let mut sound = true;
        for (name, value) in rule {
            let at = keys::RULE.iter().position(|part| part == name.get_ref());
            let (Some(at), DeValue::String(text)) = (at, value.get_ref()) else {
                let short: String = name.get_ref().chars().take(64).collect();
                let text = match at {
                    Some(_) => format!("`{short}` must be text in quotes"),
                    None => {
                        format!("unknown key `{short}` in [[allow]]; there are `from` and `to`")
                    }
                };
                sound = false;
                let place = if at.is_some() {
                    value.span()
                } else {
                    name.span()
                };
                self.wrong(&place, text);
                continue;
            };
            let read = match at {
                0 => Whom::parse(text).map(|whom| whom.to_string()),
                _ => What::parse(text).map(|what| what.to_string()),
            };
            match read {
                Ok(text) => parts[at] = Some(text),
                Err(why) => {
                    sound = false;
                    self.wrong(&value.span(), why);
                }
            }
        }
        match parts {
            [Some(from), Some(to)] if sound => {
                let text = format!("[[allow]] from = {from:?}, to = {to:?}");
                self.add(key.var, format!("{from} {to}"), value, text);
            }
            _ if sound => self.wrong(
                &value.span(),
                format!("`{}` must be {}", key.path(), key.wanted()),
            ),
            _ => {}
        }
    }

    fn single(&mut self, key: &'static keys::Key, name: &str, value: &Spanned<DeValue<'_>>) {
        if let (keys::Form::Rule, DeValue::Table(rule)) = (key.form, value.get_ref()) {
            return self.rule(key, value, rule);
        }
        match values::read(key, name, value.get_ref()) {
            Ok(Some((var, text))) => {
                let path = match key.form {
                    keys::Form::Labelled => format!("{}.{name}", key.table),
                    _ => key.path(),
                };
                let written = self.text.get(value.span()).unwrap_or_default();
                let written = format!("{path} = {}", written.replace('\n', " "));
                self.add(var, text, value, written);
            }
            Ok(None) => {}
            Err(why) => self.wrong(&value.span(), format!("`{}` {why}", key.path())),
        }
    }

    fn add(&mut self, var: &str, value: String, at: &Spanned<DeValue<'_>>, text: String) {
        let (number, column) = self.place(at.span().start);
        self.document.lines.lines.push(Line {
            key: var.into(),
            value,
            number,
            column,
            text,
        });
    }

    fn wrong(&mut self, at: &Range<usize>, text: String) {
        let (line, column) = self.place(at.start);
        self.problems.push(Problem {
            column,
            ..Problem::error(self.relative, line, text)
        });
    }

    /// Returns line and column of a byte, both from 1; columns count characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        (
            before.matches('\n').count() + 1,
            before[start..].chars().count() + 1,
        )
    }
}
