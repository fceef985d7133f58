//! The merged configuration: every line and option in tinc's order of preference, and typed access to it.
//!
//! Source: config/tinc.md sections 1.1, 1.3 and 1.4.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    Problem,
    tincconf::{self, Lines},
    toml,
    vars::{self, Honoured, Ignoring, InHosts, Var},
    written::Written,
};

/// One `KEY = VALUE` and its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: String,
    /// Relative to the configuration directory; for an option, the words "command line option".
    pub(super) file: PathBuf,
    /// Line from 1, or the number of the option.
    pub(super) line: usize,
    /// As [`tincconf::Line::column`].
    pub(super) column: usize,
    /// As [`tincconf::Line::text`].
    pub(super) text: String,
    pub(super) is_option: bool,
}

/// An option `-o [NODE.]KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CliOption {
    /// The node part; case-sensitive, unlike the key.
    pub(super) node: Option<String>,
    pub(super) entry: Entry,
}

impl Entry {
    pub(super) fn error(&self, text: impl Into<String>) -> Problem {
        Problem {
            column: self.column,
            ..Problem::error(&self.file, self.line, text)
        }
    }

    pub(super) fn warning(&self, text: impl Into<String>) -> Problem {
        Problem {
            error: false,
            ..self.error(text)
        }
    }

    fn is_in_hosts(&self) -> bool {
        !self.is_option && self.file.starts_with("hosts")
    }

    /// Returns the sort key: options first, in order; then lines by number, in any file; then by file. In TOML, our own
    /// files come before the host file.
    fn rank(&self) -> (bool, bool, usize, &[u8]) {
        let file = self.file.as_os_str().as_encoded_bytes();
        let later = toml::is_toml(&self.file) && self.is_in_hosts();
        (!self.is_option, later, self.line, file)
    }
}

/// Parses the options; an invalid one is an error with its number.
pub(super) fn options(texts: &[String], problems: &mut Vec<Problem>) -> Vec<CliOption> {
    let mut options = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let (file, line) = (PathBuf::from("command line option"), index + 1);
        let (key, value) = tincconf::split(text);
        let (node, key) = match key.split_once('.') {
            Some((node, key)) => (Some(node.to_owned()), key.to_owned()),
            None => (None, key),
        };
        if key.is_empty() || value.is_empty() {
            let text = format!("{text:?} is not of the form [NODE.]KEY=VALUE");
            problems.push(Problem::error(&file, line, text));
            continue;
        }
        let entry = Entry {
            text: format!("{key} = {value}"),
            key,
            value,
            file,
            line,
            column: 0,
            is_option: true,
        };
        options.push(CliOption { node, entry });
    }
    options
}

/// Entries in order of preference.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    entries: Vec<Entry>,
}

impl Tree {
    pub(super) fn add_lines(&mut self, file: &Path, lines: Lines) {
        if toml::is_toml(file) && !file.starts_with("hosts") {
            // A later file overrides an earlier one, except for arrays, which grow.
            let overridden = |entry: &Entry| {
                let single = vars::find(&entry.key).is_some_and(|var| !var.multiple);
                single && lines.lines.iter().any(|line| line.key == entry.key)
            };
            self.entries
                .retain(|entry| entry.is_option || !overridden(entry));
        }
        self.entries
            .extend(lines.lines.into_iter().map(|line| Entry {
                key: line.key,
                value: line.value,
                file: file.into(),
                line: line.number,
                column: line.column,
                text: line.text,
                is_option: false,
            }));
        self.sort();
    }

    /// Adds the options for `node`.
    pub(super) fn add_options(&mut self, options: &[CliOption], node: Option<&str>) {
        let ours = options.iter().filter(|o| o.node.as_deref() == node);
        self.entries.extend(ours.map(|o| o.entry.clone()));
        self.sort();
    }

    /// Adds a default for a variable without a line.
    pub(super) fn set_default(&mut self, file: &Path, key: &'static str, value: &str) {
        if self.first(key).is_none() {
            self.entries.push(Entry {
                key: key.into(),
                value: value.into(),
                file: file.into(),
                ..Entry::default()
            });
        }
    }

    /// True if our own files are in TOML.
    pub(super) fn is_toml(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.file == Path::new(toml::MAIN))
    }

    /// Returns the lines in effect, for the comparison of a reload: all lines of a list, the preferred line of another
    /// variable. Lines at these numbers are left out.
    pub(super) fn written(&self, without: &BTreeSet<usize>) -> Vec<Written> {
        let mut seen = BTreeSet::new();
        let known = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, vars::find(&entry.key)?)));
        let in_effect = known.filter(|(entry, var)| {
            let is_default = entry.line == 0;
            !is_default && (seen.insert(var.name) || var.multiple)
        });
        let valid = in_effect.filter(|(entry, _)| !without.contains(&entry.line));
        valid.map(|(entry, var)| Written::new(entry, var)).collect()
    }

    fn sort(&mut self) {
        self.entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    }

    /// Returns all instances of a variable, the preferred one first.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &Entry> {
        debug_assert!(vars::find(name).is_some(), "{name} is not in the table");
        self.entries
            .iter()
            .filter(move |e| e.key.eq_ignore_ascii_case(name))
    }

    /// Returns the effective instance of a single-valued variable.
    pub(super) fn first(&self, name: &'static str) -> Option<&Entry> {
        self.all(name).next()
    }

    /// Removes variables from a host file that may start programs or that name our secrets. `ours`: the file is our
    /// own, where tinc accepts them. Returns the errors that disable that file's node, and the errors that stop meshd
    /// because ignoring the line is unsafe.
    pub(super) fn drop_misplaced(&mut self, ours: bool) -> (Vec<Problem>, Vec<Problem>) {
        let (mut of_node, mut refused) = (Vec::new(), Vec::new());
        self.entries.retain(|entry| {
            let Some(var) = vars::find(&entry.key).filter(|_| entry.is_in_hosts()) else {
                return true;
            };
            let why = match var.in_hosts {
                InHosts::Read => return true,
                InHosts::RunsPrograms => "may start programs",
                InHosts::NamesSecret => "names a secret of this node",
            };
            let text = format!(
                "{} {why} and is ignored in a host file; move it to tinc.conf",
                var.name
            );
            match not_honoured(entry, var).filter(|problem| problem.error) {
                Some(problem) if ours => refused.push(problem),
                _ if ours && var.in_hosts == InHosts::NamesSecret => {
                    refused.push(entry.error(text))
                }
                _ => of_node.push(entry.error(text)),
            }
            false
        });
        (of_node, refused)
    }

    /// Removes variables of our host file that other nodes apply to us. They do not affect our own checks.
    pub(super) fn drop_peer_side(&mut self) {
        let peer_side = |entry: &Entry| entry.key.eq_ignore_ascii_case("SourceCheck");
        self.entries
            .retain(|entry| !(entry.is_in_hosts() && peer_side(entry)));
    }

    /// Returns remarks on ineffective lines: unknown names, repetitions, and (`ours`) unsupported variables, each once.
    /// If ignoring one is unsafe, it is an error.
    pub(super) fn remarks(&self, ours: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in &self.entries {
            let Some(var) = vars::find(&entry.key) else {
                problems.push(entry.warning(unknown(&entry.key)));
                continue;
            };
            if !seen.insert(var.name) {
                if !var.multiple {
                    problems.extend(self.repeated(entry, var));
                }
                continue;
            }
            if !ours && var.place == vars::Place::Server {
                let text = format!("{} has no effect here; it belongs into tinc.conf", var.name);
                problems.push(entry.warning(text));
            } else if ours {
                problems.extend(not_honoured(entry, var));
            }
        }
        problems
    }

    /// Returns a remark on an instance that another one overrides. An option overrides a line on purpose, without a
    /// remark.
    fn repeated(&self, entry: &Entry, var: &'static Var) -> Option<Problem> {
        let winner = self.first(var.name).filter(|w| !w.is_option)?;
        let (file, line) = (winner.file.display(), winner.line);
        let text = format!("{} is ignored here: {file}:{line} comes first", var.name);
        Some(entry.warning(text))
    }
}

/// Returns a remark on an unsupported variable with a value other than the default: an error if ignoring it is unsafe.
fn not_honoured(entry: &Entry, var: &Var) -> Option<Problem> {
    let Honoured::NotYet(ignoring) = var.honoured else {
        return None;
    };
    if is_default(entry, var) {
        return None;
    }
    let unsupported = |instead| format!("meshd does not support {} yet: {instead}", var.name);
    Some(match ignoring {
        Ignoring::Safe(instead) => entry.warning(unsupported(instead)),
        Ignoring::Unsafe(instead) => entry.error(unsupported(instead)),
    })
}

fn is_default(entry: &Entry, var: &Var) -> bool {
    entry.value.eq_ignore_ascii_case(var.default)
}

fn unknown(key: &str) -> String {
    let short: String = key.chars().take(64).collect();
    if key.starts_with('\u{feff}') {
        return "the line is ignored because the file begins with a byte order mark; save it as \
                UTF-8 without one"
            .into();
    }
    match vars::nearest(key) {
        Some(near) => format!("unknown variable {short:?}, ignored; did you mean {near}?"),
        None => format!("unknown variable {short:?}, ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_a_node_part_with_case_and_a_key_without() {
        let mut problems = Vec::new();
        let texts = ["Port=1", "a.port = 2", "nonsense", "=x", "A.Port=3"].map(String::from);
        let options = options(&texts, &mut problems);
        assert_eq!(problems.len(), 2);
        assert_eq!(
            problems[0].to_string().split(": ").next(),
            Some("command line option:3")
        );
        let mut tree = Tree::default();
        tree.add_options(&options, Some("a"));
        assert_eq!(tree.first("Port").map(|e| e.value.as_str()), Some("2"));
    }
}
