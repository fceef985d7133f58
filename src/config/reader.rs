//! Typed values of merged lines.
//!
//! Source: config/tinc.md section 1.4.

use std::time::Duration;

use crate::{
    Problem,
    merged::{Entry, Tree},
    vars::{self, Kind},
};

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

    /// Adds a problem of a value, with its consequence. If the variable guards, it is an error without a
    /// consequence.
    fn unread(&mut self, entry: &Entry, text: String, consequence: &str) {
        let guards = vars::find(&entry.key).is_some_and(|var| var.guards);
        self.problems.push(match guards {
            true => entry.error(text),
            false => entry.warning(text + consequence),
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
    use std::path::Path;

    use super::*;
    use crate::tincconf;

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
}
