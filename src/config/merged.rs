//! The merged configuration: every line and option in tinc's order of preference, and typed access to it.
//!
//! Source: config/tinc.md sections 1.1, 1.3 and 1.4.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Problem,
    tincconf::{self, Lines},
    toml,
    vars::{self, Honoured, Ignoring, Kind, Var},
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
            let beaten = |entry: &Entry| {
                let single = vars::find(&entry.key).is_some_and(|var| !var.multiple);
                single && lines.lines.iter().any(|line| line.key == entry.key)
            };
            self.entries
                .retain(|entry| entry.is_option || !beaten(entry));
        }
        self.entries
            .extend(lines.lines.into_iter().map(|line| Entry {
                key: line.key,
                value: line.value,
                file: file.into(),
                line: line.number,
                column: line.column,
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
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        self.entries.retain(|entry| {
            let Some(var) = vars::find(&entry.key).filter(|_| entry.is_in_hosts()) else {
                return true;
            };
            let why = match var {
                var if var.runs_programs() => "may start programs",
                var if var.names_secret() => "names a secret of this node",
                _ => return true,
            };
            let text = format!(
                "{} {why} and is ignored in a host file; move it to tinc.conf",
                var.name
            );
            match not_honoured(entry, var).filter(|problem| problem.error) {
                Some(problem) if ours => refused.push(problem),
                _ if ours && var.names_secret() => refused.push(entry.error(text)),
                _ => told.push(entry.error(text)),
            }
            false
        });
        (told, refused)
    }

    /// Removes variables of our host file that other nodes apply to us. They do not affect our own checks.
    pub(super) fn drop_told_to_others(&mut self) {
        let told = |entry: &Entry| entry.key.eq_ignore_ascii_case("SourceCheck");
        self.entries
            .retain(|entry| !(entry.is_in_hosts() && told(entry)));
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
    let say = |instead| format!("meshd does not support {} yet: {instead}", var.name);
    Some(match ignoring {
        Ignoring::Safe(instead) => entry.warning(say(instead)),
        Ignoring::Unsafe(instead) => entry.error(say(instead)),
    })
}

fn is_default(entry: &Entry, var: &Var) -> bool {
    entry.value.eq_ignore_ascii_case(var.default)
}

fn unknown(key: &str) -> String {
    let shown: String = key.chars().take(64).collect();
    if key.starts_with('\u{feff}') {
        return "the line is ignored because the file begins with a byte order mark; save it as \
                UTF-8 without one"
            .into();
    }
    match vars::nearest(key) {
        Some(near) => format!("unknown variable {shown:?}, ignored; did you mean {near}?"),
        None => format!("unknown variable {shown:?}, ignored"),
    }
}

/// Reads typed values from a tree, and collects their problems in `problems`.
pub(super) struct Reader<'a> {
    pub(super) tree: &'a Tree,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        let problems = Vec::new();
        Self { tree, problems }
    }

    /// Reads `yes` or `no`. Any other value counts as absent, and is an error if the variable guards.
    pub(super) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let entry = self.tree.first(name)?;
        match entry.value.to_ascii_lowercase().as_str() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => {
                let text = format!("\"yes\" or \"no\" expected for {name}");
                self.unread(entry, text, "; the line is ignored");
                None
            }
        }
    }

    /// Reads as [`Self::boolean`], with the default of the table.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let default = default(name) == "yes";
        self.boolean(name).unwrap_or(default)
    }

    /// Adds a problem of a value, with its consequence (`else_said`). If the variable guards, it is an error without a
    /// consequence.
    fn unread(&mut self, entry: &Entry, text: String, else_said: &str) {
        let guards = vars::find(&entry.key).is_some_and(Var::guards);
        self.problems.push(match guards {
            true => entry.error(text),
            false => entry.warning(text + else_said),
        });
    }

    /// Reads a signed 32-bit number. Text after it is ignored; a value without digits counts as absent. Both are errors
    /// if the variable guards.
    pub(super) fn int(&mut self, name: &'static str) -> Option<i32> {
        let entry = self.tree.first(name)?;
        let Some((number, junk)) = leading_int(&entry.value) else {
            let text = format!("Integer expected for {name}");
            self.unread(entry, text, "; the line is ignored");
            return None;
        };
        if !junk.is_empty() && !junk.starts_with('#') {
            let text = format!("{name} is read as {number}; remove {junk:?}");
            self.unread(entry, text, "");
        }
        Some(number)
    }

    /// Reads a number from `min` to `max`, else returns the default of the table (0 without one). A number out of range
    /// is an error.
    pub(super) fn number(&mut self, name: &'static str, min: i32, max: i32) -> i32 {
        self.number_if(name, min, max)
            .unwrap_or_else(|| default(name).parse().unwrap_or(0))
    }

    /// Reads as [`Self::number`]; `None` if absent.
    pub(super) fn number_if(&mut self, name: &'static str, min: i32, max: i32) -> Option<i32> {
        let number = self.int(name)?;
        if (min..=max).contains(&number) {
            return Some(number);
        }
        let text = match max {
            i32::MAX => format!("{name} must be at least {min}"),
            _ => format!("{name} must be {min} to {max}"),
        };
        let entry = self.tree.first(name)?;
        self.problems.push(entry.error(text));
        None
    }

    /// Reads whole seconds, at least 1. A lower value counts as absent: tinc accepts it and then repeats the action all
    /// the time.
    pub(super) fn seconds(&mut self, name: &'static str) -> Duration {
        let usual = default(name).parse().unwrap_or(1);
        let seconds = match self.int(name).map(u64::try_from) {
            Some(Ok(seconds @ 1..)) => seconds,
            Some(_) => {
                let text = format!("{name} must be at least 1; the line is ignored");
                self.problems
                    .extend(self.tree.first(name).map(|entry| entry.warning(text)));
                usual
            }
            None => usual,
        };
        Duration::from_secs(seconds)
    }

    /// Reads one of the words of the table, and returns the table's spelling. Another word is an error.
    pub(super) fn word(&mut self, name: &'static str) -> &'static str {
        let Some(entry) = self.tree.first(name) else {
            return default(name);
        };
        let words = match vars::find(name).map(|v| v.kind) {
            Some(Kind::Word(words)) => words,
            _ => &[],
        };
        let found = words.iter().find(|w| w.eq_ignore_ascii_case(&entry.value));
        if found.is_none() {
            let text = format!("{name} must be one of {}", words.join(", "));
            self.problems.push(entry.error(text));
        }
        found.copied().unwrap_or_else(|| default(name))
    }

    /// Parses each instance; an invalid one is an error and is skipped.
    pub(super) fn each<T, E: ToString>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for entry in self.tree.all(name) {
            match parse(&entry.value) {
                Ok(value) => values.push(value),
                Err(error) => self.problems.push(entry.error(error.to_string())),
            }
        }
        values
    }

    /// Parses the effective instance; an invalid one is an error and counts as absent.
    pub(super) fn one<T, E: ToString>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let entry = self.tree.first(name)?;
        let error = match parse(&entry.value) {
            Ok(value) => return Some(value),
            Err(error) => error.to_string(),
        };
        self.problems.push(entry.error(error));
        None
    }

    /// Returns the raw text.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        self.tree.first(name).map(|e| e.value.clone())
    }
}

fn default(name: &str) -> &'static str {
    vars::find(name).map_or("", |v| v.default)
}

/// Parses blanks, sign and digits; saturates. The second part is the rest, without leading blanks.
fn leading_int(text: &str) -> Option<(i32, &str)> {
    let text = text.trim_start();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.len()
        - unsigned
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    if digits == 0 {
        return None;
    }
    let saturated = unsigned[..digits].parse::<i64>().unwrap_or(i64::MAX);
    let signed = if text.starts_with('-') {
        -saturated
    } else {
        saturated
    };
    let clamped = signed.clamp(i32::MIN.into(), i32::MAX.into());
    Some((
        i32::try_from(clamped).ok()?,
        unsigned[digits..].trim_start(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        let mut tree = Tree::default();
        tree.add_lines(Path::new("tinc.conf"), tincconf::parse(text.as_bytes()));
        tree
    }

    #[test]
    fn booleans_are_yes_or_no_in_any_case_and_nothing_else() {
        for (text, value) in [
            ("yes", Some(true)),
            ("NO", Some(false)),
            ("true", None),
            ("1", None),
            ("yes # x", None),
        ] {
            let tree = tree(&format!("TCPOnly = {text}"));
            let mut reader = Reader::new(&tree);
            assert_eq!(reader.boolean("TCPOnly"), value, "{text}");
            assert_eq!(reader.problems.is_empty(), value.is_some(), "{text}");
            assert!(reader.problems.iter().all(|p| !p.error));
        }
    }

    #[test]
    fn integers_are_leading_digits() {
        for (text, value, remarks) in [
            ("10", Some(10), 0),
            ("+5", Some(5), 0),
            ("-5", Some(-5), 0),
            ("010", Some(10), 0),
            ("10 # ten", Some(10), 0),
            ("1h", Some(1), 1),
            ("99999999999999999999", Some(i32::MAX), 0),
            ("-99999999999999999999", Some(i32::MIN), 0),
            ("ten", None, 1),
            ("-", None, 1),
        ] {
            let tree = tree(&format!("Weight = {text}"));
            let mut reader = Reader::new(&tree);
            assert_eq!(reader.int("Weight"), value, "{text}");
            assert_eq!(reader.problems.len(), remarks, "{text}");
        }
    }

    #[test]
    fn words_are_compared_whole_and_without_case() {
        let word = |text: &str| {
            let tree = tree(&format!("Mode = {text}"));
            let mut reader = Reader::new(&tree);
            (reader.word("Mode"), reader.problems.iter().any(|p| p.error))
        };
        assert_eq!(word("HUB"), ("hub", false));
        assert_eq!(word("= hub"), ("router", true));
        assert_eq!(word("hub "), ("hub", false));
        assert_eq!(word("hubs"), ("router", true));
    }

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
